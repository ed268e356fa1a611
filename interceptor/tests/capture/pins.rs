//! Pins that are taken away, and links that are detached, while the agent runs.
//!
//! Root can do that, by accident as well: a BPF file system that is unmounted, a cleaning job.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use interceptor::capture::{Capture, CaptureError, Enrolled, Loss, Lost};
use nix::mount::{MntFlags, umount2};
use rstest::rstest;

use crate::support::{
    Netns, Node, PEER_V4, V4, V6, accept, close, connected, is_refused, may_run, workload,
};

/// Everything that an agent of `node` has pinned.
fn folder(node: &Node) -> PathBuf {
    node.config
        .bpffs
        .join("interceptor")
        .join(&node.config.node)
}

fn links(capture: &Capture) -> Vec<(String, u32)> {
    let programs = capture.status().programs;
    programs.into_iter().map(|it| (it.name, it.link)).collect()
}

/// Both directions of a workload lead to the agent.
async fn is_captured((pod, peer): (&Netns, &Netns), enrolled: &Enrolled) {
    let _app = pod.dial("192.0.2.1:443").unwrap();
    accept(&enrolled.listeners.outbound).await;
    let _client = peer.dial("10.77.0.2:9000").unwrap();
    accept(&enrolled.listeners.inbound).await;
}

fn is_closed((pod, peer): (&Netns, &Netns)) {
    assert!(is_refused(pod.dial("192.0.2.1:443")));
    assert!(is_refused(peer.dial("10.77.0.2:9000")));
}

/// Everything of the node's folder, as a cleaning job would do it.
fn everything(node: &Node) {
    fs::remove_dir_all(folder(node)).unwrap();
}

/// The links only.
fn links_only(node: &Node) {
    let layout = fs::read_dir(folder(node)).unwrap().next().unwrap().unwrap();
    for link in fs::read_dir(layout.path().join("links")).unwrap() {
        fs::remove_file(link.unwrap().path()).unwrap();
    }
}

#[rstest]
#[case::everything(everything)]
#[case::links_only(links_only)]
#[tokio::test]
async fn pins_that_are_removed_take_nothing_with_them_and_come_back(#[case] take: fn(&Node)) {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let _app = pod.listen("[::]:9000");
    let node = Node::new();
    let workload = workload(&pod, &[V4, V6]);
    let mut capture = node.start();
    let enrolled = capture.enrol(&workload).unwrap();
    assert_eq!(capture.look_after(), []);
    let before = links(&capture);

    take(&node);
    is_captured((&pod, &peer), &enrolled).await;
    let losses = capture.look_after();
    assert!(losses.iter().any(|it| it.lost == Lost::Pin), "{losses:?}");
    assert!(losses.iter().all(|it| it.error.is_none()), "{losses:?}");
    assert_eq!(links(&capture), before, "the links that were held");
    assert_eq!(capture.look_after(), []);
    assert!(capture.observer().losses().standing.is_empty());
    assert_eq!(capture.observer().losses().interrupted, None);

    close((enrolled, capture));
    is_closed((&pod, &peer));
    let mut capture = node.start();
    assert_eq!(links(&capture), before, "adopted");
    is_closed((&pod, &peer));
    let enrolled = capture.enrol(&workload).unwrap();
    is_captured((&pod, &peer), &enrolled).await;
}

#[tokio::test]
async fn a_workload_that_goes_after_its_pins_leaves_no_trace() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let server = peer.listen(&format!("{PEER_V4}:9000"));
    let node = Node::new();
    let workload = workload(&pod, &[V4, V6]);
    let mut capture = node.start_in(&peer);
    let enrolled = capture.enrol(&workload).unwrap();
    links_only(&node);
    capture.unenrol(&workload.id).unwrap();
    close(enrolled);
    let _app = pod.dial(&format!("{PEER_V4}:9000")).unwrap();
    server.accept().unwrap();
}

/// A node whose pins are in a file system of its own.
struct OwnFileSystem(Node);

impl OwnFileSystem {
    fn new() -> Self {
        let mut node = Node::new();
        node.config.bpffs = std::env::temp_dir().join(format!("bpf-{}", node.config.node));
        Self(node)
    }

    fn unmount(&self) {
        umount2(&self.0.config.bpffs, MntFlags::MNT_DETACH).unwrap();
    }
}

impl Drop for OwnFileSystem {
    fn drop(&mut self) {
        let removed = interceptor::capture::uninstall(&self.0.config);
        self.unmount();
        fs::remove_dir(&self.0.config.bpffs).unwrap();
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

#[tokio::test]
async fn a_file_system_that_is_unmounted_is_mounted_again() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let own = OwnFileSystem::new();
    let workload = workload(&pod, &[V4, V6]);
    let mut capture = own.0.start();
    let enrolled = capture.enrol(&workload).unwrap();
    own.unmount();
    is_captured((&pod, &peer), &enrolled).await;

    let losses = capture.look_after();
    assert_eq!(losses.first().map(|it| it.lost), Some(Lost::Folder));
    assert!(losses.iter().all(|it| it.error.is_none()), "{losses:?}");
    assert_eq!(capture.look_after(), []);
    let second = Capture::start(own.0.config.clone()).err().unwrap();
    assert!(second.to_string().contains("is running"), "{second}");
    close((enrolled, capture));
    is_closed((&pod, &peer));
}

/// The permissions of what is there, and its owner.
fn access(path: &Path) -> (u32, u32) {
    let found = fs::metadata(path).unwrap();
    (found.mode() & 0o777, found.uid())
}

#[tokio::test]
async fn nobody_else_can_lock_the_node_or_pin_there() {
    if !may_run() {
        return;
    }
    let own = OwnFileSystem::new();
    let (file_system, node) = (&own.0.config.bpffs, folder(&own.0));
    let all = [file_system.as_path(), node.parent().unwrap(), &node];
    close(own.0.start());
    let root = nix::unistd::geteuid().as_raw();
    for folder in all {
        assert_eq!(access(folder), (0o700, root), "{}", folder.display());
    }
    // As an earlier version left them.
    for folder in all {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    }
    close(own.0.start());
    for folder in &all[1..] {
        assert_eq!(access(folder), (0o700, root), "{}", folder.display());
    }
}

#[rstest]
#[case::the_node(0)]
#[case::the_one_above(1)]
#[tokio::test]
async fn a_folder_that_another_user_has_made_is_refused(#[case] above: usize) {
    if !may_run() {
        return;
    }
    let own = OwnFileSystem::new();
    close(own.0.start());
    let node = folder(&own.0);
    let folder = node.ancestors().nth(above).unwrap();
    std::os::unix::fs::chown(folder, Some(65_534), None).unwrap();
    let error = Capture::start(own.0.config.clone()).err().unwrap();
    assert!(matches!(error, CaptureError::Foreign { .. }), "{error}");
    assert!(error.to_string().starts_with(folder.to_str().unwrap()));
}

#[tokio::test]
async fn an_agent_that_lost_its_node_to_another_leaves_that_ones_pins_alone() {
    if !may_run() {
        return;
    }
    let node = Node::new();
    let mut first = node.start();
    everything(&node);
    let second = node.start();
    let theirs = links(&second);
    let losses = first.look_after();
    assert!(
        matches!(&*losses, [Loss { lost: Lost::Folder, error: Some(error), .. }] if error.contains("is running")),
        "{losses:?}"
    );
    assert_eq!(first.look_after(), [], "told once");
    assert_eq!(first.observer().losses().standing.len(), 1);
    assert_eq!(links(&second), theirs);
    close(first);
    close(second);
}

#[repr(C)]
struct Name {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Opens what is pinned here.
fn open(pin: &Path) -> OwnedFd {
    const OBJ_GET: libc::c_int = 7;
    let path = CString::new(pin.as_os_str().as_bytes()).unwrap();
    let name = Name {
        path: u64::try_from(path.as_ptr().expose_provenance()).unwrap(),
        fd: 0,
        flags: 0,
    };
    // SAFETY: the attributes and the path in them outlive the call.
    let link = unsafe { libc::syscall(libc::SYS_bpf, OBJ_GET, &raw const name, 16) };
    let link = i32::try_from(link).unwrap();
    assert!(link >= 0);
    // SAFETY: nobody else has the descriptor.
    unsafe { OwnedFd::from_raw_fd(link) }
}

/// Detaches what is pinned here, as `bpftool link detach` does.
fn detach(pin: &Path) {
    const LINK_DETACH: libc::c_int = 34;
    let link = open(pin);
    let attributes = link.as_raw_fd();
    // SAFETY: the attributes are one open descriptor.
    let detached = unsafe { libc::syscall(libc::SYS_bpf, LINK_DETACH, &raw const attributes, 4) };
    assert_eq!(detached, 0);
}

/// Puts the program with this id behind what is pinned here.
fn replace(pin: &Path, program: u32) {
    const PROG_GET_FD_BY_ID: libc::c_int = 13;
    const LINK_UPDATE: libc::c_int = 29;
    let wanted = [program, 0, 0];
    // SAFETY: the attributes outlive the call.
    let program = unsafe { libc::syscall(libc::SYS_bpf, PROG_GET_FD_BY_ID, &raw const wanted, 12) };
    let program = i32::try_from(program).unwrap();
    assert!(program >= 0);
    // SAFETY: nobody else has the descriptor.
    let program = unsafe { OwnedFd::from_raw_fd(program) };
    let link = open(pin);
    let attributes = [link.as_raw_fd(), program.as_raw_fd(), 0, 0];
    // SAFETY: the attributes are two open descriptors and no pointer.
    let updated = unsafe { libc::syscall(libc::SYS_bpf, LINK_UPDATE, &raw const attributes, 16) };
    assert_eq!(updated, 0);
}

#[tokio::test]
async fn a_program_that_takes_the_place_of_ours_has_it_for_a_second() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let (node, stranger) = (Node::new(), Node::new());
    let mut capture = node.start();
    let enrolled = capture.enrol(&workload(&pod, &[V4, V6])).unwrap();
    let other = stranger.start();
    let connect4 = |capture: &Capture| {
        let mut programs = capture.status().programs.into_iter();
        let found = programs.find(|it| it.pinned.ends_with("ic_connect4"));
        found.map(|it| (it.pinned, it.id)).unwrap()
    };
    let (pin, ours) = connect4(&capture);
    // It knows none of our workloads and lets everything pass.
    replace(&pin, connect4(&other).1);
    let losses = capture.look_after();
    let loss = Loss {
        lost: Lost::Program,
        pin,
        error: None,
    };
    assert_eq!(losses, [loss]);
    assert_eq!(connect4(&capture).1, ours);
    is_captured((&pod, &peer), &enrolled).await;
    close(other);
}

#[rstest]
#[case::of_the_cgroup_root("ic_connect4")]
#[case::of_a_workload("namespace_")]
#[case::of_an_interface("guard_")]
#[tokio::test]
async fn a_link_that_is_detached_is_attached_again_and_told(#[case] name: &str) {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let node = Node::new();
    let mut capture = node.start_in(&peer);
    let enrolled = capture.enrol(&workload(&pod, &[V4, V6])).unwrap();
    let before = capture.status().programs.len();
    let programs = capture.status().programs.into_iter();
    let mut pins = programs.map(|it| it.pinned);
    let is_it = |pin: &PathBuf| pin.file_name().unwrap().to_str().unwrap().starts_with(name);
    let pin = pins.find(is_it).unwrap();

    detach(&pin);
    let losses = capture.look_after();
    assert_eq!(
        losses,
        [Loss {
            lost: Lost::Attachment,
            pin,
            error: None
        }]
    );
    assert_eq!(capture.look_after(), []);
    assert!(capture.observer().losses().interrupted.is_some());
    assert_eq!(capture.status().programs.len(), before);
    is_captured((&pod, &peer), &enrolled).await;
}

/// An interface that goes takes its guard with it, and nobody is to blame.
#[tokio::test]
async fn an_interface_that_is_replaced_is_guarded_again() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let node = Node::new();
    let mut capture = node.start_in(&peer);
    let _enrolled = capture.enrol(&workload(&pod, &[V4, V6])).unwrap();
    let guards = |capture: &Capture| -> Vec<_> {
        let programs = capture.status().programs.into_iter();
        let guards = programs.filter(|it| it.name == "ic_guard");
        guards.map(|it| it.attached_to).collect()
    };
    let before = guards(&capture);
    assert_eq!(before.len(), 1);
    pod.disconnect();
    pod.connect(&["10.77.0.2/24"], &peer, &["10.77.0.1/24"]);
    assert_eq!(capture.look_after(), []);
    let after = guards(&capture);
    assert_eq!(after.len(), 1);
    assert_ne!(after, before);
}
