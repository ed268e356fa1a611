//! A pod: a network namespace with addresses of its own behind a node's namespace.
//!
//! Applications are threads that enter it ([`Pod::serve`], [`Pod::run`]); clients are sockets made
//! inside it ([`Pod::connect`]) and used from the test's thread.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::apps::{App, Server};
use crate::manifests;
use crate::netns::NetNs;
use crate::wait::PATIENCE;

/// How long a connect may take before the test calls it hanging.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// A pod. Its namespace is removed when this value is dropped.
#[derive(Debug)]
pub struct Pod {
    name: String,
    addresses: Vec<IpAddr>,
    namespace: NetNs,
    node: String,
}

impl Pod {
    pub(crate) fn new(name: &str, addresses: Vec<IpAddr>, namespace: NetNs, node: &str) -> Self {
        Self {
            name: name.to_owned(),
            addresses,
            namespace,
            node: node.to_owned(),
        }
    }

    /// Its name, also in manifests.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace.
    pub const fn namespace(&self) -> &NetNs {
        &self.namespace
    }

    /// Its addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> IpAddr {
        self.address(IpAddr::is_ipv4)
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> IpAddr {
        self.address(IpAddr::is_ipv6)
    }

    fn address(&self, wanted: impl Fn(&IpAddr) -> bool) -> IpAddr {
        self.addresses
            .iter()
            .copied()
            .find(wanted)
            .unwrap_or(Ipv4Addr::UNSPECIFIED.into())
    }

    /// A port at its IPv4 address.
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.v4(), port).into()
    }

    /// A port at its IPv6 address.
    pub fn at6(&self, port: u16) -> SocketAddr {
        (self.v6(), port).into()
    }

    /// The manifest of this pod: namespace `demo`, service account and label `app` as its name,
    /// bound to its network namespace, on its node.
    pub fn manifest(&self) -> manifests::Pod {
        manifests::Pod::new(&self.name, &self.node, &self.addresses)
            .network_namespace(&self.namespace.path())
    }

    /// Runs a closure inside the pod.
    ///
    /// # Errors
    ///
    /// Fails if the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespace.run(work)
    }

    /// Starts an application that listens on a port at all of the pod's addresses.
    ///
    /// # Errors
    ///
    /// Fails if the port is taken.
    pub fn serve(&self, port: u16, app: impl App) -> Result<Server> {
        Server::start(&self.namespace, port, app)
    }

    /// Connects from inside the pod. Reads and writes have a deadline so that nothing hangs.
    ///
    /// # Errors
    ///
    /// Returns what the application would see.
    pub fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        connect_in(&self.namespace, to)
    }

    /// Connects, sends, ends its own direction, and reads to the end.
    ///
    /// # Errors
    ///
    /// Returns what the application would see.
    pub fn call(&self, to: SocketAddr, message: impl AsRef<[u8]>) -> io::Result<Vec<u8>> {
        let mut stream = self.connect(to)?;
        stream.write_all(message.as_ref())?;
        // After a reset there is nothing to shut down; reading tells what happened.
        if let Err(error) = stream.shutdown(Shutdown::Write)
            && error.kind() != io::ErrorKind::NotConnected
        {
            return Err(error);
        }
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    }

    /// [`Pod::call`] for text.
    ///
    /// # Errors
    ///
    /// Fails if the call does, or if the answer is not text.
    pub fn ask(&self, to: SocketAddr, message: &str) -> Result<String> {
        let answer = self
            .call(to, message)
            .with_context(|| format!("{} calls {to}", self.name))?;
        Ok(String::from_utf8(answer)?)
    }
}

/// Connects from inside a namespace, with deadlines on reads and writes.
pub(crate) fn connect_in(namespace: &NetNs, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = namespace
        .run(|| TcpStream::connect_timeout(&to, CONNECT_TIMEOUT))
        .map_err(io::Error::other)??;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}
