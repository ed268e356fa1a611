//! Each connection is recorded once at each end, whatever the agent missed.

use rstest::rstest;

use super::*;
use crate::connection::direct::records::Ended;
use crate::reason::Label;
use crate::telemetry::record::Reason;

#[tokio::test]
async fn a_short_connection_is_recorded_as_a_whole_at_both_ends() {
    let mut agent = Agent::new(DEMO).await;
    agent.take_in([Event::Opened(flow(1)), closed(1, End::Finished)]);
    let told = agent.told();
    let over: Vec<_> = told.iter().filter(|it| it.state == State::Closed).collect();
    assert_eq!(over.len(), 2);
    for view in over {
        assert_eq!(view.security, Security::Kernel);
        assert_eq!(view.policy.as_deref(), Some("demo/callers"));
        assert_eq!(view.rule, Some(0));
        assert_eq!((view.bytes_sent, view.bytes_received), (10, 7));
        assert_eq!((view.round_trip_us, view.retransmits), (Some(40), Some(2)));
        assert_eq!(view.service.as_deref(), Some("demo/server"));
        assert_eq!(view.conn_id, told[0].conn_id);
    }
    assert!(agent.plane.registry.is_empty());
    assert_eq!(agent.metric("istio_tcp_connections_opened_total"), 2);
    assert_eq!(agent.metric("istio_tcp_connections_closed_total"), 2);
    assert_eq!(agent.metric("istio_tcp_received_bytes_total"), 20);
    assert_eq!(agent.metric("istio_tcp_sent_bytes_total"), 14);
}

#[tokio::test]
async fn a_long_connection_is_among_the_open_ones_and_its_bytes_are_counted_once() {
    let mut agent = Agent::new(DEMO).await;
    agent.take_in([Event::Opened(flow(1))]);
    assert_eq!(agent.plane.registry.len(), 2);
    *agent.kernel.open.lock() = vec![is_open(1)];
    agent.path().refresh();
    assert_eq!(agent.metric("istio_tcp_received_bytes_total"), 8);
    agent.take_in([closed(1, End::Reset)]);
    assert_eq!(agent.metric("istio_tcp_received_bytes_total"), 20);
    assert_eq!(agent.metric("istio_tcp_sent_bytes_total"), 14);
    assert!(agent.plane.registry.is_empty());
    let ends = agent.ends();
    assert!(
        ends.iter()
            .all(|(_, outcome, _)| *outcome == Outcome::Allowed),
        "{ends:?}"
    );
    assert_eq!(ends.len(), 2);
}

#[rstest]
#[case::the_policy("sa/caller]", "sa/nobody]", "no_allow_matched")]
#[case::a_label("labels: {app: server}", "labels: {app: db}", "")]
#[case::the_callers_account(
    "serviceAccountName: caller",
    "serviceAccountName: x",
    "identity_changed"
)]
#[case::the_servers_account(
    "serviceAccountName: server",
    "serviceAccountName: x",
    "identity_changed"
)]
#[case::the_owners_wish(
    "interceptor.dev/network-namespace: server",
    "interceptor.dev/same-node: mtls, interceptor.dev/network-namespace: server",
    "same_node_mtls"
)]
#[case::the_caller_is_gone("name: caller\n", "name: another\n", "workload_gone")]
#[tokio::test]
async fn a_change_cuts_what_it_forbids_and_both_ends_say_why(
    #[case] from: &str,
    #[case] to: &str,
    #[case] reason: &str,
) {
    let mut agent = Agent::new(DEMO).await;
    agent.take_in([Event::Opened(flow(1))]);
    let (changed, _) = crate::workload::fixtures::mesh(&DEMO.replace(from, to));
    agent.change(changed);
    if reason.is_empty() {
        // Nothing selects it any more, so nothing forbids it.
        assert!(agent.kernel.cut.lock().is_empty());
        return;
    }
    assert_eq!(*agent.kernel.cut.lock(), [1]);
    agent.take_in([closed(1, End::Cut)]);
    let expected = [Reporter::Source, Reporter::Destination]
        .map(|reporter| (reporter, Outcome::Cut, reason.to_owned()));
    assert_eq!(agent.ends(), expected);
}

#[tokio::test]
async fn a_lost_certificate_cuts() {
    let mut agent = Agent::new(DEMO).await;
    agent.take_in([Event::Opened(flow(1))]);
    agent
        .plane
        .identities
        .want(["spiffe://cluster.local/ns/demo/sa/server".parse().unwrap()]);
    judge(agent.path(), &agent.plane);
    agent.take_in([closed(1, End::Cut)]);
    assert_eq!(agent.ends()[0].2, "no_identity");
}

#[tokio::test]
async fn what_opened_under_an_older_mesh_is_judged_when_it_is_heard_of() {
    let agent = Agent::new(DEMO).await;
    agent.change(denying());
    agent.take_in([Event::Opened(flow(1))]);
    assert_eq!(*agent.kernel.cut.lock(), [1]);
}

#[tokio::test]
async fn what_cannot_be_cut_is_tried_again() {
    let agent = Agent::new(DEMO).await;
    agent.kernel.cannot_cut.store(true, Ordering::Relaxed);
    agent.take_in([Event::Opened(flow(1))]);
    agent.change(denying());
    assert!(!judge(agent.path(), &agent.plane));
    agent.kernel.cannot_cut.store(false, Ordering::Relaxed);
    assert!(judge(agent.path(), &agent.plane));
    assert_eq!(*agent.kernel.cut.lock(), [1]);
}

#[rstest]
#[case::nobody_listens(End::Refused, "app_unreachable", 2)]
#[case::the_caller_gives_up(End::Abandoned, "abandoned", 1)]
#[tokio::test]
async fn what_is_never_established_has_failed(
    #[case] end: End,
    #[case] reason: &str,
    #[case] lines: usize,
) {
    let mut agent = Agent::new(DEMO).await;
    agent.take_in([closed(1, end)]);
    let ends = agent.ends();
    assert_eq!(ends.len(), lines);
    assert_eq!(
        ends[0],
        (Reporter::Source, Outcome::Failed, reason.to_owned())
    );
    assert!(agent.plane.registry.is_empty());
}

#[rstest]
#[case::in_order(End::Finished)]
#[case::reset(End::Reset)]
#[case::unread(End::Aborted)]
#[case::cut(End::Cut)]
#[case::silence(End::TimedOut)]
#[case::nobody_listens(End::Refused)]
#[case::given_up(End::Abandoned)]
#[case::no_route(End::Failed(libc::EHOSTUNREACH))]
#[case::unknown(End::Unknown)]
fn a_connection_ends_as_its_label_says(#[case] end: End) {
    let allowed = Reason::labelled(Label::Allowed);
    for ended in [
        Ended::established(end, None, allowed),
        Ended::refused(&flow(1), end),
    ] {
        let label = ended.reason.label;
        assert!(label.tells_of(ended.outcome, ended.flags), "{label}");
    }
}

// === losses and restarts ===

#[tokio::test]
async fn an_end_that_was_not_told_is_found_and_counted_once() {
    let mut agent = Agent::new(DEMO).await;
    agent.take_in([Event::Opened(flow(1)), Event::Opened(flow(2))]);
    *agent.kernel.open.lock() = vec![is_open(1), is_open(2)];
    assert!(!compare(agent.path(), &agent.plane, || {}));
    *agent.kernel.open.lock() = vec![is_open(2)];
    assert!(
        compare(agent.path(), &agent.plane, || {}),
        "its end may be on its way"
    );
    assert_eq!(agent.plane.registry.len(), 4);
    assert!(!compare(agent.path(), &agent.plane, || {}));
    assert_eq!(agent.plane.registry.len(), 2);
    assert_eq!(agent.path().counts().unseen, 1);
    // Told after all.
    agent.take_in([closed(1, End::Finished)]);
    assert_eq!(agent.ends().len(), 2);
    assert_eq!(agent.metric("istio_tcp_received_bytes_total"), 16);
}

#[tokio::test]
async fn what_is_open_when_the_agent_starts_is_taken_over() {
    let mut agent = Agent::new(DEMO).await;
    *agent.kernel.open.lock() = vec![is_open(1)];
    // The buffer may still have the opening, and the end of another.
    let waiting = || {
        agent.take_in([Event::Opened(flow(1)), closed(2, End::Finished)]);
    };
    assert!(!compare(agent.path(), &agent.plane, waiting));
    assert_eq!(agent.plane.registry.len(), 2);
    agent.take_in([closed(1, End::Finished)]);
    assert_eq!(agent.ends().len(), 4);
    assert_eq!(agent.metric("istio_tcp_connections_opened_total"), 4);
    assert_eq!(agent.metric("istio_tcp_connections_closed_total"), 4);
}

#[tokio::test]
async fn a_socket_that_is_missing_once_has_an_end_on_its_way() {
    let mut agent = Agent::new(DEMO).await;
    agent.take_in([Event::Opened(flow(1))]);
    let end = || {
        agent.take_in([closed(1, End::Finished)]);
    };
    assert!(!compare(agent.path(), &agent.plane, end));
    assert_eq!(agent.path().counts().unseen, 0);
    assert_eq!(agent.ends().len(), 2);
}

#[tokio::test]
async fn an_end_is_found_although_the_opening_was_read_after_the_sockets() {
    let mut agent = Agent::new(DEMO).await;
    // Its end was lost before anybody had read of it.
    let opening = || {
        agent.take_in([Event::Opened(flow(1))]);
    };
    assert!(compare(agent.path(), &agent.plane, opening));
    assert!(!compare(agent.path(), &agent.plane, || {}));
    assert_eq!(agent.path().counts().unseen, 1);
    assert_eq!(agent.ends().len(), 2);
}
