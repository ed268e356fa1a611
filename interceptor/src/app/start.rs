//! Starting: checks everything that can be checked, wires the parts, and begins to serve, in the
//! place of a running agent if one hands over.
//!
//! # Invariants
//!
//! * The node is claimed first (its lock, or a running agent's consent), so that a second agent
//!   learns about the first and not about a port that the first has.
//! * The kernel half comes last: nothing is attached before all else was found to be right.
//! * What people and machines ask of a node they ask of the old agent until the new one serves.
//!
//! Not here: what two agents say to each other (`take_over`).

use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use super::leisure;
use super::reconcile::{Enrolled, Reconciler};
use super::status::Watch;
use super::succession::{LastWord, Predecessor, Succession};
use super::take_over::{FIRST_PASS, Giver, Petition, TakeOverError, Taking};
use super::{Agent, Ended, ports};
use crate::admin;
use crate::capture::{Capture, DebugLog, Events, Heritage, NodeLock};
use crate::config::Config;
use crate::connection::{Bounds, DirectPath, Plane, Registry, direct, recheck};
use crate::drain::Tasks;
use crate::identity::{FollowedCa, Identities};
use crate::lanes::Lanes;
use crate::net::file_limit;
use crate::telemetry::logging::Logging;
use crate::telemetry::{AccessLog, Telemetry};
use crate::transport::{self, bound_buffers};
use crate::workload::source::{DirectorySource, Published, Publisher};

/// By what right this agent is the node's.
enum Right {
    /// No other is running.
    Lock(NodeLock),
    /// The one that is running hands over.
    Heritage(Heritage),
}

/// An agent that is wired and does not capture anything yet.
struct Wired {
    agent: Agent,
    reconciler: Reconciler,
    published: Published,
    first_pass: watch::Sender<bool>,
    doors: Doors,
}

/// What answers people, machines and successors.
struct Doors {
    listeners: admin::Listeners,
    watch: Watch,
    giver: Giver,
}

/// Starts an agent.
///
/// # Errors
///
/// What kept it from starting. A running agent that was to be replaced then goes on.
pub(super) async fn start(config: Config, lanes: Lanes, take_over: bool) -> anyhow::Result<Agent> {
    let access = AccessLog::open(&config.access_log).context("cannot open the access log")?;
    let telemetry = Telemetry::new(access);
    let logging = Logging::start(&config.log, &telemetry.metrics)?;
    let begun = if take_over {
        Taking::begin(&config).await?
    } else {
        None
    };
    let Some((taking, handed)) = begun else {
        let right = Right::Lock(NodeLock::acquire(&config.capture)?);
        let listeners = admin::Listeners::open(&ports(&config))?;
        return Ok(wire(config, lanes, (telemetry, logging), (right, listeners))?.open());
    };
    let wired = listeners(&config, handed.ports).and_then(|listeners| {
        let right = Right::Heritage(handed.heritage);
        wire(config, lanes, (telemetry, logging), (right, listeners))
    });
    match wired {
        Ok(wired) => wired.take_over(taking).await,
        Err(error) => {
            taking.give_up(format!("{error:#}")).await;
            Err(error)
        }
    }
}

/// The node's own ports, as far as possible those of the running agent.
fn listeners(config: &Config, open: Vec<TcpListener>) -> anyhow::Result<admin::Listeners> {
    Ok(admin::Listeners::take_over(&ports(config), open)?)
}

/// Checks and wires everything.
fn wire(
    config: Config,
    lanes: Lanes,
    (telemetry, logging): (Telemetry, Logging),
    (right, listeners): (Right, admin::Listeners),
) -> anyhow::Result<Wired> {
    let identities = Arc::new(identities(&config)?);
    let shared = listeners.share().context("cannot share the node's ports")?;
    let mut capture = match right {
        Right::Lock(lock) => Capture::start_locked(config.capture.clone(), lock)?,
        Right::Heritage(heritage) => Capture::take_over(config.capture.clone(), heritage)?,
    };
    let kernel_log = capture.debug_log()?;
    let publisher = Publisher::new(config.mesh.clone());
    let published = publisher.published();
    let source = DirectorySource::new(config.manifests.clone(), config.mesh.clone(), publisher);
    let transport = Arc::new(config.transport.clone());
    bound_buffers(transport.max_buffered);
    let (direct, events) =
        DirectPath::open(capture.direct()).context("cannot follow same-node connections")?;
    let shared_by_all = (&identities, lanes, &telemetry);
    let plane = plane(&published, &transport, shared_by_all, direct);
    let (first_pass, passed) = watch::channel(false);
    let enrolled = Enrolled::default();
    let watch = Watch {
        config: config.clone(),
        started: Timestamp::now(),
        published: published.clone(),
        plane: Arc::clone(&plane),
        observer: capture.observer(),
        enrolled: enrolled.clone(),
        passed: passed.clone(),
    };
    let (control, connections, tunnels) = (Tasks::new(), Tasks::new(), Tasks::new());
    follow_authority(identities, &control);
    follow_mesh(&plane, (published.clone(), passed), events, &control);
    control.spawn("leisure", leisure::run(Arc::clone(&plane), control.clone()));
    control.spawn_vital("manifests", source.run(control.clone()));
    follow_kernel_log(kernel_log, &control);
    let (giver, petitions) = Giver::new(Arc::clone(&config.mesh.node));
    let (succession, replaced) = succession(petitions, shared);
    let reconciler = Reconciler {
        plane,
        transport,
        bounds: Bounds::new(config.max_connections, file_limit()),
        capture,
        turn: 0,
        tasks: connections.clone(),
        tunnels: tunnels.clone(),
        enrolled,
        predecessor: None,
        succession,
        rejected: None,
        unsettled: false,
    };
    let agent = Agent {
        config,
        doors: control.child(),
        control,
        data: connections,
        tunnels,
        telemetry,
        logging,
        replaced,
    };
    Ok(Wired {
        agent,
        reconciler,
        published,
        first_pass,
        doors: Doors {
            listeners,
            watch,
            giver,
        },
    })
}

fn identities(config: &Config) -> anyhow::Result<Identities> {
    let ca = FollowedCa::open_or_create(
        &config.identity.ca_directory,
        &config.mesh.trust_domain,
        SystemTime::now(),
    )?;
    let identities = Identities::new(Arc::new(ca), config.identity.svid_lifetime);
    identities.trust_aliases(&config.mesh.trust_domain, &config.mesh.trust_domain_aliases);
    Ok(identities)
}

/// Renews what its issuer gives out, and follows that one.
fn follow_authority(identities: Arc<Identities>, control: &Tasks) {
    let following = Arc::clone(&identities).follow(control.clone());
    control.spawn_vital("authority", following);
    control.spawn_vital("identities", identities.run(control.clone()));
}

fn plane(
    published: &Published,
    transport: &Arc<transport::Config>,
    (identities, lanes, telemetry): (&Arc<Identities>, Lanes, &Telemetry),
    direct: DirectPath,
) -> Arc<Plane> {
    Arc::new(Plane {
        mesh: published.shared(),
        server: transport::Server::new(Arc::clone(transport), identities),
        identities: Arc::clone(identities),
        lanes,
        telemetry: telemetry.clone(),
        registry: Registry::new(),
        direct: Arc::new(direct),
        connect_timeout: transport.connect_timeout,
    })
}

/// Takes verdicts again, and tells what the kernel carries, as the mesh changes.
fn follow_mesh(
    plane: &Arc<Plane>,
    (published, passed): (Published, watch::Receiver<bool>),
    events: Events,
    control: &Tasks,
) {
    let checking = recheck::run(Arc::clone(plane), published.clone(), control.clone());
    control.spawn_vital("re-check", checking);
    let followed = direct::run(
        Arc::clone(plane),
        events,
        (published, passed),
        control.clone(),
    );
    control.spawn_vital("same node", followed);
}

fn follow_kernel_log(log: Option<DebugLog>, control: &Tasks) {
    let Some(log) = log else {
        return;
    };
    let stopping = control.clone();
    control.spawn("kernel log", async move {
        tokio::select! {
            () = stopping.stopping() => {}
            () = log.run() => {}
        }
    });
}

fn succession(
    petitions: mpsc::Receiver<Petition>,
    ports: super::succession::Ports,
) -> (Succession, watch::Receiver<bool>) {
    let (replaced, is_replaced) = watch::channel(false);
    let succession = Succession {
        petitions,
        ports,
        replaced,
    };
    (succession, is_replaced)
}

impl Wired {
    /// Begins to serve a node that nobody serves.
    fn open(self) -> Agent {
        self.doors.open(&self.agent);
        let reconciling = self.reconciler.run(self.published, self.first_pass);
        self.agent.control.spawn_vital("reconciler", reconciling);
        self.agent.has_started("started");
        self.agent
    }

    /// Begins to serve beside a running agent, and waits until the node is this one's alone.
    async fn take_over(mut self, taking: Taking) -> anyhow::Result<Agent> {
        let (settled, outcome) = oneshot::channel();
        let plane = Arc::clone(&self.reconciler.plane);
        let word = LastWord::default();
        self.reconciler.predecessor = Some(Predecessor {
            taking,
            settled,
            word: word.clone(),
        });
        let reconciling = self.reconciler.run(self.published, self.first_pass);
        self.agent.control.spawn_vital("reconciler", reconciling);
        let mut outcome = pin!(outcome);
        let outcome = match tokio::time::timeout(FIRST_PASS, outcome.as_mut()).await {
            Err(_elapsed) if word.take() => Err(TakeOverError::NotConfigured),
            // It is being settled in this moment; that has limits of its own.
            Err(_elapsed) => outcome.await.unwrap_or(Err(TakeOverError::Stopping)),
            Ok(outcome) => outcome.unwrap_or(Err(TakeOverError::Stopping)),
        };
        if let Err(error) = outcome {
            plane.direct.leave();
            // What it has accepted meanwhile is carried to its end. The sockets are not its own.
            self.agent.stop(Ended::Replaced).await;
            return Err(error.into());
        }
        // The node is this one's alone now: whatever fails from here on must not end it.
        self.doors.open(&self.agent);
        self.agent.has_started("took over");
        Ok(self.agent)
    }
}

impl Doors {
    fn open(self, agent: &Agent) {
        let state = self.watch.provide(agent.logging.clone());
        self.listeners.serve(state, &agent.doors);
        self.giver.serve(&agent.config.run_folder, &agent.doors);
    }
}
