//! Which carrier a connection gets, what travels with its request, and how carriers end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::super::super::hbone::{ConnectHeaders, Incoming, Refusal, Tunnel};
use super::super::super::splice;
use super::super::super::testing::{
    Carriers, Gateway, Path, Wire, World, app, id, open, sockets, soon,
};
use super::super::super::{Client, Config, TunnelError};
use super::super::carrier::Carrier;
use crate::net::{Traffic, reset_on_close};

/// Waits until `done`, which something else brings about.
async fn until(done: impl Fn() -> bool + Sync) {
    soon(async {
        while !done() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Carries one byte each way and closes.
async fn once(world: &World, client: &Client, gateway: &Gateway) {
    let mut path = Path::open(world, client, gateway).await;
    path.client.write_all(b"?").await.unwrap();
    soon(path.server.read_exact(&mut [0])).await.unwrap();
    path.server.write_all(b"!").await.unwrap();
    soon(path.client.read_exact(&mut [0])).await.unwrap();
    drop((path.client, path.server));
    soon(path.outbound).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_carrier_serves_connection_after_connection() {
    let world = World::new();
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    for _ in 0..50 {
        once(&world, &client, &gateway).await;
    }
    assert_eq!(client.carriers(), 1);
}

/// A connection that moves bulk, from its beginning to its end.
async fn much(world: &World, client: &Client, gateway: &Gateway) {
    carry_much(Path::open(world, client, gateway).await).await;
    until(|| client.idle_carriers() == 1).await;
}

async fn carry_much(mut path: Path) {
    let all = vec![7; 4 << 20];
    let mut got = vec![0; all.len()];
    let (written, read) = tokio::join!(
        soon(path.client.write_all(&all)),
        soon(path.server.read_exact(&mut got)),
    );
    written.unwrap();
    read.unwrap();
    drop((path.client, path.server));
    soon(path.outbound).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_at_the_same_time_do_not_share_up_to_the_bound() {
    let world = World::with(Config {
        max_exclusive: 3,
        max_carriers: 1,
        ..Config::default()
    });
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    much(&world, &client, &gateway).await;
    let mut held = Vec::new();
    // Beyond three they share a fourth.
    for expected in [1, 2, 3, 4, 4, 4] {
        held.push(Path::open(&world, &client, &gateway).await);
        assert_eq!(client.carriers(), expected);
    }
    for mut path in held {
        path.carries().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_but_the_first_few_are_together_until_bulk_comes() {
    let world = World::with(Config {
        max_carriers: 2,
        ..Config::default()
    });
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    once(&world, &client, &gateway).await;
    let mut held = Vec::new();
    // Two have one to themselves, the others have the third.
    for expected in [1, 2, 3, 3, 3] {
        held.push(Path::open(&world, &client, &gateway).await);
        assert_eq!(client.carriers(), expected);
    }
    for path in &mut held {
        path.carries().await;
    }
    // Whatever carries it.
    for _ in 0..2 {
        carry_much(held.pop().unwrap()).await;
    }
    let before = client.carriers();
    held.push(Path::open(&world, &client, &gateway).await);
    assert_eq!(client.carriers(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_connections_is_served_whatever_has_to_be_made_for_it() {
    let world = World::with(Config {
        max_exclusive: 20,
        max_handshakes_per_address: 3 * Config::default().max_carriers,
        ..Config::default()
    });
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    let (_app, destination) = app();
    let (opened, mut opening) = mpsc::channel(100);
    for _ in 0..100 {
        let (client, opened) = (client.clone(), opened.clone());
        let route = gateway.route(destination);
        world.tasks.spawn("burst", async move {
            let tunnel = open(&client, &route).await;
            opened.send(tunnel).await.unwrap();
        });
    }
    let mut tunnels = Vec::new();
    for _ in 0..100 {
        // More handshakes at once than the server allows would fail.
        tunnels.push(soon(opening.recv()).await.unwrap());
    }
    let failed = tunnels.iter().filter(|tunnel| tunnel.is_err()).count();
    assert_eq!(failed, 0, "{:?}", tunnels.iter().find(|t| t.is_err()));
    assert!(client.carriers() <= 20 + Config::default().max_carriers);
}

#[rstest]
#[case::by_the_client(true)]
#[case::by_the_server(false)]
#[tokio::test(flavor = "multi_thread")]
async fn a_carrier_is_used_again_after_its_stream_was_reset(#[case] by_client: bool) {
    let world = World::new();
    let (gateway, mut ends) = world.node().await;
    let client = world.client().await;
    for _ in 0..5 {
        let mut path = Path::open(&world, &client, &gateway).await;
        let (resetting, mut other) = if by_client {
            (path.client, path.server)
        } else {
            (path.server, path.client)
        };
        reset_on_close(&resetting).unwrap();
        drop(resetting);
        assert!(soon(other.read(&mut [0])).await.is_err());
        let (near, far) = (
            soon(&mut path.outbound).await.unwrap(),
            soon(ends.recv()).await.unwrap(),
        );
        let expected = ["app_reset", "peer_reset"];
        let (first, second) = if by_client { (near, far) } else { (far, near) };
        assert_eq!([first.reason(), second.reason()], expected);
        // The peer's answer is on its way.
        until(|| client.idle_carriers() == 1).await;
        assert_eq!(client.carriers(), 1);
    }
}

/// The application says `said` and then a tunnel is opened for it.
async fn open_after(
    said: &[u8],
    client: &Client,
    gateway: &Gateway,
    to: SocketAddr,
) -> (TcpStream, TcpStream, Result<Tunnel, TunnelError>) {
    let (mut near, far) = sockets().await;
    near.write_all(said).await.unwrap();
    far.readable().await.unwrap();
    let (caller, route) = (id("caller"), gateway.route(to));
    let headers = ConnectHeaders::default();
    let opened = soon(client.open(&caller, &route, &headers, Some(&far))).await;
    (near, far, opened)
}

#[rstest]
#[case::a_little(b"hello".to_vec())]
#[case::more_than_travels_early(vec![7; 100_000])]
#[tokio::test(flavor = "multi_thread")]
async fn what_the_application_has_said_travels_with_the_request(
    #[values(Carriers::Exclusive, Carriers::Mux)] carriers: Carriers,
    #[case] said: Vec<u8>,
) {
    let world = World::on(carriers);
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    let (listener, destination) = app();
    let (mut near, far, opened) = open_after(&said, &client, &gateway, destination).await;
    let mut left = [0; 1];
    let left = far.try_read(&mut left).map_or(0, |count| count);
    assert_eq!(
        left > 0,
        said.len() > 16 << 10,
        "what was sent is no longer here"
    );
    // The byte that was just taken is sent again, so that all is complete.
    let (mut server, _) = soon(listener.accept()).await.unwrap();
    let traffic = Arc::new(Traffic::default());
    let counted = Arc::clone(&traffic);
    let (ended, end) = tokio::sync::oneshot::channel();
    world.tasks.spawn("outbound", async move {
        drop(ended.send(splice::tunnel(&Arc::new(far), opened.unwrap().stream, counted).await));
    });
    near.shutdown().await.unwrap();
    let mut heard = Vec::new();
    soon(server.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard.len() + left, said.len());
    drop((server, near));
    soon(end).await.unwrap();
    assert_eq!(traffic.sent(), u64::try_from(heard.len()).unwrap());
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_a_refused_connection_reaches_the_next_one(
    #[values(Carriers::Exclusive, Carriers::Mux)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let (seen, mut sightings) = mpsc::channel(10);
    let gateway = world.serve(move |incoming| {
        let seen = seen.clone();
        async move {
            let Incoming::Connect(request) = incoming else {
                return;
            };
            if request.destination.port() == 1 {
                return request.answer.refuse(&Refusal::denied("no"));
            }
            let stream = request.answer.accept(&ConnectHeaders::default()).unwrap();
            let (mut near, far) = sockets().await;
            let far = Arc::new(far);
            let carrying = async {
                drop(splice::tunnel(&far, stream, Arc::default()).await);
                drop(far);
            };
            let reading = async {
                let mut heard = Vec::new();
                drop(near.read_to_end(&mut heard).await);
                seen.send(heard).await.unwrap();
                near.shutdown().await.unwrap();
            };
            tokio::join!(carrying, reading);
        }
    });
    let gateway = gateway.await;
    let client = world.client().await;
    let (refused, allowed) = (
        "127.0.0.1:1".parse().unwrap(),
        "127.0.0.1:2".parse().unwrap(),
    );
    let (_near, _far, opened) = open_after(b"secret", &client, &gateway, refused).await;
    assert_eq!(opened.unwrap_err().reason(), "refused_by_peer_policy");
    let (mut near, far, opened) = open_after(b"public", &client, &gateway, allowed).await;
    let tunnel = opened.unwrap();
    assert!(tunnel.reused, "a refusal costs no carrier");
    near.shutdown().await.unwrap();
    let closed = soon(splice::tunnel(
        &Arc::new(far),
        tunnel.stream,
        Arc::default(),
    ))
    .await;
    assert_eq!(closed.reason(), "app_closed");
    assert_eq!(soon(sightings.recv()).await.unwrap(), b"public");
}

#[rstest]
#[case::nothing_was_said(b"", true)]
#[case::something_was_said(b"once only", false)]
#[tokio::test]
async fn a_carrier_that_dies_without_a_word_is_replaced_only_if_nothing_was_said(
    #[case] said: &[u8],
    #[case] replaced: bool,
) {
    let world = World::new();
    let (mut gateway, _ends) = world.node().await;
    let wire = Wire::to(gateway.address);
    gateway.address = wire.address;
    let client = world.client().await;
    once(&world, &client, &gateway).await;
    until(|| client.idle_carriers() == 1).await;
    let (_listener, destination) = app();
    let (mut near, far) = sockets().await;
    near.write_all(said).await.unwrap();
    if !said.is_empty() {
        far.readable().await.unwrap();
    }
    // On one thread nobody hears of this before the request is on its way.
    wire.interrupt();
    let (caller, route) = (id("caller"), gateway.route(destination));
    let headers = ConnectHeaders::default();
    let opened = soon(client.open(&caller, &route, &headers, Some(&far))).await;
    assert_eq!(opened.is_ok(), replaced, "{opened:?}");
}

#[tokio::test]
async fn idle_carriers_are_closed_after_a_while() {
    let world = World::with(Config {
        // Time is paused: the peer's answer to a ping would come too late.
        ping_interval: Duration::from_hours(24),
        ..Config::default()
    });
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    once(&world, &client, &gateway).await;
    until(|| client.idle_carriers() == 1).await;
    tokio::time::pause();
    tokio::time::sleep(world.config.idle_timeout * 2).await;
    assert_eq!(client.carriers(), 0);
}

#[tokio::test]
async fn an_idle_carrier_whose_peer_has_vanished_is_noticed() {
    let world = World::new();
    let (mut gateway, _ends) = world.node().await;
    let wire = Wire::to(gateway.address);
    gateway.address = wire.address;
    let client = world.client().await;
    once(&world, &client, &gateway).await;
    until(|| client.idle_carriers() == 1).await;
    wire.freeze();
    tokio::time::pause();
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(client.carriers(), 0);
}

#[tokio::test]
async fn a_carrier_is_not_taken_back_after_a_certificate_has_ended() {
    let lifetime = Duration::from_mins(2);
    let config = Config {
        ping_interval: Duration::from_hours(24),
        ..Config::default()
    };
    let world = World::of(config, lifetime);
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    once(&world, &client, &gateway).await;
    let mut path = Path::open(&world, &client, &gateway).await;
    tokio::time::pause();
    tokio::time::sleep(lifetime).await;
    tokio::time::resume();
    path.carries().await;
    drop((path.client, path.server));
    soon(path.outbound).await.unwrap();
    until(|| client.carriers() == 0).await;
}

#[rstest]
#[tokio::test]
async fn retired_carriers_get_no_new_stream_and_keep_their_own(
    #[values(Carriers::Exclusive, Carriers::Mux)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    let mut path = Path::open(&world, &client, &gateway).await;
    client.retire_carriers();
    path.carries().await;
    drop((path.client, path.server));
    soon(path.outbound).await.unwrap();
    until(|| client.carriers() == 0).await;
    once(&world, &client, &gateway).await;
}

#[test]
fn a_carrier_is_small() {
    let size = size_of::<Carrier>();
    assert!(size <= 1024, "{size} bytes");
}
