//! What each end sees when the other one closes, half-closes, resets, stalls or dies.

use std::sync::Arc;
use std::time::Duration;

use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::testing::{Carriers, Path, Wire, World, app, closed, id, sockets, soon};
use super::super::{ConnectHeaders, TunnelError};
use super::{By, Closed, How, plain};
use crate::drain::Tasks;
use crate::net::reset_on_close;

const MEGABYTE: usize = 1 << 20;

/// A pattern in which a lost, doubled or swapped byte shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect()
}

async fn read_all(socket: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    soon(socket.read_to_end(&mut bytes)).await.map(|_| bytes)
}

fn is_reset(result: &std::io::Result<Vec<u8>>) -> bool {
    matches!(result, Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset)
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn each_direction_closes_by_itself(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let (gateway, mut ends) = world.node().await;
    let client = world.client().await;
    let mut path = Path::open(&world, &client, &gateway).await;

    path.client.write_all(b"question").await.unwrap();
    path.client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut path.server).await.unwrap(), b"question");
    // The server answers long after the client's end of file.
    path.server.write_all(b"answer").await.unwrap();
    drop(path.server);
    assert_eq!(read_all(&mut path.client).await.unwrap(), b"answer");

    let outbound = soon(path.outbound).await.unwrap();
    assert_eq!(outbound.reason(), "app_closed");
    assert_eq!(soon(ends.recv()).await.unwrap().reason(), "peer_closed");
    assert_eq!((path.traffic.sent(), path.traffic.received()), (8, 6));
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn the_server_may_close_first(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let (gateway, mut ends) = world.node().await;
    let client = world.client().await;
    let mut path = Path::open(&world, &client, &gateway).await;

    path.server.write_all(b"hello").await.unwrap();
    path.server.shutdown().await.unwrap();
    assert_eq!(read_all(&mut path.client).await.unwrap(), b"hello");
    path.client.write_all(b"still here").await.unwrap();
    drop(path.client);
    assert_eq!(read_all(&mut path.server).await.unwrap(), b"still here");

    assert_eq!(soon(path.outbound).await.unwrap().reason(), "peer_closed");
    assert_eq!(soon(ends.recv()).await.unwrap().reason(), "app_closed");
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_by_the_client_is_a_reset_at_the_server(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let (gateway, mut ends) = world.node().await;
    let client = world.client().await;
    let mut path = Path::open(&world, &client, &gateway).await;

    reset_on_close(&path.client).unwrap();
    drop(path.client);
    assert!(is_reset(&read_all(&mut path.server).await));
    assert_eq!(soon(path.outbound).await.unwrap().reason(), "app_reset");
    assert_eq!(soon(ends.recv()).await.unwrap().reason(), "peer_reset");
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_by_the_server_is_a_reset_at_the_client(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    let mut path = Path::open(&world, &client, &gateway).await;

    reset_on_close(&path.server).unwrap();
    drop(path.server);
    assert!(is_reset(&read_all(&mut path.client).await));
    assert_eq!(soon(path.outbound).await.unwrap().reason(), "peer_reset");
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_after_the_end_of_file_is_still_a_reset(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let (gateway, mut ends) = world.node().await;
    let client = world.client().await;
    let mut path = Path::open(&world, &client, &gateway).await;

    path.client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut path.server).await.unwrap(), b"");
    reset_on_close(&path.client).unwrap();
    drop(path.client);
    assert_eq!(soon(path.outbound).await.unwrap().reason(), "app_reset");
    assert_eq!(soon(ends.recv()).await.unwrap().reason(), "peer_reset");
    let written = soon(async {
        loop {
            if let Err(error) = path.server.write_all(&[0; 1024]).await {
                return error.kind();
            }
            tokio::task::yield_now().await;
        }
    });
    let kind = written.await;
    let reset = [
        std::io::ErrorKind::ConnectionReset,
        std::io::ErrorKind::BrokenPipe,
    ];
    assert!(reset.contains(&kind), "{kind:?}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_arrive_unharmed_in_both_directions_at_once(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    let path = Path::open(&world, &client, &gateway).await;

    let sent = pattern(100 * MEGABYTE);
    let (mut client_reads, mut client_writes) = path.client.into_split();
    let (mut server_reads, mut server_writes) = path.server.into_split();
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let results = soon(async {
        tokio::join!(
            async {
                client_writes.write_all(&sent).await.unwrap();
                client_writes.shutdown().await
            },
            async {
                server_writes.write_all(&sent).await.unwrap();
                server_writes.shutdown().await
            },
            client_reads.read_to_end(&mut down),
            server_reads.read_to_end(&mut up),
        )
    });
    let (_, _, received, delivered) = results.await;
    assert_eq!(
        (received.unwrap(), delivered.unwrap()),
        (sent.len(), sent.len())
    );
    assert!(up == sent && down == sent, "bytes changed on the way");
    let total = u64::try_from(sent.len()).unwrap();
    assert_eq!(path.traffic.sent(), total);
    assert_eq!(path.traffic.received(), total);
    assert!(matches!(soon(path.outbound).await.unwrap().how, How::Eof));
}

/// Writes until nothing more is taken, and returns how much was.
async fn fill(socket: &TcpStream) -> usize {
    let chunk = vec![0_u8; 256 << 10];
    let mut taken = 0;
    let stalled = Duration::from_millis(500);
    while tokio::time::timeout(stalled, socket.writable())
        .await
        .is_ok()
    {
        match socket.try_write(&chunk) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            written => taken += written.unwrap(),
        }
    }
    taken
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stalls_stalls_the_writer_and_nobody_else(
    #[values(Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::with(carriers.single());
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    let stalled = Path::open(&world, &client, &gateway).await;
    let mut other = Path::open(&world, &client, &gateway).await;

    let taken = fill(&stalled.client).await;
    // Socket buffers of four sockets, one stream window, one send buffer.
    assert!(
        taken < 64 * MEGABYTE,
        "{taken} bytes are somewhere in between"
    );

    let (mut reads, mut writes) = other.server.split();
    let echo = tokio::io::copy(&mut reads, &mut writes);
    let sent = pattern(4 * MEGABYTE);
    let (mut client_reads, mut client_writes) = other.client.into_split();
    let mut back = vec![0; sent.len()];
    let conversation = async {
        tokio::join!(
            async {
                client_writes.write_all(&sent).await.unwrap();
                client_writes.shutdown().await.unwrap();
            },
            async { client_reads.read_exact(&mut back).await.unwrap() },
            async { echo.await.unwrap() },
        )
    };
    soon(conversation).await;
    assert!(back == sent);
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_gets_through_although_the_other_end_never_reads(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let (gateway, mut ends) = world.node().await;
    let client = world.client().await;
    let mut path = Path::open(&world, &client, &gateway).await;

    fill(&path.client).await;
    reset_on_close(&path.client).unwrap();
    drop(path.client);
    assert_eq!(soon(path.outbound).await.unwrap().reason(), "app_reset");
    assert_eq!(soon(ends.recv()).await.unwrap().reason(), "peer_reset");
    assert!(is_reset(&read_all(&mut path.server).await));
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_is_a_reset_for_both_applications(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    let mut path = Path::open(&world, &client, &gateway).await;

    gateway.cut.cancel();
    assert!(is_reset(&read_all(&mut path.client).await));
    assert!(is_reset(&read_all(&mut path.server).await));
    let closed = soon(path.outbound).await.unwrap();
    assert_eq!(closed.reason(), "cut_by_peer");
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_carrier_is_a_reset_for_both_applications(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let (mut gateway, _ends) = world.node().await;
    let wire = Wire::to(gateway.address);
    gateway.address = wire.address;
    let client = world.client().await;
    let mut path = Path::open(&world, &client, &gateway).await;

    wire.interrupt();
    assert!(is_reset(&read_all(&mut path.client).await));
    assert!(is_reset(&read_all(&mut path.server).await));
    let closed = soon(path.outbound).await.unwrap();
    assert!(
        matches!(
            closed,
            Closed {
                by: By::Peer,
                how: How::Error(_)
            }
        ),
        "{closed:?}"
    );
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn one_stream_that_is_reset_leaves_the_others_on_its_carrier_unharmed(
    #[values(Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::with(carriers.single());
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    let mut victim = Path::open(&world, &client, &gateway).await;
    let mut other = Path::open(&world, &client, &gateway).await;
    assert_eq!(client.carriers(), 1);

    victim.client.write_all(&pattern(MEGABYTE)).await.unwrap();
    reset_on_close(&victim.server).unwrap();
    drop(victim.server);
    assert!(is_reset(&read_all(&mut victim.client).await));

    other.client.write_all(b"ping").await.unwrap();
    let mut ping = [0; 4];
    soon(other.server.read_exact(&mut ping)).await.unwrap();
    assert_eq!(&ping, b"ping");
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_is_down_is_a_refusal_with_a_reason(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    let (_nobody, destination) = closed();
    let route = gateway.route(destination);
    let error = soon(client.open(&id("caller"), &route, &ConnectHeaders::default(), None)).await;
    let Err(TunnelError::Refused { status, detail, .. }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(status.as_u16(), 503);
    assert!(detail.unwrap().to_string().contains("refused"));
}

#[rstest]
#[tokio::test]
async fn an_open_connection_costs_little_memory(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    let (_listener, destination) = app();
    let route = gateway.route(destination);
    let tunnel = super::super::testing::open(&client, &route).await.unwrap();
    let (socket, _other) = sockets().await;
    let socket = Arc::new(socket);
    let carried = size_of_val(&super::tunnel(&socket, tunnel.stream, Arc::default()));
    assert!(carried <= 256, "the future of a splice has {carried} bytes");
    let carried = size_of_val(&plain(&socket, &socket, Arc::default()));
    assert!(
        carried <= 2048,
        "the future of a plain splice has {carried} bytes"
    );
}

/// Two applications with one agent in between, in plaintext.
async fn plain_path() -> (TcpStream, TcpStream, tokio::sync::oneshot::Receiver<Closed>) {
    let ((client, captured), (upstream, server)) = (sockets().await, sockets().await);
    let (ended, ends) = tokio::sync::oneshot::channel();
    Tasks::new().spawn("plain", async move {
        let closed = plain(&captured, &upstream, Arc::default()).await;
        drop((captured, upstream));
        drop(ended.send(closed));
    });
    (client, server, ends)
}

#[tokio::test]
async fn plaintext_closes_each_direction_by_itself() {
    let (mut client, mut server, ends) = plain_path().await;
    let sent = pattern(5 * MEGABYTE);
    let writing = async {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
    };
    let ((), received) = tokio::join!(writing, read_all(&mut server));
    assert!(received.unwrap() == sent);
    server.write_all(b"answer").await.unwrap();
    drop(server);
    assert_eq!(read_all(&mut client).await.unwrap(), b"answer");
    assert_eq!(soon(ends).await.unwrap().reason(), "app_closed");
}

#[tokio::test]
async fn plaintext_passes_a_reset_on_although_nobody_reads() {
    let (client, mut server, ends) = plain_path().await;
    fill(&client).await;
    reset_on_close(&client).unwrap();
    drop(client);
    assert_eq!(soon(ends).await.unwrap().reason(), "app_reset");
    assert!(is_reset(&read_all(&mut server).await));
}

#[tokio::test]
async fn plaintext_passes_the_servers_reset_on() {
    let (mut client, server, ends) = plain_path().await;
    client.write_all(b"x").await.unwrap();
    reset_on_close(&server).unwrap();
    drop(server);
    assert!(is_reset(&read_all(&mut client).await));
    assert_eq!(soon(ends).await.unwrap().reason(), "peer_reset");
}
