//! Network namespaces, applications and nodes for the capture tests, removed when dropped.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use interceptor::capture::{Capture, Config, uninstall, verify_removed};
use interceptor::net::Namespace;
use interceptor::workload::{
    Binding, Canonical, CaptureRules, Enrolment, TunnelProtocol, UnknownDestinations, Workload,
    WorkloadId,
};

/// How long an application of a test waits before it calls something broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether tests that need root run. They say so if not, and fail where they must run.
pub(crate) fn may_run() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let required =
        std::env::vars().any(|(name, value)| name == "INTERCEPTOR_E2E" && value == "require");
    assert!(
        !required,
        "these tests need root, and INTERCEPTOR_E2E=require is set"
    );
    eprintln!("SKIPPED: needs root");
    false
}

/// A number that no other test of this run has.
fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Runs `ip` and expects it to succeed.
fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {stderr}");
}

/// A network namespace, deleted when dropped.
pub(crate) struct Netns {
    pub(crate) name: String,
    pub(crate) namespace: Namespace,
}

impl Netns {
    /// A namespace with its loopback interface up.
    pub(crate) fn new(role: &str) -> Self {
        let name = format!("ic{}-{}-{role}", std::process::id(), unique());
        ip(&format!("netns add {name}"));
        ip(&format!("-n {name} link set lo up"));
        let namespace = Namespace::open(&path(&name)).unwrap();
        Self { name, namespace }
    }

    /// Where it is named.
    pub(crate) fn path(&self) -> PathBuf {
        path(&self.name)
    }

    /// Gives it an interface with these addresses, connected to `other`.
    pub(crate) fn connect(&self, ours: &[&str], other: &Self, theirs: &[&str]) {
        let (here, there) = (format!("e{}", unique()), format!("e{}", unique()));
        ip(&format!(
            "link add {here} netns {} type veth peer name {there} netns {}",
            self.name, other.name
        ));
        for (netns, link, addresses) in [(self, here, ours), (other, there, theirs)] {
            for address in addresses {
                let nodad = if address.contains(':') { " nodad" } else { "" };
                ip(&format!(
                    "-n {} addr add {address} dev {link}{nodad}",
                    netns.name
                ));
            }
            ip(&format!("-n {} link set {link} up", netns.name));
        }
    }

    /// Connects from inside, as an application would.
    pub(crate) fn dial(&self, to: &str) -> io::Result<TcpStream> {
        let to: SocketAddr = to.parse().unwrap();
        let stream = self
            .namespace
            .enter(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Listens inside, as an application would.
    pub(crate) fn listen(&self, at: &str) -> TcpListener {
        let at: SocketAddr = at.parse().unwrap();
        self.namespace.enter(|| TcpListener::bind(at)).unwrap()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.name));
    }
}

fn path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// A node of its own on this machine, uninstalled and verified when dropped.
pub(crate) struct Node {
    pub(crate) config: Config,
}

impl Node {
    pub(crate) fn new() -> Self {
        let node = format!("test-{}-{}", std::process::id(), unique());
        let config = Config {
            node,
            ..Config::default()
        };
        Self { config }
    }

    pub(crate) fn start(&self) -> Capture {
        Capture::start(self.config.clone()).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let removed = uninstall(&self.config);
        if !std::thread::panicking() {
            removed.unwrap();
            // Programs of other tests' nodes come and go meanwhile; ours is the folder.
            let left = verify_removed(&self.config).unwrap();
            let ours = |it: &_| matches!(it, interceptor::capture::Leftover::Pinned(_));
            assert!(!left.iter().any(ours), "{left:?}");
        }
    }
}

/// A workload in `netns` with these addresses that has everything captured.
pub(crate) fn workload(netns: &Netns, addresses: &[&str]) -> Workload {
    bound(
        Binding::NetworkNamespace(netns.path()),
        addresses.iter().map(|it| it.parse().unwrap()).collect(),
    )
}

/// A workload that is bound to this.
pub(crate) fn bound(binding: Binding, addresses: Vec<IpAddr>) -> Workload {
    let name = format!("workload-{}", unique());
    Workload {
        id: WorkloadId {
            namespace: Arc::from("default"),
            name: Arc::from(name),
        },
        identity: "spiffe://cluster.local/ns/default/sa/test".parse().unwrap(),
        addresses,
        labels: std::collections::BTreeMap::new(),
        node: None,
        ports: std::collections::BTreeMap::new(),
        protocol: TunnelProtocol::Hbone,
        enrolment: Enrolment::Enrolled,
        healthy: true,
        capture: CaptureRules::default(),
        binding: Some(binding),
        unknown_destinations: UnknownDestinations::default(),
        canonical: Canonical::default(),
    }
}

/// Sends a byte and reads one, to see that the two ends are connected.
pub(crate) fn ping(mut from: &TcpStream, mut to: &TcpStream) {
    from.write_all(b"x").unwrap();
    let mut byte = [0];
    to.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
}
