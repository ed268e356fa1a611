//! Peers that leave: what has ended in order before stays so.

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::super::codec::{fields, frame};
use super::super::super::testing::{World, soon};
use super::interop::{Foreign, said, spliced};

/// An agent that is being replaced ends what it carries, and leaves at once. That it leaves says
/// nothing against what has ended in order.
#[tokio::test]
async fn a_peer_that_ends_the_stream_and_leaves_at_once_has_ended_it_in_order() {
    const END: [u8; 9] = [0, 0, 0, 0, 1, 0, 0, 0, 1];
    let world = World::new();
    let client = world.client().await;
    let foreign = Foreign::new(&world).await;
    let address = foreign.address;
    world.tasks.spawn("foreign server", async move {
        let mut leaving = foreign.accept().await;
        let mut out = Vec::new();
        frame::push_settings(&mut out, frame::Streams::One, 4096);
        let block = fields::answer(StatusCode::OK, &http::HeaderMap::new());
        frame::push_headers(&mut out, 1, &block, frame::End::Open);
        let (hello, answer) = out.split_at(out.len() - 9 - block.len());
        leaving.write_all(hello).await.unwrap();
        said(&mut leaving, b"10.1.2.3:80").await;
        leaving.write_all(answer).await.unwrap();
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

/// A handshake that ends while an agent is being replaced is answered by greeting and goodbye in one
/// breath. The client goes to the successor and fails nothing.
#[tokio::test]
async fn a_peer_that_leaves_with_its_greeting_costs_another_carrier_and_no_connection() {
    let world = World::new();
    let client = world.client().await;
    let foreign = Foreign::new(&world).await;
    let address = foreign.address;
    world.tasks.spawn("foreign server", async move {
        let mut leaving = foreign.accept().await;
        let mut out = Vec::new();
        frame::push_settings(&mut out, frame::Streams::One, 4096);
        frame::push_go_away(&mut out, 0, frame::NO_ERROR);
        leaving.write_all(&out).await.unwrap();
        leaving.shutdown().await.unwrap();
        let mut staying = foreign.accept().await;
        let mut out = Vec::new();
        frame::push_settings(&mut out, frame::Streams::One, 4096);
        staying.write_all(&out).await.unwrap();
        said(&mut staying, b"10.1.2.3:80").await;
        let block = fields::answer(StatusCode::OK, &http::HeaderMap::new());
        let mut out = Vec::new();
        frame::push_headers(&mut out, 1, &block, frame::End::Open);
        staying.write_all(&out).await.unwrap();
        std::future::pending::<()>().await;
    });
    let opened = soon(spliced(&world, &client, address));
    let (_near, _end, _traffic) = opened.await;
}
