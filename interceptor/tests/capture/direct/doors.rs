//! Whose door a direct connection opens: that of its own 4-tuple, until it is accepted.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use interceptor::capture::{Counter, End};
use rstest::rstest;

use super::{A, APP, APP6, B, Cell, PATIENCE, bound, resetting, tcp};
use crate::frames::{ACK, Forger, IPV4, PUSH, SYN, TCP, Wire, tcp_for, v4};
use crate::support::{Netns, close, may_run};

/// A connection from a port of our choice, to be closed with a reset.
fn from_port(cell: &Cell, port: u16) -> TcpStream {
    let socket = bound(cell, port);
    socket
        .connect(&APP.parse::<SocketAddr>().unwrap().into())
        .unwrap();
    socket.into()
}

/// Waits for one more of these.
fn counted(cell: &Cell, counter: Counter, before: u64) {
    let deadline = Instant::now() + PATIENCE;
    while cell.count(counter) == before {
        assert!(Instant::now() < deadline, "{}", counter.name());
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_live_tuple_is_no_use_to_anybody_else() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let forger = Forger::new(&cell.b);
    let client = from_port(&cell, 7_777);
    let (server, _) = cell.app.accept().unwrap();
    let passed = cell.count(Counter::DirectPass);
    let steered = cell.count(Counter::SteeredInbound);
    // While the acceptor lives, packets are its socket's and no program is asked.
    forger.forge((A, B), 7_777);
    // When it has gone and the initiator does not know, the tuple leads to the agent.
    cell.host.drop_everything_to(A);
    close(resetting(server));
    forger.forge((A, B), 7_777);
    counted(&cell, Counter::SteeredInbound, steered);
    assert_eq!(cell.flows(), 1, "the initiator's end is open");
    assert_eq!(cell.count(Counter::DirectPass), passed);
    close(resetting(client));
    cell.ended().await;
    cell.app.set_nonblocking(true).unwrap();
    assert!(cell.app.accept().is_err());
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn the_tuple_of_a_closed_connection_opens_no_door() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let forger = Forger::new(&cell.b);
    let client = from_port(&cell, 7_777);
    let (server, _) = cell.app.accept().unwrap();
    close(resetting(client));
    cell.ended().await;
    close(server);
    let passed = cell.count(Counter::DirectPass);
    let steered = cell.count(Counter::SteeredInbound);
    forger.forge((A, B), 7_777);
    counted(&cell, Counter::SteeredInbound, steered);
    assert_eq!(cell.count(Counter::DirectPass), passed);
    cell.app.set_nonblocking(true).unwrap();
    assert!(cell.app.accept().is_err());
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn a_forged_syn_of_a_neighbour_is_stopped_at_its_interface() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    // Another workload of the node, which has a guard as well.
    let neighbour = Netns::new("c");
    neighbour.connect(&["10.80.0.2/24"], &cell.host, &["10.80.0.1/24"]);
    cell.host.accept_any_source();
    let workload = crate::support::workload(&neighbour, &["10.80.0.2"]);
    let _enrolled = cell.capture.enrol(&workload).unwrap();
    let wire = Wire::newest(&neighbour, &cell.host);
    // The tuple is in its handshake, when it would open the door.
    cell.host.drop_everything_to(A);
    let socket = tcp(&cell.a, APP);
    socket.set_nonblocking(true).unwrap();
    socket
        .connect(&APP.parse::<SocketAddr>().unwrap().into())
        .unwrap_err();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    let ends = (A, B);
    wire.send(
        IPV4,
        &[&v4(ends, TCP, 0, &[]), &tcp_for(ends, (port, 9000), SYN)],
    );
    counted(&cell, Counter::RefusedUnknownSyn, 0);
    close(socket);
    assert_eq!(cell.ended().await.end, End::Abandoned);
    cell.leaves_nothing().await;
}

/// Its SYN finds the door open, and the answer goes to whose door it is: without the number in it nobody
/// gets in.
#[tokio::test]
async fn a_forged_syn_of_a_stranger_during_the_handshake_gets_nobody_in() {
    const PORT: u16 = 7_777;
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let forger = Forger::new(&cell.b);
    // The true SYN gets lost, so that the handshake lasts.
    cell.host.drop_everything_to(B);
    let socket = tcp(&cell.a, APP);
    let source: SocketAddr = format!("{A}:{PORT}").parse().unwrap();
    socket.bind(&source.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
        .connect(&APP.parse::<SocketAddr>().unwrap().into())
        .unwrap_err();
    forger.forge((A, B), PORT);
    counted(&cell, Counter::DirectPass, 0);
    for flags in [ACK, ACK | SYN, ACK | PUSH] {
        forger.forge_as((A, B), PORT, flags);
    }
    cell.app.set_nonblocking(true).unwrap();
    assert!(cell.app.accept().is_err());
    assert_eq!(cell.count(Counter::DirectEstablished), 0);
    // Whose door it is gets in with its next SYN.
    cell.host.drop_nothing(&[B]);
    let deadline = Instant::now() + PATIENCE;
    let (server, from) = loop {
        match cell.app.accept() {
            Ok(accepted) => break accepted,
            Err(_not_yet) => assert!(Instant::now() < deadline, "it does not get in"),
        }
        std::thread::yield_now();
    };
    assert_eq!(from.port(), PORT);
    assert!(cell.app.accept().is_err(), "it and nobody else");
    close((socket, server));
    let ended = cell.ended().await;
    assert!(ended.established && ended.totals.retransmits > 0);
    cell.leaves_nothing().await;
}

#[rstest]
#[case::ipv4(APP)]
#[case::ipv6(APP6)]
#[tokio::test]
async fn syn_cookies_do_not_lose_the_way(#[case] to: &str) {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    cell.b.force_syn_cookies();
    for _ in 0..50 {
        close(cell.pair(to));
        assert_eq!(cell.ended().await.end, End::Finished);
    }
    cell.bypassed_the_agent();
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn a_tuple_in_time_wait_is_used_again_directly() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    for _ in 0..3 {
        let client = from_port(&cell, 7_777);
        let (server, _) = cell.app.accept().unwrap();
        // The server's end stays in TIME_WAIT.
        close(server);
        assert_eq!((&client).read(&mut [0]).unwrap(), 0);
        close(client);
        assert_eq!(cell.ended().await.end, End::Finished);
    }
    cell.bypassed_the_agent();
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn both_ends_may_connect_at_once() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    let (here, there) = ("10.78.0.2:7777", "10.79.0.2:7777");
    let mut back = cell.grant(here, &[Some(here)]);
    back.source = cell.destination.key;
    cell.direct.publish(&back).unwrap();
    let forth = cell.grant(there, &[Some(there)]);
    cell.direct.publish(&forth).unwrap();
    // The first SYNs get lost, so that both are on their way before either arrives.
    cell.host.drop_everything_to(A);
    cell.host.drop_everything_to(B);
    let connect = |netns: &Netns, from: &str, to: &str| {
        let socket = tcp(netns, to);
        socket
            .bind(&from.parse::<SocketAddr>().unwrap().into())
            .unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
            .connect(&to.parse::<SocketAddr>().unwrap().into())
            .unwrap_err();
        socket
    };
    let sockets = (connect(&cell.a, here, there), connect(&cell.b, there, here));
    cell.host.drop_nothing(&[A, B]);
    // Each end has begun the connection, and each tells of it.
    let opened = [cell.opened().await, cell.opened().await];
    let mut sources = opened.map(|it| it.source);
    let mut expected = [cell.source.key, cell.destination.key];
    sources.sort_unstable();
    expected.sort_unstable();
    assert_eq!(sources, expected);
    close(sockets);
    for _ in 0..2 {
        let ended = cell.ended().await;
        assert!(ended.totals.retransmits > 0, "its first SYN was lost");
    }
    cell.bypassed_the_agent();
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn a_syn_that_waits_for_data_is_judged_when_it_leaves() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    for netns in [&cell.a, &cell.b] {
        netns.enable_fast_open();
    }
    crate::support::accept_fast_open(&cell.app);
    let connect = || {
        let socket = tcp(&cell.a, APP);
        let option = nix::sys::socket::sockopt::TcpFastOpenConnect;
        nix::sys::socket::setsockopt(&socket, option, &true).unwrap();
        socket
            .connect(&APP.parse::<SocketAddr>().unwrap().into())
            .unwrap();
        socket
    };
    // The first fetches the cookie, so the second does not send its SYN yet.
    let (first, (server, _)) = (connect(), cell.app.accept().unwrap());
    close((first, server));
    let second = connect();
    second
        .set_tcp_user_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    cell.direct.advance();
    // Longer than a call to connect(2) may take, which the kernel's clock tells.
    std::thread::sleep(Duration::from_millis(20));
    let error = second.send(b"late").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
    counted(&cell, Counter::DirectRevoked, 0);
    assert!(cell.ended().await.established);
    let ended = cell.ended().await;
    assert_eq!((ended.established, ended.totals.sent), (false, 0));
    close(second);
    cell.app.set_nonblocking(true).unwrap();
    assert!(cell.app.accept().is_err());
    assert_eq!(cell.count(Counter::DirectPass), 1);
    cell.leaves_nothing().await;
}
