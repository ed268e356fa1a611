//! Direct connections over the agent's absence, and events that nobody reads.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};

use interceptor::capture::{Capture, Counter, DirectFlow, End, Event};

use super::{APP, Cell, VIP};
use crate::support::{Node, close, is_refused, may_run};

#[tokio::test]
async fn connections_go_on_without_the_agent_and_the_next_one_learns_their_ends() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let (mut client, mut server) = cell.pair(APP);
    let (brief, its_server) = cell.pair(APP);
    let (long, ended) = (cell.opened().await, cell.opened().await);

    // The agent dies: what it held is closed, what it pinned stays.
    let Cell {
        events,
        direct,
        app,
        source,
        destination,
        workloads,
        capture,
        node,
        a,
        b,
        host,
        known,
    } = cell;
    close((events, direct, source, destination, capture));
    client.write_all(b"go on").unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
    close((brief, its_server));
    let late = a.dial(APP).unwrap();
    let (late_server, _) = app.accept().unwrap();
    assert!(
        is_refused(a.dial("10.79.0.2:9001")),
        "captured ports refuse"
    );

    let mut capture = node.start_in(&host);
    wait(&capture, &long);
    let source = capture.enrol(&workloads.0).unwrap();
    let destination = capture.enrol(&workloads.1).unwrap();
    let direct = capture.direct();
    let mut cell = Cell {
        events: direct.events().unwrap().unwrap(),
        direct,
        app,
        source,
        destination,
        workloads,
        capture,
        node,
        a,
        b,
        host,
        known,
    };
    let open = cell.direct.open().unwrap();
    let by_id: HashMap<_, _> = open.iter().map(|it| (it.flow.id, it)).collect();
    assert_eq!(open.len(), 2);
    assert_eq!(by_id[&long.id].flow, long);
    assert_eq!(by_id[&long.id].totals.sent, 5);
    // What happened meanwhile has waited.
    let Event::Closed { flow, end, .. } = cell.event().await else {
        panic!("an end comes first");
    };
    assert_eq!((flow, end), (ended, End::Finished));
    assert!(by_id.contains_key(&cell.opened().await.id));
    // Grants of the earlier agent hold until this one says otherwise.
    assert_eq!(cell.direct.grants(), 2);
    assert_eq!(cell.direct.advance(), long.generation + 1);
    cell.is_the_agents(APP).await;
    close((client, server, late, late_server));
    for _ in 0..2 {
        assert_eq!(cell.ended().await.end, End::Finished);
    }
    cell.leaves_nothing().await;
    release(&mut cell, &long);
}

/// Until its workloads are enrolled, both are known to wait for that, and nothing of theirs is asked
/// for.
fn wait(capture: &Capture, flow: &DirectFlow) {
    let direct = capture.direct();
    for key in [flow.source, flow.destination] {
        assert!(direct.is_workload(key));
    }
    assert!(direct.open().unwrap().is_empty());
    assert_eq!(direct.table().unwrap().len(), 2);
}

/// Workloads that are un-enrolled are not waited for.
fn release(cell: &mut Cell, flow: &DirectFlow) {
    let (source, destination) = &cell.workloads;
    for (key, workload) in [(flow.source, source), (flow.destination, destination)] {
        assert!(cell.direct.is_workload(key));
        cell.capture.unenrol(&workload.id).unwrap();
        assert!(!cell.direct.is_workload(key));
    }
}

#[tokio::test]
async fn events_without_room_are_counted_and_the_open_ones_are_still_known() {
    const CONNECTIONS: u64 = 60;
    if !may_run() {
        return;
    }
    let mut node = Node::new();
    // One page: room for two dozen.
    node.config.sizes.event_bytes = 4_096;
    let mut cell = Cell::with(node);
    cell.allow();
    cell.allow_at(VIP);
    for _ in 0..CONNECTIONS {
        close(cell.pair(APP));
    }
    let open = cell.pair(VIP);
    let lost = cell.direct.lost();
    assert!(lost > 0);
    let mut read = 0;
    while cell.events.try_next().is_some() {
        read += 1;
    }
    assert_eq!(read + lost, CONNECTIONS);
    assert_eq!(cell.count(Counter::DirectClosed), CONNECTIONS);
    assert_eq!(cell.count(Counter::DirectEstablished), CONNECTIONS + 1);
    // Whoever compares finds the one that is open, and no other.
    let found = cell.direct.open().unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].flow.original, VIP.parse().unwrap());
    close(open);
    assert_eq!(cell.ended().await.flow, found[0].flow);
    assert_eq!(cell.flows(), 0);
}

#[tokio::test]
async fn a_reader_that_sleeps_is_woken_when_the_buffer_fills() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let there_is_one = cell.direct.events().unwrap();
    assert!(there_is_one.is_none(), "events have one reader");
    for _ in 0..20 {
        close(cell.pair(APP));
    }
    for _ in 0..20 {
        cell.ended().await;
    }
    cell.leaves_nothing().await;
}
