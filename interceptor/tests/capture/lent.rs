//! Sockets that are used by somebody else than who made them, and threads that go elsewhere with
//! theirs: from namespace to namespace, and from cgroup to cgroup.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{fs, thread};

use interceptor::capture::{Capture, Counter, Enrolled};
use interceptor::net::Namespace;
use interceptor::workload::{Binding, UdpRule};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use rstest::rstest;
use socket2::{Domain, Protocol, Socket, Type};

use crate::cgroups::{Cgroup, stop};
use crate::evasion::{Cell, TARGET, address, tcp};
use crate::host_network::become_host;
use crate::support::{Node, accept, bound, connected, fork, given_to_the_agent, may_run, workload};

#[tokio::test]
async fn a_socket_that_was_handed_out_is_captured() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    // Made in the workload, used by a thread of another namespace.
    let socket = handed_over(tcp(&cell.pod.namespace, TARGET));
    connect_in(&cell.peer.namespace, &socket, TARGET).unwrap();
    cell.has_captured(socket, TARGET).await;
}

#[rstest]
#[case::ipv4("10.77.0.1:9000")]
#[case::ipv6("[fd77::1]:9000")]
#[case::loopback_of_its_namespace("127.0.0.1:9000")]
#[case::the_workload_itself("10.77.0.2:9000")]
#[tokio::test]
async fn a_socket_that_was_handed_in_is_refused(#[case] to: &str) {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let server = cell.peer.listen("[::]:9000");
    let socket = handed_over(tcp(&cell.peer.namespace, to));
    // Whose it is may use it as before.
    let others = cell.count(Counter::NotEnrolled);
    let own = tcp(&cell.peer.namespace, "10.77.0.1:9000");
    connect_in(&cell.peer.namespace, &own, "10.77.0.1:9000").unwrap();
    server.accept().unwrap();
    assert!(cell.count(Counter::NotEnrolled) > others);
    assert_eq!(cell.count(Counter::RefusedLentSocket), 0);

    let refused = connect_in(&cell.pod.namespace, &socket, to).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    let send = || socket.send_to_with_flags(b"a", &address(to), libc::MSG_FASTOPEN);
    let refused = in_namespace(&cell.pod.namespace, send).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    assert_eq!(cell.count(Counter::RefusedLentSocket), 2);
    server.set_nonblocking(true).unwrap();
    assert!(server.accept().is_err());
    assert_eq!(given_to_the_agent(&cell.capture), 0);
}

#[tokio::test]
async fn datagrams_of_a_socket_that_was_handed_in_keep_to_the_rule_of_its_user() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let node = Node::new();
    let mut capture = node.start();
    let mut workload = workload(&pod, &["10.77.0.2"]);
    workload.capture.udp = UdpRule::DenyQuic;
    let _enrolled = capture.enrol(&workload).unwrap();
    let open = || UdpSocket::bind("0.0.0.0:0");
    let socket = peer.namespace.enter(open).unwrap();
    for to in ["10.77.0.1:443", "127.0.0.1:443"] {
        let send = || socket.send_to(b"x", to);
        let refused = in_namespace(&pod.namespace, send).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        in_namespace(&peer.namespace, send).unwrap();
    }
    assert_eq!(capture.counters().of(Counter::RefusedQuic), 2);
}

#[tokio::test]
async fn a_thread_that_went_to_another_namespace_is_captured_with_its_old_socket() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let socket = tcp(&cell.pod.namespace, TARGET);
    connect_in(&cell.peer.namespace, &socket, TARGET).unwrap();
    cell.has_captured(socket, TARGET).await;
}

/// Who makes a socket in the host's namespace, and who connects it: the workload, something that is
/// nested in it, or somebody else.
#[derive(Clone, Copy)]
enum Who {
    Workload,
    Nested,
    Other,
}

#[rstest]
#[case::of_somebody_else(Who::Other, Who::Workload)]
#[case::of_somebody_else_to_a_nested_one(Who::Other, Who::Nested)]
#[case::of_its_own_from_a_nested_one(Who::Nested, Who::Workload)]
#[test]
fn a_socket_that_was_handed_to_the_cgroup_of_a_workload_is_captured(
    #[case] maker: Who,
    #[case] user: Who,
) {
    if !may_run() {
        return;
    }
    on_a_host(move |host| {
        let child = host.hand_over(maker, user, TARGET).unwrap();
        let (stream, _) = host
            .runtime
            .block_on(accept(&host.enrolled.listeners.outbound));
        let destination = host.enrolled.origin.outbound(&stream).unwrap();
        assert_eq!(destination, TARGET.parse().unwrap());
        assert_eq!(host.count(Counter::Captured), 1);
        assert_eq!(host.count(Counter::RefusedLentSocket), 0);
        stop(child);
    });
}

#[rstest]
#[case::its_own(Who::Workload)]
#[case::of_a_nested_one(Who::Nested)]
#[test]
fn a_socket_that_was_handed_out_of_the_cgroup_of_a_workload_is_refused(#[case] maker: Who) {
    if !may_run() {
        return;
    }
    on_a_host(move |host| {
        let refused = host.hand_over(maker, Who::Other, SERVER).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        assert_eq!(host.count(Counter::RefusedLentSocket), 1);
        // What was never a workload's is nobody's business.
        let child = host.hand_over(Who::Other, Who::Other, SERVER).unwrap();
        stop(child);
        assert_eq!(host.count(Counter::RefusedLentSocket), 1);
        assert_eq!(given_to_the_agent(&host.capture), 0);
    });
}

/// Where somebody listens who is not enrolled.
const SERVER: &str = "10.77.0.1:9000";

/// A host with a workload that is known by its cgroup.
struct Host {
    runtime: tokio::runtime::Runtime,
    enrolled: Enrolled,
    capture: Capture,
    _node: Node,
    cgroup: Cgroup,
    other: Cgroup,
}

/// Does something on a thread whose namespace is that of a host.
fn on_a_host(what: impl FnOnce(&Host) + Send + 'static) {
    let (namespace, peer) = connected();
    let _server = peer.listen(SERVER);
    let run = move || {
        become_host(&namespace);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        let (cgroup, other) = (Cgroup::new(), Cgroup::new());
        let binding = Binding::Cgroup(cgroup.binding.clone());
        let workload = bound(binding, vec!["10.77.0.2".parse().unwrap()]);
        let node = Node::new();
        let mut capture = node.start();
        let enrolled = runtime.block_on(async { capture.enrol(&workload).unwrap() });
        what(&Host {
            runtime,
            enrolled,
            capture,
            _node: node,
            cgroup,
            other,
        });
    };
    thread::spawn(run).join().unwrap();
}

impl Host {
    fn count(&self, counter: Counter) -> u64 {
        self.capture.counters().of(counter)
    }

    fn cgroup(&self, who: Who) -> PathBuf {
        match who {
            Who::Workload => self.cgroup.path.clone(),
            Who::Nested => self.cgroup.nested(),
            Who::Other => self.other.path.clone(),
        }
    }

    /// Has one process make a socket and another one connect it, which then lives until it is stopped.
    fn hand_over(&self, maker: Who, user: Who, to: &str) -> io::Result<Child> {
        let (giver, taker) = UnixStream::pair()?;
        let to = address(to);
        let make = || Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP));
        let mut command = Command::new("true");
        before_it_runs(&mut command, &self.cgroup(maker), move || {
            give(&giver, &make()?);
            Ok(())
        });
        fork(&mut command)?.wait()?;
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        before_it_runs(&mut command, &self.cgroup(user), move || {
            let socket = take(&taker);
            socket.connect(&to)?;
            socket.set_cloexec(false)?;
            let _kept = socket.into_raw_fd();
            Ok(())
        });
        fork(&mut command)
    }
}

/// Has a process do something in `cgroup` before its program runs.
fn before_it_runs(
    command: &mut Command,
    cgroup: &Path,
    mut what: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    let file = cgroup.join("cgroup.procs");
    let run = move || {
        fs::write(&file, "0")?;
        what()
    };
    // SAFETY: what it does needs no lock that another thread of this process could hold.
    unsafe { command.pre_exec(run) };
}

/// Connects a socket on a thread that is in `namespace`.
fn connect_in(namespace: &Namespace, socket: &Socket, to: &str) -> io::Result<()> {
    in_namespace(namespace, || socket.connect(&address(to)))
}

/// Does something on a thread that is in `namespace`.
fn in_namespace<T: Send>(
    namespace: &Namespace,
    what: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    thread::scope(|scope| scope.spawn(|| namespace.enter(what)).join().unwrap())
}

/// Passes a socket through another one, as from process to process.
fn handed_over(socket: Socket) -> Socket {
    let (giver, taker) = UnixStream::pair().unwrap();
    give(&giver, &socket);
    drop(socket);
    take(&taker)
}

/// Sends a socket to whoever has the other end.
fn give(giver: &UnixStream, socket: &Socket) {
    let descriptors = [socket.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let byte = [IoSlice::new(b"x")];
    sendmsg::<()>(giver.as_raw_fd(), &byte, &rights, MsgFlags::empty(), None).unwrap();
}

/// Takes what was sent.
fn take(taker: &UnixStream) -> Socket {
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut byte = [0];
    let mut buffer = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(taker.as_raw_fd(), &mut buffer, Some(&mut space), flags).unwrap();
    let Some(ControlMessageOwned::ScmRights(received)) = received.cmsgs().unwrap().next() else {
        panic!("no descriptor arrived");
    };
    // SAFETY: the kernel just gave this descriptor to us and to nobody else.
    Socket::from(unsafe { OwnedFd::from_raw_fd(received[0]) })
}
