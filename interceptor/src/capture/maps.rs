//! Typed handles on the pinned maps, and the entries that make up one workload.
//!
//! A workload's entries are treated as one value: read back at adoption, compared, and replaced
//! so that at every moment each connection meets either the old or the new rule, never none.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{
    HashMap as KernelMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuHashMap,
    PerCpuValues, SockHash,
};
use aya::util::nr_cpus;
use interceptor_common::{
    Address, Inbound, InboundPortKey, ListenerKey, PLAINTEXT_WITHOUT_AGENT, PROBER, RuleKey,
    Unserved, WorkloadEntry,
};

/// `BPF_NOEXIST`: only what is not there is written.
const NO_EXIST: u64 = 1;

/// The map of workloads in messages.
const WORKLOADS: &str = "workloads";

/// The map of guarded interfaces in messages.
const INTERFACES: &str = "guarded interfaces";

/// Everything that the maps say about one workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entries {
    /// The workload itself; absent while it is being enrolled.
    pub(super) workload: Option<WorkloadEntry>,
    /// Its outbound rules.
    pub(super) rules: HashMap<(u32, RuleKey), u32>,
    /// Its addresses.
    pub(super) inbound: HashMap<Address, Inbound>,
    /// Its inbound ports that differ.
    pub(super) ports: HashMap<InboundPortKey, u32>,
}

impl Entries {
    /// Whether the workload may pass while no agent listens for it.
    pub(super) fn passes_unserved(&self) -> bool {
        let flags = self.workload.map_or(0, |entry| entry.flags);
        flags & PLAINTEXT_WITHOUT_AGENT != 0
    }

    /// Adds what `other` has: everything that may be in the maps of either.
    pub(super) fn absorb(&mut self, other: &Self) {
        self.workload = self.workload.or(other.workload);
        self.rules.extend(&other.rules);
        self.inbound.extend(&other.inbound);
        self.ports.extend(&other.ports);
    }
}

/// The maps that the agent writes.
pub(super) struct Maps {
    workloads: KernelMap<MapData, u64, WorkloadEntry>,
    rules: LpmTrie<MapData, RuleKey, u32>,
    inbound: KernelMap<MapData, Address, Inbound>,
    ports: KernelMap<MapData, InboundPortKey, u32>,
    listeners: SockHash<MapData, ListenerKey>,
    guarded: KernelMap<MapData, u32, u64>,
    unserved: PerCpuHashMap<MapData, u64, Unserved>,
    /// The socket storage map, shared with every dialler.
    pub(super) storage: Arc<OwnedFd>,
    /// The counters, shared with every observer.
    pub(super) counts: Arc<PerCpuArray<MapData, u64>>,
}

/// A map operation that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// There is no room.
    #[error("the map of {0} is full")]
    Full(&'static str),
    /// Anything else.
    #[error("cannot write the map of {0}")]
    Other(&'static str, #[source] MapError),
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(
        object: &mut Ebpf,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let storage = match take(object, "SOCKETS")? {
            Map::SkStorage(data) => data.fd().as_fd().try_clone_to_owned()?,
            _ => return Err("SOCKETS is not a socket storage map".into()),
        };
        Ok(Self {
            workloads: take(object, "WORKLOADS")?.try_into()?,
            rules: take(object, "RULES")?.try_into()?,
            inbound: take(object, "INBOUND")?.try_into()?,
            ports: take(object, "INBOUND_PORTS")?.try_into()?,
            listeners: take(object, "LISTENERS")?.try_into()?,
            guarded: take(object, "GUARDED")?.try_into()?,
            unserved: take(object, "UNSERVED")?.try_into()?,
            counts: Arc::new(take(object, "COUNTS")?.try_into()?),
            storage: Arc::new(storage),
        })
    }

    /// What every workload left in the maps, by key, and the keys of probers.
    pub(super) fn read_all(&self) -> Result<(HashMap<u64, Entries>, Vec<u64>), MapError> {
        let mut all: HashMap<u64, Entries> = HashMap::new();
        let mut probers = Vec::new();
        for entry in &self.workloads {
            let (key, workload) = entry?;
            if workload.flags & PROBER != 0 {
                probers.push(key);
                continue;
            }
            all.entry(key).or_default().workload = Some(workload);
        }
        for entry in &self.rules {
            let (key, action) = entry?;
            let (bits, data) = (key.prefix_len(), key.data());
            all.entry(join(data.workload))
                .or_default()
                .rules
                .insert((bits, data), action);
        }
        let mut owners = HashMap::new();
        for entry in &self.inbound {
            let (address, inbound) = entry?;
            owners.insert(address, inbound.workload);
            let entries = all.entry(inbound.workload).or_default();
            entries.inbound.insert(address, inbound);
        }
        for entry in &self.ports {
            let (key, action) = entry?;
            let owner = owners.get(&key.address).copied().unwrap_or_default();
            all.entry(owner).or_default().ports.insert(key, action);
        }
        Ok((all, probers))
    }

    /// Trusts the cgroup with this key as the node's prober.
    pub(super) fn trust(&mut self, key: u64) -> Result<(), WriteError> {
        let entry = WorkloadEntry {
            flags: PROBER,
            ..WorkloadEntry::default()
        };
        let result = self.workloads.insert(key, entry, 0);
        result.map_err(|error| failed(WORKLOADS, error))
    }

    /// Takes that back, unless the key is a workload's by now.
    pub(super) fn distrust(&mut self, key: u64) -> Result<(), WriteError> {
        match self.workloads.get(&key, 0) {
            Ok(found) if found.flags & PROBER != 0 => gone(self.workloads.remove(&key), WORKLOADS),
            _ => Ok(()),
        }
    }

    /// Replaces the outbound half: rules, and the workload itself, whose entry is what switches
    /// capture on and off. It comes after its rules and goes before them.
    pub(super) fn replace_outbound(
        &mut self,
        key: u64,
        old: &Entries,
        new: &Entries,
    ) -> Result<(), WriteError> {
        const RULES: &str = "outbound rules";
        for ((bits, data), action) in &new.rules {
            let result = self.rules.insert(&Key::new(*bits, *data), action, 0);
            result.map_err(|error| failed(RULES, error))?;
        }
        self.let_pass(key, new.passes_unserved())?;
        match &new.workload {
            Some(workload) => {
                let result = self.workloads.insert(key, workload, 0);
                result.map_err(|error| failed(WORKLOADS, error))?;
            }
            None => gone(self.workloads.remove(&key), WORKLOADS)?,
        }
        let stale = |rule: &&(u32, RuleKey)| !new.rules.contains_key(*rule);
        for (bits, data) in old.rules.keys().filter(stale) {
            gone(self.rules.remove(&Key::new(*bits, *data)), RULES)?;
        }
        Ok(())
    }

    /// Replaces the inbound half: ports before the addresses that they belong to.
    pub(super) fn replace_inbound(
        &mut self,
        old: &Entries,
        new: &Entries,
    ) -> Result<(), WriteError> {
        const PORTS: &str = "inbound ports";
        const ADDRESSES: &str = "workload addresses";
        for (port, action) in &new.ports {
            let result = self.ports.insert(port, action, 0);
            result.map_err(|error| failed(PORTS, error))?;
        }
        for (address, inbound) in &new.inbound {
            let result = self.inbound.insert(address, inbound, 0);
            result.map_err(|error| failed(ADDRESSES, error))?;
        }
        let stale = |address: &&Address| !new.inbound.contains_key(*address);
        for address in old.inbound.keys().filter(stale) {
            gone(self.inbound.remove(address), ADDRESSES)?;
        }
        let stale = |port: &&InboundPortKey| !new.ports.contains_key(*port);
        for port in old.ports.keys().filter(stale) {
            gone(self.ports.remove(port), PORTS)?;
        }
        Ok(())
    }

    /// Lets the workload with this `key` pass while no agent listens for it, or not. What has been
    /// counted stays.
    pub(super) fn let_pass(&mut self, key: u64, allowed: bool) -> Result<(), WriteError> {
        const UNSERVED: &str = "workloads that pass without an agent";
        if !allowed {
            return gone(self.unserved.remove(&key), UNSERVED);
        }
        let cpus = nr_cpus().map_err(|(_file, error)| MapError::IoError(error));
        let none = cpus.and_then(|cpus| {
            PerCpuValues::try_from(vec![Unserved::default(); cpus]).map_err(MapError::IoError)
        });
        let none = none.map_err(|error| failed(UNSERVED, error))?;
        match self.unserved.insert(key, none, NO_EXIST) {
            Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(()),
            result => result.map_err(|error| failed(UNSERVED, error)),
        }
    }

    /// Makes `socket` the listener for `key`.
    pub(super) fn set_listener(
        &mut self,
        key: ListenerKey,
        socket: BorrowedFd<'_>,
    ) -> Result<(), WriteError> {
        let result = self.listeners.insert(key, socket.as_raw_fd(), 0);
        result.map_err(|error| failed("listeners", error))
    }

    /// Says which workload is behind the host's interface with this index.
    pub(super) fn name_interface(&mut self, index: u32, key: u64) -> Result<(), WriteError> {
        let result = self.guarded.insert(index, key, 0);
        result.map_err(|error| failed(INTERFACES, error))
    }

    /// Takes that back, unless the index belongs to another workload's interface by now.
    pub(super) fn forget_interface(&mut self, index: u32, key: u64) -> Result<(), WriteError> {
        match self.guarded.get(&index, 0) {
            Ok(found) if found == key => gone(self.guarded.remove(&index), INTERFACES),
            _ => Ok(()),
        }
    }

    /// Removes the listener for `key`, if there is one.
    pub(super) fn remove_listener(&mut self, key: ListenerKey) -> Result<(), WriteError> {
        gone(self.listeners.remove(&key), "listeners")
    }
}

/// The two halves of a workload's key as one number.
fn join(halves: [u32; 2]) -> u64 {
    let [first, second] = halves.map(u32::to_ne_bytes);
    let mut bytes = [0; 8];
    let (left, right) = bytes.split_at_mut(4);
    left.copy_from_slice(&first);
    right.copy_from_slice(&second);
    u64::from_ne_bytes(bytes)
}

/// Takes a map out of the object.
pub(super) fn take(object: &mut Ebpf, name: &str) -> Result<Map, String> {
    object
        .take_map(name)
        .ok_or_else(|| format!("the object has no map {name}"))
}

/// Tells a full map from other failures: hash maps say `E2BIG`, tries `ENOSPC`.
pub(super) fn failed(what: &'static str, error: MapError) -> WriteError {
    match errno(&error) {
        Some(libc::E2BIG | libc::ENOSPC) => WriteError::Full(what),
        _ => WriteError::Other(what, error),
    }
}

/// Removing what is not there is what was wanted.
pub(super) fn gone(result: Result<(), MapError>, what: &'static str) -> Result<(), WriteError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(error) if matches!(errno(&error), Some(libc::ENOENT | libc::EINVAL)) => Ok(()),
        Err(error) => Err(WriteError::Other(what, error)),
    }
}

/// The errno of the system call behind `error`.
pub(super) fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(call) => call.io_error.raw_os_error(),
        MapError::IoError(error) => io::Error::raw_os_error(error),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_halves_of_a_key_are_put_together_again() {
        for key in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
            assert_eq!(join(RuleKey::halves(key)), key);
        }
    }
}
