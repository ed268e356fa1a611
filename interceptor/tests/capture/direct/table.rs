//! The kernel's table of direct connections: nothing gives way in it, and nothing stays that is over.

use std::net::SocketAddr;
use std::time::Instant;

use aya::maps::{HashMap, MapData};
use interceptor::capture::{Counter, DirectFlow, End, Event, Grant};
use interceptor_common::{Address, Flow, FlowKey, OpenFlow};
use nix::sys::socket::{setsockopt, sockopt::TcpFastOpenConnect};

use super::{A, APP, Cell, PATIENCE, VIP, table, tcp};
use crate::support::{Node, close, is_refused, may_run};

/// The table, to be changed.
fn open_map(cell: &Cell) -> HashMap<MapData, FlowKey, OpenFlow> {
    cell.map("OPEN").try_into().unwrap()
}

#[tokio::test]
async fn what_has_no_room_in_it_is_direct_all_the_same_and_nothing_gives_way() {
    const CONNECTIONS: usize = 40;
    if !may_run() {
        return;
    }
    let mut node = Node::new();
    node.config.sizes.flows = 64;
    let mut cell = Cell::with(node);
    cell.allow_at(VIP);
    let pairs: Vec<_> = (0..CONNECTIONS).map(|_| cell.pair(VIP)).collect();
    let in_table = table(&cell).len();
    let beside = u64::try_from(CONNECTIONS - in_table).unwrap();
    assert_eq!(in_table, 16, "a quarter of the flows");
    assert_eq!(cell.count(Counter::DirectBySocket), beside);
    // Each is known, shows what it was connected to, and is told of when it is over.
    assert_eq!(cell.direct.open().unwrap().len(), CONNECTIONS);
    for (client, _) in &pairs {
        assert_eq!(
            client.peer_addr().unwrap(),
            VIP.parse::<SocketAddr>().unwrap()
        );
    }
    close(pairs);
    for _ in 0..CONNECTIONS {
        assert_eq!(cell.ended().await.end, End::Finished);
    }
    cell.bypassed_the_agent();
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn a_workload_that_fills_it_takes_from_others_their_place_and_nothing_else() {
    const OTHERS: &str = "10.78.0.2:9100";
    if !may_run() {
        return;
    }
    let mut node = Node::new();
    node.config.sizes.flows = 64;
    let mut cell = Cell::with(node);
    cell.allow();
    // The one connects to the other, and the other to the one.
    let back = cell.a.listen("[::]:9100");
    let grant = Grant {
        source: cell.destination.key,
        ..cell.grant(OTHERS, &[Some(OTHERS)])
    };
    cell.direct.publish(&grant).unwrap();
    let greedy: Vec<_> = (0..20).map(|_| cell.pair(APP)).collect();
    let full = table(&cell);
    assert_eq!(full.len(), 16);
    let beside = cell.count(Counter::DirectBySocket);
    let client = cell.b.dial(OTHERS).unwrap();
    let (server, _) = back.accept().unwrap();
    assert_eq!(cell.count(Counter::DirectBySocket), beside + 1);
    assert_eq!(table(&cell), full);
    // It is known, by itself, and what became of it is told.
    let theirs = |flow: &DirectFlow| flow.source == cell.destination.key;
    let open = cell.direct.open().unwrap();
    assert_eq!(open.iter().filter(|it| theirs(&it.flow)).count(), 1);
    assert_eq!(client.peer_addr().unwrap(), OTHERS.parse().unwrap());
    close((client, server));
    let ended = cell.ended().await;
    assert_eq!(
        (ended.flow.source, ended.end),
        (cell.destination.key, End::Finished)
    );
    // Whoever has a place gives it to the next.
    close(greedy);
    for _ in 0..20 {
        assert_eq!(cell.ended().await.flow.source, cell.source.key);
    }
    let client = cell.b.dial(OTHERS).unwrap();
    let pair = (client, back.accept().unwrap().0);
    assert_eq!(table(&cell).len(), 1);
    close(pair);
    cell.ended().await;
    cell.bypassed_the_agent();
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn whoever_hears_of_an_end_does_not_find_it_in_the_table() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    for _ in 0..200 {
        let pair = cell.pair(APP);
        let open = cell.opened().await;
        assert_eq!(table(&cell), [open]);
        close(pair);
        assert_eq!(cell.ended().await.flow, open);
        assert_eq!(table(&cell), []);
    }
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn what_is_entered_in_it_is_counted() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    for number in 1..=3 {
        let pair = cell.pair(APP);
        assert_eq!(cell.direct.entered(), number);
        close(pair);
        cell.ended().await;
    }
    // One that its socket remembers is told of by itself.
    assert_eq!(cell.count(Counter::DirectBySocket), 0);
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn an_entry_whose_socket_vanished_is_removed() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let pair = cell.pair(APP);
    let open = cell.opened().await;
    let mut map = open_map(&cell);
    let (key, entry) = map.iter().next().unwrap().unwrap();
    let gone = FlowKey {
        source: Address::v4(u32::from_ne_bytes([10, 78, 0, 9])),
        ..key
    };
    let entry = OpenFlow {
        socket: entry.socket + (1 << 40),
        ..entry
    };
    map.insert(gone, entry, 0).unwrap();
    assert_eq!(table(&cell).len(), 2);
    let deadline = Instant::now() + PATIENCE;
    while table(&cell).len() > 1 {
        let found = cell.direct.open().unwrap();
        assert_eq!(found.iter().map(|it| it.flow).collect::<Vec<_>>(), [open]);
        assert!(Instant::now() < deadline, "it stays");
        tokio::task::yield_now().await;
    }
    assert_eq!(table(&cell), [open]);
    close(pair);
    cell.ended().await;
    cell.leaves_nothing().await;
}

/// It is accepted late, and somebody else has its 4-tuple by then.
#[tokio::test]
async fn who_accepts_a_connection_settles_no_other() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    cell.allow();
    // Nobody answers the SYN for a while.
    cell.host.drop_everything_to(A);
    let client = tcp(&cell.a, APP);
    client.set_nonblocking(true).unwrap();
    let to = APP.parse::<SocketAddr>().unwrap().into();
    client.connect(&to).unwrap_err();
    let mut map = open_map(&cell);
    let (key, entry) = map.iter().next().unwrap().unwrap();
    let later = OpenFlow {
        flow: Flow {
            sequence: entry.flow.sequence.wrapping_add(1 << 20),
            ..entry.flow
        },
        socket: entry.socket + (1 << 40),
    };
    map.insert(key, later, 0).unwrap();
    cell.host.drop_nothing(&[A]);
    let _accepted = cell.app.accept().unwrap();
    assert_eq!(map.get(&key, 0).unwrap(), later, "its door is open still");
    assert_eq!(cell.count(Counter::DirectEstablished), 0);
    map.insert(key, entry, 0).unwrap();
}

#[tokio::test]
async fn a_syn_that_waits_for_data_is_remembered_by_its_socket() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    cell.a.enable_fast_open();
    let socket = tcp(&cell.a, APP);
    setsockopt(&socket, TcpFastOpenConnect, &true).unwrap();
    socket
        .connect(&APP.parse::<SocketAddr>().unwrap().into())
        .unwrap();
    let (server, _) = cell.app.accept().unwrap();
    let Event::Opened(flow) = cell.event().await else {
        panic!("an opening comes first");
    };
    assert_eq!(table(&cell), []);
    assert_eq!(cell.count(Counter::DirectBySocket), 1);
    assert_eq!(cell.direct.open().unwrap()[0].flow, flow);
    close((socket, server));
    assert_eq!(cell.ended().await.flow, flow);
    assert!(is_refused(cell.a.dial("10.78.0.2:1")));
    cell.leaves_nothing().await;
}
