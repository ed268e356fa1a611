//! The process: the only place that wires configuration, tasks and shutdown.
//!
//! ```text
//!  control runtime: manifests · certificates · reconciler · re-check · administration · metrics
//!  data runtime:    listeners · connections · carriers
//! ```
//!
//! Two runtimes, so that a slow scrape, a large update or a burst of certificates never delays a
//! connection.
//!
//! # Invariants
//!
//! * Nothing is attached before everything that can be checked was checked: the ports, the
//!   certificate authority, the log files.
//! * Stopping leaves the kernel programs pinned and the ports of enrolled workloads closed. Only
//!   `interceptor uninstall` opens them.
//!
//! Not here: what any of the parts does.

mod reconcile;
mod status;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use jiff::Timestamp;
use nix::sys::signal::{SigSet, Signal};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin;
use crate::capture::{Capture, DebugLog};
use crate::config::Config;
use crate::connection::{DirectPath, Plane, Registry, direct, recheck};
use crate::drain::Tasks;
use crate::identity::{Ca, Identities};
use crate::telemetry::logging::Logging;
use crate::telemetry::{AccessLog, Telemetry};
use crate::transport;
use crate::workload::source::{DirectorySource, Publisher};
use reconcile::{Enrolled, Reconciler};
use status::Watch;

/// Threads for everything but connections: the scrape and the sources are never busy for long.
const CONTROL_THREADS: usize = 2;

/// How long the control tasks may take to end, after the connections have.
const CONTROL_DEADLINE: Duration = Duration::from_secs(2);

/// Runs the agent until it is asked to stop by SIGTERM or SIGINT, and drains.
///
/// # Errors
///
/// What kept it from starting, with the remedy.
pub fn run(config: Config) -> anyhow::Result<()> {
    crate::net::raise_file_limit();
    listen_to_signals()?;
    let control = runtime("control", Some(CONTROL_THREADS))?;
    let data = runtime("data", None)?;
    let stopped = control.block_on(async {
        let agent = Agent::start(config, data.handle().clone())?;
        let signal = wait_for_signal().await?;
        tracing::info!(signal, "stopping");
        tokio::select! {
            () = agent.stop() => {}
            again = wait_for_signal() => tracing::warn!(signal = again?, "stopping at once"),
        }
        agent.flush();
        anyhow::Ok(())
    });
    data.shutdown_timeout(CONTROL_DEADLINE);
    control.shutdown_timeout(CONTROL_DEADLINE);
    stopped
}

/// A running agent.
struct Agent {
    config: Config,
    control: Tasks,
    data: Tasks,
    telemetry: Telemetry,
    logging: Logging,
}

impl Agent {
    fn start(config: Config, data: Handle) -> anyhow::Result<Self> {
        let access = AccessLog::open(&config.access_log).context("cannot open the access log")?;
        let telemetry = Telemetry::new(access);
        let logging = Logging::start(&config.log, &telemetry.metrics)?;
        let listeners = admin::Listeners::open(&ports(&config))?;
        let identities = identities(&config)?;
        let mut capture = Capture::start(config.capture.clone())?;
        let kernel_log = capture.debug_log()?;

        let (direct, events) =
            DirectPath::open(capture.direct()).context("cannot follow same-node connections")?;
        let publisher = Publisher::new(config.mesh.clone());
        let published = publisher.published();
        let source = DirectorySource::new(config.manifests.clone(), config.mesh.clone(), publisher);
        let transport = Arc::new(config.transport.clone());
        let plane = Arc::new(Plane {
            mesh: published.shared(),
            server: transport::Server::new(Arc::clone(&transport), &identities),
            identities: Arc::clone(&identities),
            telemetry: telemetry.clone(),
            registry: Registry::new(),
            direct: Arc::new(direct),
            connect_timeout: config.transport.connect_timeout,
        });
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

        let control = Tasks::new();
        let connections = Tasks::new();
        listeners.serve(watch.provide(logging.clone()), &control);
        control.spawn("identities", identities.run(control.clone()));
        let checking = recheck::run(Arc::clone(&plane), published.clone(), control.clone());
        control.spawn("re-check", checking);
        let followed = direct::run(
            Arc::clone(&plane),
            events,
            (published.clone(), passed),
            control.clone(),
        );
        control.spawn("same node", followed);
        control.spawn("manifests", source.run(control.clone()));
        if let Some(log) = kernel_log {
            control.spawn("kernel log", until_stopped(control.clone(), log));
        }
        let reconciler = Reconciler {
            plane,
            transport,
            capture,
            data,
            tasks: connections.clone(),
            enrolled,
        };
        control.spawn("reconciler", reconciler.run(published, first_pass));
        tracing::info!(node = %config.mesh.node, trust_domain = %config.mesh.trust_domain, "started");
        Ok(Self {
            config,
            control,
            data: connections,
            telemetry,
            logging,
        })
    }

    /// Stops accepting, lets connections end until the deadline, then ends everything. A second
    /// signal ends the waiting.
    async fn stop(&self) {
        let cut = self.data.finish(self.config.drain_deadline).await;
        let left = self.control.finish(CONTROL_DEADLINE).await;
        tracing::info!(
            cut,
            left,
            "stopped; the ports of enrolled workloads stay closed"
        );
    }

    /// Waits until what has been logged is written.
    fn flush(&self) {
        self.telemetry.access.flush(CONTROL_DEADLINE);
        self.logging.flush(CONTROL_DEADLINE);
    }
}

/// The identities of this node, from the embedded CA.
fn identities(config: &Config) -> anyhow::Result<Arc<Identities>> {
    let (identity, mesh) = (&config.identity, &config.mesh);
    let now = SystemTime::now();
    let ca = Ca::open_or_create(&identity.ca_directory, &mesh.trust_domain, now)?;
    let identities = Identities::new(Arc::new(ca), identity.svid_lifetime);
    identities.trust_aliases(&mesh.trust_domain, &mesh.trust_domain_aliases);
    Ok(Arc::new(identities))
}

/// Shows what the kernel programs log.
async fn until_stopped(tasks: Tasks, log: DebugLog) {
    tokio::select! {
        () = tasks.stopping() => {}
        () = log.run() => {}
    }
}

/// Where the agent listens on its node.
fn ports(config: &Config) -> admin::Config {
    let mut ports = admin::Config {
        socket: config.socket(),
        ..admin::Config::default()
    };
    ports.admin.set_port(config.node_ports.admin);
    ports.metrics.set_port(config.node_ports.metrics);
    ports.readiness.set_port(config.node_ports.readiness);
    ports
}

fn runtime(name: &'static str, threads: Option<usize>) -> anyhow::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().thread_name(name);
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    builder
        .build()
        .with_context(|| format!("cannot start the {name} threads"))
}

/// Whoever started the agent may have blocked signals, which a child inherits; it could not be
/// asked to stop. Call before any thread is started: threads inherit, too.
fn listen_to_signals() -> anyhow::Result<()> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    signals
        .thread_unblock()
        .context("cannot unblock SIGTERM and SIGINT")
}

/// Waits for a signal that asks the agent to stop; returns its name.
async fn wait_for_signal() -> anyhow::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
