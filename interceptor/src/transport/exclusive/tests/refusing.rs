//! Peers that refuse a stream unseen: it is asked for elsewhere, and its carrier is none the worse.

use std::net::SocketAddr;
use std::sync::Arc;

use h2::Reason;
use http::Response;
use parking_lot::Mutex;
use rstest::rstest;

use super::super::super::testing::{Carriers, World, open, route};
use super::super::super::tls::{FAST, MUX};
use super::interop::Foreign;

/// A peer of whatever protocol that refuses this many streams unseen, and what it was asked: how many
/// streams on each carrier.
async fn refusing(world: &World, refusals: usize) -> (SocketAddr, Arc<Mutex<Vec<usize>>>) {
    let foreign = Foreign::speaking_any(world, &[FAST, MUX, b"h2"]).await;
    let address = foreign.address;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (tasks, told) = (world.tasks.clone(), Arc::clone(&asked));
    world.tasks.spawn("foreign server", async move {
        loop {
            let mut connection = foreign.connection().await;
            let asked = Arc::clone(&told);
            let carrier = {
                let mut asked = asked.lock();
                asked.push(0);
                asked.len() - 1
            };
            tasks.spawn("foreign carrier", async move {
                let mut kept = Vec::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let before: usize = asked.lock().iter().sum();
                    asked.lock()[carrier] += 1;
                    if before < refusals {
                        respond.send_reset(Reason::REFUSED_STREAM);
                    } else {
                        let answer = respond.send_response(Response::new(()), false);
                        kept.push((request, answer.unwrap()));
                    }
                }
            });
        }
    });
    (address, asked)
}

/// A refused stream says nothing against its carrier, and that others may go there.
#[rstest]
#[case::exclusive(Carriers::Exclusive, [2, 1])]
#[case::shared(Carriers::Shared, [2, 1])]
// Where there is somebody already.
#[case::mux(Carriers::Mux, [1, 2])]
#[tokio::test]
async fn a_stream_that_is_refused_unseen_is_asked_for_elsewhere_and_its_carrier_kept(
    #[case] carriers: Carriers,
    #[case] expected: [usize; 2],
) {
    let world = World::on(carriers);
    let client = world.client().await;
    let (address, asked) = refusing(&world, 1).await;
    let route = route(address, "10.1.2.3:80".parse().unwrap());
    let elsewhere = open(&client, &route).await.unwrap();
    assert!(!elsewhere.reused);
    assert_eq!(*asked.lock(), [1, 1]);
    assert_eq!(client.carriers(), 2);
    let next = open(&client, &route).await.unwrap();
    assert!(next.reused);
    assert_eq!(*asked.lock(), expected);
    assert_eq!(client.carriers(), 2);
}

#[rstest]
#[tokio::test]
async fn a_peer_that_refuses_every_stream_is_not_asked_without_end(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::with(carriers.single());
    let client = world.client().await;
    let (address, asked) = refusing(&world, usize::MAX).await;
    let route = route(address, "10.1.2.3:80".parse().unwrap());
    let error = open(&client, &route).await.unwrap_err();
    assert_eq!(error.reason(), "session_protocol", "{error:?}");
    assert_eq!(*asked.lock(), [1; 4], "each carrier once");
}
