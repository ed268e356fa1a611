//! Workloads whose owners prefer plaintext to refusal while the agent is down.

use interceptor::capture::{Counter, Unserved};
use interceptor::workload::{OnAgentDown, Workload};

use crate::support::{
    Netns, Node, PEER_V4, V4, V6, accept, close, connected, is_refused, may_run, workload,
};

fn open_workload(pod: &Netns) -> Workload {
    let mut workload = workload(pod, &[V4, V6]);
    workload.capture.on_agent_down = OnAgentDown::AllowPlaintext;
    workload
}

#[tokio::test]
async fn without_an_agent_connections_go_where_they_are_headed_and_are_counted() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let (server, app) = (peer.listen("[::]:9000"), pod.listen("[::]:9001"));
    let node = Node::new();
    let workload = open_workload(&pod);
    let mut capture = node.start();
    let enrolled = capture.enrol(&workload).unwrap();

    // As long as it runs, everything is its own.
    let _captured = pod.dial(&format!("{PEER_V4}:9000")).unwrap();
    accept(&enrolled.listeners.outbound).await;
    let _steered = peer.dial(&format!("{V4}:9001")).unwrap();
    accept(&enrolled.listeners.inbound).await;
    let observer = capture.observer();
    assert_eq!(observer.counters().of(Counter::PassedAgentDown), 0);
    close((capture, enrolled));

    for to in [format!("{PEER_V4}:9000"), "[fd77::1]:9000".to_owned()] {
        let client = pod.dial(&to).unwrap();
        let (_stream, from) = server.accept().unwrap();
        assert_eq!(from.port(), client.local_addr().unwrap().port());
    }
    let _inbound = peer.dial(&format!("{V4}:9001")).unwrap();
    app.accept().unwrap();
    // No application speaks HBONE, and nobody else's listener may be taken for it.
    assert!(is_refused(peer.dial(&format!("{V4}:15008"))));
    assert_eq!(observer.counters().of(Counter::PassedAgentDown), 2);
    assert_eq!(observer.counters().of(Counter::InboundPassedAgentDown), 1);

    // The next agent knows what passed, and nothing passes any more.
    let mut capture = node.start();
    let enrolled = capture.enrol(&workload).unwrap();
    let passed = Unserved {
        outbound: 2,
        inbound: 1,
    };
    assert_eq!(capture.status().workloads[0].unserved, Some(passed));
    let _captured = pod.dial(&format!("{PEER_V4}:9000")).unwrap();
    accept(&enrolled.listeners.outbound).await;
}

#[tokio::test]
async fn an_owner_who_changes_their_mind_is_heard() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let _server = peer.listen("10.77.0.1:9000");
    let node = Node::new();
    let mut workload = open_workload(&pod);
    let mut capture = node.start();
    let enrolled = capture.enrol(&workload).unwrap();
    workload.capture.on_agent_down = OnAgentDown::Refuse;
    capture.update(&workload).unwrap();
    assert_eq!(capture.status().workloads[0].unserved, None);
    close((capture, enrolled));
    assert!(is_refused(pod.dial("10.77.0.1:9000")));
    assert!(is_refused(peer.dial("10.77.0.2:9000")));
}
