//! Clients with a good certificate that ask without end: whatever they ask for is bounded in memory, and
//! in how long it holds up everybody else on the lane.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::HeaderMap;
use rstest::rstest;
use tokio::io::AsyncWriteExt as _;

use super::super::super::codec::{fields, frame};
use super::super::super::exclusive::tests::interop::greeted;
use super::super::super::testing::{Gateway, World, soon};
use super::super::super::tls::{FAST, MUX};

const H2: &[u8] = b"h2";
/// Requests whose answers would fill our memory; the kernel's buffers take some megabytes of both.
const MOST: usize = 16 << 20;
/// The runtime's budget is 128, and a shared carrier's task looks at 512 frames in one run.
const IN_ONE_GO: usize = 512;

/// Requests that are refused at once, on the streams from `first` on. Each needs a longer answer than
/// it is long itself.
fn nonsense(first: u32, count: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let block = fields::connect("x", &HeaderMap::new());
    for stream in (0..count).map(|number| first + 2 * number) {
        frame::push_headers(&mut out, stream, &block, frame::End::Open);
    }
    out
}

/// A gateway that refuses everything, and how often it has.
async fn refusing(world: &World) -> (Gateway, Arc<AtomicUsize>) {
    let served = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&served);
    let gateway = world.serve(move |_rejected| {
        counted.fetch_add(1, Ordering::Relaxed);
        async {}
    });
    (gateway.await, served)
}

/// By the answers that nobody reads a peer must not fill our memory, however patient it is.
#[rstest]
#[tokio::test]
async fn a_client_that_never_reads_its_refusals_is_left(#[values(FAST, MUX)] protocol: &[u8]) {
    const AT_ONCE: u32 = 100;
    let world = World::new();
    let (gateway, served) = refusing(&world).await;
    let mut stream = greeted(&world, gateway.address, protocol).await;
    let (mut taken, mut asked) = (0, 0);
    loop {
        let said = nonsense(2 * asked + 1, AT_ONCE);
        if soon(stream.write_all(&said)).await.is_err() {
            break;
        }
        asked += AT_ONCE;
        taken += said.len();
        assert!(taken < MOST, "it would go on for ever");
        // Not more at a time than there may be streams, so that nothing but answers is too much.
        let mut turns = 0;
        while served.load(Ordering::Relaxed) < usize::try_from(asked).unwrap() && turns < 1000 {
            tokio::task::yield_now().await;
            turns += 1;
        }
    }
}

/// Whatever a client asks for in one go, others have their turn in between.
#[rstest]
#[tokio::test]
async fn a_client_that_asks_and_asks_does_not_hold_up_its_lane(
    #[values(FAST, MUX, H2)] protocol: &[u8],
) {
    let world = World::new();
    let (gateway, served) = refusing(&world).await;
    let mut stream = greeted(&world, gateway.address, protocol).await;
    let said = nonsense(1, 4000);
    let (mut before, mut longest, mut quiet) = (0, 0, 0);
    let writing = async {
        // It may be left meanwhile.
        let _left = stream.write_all(&said).await;
    };
    let watching = async {
        while quiet < 1000 {
            tokio::task::yield_now().await;
            let now = served.load(Ordering::Relaxed);
            longest = longest.max(now - before);
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
        }
    };
    soon(async { tokio::join!(writing, watching) }).await;
    assert!(longest <= IN_ONE_GO, "{longest} of {before} in one go");
}
