//! Applications that do not read for a long time: that is back-pressure, and not a dead peer.

use std::time::Duration;

use rstest::rstest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::advance;

use super::super::super::Config;
use super::super::super::codec::{fields, frame};
use super::super::super::splice::{Closed, How};
use super::super::super::testing::{Carriers, Path, Wire, World, app, soon, stop_time};
use super::super::super::tls::FAST;
use super::interop::{greeted, said};
use crate::net::Traffic;

/// A peer that is silent for four of these is taken for dead.
const BEAT: Duration = Duration::from_secs(10);
/// Signs of life that come meanwhile, each in another beat: what must not happen has time to happen.
const SIGNS: usize = 10;
/// Turns of everybody's in which nothing happens before that is taken for more than a delay.
const QUIET: usize = 10_000;

/// Waits until nobody gets any further.
async fn standstill(traffic: &Traffic) {
    let (mut before, mut quiet) = (0, 0);
    while quiet < QUIET {
        tokio::task::yield_now().await;
        let now = traffic.sent();
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
}

/// Lets time pass until the far end has given so many signs of life: at each beat if it waits itself,
/// and otherwise when it is asked.
async fn signs(wire: &Wire, carried: &mut oneshot::Receiver<Closed>) {
    for _ in 0..SIGNS {
        let (before, mut turn) = (wire.back(), 0);
        while wire.back() == before {
            assert_eq!(carried.try_recv().unwrap_err(), TryRecvError::Empty);
            if turn % QUIET == 0 {
                advance(BEAT + BEAT / 10).await;
            }
            tokio::task::yield_now().await;
            turn += 1;
        }
    }
}

/// Half of it fills the way to the application and leaves the sender with nothing to do; all of it
/// fills everything. Either way pings cannot be answered.
#[rstest]
#[case::the_senders_agent_waits(64 << 20)]
#[case::only_the_receivers_agent_waits(3 << 20)]
#[tokio::test]
async fn an_application_may_stop_reading_for_as_long_as_it_likes(
    #[values(Carriers::Exclusive, Carriers::Mux)] carriers: Carriers,
    #[case] amount: usize,
) {
    let world = World::with(Config {
        ping_interval: BEAT,
        ping_timeout: 3 * BEAT,
        ..carriers.config()
    });
    stop_time(&world.tasks);
    let (mut gateway, _ends) = world.node().await;
    let wire = Wire::to(gateway.address);
    gateway.address = wire.address;
    let client = world.client().await;
    let Path {
        client: mut near,
        server: mut far,
        mut outbound,
        traffic,
    } = Path::open(&world, &client, &gateway).await;
    world.tasks.spawn("sender", async move {
        near.write_all(&vec![7; amount]).await.unwrap();
        near.shutdown().await.unwrap();
        let mut heard = Vec::new();
        near.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"thanks");
    });
    standstill(&traffic).await;
    signs(&wire, &mut outbound).await;
    let sender_waits = traffic.sent() < u64::try_from(amount).unwrap();
    assert!(sender_waits || amount < 64 << 20, "it is not held up");
    let mut heard = vec![0; amount];
    far.read_exact(&mut heard).await.unwrap();
    assert!(heard.iter().all(|byte| *byte == 7));
    assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
    far.write_all(b"thanks").await.unwrap();
    drop(far);
    let closed = outbound.await.unwrap();
    assert!(matches!(closed.how, How::Eof), "{closed:?}");
}

/// Answers that fill the buffer leave no room to read the application into. That is not its end.
#[tokio::test]
async fn an_application_that_has_to_wait_for_answers_to_the_peer_has_not_ended() {
    let world = World::new();
    let (gateway, _ends) = world.node().await;
    let (listener, destination) = app();
    let mut stream = greeted(&world, gateway.address, FAST).await;
    let mut out = Vec::new();
    let block = fields::connect(&destination.to_string(), &http::HeaderMap::new());
    frame::push_headers(&mut out, 1, &block, frame::End::Open);
    stream.write_all(&out).await.unwrap();
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    let mut pings = Vec::new();
    for _ in 0..300 {
        frame::push_ping(&mut pings);
    }
    for _ in 0..20 {
        app.write_all(b"mark").await.unwrap();
        stream.write_all(&pings).await.unwrap();
        said(&mut stream, b"mark").await;
    }
}
