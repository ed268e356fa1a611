//! The process: the only place that wires configuration, tasks and shutdown.
//!
//! ```text
//!  control runtime: manifests · certificates · reconciler · re-check · administration · metrics
//!  lanes:           listeners · connections · carriers
//! ```
//!
//! Threads of their own for each, so that a slow scrape, a large update or a burst of certificates
//! never delays a connection.
//!
//! # Invariants
//!
//! * Nothing is attached before everything that can be checked was checked: the ports, the
//!   certificate authority, the log files.
//! * An agent that is replaced by a running successor stops accepting only when that one accepts.
//! * Stopping leaves the kernel programs pinned and the ports of enrolled workloads closed. Only
//!   `interceptor uninstall` opens them.
//!
//! Not here: what any of the parts does.

mod leisure;
mod reconcile;
mod start;
mod status;
mod succession;
mod take_over;

use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin;
use crate::config::Config;
use crate::drain::Tasks;
use crate::lanes::Lanes;
use crate::telemetry::Telemetry;
use crate::telemetry::logging::Logging;

/// Threads for everything but connections: the scrape and the sources are never busy for long.
const CONTROL_THREADS: usize = 2;

/// How long the control tasks may take to end, after the connections have.
const CONTROL_DEADLINE: Duration = Duration::from_secs(2);

/// How to start and to end besides what the configuration says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// Take over from the agent of this node that is running, if one is.
    pub take_over: bool,
    /// When replaced, wait to be asked to stop.
    pub wait_when_replaced: bool,
}

/// Why the agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By SIGTERM or SIGINT.
    Asked,
    /// Another agent has taken over.
    Replaced,
}

/// Runs the agent until it is asked to stop by SIGTERM or SIGINT, or another takes over, and
/// drains.
///
/// # Errors
///
/// What kept it from starting, with the remedy.
pub fn run(config: Config, manner: Manner) -> anyhow::Result<Ended> {
    crate::net::raise_file_limit();
    listen_to_signals()?;
    let control = control()?;
    let (lanes, threads) = Lanes::start(lanes()).context("cannot start the data plane")?;
    let ended = control.block_on(serve(config, manner, &lanes));
    threads.end(CONTROL_DEADLINE);
    control.shutdown_timeout(CONTROL_DEADLINE);
    ended
}

async fn serve(config: Config, manner: Manner, lanes: &Lanes) -> anyhow::Result<Ended> {
    let agent = tokio::select! {
        agent = start::start(config, lanes.clone(), manner.take_over) => agent?,
        lost = lanes.lost() => return Err(lost.into()),
    };
    let ended = tokio::select! {
        ended = agent.until_the_end() => ended,
        lost = lanes.lost() => Err(lost.into()),
    };
    // Whatever ended it: what has been recorded is what people will ask for.
    agent.flush();
    let ended = ended?;
    if ended == Ended::Replaced && manner.wait_when_replaced {
        tracing::info!("replaced; waiting to be stopped");
        wait_for_signal().await?;
    }
    Ok(ended)
}

/// A running agent.
struct Agent {
    config: Config,
    control: Tasks,
    /// Of these, what one agent of a node does and no two: answering people, machines and
    /// successors, reading the kernel's events.
    doors: Tasks,
    /// Listeners and connections.
    data: Tasks,
    /// Tunnels to peers, which connections open as long as there are any.
    tunnels: Tasks,
    telemetry: Telemetry,
    logging: Logging,
    replaced: watch::Receiver<bool>,
}

impl Agent {
    /// Serves until it is asked to stop or replaced, and drains.
    async fn until_the_end(&self) -> anyhow::Result<Ended> {
        let mut replaced = self.replaced.clone();
        let ended = tokio::select! {
            // Some tasks end when one of these has begun.
            biased;
            signal = wait_for_signal() => {
                tracing::info!(signal = signal?, "stopping");
                Ended::Asked
            }
            Ok(_yes) = replaced.wait_for(|it| *it) => {
                // Its successor answers from here on.
                self.doors.stop();
                tracing::info!(deadline = ?self.config.drain_deadline, "replaced by a successor; open connections may end");
                Ended::Replaced
            }
            lost = self.control.lost() => return Err(lost.into()),
            lost = self.data.lost() => return Err(lost.into()),
        };
        tokio::select! {
            () = self.stop(ended) => {}
            again = self.asked_again(ended) => tracing::warn!(signal = again?, "stopping at once"),
        }
        Ok(ended)
    }

    /// Waits for a signal that ends the draining: the second one. A replaced agent has not had its
    /// first.
    async fn asked_again(&self, ended: Ended) -> anyhow::Result<&'static str> {
        if ended == Ended::Replaced {
            let signal = wait_for_signal().await?;
            tracing::info!(signal, "stopping already");
        }
        wait_for_signal().await
    }

    fn has_started(&self, how: &'static str) {
        let mesh = &self.config.mesh;
        tracing::info!(node = %mesh.node, trust_domain = %mesh.trust_domain, "{how}");
    }

    /// Stops accepting, lets connections end until the deadline, then ends everything. A second
    /// signal ends the waiting.
    async fn stop(&self, ended: Ended) {
        let cut = self.data.finish(self.config.drain_deadline).await;
        self.tunnels.finish(CONTROL_DEADLINE).await;
        if ended == Ended::Asked {
            self.remove_sockets();
        }
        let left = self.control.finish(CONTROL_DEADLINE).await;
        tracing::info!(
            cut,
            left,
            "stopped; the ports of enrolled workloads stay closed"
        );
    }

    /// Removes the files of the sockets. Only while nobody else can have put theirs there: the
    /// node's lock goes with the control tasks.
    fn remove_sockets(&self) {
        for path in [
            self.config.socket(),
            take_over::socket(&self.config.run_folder),
        ] {
            if let Err(error) = admin::remove_socket(&path) {
                tracing::warn!(path = %path.display(), %error, "a socket's file stays behind");
            }
        }
    }

    /// Waits until what has been logged is written.
    fn flush(&self) {
        self.telemetry.access.flush(CONTROL_DEADLINE);
        self.logging.flush(CONTROL_DEADLINE);
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

/// Threads of the data plane: as many as there are cores. Connections do not cross them, so more
/// threads cost nothing but their stacks, and fewer would leave a core's worth of connections
/// waiting behind another's (docs/decisions/transport.md).
fn lanes() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2))
}

fn control() -> anyhow::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder
        .enable_all()
        .thread_name("control")
        .worker_threads(CONTROL_THREADS);
    builder.build().context("cannot start the control threads")
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
