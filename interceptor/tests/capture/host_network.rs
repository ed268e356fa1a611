//! Workloads that share the host's network namespace and are known by their cgroup.

use std::path::PathBuf;

use interceptor::capture::Counter;
use interceptor::net::Namespace;
use interceptor::workload::{Binding, Workload};
use nix::sched::{CloneFlags, setns};

use crate::cgroups::{Cgroup, connect_from, stop};
use crate::support::{Netns, Node, accept, bound, connected, given_to_the_agent, may_run};

fn workload(cgroup: &Cgroup) -> Workload {
    let addresses = vec!["10.77.0.2".parse().unwrap()];
    bound(Binding::Cgroup(cgroup.binding.clone()), addresses)
}

/// Moves the calling thread into `netns`, which then is the host's namespace to an agent there.
pub(crate) fn become_host(netns: &Netns) {
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
