//! Network namespaces, applications and nodes for the capture tests, removed when dropped.

use std::future::poll_fn;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use interceptor::capture::{Capture, Config, Counter, uninstall, verify_removed};
use interceptor::net::Namespace;
use interceptor::workload::{
    Binding, CaptureRules, Enrolment, SameNode, TunnelProtocol, UnknownDestinations, Workload,
    WorkloadId,
};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener as TokioListener, TcpStream as TokioStream};

/// The addresses of the workload in [`connected`].
pub(crate) const V4: &str = "10.77.0.2";
/// The addresses of the workload in [`connected`].
pub(crate) const V6: &str = "fd77::2";
/// The address of the peer in [`connected`].
pub(crate) const PEER_V4: &str = "10.77.0.1";

/// How long an application of a test waits before it calls something broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Whether tests that cannot run here fail.
pub(crate) fn is_required() -> bool {
    std::env::vars().any(|(name, value)| name == "INTERCEPTOR_E2E" && value == "require")
}

/// Whether tests that need root run. They say so if not, and fail where they must run.
pub(crate) fn may_run() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(
        !is_required(),
        "these tests need root, and INTERCEPTOR_E2E=require is set"
    );
    #[expect(clippy::print_stderr, reason = "a skipped test must say so")]
    {
        eprintln!("SKIPPED: needs root");
    }
    false
}

/// A number that no other test of this run has.
fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A child has copies of every descriptor until its program runs. Nothing may be closed meanwhile
/// whose closing matters.
static FORKING: Mutex<()> = Mutex::new(());

/// Starts a program and waits for the first line that it prints.
pub(crate) fn spawn(command: &mut Command) -> Child {
    let _forking = FORKING.lock();
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let stdout = child.stdout.as_mut().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    child
}

/// Starts a program.
pub(crate) fn fork(command: &mut Command) -> io::Result<Child> {
    let _forking = FORKING.lock();
    command.spawn()
}

/// Closes something for good.
pub(crate) fn close<T>(it: T) {
    let _not_forking = FORKING.lock();
    drop(it);
}

/// Runs `ip` and expects it to succeed.
fn ip(arguments: &str) {
    let _forking = FORKING.lock();
    let mut command = Command::new("ip");
    let output = command.args(arguments.split(' ')).output().unwrap();
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

    /// A namespace as `ip netns add` leaves it.
    pub(crate) fn with_loopback_down() -> Self {
        let netns = Self::new("down");
        netns.set_loopback("down");
        netns
    }

    /// Takes its loopback interface `down`, or `up` again.
    pub(crate) fn set_loopback(&self, state: &str) {
        ip(&format!("-n {} link set lo {state}", self.name));
    }

    /// Has it answer every SYN with a cookie, as under a flood.
    pub(crate) fn force_syn_cookies(&self) {
        let file = "/proc/sys/net/ipv4/tcp_syncookies";
        let write = || std::fs::write(file, "2");
        self.namespace.enter(write).unwrap();
    }

    /// Leaves no port on loopback to those who ask for any, until [`Self::free_ports`].
    pub(crate) fn take_ports(&self) -> [TcpListener; 2] {
        self.set_ports("40000 40001");
        ["127.0.0.1:40000", "127.0.0.1:40001"].map(|at| self.listen(at))
    }

    /// Gives ports to everybody again.
    pub(crate) fn free_ports(&self, taken: [TcpListener; 2]) {
        close(taken);
        self.set_ports("32768 60999");
    }

    fn set_ports(&self, range: &str) {
        let file = "/proc/sys/net/ipv4/ip_local_port_range";
        let write = || std::fs::write(file, range);
        self.namespace.enter(write).unwrap();
    }

    /// Has it forward packets between its interfaces.
    pub(crate) fn route_between(&self) {
        let write = || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        };
        self.namespace.enter(write).unwrap();
    }

    /// Has it use TCP Fast Open at both ends.
    pub(crate) fn enable_fast_open(&self) {
        let write = || std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3");
        self.namespace.enter(write).unwrap();
    }

    /// Drops whatever would be forwarded to this address, without a word.
    pub(crate) fn drop_everything_to(&self, address: &str) {
        ip(&format!("-n {} route add blackhole {address}", self.name));
    }

    /// Forwards to these addresses again.
    pub(crate) fn drop_nothing(&self, addresses: &[&str]) {
        for address in addresses {
            ip(&format!("-n {} route del blackhole {address}", self.name));
        }
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
            for address in addresses {
                netns.wait_for(address);
            }
        }
    }

    /// Takes its interface away.
    pub(crate) fn disconnect(&self) {
        ip(&format!("-n {} link del {}", self.name, self.interface()));
    }

    /// Takes packets from wherever they come.
    pub(crate) fn accept_any_source(&self) {
        let write = || {
            std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0")?;
            std::fs::write("/proc/sys/net/ipv4/conf/default/rp_filter", "0")
        };
        self.namespace.enter(write).unwrap();
    }

    /// The names of its interfaces besides loopback, the oldest first.
    fn interfaces(&self) -> Vec<String> {
        let here = || Ok(nix::net::if_::if_nameindex()?);
        let all = self.namespace.enter(here).unwrap();
        let names = all.iter().map(|it| it.name().to_string_lossy());
        let names = names.filter(|name| name.starts_with('e'));
        names.map(std::borrow::Cow::into_owned).collect()
    }

    /// The name of its interface, the first one besides loopback.
    pub(crate) fn interface(&self) -> String {
        self.interfaces().remove(0)
    }

    /// The number and the hardware address of its interface.
    pub(crate) fn hardware(&self) -> (u32, [u8; 6]) {
        self.hardware_of(&self.interface())
    }

    /// The same of the interface that it got last.
    pub(crate) fn newest_hardware(&self) -> (u32, [u8; 6]) {
        self.hardware_of(&self.interfaces().pop().unwrap())
    }

    fn hardware_of(&self, name: &str) -> (u32, [u8; 6]) {
        let here = || {
            let all = nix::ifaddrs::getifaddrs()?;
            let mut links = all.filter(|it| it.interface_name == name);
            Ok(links.find_map(|it| {
                let link = *it.address?.as_link_addr()?;
                Some((u32::try_from(link.ifindex()).ok()?, link.addr()?))
            }))
        };
        self.namespace.enter(here).unwrap().unwrap()
    }

    /// Sends everything that it has no route for to this address.
    pub(crate) fn default_route(&self, via: &str) {
        ip(&format!("-n {} route add default via {via}", self.name));
    }

    /// Sends what is for this address by way of that one.
    pub(crate) fn route(&self, to: &str, via: &str) {
        ip(&format!("-n {} route add {to} via {via}", self.name));
    }

    /// Waits until the kernel has made a route to an address that was just given; it does so a
    /// moment later for IPv6.
    fn wait_for(&self, address: &str) {
        let (address, _prefix) = address.split_once('/').unwrap();
        let address: IpAddr = address.parse().unwrap();
        let reach = || {
            let any = if address.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            UdpSocket::bind(any)?.connect((address, 9))
        };
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.namespace.enter(reach) {
            // A workload that may not send datagrams cannot ask like this.
            if error.kind() == io::ErrorKind::PermissionDenied {
                return;
            }
            assert!(Instant::now() < deadline, "{address}: {error}");
            std::thread::yield_now();
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

    /// Listens inside, as an application would. A listener that was closed just now may be open for a
    /// moment more, in a child that another test is starting.
    pub(crate) fn listen(&self, at: &str) -> TcpListener {
        let at: SocketAddr = at.parse().unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            match self.namespace.enter(|| TcpListener::bind(at)) {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until =>
                {
                    std::thread::yield_now();
                }
                listener => return listener.unwrap(),
            }
        }
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

    /// Starts the agent in this namespace: it is the host's, as far as the agent is concerned.
    pub(crate) fn start_in(&self, host: &Netns) -> Capture {
        host.namespace.enter(|| Ok(self.start())).unwrap()
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

/// Where cgroup2 is mounted.
pub(crate) fn cgroup_mount() -> PathBuf {
    let candidates = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let found = candidates
        .iter()
        .find(|it| Path::new(it).join("cgroup.controllers").exists());
    PathBuf::from(found.expect("no cgroup2 mount"))
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
        labels: Arc::default(),
        node: None,
        ports: Arc::default(),
        protocol: TunnelProtocol::Hbone,
        enrolment: Enrolment::Enrolled,
        healthy: true,
        capture: CaptureRules::default(),
        binding: Some(binding),
        unknown_destinations: UnknownDestinations::default(),
        same_node: SameNode::default(),
        canonical: Arc::default(),
    }
}

/// A workload's namespace, connected to a peer's.
pub(crate) fn connected() -> (Netns, Netns) {
    let (pod, peer) = (Netns::new("pod"), Netns::new("peer"));
    pod.connect(
        &["10.77.0.2/24", "fd77::2/64"],
        &peer,
        &["10.77.0.1/24", "fd77::1/64"],
    );
    (pod, peer)
}

/// Accepts from whichever of the listeners has a connection.
pub(crate) async fn accept(listeners: &[Arc<TokioListener>]) -> (TokioStream, SocketAddr) {
    let any = poll_fn(|context| {
        for listener in listeners {
            if let Poll::Ready(accepted) = listener.poll_accept(context) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    });
    let accepted = tokio::time::timeout(PATIENCE, any).await;
    accepted.expect("no connection arrived").unwrap()
}

/// How many connections the kernel gave to the agent's listeners.
pub(crate) fn given_to_the_agent(capture: &Capture) -> u64 {
    let counters = capture.counters();
    [
        Counter::AssignedOutbound,
        Counter::SteeredInbound,
        Counter::SteeredHbone,
    ]
    .into_iter()
    .map(|it| counters.of(it))
    .sum()
}

/// Has a listener take TCP Fast Open.
pub(crate) fn accept_fast_open(listener: &TcpListener) {
    let queue: libc::c_int = 16;
    // No safe wrapper has the option.
    // SAFETY: the descriptor is open, and the value is a number of that length.
    let set = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN,
            (&raw const queue).cast(),
            4,
        )
    };
    assert_eq!(set, 0);
}

/// Whether a connection was refused, and not merely lost.
pub(crate) fn is_refused(result: io::Result<TcpStream>) -> bool {
    result.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Sends a byte each way, to see that the two ends are connected.
pub(crate) async fn ping(mut app: TcpStream, mut agent: TokioStream) {
    app.set_nonblocking(false).unwrap();
    app.write_all(b"a").unwrap();
    let mut byte = [0];
    agent.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"a");
    agent.write_all(b"b").await.unwrap();
    app.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"b");
}

/// Disconnects a socket, which can then be used again.
pub(crate) fn disconnect(stream: &TcpStream) -> io::Result<()> {
    let nobody = libc::sockaddr {
        sa_family: 0, // AF_UNSPEC
        sa_data: [0; 14],
    };
    // No safe wrapper can say "unspecified".
    // SAFETY: the descriptor is open, and a sockaddr is 16 bytes long.
    let disconnected = unsafe { libc::connect(stream.as_raw_fd(), &raw const nobody, 16) };
    if disconnected != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Disconnects a socket and connects it to something else.
pub(crate) fn reconnect(stream: &TcpStream, to: SocketAddr) -> io::Result<()> {
    disconnect(stream)?;
    socket2::SockRef::from(stream).connect(&to.into())
}
