//! How connections end, and what they carried: exactly.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use interceptor::capture::{Counter, End};
use rstest::rstest;

use super::{A, A6, APP, APP6, B, B6, Cell, PATIENCE, bound, drain, resetting, tcp};
use crate::support::{close, disconnect, is_refused, may_run, reconnect};

/// Sends so many bytes while the other end reads them.
fn send(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) {
    let mut writer = from.try_clone().unwrap();
    let sending = std::thread::spawn(move || writer.write_all(&vec![1; bytes]).unwrap());
    let mut received = vec![0; bytes];
    to.read_exact(&mut received).unwrap();
    sending.join().unwrap();
}

/// Waits until everything that was sent has been acknowledged.
async fn settled(cell: &Cell, sent: u64, received: u64) {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let open = cell.direct.open().unwrap();
        let totals = open[0].totals;
        if (totals.sent, totals.received) == (sent, received) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{totals:?}");
        tokio::task::yield_now().await;
    }
}

type Finish = fn(TcpStream, TcpStream);

/// The client closes and does not wait for the server.
fn client_first(client: TcpStream, server: TcpStream) {
    close(client);
    drain(&server).unwrap();
    close(server);
}

/// The client says that it is done, and waits for the server to say so.
fn half_closed(client: TcpStream, server: TcpStream) {
    client.shutdown(Shutdown::Write).unwrap();
    drain(&server).unwrap();
    close(server);
    drain(&client).unwrap();
    close(client);
}

/// The server closes, then the client.
fn server_first(client: TcpStream, server: TcpStream) {
    close(server);
    drain(&client).unwrap();
    close(client);
}

/// Both say that they are done before they read.
fn both(client: TcpStream, server: TcpStream) {
    client.shutdown(Shutdown::Write).unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    close((client, server));
}

/// The server resets.
fn server_resets(client: TcpStream, server: TcpStream) {
    close(resetting(server));
    let error = drain(&client).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    close(client);
}

/// The server resets after the client has said that it is done.
fn server_resets_late(client: TcpStream, server: TcpStream) {
    client.shutdown(Shutdown::Write).unwrap();
    drain(&server).unwrap();
    close(resetting(server));
    close(client);
}

/// The client resets.
fn client_resets(client: TcpStream, server: TcpStream) {
    close(resetting(client));
    drain(&server).unwrap_err();
    close(server);
}

#[rstest]
#[case::client_first(client_first, End::Finished)]
#[case::half_closed(half_closed, End::Finished)]
#[case::server_first(server_first, End::Finished)]
#[case::both(both, End::Finished)]
#[case::server_resets(server_resets, End::Reset)]
#[case::server_resets_late(server_resets_late, End::Reset)]
#[case::client_resets(client_resets, End::Aborted)]
#[tokio::test(flavor = "multi_thread")]
async fn bytes_and_end_are_exact(
    #[case] finish: Finish,
    #[case] expected: End,
    #[values((0, 0), (1, 0), (0, 1), (3, 70_000), (3_000_000, 5))] bytes: (usize, usize),
) {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let (mut client, mut server) = cell.pair(APP);
    let (sent, received) = bytes;
    send(&mut client, &mut server, sent);
    send(&mut server, &mut client, received);
    let (sent, received) = (sent.try_into().unwrap(), received.try_into().unwrap());
    settled(&cell, sent, received).await;
    tokio::task::spawn_blocking(move || finish(client, server))
        .await
        .unwrap();
    let ended = cell.ended().await;
    assert_eq!((ended.totals.sent, ended.totals.received), (sent, received));
    assert_eq!((ended.established, ended.end), (true, expected));
    assert!(ended.totals.round_trip.is_some() && !ended.totals.duration.is_zero());
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn what_arrived_and_was_not_read_has_arrived() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let (client, mut server) = cell.pair(APP);
    server.write_all(b"unread").unwrap();
    settled(&cell, 0, 6).await;
    close(client);
    let ended = cell.ended().await;
    assert_eq!((ended.totals.sent, ended.totals.received), (0, 6));
    assert_eq!(ended.end, End::Aborted);
    close(server);
    cell.leaves_nothing().await;
}

#[rstest]
#[case::ipv4(APP)]
#[case::ipv6(APP6)]
#[case::ipv4_mapped("[::ffff:10.79.0.2]:9000")]
#[tokio::test]
async fn a_connection_is_cut_at_both_ends(#[case] to: &str) {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let (mut client, mut server) = cell.pair(to);
    let (mut other, mut beside) = cell.pair(to);
    let flow = cell.opened().await;
    client.write_all(b"before").unwrap();
    server.read_exact(&mut [0; 6]).unwrap();
    assert!(cell.direct.cut(&flow).unwrap());
    assert_eq!(
        client.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::ConnectionAborted
    );
    // By the other end's reset, or before that.
    let error = server.read(&mut [0]).unwrap_err().kind();
    assert!(
        [ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted].contains(&error),
        "{error}"
    );
    let ended = cell.ended().await;
    assert_eq!(
        (ended.flow, ended.end, ended.totals.sent),
        (flow, End::Cut, 6)
    );
    cell.bypassed_the_agent();
    assert!(!cell.direct.cut(&flow).unwrap(), "it is over");
    // The one beside it goes on.
    other.write_all(b"x").unwrap();
    beside.read_exact(&mut [0]).unwrap();
    // Cut at the other end, when the initiator's workload is gone.
    let flow = cell.direct.open().unwrap()[0].flow;
    cell.capture.unenrol(&cell.workloads.0.id).unwrap();
    assert!(cell.direct.cut(&flow).unwrap());
    assert_eq!(
        other.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert_eq!(cell.ended().await.end, End::Reset);
    cell.capture.unenrol(&cell.workloads.1.id).unwrap();
    assert_eq!(
        cell.direct.cut(&flow).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    cell.leaves_nothing().await;
}

/// Whatever becomes of the reset that the first end sends.
#[rstest]
#[case::ipv4(APP, A, B)]
#[case::ipv6(APP6, A6, B6)]
#[tokio::test]
async fn a_connection_is_cut_at_both_ends_though_nothing_gets_through(
    #[case] to: &str,
    #[case] a: &str,
    #[case] b: &str,
) {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let (mut client, mut server) = cell.pair(to);
    let (other, beside) = cell.pair(to);
    let flow = cell.opened().await;
    send(&mut client, &mut server, 6);
    for address in [a, b] {
        cell.host.drop_everything_to(address);
    }
    assert!(cell.direct.cut(&flow).unwrap());
    for end in [&client, &server] {
        end.set_nonblocking(true).unwrap();
        let error = { end }.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
    }
    let ended = cell.ended().await;
    assert_eq!(
        (ended.flow, ended.end, ended.totals.sent),
        (flow, End::Cut, 6)
    );
    cell.bypassed_the_agent();
    // Its initiator has vanished, and the acceptor has not heard of it.
    let gone = cell.opened().await;
    close(resetting(other));
    assert_eq!(cell.ended().await.flow, gone);
    assert!(!cell.direct.cut(&gone).unwrap(), "it is over");
    beside.set_nonblocking(true).unwrap();
    let error = { &beside }.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
    cell.leaves_nothing().await;
}

/// A port that is used again is another connection's.
#[tokio::test]
async fn what_has_the_same_addresses_and_ports_by_now_is_not_cut() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let pair = || {
        let socket = bound(&cell, 7_777);
        socket
            .connect(&APP.parse::<SocketAddr>().unwrap().into())
            .unwrap();
        (TcpStream::from(socket), cell.app.accept().unwrap().0)
    };
    let (client, server) = pair();
    let (mut next, mut beside) = {
        let before = (resetting(client), server);
        close(before);
        pair()
    };
    let before = cell.ended().await.flow;
    let now = cell.opened().await;
    assert_eq!(now.source_address, before.source_address);
    assert!(!cell.direct.cut(&before).unwrap());
    send(&mut next, &mut beside, 6);
    send(&mut beside, &mut next, 6);
    close((next, beside));
    assert_eq!(cell.ended().await.end, End::Finished);
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn a_closed_port_refuses_and_says_so() {
    const CLOSED: &str = "10.79.0.2:9009";
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    let grant = cell.grant(CLOSED, &[Some(CLOSED)]);
    cell.direct.publish(&grant).unwrap();
    assert!(is_refused(cell.a.dial(CLOSED)));
    let ended = cell.ended().await;
    assert_eq!((ended.established, ended.end), (false, End::Refused));
    assert_eq!((ended.totals.sent, ended.totals.received), (0, 0));
    assert_eq!(ended.flow.destination_address, CLOSED.parse().unwrap());
    cell.bypassed_the_agent();
    assert_eq!(cell.count(Counter::DirectEstablished), 0);
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn silence_and_giving_up_are_told_apart() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    cell.host.drop_everything_to("10.79.0.2");
    let to: SocketAddr = APP.parse().unwrap();
    let socket = tcp(&cell.a, APP);
    socket.set_nonblocking(true).unwrap();
    socket.connect(&to.into()).unwrap_err();
    assert_eq!(cell.direct.open().unwrap(), [], "it is not established");
    close(socket);
    let ended = cell.ended().await;
    assert_eq!((ended.established, ended.end), (false, End::Abandoned));

    let socket = tcp(&cell.a, APP);
    socket
        .set_tcp_user_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    let error = socket.connect(&to.into()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
    let ended = cell.ended().await;
    assert_eq!((ended.established, ended.end), (false, End::TimedOut));
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn a_socket_that_is_used_again_is_another_connection() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let (mut client, server) = cell.pair(APP);
    let first = cell.opened().await;
    client.write_all(b"first").unwrap();
    (&server).read_exact(&mut [0; 5]).unwrap();
    reconnect(&client, APP.parse().unwrap()).unwrap();
    let ended = cell.ended().await;
    assert_eq!(
        (ended.flow, ended.end, ended.totals.sent),
        (first, End::Aborted, 5)
    );
    close((server, cell.app.accept().unwrap()));
    let second = cell.opened().await;
    assert_eq!(second.id, first.id, "the same socket");
    assert!(second.since_ns > first.since_ns, "another connection");
    // Off to the agent: nothing of the past is told there.
    reconnect(&client, "192.0.2.1:443".parse().unwrap()).unwrap();
    let ended = cell.ended().await;
    assert_eq!((ended.flow, ended.totals.sent), (second, 0));
    assert!(client.as_raw_fd() >= 0);
    close(client);
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn a_socket_that_listens_afterwards_is_no_connection() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let (client, server) = cell.pair(APP);
    disconnect(&client).unwrap();
    assert_eq!(cell.ended().await.end, End::Aborted);
    socket2::SockRef::from(&client).listen(1).unwrap();
    close((client, server));
    assert_eq!(cell.count(Counter::DirectClosed), 1);
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn a_connect_that_failed_can_be_tried_again() {
    const LATE: &str = "10.79.0.2:9009";
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    let grant = cell.grant(LATE, &[Some(LATE)]);
    cell.direct.publish(&grant).unwrap();
    let socket = tcp(&cell.a, LATE);
    let to: SocketAddr = LATE.parse().unwrap();
    socket.connect(&to.into()).unwrap_err();
    assert_eq!(cell.ended().await.end, End::Refused);
    let late = cell.b.listen(LATE);
    socket.connect(&to.into()).unwrap();
    close((socket, late.accept().unwrap()));
    let ended = cell.ended().await;
    assert_eq!((ended.established, ended.end), (true, End::Finished));
    cell.leaves_nothing().await;
}
