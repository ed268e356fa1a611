//! Workloads that share the host's network namespace and are known by their cgroup.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use interceptor::capture::Counter;
use interceptor::net::Namespace;
use interceptor::workload::{Binding, Workload};
use nix::sched::{CloneFlags, setns};

use crate::support::{
    Netns, Node, accept, bound, cgroup_mount, close, connected, given_to_the_agent, may_run, spawn,
};

/// A cgroup of its own, with a child, removed when dropped.
struct Cgroup {
    path: PathBuf,
    binding: PathBuf,
}

impl Cgroup {
    fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let binding = PathBuf::from(format!("ic-test-{}-{number}", std::process::id()));
        let path = cgroup_mount().join(&binding);
        fs::create_dir_all(path.join("nested")).unwrap();
        Self { path, binding }
    }

    fn nested(&self) -> PathBuf {
        self.path.join("nested")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let nested = fs::remove_dir(self.nested());
        let removed = fs::remove_dir(&self.path);
        assert!(std::thread::panicking() || (nested.is_ok() && removed.is_ok()));
    }
}

/// A process of the calling thread's network namespace in `cgroup` that connects and waits for
/// its input to close.
fn connect_from(cgroup: &Path, to: &str) -> Child {
    let (host, port) = to.rsplit_once(':').unwrap();
    let script = format!(
        "echo $$ > {}/cgroup.procs && echo ready && exec 3<>/dev/tcp/{host}/{port} && read -r _",
        cgroup.display()
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script]).stdin(Stdio::piped());
    spawn(&mut command)
}

fn stop(mut child: Child) {
    close(child.stdin.take());
    child.wait().unwrap();
}

fn workload(cgroup: &Cgroup) -> Workload {
    let addresses = vec!["10.77.0.2".parse().unwrap()];
    bound(Binding::Cgroup(cgroup.binding.clone()), addresses)
}

/// Moves the calling thread into `netns`, which then is the host's namespace to an agent there.
fn become_host(netns: &Netns) {
    setns(&netns.namespace, CloneFlags::CLONE_NEWNET).unwrap();
    assert_eq!(
        Namespace::current().unwrap().cookie(),
        netns.namespace.cookie()
    );
}

#[test]
fn its_connections_are_captured_by_cgroup_and_nobody_elses_are() {
    if !may_run() {
        return;
    }
    let (host, peer) = connected();
    let server = peer.listen("10.77.0.1:9000");
    let other = Cgroup::new();
    let cgroup = Cgroup::new();
    // A thread of its own: it stays in the namespace that plays the host.
    let run = move || {
        become_host(&host);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let node = Node::new();
            let mut capture = node.start();
            let workload = workload(&cgroup);
            let enrolled = capture.enrol(&workload).unwrap();
            for from in [cgroup.path.clone(), cgroup.nested()] {
                let child = connect_from(&from, "192.0.2.1:443");
                let (stream, _) = accept(&enrolled.listeners.outbound).await;
                let destination = enrolled.origin.outbound(&stream).unwrap();
                assert_eq!(destination, "192.0.2.1:443".parse().unwrap());
                drop(stream);
                stop(child);
            }
            assert_eq!(capture.counters().of(Counter::Captured), 2);

            let child = connect_from(&other.path, "10.77.0.1:9000");
            server.accept().unwrap();
            assert_eq!(given_to_the_agent(&capture), 2);
            stop(child);

            capture.unenrol(&workload.id).unwrap();
            let child = connect_from(&cgroup.path, "10.77.0.1:9000");
            server.accept().unwrap();
            stop(child);
            drop(enrolled);
            let status = capture.status();
            assert!(
                status
                    .maps
                    .iter()
                    .all(|it| it.name == "FLOWS" || it.entries == 0)
            );
            assert_eq!(status.programs.len(), 10);
        });
        drop(cgroup);
    };
    std::thread::spawn(run).join().unwrap();
}

#[test]
fn the_root_cgroup_is_nobodys() {
    if !may_run() {
        return;
    }
    let node = Node::new();
    let workload = bound(Binding::Cgroup(PathBuf::from("/")), Vec::new());
    let error = node.start().enrol(&workload).unwrap_err();
    assert_eq!(error.reason(), "cgroup");
}
