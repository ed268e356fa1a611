//! What is left between `connect(2)` and the SYN: in whose place, for how long, and what becomes of it
//! if the SYN never leaves.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, MapData};
use interceptor::capture::{Counter, End, monotonic};
use interceptor_common::{CALL_PLACES, Call, CallPlace, Claim};
use rstest::rstest;
use socket2::Socket;

use super::{APP, Cell, bound, table};
use crate::support::{Node, close, may_run};

/// The cookie of a socket that is nobody's here.
const STRANGER: u64 = 1 << 40;

/// The places of a node.
struct Places(Array<MapData, CallPlace>);

impl Places {
    fn of(cell: &Cell) -> Self {
        Self(cell.map("PLACES").try_into().unwrap())
    }

    /// Claims each of them so.
    fn fill(&mut self, claim: impl Fn(u64) -> Claim) {
        for index in 0..CALL_PLACES {
            let place = CallPlace {
                claim: claim(u64::from(index)),
                ..CallPlace::default()
            };
            self.0.set(index, place, 0).unwrap();
        }
    }

    /// Those that are not free.
    fn claims(&self) -> Vec<Claim> {
        let all = self.0.iter().map(|place| place.unwrap().claim);
        all.filter(|claim| *claim != Claim::FREE).collect()
    }
}

/// What is left beside the places.
fn beside(cell: &Cell) -> usize {
    let calls: HashMap<_, u64, Call> = cell.map("CALLS").try_into().unwrap();
    calls.keys().count()
}

/// Two sockets with one port of the source, of which the first is connected to the application.
fn rivals(cell: &Cell) -> (Socket, Socket) {
    let [first, second] = [(); 2].map(|()| bound(cell, 7_777));
    first.connect(&app()).unwrap();
    (first, second)
}

fn app() -> socket2::SockAddr {
    APP.parse::<SocketAddr>().unwrap().into()
}

fn now() -> u64 {
    u64::try_from(monotonic().as_nanos()).unwrap()
}

/// A direct connection is made, by a place or beside them, and ends.
async fn connects(cell: &mut Cell) {
    let by_socket = cell.count(Counter::DirectBySocket);
    let pair = cell.pair(APP);
    assert_eq!(table(cell).len(), 1);
    close(pair);
    assert_eq!(cell.ended().await.end, End::Finished);
    assert_eq!(cell.count(Counter::DirectBySocket), by_socket);
}

#[tokio::test]
async fn a_syn_leaves_its_place_as_it_was() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let places = Places::of(&cell);
    for _ in 0..40 {
        connects(&mut cell).await;
        assert_eq!(places.claims(), []);
    }
    assert_eq!(beside(&cell), 0);
    cell.bypassed_the_agent();
    cell.leaves_nothing().await;
}

/// While another program writes there, or for another socket that is about to send its SYN.
#[rstest]
#[case::busy(|_| Claim::BUSY)]
#[case::taken(|index| Claim::new(STRANGER + index, now()))]
#[tokio::test]
async fn who_finds_the_place_taken_goes_beside_it(#[case] claim: fn(u64) -> Claim) {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let mut places = Places::of(&cell);
    let before = loop {
        let begun = Instant::now();
        places.fill(claim);
        let before = places.claims();
        connects(&mut cell).await;
        // Somebody else's is so for a second.
        if begun.elapsed() < Duration::from_secs(1) {
            break before;
        }
    };
    assert!(places.claims() == before, "nobody's place was touched");
    cell.bypassed_the_agent();
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn a_place_that_was_abandoned_is_taken() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let mut places = Places::of(&cell);
    places.fill(|index| Claim::new(STRANGER + index, now() - 60_000_000_000));
    connects(&mut cell).await;
    let taken = u32::try_from(places.claims().len()).unwrap();
    assert_eq!(taken, CALL_PLACES - 1, "one was, and is free now");
    assert_eq!(beside(&cell), 0);
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn a_call_that_failed_keeps_its_place_for_the_next_of_its_socket() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let places = Places::of(&cell);
    let (first, second) = rivals(&cell);
    let server = cell.app.accept().unwrap();
    for _ in 0..3 {
        second.connect(&app()).unwrap_err();
        let claims = places.claims();
        assert!(matches!(*claims, [it] if it.is_of(second.cookie().unwrap())));
    }
    close((super::resetting(first.into()), server));
    cell.ended().await;
    second.connect(&app()).unwrap();
    let server = cell.app.accept().unwrap();
    assert_eq!((places.claims(), beside(&cell)), (vec![], 0));
    close((second, server));
    assert_eq!(cell.ended().await.end, End::Finished);
    cell.leaves_nothing().await;
}

/// It left something in its place before that was somebody else's, and comes back when nobody has it.
#[tokio::test]
async fn of_two_that_a_socket_left_the_latest_holds() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let mut places = Places::of(&cell);
    let (first, second) = rivals(&cell);
    let server = cell.app.accept().unwrap();
    places.fill(|_| Claim::BUSY);
    second.connect(&app()).unwrap_err();
    places.fill(|_| Claim::FREE);
    let between = monotonic();
    close((super::resetting(first.into()), server));
    cell.ended().await;
    second.connect(&app()).unwrap();
    let server = cell.app.accept().unwrap();
    let entered = cell.opened().await;
    assert!(entered.opened() > between);
    close((second, server));
    assert_eq!(cell.ended().await.flow, entered);
    assert_eq!((places.claims(), beside(&cell)), (vec![], 1));
    cell.leaves_nothing().await;
}

#[rstest]
#[case::elsewhere("192.0.2.1:443")]
#[case::another_port("10.79.0.2:9001")]
#[tokio::test]
async fn a_call_that_failed_opens_nothing_for_the_next(#[case] next: &str) {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let app: SocketAddr = APP.parse().unwrap();
    let [first, second] = [(); 2].map(|()| bound(&cell, 7_777));
    first.connect(&app.into()).unwrap();
    let (server, _) = cell.app.accept().unwrap();
    // The 4-tuple is taken: connect(2) fails after its hook and before a SYN.
    let error = second.connect(&app.into()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
    second
        .connect(&next.parse::<SocketAddr>().unwrap().into())
        .unwrap();
    let (stream, _) = crate::support::accept(&cell.source.listeners.outbound).await;
    let original = cell.source.origin.outbound(&stream).unwrap();
    assert_eq!(original, next.parse().unwrap());
    assert_eq!(table(&cell).len(), 1);
    close((first, server));
    assert_eq!(cell.ended().await.end, End::Finished);
    close((second, stream));
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn calls_that_failed_give_their_room_back_soon_when_there_is_little() {
    const ROOM: u64 = 16;
    if !may_run() {
        return;
    }
    let mut node = Node::new();
    node.config.sizes.flows = 64;
    let cell = Cell::with(node);
    cell.allow();
    let mut places = Places::of(&cell);
    places.fill(|_| Claim::BUSY);
    let app: SocketAddr = APP.parse().unwrap();
    let sockets: Vec<_> = (0..2 * ROOM).map(|_| bound(&cell, 7_777)).collect();
    let (first, others) = sockets.split_first().unwrap();
    first.connect(&app.into()).unwrap();
    let server = cell.app.accept().unwrap();
    for other in others {
        other.connect(&app.into()).unwrap_err();
    }
    let beside = cell.count(Counter::DirectBySocket);
    assert_eq!(beside, ROOM - 1, "the others have taken all room");
    // Earlier than by the patience that calls have when there is room.
    let deadline = Instant::now() + Duration::from_secs(8);
    loop {
        cell.direct.sweep().unwrap();
        let before = cell.count(Counter::DirectBySocket);
        close(cell.pair(APP));
        if cell.count(Counter::DirectBySocket) == before {
            break;
        }
        assert!(Instant::now() < deadline, "there is no room");
        tokio::task::yield_now().await;
    }
    close((sockets, server));
}
