//! What an operator is shown of the kernel half.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aya::maps::{MapData, PerCpuArray};
use aya::programs::loaded_programs;
use interceptor_common::{Counter, Unserved};

use super::config::{GUARD_LINK, NAMESPACE_LINK, Pins};
use super::enrol::Enrolment;
use super::guard::Unguarded;
use super::loader::Loaded;
use super::older;
use super::prober::ProberStatus;
use super::shapes::SHAPES;
use super::watch::Losses;
use crate::net::diag::Connection;
use crate::net::{Namespace, bpf};
use crate::workload::WorkloadId;

/// By workload: where its older connections are, and which they are.
type Older = HashMap<WorkloadId, (Namespace, Vec<Connection>)>;

/// Reads counters and status without access to [`super::Capture`]. Clones share it.
#[derive(Clone)]
pub struct Observer {
    counts: Arc<PerCpuArray<MapData, u64>>,
    pins: Pins,
    cgroup_root: PathBuf,
    workloads: Arc<ArcSwap<Vec<WorkloadStatus>>>,
    /// Connections from before the enrolment, where there are any.
    older: Arc<ArcSwap<Older>>,
    prober: Arc<ArcSwap<ProberStatus>>,
    losses: Arc<ArcSwap<Losses>>,
}

/// Outcomes of the kernel programs since they were first loaded, summed over all CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters(Vec<(Counter, u64)>);

/// What is attached, enrolled and stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The attached programs.
    pub programs: Vec<ProgramStatus>,
    /// The enrolled workloads, by name.
    pub workloads: Vec<WorkloadStatus>,
    /// How full the maps are.
    pub maps: Vec<MapFill>,
    /// Whose connections are probes.
    pub prober: ProberStatus,
}

/// One attached program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramStatus {
    /// Its name, as `bpftool prog` shows it.
    pub name: String,
    /// A cgroup, or a network namespace's cookie.
    pub attached_to: String,
    /// The kernel's id of the program.
    pub id: u32,
    /// The kernel's id of the link that attaches it.
    pub link: u32,
    /// Where the link is pinned.
    pub pinned: PathBuf,
    /// How often it has run, if the kernel counts that (`kernel.bpf_stats_enabled`).
    pub run_count: Option<u64>,
}

/// One enrolled workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadStatus {
    /// The workload.
    pub id: WorkloadId,
    /// Its key in the kernel.
    pub key: u64,
    /// Addresses at which connections to it are steered.
    pub addresses: Vec<IpAddr>,
    /// Interfaces at which nothing stops packets made by hand.
    pub unguarded: Vec<Unguarded>,
    /// Connections that passed unprotected while the agent was down, if its owner lets them.
    pub unserved: Option<Unserved>,
    /// Open connections from before it was enrolled: its own end, and the other.
    pub older: Vec<(SocketAddr, SocketAddr)>,
}

/// How full one map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapFill {
    /// Its name, as `bpftool map` shows it.
    pub name: &'static str,
    /// What it holds, for people.
    pub holds: &'static str,
    /// Entries in it.
    pub entries: usize,
    /// Entries that fit.
    pub capacity: u32,
}

impl Counters {
    /// How often `counter`'s outcome happened.
    pub fn of(&self, counter: Counter) -> u64 {
        let found = self.0.iter().find(|(other, _)| *other == counter);
        found.map_or(0, |(_, count)| *count)
    }

    /// Every outcome and how often it happened.
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> {
        self.0.iter().copied()
    }
}

impl Observer {
    /// An observer of what was loaded.
    pub(super) fn new(loaded: &Loaded) -> Self {
        Self {
            counts: Arc::clone(&loaded.maps.counts),
            pins: loaded.pins.clone(),
            cgroup_root: loaded.hierarchy.root.clone(),
            workloads: Arc::default(),
            older: Arc::default(),
            prober: Arc::default(),
            losses: Arc::default(),
        }
    }

    /// What keeps capture in force and was not in its place.
    pub fn losses(&self) -> Losses {
        self.losses.load().as_ref().clone()
    }

    /// They are these from now on.
    pub(super) fn set_losses(&self, losses: Losses) {
        self.losses.store(Arc::new(losses));
    }

    /// The prober is this from now on.
    pub(super) fn set_prober(&self, prober: ProberStatus) {
        self.prober.store(Arc::new(prober));
    }

    /// The workloads are these from now on.
    pub(super) fn set_workloads(&self, enrolled: &HashMap<WorkloadId, Enrolment>) {
        let mut workloads: Vec<_> = enrolled
            .iter()
            .map(|(id, enrolment)| WorkloadStatus {
                id: id.clone(),
                key: enrolment.key(),
                addresses: sorted(enrolment.addresses()),
                unguarded: enrolment.unguarded().to_vec(),
                unserved: None,
                older: Vec::new(),
            })
            .collect();
        workloads.sort_by(|left, right| left.id.cmp(&right.id));
        self.workloads.store(Arc::new(workloads));
        let older = enrolled
            .iter()
            .filter_map(|(id, enrolment)| Some((id.clone(), enrolment.older()?)));
        self.older.store(Arc::new(older.collect()));
    }

    /// Outcomes so far.
    pub fn counters(&self) -> Counters {
        let sum = |counter: Counter| {
            let slots = self.counts.get(&counter.index(), 0);
            slots.map_or(0, |slots| slots.iter().sum())
        };
        Counters(Counter::ALL.iter().map(|it| (*it, sum(*it))).collect())
    }

    /// What is attached, enrolled and stored now. Walks every map, so it is for people and not
    /// for a metrics scrape.
    pub fn status(&self) -> Status {
        Status {
            programs: self.programs(),
            workloads: self.workloads(),
            maps: SHAPES
                .iter()
                .filter_map(|it| self.fill(it.name, it.holds))
                .collect(),
            prober: self.prober.load().as_ref().clone(),
        }
    }

    /// The workloads, with those of their older connections that still live.
    fn workloads(&self) -> Vec<WorkloadStatus> {
        let mut workloads = self.workloads.load().as_ref().clone();
        let older = self.older.load();
        for workload in &mut workloads {
            let map = MapData::from_pin(self.pins.map("UNSERVED")).ok();
            workload.unserved = map.and_then(|map| super::fill::unserved(map, workload.key));
            if let Some((namespace, connections)) = older.get(&workload.id) {
                let alive = older::alive(namespace, connections);
                workload.older = alive.iter().map(|it| (it.local, it.remote)).collect();
            }
        }
        workloads
    }

    /// The programs behind the pinned links.
    fn programs(&self) -> Vec<ProgramStatus> {
        let loaded: HashMap<u32, _> = loaded_programs()
            .flatten()
            .map(|program| (program.id(), program))
            .collect();
        let mut programs: Vec<_> = fs::read_dir(self.pins.links())
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let pinned = entry.path();
                let link = bpf::open_pinned(&pinned).ok()?;
                let link = bpf::link_info(link.as_fd()).ok()?;
                let program = loaded.get(&link.program)?;
                let run_count = program.run_count();
                Some(ProgramStatus {
                    name: program.name_as_str().unwrap_or_default().to_owned(),
                    attached_to: self.target(&entry.file_name().to_string_lossy()),
                    id: link.program,
                    link: link.id,
                    pinned,
                    run_count: (run_count > 0).then_some(run_count),
                })
            })
            .collect();
        programs.sort_by(|left, right| left.pinned.cmp(&right.pinned));
        programs
    }

    /// What the link with this file name is attached to.
    fn target(&self, link: &str) -> String {
        if let Some(cookie) = link.strip_prefix(NAMESPACE_LINK) {
            format!("network namespace {cookie}")
        } else if let Some((_, index)) = link
            .strip_prefix(GUARD_LINK)
            .and_then(|it| it.split_once('_'))
        {
            format!("the host's interface {index}")
        } else if link == super::loader::HOST_PROGRAM {
            "the host's network namespace".to_owned()
        } else {
            self.cgroup_root.display().to_string()
        }
    }

    /// How full a map is. Storage and arrays have no fill.
    fn fill(&self, name: &'static str, holds: &'static str) -> Option<MapFill> {
        let map = MapData::from_pin(self.pins.map(name)).ok()?;
        let capacity = map.info().ok()?.max_entries();
        let entries = super::fill::count(name, map)?;
        Some(MapFill {
            name,
            holds,
            entries,
            capacity,
        })
    }
}

/// The addresses in order.
fn sorted(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = addresses.collect();
    addresses.sort_unstable();
    addresses
}
