//! Peers that leave: what has ended in order before stays so.

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::super::super::Client;
use super::super::super::codec::{fields, frame};
use super::super::super::testing::{World, soon};
use super::interop::{Foreign, greeting, said, spliced};

/// The end of the first stream.
const END: [u8; 9] = [0, 0, 0, 0, 1, 0, 0, 0, 1];

/// A client of ours, and a server that is no agent of ours.
async fn ends() -> (World, Client, Foreign) {
    let world = World::new();
    let client = world.client().await;
    let foreign = Foreign::new(&world).await;
    (world, client, foreign)
}

/// Waits for the first request and accepts it.
async fn answer(stream: &mut TlsStream<TcpStream>) {
    said(stream, b"10.1.2.3:80").await;
    let block = fields::answer(StatusCode::OK, &http::HeaderMap::new());
    let mut out = Vec::new();
    frame::push_headers(&mut out, 1, &block, frame::End::Open);
    stream.write_all(&out).await.unwrap();
}

/// An agent that is being replaced ends what it carries, and leaves at once. That it leaves says
/// nothing against what has ended in order.
#[tokio::test]
async fn a_peer_that_ends_the_stream_and_leaves_at_once_has_ended_it_in_order() {
    let (world, client, foreign) = ends().await;
    let address = foreign.address;
    world.tasks.spawn("foreign server", async move {
        let mut leaving = foreign.accept().await;
        leaving.write_all(&greeting()).await.unwrap();
        answer(&mut leaving).await;
        said(&mut leaving, &END).await;
        let mut out = END.to_vec();
        frame::push_go_away(&mut out, 1, frame::NO_ERROR);
        leaving.write_all(&out).await.unwrap();
        leaving.shutdown().await.unwrap();
    });
    let (mut near, end, _) = spliced(&world, &client, address).await;
    near.shutdown().await.unwrap();
    assert_eq!(soon(end).await.unwrap().reason(), "app_closed");
    assert_eq!(near.read(&mut [0]).await.unwrap(), 0, "and no reset");
}

/// What comes behind the end of a stream that is over cannot spoil it. But nothing of such a peer is
/// read any more, and it is told why.
#[tokio::test]
async fn a_peer_that_talks_nonsense_behind_the_end_of_a_stream_is_told_and_left() {
    const PADDED_WITHOUT_LENGTH: [u8; 9] = [0, 0, 0, 0, 8, 0, 0, 0, 1];
    const FRAME_SIZE_ERROR: [u8; 4] = [0, 0, 0, 6];
    let (world, client, foreign) = ends().await;
    let address = foreign.address;
    let (left, leaves) = tokio::sync::oneshot::channel();
    world.tasks.spawn("foreign server", async move {
        let mut speaking = foreign.accept().await;
        speaking.write_all(&greeting()).await.unwrap();
        answer(&mut speaking).await;
        said(&mut speaking, &END).await;
        let out = [&END[..], &PADDED_WITHOUT_LENGTH, &[0; 40]].concat();
        speaking.write_all(&out).await.unwrap();
        let mut heard = Vec::new();
        // A reset is an end, too.
        let _how = speaking.read_to_end(&mut heard).await;
        drop(left.send(heard));
    });
    let (mut near, end, _) = spliced(&world, &client, address).await;
    near.shutdown().await.unwrap();
    assert_eq!(soon(end).await.unwrap().reason(), "app_closed");
    assert_eq!(near.read(&mut [0]).await.unwrap(), 0, "and no reset");
    let heard = soon(leaves).await.unwrap();
    assert!(heard.ends_with(&FRAME_SIZE_ERROR), "{heard:02x?}");
}

/// A handshake that ends while an agent is being replaced is answered by greeting and goodbye in one
/// breath. The client goes to the successor and fails nothing.
#[tokio::test]
async fn a_peer_that_leaves_with_its_greeting_costs_another_carrier_and_no_connection() {
    let (world, client, foreign) = ends().await;
    let address = foreign.address;
    world.tasks.spawn("foreign server", async move {
        let mut leaving = foreign.accept().await;
        let mut out = greeting();
        frame::push_go_away(&mut out, 0, frame::NO_ERROR);
        leaving.write_all(&out).await.unwrap();
        leaving.shutdown().await.unwrap();
        let mut staying = foreign.accept().await;
        staying.write_all(&greeting()).await.unwrap();
        answer(&mut staying).await;
        std::future::pending::<()>().await;
    });
    let opened = soon(spliced(&world, &client, address));
    let (_near, _end, _traffic) = opened.await;
}
