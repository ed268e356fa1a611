//! Peers of the `h2` crate's and applications that take nothing: what is kept for them is bounded.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;

use super::super::super::exclusive::tests::interop::{
    Foreign, HTTP2, asking, foreign_client, speak,
};
use super::super::super::splice;
use super::super::super::testing::{World, app, open, route, sockets, soon};
use crate::net::Traffic;

/// Far less than the peer has granted and we would send, and more than the kernel keeps for us.
const MESSAGES: u64 = 200_000;

/// A peer that grants a window of 2 GiB, accepts one request, and reads nothing from then on.
async fn deaf(world: &World, told: oneshot::Receiver<()>) -> std::net::SocketAddr {
    let foreign = Foreign::speaking(world, HTTP2).await;
    // Inherited by what is accepted: the kernel shall not take it all instead of us.
    let listener = SockRef::from(&foreign.listener);
    listener.set_recv_buffer_size(4096).unwrap();
    let address = foreign.address;
    world.tasks.spawn("deaf peer", async move {
        let mut connection = speak(foreign.accept().await).await;
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        let _stream = respond.send_response(Response::new(()), false).unwrap();
        tokio::select! {
            _ = connection.accept() => panic!("the client has left"),
            told = told => told.unwrap(),
        }
        std::future::pending::<()>().await;
    });
    address
}

/// The crate counts bytes and not the buffers that they are in: each of these messages is in one of
/// 18 KiB.
#[tokio::test]
async fn an_application_of_many_small_messages_is_not_read_while_the_peer_takes_nothing() {
    let world = World::new();
    let client = world.client().await;
    let (tell, told) = oneshot::channel();
    let gateway = deaf(&world, told).await;
    let tunnel = open(&client, &route(gateway, "10.1.2.3:80".parse().unwrap())).await;
    let (mut near, captured) = sockets().await;
    let traffic = Arc::new(Traffic::default());
    let counted = Arc::clone(&traffic);
    world.tasks.spawn("outbound", async move {
        let captured = Arc::new(captured);
        splice::tunnel(&captured, tunnel.unwrap().stream, counted).await;
    });
    tell.send(()).unwrap();
    let mut unheard = 0;
    while traffic.sent() < MESSAGES && unheard < 100 {
        let before = traffic.sent();
        near.write_all(b"x").await.unwrap();
        let mut turns = 0;
        while traffic.sent() == before && turns < 20 {
            tokio::task::yield_now().await;
            turns += 1;
        }
        unheard = if traffic.sent() == before {
            unheard + 1
        } else {
            0
        };
    }
    assert!(traffic.sent() < MESSAGES, "it would go on for ever");
}

/// A foreign client of a gateway of ours.
async fn requests(world: &World, gateway: std::net::SocketAddr) -> h2::client::SendRequest<Bytes> {
    let stream = foreign_client(world, gateway, HTTP2).await;
    let mut builder = h2::client::Builder::new();
    let requests = asking(world, builder.max_send_buffer_size(16 << 20), stream).await;
    requests.ready().await.unwrap()
}

/// A stream to `destination`, which may be sent so much unheard.
async fn stream(
    requests: &h2::client::SendRequest<Bytes>,
    destination: std::net::SocketAddr,
) -> (h2::SendStream<Bytes>, h2::RecvStream, usize) {
    let mut requests = requests.clone().ready().await.unwrap();
    let asked = Request::connect(destination.to_string()).body(()).unwrap();
    let (answer, mut send) = requests.send_request(asked, false).unwrap();
    let receive = soon(answer).await.unwrap().into_body();
    send.reserve_capacity(1 << 30);
    let granted = send.capacity();
    (send, receive, granted)
}

/// What a connection may have to be kept is little at first, and more when it has been worth it.
#[tokio::test]
async fn a_peer_may_say_little_unheard_until_what_it_says_is_taken_fast() {
    let world = World::new();
    let (gateway, _ends) = world.node().await;
    let (listener, destination) = app();
    let requests = requests(&world, gateway.address).await;
    let (mut send, _receive, granted) = stream(&requests, destination).await;
    assert_eq!(granted, 64 << 10);
    let tasks = world.tasks.clone();
    world.tasks.spawn("application", async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tasks.spawn("connection", async move {
                let mut taken = vec![0; 1 << 18];
                while let Ok(1..) = socket.read(&mut taken).await {}
            });
        }
    });
    let growing = async {
        loop {
            let mut left = 4 << 20;
            while left > 0 {
                send.reserve_capacity(left);
                let granted = poll_fn(|cx| send.poll_capacity(cx)).await;
                let granted = granted.unwrap().unwrap();
                send.send_data(vec![7; granted].into(), false).unwrap();
                left -= granted.min(left);
            }
            let (_another, _, granted) = stream(&requests, destination).await;
            if granted == 4 << 20 {
                return;
            }
        }
    };
    soon(growing).await;
}
