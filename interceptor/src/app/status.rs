//! What the agent says about itself: gathered here from all parts, because only the process knows
//! all of them.
//!
//! Not here: how it is served (`admin`) and printed (`cli`).

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::reconcile::{Enrolled, State};
use crate::admin;
use crate::capture::{Counter, Observer};
use crate::config::Config;
use crate::connection::Plane;
use crate::connection::registry::Live;
use crate::drain::panics;
use crate::telemetry::logging::Logging;
use crate::telemetry::record::Record;
use crate::telemetry::shadow::{self, Reporting};
use crate::telemetry::status::{
    Authority, Buffered, Certificate, Configuration, EnrolledWorkload, KernelCounter, KernelLoss,
    MapFill, Prober, Program, Readiness, SameNode, Unprotected,
};
use crate::telemetry::view::State as ConnectionState;
use crate::telemetry::{ConnectionView, Status};
use crate::transport;
use crate::workload::source::Published;
use crate::workload::{Mesh, Workload};

/// Everything that is looked at to answer `status`.
#[derive(Clone)]
pub(super) struct Watch {
    pub(super) config: Config,
    pub(super) started: Timestamp,
    pub(super) published: Published,
    pub(super) plane: Arc<Plane>,
    pub(super) observer: Observer,
    pub(super) enrolled: Enrolled,
    pub(super) passed: watch::Receiver<bool>,
}

impl Watch {
    /// The administration's view of this agent.
    pub(super) fn provide(&self, logging: Logging) -> admin::State {
        let metrics = &self.plane.telemetry.metrics;
        let (status, scraped, readiness) = (self.clone(), self.clone(), self.clone());
        let (connections, config, reporting) = (self.clone(), self.clone(), self.clone());
        let published = self.published.clone();
        metrics.observe(Arc::new(move || {
            scraped.plane.direct.refresh();
            scraped.status()
        }));
        admin::State {
            status: Arc::new(move || status.status()),
            readiness: Arc::new(move || readiness.readiness()),
            connections: Arc::new(move || connections.connections()),
            config: Arc::new(move || config.dump()),
            shadows: Arc::new(move || reporting.shadows()),
            mesh: Arc::new(move || published.snapshot()),
            telemetry: self.plane.telemetry.clone(),
            logging: Some(logging),
        }
    }

    fn status(&self) -> Status {
        let kernel = self.observer.status();
        let mut unprotected = Unprotected::by_configuration(&self.published.mesh());
        let losses = self.observer.losses();
        unprotected.extend(Unprotected::by_loss(&losses));
        unprotected.extend(self.not_captured());
        unprotected.extend(kernel.workloads.iter().flat_map(Unprotected::by_interfaces));
        unprotected.extend(kernel.workloads.iter().filter_map(Unprotected::by_age));
        unprotected.extend((kernel.workloads.iter()).filter_map(Unprotected::by_absence));
        let counters = self.observer.counters();
        let prober = Prober::new(&kernel.prober, counters.of(Counter::Probe));
        unprotected.extend(Unprotected::by_prober(&prober));
        unprotected.extend(self.plane.telemetry.ledger.entries());
        Status {
            node: self.config.mesh.node.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: self.started,
            readiness: self.readiness(),
            programs: kernel.programs.iter().map(Program::from).collect(),
            counters: counters.iter().map(KernelCounter::from).collect(),
            maps: kernel.maps.iter().map(MapFill::from).collect(),
            losses: KernelLoss::all(&losses),
            workloads: self.workloads(),
            certificates: (self.plane.identities.list().iter())
                .map(Certificate::from)
                .collect(),
            authority: Authority::from(&self.plane.identities.authority()),
            configuration: Configuration::new(
                self.config.manifests.display().to_string(),
                &self.published.state(),
            ),
            prober,
            unprotected,
            reporting: self.shadows().summaries(),
            connections_open: u64::try_from(self.plane.registry.len()).unwrap_or(u64::MAX),
            same_node: self.same_node(),
            buffered: Buffered {
                bytes: u64::try_from(transport::buffered()).unwrap_or(u64::MAX),
                most: u64::try_from(self.config.transport.max_buffered).unwrap_or(u64::MAX),
            },
            panics: panics(),
        }
    }

    fn same_node(&self) -> SameNode {
        let counts = self.plane.direct.counts();
        SameNode {
            granted: counts.granted,
            unpublished: counts.unpublished,
            refused: counts.refused,
            open: counts.open,
            events_lost: self.observer.counters().of(Counter::DirectEventLost),
            ends_unseen: counts.unseen,
        }
    }

    fn readiness(&self) -> Readiness {
        let mut missing = Vec::new();
        if !self.published.state().is_ready() {
            missing.push(format!(
                "no configuration is in force: see the mistakes in {}",
                self.config.manifests.display()
            ));
        } else if !*self.passed.borrow() {
            missing.push("workloads are being enrolled".to_owned());
        }
        missing.extend(self.without_room());
        let losses = self.observer.losses();
        missing.extend(losses.standing.iter().filter_map(KernelLoss::complaint));
        Readiness { missing }
    }

    fn workloads(&self) -> Vec<EnrolledWorkload> {
        let states = self.enrolled.snapshot();
        let mesh = self.published.snapshot();
        mesh.local()
            .map(|workload| {
                let state = match states.get(&workload.id) {
                    Some(State::Enrolled { key, .. }) => Ok(*key),
                    Some(State::Failed { error, .. }) => Err(error.clone()),
                    None => Err("it is being enrolled".to_owned()),
                };
                EnrolledWorkload::new(workload, state)
            })
            .collect()
    }

    /// Workloads for which there is no room in the kernel's maps.
    fn without_room(&self) -> Vec<String> {
        let states = self.enrolled.snapshot().into_iter();
        let full = states.filter_map(|(id, state)| match state {
            State::Failed {
                error,
                closed,
                full: true,
                ..
            } => {
                let becomes = if closed {
                    "is refused"
                } else {
                    "passes in plaintext, as its owner prefers"
                };
                Some(format!("{id} has no room and {becomes}: {error}"))
            }
            State::Failed { .. } | State::Enrolled { .. } => None,
        });
        let mut full: Vec<_> = full.collect();
        full.sort();
        full
    }

    /// Workloads that should be captured and are open instead.
    fn not_captured(&self) -> Vec<Unprotected> {
        let states = self.enrolled.snapshot();
        let open = states.into_iter().filter_map(|(id, state)| match state {
            State::Failed {
                error,
                closed: false,
                ..
            } => Some(Unprotected {
                subject: id.to_string(),
                what: "everything".to_owned(),
                why: format!("it cannot be enrolled: {error}"),
                connections: None,
            }),
            State::Failed { .. } | State::Enrolled { .. } => None,
        });
        let mut open: Vec<_> = open.collect();
        open.sort();
        open
    }

    fn connections(&self) -> Vec<ConnectionView> {
        self.plane.direct.refresh();
        let live = self.plane.registry.snapshot();
        live.iter().map(|live| view(live)).collect()
    }

    fn reporting(&self) -> Vec<Reporting> {
        let mesh = self.published.snapshot();
        let all: BTreeSet<_> = (mesh.local())
            .flat_map(|workload| Reporting::of(&mesh.policies(workload)).collect::<Vec<_>>())
            .collect();
        all.into_iter().collect()
    }

    /// What policies that only report said.
    fn shadows(&self) -> shadow::Report {
        let (counts, overflowed) = self.plane.telemetry.metrics.shadows();
        shadow::Report {
            policies: self.reporting(),
            counts,
            overflowed,
        }
    }

    /// The effective configuration and the mesh in force.
    fn dump(&self) -> Value {
        let mesh = self.published.snapshot();
        json!({
            "agent": self.config.to_json(),
            "load": *self.published.state(),
            "workloads": mesh.workloads().collect::<Vec<_>>(),
            "services": mesh.services().collect::<Vec<_>>(),
            "policies": mesh.local().map(|workload| policies(&mesh, workload)).collect::<Vec<_>>(),
        })
    }
}

/// What holds for connections to one local workload.
fn policies(mesh: &Mesh, workload: &Workload) -> Value {
    let effective = mesh.policies(workload);
    let names = effective.policies().map(|policy| policy.name().to_string());
    json!({
        "workload": workload.id.to_string(),
        "mtls": effective.mtls(0),
        "policies": names.collect::<Vec<_>>(),
    })
}

/// An open connection as it is now.
fn view(live: &Live) -> ConnectionView {
    let by_local = (live.traffic.sent(), live.traffic.received());
    let (bytes_sent, bytes_received) = live.record.reporter.turned(by_local);
    let now = Record {
        bytes_sent,
        bytes_received,
        duration: live.since.elapsed(),
        tcp: *live.tcp.lock(),
        ..Record::clone(&live.record)
    };
    ConnectionView::new(&now, ConnectionState::Open)
}
