//! The grants in the kernel, and what the agent knows of them.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use aya::maps::{HashMap as KernelMap, Map, MapData, MapError};
use interceptor_common::{Address, GrantKey, GrantTarget, Inbound, MAX_TARGETS};

use crate::capture::loader::{Loaded, Source};
use crate::capture::maps::{WriteError, failed, gone, take};
use crate::net::{SharedNumber, mapped};

/// The part of the map that one workload may have: a quarter. One that connects to everything there
/// is goes by the agent beyond that, and takes no room from others.
const SHARE: usize = 4;

/// The map in messages.
const GRANTS: &str = "grants";

/// What one workload may connect to directly at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The key of the source workload.
    pub source: u64,
    /// What its application connects to: a workload's own address or a Service's.
    pub address: SocketAddr,
    /// The endpoints, 1 to [`MAX_TARGETS`]: each gets an equal share of the connections. `None` is
    /// a share that takes the agent's path. Workloads of the host's network cannot be named: nothing
    /// steers connections to them, so there is no door to open.
    pub targets: Vec<Option<SocketAddr>>,
    /// The generation that was read before the verdict was taken.
    pub generation: u64,
    /// The agent's own mark of that verdict, which every connection carries.
    pub tag: u32,
}

/// Why a grant could not be published or withdrawn.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// There is no room, even without the grants of earlier generations.
    #[error("the map of grants is full: raise its size in the agent's configuration")]
    Full,
    /// The source workload has its share of the map, and all of it holds.
    #[error(
        "the workload has its share of the map of grants, a quarter: raise its size in the agent's \
         configuration"
    )]
    Share,
    /// No target at all, or more than a grant can name.
    #[error("a grant names 1 to {MAX_TARGETS} endpoints, not {0}")]
    Targets(usize),
    /// A target is not an address of a workload that is enrolled on this node, or is of another
    /// family than the address that is connected to.
    #[error("{0} is not an address that can be connected to directly")]
    Target(SocketAddr),
    /// The kernel refuses.
    #[error("cannot write the map of grants")]
    Kernel(#[source] io::Error),
}

impl GrantError {
    /// The stable, low-cardinality label under which this failure is counted.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Full => "map_full",
            Self::Share => "share",
            Self::Targets(_) => "targets",
            Self::Target(_) => "target",
            Self::Kernel(_) => "kernel",
        }
    }
}

/// What is known of a grant in the map.
struct Known {
    generation: u64,
    destinations: Vec<u64>,
}

/// The maps, and an index of what is in them.
pub(super) struct Grants {
    granted: KernelMap<MapData, GrantKey, interceptor_common::Grant>,
    generation: SharedNumber,
    inbound: KernelMap<MapData, Address, Inbound>,
    known: Index,
    /// How many there is room for.
    room: usize,
    /// How many a workload may have.
    share: usize,
}

/// What is in the map, by source workload.
#[derive(Default)]
struct Index(HashMap<u64, HashMap<GrantKey, Known>>);

impl Index {
    fn insert(&mut self, key: GrantKey, known: Known) {
        self.0.entry(key.workload).or_default().insert(key, known);
    }

    fn remove(&mut self, key: &GrantKey) {
        if let Some(of_source) = self.0.get_mut(&key.workload) {
            of_source.remove(key);
            if of_source.is_empty() {
                self.0.remove(&key.workload);
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&GrantKey, &Known)> {
        self.0.values().flatten()
    }

    fn len(&self) -> usize {
        self.0.values().map(HashMap::len).sum()
    }

    /// Whether a new grant with this key would be more than its source may have.
    fn is_beyond(&self, key: &GrantKey, share: usize) -> bool {
        (self.0.get(&key.workload)).is_some_and(|it| it.len() >= share && !it.contains_key(key))
    }
}

impl Grants {
    /// Takes the maps out of the object and reads what an earlier agent granted.
    pub(super) fn new(loaded: &mut Loaded) -> Result<Self, Source> {
        let inbound = Map::from_map_data(MapData::from_pin(loaded.pins.map("INBOUND"))?)?;
        let Map::Array(generation) = take(&mut loaded.hooks.object, "GENERATION")? else {
            return Err("GENERATION is not an array".into());
        };
        let generation = SharedNumber::new(generation.fd().as_fd())?;
        let granted = take(&mut loaded.hooks.object, "GRANTS")?;
        let room = MapData::from_pin(loaded.pins.map("GRANTS"))?
            .info()?
            .max_entries();
        let room = usize::try_from(room)?;
        let mut grants = Self {
            granted: granted.try_into()?,
            generation,
            inbound: inbound.try_into()?,
            known: Index::default(),
            room,
            share: room.div_ceil(SHARE),
        };
        grants.read()?;
        // Zero means no grant.
        if grants.generation() == 0 {
            grants.advance();
        }
        Ok(grants)
    }

    /// Learns what is in the map: another agent of the node may have written it.
    fn read(&mut self) -> Result<(), MapError> {
        let mut found = Index::default();
        for entry in &self.granted {
            let (key, grant) = entry?;
            found.insert(key, Known::new(&grant));
        }
        self.known = found;
        Ok(())
    }

    /// How many grants there is room for.
    pub(super) const fn room(&self) -> usize {
        self.room
    }

    /// The current generation.
    pub(super) fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Makes the next generation the current one.
    pub(super) fn advance(&self) -> u64 {
        self.generation.increment()
    }

    /// Publishes a grant. What holds never gives way to it.
    pub(super) fn publish(&mut self, grant: &Grant) -> Result<(), GrantError> {
        let (key, value) = (grant.key(), self.value(grant)?);
        if self.known.is_beyond(&key, self.share) {
            let now = self.generation();
            self.remove_if(|it, known| it.workload == key.workload && known.generation != now);
            if self.known.is_beyond(&key, self.share) {
                return Err(GrantError::Share);
            }
        }
        match self.granted.insert(key, value, 0) {
            Err(error) if is_full(&error) && self.sweep()? => {
                self.granted.insert(key, value, 0).map_err(refused)?;
            }
            written => written.map_err(refused)?,
        }
        self.known.insert(key, Known::new(&value));
        Ok(())
    }

    /// The grant as the kernel wants it.
    fn value(&self, grant: &Grant) -> Result<interceptor_common::Grant, GrantError> {
        let wrong = GrantError::Targets(grant.targets.len());
        let mut value = interceptor_common::Grant {
            generation: grant.generation,
            tag: grant.tag,
            count: match u32::try_from(grant.targets.len()) {
                Ok(count) if count > 0 && grant.targets.len() <= MAX_TARGETS => count,
                _ => return Err(wrong),
            },
            ..interceptor_common::Grant::default()
        };
        for (slot, target) in value.targets.iter_mut().zip(&grant.targets) {
            if let Some(target) = target {
                *slot = self.target(grant, *target)?;
            }
        }
        Ok(value)
    }

    /// An endpoint, with the workload that has its address now.
    fn target(&self, grant: &Grant, target: SocketAddr) -> Result<GrantTarget, GrantError> {
        let address = mapped(target.ip());
        let found = self.inbound.get(&address, 0);
        let usable = address.family() == mapped(grant.address.ip()).family() && target.port() != 0;
        match found {
            Ok(inbound) if usable => Ok(GrantTarget {
                workload: inbound.workload,
                address,
                port_be: target.port().to_be(),
                ..GrantTarget::default()
            }),
            Ok(_) | Err(MapError::KeyNotFound) => Err(GrantError::Target(target)),
            Err(error) => Err(refused(error)),
        }
    }

    /// Takes a grant back.
    pub(super) fn withdraw(&mut self, source: u64, address: SocketAddr) -> Result<(), GrantError> {
        self.remove(&key(source, address))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Takes back every grant of and to this workload. One that the kernel keeps does no harm: its
    /// target has gone, or its source asks no more.
    pub(super) fn forget(&mut self, workload: u64) {
        self.remove_if(|key, known| {
            key.workload == workload || known.destinations.contains(&workload)
        });
    }

    /// Makes room by removing what holds no more. False if there is no such grant.
    fn sweep(&mut self) -> Result<bool, GrantError> {
        self.read().map_err(refused)?;
        let now = self.generation();
        let before = self.known.len();
        self.remove_if(|_, known| known.generation != now);
        Ok(self.known.len() < before)
    }

    /// Removes the grants of which this is true.
    fn remove_if(&mut self, unwanted: impl Fn(&GrantKey, &Known) -> bool) {
        let all = self
            .known
            .iter()
            .filter(|(key, known)| unwanted(key, known));
        let keys: Vec<_> = all.map(|(key, _)| *key).collect();
        for key in keys {
            if let Err(error) = self.remove(&key) {
                tracing::warn!(%error, "cannot remove a grant that holds no more");
            }
        }
    }

    /// Removes a grant, if it is there.
    fn remove(&mut self, key: &GrantKey) -> Result<(), GrantError> {
        gone(self.granted.remove(key), GRANTS)
            .map_err(|error| GrantError::Kernel(io::Error::other(error)))?;
        self.known.remove(key);
        Ok(())
    }
}

impl Grant {
    /// Where it is in the map.
    fn key(&self) -> GrantKey {
        key(self.source, self.address)
    }
}

impl Known {
    /// What is to be known of this grant.
    fn new(grant: &interceptor_common::Grant) -> Self {
        let named = grant.targets.iter().filter(|it| it.port_be != 0);
        let mut destinations: Vec<_> = named.map(|it| it.workload).collect();
        destinations.dedup();
        Self {
            generation: grant.generation,
            destinations,
        }
    }
}

/// Where the grant of `source` for `address` is.
fn key(source: u64, address: SocketAddr) -> GrantKey {
    GrantKey {
        workload: source,
        address: mapped(address.ip()),
        port_be: address.port().to_be(),
        ..GrantKey::default()
    }
}

/// Whether the map has no room.
fn is_full(error: &MapError) -> bool {
    matches!(crate::capture::maps::errno(error), Some(libc::E2BIG))
}

/// The error of a map that could not be written.
fn refused(error: MapError) -> GrantError {
    match failed(GRANTS, error) {
        WriteError::Full(_) => GrantError::Full,
        other @ WriteError::Other(..) => GrantError::Kernel(io::Error::other(other)),
    }
}
