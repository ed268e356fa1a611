//! Which carrier a connection gets, and what becomes of carriers.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::super::super::mux::MAX_STREAMS;
use super::super::super::testing::{Carriers, Gateway, Path, Wire, World, app, id, open, soon};
use super::super::super::{Client, Config, Tunnel};
use super::super::pool::{Choice, Crowd, Key, Pool, Slot};
use crate::identity::{Ca, Issuer as _, TrustBundle};

async fn tunnel(client: &Client, gateway: &Gateway, destination: std::net::SocketAddr) -> Tunnel {
    open(client, &gateway.route(destination)).await.unwrap()
}

#[rstest]
#[tokio::test]
async fn a_carrier_is_used_again_by_the_next_connection(
    #[values(Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    let (_app, destination) = app();
    let first = tunnel(&client, &gateway, destination).await;
    assert!(!first.reused);
    drop(first);
    let second = tunnel(&client, &gateway, destination).await;
    assert!(second.reused);
    assert_eq!(client.carriers(), 1);
}

#[tokio::test]
async fn connections_at_the_same_time_get_carriers_of_their_own_up_to_the_bound() {
    let world = World::with(Config {
        max_carriers: 3,
        ..Carriers::Shared.config()
    });
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    let (_app, destination) = app();
    let mut held = Vec::new();
    for expected in [1, 2, 3, 3, 3] {
        held.push(tunnel(&client, &gateway, destination).await);
        assert_eq!(client.carriers(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_connections_shares_few_set_ups() {
    let world = World::on(Carriers::Shared);
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    let (_app, destination) = app();
    let (opened, mut opening) = tokio::sync::mpsc::channel(100);
    for _ in 0..100 {
        let (client, opened) = (client.clone(), opened.clone());
        let route = gateway.route(destination);
        world.tasks.spawn("burst", async move {
            let tunnel = open(&client, &route).await.unwrap();
            opened.send(tunnel).await.unwrap();
        });
    }
    let mut tunnels = Vec::new();
    for _ in 0..100 {
        tunnels.push(soon(opening.recv()).await.unwrap());
    }
    assert_eq!(client.carriers(), Config::default().max_carriers);
}

#[tokio::test]
async fn full_carriers_are_passed_over() {
    let world = World::with(Config {
        max_carriers: 1,
        max_streams: 2,
        ..Carriers::Shared.config()
    });
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    let (_app, destination) = app();
    let mut held = Vec::new();
    for expected in [1, 1, 2, 2, 3] {
        held.push(tunnel(&client, &gateway, destination).await);
        assert_eq!(client.carriers(), expected);
    }
}

#[tokio::test]
async fn the_peers_own_limit_of_streams_is_respected() {
    let peers = Config {
        max_accepted_streams: 1,
        max_carriers: 1,
        ..Carriers::Shared.config()
    };
    let world = World::with(peers);
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    let (_app, destination) = app();
    let _first = tunnel(&client, &gateway, destination).await;
    let _second = tunnel(&client, &gateway, destination).await;
    assert_eq!(client.carriers(), 2);
}

#[rstest]
#[tokio::test]
async fn a_reused_carrier_that_turns_out_dead_costs_nothing_but_a_new_one(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let (mut gateway, _ends) = world.node().await;
    let wire = Wire::to(gateway.address);
    gateway.address = wire.address;
    let client = world.client().await;
    let (_app, destination) = app();
    drop(tunnel(&client, &gateway, destination).await);
    assert_eq!(client.carriers(), 1);
    // On one thread nobody hears of this before the next connection is on its way.
    wire.interrupt();
    let tunnel = tunnel(&client, &gateway, destination).await;
    assert!(!tunnel.reused);
    assert_eq!(client.carriers(), 1);
}

#[rstest]
#[tokio::test]
async fn a_carrier_without_streams_is_closed_after_a_while(
    #[values(Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::with(Config {
        // Time is paused: the peer's answer to a ping would come too late.
        ping_interval: Duration::from_hours(24),
        ..carriers.config()
    });
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    let (_app, destination) = app();
    let held = tunnel(&client, &gateway, destination).await;
    tokio::time::pause();
    let idle = world.config.idle_timeout;
    tokio::time::sleep(idle * 3).await;
    assert_eq!(client.carriers(), 1, "in use");
    drop(held);
    tokio::time::sleep(idle * 2).await;
    assert_eq!(client.carriers(), 0);
}

#[rstest]
#[tokio::test]
async fn a_peer_that_has_vanished_is_noticed(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let (mut gateway, _ends) = world.node().await;
    let wire = Wire::to(gateway.address);
    gateway.address = wire.address;
    let client = world.client().await;
    let mut path = Path::open(&world, &client, &gateway).await;
    wire.freeze();
    tokio::time::pause();
    let closed = path.outbound.await.unwrap();
    assert!(closed.reason().starts_with("session"), "{closed:?}");
    tokio::time::resume();
    assert!(soon(path.client.read(&mut [0])).await.is_err());
    drop(path.client.write_all(b"x").await);
    assert_eq!(client.carriers(), 0);
}

#[rstest]
#[tokio::test]
async fn a_carrier_takes_no_new_streams_after_a_certificate_has_ended(
    #[values(Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let config = Config {
        // Time is paused: the peer's answer to a ping would come too late.
        ping_interval: Duration::from_hours(24),
        ..carriers.config()
    };
    let lifetime = Duration::from_mins(2);
    let world = World::of(config, lifetime);
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    let mut path = Path::open(&world, &client, &gateway).await;
    assert_eq!(client.carriers(), 1);
    tokio::time::pause();
    tokio::time::sleep(lifetime).await;
    assert_eq!(client.carriers(), 0);
    tokio::time::resume();
    path.carries().await;
}

#[rstest]
#[tokio::test]
async fn a_session_takes_no_new_streams_after_a_root_was_taken_out(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    let mut path = Path::open(&world, &client, &gateway).await;
    let (_app, destination) = app();
    // Where streams do not share, this leaves a carrier behind that is idle.
    drop(tunnel(&client, &gateway, destination).await);
    let successor = Ca::generate(&"mesh.test".parse().unwrap(), SystemTime::now()).unwrap();
    let mut both = TrustBundle::clone(&world.identities.bundle());
    for (domain, roots) in successor.bundle().domains() {
        both.add_root(domain, roots[0].certificate.clone()).unwrap();
    }
    world.identities.trust(both);
    path.carries().await;
    let again = tunnel(&client, &gateway, destination).await;
    assert!(again.reused, "one more root is no reason");
    drop(again);

    world.identities.trust(successor.bundle());
    path.carries().await;
    // The goodbye is on its way.
    let refused = async {
        loop {
            match open(&client, &gateway.route(destination)).await {
                Ok(tunnel) => drop(tunnel),
                Err(error) => return error,
            }
        }
    };
    assert_eq!(soon(refused).await.reason(), "unknown_issuer");
    path.carries().await;
}

/// A pool without a network, and certificates to put into it.
struct Bench {
    pool: Pool,
    ca: Ca,
    key: Key,
}

impl Bench {
    fn new() -> Self {
        Self {
            pool: Pool::new(Arc::new(Config::default())),
            ca: Ca::generate(&"mesh.test".parse().unwrap(), SystemTime::now()).unwrap(),
            key: Key {
                source: id("caller"),
                peer: id("server"),
                gateway: "10.0.0.1:15008".parse().unwrap(),
            },
        }
    }

    fn svid(&self) -> Arc<crate::identity::Svid> {
        let issued = self
            .ca
            .issue_now(&id("caller"), Duration::from_hours(1), SystemTime::now());
        Arc::new(issued.unwrap())
    }
}

fn fail(slot: &Slot) {
    slot.publish(Err(super::super::super::TunnelError::Draining));
}

#[tokio::test]
async fn a_renewed_certificate_retires_the_carriers_of_the_old_one() {
    let bench = Bench::new();
    let (old, new) = (bench.svid(), bench.svid());
    let (lease, first) = bench
        .pool
        .lease(&bench.key, &old, (Choice::Any, &[]), Crowd::Spread);
    let first = first.unwrap();
    let (_lease, second) = bench
        .pool
        .lease(&bench.key, &new, (Choice::Any, &[]), Crowd::Spread);
    assert!(second.is_some(), "a carrier of its own");
    assert!(first.retired.is_cancelled());
    assert!(
        !lease.slot.outcome.initialized(),
        "its streams are not touched"
    );
    assert_eq!(bench.pool.len(), 1);
}

#[tokio::test]
async fn carriers_are_not_shared_between_identities_peers_or_gateways() {
    let bench = Bench::new();
    let svid = bench.svid();
    let others = [
        Key {
            source: id("other"),
            ..bench.key.clone()
        },
        Key {
            peer: id("other"),
            ..bench.key.clone()
        },
        Key {
            gateway: "10.0.0.2:15008".parse().unwrap(),
            ..bench.key.clone()
        },
    ];
    drop(
        bench
            .pool
            .lease(&bench.key, &svid, (Choice::Any, &[]), Crowd::Spread),
    );
    for key in others {
        assert!(
            bench
                .pool
                .lease(&key, &svid, (Choice::Any, &[]), Crowd::Spread)
                .1
                .is_some(),
            "{key:?}"
        );
    }
    assert_eq!(bench.pool.len(), 4);
}

#[tokio::test]
async fn those_who_say_little_are_on_as_few_carriers_as_they_fit_on() {
    let bench = Bench::new();
    let svid = bench.svid();
    let lease = || {
        let (lease, new) = bench
            .pool
            .lease(&bench.key, &svid, (Choice::Any, &[]), Crowd::Together);
        (lease, new.is_some())
    };
    let mut held: Vec<_> = (0..2 * MAX_STREAMS).map(|_| lease()).collect();
    assert_eq!(bench.pool.len(), 2);
    // The second one has room now, and both have soon.
    let (second, first) = (held.split_off(MAX_STREAMS), held);
    let mut first: Vec<_> = first.into_iter().skip(10).collect();
    let second: Vec<_> = second.into_iter().skip(20).collect();
    let fullest = Arc::clone(&first[0].0.slot);
    first.extend((0..10).map(|_| lease()));
    assert!(
        first
            .iter()
            .all(|(lease, _)| Arc::ptr_eq(&lease.slot, &fullest))
    );
    let (other, is_new) = lease();
    assert!(Arc::ptr_eq(&other.slot, &second[0].0.slot) && !is_new);
}

#[tokio::test]
async fn a_retry_takes_no_carrier_that_was_established_before() {
    let bench = Bench::new();
    let svid = bench.svid();
    let (_first, slot) = bench
        .pool
        .lease(&bench.key, &svid, (Choice::Any, &[]), Crowd::Spread);
    fail(&slot.unwrap());
    let (_second, slot) = bench
        .pool
        .lease(&bench.key, &svid, (Choice::Fresh, &[]), Crowd::Spread);
    assert!(slot.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_carrier_that_was_just_used_is_not_idle() {
    let bench = Bench::new();
    let timeout = bench.pool.config.idle_timeout;
    let (lease, slot) =
        bench
            .pool
            .lease(&bench.key, &bench.svid(), (Choice::Any, &[]), Crowd::Spread);
    let slot = slot.unwrap();
    tokio::time::advance(timeout * 2).await;
    bench.pool.retire_if_idle(&slot);
    assert_eq!(bench.pool.len(), 1, "a lease is held");
    drop(lease);
    tokio::time::advance(timeout / 2).await;
    let look = bench.pool.retire_if_idle(&slot);
    assert_eq!(
        look,
        Instant::now() + timeout / 2,
        "half of its time is left"
    );
    tokio::time::advance(timeout / 2).await;
    bench.pool.retire_if_idle(&slot);
    assert_eq!(bench.pool.len(), 0);
    assert!(slot.retired.is_cancelled());
}
