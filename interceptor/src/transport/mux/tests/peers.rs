//! Peers that are no agents of ours, speaking under our protocol's name: the `h2` crate, which is
//! understood, and some that do what they may not.

use bytes::Bytes;
use http::{HeaderMap, Request};
use rstest::rstest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::super::super::codec::{Event, Reader, fields, frame};
use super::super::super::exclusive::tests::interop::{asking, foreign_client, greeted};
use super::super::super::testing::{World, app, soon};
use super::super::super::tls::MUX;
use super::super::MOST_SERVED;
use super::super::window::FIRST;

const MEGABYTE: usize = 1 << 20;

/// Requests of the `h2` crate, which asks for new keys first.
async fn requests(world: &World, gateway: std::net::SocketAddr) -> h2::client::SendRequest<Bytes> {
    let mut stream = foreign_client(world, gateway, MUX).await;
    stream.get_mut().1.refresh_traffic_keys().unwrap();
    let mut builder = h2::client::Builder::new();
    let windows = builder
        .initial_window_size(FIRST)
        .initial_connection_window_size((1 << 31) - 1);
    asking(world, windows, stream).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_h2_crate_gets_every_byte_of_many_streams_at_once() {
    let world = World::new();
    let (gateway, mut ends) = world.node().await;
    let requests = requests(&world, gateway.address).await;
    let (listener, destination) = app();
    let tasks = world.tasks.clone();
    world.tasks.spawn("echoes", async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tasks.spawn("echo", async move {
                let (mut reads, mut writes) = socket.split();
                drop(tokio::io::copy(&mut reads, &mut writes).await);
            });
        }
    });
    let mut streams = Vec::new();
    for size in [0, 1, 500, 70_000, 2 * MEGABYTE] {
        let mut requests = requests.clone().ready().await.unwrap();
        let asked = Request::connect(destination.to_string()).body(()).unwrap();
        let (answer, send) = requests.send_request(asked, false).unwrap();
        streams.push((answer, send, size));
    }
    for (answer, mut send, size) in streams {
        let sent: Vec<u8> = (0..size)
            .map(|at| u8::try_from(at % 251).unwrap())
            .collect();
        let mut receive = soon(answer).await.unwrap().into_body();
        send.send_data(Bytes::from(sent.clone()), true).unwrap();
        let mut heard = Vec::new();
        while let Some(bytes) = soon(receive.data()).await {
            let bytes = bytes.unwrap();
            let _released = receive.flow_control().release_capacity(bytes.len());
            heard.extend_from_slice(&bytes);
        }
        assert!(heard == sent, "{} of {size} bytes came back", heard.len());
        assert_eq!(soon(ends.recv()).await.unwrap().reason(), "peer_closed");
    }
}

fn ask(out: &mut Vec<u8>, stream: u32, destination: std::net::SocketAddr) {
    let block = fields::connect(&destination.to_string(), &HeaderMap::new());
    frame::push_headers(out, stream, &block, frame::End::Open);
}

/// All events until `last`, or the end.
async fn heard(stream: &mut TlsStream<TcpStream>, last: impl Fn(&Event) -> bool) -> Vec<Event> {
    let (mut reader, mut events) = (Reader::of_server(4096), Vec::new());
    let mut piece = vec![0; 1 << 16];
    while let Ok(count @ 1..) = soon(stream.read(&mut piece)).await {
        let mut at = 0..count;
        while let Some(event) = reader.next(&piece, &mut at).unwrap() {
            let was_last = last(&event);
            events.push(event);
            if was_last {
                return events;
            }
        }
    }
    events
}

/// Data for a stream whose request has not been answered yet.
fn data(stream: u32, length: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in vec![7; length].chunks(16_000) {
        out.extend(frame::data(stream, piece.len()));
        out.extend_from_slice(piece);
    }
    out
}

#[rstest]
#[case::more_than_the_window(|out: &mut Vec<u8>| out.extend(data(1, 65_537)), 3)]
#[case::data_before_the_request(|out: &mut Vec<u8>| out.extend(data(3, 1)), 1)]
#[case::a_window_before_the_request(|out: &mut Vec<u8>| frame::push_window(out, 3, 1), 1)]
#[case::no_window_at_all(|out: &mut Vec<u8>| frame::push_window(out, 1, 0), 1)]
#[case::a_window_beyond_all_bounds(|out: &mut Vec<u8>| frame::push_window(out, 1, (1 << 31) - 1), 3)]
#[case::an_end_that_comes_twice(|out: &mut Vec<u8>| {
    frame::push_end(out, 1);
    frame::push_end(out, 1);
}, 1)]
#[case::a_stream_of_the_servers(|out: &mut Vec<u8>| ask(out, 2, "127.0.0.1:1".parse().unwrap()), 1)]
#[tokio::test]
async fn a_client_that_does_what_it_may_not_is_told_and_left(
    #[case] does: fn(&mut Vec<u8>),
    #[case] expected: u32,
) {
    let world = World::new();
    // It never answers.
    let gateway = world.serve(|incoming| async {
        let _kept = incoming;
        std::future::pending::<()>().await;
    });
    let gateway = gateway.await;
    let mut stream = greeted(&world, gateway.address, MUX).await;
    let mut said = Vec::new();
    ask(&mut said, 1, "127.0.0.1:1".parse().unwrap());
    does(&mut said);
    stream.write_all(&said).await.unwrap();
    let events = heard(&mut stream, |event| matches!(event, Event::GoAway { .. })).await;
    let Some(Event::GoAway { code, .. }) = events.last() else {
        panic!("{events:?}");
    };
    assert_eq!(*code, expected);
}

#[tokio::test]
async fn a_whole_window_may_be_said_before_the_answer() {
    let world = World::new();
    let (gateway, _ends) = world.node().await;
    let (listener, destination) = app();
    let mut stream = greeted(&world, gateway.address, MUX).await;
    let mut said = Vec::new();
    ask(&mut said, 1, destination);
    said.extend(data(1, 65_536));
    frame::push_end(&mut said, 1);
    stream.write_all(&said).await.unwrap();
    let (mut socket, _) = soon(listener.accept()).await.unwrap();
    let mut got = Vec::new();
    soon(socket.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got.len(), 65_536);
}

#[tokio::test]
async fn what_came_before_a_reset_is_the_applications() {
    let world = World::new();
    let (gateway, mut ends) = world.node().await;
    let (listener, destination) = app();
    let mut stream = greeted(&world, gateway.address, MUX).await;
    let mut said = Vec::new();
    ask(&mut said, 1, destination);
    said.extend(data(1, 60_000));
    frame::push_end(&mut said, 1);
    frame::push_reset(&mut said, 1, frame::NO_ERROR);
    stream.write_all(&said).await.unwrap();
    let (mut socket, _) = soon(listener.accept()).await.unwrap();
    assert_eq!(soon(ends.recv()).await.unwrap().reason(), "peer_reset");
    let (mut got, mut piece) = (0, vec![0; 1 << 16]);
    while let Ok(count @ 1..) = soon(socket.read(&mut piece)).await {
        got += count;
    }
    assert_eq!(got, 60_000);
}

#[tokio::test]
async fn frames_of_a_byte_each_arrive_although_one_run_looks_at_few_of_them() {
    let world = World::new();
    let (gateway, _ends) = world.node().await;
    let (listener, destination) = app();
    let mut stream = greeted(&world, gateway.address, MUX).await;
    let sent: Vec<u8> = (0..5000_u32)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect();
    let mut said = Vec::new();
    ask(&mut said, 1, destination);
    for byte in &sent {
        said.extend(frame::data(1, 1));
        said.push(*byte);
    }
    frame::push_end(&mut said, 1);
    stream.write_all(&said).await.unwrap();
    let (mut socket, _) = soon(listener.accept()).await.unwrap();
    let mut got = Vec::new();
    soon(socket.read_to_end(&mut got)).await.unwrap();
    assert!(got == sent, "{} bytes", got.len());
}

#[tokio::test]
async fn more_streams_than_were_agreed_upon_are_refused_and_the_others_go_on() {
    let world = World::new();
    let gateway = world.serve(|incoming| async {
        let _kept = incoming;
        std::future::pending::<()>().await;
    });
    let gateway = gateway.await;
    let mut stream = greeted(&world, gateway.address, MUX).await;
    let mut said = Vec::new();
    let streams = u32::try_from(MOST_SERVED).unwrap();
    for number in 0..=streams {
        ask(&mut said, 2 * number + 1, "127.0.0.1:1".parse().unwrap());
    }
    stream.write_all(&said).await.unwrap();
    let events = heard(&mut stream, |event| matches!(event, Event::Reset { .. })).await;
    let expected = Event::Reset {
        stream: 2 * streams + 1,
        code: frame::REFUSED_STREAM,
    };
    assert_eq!(events.last(), Some(&expected));
    stream
        .write_all(&{
            let mut ping = Vec::new();
            frame::push_ping(&mut ping);
            ping
        })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_without_reading_answers_is_left() {
    const MOST: usize = 32 * MEGABYTE;
    let world = World::new();
    let (gateway, _ends) = world.node().await;
    let mut stream = greeted(&world, gateway.address, MUX).await;
    let mut pings = Vec::new();
    for _ in 0..1000 {
        frame::push_ping(&mut pings);
    }
    let mut taken = 0;
    while taken < MOST && soon(stream.write_all(&pings)).await.is_ok() {
        taken += pings.len();
    }
    assert!(taken < MOST, "it would go on for ever");
}

/// That a peer leaves says nothing against what has ended in order before.
#[tokio::test]
async fn a_client_that_ends_its_stream_and_leaves_at_once_has_ended_it_in_order() {
    let world = World::new();
    let (gateway, mut ends) = world.node().await;
    let mut stream = greeted(&world, gateway.address, MUX).await;
    let (listener, destination) = app();
    let mut out = Vec::new();
    ask(&mut out, 1, destination);
    stream.write_all(&out).await.unwrap();
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    app.shutdown().await.unwrap();
    heard(&mut stream, |event| matches!(event, Event::End { .. })).await;
    let mut out = Vec::new();
    frame::push_end(&mut out, 1);
    stream.write_all(&out).await.unwrap();
    stream.shutdown().await.unwrap();
    let closed = soon(ends.recv()).await.unwrap();
    assert_eq!(closed.reason(), "app_closed");
}
