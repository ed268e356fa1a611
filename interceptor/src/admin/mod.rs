//! What the agent shows of itself: the administration interface, metrics and readiness.
//!
//! ```text
//!  unix socket (0600, root or the agent's user) ─┐
//!  127.0.0.1:15000                               ├─▶ routes ──▶ State: closures that `app` fills
//!  :15020 /metrics                               │
//!  :15021 /healthz/ready                        ─┘
//! ```
//!
//! # Invariants
//!
//! * Keys are never shown: what is served is made of views ([`Status`], [`ConnectionView`]), which
//!   have no field for one.
//! * Requests are bounded in size, time and number, so that nothing here can hold up the agent. It
//!   runs on a runtime of its own.
//! * The loopback port serves no browser: a request that names another host or comes from a web
//!   page is refused.
//!
//! Not here: what the values mean (`telemetry`), how they are printed (`cli`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::drain::Tasks;
use crate::telemetry::logging::Logging;
use crate::telemetry::shadow;
use crate::telemetry::status::Readiness;
use crate::telemetry::{ConnectionView, Status, Telemetry};
use crate::workload::Mesh;

mod body;
mod routes;
mod serve;
mod socket;

use routes::Surface;

pub(crate) use socket::{Socket, remove as remove_socket};

/// Makes a value when it is asked for.
pub type Provide<T> = Arc<dyn Fn() -> T + Send + Sync>;

/// Where the agent's state comes from. Filled by `app`; every closure must return soon.
#[derive(Clone)]
pub struct State {
    /// Everything that `interceptor status` prints.
    pub status: Provide<Status>,
    /// What is still missing. Asked by every readiness probe, so cheaper than `status`.
    pub readiness: Provide<Readiness>,
    /// Connections that are being carried.
    pub connections: Provide<Vec<ConnectionView>>,
    /// Effective configuration, workloads, services and policies, as they are in force.
    pub config: Provide<serde_json::Value>,
    /// The policies that only report, and what they said.
    pub shadows: Provide<shadow::Report>,
    /// The mesh in force, for questions about it.
    pub mesh: Provide<Arc<Mesh>>,
    /// Metrics and recent refusals.
    pub telemetry: Telemetry,
    /// The agent's log, whose level can be changed; absent where the process has none.
    pub logging: Option<Logging>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

/// Where the agent listens for people and for machines that look after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Administration. Always a loopback address.
    pub admin: SocketAddr,
    /// Metrics.
    pub metrics: SocketAddr,
    /// Readiness.
    pub readiness: SocketAddr,
    /// The unix socket of the command line.
    pub socket: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        Self {
            // ztunnel's ports, so that scrape configurations and probes keep working.
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 15000)),
            metrics: SocketAddr::from((any, 15020)),
            readiness: SocketAddr::from((any, 15021)),
            socket: PathBuf::from(DEFAULT_SOCKET),
        }
    }
}

/// Where the command line looks for the agent.
pub const DEFAULT_SOCKET: &str = "/run/interceptor/interceptor.sock";

/// Why the agent could not listen.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// A port is taken or may not be used.
    #[error(
        "cannot listen on {address} for {purpose}; see who has it with `ss -ltnp 'sport = :{}'`, \
         or choose another port with the key `{key}` of the configuration file",
        .address.port()
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What for.
        purpose: &'static str,
        /// The key that changes it.
        key: &'static str,
        /// The failed call.
        source: io::Error,
    },
    /// Administration must not be reachable from elsewhere.
    #[error(
        "ports.admin is {0}, which is not a loopback address; it serves the whole configuration to whoever asks"
    )]
    NotLoopback(SocketAddr),
    /// The unix socket cannot be made.
    #[error("cannot make the socket {path}; the agent needs to write to that folder")]
    Socket {
        /// Its path.
        path: PathBuf,
        /// The failed call.
        source: io::Error,
    },
    /// Another agent answers there.
    #[error(
        "another agent is running on {path}; give this one a run folder of its own, or stop that one"
    )]
    SocketInUse {
        /// Its path.
        path: PathBuf,
    },
}

/// Open listeners that do not answer yet.
#[derive(Debug)]
pub struct Listeners {
    admin: TcpListener,
    metrics: TcpListener,
    readiness: TcpListener,
    socket: Door,
}

/// The unix socket, open or to be opened.
#[derive(Debug)]
enum Door {
    Open(Socket),
    /// Another agent answers there, until this one serves.
    Later(PathBuf),
}

impl Listeners {
    /// Opens all listeners, so that a port that is taken is known before anything is attached.
    ///
    /// Must be called on the runtime that will serve.
    ///
    /// # Errors
    ///
    /// When a port or the socket is taken or not allowed.
    pub fn open(config: &Config) -> Result<Self, AdminError> {
        let socket = Door::Open(Socket::bind(&config.socket)?);
        Self::with(config, Vec::new(), socket)
    }

    /// Uses those of a running agent that listen where they are wanted, and opens the others. The
    /// unix socket stays that agent's until [`Listeners::serve`].
    ///
    /// # Errors
    ///
    /// As with [`Listeners::open`].
    pub fn take_over(
        config: &Config,
        open: Vec<std::net::TcpListener>,
    ) -> Result<Self, AdminError> {
        Self::with(config, open, Door::Later(config.socket.clone()))
    }

    fn with(
        config: &Config,
        mut open: Vec<std::net::TcpListener>,
        socket: Door,
    ) -> Result<Self, AdminError> {
        if !config.admin.ip().is_loopback() {
            return Err(AdminError::NotLoopback(config.admin));
        }
        let mut listen = |address, purpose, key| {
            let listener = match open.iter().position(|it| serve::listens_at(it, address)) {
                Some(index) => TcpListener::from_std(open.swap_remove(index)),
                None => serve::listen(address),
            };
            listener.map_err(|source| AdminError::Listen {
                address,
                purpose,
                key,
                source,
            })
        };
        Ok(Self {
            admin: listen(config.admin, "administration", "ports.admin")?,
            metrics: listen(config.metrics, "metrics", "ports.metrics")?,
            readiness: listen(config.readiness, "readiness", "ports.readiness")?,
            socket,
        })
    }

    /// The same ports for another process, which may go on when this one ends.
    ///
    /// # Errors
    ///
    /// When the kernel has no more descriptors.
    pub fn share(&self) -> io::Result<Vec<(SocketAddr, OwnedFd)>> {
        let all = [&self.admin, &self.metrics, &self.readiness];
        let share = |it: &TcpListener| Ok((it.local_addr()?, it.as_fd().try_clone_to_owned()?));
        all.into_iter().map(share).collect()
    }

    /// The addresses that were really bound: administration, metrics, readiness.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell.
    pub fn addresses(&self) -> io::Result<[SocketAddr; 3]> {
        Ok([
            self.admin.local_addr()?,
            self.metrics.local_addr()?,
            self.readiness.local_addr()?,
        ])
    }

    /// Answers until `tasks` are asked to stop. The socket's file stays. If the socket of another
    /// agent cannot be replaced, that is tried again.
    pub fn serve(self, state: State, tasks: &Tasks) {
        let state = Arc::new(state);
        for (listener, surface, name) in [
            (self.admin, Surface::Admin, "admin"),
            (self.metrics, Surface::Metrics, "metrics"),
            (self.readiness, Surface::Readiness, "readiness"),
        ] {
            let server = serve::Server::new(Arc::clone(&state), surface, tasks.clone());
            tasks.spawn(name, server.run(listener));
        }
        let server = serve::Server::new(state, Surface::Socket, tasks.clone());
        match self.socket {
            Door::Open(socket) => tasks.spawn("socket", server.run(socket)),
            Door::Later(path) => {
                let (socket, stopping) = (Socket::replace_at_last(path), tasks.clone());
                tasks.spawn("socket", async move {
                    let socket = tokio::select! {
                        () = stopping.stopping() => return,
                        socket = socket => socket,
                    };
                    server.run(socket).await;
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
