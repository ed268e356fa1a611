//! What the kernel's table has is entered once, when it is old enough, and not after its end.

use super::*;
use crate::capture::Entered;

fn entered(number: u64, established: bool) -> Entered {
    Entered {
        flow: flow(number),
        established,
    }
}

/// One that began just now.
fn young() -> Entered {
    let mut young = entered(9, true);
    young.flow.since_ns = u64::try_from(crate::capture::monotonic().as_nanos()).unwrap();
    young
}

#[tokio::test]
async fn an_accepted_connection_is_entered_once_and_its_end_recorded() {
    let mut agent = Agent::new(DEMO).await;
    for _ in 0..2 {
        let table = [entered(1, true)];
        assert!(!look_up(agent.path(), &agent.plane, &table));
        assert_eq!(agent.plane.registry.len(), 2);
    }
    agent.take_in([closed(1, End::Finished)]);
    assert!(agent.plane.registry.is_empty());
    assert_eq!(agent.ends().len(), 2);
    assert_eq!(agent.metric("istio_tcp_connections_opened_total"), 2);
    assert_eq!(agent.metric("istio_tcp_connections_closed_total"), 2);
}

#[tokio::test]
async fn what_is_young_or_not_accepted_waits_and_is_asked_about_again() {
    let agent = Agent::new(DEMO).await;
    for waiting in [entered(1, false), young()] {
        assert!(look_up(agent.path(), &agent.plane, &[waiting]));
        assert!(agent.plane.registry.is_empty());
    }
}

#[tokio::test]
async fn what_may_not_be_is_cut_when_it_is_found() {
    let agent = Agent::new(DEMO).await;
    agent.plane.mesh.store(Arc::new(denying()));
    look_up(agent.path(), &agent.plane, &[entered(1, true)]);
    assert_eq!(*agent.kernel.cut.lock(), [1]);
}

/// A connection of the caller to a workload of an earlier agent.
fn to_another() -> Entered {
    let mut entered = entered(1, true);
    entered.flow.destination = OTHER;
    entered
}

const OTHER: u64 = 3;

#[tokio::test]
async fn what_a_workload_has_open_that_is_not_enrolled_yet_waits_for_that() {
    let mut agent = Agent::new(DEMO).await;
    agent.kernel.others.lock().push(OTHER);
    let (table, open) = (
        [to_another()],
        Open {
            flow: to_another().flow,
            totals: carried(4, 3),
        },
    );
    agent.kernel.open.lock().push(open);
    assert!(look_up(agent.path(), &agent.plane, &table));
    compare(agent.path(), &agent.plane, || {});
    let told = Event::Opened(table[0].flow);
    assert!(agent.take_in([told]), "what is told of it waits, too");
    assert!(agent.plane.registry.is_empty());
    assert!(agent.kernel.cut.lock().is_empty());
    assert!(agent.told().is_empty());
    // Then it is judged, and what it may not be it is not.
    assert!(!agent.path().awaited.load(Ordering::Relaxed));
    agent.path().enrolled(OTHER, id("server"));
    assert!(agent.path().awaited.load(Ordering::Relaxed));
    assert!(!look_up(agent.path(), &agent.plane, &table));
    assert_eq!(agent.plane.registry.len(), 2);
    assert!(agent.kernel.cut.lock().is_empty());
    agent.change(denying());
    assert_eq!(*agent.kernel.cut.lock(), [1]);
}

#[tokio::test]
async fn what_a_workload_has_open_that_is_not_part_of_the_mesh_any_more_is_cut() {
    let agent = Agent::new(DEMO).await;
    // The kernel has released it.
    look_up(agent.path(), &agent.plane, &[to_another()]);
    assert_eq!(*agent.kernel.cut.lock(), [1]);
}

#[tokio::test]
async fn what_is_nobodys_any_more_is_not_told_again() {
    let mut agent = Agent::new(DEMO).await;
    agent.kernel.is_empty.store(true, Ordering::Relaxed);
    assert!(!look_up(agent.path(), &agent.plane, &[entered(1, true)]));
    assert!(agent.plane.registry.is_empty());
    assert!(agent.told().is_empty());
}
