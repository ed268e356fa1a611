//! Capture: the kernel programs of a node and the workloads that are enrolled in them.
//!
//! ```text
//!  Capture::start ── load, attach at the cgroup root, pin (or adopt) ── loader
//!  Capture::enrol ── listeners ▶ addresses ▶ sk_lookup ▶ rules ▶ the workload itself ── enrol
//!       │
//!       ▼
//!  Enrolled { listeners, dialer, origin }  ──▶ connection
//! ```
//!
//! # Fail closed
//!
//! Enrolment ends with the workload's entry, which is what switches capture on; un-enrolment
//! begins with it. So a workload that is captured always has its listeners, and one whose agent
//! has gone is refused: listeners leave the map of listeners by themselves when they close, links
//! and maps stay pinned.
//!
//! # Invariants
//!
//! * A workload is enrolled completely or not at all; what a failed enrolment did is undone.
//! * A connection is never rewritten to an address that its namespace does not have.
//! * One agent per node name; any number of nodes per machine.
//!
//! Not here: which workloads exist (`workload`), what becomes of a connection (`decide`), whose
//! listeners run where (`app`).

mod bpffs;
mod btf;
mod cgroup;
mod config;
mod debug_log;
mod direct;
mod enrol;
mod error;
mod fill;
mod folder;
mod guard;
mod held;
mod heritage;
mod links;
mod listeners;
mod loader;
mod lock;
mod maps;
mod object;
mod older;
mod origin;
mod plan;
mod prober;
mod rules;
mod shapes;
mod site;
mod status;
mod uninstall;
mod watch;

use std::collections::HashMap;
use std::sync::Arc;

use crate::net::{Dialer, Mark, Namespace, Purpose};
use crate::workload::{Workload, WorkloadId};

pub use bpffs::Holder;
pub use config::{Config, Ports, Sizes};
pub use debug_log::DebugLog;
pub use direct::{
    Direct, DirectFlow, End, Entered, Event, Events, Grant, GrantError, MAX_TARGETS, Open, Totals,
    monotonic,
};
pub use error::{CaptureError, DestinationError, EnrolError};
pub use guard::Unguarded;
pub use heritage::{Estate, Heritage};
pub use interceptor_common::{Counter, Unserved};
pub use listeners::Listeners;
pub use lock::NodeLock;
pub use origin::Origin;
pub use prober::{Prober, ProberStatus, USUAL_PROBERS};
pub use rules::{Captured, Why, inbound_captured, outbound_captured};
pub use status::{Counters, MapFill, Observer, ProgramStatus, Status, WorkloadStatus};
pub use uninstall::{
    Leftover, Removed, UninstallError, still_held, uninstall, unpinned, verify_removed,
};
pub use watch::{Loss, Losses, Lost};

pub(crate) use object::OBJECT;

use enrol::Enrolment;
use heritage::Inherited;
use loader::Loaded;
use maps::Entries;
use prober::Probers;
use site::Site;

/// The kernel half of a node: programs loaded, attached and pinned, workloads enrolled.
///
/// Dropping it closes nothing that protects: programs, links and maps stay pinned.
pub struct Capture {
    config: Config,
    loaded: Loaded,
    host: Namespace,
    enrolled: HashMap<WorkloadId, Enrolment>,
    /// What is in the maps without an agent that serves it, by workload key: an earlier agent's
    /// workloads that nobody has claimed yet.
    adopted: HashMap<u64, Entries>,
    /// Of those, the ones that were claimed but could not be enrolled, and others that could not.
    /// They stay refused.
    closed: HashMap<WorkloadId, Site>,
    probers: Probers,
    /// Listeners that a running agent has handed over and no enrolment has claimed yet.
    inherited: Inherited,
    observer: Observer,
    direct: Direct,
}

/// What enrolling a workload gives.
#[derive(Debug)]
pub struct Enrolled {
    /// The workload's key in the kernel.
    pub key: u64,
    /// Its listeners, registered with the runtime in whose context it was enrolled.
    pub listeners: Listeners,
    /// Opens connections in its namespace.
    pub dialer: Dialer,
    /// Tells where accepted connections were headed.
    pub origin: Origin,
}

impl Capture {
    /// Loads, attaches and pins the programs, or adopts those that are pinned.
    ///
    /// # Errors
    ///
    /// If the machine cannot run them, another agent of the node is running, or another version's
    /// maps are pinned. A node on which nothing was pinned is left as it was.
    pub fn start(config: Config) -> Result<Self, CaptureError> {
        let lock = NodeLock::acquire(&config)?;
        Self::start_locked(config, lock)
    }

    /// [`Capture::start`] for who has the node's lock already.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn start_locked(config: Config, lock: NodeLock) -> Result<Self, CaptureError> {
        Self::begin(config, lock, Inherited::default())
    }

    /// Takes the node over from an agent that goes on running: its programs are replaced one by
    /// one, its maps adopted, and workloads enrolled on the listeners that it has handed over, on
    /// which both accept until it stops.
    ///
    /// # Errors
    ///
    /// As with [`Capture::start`]; and if what was handed over is not this node's.
    pub fn take_over(config: Config, heritage: Heritage) -> Result<Self, CaptureError> {
        let (lock, inherited) = heritage.open(&config)?;
        Self::begin(config, lock, inherited)
    }

    fn begin(config: Config, lock: NodeLock, inherited: Inherited) -> Result<Self, CaptureError> {
        let mut loaded = Loaded::new(&config, lock)?;
        let host = Namespace::current().map_err(|source| CaptureError::Io {
            doing: "open",
            path: "/proc/thread-self/ns/net".into(),
            source,
        })?;
        let (adopted, probers) = loaded
            .maps
            .read_all()
            .map_err(|source| CaptureError::Load {
                what: "the pinned maps".to_owned(),
                source: source.into(),
            })?;
        let observer = Observer::new(&loaded);
        let direct = Direct::new(&mut loaded).map_err(|source| CaptureError::Load {
            what: "the maps of direct connections".to_owned(),
            source,
        })?;
        let capture = Self {
            config,
            loaded,
            host,
            enrolled: HashMap::new(),
            adopted,
            closed: HashMap::new(),
            probers: Probers::adopted(probers),
            inherited,
            observer,
            direct,
        };
        enrol::publish(&capture);
        capture.prove()?;
        Ok(capture)
    }

    /// Proves that the programs see the agent's sockets: one is marked and connected, and the
    /// counter that only marked sockets move must move.
    fn prove(&self) -> Result<(), CaptureError> {
        let blind = || CaptureError::Blind {
            cgroup: self.loaded.hierarchy.root.clone(),
        };
        let before = self.observer.counters().of(Counter::AgentOwn);
        let dialer = Dialer::marked(self.host.clone(), self.mark(self.host.cookie()));
        // The discard port: whether anybody listens there does not matter.
        let nowhere = (std::net::Ipv4Addr::LOCALHOST, 9).into();
        dialer
            .probe(nowhere, Purpose::Peer)
            .map_err(|_unmarkable| blind())?;
        if self.observer.counters().of(Counter::AgentOwn) > before {
            Ok(())
        } else {
            Err(blind())
        }
    }

    /// How sockets opened for the workload with this key are marked.
    fn mark(&self, workload: u64) -> Mark {
        Mark {
            storage: Arc::clone(&self.loaded.maps.storage),
            workload,
        }
    }

    /// What a successor needs to go on where this one is: see [`Capture::take_over`].
    ///
    /// # Errors
    ///
    /// If the node's lock cannot be shared.
    pub fn estate(&self) -> std::io::Result<Estate> {
        let listeners = self.enrolled.values().flat_map(Enrolment::listeners);
        Ok(Estate {
            lock: self.loaded.lock.share()?,
            listeners: listeners.collect(),
        })
    }

    /// Goes on after a successor gave up half-way: puts our programs, entries and listeners back
    /// in their place. What the successor added is retired with the next
    /// [`Capture::retire_unclaimed`]. Returns the workloads for which that failed.
    ///
    /// # Errors
    ///
    /// If the programs cannot be put back, or the maps not be read.
    pub fn resume(&mut self) -> Result<Vec<(WorkloadId, EnrolError)>, CaptureError> {
        heritage::resume(self)
    }

    /// A handle for reports, which needs no access to this value.
    pub fn observer(&self) -> Observer {
        self.observer.clone()
    }

    /// Same-node connections that the kernel carries by itself: what is granted, what happens. A
    /// handle that needs no access to this value.
    pub fn direct(&self) -> Direct {
        self.direct.clone()
    }

    /// What the kernel programs log, if [`Config::debug_log`] says so. To be run as a task; there
    /// is one.
    ///
    /// # Errors
    ///
    /// If the log cannot be read, or somebody reads it already.
    pub fn debug_log(&mut self) -> Result<Option<DebugLog>, CaptureError> {
        if !self.config.debug_log {
            return Ok(None);
        }
        let log = DebugLog::new(&mut self.loaded.hooks.object);
        log.map(Some).map_err(|source| CaptureError::Load {
            what: "the debug log".to_owned(),
            source,
        })
    }

    /// Outcomes so far, summed over all CPUs.
    pub fn counters(&self) -> Counters {
        self.observer.counters()
    }

    /// What is attached, enrolled and stored.
    pub fn status(&self) -> Status {
        self.observer.status()
    }

    /// The enrolled workloads whose namespace or cgroup no longer exists. A namespace lives as
    /// long as the agent holds it, so ask every second or so and un-enrol what is returned.
    pub fn vanished(&self) -> Vec<WorkloadId> {
        self.enrolled
            .iter()
            .filter(|(_, enrolment)| enrolment.has_vanished())
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Looks where the node's prober is now. Its cgroup is another one after each restart of it, so
    /// call this every second or so.
    ///
    /// # Errors
    ///
    /// If an entry cannot be written or removed. That is tried again at the next call.
    pub fn follow_prober(&mut self) -> Result<(), EnrolError> {
        prober::follow(self)
    }

    /// Looks whether everything that keeps capture in force is in its place, now and when the agent
    /// ends, and puts back what is not: call this every second or so. Returns what is found for the
    /// first time; [`Observer::losses`] has the rest.
    pub fn look_after(&mut self) -> Vec<Loss> {
        watch::look(self)
    }

    /// Enrols `workload`: from here on its connections are captured.
    ///
    /// # Errors
    ///
    /// If a step fails; what was done before it is undone. The workload is refused from then on, or
    /// stays so ([`Capture::keep_closed`]).
    ///
    /// # Panics
    ///
    /// Outside of the tokio runtime on which the listeners shall run.
    pub fn enrol(&mut self, workload: &Workload) -> Result<Enrolled, EnrolError> {
        enrol::enrol(self, workload)
    }

    /// Follows a change of an enrolled workload's rules or addresses. Listeners and open
    /// connections are not touched.
    ///
    /// # Errors
    ///
    /// If it is not enrolled, is bound to something else now, or a map cannot be written; rules
    /// may then be partly new, and it can be tried again.
    pub fn update(&mut self, workload: &Workload) -> Result<(), EnrolError> {
        enrol::update(self, workload)
    }

    /// Whether [`Capture::update`] would capture more of an enrolled workload, though nothing about
    /// it has changed: an address that was another one's has become free. Cheap, so ask every second.
    pub fn may_take_more(&self, id: &WorkloadId) -> bool {
        enrol::may_take_more(self, id)
    }

    /// Un-enrols a workload: its new connections are left alone from here on. The owner of its
    /// listeners closes them.
    ///
    /// # Errors
    ///
    /// If it is not enrolled, or an entry cannot be removed.
    pub fn unenrol(&mut self, id: &WorkloadId) -> Result<(), EnrolError> {
        enrol::unenrol(self, id)
    }

    /// Says that `workload` belongs here but cannot be enrolled now. It is refused from then on,
    /// through [`Capture::retire_unclaimed`] as well, until it is enrolled or
    /// [`Capture::open_closed`]. Returns whether that is so: not if it is not known where it is, if
    /// another workload is enrolled there, or if an earlier agent had not captured it and its owner
    /// lets it pass without an agent.
    pub fn keep_closed(&mut self, workload: &Workload) -> bool {
        enrol::keep_closed(self, workload)
    }

    /// Whether the agent that this one takes over from serves a workload that this one keeps closed.
    pub fn is_served_elsewhere(&self, id: &WorkloadId) -> bool {
        let site = self.closed.get(id);
        site.is_some_and(|site| self.inherited.serves(site.key()))
    }

    /// Lets a workload go that was kept closed; nothing if it was not.
    ///
    /// # Errors
    ///
    /// If an entry cannot be removed.
    pub fn open_closed(&mut self, id: &WorkloadId) -> Result<(), EnrolError> {
        enrol::open_closed(self, id)
    }

    /// Removes what an earlier agent enrolled and this one did not. Call it once the first
    /// configuration is enrolled: until then those workloads stay refused rather than open. Those
    /// whose enrolment failed stay so. Returns how many were removed.
    ///
    /// # Errors
    ///
    /// If an entry or a link cannot be removed.
    pub fn retire_unclaimed(&mut self) -> Result<usize, EnrolError> {
        enrol::retire_unclaimed(self)
    }
}
