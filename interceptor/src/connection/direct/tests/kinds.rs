//! What connections of one kind share is looked up once, and holds no longer than it may.

use super::*;
use crate::capture::monotonic;
use crate::telemetry::ConnectionView;

/// A connection that was opened just now.
fn young(number: u64) -> DirectFlow {
    DirectFlow {
        since_ns: u64::try_from(monotonic().as_nanos()).unwrap(),
        ..flow(number)
    }
}

/// A connection that was over within its batch.
fn short(agent: &Agent, number: u64) {
    agent.take_in([Event::Opened(flow(number)), closed(number, End::Finished)]);
}

/// The ends of connections, as they were told.
fn over(agent: &mut Agent) -> Vec<Arc<ConnectionView>> {
    let told = agent.told().into_iter();
    told.filter(|view| view.state != State::Open).collect()
}

#[tokio::test]
async fn one_that_was_opened_just_now_waits_for_its_end() {
    let mut agent = Agent::new(DEMO).await;
    let flow = young(1);
    assert!(agent.take_in([Event::Opened(flow)]));
    assert!(agent.plane.registry.is_empty());
    let end = Event::Closed {
        flow,
        totals: carried(10, 7),
        established: true,
        end: End::Finished,
    };
    assert!(!agent.take_in([end]), "nothing waits any more");
    assert_eq!(agent.ends().len(), 2);
    assert_eq!(agent.metric("istio_tcp_connections_opened_total"), 2);
}

#[tokio::test]
async fn one_that_was_opened_just_now_is_entered_when_everything_is_compared() {
    let agent = Agent::new(DEMO).await;
    let flow = young(1);
    agent.take_in([Event::Opened(flow)]);
    let totals = carried(0, 0);
    *agent.kernel.open.lock() = vec![Open { flow, totals }];
    assert!(!compare(agent.path(), &agent.plane, || {}));
    assert_eq!(agent.plane.registry.len(), 2);
    assert!(!agent.take_in([]));
    assert_eq!(agent.plane.registry.len(), 2, "it is entered once");
}

#[tokio::test]
async fn numbers_are_each_connections_own() {
    let mut agent = Agent::new(DEMO).await;
    for number in 1..=3 {
        let mut flow = flow(number);
        flow.source_address
            .set_port(40_000 + u16::try_from(number).unwrap());
        let totals = carried(number, 10 * number);
        agent.take_in([Event::Closed {
            flow,
            totals,
            established: true,
            end: End::Finished,
        }]);
    }
    let over = over(&mut agent);
    let told = over.iter().map(|view| {
        let port = view.source.address.unwrap().port();
        (port, view.bytes_sent, view.bytes_received)
    });
    let expected = [(40_001, 1, 10), (40_002, 2, 20), (40_003, 3, 30)]
        .into_iter()
        .flat_map(|own| [own, own]);
    assert!(told.eq(expected), "{over:#?}");
    let mut ids: Vec<_> = over.iter().map(|view| &view.conn_id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 3, "one for both ends");
}

#[tokio::test]
async fn a_change_of_the_mesh_is_seen_by_the_next() {
    let mut agent = Agent::new(DEMO).await;
    short(&agent, 1);
    agent.change(good_mesh(&DEMO.replace("name: callers", "name: others")));
    short(&agent, 2);
    let over = over(&mut agent);
    let policies: Vec<_> = over.iter().map(|view| view.policy.as_deref()).collect();
    let [before, after] = [Some("demo/callers"), Some("demo/others")];
    assert_eq!(policies, [before, before, after, after]);
}

#[tokio::test]
async fn a_key_that_means_another_workload_is_seen_by_the_next() {
    let mut agent = Agent::new(DEMO).await;
    short(&agent, 1);
    agent.path().released(CALLER);
    agent.path().enrolled(CALLER, id("nobody-knows"));
    short(&agent, 2);
    let over = over(&mut agent);
    let named: Vec<_> = over
        .iter()
        .map(|view| view.source.workload.as_deref())
        .collect();
    let known = Some("demo/caller");
    assert_eq!(named, [known, known, None, None]);
}

#[tokio::test]
async fn a_lost_certificate_is_seen_by_the_next() {
    let mut agent = Agent::new(DEMO).await;
    short(&agent, 1);
    agent
        .plane
        .identities
        .want(["spiffe://cluster.local/ns/demo/sa/server".parse().unwrap()]);
    judge(agent.path(), &agent.plane);
    short(&agent, 2);
    let over = over(&mut agent);
    let policies: Vec<_> = over.iter().map(|view| view.policy.is_some()).collect();
    assert_eq!(policies, [true, true, false, false]);
}

#[tokio::test]
async fn more_kinds_than_are_remembered_are_told_all_the_same() {
    let mut agent = Agent::new(DEMO).await;
    let mut told = 0;
    for number in 0..1100 {
        let mut flow = flow(number);
        flow.original.set_port(u16::try_from(number + 1).unwrap());
        agent.take_in([Event::Closed {
            flow,
            totals: carried(1, 1),
            established: true,
            end: End::Finished,
        }]);
        told += over(&mut agent).len();
    }
    assert_eq!(told, 2200);
    assert_eq!(agent.metric("istio_tcp_connections_closed_total"), 2200);
}
