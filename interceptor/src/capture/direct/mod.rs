//! Same-node connections that go from socket to socket: what the agent grants, what the kernel
//! tells of them, and how one is cut.
//!
//! ```text
//!  verdict ──▶ publish ──▶ GRANTS ──▶ connect hook ──▶ the other workload's socket
//!  mesh changes ▶ advance ──▶ GENERATION      │
//!  records ◀── table ◀─── OPEN ◀──────────────┤ open
//!          ◀── events ◀── EVENTS ◀────────────┘ closed
//! ```
//!
//! # Order
//!
//! A verdict is published with the generation that was read *before* the mesh that it was taken
//! from. When the mesh changes, the new one is stored first and then [`Direct::advance`] is
//! called: whatever was granted by the old one is void with that one write, and what is published
//! late, by somebody who still evaluates the old mesh, is void from the start. A connection whose
//! SYN was on its way is reported with its generation; whoever reads the report judges it again.
//!
//! # Fail closed
//!
//! * The kernel applies a grant only if the workload that it was given for still has the address.
//! * A full map refuses the grant and never gives up another workload's for it. Without a grant, a
//!   connection takes the agent's path.
//! * While no agent runs, grants hold and open connections go on. What ended meanwhile waits in
//!   the buffer for the next agent.
//!
//! # Both ends by one
//!
//! Events come from the initiator's socket alone. What it sent and had acknowledged, the other
//! end has received; what it received, the other end has sent. So one event makes both records,
//! and nothing has to be joined.
//!
//! Not here: who may connect to whom, and what becomes of the events.

mod events;
mod grants;
mod open;
mod table;
mod totals;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aya::maps::{Map, MapData, PerCpuArray};
use interceptor_common::{Counter, Flow, FlowKey};
use nix::time::{ClockId, clock_gettime};
use parking_lot::Mutex;

use super::loader::{Loaded, Source};
use super::maps::take;
use crate::net::{Namespace, unmapped};

pub use events::{Event, Events};
pub use grants::{Grant, GrantError};
pub use interceptor_common::MAX_TARGETS;
pub use open::Open;
pub use table::Entered;
pub use totals::{End, Totals};

use events::Turn;
use grants::Grants;
use table::Table;

/// The kernel's same-node connections. Clones share it.
#[derive(Clone)]
pub struct Direct {
    shared: Arc<Shared>,
}

struct Shared {
    grants: Mutex<Grants>,
    /// Where the events are, until somebody reads them.
    ring: Mutex<Option<PathBuf>>,
    /// Who reads them.
    turn: Arc<Mutex<Turn>>,
    /// Where the enrolled workloads' sockets are, by workload key.
    namespaces: ArcSwap<HashMap<u64, Namespace>>,
    /// Workloads in the maps that nobody serves: an earlier agent's, and those that stay refused.
    unserved: ArcSwap<HashSet<u64>>,
    storage: Arc<OwnedFd>,
    table: Table,
    counts: Arc<PerCpuArray<MapData, u64>>,
}

/// One direct connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DirectFlow {
    /// The cookie of the initiator's socket. No other socket ever has it; a socket that is
    /// disconnected and connected again keeps it, and is told apart by `since_ns`.
    pub id: u64,
    /// The initiator's workload key.
    pub source: u64,
    /// The acceptor's workload key.
    pub destination: u64,
    /// The initiator's address and port.
    pub source_address: SocketAddr,
    /// The acceptor's.
    pub destination_address: SocketAddr,
    /// What the application connected to: the acceptor's address, or a Service's.
    pub original: SocketAddr,
    /// When it called `connect(2)`, in nanoseconds of the monotonic clock.
    pub since_ns: u64,
    /// The generation of the grant.
    pub generation: u64,
    /// The tag of the grant.
    pub tag: u32,
}

impl DirectFlow {
    /// The connection that the kernel describes so.
    fn new(id: u64, flow: &Flow, key: &FlowKey) -> Self {
        let address = |address, port_be| SocketAddr::new(unmapped(address), u16::from_be(port_be));
        Self {
            id,
            source: flow.workload,
            destination: flow.destination,
            source_address: address(key.source, key.source_port_be),
            destination_address: address(key.destination, key.destination_port_be),
            original: address(flow.address, flow.port_be),
            since_ns: flow.since_ns,
            generation: flow.generation,
            tag: flow.tag,
        }
    }

    /// When the application called `connect(2)`, on [`monotonic`]'s clock.
    pub const fn opened(&self) -> Duration {
        Duration::from_nanos(self.since_ns)
    }

    /// When the application called `connect(2)`.
    pub fn since(&self) -> Instant {
        let now = Instant::now();
        now.checked_sub(since(self.since_ns)).unwrap_or(now)
    }
}

impl Direct {
    /// Of the loaded maps. What earlier agents granted stays.
    pub(super) fn new(loaded: &mut Loaded) -> Result<Self, Source> {
        let grants = Grants::new(loaded)?;
        let mut hash = |name: &str| -> Result<(OwnedFd, u32), Source> {
            match take(&mut loaded.hooks.object, name)? {
                Map::HashMap(map) => {
                    let room = map.info()?.max_entries();
                    Ok((map.fd().as_fd().try_clone_to_owned()?, room))
                }
                _ => Err(format!("{name} is not a hash map").into()),
            }
        };
        let table = Table::new(hash("OPEN")?.0, hash("CALLS")?);
        Ok(Self {
            shared: Arc::new(Shared {
                grants: Mutex::new(grants),
                ring: Mutex::new(Some(loaded.pins.map("EVENTS"))),
                // An earlier agent may read on until it is our turn.
                turn: Arc::new(Mutex::new(Turn::OursAgain)),
                namespaces: ArcSwap::default(),
                unserved: ArcSwap::default(),
                storage: Arc::clone(&loaded.maps.storage),
                table,
                counts: Arc::clone(&loaded.maps.counts),
            }),
        })
    }

    /// The current generation. Read it before the mesh from which a verdict is taken.
    pub fn generation(&self) -> u64 {
        self.shared.grants.lock().generation()
    }

    /// Voids every grant that was published with an earlier generation, and returns the new one.
    /// To be called after a new mesh is in force, and once after the first one: what an earlier
    /// agent granted is nobody's verdict any more. Of two that are called at once, in whatever
    /// process, each has a generation of its own.
    pub fn advance(&self) -> u64 {
        self.shared.grants.lock().advance()
    }

    /// Publishes a grant, in the place of an earlier one for the same source and address.
    ///
    /// # Errors
    ///
    /// If a target is not an address of a workload that is enrolled on this node, or there is no
    /// room, or the source has its share of the map. Then connections take the agent's path.
    pub fn publish(&self, grant: &Grant) -> Result<(), GrantError> {
        self.shared.grants.lock().publish(grant)
    }

    /// Takes the grant of `source` for `address` back, if there is one.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn withdraw(&self, source: u64, address: SocketAddr) -> Result<(), GrantError> {
        self.shared.grants.lock().withdraw(source, address)
    }

    /// How many grants there is room for: `capture.maxGrants`.
    pub fn room(&self) -> usize {
        self.shared.grants.lock().room()
    }

    /// How many grants are in the map, those of earlier generations included.
    pub fn grants(&self) -> usize {
        self.shared.grants.lock().len()
    }

    /// What happens to direct connections, for one reader; `None` for everybody after the first.
    /// No other process may read them meanwhile ([`Direct::leave_events`]).
    ///
    /// # Errors
    ///
    /// If the kernel refuses to show them.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn events(&self) -> io::Result<Option<Events>> {
        let Some(pin) = self.shared.ring.lock().take() else {
            return Ok(None);
        };
        Events::new(pin, Arc::clone(&self.shared.turn)).map(Some)
    }

    /// Leaves the events to another process: when this returns, none is read here any more.
    pub fn leave_events(&self) {
        *self.shared.turn.lock() = Turn::Theirs;
    }

    /// Reads events again, from where that process stopped.
    pub fn resume_events(&self) {
        *self.shared.turn.lock() = Turn::OursAgain;
    }

    /// How many events were lost because nobody read them in time. After any, compare with
    /// [`Direct::open`].
    pub fn lost(&self) -> u64 {
        self.count(Counter::DirectEventLost)
    }

    /// How many direct connections were entered in [`Direct::table`], ever. It moves after the entry
    /// is there, and an interrupt may lose one: while it stands still, most likely
    /// nothing is new, and no more than that.
    pub fn entered(&self) -> u64 {
        self.count(Counter::DirectEntered)
    }

    fn count(&self, counter: Counter) -> u64 {
        let slots = self.shared.counts.get(&counter.index(), 0);
        slots.map_or(0, |slots| slots.iter().sum())
    }

    /// The direct connections that the kernel has in its table, before and after they are accepted.
    /// One of which an event has told that it is over is not there any more. Whether there are others,
    /// that had no room, events tell; and [`Direct::open`] knows them all.
    ///
    /// Takes about half a millisecond, and 0.2 µs for each.
    ///
    /// # Errors
    ///
    /// If the kernel does not answer.
    pub fn table(&self) -> io::Result<Vec<Entered>> {
        self.shared.table.entered()
    }

    /// The direct connections that are established now and were opened by workloads that are
    /// enrolled. An event of one of them may still be on its way.
    ///
    /// Asks the kernel for the sockets of every enrolled namespace, so it is for adoption, for
    /// reconciliation and for people. A namespace that cannot be asked is an error.
    ///
    /// # Errors
    ///
    /// If a namespace cannot be entered, or the kernel does not answer.
    pub fn open(&self) -> io::Result<Vec<Open>> {
        let Shared {
            namespaces,
            unserved,
            storage,
            table,
            ..
        } = &*self.shared;
        open::open((&namespaces.load(), &unserved.load()), storage, table)
    }

    /// Ends a direct connection: both ends see a reset. False if it had ended by itself.
    ///
    /// # Errors
    ///
    /// If neither end's workload is enrolled any more, or the kernel cannot (it needs
    /// `CONFIG_INET_DIAG_DESTROY`).
    pub fn cut(&self, flow: &DirectFlow) -> io::Result<bool> {
        open::cut(&self.shared.namespaces.load(), flow)
    }

    /// Gives back the room of calls to `connect(2)` that failed before their SYN. Call it every second or
    /// so: without room, others' connections cost more.
    ///
    /// # Errors
    ///
    /// If the kernel does not answer.
    pub fn sweep(&self) -> io::Result<()> {
        self.shared.table.sweep_calls()
    }

    /// Whether the kernel has a workload by this key, enrolled or not yet or not any more.
    pub fn is_workload(&self, key: u64) -> bool {
        // In this order: whoever is enrolled in between is in one of the two.
        self.shared.unserved.load().contains(&key)
            || self.shared.namespaces.load().contains_key(&key)
    }

    /// The enrolled workloads are in these namespaces from now on, and these others are nobody's.
    pub(super) fn set_workloads(
        &self,
        namespaces: HashMap<u64, Namespace>,
        unserved: HashSet<u64>,
    ) {
        self.shared.namespaces.store(Arc::new(namespaces));
        self.shared.unserved.store(Arc::new(unserved));
    }

    /// Takes back every grant of and to the workload with this key.
    pub(super) fn forget(&self, key: u64) {
        self.shared.grants.lock().forget(key);
    }
}

/// The kernel's monotonic clock, by which its events are dated.
pub fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// How long ago this was on the monotonic clock.
fn since(then_ns: u64) -> Duration {
    monotonic().saturating_sub(Duration::from_nanos(then_ns))
}
