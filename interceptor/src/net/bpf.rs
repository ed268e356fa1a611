//! The few `bpf(2)` commands that aya does not offer: marking a socket by its descriptor, and
//! swapping the program behind a pinned link. And reading what the kernel wrote as the value that
//! it is.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya::maps::{MapData, RingBuf};
use interceptor_common::Flow;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `BPF_MAP_LOOKUP_ELEM`.
const MAP_LOOKUP_ELEM: libc::c_int = 1;
/// `BPF_MAP_UPDATE_ELEM`.
const MAP_UPDATE_ELEM: libc::c_int = 2;
/// `BPF_MAP_DELETE_ELEM`.
const MAP_DELETE_ELEM: libc::c_int = 3;
/// `BPF_OBJ_PIN`.
const OBJ_PIN: libc::c_int = 6;
/// `BPF_OBJ_GET`.
const OBJ_GET: libc::c_int = 7;
/// `BPF_OBJ_GET_INFO_BY_FD`.
const OBJ_GET_INFO: libc::c_int = 15;
/// `BPF_MAP_LOOKUP_BATCH`.
const MAP_LOOKUP_BATCH: libc::c_int = 24;
/// `BPF_LINK_UPDATE`.
const LINK_UPDATE: libc::c_int = 29;

/// `BPF_LINK_TYPE_CGROUP`.
const LINK_OF_CGROUP: u32 = 3;

/// `BPF_LINK_DETACH`.
const LINK_DETACH: libc::c_int = 34;

/// `union bpf_attr` of the map element commands.
#[repr(C)]
struct MapElement {
    map: RawFd,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr` of the map batch commands.
#[repr(C)]
struct MapBatch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: RawFd,
    element_flags: u64,
    flags: u64,
}

/// `union bpf_attr` of `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// `union bpf_attr` of `BPF_LINK_UPDATE`.
#[repr(C)]
struct LinkUpdate {
    link: RawFd,
    program: RawFd,
    flags: u32,
    old_program: u32,
}

/// `union bpf_attr` of `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct GetInfo {
    fd: RawFd,
    length: u32,
    info: u64,
}

/// The head of `struct bpf_link_info`, whose union begins with what the link is attached to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct LinkInfo {
    kind: u32,
    /// The link's id.
    pub(crate) id: u32,
    /// The program that it runs.
    pub(crate) program: u32,
    padding: u32,
    target: [u32; 2],
    rest: [u64; 4],
}

/// What a link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The cgroup with this id.
    Cgroup(u64),
    /// The network namespace with this inode number.
    Namespace(u64),
    /// The network interface with this index.
    Interface(u32),
}

const _: () = assert!(size_of::<LinkInfo>() == 56);

/// Stores `flow` in the storage that `map` gives `socket`, replacing what was there.
pub(crate) fn set_socket_storage(
    map: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
    flow: &Flow,
) -> io::Result<()> {
    let key = socket.as_raw_fd();
    let attributes = MapElement {
        map: map.as_raw_fd(),
        padding: 0,
        key: address(&raw const key),
        value: address(std::ptr::from_ref(flow)),
        flags: 0,
    };
    // SAFETY: key and value outlive the call and have the sizes of a socket storage map's key
    // (an int) and of its value (a Flow, checked when the map was opened).
    unsafe { bpf(MAP_UPDATE_ELEM, &attributes) }.map(|_zero| ())
}

/// What is stored for `socket` in the storage that `map` gives it; `None` if nothing is.
pub(crate) fn socket_storage(
    map: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
) -> io::Result<Option<Flow>> {
    let key = socket.as_raw_fd();
    let mut flow = Flow::default();
    let attributes = MapElement {
        map: map.as_raw_fd(),
        padding: 0,
        key: address(&raw const key),
        value: address((&raw mut flow).cast_const()),
        flags: 0,
    };
    // SAFETY: key and value outlive the call and have the sizes of a socket storage map's key
    // (an int) and of its value (a Flow, checked when the map was opened).
    match unsafe { bpf(MAP_LOOKUP_ELEM, &attributes) } {
        Ok(_zero) => Ok(Some(flow)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every entry of a hash map, read a bucket at a time: what comes and goes meanwhile may be there or
/// not, and nothing else is missed or twice there. Keys and values must be of the map's types.
pub(crate) fn entries<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    /// At first; a bucket that has more asks for more.
    const AT_ONCE: usize = 1024;
    let (mut keys, mut values) = (Vec::<K>::new(), Vec::<V>::new());
    let mut found = Vec::new();
    let (mut next, mut has_begun, mut room) = (0_u32, false, AT_ONCE);
    loop {
        keys.reserve(room);
        values.reserve(room);
        let from = next;
        let mut attributes = MapBatch {
            from: if has_begun {
                address(&raw const from)
            } else {
                0
            },
            to: address((&raw mut next).cast_const()),
            keys: address(keys.as_ptr()),
            values: address(values.as_ptr()),
            count: u32::try_from(room).unwrap_or(u32::MAX),
            map: map.as_raw_fd(),
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: keys and values have room for as many as `count` says, and all outlive the call.
        let result = unsafe { bpf_back(MAP_LOOKUP_BATCH, &mut attributes) };
        let at_end = match result {
            Ok(_zero) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                room *= 2;
                continue;
            }
            Err(error) => return Err(error),
        };
        let count = usize::try_from(attributes.count).unwrap_or(0).min(room);
        // SAFETY: the kernel has written so many, and a Pod is valid whatever it wrote.
        unsafe { keys.set_len(count) };
        // SAFETY: as above.
        unsafe { values.set_len(count) };
        found.extend(keys.drain(..).zip(values.drain(..)));
        if at_end {
            return Ok(found);
        }
        has_begun = true;
    }
}

/// The value of `key` in a hash map; `None` if it has none.
pub(crate) fn entry<K: aya::Pod, V: aya::Pod + Default>(
    map: BorrowedFd<'_>,
    key: &K,
) -> io::Result<Option<V>> {
    let mut value = V::default();
    let attributes = MapElement {
        map: map.as_raw_fd(),
        padding: 0,
        key: address(std::ptr::from_ref(key)),
        value: address((&raw mut value).cast_const()),
        flags: 0,
    };
    // SAFETY: key and value outlive the call and are of the map's types.
    match unsafe { bpf(MAP_LOOKUP_ELEM, &attributes) } {
        Ok(_zero) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes `key` from a hash map. That it is not there is what was wanted.
pub(crate) fn remove<K: aya::Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    let attributes = MapElement {
        map: map.as_raw_fd(),
        padding: 0,
        key: address(std::ptr::from_ref(key)),
        value: 0,
        flags: 0,
    };
    // SAFETY: the key outlives the call and is of the map's type.
    match unsafe { bpf(MAP_DELETE_ELEM, &attributes) } {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

/// Reads a value that the kernel wrote; `None` if the bytes are not as many as it has.
pub(crate) const fn value<T: aya::Pod>(bytes: &[u8]) -> Option<T> {
    if bytes.len() != size_of::<T>() {
        return None;
    }
    let bytes = bytes.as_ptr().cast::<T>();
    // SAFETY: as many bytes are there as the type has, and a Pod is valid whatever they are.
    Some(unsafe { bytes.read_unaligned() })
}

/// Registers a ring buffer with the current runtime, which then tells when the kernel wakes its
/// reader.
pub(crate) fn watch(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the descriptor is the map's, which the buffer owns and never exchanges.
    Ok(unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?)
}

/// Gives a link or map the name `path` in the BPF file system, where it lives on without us.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Object {
        path: address(path.as_ptr()),
        fd: u32::try_from(object.as_raw_fd()).map_err(io::Error::other)?,
        flags: 0,
    };
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    unsafe { bpf(OBJ_PIN, &attributes) }.map(|_zero| ())
}

/// Opens the link or map that is pinned at `path`.
pub(crate) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Object {
        path: address(path.as_ptr()),
        fd: 0,
        flags: 0,
    };
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    let fd = unsafe { bpf(OBJ_GET, &attributes) }?;
    // SAFETY: the kernel just gave this descriptor to us and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts `program` in the place of whatever `link` runs now. No connection sees neither.
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = LinkUpdate {
        link: link.as_raw_fd(),
        program: program.as_raw_fd(),
        flags: 0,
        old_program: 0,
    };
    // SAFETY: the attributes hold two open descriptors and no pointer.
    unsafe { bpf(LINK_UPDATE, &attributes) }.map(|_zero| ())
}

/// Detaches `link` at once. Removing its pin alone would do so a moment later.
pub(crate) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = link.as_raw_fd();
    // SAFETY: the attributes hold one open descriptor and no pointer.
    unsafe { bpf(LINK_DETACH, &attributes) }.map(|_zero| ())
}

impl LinkInfo {
    /// Whether the link is attached to `target`. False once the target is gone.
    pub(crate) fn is_attached_to(&self, target: Target) -> bool {
        let [low, high] = self.target.map(u64::from);
        match target {
            Target::Cgroup(id) => id == joined(low, high),
            // The upper half is the attach type.
            Target::Namespace(inode) => inode == low,
            Target::Interface(index) => u64::from(index) == low,
        }
    }

    /// Whether what the link is attached to still exists, and nobody has detached it.
    pub(crate) const fn has_target(&self) -> bool {
        let [first, second] = self.target;
        // Elsewhere than in a cgroup's the second half is something else.
        first != 0 || (self.kind == LINK_OF_CGROUP && second != 0)
    }
}

/// Two halves of a number in the order of this machine.
const fn joined(first: u64, second: u64) -> u64 {
    if cfg!(target_endian = "little") {
        second << 32 | first
    } else {
        first << 32 | second
    }
}

/// What `link` is.
pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let attributes = GetInfo {
        fd: link.as_raw_fd(),
        length: 56,
        info: address((&raw mut info).cast_const()),
    };
    // SAFETY: `info` is writable and as long as `length` says.
    unsafe { bpf(OBJ_GET_INFO, &attributes) }?;
    Ok(info)
}

/// `pointer` as `bpf(2)` wants it: 64 bits on every architecture.
#[expect(
    clippy::as_conversions,
    reason = "the kernel takes pointers as integers; usize fits u64"
)]
fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

/// Calls `bpf(2)`.
///
/// # Safety
///
/// `attributes` must be laid out as `command` demands, which does not write them, and every pointer
/// in it valid for the length of the call.
unsafe fn bpf<A>(command: libc::c_int, attributes: &A) -> io::Result<RawFd> {
    // SAFETY: the caller vouches for the attributes.
    unsafe { call(command, std::ptr::from_ref(attributes)) }
}

/// Calls `bpf(2)` with a command that answers in its attributes.
///
/// # Safety
///
/// As for [`bpf`], except that the command may write them.
unsafe fn bpf_back<A>(command: libc::c_int, attributes: &mut A) -> io::Result<RawFd> {
    // SAFETY: the caller vouches for the attributes, which may be written.
    unsafe { call(command, std::ptr::from_mut(attributes).cast_const()) }
}

/// Calls `bpf(2)`.
///
/// # Safety
///
/// As for [`bpf`]; if the command writes the attributes, the pointer must allow it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::as_conversions,
    reason = "the result of bpf(2) is an int; the attributes are a few dozen bytes"
)]
unsafe fn call<A>(command: libc::c_int, attributes: *const A) -> io::Result<RawFd> {
    let size = size_of::<A>() as libc::c_uint;
    // SAFETY: the caller vouches for the attributes.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as RawFd)
    }
}
