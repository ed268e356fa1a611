//! Applications that do not read for a long time: that is back-pressure, and not a dead peer.

use std::time::Duration;

use rstest::rstest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::super::super::Config;
use super::super::super::codec::{fields, frame};
use super::super::super::splice::How;
use super::super::super::testing::{Carriers, Path, World, app, soon};
use super::super::super::tls::FAST;
use super::interop::{greeted, said};

/// A peer that is silent for three of these is taken for dead.
const BEAT: Duration = Duration::from_millis(300);

/// Half of it fills the way to the application and leaves the sender with nothing to do; all of it
/// fills everything. Either way pings cannot be answered.
#[rstest]
#[case::the_senders_agent_waits(64 << 20)]
#[case::only_the_receivers_agent_waits(10 << 20)]
#[tokio::test(flavor = "multi_thread")]
async fn an_application_may_stop_reading_for_as_long_as_it_likes(
    #[values(Carriers::Exclusive, Carriers::Mux)] carriers: Carriers,
    #[case] amount: usize,
) {
    let world = World::with(Config {
        ping_interval: BEAT,
        ping_timeout: 2 * BEAT,
        ..carriers.config()
    });
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    let Path {
        client: mut near,
        server: mut far,
        mut outbound,
        ..
    } = Path::open(&world, &client, &gateway).await;
    world.tasks.spawn("sender", async move {
        near.write_all(&vec![7; amount]).await.unwrap();
        near.shutdown().await.unwrap();
        near.read_to_end(&mut Vec::new()).await.unwrap();
    });
    // What must not happen has time to happen.
    let ended = timeout(8 * BEAT, &mut outbound).await;
    assert!(ended.is_err(), "{ended:?}");
    let mut heard = vec![0; amount];
    soon(far.read_exact(&mut heard)).await.unwrap();
    assert!(heard.iter().all(|byte| *byte == 7));
    assert_eq!(soon(far.read(&mut [0])).await.unwrap(), 0);
    drop(far);
    let closed = soon(outbound).await.unwrap();
    assert!(matches!(closed.how, How::Eof), "{closed:?}");
}

/// Answers that fill the buffer leave no room to read the application into. That is not its end.
#[tokio::test]
async fn an_application_that_has_to_wait_for_answers_to_the_peer_has_not_ended() {
    let world = World::new();
    let (gateway, _ends) = world.node().await;
    let (listener, destination) = app().await;
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
