//! Who gets through, and what both applications see.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use interceptor::capture::{Counter, End};
use rstest::rstest;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{A, A6, APP, APP6, Cell, VIP, VIP6, tcp};
use crate::cgroups::{Cgroup, connect_from_in, stop};
use crate::evasion::must_be_here;
use crate::support::{bound, close, may_run};
use interceptor::workload::Binding;

/// Whether two addresses are the same but for the way of writing IPv4.
fn same(left: SocketAddr, right: SocketAddr) -> bool {
    (left.ip().to_canonical(), left.port()) == (right.ip().to_canonical(), right.port())
}

#[rstest]
#[case::ipv4(APP, APP, A)]
#[case::ipv6(APP6, APP6, A6)]
#[case::ipv4_mapped("[::ffff:10.79.0.2]:9000", APP, A)]
#[case::a_service(VIP, APP, A)]
#[case::a_service_ipv6(VIP6, APP6, A6)]
#[case::a_service_mapped("[::ffff:10.96.0.80]:80", APP, A)]
#[tokio::test]
async fn a_granted_connection_goes_from_socket_to_socket(
    #[case] to: &str,
    #[case] target: &str,
    #[case] from: &str,
) {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    let address: SocketAddr = to.parse().unwrap();
    let original = SocketAddr::new(address.ip().to_canonical(), address.port());
    let grant = cell.grant(&original.to_string(), &[Some(target)]);
    cell.direct.publish(&grant).unwrap();

    let (mut client, mut server) = cell.pair(to);
    // Each end sees what it would see without us.
    assert_eq!(client.peer_addr().unwrap(), address);
    let source = client.local_addr().unwrap();
    assert_eq!(
        source.ip().to_canonical(),
        from.parse::<std::net::IpAddr>().unwrap()
    );
    assert!(same(server.peer_addr().unwrap(), source));
    assert!(same(server.local_addr().unwrap(), target.parse().unwrap()));

    let flow = cell.opened().await;
    assert_eq!(flow.source, cell.source.key);
    assert_eq!(flow.destination, cell.destination.key);
    assert!(same(flow.source_address, source));
    assert_eq!(flow.destination_address, target.parse().unwrap());
    assert_eq!(flow.original, original);
    assert_eq!((flow.generation, flow.tag), (grant.generation, 7));

    client.write_all(b"question").unwrap();
    server.read_exact(&mut [0; 8]).unwrap();
    server.write_all(b"answers").unwrap();
    client.read_exact(&mut [0; 7]).unwrap();
    let open = cell.direct.open().unwrap();
    assert_eq!(open.len(), 1);
    assert_eq!(open[0].flow, flow);
    assert_eq!((open[0].totals.sent, open[0].totals.received), (8, 7));
    assert!(open[0].totals.round_trip.is_some());

    close((client, server));
    let ended = cell.ended().await;
    assert_eq!(ended.flow, flow);
    assert_eq!((ended.totals.sent, ended.totals.received), (8, 7));
    assert_eq!((ended.established, ended.end), (true, End::Finished));
    cell.bypassed_the_agent();
    assert_eq!(cell.count(Counter::Direct), 1);
    assert_eq!(cell.count(Counter::DirectPass), 1);
    assert_eq!(cell.count(Counter::RefusedUnknownSyn), 0);
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn only_what_was_granted_is_direct() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let other = cell.b.listen("10.79.0.2:9001");
    other.set_nonblocking(true).unwrap();
    cell.is_the_agents("10.79.0.2:9001").await;
    cell.is_the_agents("10.78.0.1:9000").await;
    // The other way around.
    let client = cell.b.dial("10.78.0.2:9000").unwrap();
    let (stream, _) = crate::support::accept(&cell.destination.listeners.outbound).await;
    close((client, stream));
    // Whoever is not enrolled.
    let client = cell.host.dial(APP).unwrap();
    let (stream, _) = crate::support::accept(&cell.destination.listeners.inbound).await;
    close((client, stream));
    assert!(other.accept().is_err());
    assert_eq!(cell.count(Counter::Direct), 0);
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn a_connect_that_does_not_wait_is_direct() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let socket = tcp(&cell.a, APP);
    socket.set_nonblocking(true).unwrap();
    let to: SockAddr = APP.parse::<SocketAddr>().unwrap().into();
    let begun = socket.connect(&to);
    assert!(begun.is_ok() || begun.unwrap_err().raw_os_error() == Some(libc::EINPROGRESS));
    let (server, _) = cell.app.accept().unwrap();
    cell.opened().await;
    close((socket, server));
    assert_eq!(cell.ended().await.end, End::Finished);
    cell.bypassed_the_agent();
    cell.leaves_nothing().await;
}

#[rstest]
#[case::ipv4(APP)]
#[case::ipv6(APP6)]
#[tokio::test]
async fn multipath_tcp_is_direct_or_refused(#[case] to: &str) {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let address: SocketAddr = to.parse().unwrap();
    let open = || {
        Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::MPTCP),
        )
    };
    let socket = match cell.a.namespace.enter(open) {
        Ok(socket) => socket,
        // A kernel without it refuses by itself.
        Err(error) => {
            must_be_here("Multipath TCP", &error);
            return;
        }
    };
    match socket.connect(&address.into()) {
        Ok(()) => {
            let mut client = TcpStream::from(socket);
            let (mut server, _) = cell.app.accept().unwrap();
            client.write_all(b"question").unwrap();
            server.read_exact(&mut [0; 8]).unwrap();
            close((client, server));
            let ended = cell.ended().await;
            assert_eq!((ended.totals.sent, ended.totals.received), (8, 0));
            assert_eq!(ended.end, End::Finished);
        }
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT));
            assert_eq!(cell.count(Counter::RefusedProtocol), 1);
        }
    }
    cell.bypassed_the_agent();
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn a_bound_source_stays() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let socket = tcp(&cell.a, APP);
    let source: SocketAddr = "10.78.0.2:7777".parse().unwrap();
    socket.bind(&source.into()).unwrap();
    socket
        .bind_device(Some(cell.a.interface().as_bytes()))
        .unwrap();
    socket
        .connect(&APP.parse::<SocketAddr>().unwrap().into())
        .unwrap();
    let (server, from) = cell.app.accept().unwrap();
    assert!(same(from, source));
    // A socket that is bound to an interface can be cut like any other.
    let flow = cell.opened().await;
    assert!(cell.direct.cut(&flow).unwrap());
    assert_eq!(cell.ended().await.end, End::Cut);
    close((socket, server));
    cell.leaves_nothing().await;
}

#[rstest]
#[case::ipv4(APP)]
#[case::ipv6(APP6)]
#[tokio::test]
async fn fast_open_carries_its_first_bytes_directly(#[case] to: &str) {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    for netns in [&cell.a, &cell.b] {
        netns.enable_fast_open();
    }
    crate::support::accept_fast_open(&cell.app);
    // The first fetches the cookie, the second uses it.
    for _ in 0..2 {
        let socket = tcp(&cell.a, to);
        let address: SocketAddr = to.parse().unwrap();
        let sent = socket.send_to_with_flags(b"early", &address.into(), libc::MSG_FASTOPEN);
        assert_eq!(sent.unwrap(), 5);
        let (mut server, _) = cell.app.accept().unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
        close((TcpStream::from(socket), server));
        let ended = cell.ended().await;
        assert_eq!((ended.totals.sent, ended.totals.received), (5, 0));
        assert_eq!(ended.end, End::Finished);
    }
    cell.bypassed_the_agent();
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn other_protocols_do_not_ask_for_grants() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    cell.allow_at(VIP);
    let bind = |at: &'static str| move || UdpSocket::bind(at);
    let server = cell.b.namespace.enter(bind("10.79.0.2:9000")).unwrap();
    let client = cell.a.namespace.enter(bind("10.78.0.2:0")).unwrap();
    client.send_to(b"datagram", APP).unwrap();
    let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
    assert_eq!(from, client.local_addr().unwrap());
    // A Service's address is not rewritten for them.
    client.connect(VIP).unwrap();
    assert_eq!(client.peer_addr().unwrap(), VIP.parse().unwrap());
    assert_eq!(cell.count(Counter::Direct), 0);
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn a_workload_of_the_hosts_network_is_granted_like_any_other() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    let cgroup = Cgroup::new();
    let binding = Binding::Cgroup(cgroup.binding.clone());
    let on_the_host = bound(binding, vec!["10.79.0.1".parse().unwrap()]);
    let enrolled = cell.capture.enrol(&on_the_host).unwrap();
    let mut grant = cell.grant(APP, &[Some(APP)]);
    grant.source = enrolled.key;
    cell.direct.publish(&grant).unwrap();
    let child = connect_from_in(&cell.host, &cgroup.path, APP);
    let (server, _) = cell.app.accept().unwrap();
    let flow = cell.opened().await;
    assert_eq!(flow.source, enrolled.key);
    assert_eq!(cell.direct.open().unwrap().len(), 1);
    assert!(cell.direct.cut(&flow).unwrap());
    stop(child);
    close(server);
    assert_eq!(cell.ended().await.end, End::Cut);
    cell.bypassed_the_agent();
    cell.leaves_nothing().await;
}
