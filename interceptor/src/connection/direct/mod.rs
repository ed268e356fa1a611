//! Connections inside of the node that the kernel carries by itself: what it may, what it does,
//! and the end of what it may no longer.
//!
//! ```text
//!  outbound ──offer──▶ decide::ways ──▶ grants ──publish──▶ kernel
//!  mesh or certificate changed ─────▶ advance, judge again ──cut──▶ kernel
//!  records ◀── flows ◀── intake ◀──table, closed── kernel
//! ```
//!
//! The first connection of a pair takes the agent's path; seen there, the pair is decided once for
//! all (`decide`), and what may go past the agent is granted to the kernel. From then on the agent
//! only hears of the ends of such connections, and looks what is open. What it tells of them is what it tells of those that it carries:
//! one [`Record`](crate::telemetry::Record) at each end, in the same log and the same metrics.
//!
//! # Invariants
//!
//! * A grant is published with the generation that was read before the mesh from which it was
//!   decided; a change of the mesh voids all earlier generations with one write. So no grant
//!   outlives the mesh that it was decided from.
//! * Whoever opened under a mesh that has changed since is judged again when the agent hears of
//!   it, and cut if it may not.
//! * Each connection is recorded once at each end, whatever the agent missed: what the kernel
//!   could not tell is found by comparing with the sockets that are open.
//! * A certificate that is missing at either end is as good as a denial, though none is used.
//!
//! Not here: the kernel's half (`capture`), who may connect to whom (`decide`).

mod flows;
mod follow;
mod grants;
mod intake;
mod judge;
mod kinds;
mod records;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::{Local, Plane};
use crate::capture::{Direct, DirectFlow, Entered, Events, Grant, GrantError, Open};
use crate::workload::WorkloadId;

pub use follow::run;

use flows::Flows;
use grants::Grants;
use intake::Intake;

/// What is asked of the kernel's half.
pub(super) trait Kernel: Send + Sync {
    /// Voids all grants of earlier generations, and returns the new one.
    fn advance(&self) -> io::Result<u64>;
    /// Publishes a grant.
    fn publish(&self, grant: &Grant) -> Result<(), GrantError>;
    /// Takes one back.
    fn withdraw(&self, source: u64, address: SocketAddr) -> Result<(), GrantError>;
    /// How many grants it has room for.
    fn room(&self) -> usize;
    /// How many events were lost.
    fn lost(&self) -> u64;
    /// How many were entered in the kernel's table, ever, or nearly.
    fn entered(&self) -> u64;
    /// Those that the kernel has in its table.
    fn table(&self) -> io::Result<Vec<Entered>>;
    /// Those that are open now, and what they have carried.
    fn open(&self) -> io::Result<Vec<Open>>;
    /// Gives back the room of calls that failed.
    fn sweep(&self) -> io::Result<()>;
    /// Whether the kernel has a workload by this key, served or not.
    fn is_workload(&self, key: u64) -> bool;
    /// Ends one; false if it had ended by itself.
    fn cut(&self, flow: &DirectFlow) -> io::Result<bool>;
}

impl Kernel for Direct {
    fn advance(&self) -> io::Result<u64> {
        Ok(self.advance())
    }

    fn publish(&self, grant: &Grant) -> Result<(), GrantError> {
        self.publish(grant)
    }

    fn withdraw(&self, source: u64, address: SocketAddr) -> Result<(), GrantError> {
        self.withdraw(source, address)
    }

    fn room(&self) -> usize {
        self.room()
    }

    fn lost(&self) -> u64 {
        self.lost()
    }

    fn entered(&self) -> u64 {
        self.entered()
    }

    fn table(&self) -> io::Result<Vec<Entered>> {
        self.table()
    }

    fn open(&self) -> io::Result<Vec<Open>> {
        self.open()
    }

    fn sweep(&self) -> io::Result<()> {
        self.sweep()
    }

    fn is_workload(&self, key: u64) -> bool {
        self.is_workload(key)
    }

    fn cut(&self, flow: &DirectFlow) -> io::Result<bool> {
        self.cut(flow)
    }
}

/// The path past the agent, as far as the agent knows of it.
pub struct DirectPath {
    kernel: Arc<dyn Kernel>,
    grants: Grants,
    /// Locked before `flows`.
    intake: Mutex<Intake>,
    flows: Mutex<Flows>,
    names: Names,
    /// Connections of which the kernel could not tell the end.
    unseen: AtomicU64,
    /// Something that may not be open could not be cut.
    overdue: AtomicBool,
    /// Some connection of a workload that is not enrolled yet was passed over.
    waiting: AtomicBool,
    /// Some workload was enrolled since, so that it may be judged.
    awaited: AtomicBool,
    /// Somebody else has granted by a mesh of its own.
    foreign: AtomicBool,
    /// The kernel's grants are another agent's. Read, and kept so, while they are written.
    left: RwLock<bool>,
}

/// What `status` and the metrics say of the path past the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectCounts {
    /// Pairs of a workload and an address whose connections may go past the agent.
    pub granted: u64,
    /// Pairs that may, and for which the kernel had no room.
    pub unpublished: u64,
    /// How often a pair was not granted for want of room, so far.
    pub refused: u64,
    /// Connections that are open.
    pub open: u64,
    /// Connections whose end was found by comparing, because the kernel's events were lost.
    pub unseen: u64,
}

impl DirectPath {
    /// Over the kernel's half, with what it tells, which [`run`] reads.
    ///
    /// # Errors
    ///
    /// If that is read already, or cannot be registered with the runtime.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn open(kernel: Direct) -> io::Result<(Self, Events)> {
        let events = kernel.events()?;
        let events = events.ok_or_else(|| io::Error::other("somebody reads the events already"))?;
        Ok((Self::over(Arc::new(kernel)), events))
    }

    fn over(kernel: Arc<dyn Kernel>) -> Self {
        Self {
            grants: Grants::beside(kernel.room()),
            kernel,
            intake: Mutex::default(),
            flows: Mutex::default(),
            names: Names::default(),
            unseen: AtomicU64::new(0),
            overdue: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            awaited: AtomicBool::new(false),
            foreign: AtomicBool::new(false),
            left: RwLock::new(false),
        }
    }

    /// The kernel knows the workload `id` by this key from now on.
    pub fn enrolled(&self, key: u64, id: WorkloadId) {
        self.names.set(key, id);
        if self.waiting.swap(false, Ordering::Relaxed) {
            self.awaited.store(true, Ordering::Relaxed);
        }
        // What could not be granted without it may be now.
        self.grants.look_again();
    }

    /// The kernel has forgotten the workload with this key, and what was granted to it and for it.
    pub fn released(&self, key: u64) {
        self.names.retire(key);
        self.grants.look_again();
    }

    /// Another agent has been at the kernel's grants: none of them is ours any more.
    pub fn distrust(&self) {
        self.foreign.store(true, Ordering::Relaxed);
    }

    /// Leaves the kernel's grants and connections to another agent: when this returns, nothing is
    /// granted, voided or cut here any more. That one knows nothing of what would be.
    pub fn leave(&self) {
        *self.left.write() = true;
    }

    /// Takes them back.
    pub fn go_on(&self) {
        *self.left.write() = false;
        self.distrust();
    }

    /// The number that leads a connection to one of its ways: any, or one that the kernel does
    /// not serve, if the kernel had that share in mind when it left the connection to the agent.
    pub(super) fn choice(&self, captured: &Captured<'_>) -> u64 {
        self.grants.choice(captured)
    }

    /// Lets further connections like this one go past the agent, if they may.
    pub(super) fn offer(&self, plane: &Plane, captured: &Captured<'_>) {
        let asked = (&captured.local.id, (captured.local.key, captured.original));
        self.grants.offer(self, plane, asked);
    }

    /// Brings what open connections have carried up to date, if that was not done just now.
    pub fn refresh(&self) {
        flows::refresh(self);
    }

    /// For reports.
    pub fn counts(&self) -> DirectCounts {
        let (granted, unpublished) = self.grants.counts();
        DirectCounts {
            granted,
            unpublished,
            refused: self.grants.refused(),
            open: self.flows.lock().len(),
            unseen: self.unseen.load(Ordering::Relaxed),
        }
    }
}

/// A captured connection, as its story knows it before it is decided where it goes.
pub(super) struct Captured<'a> {
    pub(super) local: &'a Local,
    pub(super) socket: &'a tokio::net::TcpStream,
    pub(super) original: SocketAddr,
}

/// So many workloads that are gone keep their names, for connections that end later.
const REMEMBERED: usize = 1024;

/// Which workload a key of the kernel means.
#[derive(Default)]
struct Names {
    known: RwLock<HashMap<u64, WorkloadId>>,
    /// Keys of workloads that are gone, the older first.
    retired: Mutex<VecDeque<u64>>,
}

impl Names {
    fn know(&self, key: u64) -> bool {
        self.known.read().contains_key(&key)
    }

    fn of(&self, key: u64) -> Option<WorkloadId> {
        self.known.read().get(&key).cloned()
    }

    fn set(&self, key: u64, id: WorkloadId) {
        self.retired.lock().retain(|retired| *retired != key);
        self.known.write().insert(key, id);
    }

    fn retire(&self, key: u64) {
        let mut retired = self.retired.lock();
        retired.push_back(key);
        if retired.len() > REMEMBERED
            && let Some(oldest) = retired.pop_front()
        {
            self.known.write().remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests;
