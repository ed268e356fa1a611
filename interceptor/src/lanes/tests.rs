//! Placement of connections on lanes, the bounds they share, and lanes that are lost.

use std::time::Duration;

use rstest::rstest;

use super::place::{Open, best};
use super::*;

/// Lanes with these streams and carriers.
fn open(lanes: &[(usize, usize)]) -> impl Iterator<Item = Open> + Clone {
    lanes
        .iter()
        .map(|&(streams, carriers)| Open { streams, carriers })
}

#[rstest]
#[case::there_are_none(&[], Some(0), None)]
#[case::nobody_is_here(&[(1, 0), (0, 0)], None, Some(1))]
#[case::all_are_idle(&[(0, 0), (0, 0)], Some(1), Some(1))]
#[case::one_is_idle(&[(1, 0), (0, 0)], Some(0), Some(1))]
#[case::as_many(&[(1, 0), (1, 0)], Some(1), Some(1))]
#[case::few_are_kept_even(&[(4, 0), (3, 0), (5, 0)], Some(2), Some(1))]
#[case::many_may_differ_a_little(&[(36, 0), (32, 0)], Some(0), Some(0))]
#[case::but_not_more(&[(37, 0), (32, 0)], Some(0), Some(1))]
#[case::of_the_idle_the_one_with_fewer_carriers(&[(3, 0), (0, 2), (0, 1)], Some(0), Some(2))]
fn a_stream_goes_where_there_are_fewest_unless_its_own_lane_is_about_as_good(
    #[case] lanes: &[(usize, usize)],
    #[case] here: Option<usize>,
    #[case] expected: Option<usize>,
) {
    assert_eq!(best(here, open(lanes), Load::Stream), expected);
}

#[rstest]
#[case::fewer_elsewhere(&[(0, 2), (9, 1)], Some(0), Some(1))]
#[case::as_many(&[(3, 1), (3, 1)], Some(1), Some(1))]
#[case::as_many_and_less_busy(&[(3, 1), (2, 1)], Some(0), Some(1))]
fn carriers_are_kept_even_in_number(
    #[case] lanes: &[(usize, usize)],
    #[case] here: Option<usize>,
    #[case] expected: Option<usize>,
) {
    assert_eq!(best(here, open(lanes), Load::Carrier), expected);
}

/// Runs `work` on `lane` and returns what it found there.
fn on<T: Send + 'static>(lane: &Lane, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (found, finding) = std::sync::mpsc::sync_channel(1);
    lane.handle
        .spawn(async move { found.send(work()).unwrap() });
    finding.recv().unwrap()
}

#[test]
fn a_lane_keeps_the_first_stream_and_sends_the_second_away() {
    let (lanes, threads) = Lanes::start(2).unwrap();
    let second = lanes.turn(1).unwrap();
    let all = lanes.clone();
    let first = on(second, move || {
        assert!(all.elsewhere().is_none());
        all.here(Load::Stream).unwrap()
    });
    assert_eq!(first.lane().index, 1);
    let all = lanes.clone();
    let moved = on(second, move || all.elsewhere().unwrap());
    assert_eq!(moved.lane().index, 0);
    let streams = || lanes.all.iter().map(|lane| lane.open().streams);
    assert_eq!(streams().collect::<Vec<_>>(), [1, 1]);
    drop((first, moved));
    assert_eq!(streams().sum::<usize>(), 0);
    threads.end(Duration::from_secs(10));
}

#[test]
fn what_there_is_per_lane_is_found_on_each_and_elsewhere() {
    let (lanes, threads) = Lanes::start(3).unwrap();
    let mut made = 0..;
    let two = PerLane::new(2, move || made.next().unwrap());
    assert_eq!(*two.here(), 0);
    let found = lanes.all.iter().map(|lane| {
        let two = two.clone();
        on(lane, move || *two.here())
    });
    assert_eq!(found.collect::<Vec<_>>(), [0, 1, 0]);
    threads.end(Duration::from_secs(10));
}

#[test]
fn without_lanes_everything_stays_where_it_is() {
    let none = Lanes::default();
    assert!(none.is_empty() && none.turn(7).is_none() && none.best(Load::Stream).is_none());
    assert!(none.elsewhere().is_none() && none.here(Load::Carrier).is_none());
}

#[tokio::test]
async fn lanes_that_end_when_asked_are_not_lost() {
    let (lanes, threads) = Lanes::start(2).unwrap();
    threads.end(Duration::from_secs(10));
    assert!(lost_now(&lanes).is_none());
}

/// What [`Lanes::lost`] says now.
fn lost_now(lanes: &Lanes) -> Option<LaneLost> {
    let lost = std::pin::pin!(lanes.lost());
    let mut cx = Context::from_waker(std::task::Waker::noop());
    match lost.poll(&mut cx) {
        Poll::Ready(lost) => Some(lost),
        Poll::Pending => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_stands_still_is_given_up() {
    let (lanes, threads) = Lanes::start(2).unwrap();
    let (go_on, waits) = std::sync::mpsc::sync_channel::<()>(1);
    let stuck = lanes.turn(0).unwrap();
    stuck.handle.spawn(async move {
        // Work without an await point.
        let _released = waits.recv();
    });
    assert!(matches!(lanes.lost().await, LaneLost::Stalled { lane: 0 }));
    drop(go_on);
    threads.end(Duration::from_secs(10));
}

#[tokio::test]
async fn every_lane_does_what_all_are_asked_to() {
    thread_local! {
        static ASKED: Cell<bool> = const { Cell::new(false) };
    }
    let (lanes, threads) = Lanes::start(3).unwrap();
    lanes.each(|| ASKED.set(true)).await;
    for number in 0..3 {
        let lane = lanes.turn(number).unwrap();
        let asked = lane.handle.spawn(async { ASKED.get() }).await;
        assert!(asked.unwrap());
    }
    assert!(!ASKED.get());
    threads.end(Duration::from_secs(1));
}

/// Without that, the runtime looks for news once in 61 turns.
#[tokio::test]
async fn a_task_that_always_has_more_to_do_lets_others_hear_the_news() {
    let turns = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&turns);
    let busy = Handle::current().spawn(std::future::poll_fn(move |cx| {
        counted.fetch_add(1, Ordering::Relaxed);
        after_others(cx);
        Poll::<()>::Pending
    }));
    let (near, far) = tokio::net::UnixStream::pair().unwrap();
    for _ in 0..10 {
        let before = turns.load(Ordering::Relaxed);
        near.try_write(b"x").unwrap();
        far.readable().await.unwrap();
        far.try_read(&mut [0; 9]).unwrap();
        // The next wait is a real one.
        far.try_read(&mut [0; 9]).unwrap_err();
        let meanwhile = turns.load(Ordering::Relaxed) - before;
        assert!(meanwhile <= 2, "{meanwhile} turns");
    }
    busy.abort();
}
