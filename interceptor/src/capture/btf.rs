//! Where a field is in a structure of the running kernel, by the kernel's own description (BTF).
//!
//! Three fields of a TCP socket tell how a connection ended and which of its FINs were taken, a fourth
//! whether its SYN waits for data, a fifth whether programs hear of its changes. Others lead from a task
//! to its network namespace, and from a socket to the cgroup in which it was made. No stable interface
//! has them. Their offsets become constants of the programs; the verifier checks each against the same
//! description.
//!
//! Only as much of the format is read as that takes. A kernel without BTF is one whose fields are
//! not known.

use std::collections::HashMap;

/// Where Linux shows its own types.
const OWN: &str = "/sys/kernel/btf/vmlinux";
/// How deep structures within structures are followed.
const DEPTH: u32 = 8;

const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNCTION_PROTOTYPE: u32 = 13;
const KIND_VARIABLE: u32 = 14;
const KIND_SECTION: u32 = 15;
const KIND_DECLARATION_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;

/// Where the fields are that the programs read, in bytes: from the beginning of a `tcp_sock`, unless
/// said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offsets {
    pub(super) error: u32,
    pub(super) flags: u32,
    pub(super) write_sequence: u32,
    /// The byte and the bit, as a mask, that say that a SYN waits for data; no bit if that is not
    /// known.
    pub(super) deferral: (u32, u8),
    /// Which changes of a socket are told to programs; zero if that is not known.
    pub(super) callbacks: u32,
    /// Whether lookup programs are told over which interface a packet came.
    pub(super) lookups_know_interface: bool,
    /// From a task to the cookie of its network namespace; zero if that is not known.
    pub(super) task: TaskOffsets,
    /// From a socket to the cgroup in which it was made; zero if that is not known.
    pub(super) cgroup: CgroupOffsets,
}

/// The way from a task to the cookie of its network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TaskOffsets {
    pub(super) proxy: u32,
    pub(super) namespace: u32,
    pub(super) cookie: u32,
}

/// The way from a TCP socket to the cgroup in which it was made, and to those above that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CgroupOffsets {
    pub(super) of_socket: u32,
    pub(super) level: u32,
    pub(super) node: u32,
    pub(super) id: u32,
    pub(super) parent: u32,
    pub(super) of_parent: u32,
}

impl TaskOffsets {
    fn read(types: &Types<'_>) -> Option<Self> {
        Some(Self {
            proxy: types.offset("task_struct", "nsproxy")?,
            namespace: types.offset("nsproxy", "net_ns")?,
            cookie: types.offset("net", "net_cookie")?,
        })
    }
}

impl CgroupOffsets {
    fn read(types: &Types<'_>) -> Option<Self> {
        const STATE: &str = "cgroup_subsys_state";
        let sum = |(outer, field), (inner, within)| {
            (types.offset(outer, field)?).checked_add(types.offset(inner, within)?)
        };
        Some(Self {
            of_socket: sum(("sock", "sk_cgrp_data"), ("sock_cgroup_data", "cgroup"))?,
            level: types.offset("cgroup", "level")?,
            node: types.offset("cgroup", "kn")?,
            id: types.offset("kernfs_node", "id")?,
            parent: sum(("cgroup", "self"), (STATE, "parent"))?,
            of_parent: types.offset(STATE, "cgroup")?,
        })
    }
}

impl Offsets {
    /// Those of the running kernel; zero in all of them if it does not say.
    pub(super) fn of_this_kernel() -> Self {
        let found = std::fs::read(OWN).ok().and_then(|all| Self::read(&all));
        found.unwrap_or_else(|| {
            tracing::warn!(
                "the kernel does not describe its sockets ({OWN}): how direct connections end is \
                 guessed by their states"
            );
            Self::default()
        })
    }

    /// Out of a description. A `tcp_sock` begins with its `sock`.
    fn read(description: &[u8]) -> Option<Self> {
        let types = Types::new(description)?;
        Some(Self {
            error: types.offset("sock", "sk_err")?,
            flags: types.offset("sock", "skc_flags")?,
            write_sequence: types.offset("tcp_sock", "write_seq")?,
            deferral: (types.bit("tcp_sock", "fastopen_connect")).unwrap_or_default(),
            callbacks: (types.offset("tcp_sock", "bpf_sock_ops_cb_flags")).unwrap_or_default(),
            lookups_know_interface: (types.offset("bpf_sk_lookup_kern", "ingress_ifindex"))
                .is_some(),
            task: TaskOffsets::read(&types).unwrap_or_default(),
            cgroup: CgroupOffsets::read(&types).unwrap_or_default(),
        })
    }
}

/// A structure or union: where its members' entries begin, and how many there are.
#[derive(Clone, Copy)]
struct Aggregate {
    members: usize,
    count: usize,
    packed: bool,
}

/// The structures of a description.
struct Types<'a> {
    description: &'a [u8],
    strings: &'a [u8],
    by_id: HashMap<u32, Aggregate>,
    by_name: HashMap<&'a [u8], u32>,
}

impl<'a> Types<'a> {
    /// Reads the header and finds every structure.
    fn new(description: &'a [u8]) -> Option<Self> {
        const MAGIC: u32 = 0xeb9f;
        let word = |at| word(description, at);
        if word(0)? & 0xffff != MAGIC {
            return None;
        }
        let header = size(word(4)?)?;
        let section = |start: usize, length: usize| {
            let start = header.checked_add(size(word(start)?)?)?;
            Some((start, start.checked_add(size(word(length)?)?)?))
        };
        let ((mut at, end), strings) = (section(8, 12)?, section(16, 20)?);
        let mut types = Self {
            description,
            strings: description.get(strings.0..strings.1)?,
            by_id: HashMap::new(),
            by_name: HashMap::new(),
        };
        let mut id = 1;
        while at < end {
            at = types.take(id, at)?;
            id += 1;
        }
        Some(types)
    }

    /// Takes note of the type at this place and returns where the next one is.
    fn take(&mut self, id: u32, at: usize) -> Option<usize> {
        let (name, info) = (self.word(at)?, self.word(at + 4)?);
        let (count, kind) = (size(info & 0xffff)?, info >> 24 & 0x1f);
        let members = at + 12;
        let rest = match kind {
            KIND_INT | KIND_VARIABLE | KIND_DECLARATION_TAG => 4,
            KIND_ARRAY => 12,
            KIND_STRUCT | KIND_UNION | KIND_SECTION | KIND_ENUM64 => 12 * count,
            KIND_ENUM | KIND_FUNCTION_PROTOTYPE => 8 * count,
            _ => 0,
        };
        if kind == KIND_STRUCT || kind == KIND_UNION {
            let packed = info >> 31 == 1;
            let aggregate = Aggregate {
                members,
                count,
                packed,
            };
            self.by_id.insert(id, aggregate);
            if name != 0 && kind == KIND_STRUCT {
                let name = self.string(name)?;
                self.by_name.entry(name).or_insert(id);
            }
        }
        members.checked_add(rest)
    }

    /// The offset in bytes of a field of this structure, or of one within it.
    fn offset(&self, structure: &str, field: &str) -> Option<u32> {
        let id = self.by_name.get(structure.as_bytes())?;
        let bits = self.find(*id, field.as_bytes(), DEPTH)?;
        (bits % 8 == 0).then_some(bits / 8)
    }

    /// The byte and the mask of a field of one bit.
    fn bit(&self, structure: &str, field: &str) -> Option<(u32, u8)> {
        let id = self.by_name.get(structure.as_bytes())?;
        let bits = self.find(*id, field.as_bytes(), DEPTH)?;
        let place = if cfg!(target_endian = "little") {
            bits % 8
        } else {
            7 - bits % 8
        };
        Some((bits / 8, 1 << place))
    }

    /// The offset in bits of a field of this structure, else of one in a structure within it.
    fn find(&self, id: u32, field: &[u8], depth: u32) -> Option<u32> {
        let aggregate = self.by_id.get(&id)?;
        let members = (0..aggregate.count).filter_map(|index| {
            let at = aggregate.members + 12 * index;
            let offset = self.word(at + 8)?;
            // Where there are bit fields, the upper byte is their width.
            let offset = if aggregate.packed {
                offset & 0x00ff_ffff
            } else {
                offset
            };
            Some((self.string(self.word(at)?)?, self.word(at + 4)?, offset))
        });
        let members: Vec<_> = members.collect();
        let own = members.iter().find(|(name, ..)| *name == field);
        if let Some((.., offset)) = own {
            return Some(*offset);
        }
        let depth = depth.checked_sub(1)?;
        members
            .iter()
            .find_map(|(_, within, offset)| offset.checked_add(self.find(*within, field, depth)?))
    }

    /// A name.
    fn string(&self, at: u32) -> Option<&'a [u8]> {
        let rest = self.strings.get(size(at)?..)?;
        rest.split(|byte| *byte == 0).next()
    }

    /// A number.
    fn word(&self, at: usize) -> Option<u32> {
        word(self.description, at)
    }
}

/// The number at this place, in the order of this machine.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// A number as a length.
fn size(number: u32) -> Option<usize> {
    usize::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_running_kernel_describes_its_sockets() {
        let Ok(own) = std::fs::read(OWN) else {
            return;
        };
        let types = Types::new(&own).unwrap();
        // The first member of the first member.
        assert_eq!(types.offset("sock", "skc_daddr"), Some(0));
        assert_eq!(types.offset("sock", "no_such_field"), None);
        assert_eq!(types.offset("no_such_structure", "skc_daddr"), None);
        let offsets = Offsets::read(&own).unwrap();
        assert!(offsets.lookups_know_interface, "as of Linux 5.17");
        assert!(offsets.flags < offsets.error && offsets.error < offsets.write_sequence);
        let (at, bit) = offsets.deferral;
        assert!(at > offsets.error && bit.is_power_of_two());
        assert!(offsets.callbacks > offsets.error);
        let (task, cgroup) = (offsets.task, offsets.cgroup);
        assert!(task.proxy > 0 && task.namespace > 0 && task.cookie > 0);
        assert!(cgroup.of_socket > 0 && cgroup.node > 0 && cgroup.parent > 0);
    }

    proptest! {
        #[test]
        fn nonsense_is_not_known(mut bytes in prop::collection::vec(any::<u8>(), 24..400)) {
            bytes.splice(..4, 0xeb9f_u32.to_ne_bytes());
            bytes.splice(4..8, 24_u32.to_ne_bytes());
            if let Some(types) = Types::new(&bytes) {
                prop_assert_eq!(types.offset("sock", "sk_err"), None);
            }
        }
    }
}
