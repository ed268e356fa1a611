//! Agents that go and come back, workloads that are enrolled and un-enrolled, and nodes that are
//! taken off the machine.

use std::collections::HashSet;
use std::net::TcpStream;

use interceptor::capture::{Capture, CaptureError, Counter, EnrolError, Enrolled, Leftover};
use interceptor::capture::{still_held, uninstall, verify_removed};
use interceptor::workload::{PortSelection, Workload};

use crate::support::{
    Netns, Node, V4, V6, accept, close, connected, is_refused, may_run, ping, workload,
};

/// Ends an agent as SIGKILL would: the kernel closes what it had open.
fn kill(capture: Capture, enrolled: Enrolled) {
    close((enrolled, capture));
}

/// One captured connection, to see that capture works.
async fn use_it(pod: &Netns, enrolled: &Enrolled) -> (TcpStream, tokio::net::TcpStream) {
    let app = pod.dial("192.0.2.1:443").unwrap();
    let (stream, _) = accept(&enrolled.listeners.outbound).await;
    let destination = enrolled.origin.outbound(&stream).unwrap();
    assert_eq!(destination, "192.0.2.1:443".parse().unwrap());
    (app, stream)
}

/// An enrolled workload.
fn enrol(node: &Node, workload: &Workload) -> (Capture, Enrolled) {
    let mut capture = node.start();
    let enrolled = capture.enrol(workload).unwrap();
    (capture, enrolled)
}

#[tokio::test]
async fn an_agent_that_is_killed_leaves_its_ports_closed() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let _app = pod.listen("[::]:9000");
    let node = Node::new();
    let (capture, enrolled) = enrol(&node, &workload(&pod, &[V4, V6]));
    let observer = capture.observer();
    kill(capture, enrolled);

    assert!(is_refused(pod.dial("192.0.2.1:443")));
    assert!(is_refused(pod.dial("[2001:db8::1]:443")));
    assert!(is_refused(peer.dial("10.77.0.2:9000")));
    assert!(is_refused(peer.dial("[fd77::2]:9000")));
    assert!(is_refused(peer.dial("10.77.0.2:15008")));
    assert_eq!(observer.counters().of(Counter::RefusedAgentDown), 5);
}

#[tokio::test]
async fn an_agent_that_comes_back_adopts_what_is_pinned() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let node = Node::new();
    let workload = workload(&pod, &[V4, V6]);
    let (capture, enrolled) = enrol(&node, &workload);
    let attached = |capture: &Capture| -> (Vec<_>, HashSet<u32>) {
        let all = capture.status().programs.into_iter();
        all.map(|it| ((it.name, it.link), it.id)).unzip()
    };
    let (links, programs) = attached(&capture);
    assert_eq!(links.len(), 11, "{links:?}");
    kill(capture, enrolled);

    let (capture, enrolled) = enrol(&node, &workload);
    let (same, new) = attached(&capture);
    assert_eq!(same, links, "links are kept");
    assert!(new.is_disjoint(&programs), "all programs are replaced");
    use_it(&pod, &enrolled).await;
    let _client = peer.dial("10.77.0.2:9000").unwrap();
    accept(&enrolled.listeners.inbound).await;
}

#[tokio::test]
async fn a_workload_that_nobody_claims_stays_closed_until_it_is_retired() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let server = peer.listen("10.77.0.1:9000");
    let node = Node::new();
    let (capture, enrolled) = enrol(&node, &workload(&pod, &[V4, V6]));
    kill(capture, enrolled);

    let mut capture = node.start();
    assert!(is_refused(pod.dial("10.77.0.1:9000")));
    assert_eq!(capture.retire_unclaimed().unwrap(), 1);
    let _app = pod.dial("10.77.0.1:9000").unwrap();
    server.accept().unwrap();
    assert!(
        capture
            .status()
            .maps
            .iter()
            .all(|it| it.name == "FLOWS" || it.entries == 0)
    );
}

#[tokio::test]
async fn a_workload_that_was_replaced_meanwhile_keeps_its_address() {
    if !may_run() {
        return;
    }
    let node = Node::new();
    let (old, _old_peer) = connected();
    let (capture, enrolled) = enrol(&node, &workload(&old, &[V4]));
    kill(capture, enrolled);

    let (new, new_peer) = connected();
    let (mut capture, enrolled) = enrol(&node, &workload(&new, &[V4]));
    assert_eq!(capture.retire_unclaimed().unwrap(), 1);
    let _client = new_peer.dial("10.77.0.2:9000").unwrap();
    accept(&enrolled.listeners.inbound).await;
}

#[tokio::test]
async fn un_enrolling_leaves_no_trace() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let (server, app) = (peer.listen("10.77.0.1:9000"), pod.listen("10.77.0.2:9000"));
    let node = Node::new();
    let workload = workload(&pod, &[V4, V6]);
    let (mut capture, enrolled) = enrol(&node, &workload);
    let ends = use_it(&pod, &enrolled).await;
    capture.unenrol(&workload.id).unwrap();
    close((enrolled, ends));

    let client = pod.dial("10.77.0.1:9000").unwrap();
    let (_stream, from) = server.accept().unwrap();
    assert_eq!(from, client.local_addr().unwrap());
    let _inbound = peer.dial("10.77.0.2:9000").unwrap();
    app.accept().unwrap();
    let status = capture.status();
    assert!(
        status.maps.iter().all(|it| it.entries == 0),
        "{:?}",
        status.maps
    );
    assert_eq!(status.programs.len(), 10, "the cgroup's own");
    assert!(status.workloads.is_empty());
    let again = capture.unenrol(&workload.id).unwrap_err();
    assert_eq!(again.reason(), "not_enrolled");
}

#[tokio::test]
async fn a_failed_enrolment_is_refused_and_leaves_no_trace_when_it_is_given_up() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let taken = pod.listen("127.0.0.1:15006");
    let server = peer.listen("10.77.0.1:9000");
    let node = Node::new();
    let mut capture = node.start();
    let workload = workload(&pod, &[V4]);
    let ports = pod.take_ports();
    let error = capture.enrol(&workload).unwrap_err();
    pod.free_ports(ports);
    assert!(matches!(error, EnrolError::PortTaken { .. }), "{error}");
    assert!(is_refused(pod.dial("10.77.0.1:9000")));
    assert!(is_refused(peer.dial("10.77.0.2:9000")));
    capture.open_closed(&workload.id).unwrap();
    let nothing = |it: &interceptor::capture::MapFill| it.entries == 0 || it.name == "FLOWS";
    assert!(capture.status().maps.iter().all(nothing));
    let _app = pod.dial("10.77.0.1:9000").unwrap();
    server.accept().unwrap();

    close(taken);
    let enrolled = capture.enrol(&workload).unwrap();
    use_it(&pod, &enrolled).await;
}

/// Whoever has the agent's ports before the agent comes does not escape by that.
#[tokio::test]
async fn a_workload_that_has_the_agents_ports_is_captured_all_the_same() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let taken = [15_001, 15_006, 15_008].map(|port| pod.listen(&format!("127.0.0.1:{port}")));
    let node = Node::new();
    let (_capture, enrolled) = enrol(&node, &workload(&pod, &[V4, V6]));
    use_it(&pod, &enrolled).await;
    let listeners = [&enrolled.listeners.inbound, &enrolled.listeners.hbone];
    for (listeners, port) in listeners.into_iter().zip([9000, 15_008]) {
        let client = peer.dial(&format!("{V4}:{port}")).unwrap();
        ping(client, accept(listeners).await.0).await;
    }
    for own in taken {
        own.set_nonblocking(true).unwrap();
        assert!(own.accept().is_err());
    }
}

#[tokio::test]
async fn a_full_map_refuses_the_workload_and_names_the_map() {
    if !may_run() {
        return;
    }
    let mut node = Node::new();
    node.config.sizes.workloads = 1;
    let (first, _peer) = connected();
    let (mut capture, enrolled) = enrol(&node, &workload(&first, &[V4, V6]));
    // Room for the host's namespace is kept, so the listeners are what does not fit.
    let second = Netns::new("second");
    let error = capture
        .enrol(&workload(&second, &["10.77.0.3"]))
        .unwrap_err();
    assert_eq!(error.reason(), "map_full", "{error}");
    use_it(&first, &enrolled).await;
}

#[tokio::test]
async fn two_workloads_cannot_share_an_address_or_a_namespace() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let node = Node::new();
    let (mut capture, _enrolled) = enrol(&node, &workload(&pod, &[V4]));
    let same_namespace = capture.enrol(&workload(&pod, &["10.77.0.9"])).unwrap_err();
    assert_eq!(same_namespace.reason(), "binding_taken");
    let same_address = capture.enrol(&workload(&peer, &[V4])).unwrap_err();
    assert_eq!(same_address.reason(), "address_taken");
}

/// An interface may have any address: its owner gave it to itself.
#[tokio::test]
async fn an_address_goes_to_the_workload_to_which_the_mesh_gives_it() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let server = pod.listen(&format!("{V4}:9000"));
    let (greedy, outside) = (Netns::new("greedy"), Netns::new("outside"));
    let addresses = ["10.77.9.2/24", "10.77.0.2/32"];
    greedy.connect(&addresses, &outside, &["10.77.9.1/24"]);
    let mut first = workload(&greedy, &["10.77.9.2"]);
    first.capture.inbound = PortSelection::AllExcept(vec![9000]);
    let node = Node::new();
    let (mut capture, greedy_enrolled) = enrol(&node, &first);

    let enrolled = capture.enrol(&workload(&pod, &[V4])).unwrap();
    let steered = async |listeners| {
        let client = peer.dial(&format!("{V4}:9000")).unwrap();
        ping(client, accept(listeners).await.0).await;
    };
    let inbound = &enrolled.listeners.inbound;
    steered(inbound).await;
    // Nor does it come back with a change, or go with the one that had it.
    capture.update(&first).unwrap();
    assert!(!capture.may_take_more(&first.id));
    steered(inbound).await;
    capture.unenrol(&first.id).unwrap();
    close(greedy_enrolled);
    steered(inbound).await;
    let again = capture.enrol(&first).unwrap();
    steered(inbound).await;
    server.set_nonblocking(true).unwrap();
    assert!(server.accept().is_err());
    drop(again);
}

/// What was left to another one is taken when that one goes: it would be refused otherwise.
#[tokio::test]
async fn an_address_that_becomes_free_is_taken() {
    if !may_run() {
        return;
    }
    let (pod, _peer) = connected();
    let (second, outside) = (Netns::new("second"), Netns::new("outside"));
    second.connect(
        &["10.77.9.2/24", "10.77.0.2/32"],
        &outside,
        &["10.77.9.1/24"],
    );
    let node = Node::new();
    let (mut capture, enrolled) = enrol(&node, &workload(&pod, &[V4]));
    let theirs = workload(&second, &["10.77.9.2"]);
    let second_enrolled = capture.enrol(&theirs).unwrap();
    assert!(!capture.may_take_more(&theirs.id));
    let first = capture.status().workloads;
    let first = first
        .iter()
        .find(|it| it.id != theirs.id)
        .unwrap()
        .id
        .clone();
    capture.unenrol(&first).unwrap();
    close(enrolled);
    assert!(capture.may_take_more(&theirs.id));
    capture.update(&theirs).unwrap();
    assert!(!capture.may_take_more(&theirs.id));
    outside.route("10.77.0.2", "10.77.9.2");
    let client = outside.dial(&format!("{V4}:9000")).unwrap();
    ping(client, accept(&second_enrolled.listeners.inbound).await.0).await;
}

#[tokio::test]
async fn bridges_of_two_workloads_may_have_the_same_address() {
    if !may_run() {
        return;
    }
    let (one, peer) = connected();
    let (two, outside) = (Netns::new("two"), Netns::new("outside"));
    two.connect(&["10.77.9.2/24"], &outside, &["10.77.9.1/24"]);
    let inner = Netns::new("inner");
    for pod in [&one, &two] {
        pod.connect(&["172.17.0.1/16"], &inner, &[]);
    }
    let node = Node::new();
    let (mut capture, first) = enrol(&node, &workload(&one, &[V4]));
    let second = capture.enrol(&workload(&two, &["10.77.9.2"])).unwrap();
    for (host, to, enrolled) in [(&peer, V4, &first), (&outside, "10.77.9.2", &second)] {
        let client = host.dial(&format!("{to}:9000")).unwrap();
        ping(client, accept(&enrolled.listeners.inbound).await.0).await;
    }
}

#[tokio::test]
async fn a_namespace_whose_loopback_is_down_is_named() {
    if !may_run() {
        return;
    }
    let pod = Netns::with_loopback_down();
    let node = Node::new();
    let error = node.start().enrol(&workload(&pod, &[V4])).unwrap_err();
    assert_eq!(error.reason(), "loopback_down");
}

#[tokio::test]
async fn a_namespace_that_is_deleted_is_noticed() {
    if !may_run() {
        return;
    }
    let (pod, _peer) = connected();
    let node = Node::new();
    let workload = workload(&pod, &[V4]);
    let (mut capture, _enrolled) = enrol(&node, &workload);
    assert!(capture.vanished().is_empty());
    drop(pod);
    assert_eq!(capture.vanished(), vec![workload.id.clone()]);
    capture.unenrol(&workload.id).unwrap();
}

#[tokio::test]
async fn two_nodes_on_one_machine_keep_to_their_own() {
    if !may_run() {
        return;
    }
    let (pod_a, pod_b) = connected();
    let (node_a, node_b) = (Node::new(), Node::new());
    let (capture_a, enrolled_a) = enrol(&node_a, &workload(&pod_a, &[V4]));
    let (capture_b, enrolled_b) = enrol(&node_b, &workload(&pod_b, &["10.77.0.1"]));
    use_it(&pod_a, &enrolled_a).await;
    use_it(&pod_b, &enrolled_b).await;
    assert_eq!(capture_a.counters().of(Counter::Captured), 1);
    assert_eq!(capture_b.counters().of(Counter::Captured), 1);

    // A's agent dials B's workload, as a peer does: B's agent gets it.
    let to = "10.77.0.1:15008".parse().unwrap();
    let purpose = interceptor::net::Purpose::Peer;
    let leg = enrolled_a.dialer.connect(to, purpose).await.unwrap();
    let (stream, from) = accept(&enrolled_b.listeners.hbone).await;
    assert_eq!(from, leg.local_addr().unwrap());
    ping(leg.into_std().unwrap(), stream).await;
    kill(capture_a, enrolled_a);
    use_it(&pod_b, &enrolled_b).await;
}

#[tokio::test]
async fn a_second_agent_of_the_same_node_is_refused() {
    if !may_run() {
        return;
    }
    let node = Node::new();
    let _capture = node.start();
    let second = Capture::start(node.config.clone()).err().unwrap();
    assert!(matches!(second, CaptureError::Running { .. }), "{second}");
    assert!(uninstall(&node.config).is_err());
}

#[tokio::test]
async fn another_layout_is_refused_and_not_touched() {
    if !may_run() {
        return;
    }
    let node = Node::new();
    close(node.start());
    let folder = node
        .config
        .bpffs
        .join("interceptor")
        .join(&node.config.node);
    std::fs::create_dir(folder.join("v99")).unwrap();
    let refused = Capture::start(node.config.clone()).err().unwrap();
    assert!(matches!(refused, CaptureError::Layout { .. }), "{refused}");
    assert!(folder.join("v99").exists());
}

#[tokio::test]
async fn an_uninstalled_node_leaves_plain_networking() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let server = peer.listen("10.77.0.1:9000");
    let node = Node::new();
    let (capture, enrolled) = enrol(&node, &workload(&pod, &[V4, V6]));
    let programs: Vec<u32> = capture.status().programs.iter().map(|it| it.id).collect();
    kill(capture, enrolled);
    assert!(is_refused(pod.dial("10.77.0.1:9000")));

    let pinned = |left: &Leftover| matches!(left, Leftover::Pinned(_));
    assert!(verify_removed(&node.config).unwrap().iter().any(pinned));
    let removed = uninstall(&node.config).unwrap();
    assert_eq!((removed.links, removed.maps), (11, 19));
    assert_eq!(still_held(&removed), vec![]);
    // Other tests run beside this one: what matters is that nothing of this node is left.
    let left = verify_removed(&node.config).unwrap();
    let ours = |it: &Leftover| match it {
        Leftover::Pinned(_) | Leftover::Held { .. } => true,
        Leftover::Program { id, .. } => programs.contains(id),
    };
    assert!(!left.iter().any(ours), "{left:?}");
    let _app = pod.dial("10.77.0.1:9000").unwrap();
    server.accept().unwrap();
}

#[tokio::test]
async fn the_kernel_log_can_be_switched_on() {
    if !may_run() {
        return;
    }
    let mut node = Node::new();
    node.config.debug_log = true;
    let (pod, peer) = connected();
    let (mut capture, enrolled) = enrol(&node, &workload(&pod, &[V4, V6]));
    let log = capture.debug_log().unwrap().expect("it is switched on");
    let tasks = interceptor::drain::Tasks::new();
    tasks.spawn("kernel log", log.run());
    use_it(&pod, &enrolled).await;
    let _client = peer.dial("10.77.0.2:9000").unwrap();
    accept(&enrolled.listeners.inbound).await;
    assert!(capture.debug_log().is_err(), "there is one reader");
    tasks.cancel();
}

#[tokio::test]
async fn a_workload_that_cannot_be_enrolled_again_stays_closed() {
    if !may_run() {
        return;
    }
    let (pod, peer) = connected();
    let server = peer.listen("10.77.0.1:9000");
    let node = Node::new();
    let workload = workload(&pod, &[V4]);
    let (capture, enrolled) = enrol(&node, &workload);
    kill(capture, enrolled);

    let taken = pod.listen("127.0.0.1:15006");
    let mut capture = node.start();
    let ports = pod.take_ports();
    let error = capture.enrol(&workload).unwrap_err();
    pod.free_ports(ports);
    assert_eq!(error.reason(), "port_taken");
    assert_eq!(capture.retire_unclaimed().unwrap(), 0);
    assert!(is_refused(pod.dial("10.77.0.1:9000")));

    close(taken);
    let enrolled = capture.enrol(&workload).unwrap();
    use_it(&pod, &enrolled).await;
    kill(capture, enrolled);

    let mut capture = node.start();
    assert!(capture.keep_closed(&workload));
    assert_eq!(capture.retire_unclaimed().unwrap(), 0);
    assert!(is_refused(pod.dial("10.77.0.1:9000")));
    capture.open_closed(&workload.id).unwrap();
    let _app = pod.dial("10.77.0.1:9000").unwrap();
    server.accept().unwrap();
    assert!(
        capture
            .status()
            .maps
            .iter()
            .all(|it| it.name == "FLOWS" || it.entries == 0)
    );
}
