//! Probes: connections of a trusted cgroup in the host's network to workloads of this node.
//!
//! The agent runs in the peer's namespace, which is the host's as far as it is concerned.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use interceptor::capture::{Capture, Counter, Enrolled, Prober};
use interceptor::workload::{Binding, Workload};
use rstest::rstest;

use crate::cgroups::{Cgroup, connect_from_in, stop};
use crate::frames::Forger;
use crate::support::{
    Netns, Node, PEER_V4, V4, V6, accept, bound, connected, given_to_the_agent, may_run, workload,
};

const APP: &str = "10.77.0.2:9000";

/// An enrolled workload with an application, and a host whose prober is in `cgroup`.
struct Cell {
    app: TcpListener,
    workload: Workload,
    enrolled: Option<Enrolled>,
    capture: Option<Capture>,
    node: Node,
    cgroup: Cgroup,
    pod: Netns,
    host: Netns,
}

impl Cell {
    fn new() -> Self {
        let (pod, host) = connected();
        let cgroup = Cgroup::new();
        let mut node = Node::new();
        node.config.prober = Prober::Cgroup(cgroup.binding.clone());
        let mut cell = Self {
            app: pod.listen("[::]:9000"),
            workload: workload(&pod, &[V4, V6]),
            enrolled: None,
            capture: None,
            node,
            cgroup,
            pod,
            host,
        };
        cell.start();
        cell
    }

    fn start(&mut self) {
        let mut capture = self.node.start_in(&self.host);
        capture.follow_prober().unwrap();
        self.enrolled = Some(capture.enrol(&self.workload).unwrap());
        self.capture = Some(capture);
    }

    fn capture(&mut self) -> &mut Capture {
        self.capture.as_mut().unwrap()
    }

    fn count(&self, counter: Counter) -> u64 {
        self.capture.as_ref().unwrap().counters().of(counter)
    }

    /// A process of the host in `cgroup` gets straight to the application.
    fn is_a_probe(&self, cgroup: &Path, to: &str) {
        let before = (self.count(Counter::Probe), self.count(Counter::ProbePass));
        let child = connect_from_in(&self.host, cgroup, to);
        let (_stream, _from) = self.app.accept().unwrap();
        stop(child);
        let after = (self.count(Counter::Probe), self.count(Counter::ProbePass));
        assert_eq!(after, (before.0 + 1, before.1 + 1));
    }

    /// A process of the host in `cgroup` is a stranger, who gets to the agent.
    async fn is_a_stranger(&self, cgroup: &Path, to: &str) {
        let before = self.count(Counter::Probe);
        let child = connect_from_in(&self.host, cgroup, to);
        accept(&self.enrolled.as_ref().unwrap().listeners.inbound).await;
        stop(child);
        assert_eq!(self.count(Counter::Probe), before);
    }

    /// Waits until every flow has ended with its connection.
    fn has_no_flows(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.flows() > 0 {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    }

    /// How many flows the kernel remembers.
    fn flows(&self) -> usize {
        let status = self.capture.as_ref().unwrap().status();
        let flows = status.maps.iter().find(|map| map.name == "FLOWS");
        flows.unwrap().entries
    }
}

#[rstest]
#[case::ipv4(APP)]
#[case::ipv6("fd77::2:9000")]
#[tokio::test]
async fn only_the_probers_processes_get_past_the_agent(#[case] to: &str) {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let other = Cgroup::new();
    cell.is_a_probe(&cell.cgroup.path, to);
    cell.is_a_probe(&cell.cgroup.nested(), to);
    assert_eq!(given_to_the_agent(cell.capture.as_ref().unwrap()), 0);
    // The same address, another process.
    cell.is_a_stranger(&other.path, to).await;
    cell.has_no_flows();
}

#[tokio::test]
async fn a_prober_that_was_restarted_is_followed_and_its_old_cgroup_is_not_trusted() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.is_a_probe(&cell.cgroup.path, APP);
    cell.cgroup.replace();
    // Another cgroup, though of the same name.
    cell.is_a_stranger(&cell.cgroup.path, APP).await;
    cell.capture().follow_prober().unwrap();
    cell.is_a_probe(&cell.cgroup.path, APP);
    let trusted = cell.capture().status().prober.trusted;
    assert_eq!(trusted, [cell.cgroup.binding.clone()]);
}

#[tokio::test]
async fn a_missing_prober_is_a_problem_that_is_told() {
    if !may_run() {
        return;
    }
    let (_pod, host) = connected();
    let mut node = Node::new();
    node.config.prober = Prober::Cgroup("/system.slice/nobody.service".into());
    let mut capture = node.start_in(&host);
    capture.follow_prober().unwrap();
    let prober = capture.status().prober;
    assert!(prober.trusted.is_empty());
    assert!(prober.problem.unwrap().contains("nobody.service"));
}

#[tokio::test]
async fn a_workload_in_the_probers_cgroup_is_still_a_workload() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let listeners = &cell.enrolled.as_ref().unwrap().listeners;
    // In its own namespace the cgroup means nothing.
    let child = connect_from_in(&cell.pod, &cell.cgroup.path, "192.0.2.1:443");
    accept(&listeners.outbound).await;
    stop(child);
    // Not even to somebody else's namespace that is enrolled.
    let neighbour = Netns::new("other");
    neighbour.connect(&["10.77.1.2/24"], &cell.pod, &["10.77.1.1/24"]);
    let child = connect_from_in(&neighbour, &cell.cgroup.path, "10.77.1.1:9000");
    stop(child);
    assert_eq!(cell.count(Counter::Probe), 0);
    assert_eq!(cell.count(Counter::Captured), 1);
}

#[tokio::test]
async fn the_prober_is_nobody_to_those_who_are_not_enrolled() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let elsewhere = Netns::new("other");
    elsewhere.connect(&["10.77.2.2/24"], &cell.host, &["10.77.2.1/24"]);
    let server = elsewhere.listen("10.77.2.2:9000");
    let child = connect_from_in(&cell.host, &cell.cgroup.path, "10.77.2.2:9000");
    server.accept().unwrap();
    assert_eq!(cell.count(Counter::Probe), 0);
    assert_eq!(cell.flows(), 0);
    stop(child);
}

#[tokio::test]
async fn a_workload_that_is_bound_to_the_probers_cgroup_is_a_workload() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    let binding = Binding::Cgroup(cell.cgroup.binding.clone());
    let workload = bound(binding, vec![PEER_V4.parse().unwrap()]);
    let enrolled = cell.capture().enrol(&workload).unwrap();
    cell.capture().follow_prober().unwrap();
    let child = connect_from_in(&cell.host, &cell.cgroup.path, APP);
    accept(&enrolled.listeners.outbound).await;
    stop(child);
    assert_eq!(cell.capture().status().prober.trusted, Vec::<&Path>::new());
    // When it is gone, the cgroup is the prober's again.
    cell.capture().unenrol(&workload.id).unwrap();
    cell.capture().follow_prober().unwrap();
    cell.is_a_probe(&cell.cgroup.path, APP);
}

#[tokio::test]
async fn probes_go_on_without_the_agent_until_the_next_one_is_told_otherwise() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.enrolled = None;
    cell.capture = None;
    let child = connect_from_in(&cell.host, &cell.cgroup.path, APP);
    cell.app.accept().unwrap();
    stop(child);
    // Adopted.
    cell.start();
    assert_eq!(cell.capture().retire_unclaimed().unwrap(), 0);
    cell.is_a_probe(&cell.cgroup.path, APP);
    // Adopted by one that trusts nobody.
    cell.enrolled = None;
    cell.capture = None;
    cell.node.config.prober = Prober::None;
    cell.start();
    cell.is_a_stranger(&cell.cgroup.path, APP).await;
}

#[tokio::test]
async fn the_tuple_of_a_probe_is_no_use_to_anybody_else() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let forger = Forger::new(&cell.pod);
    let child = connect_from_in(&cell.host, &cell.cgroup.path, APP);
    let (probe, from) = cell.app.accept().unwrap();
    // While it lives, its packets belong to its own socket.
    forger.forge((PEER_V4, V4), from.port());
    // Once it is closed, the tuple opens no door. The prober closes first, so that nothing of it
    // waits on the workload's side.
    stop(child);
    drop(probe);
    cell.has_no_flows();
    let passed = cell.count(Counter::ProbePass);
    let steered = cell.count(Counter::SteeredInbound);
    forger.forge((PEER_V4, V4), from.port());
    let deadline = Instant::now() + Duration::from_secs(10);
    while cell.count(Counter::SteeredInbound) == steered {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    assert_eq!(cell.count(Counter::ProbePass), passed);
    cell.app.set_nonblocking(true).unwrap();
    assert!(cell.app.accept().is_err());
}
