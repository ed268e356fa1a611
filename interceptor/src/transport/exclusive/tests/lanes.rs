//! Carriers on lanes: who serves a stream, and what all lanes have together.

use std::time::Duration;

use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::super::hbone::{Incoming, Tunnel};
use super::super::super::splice::Closed;
use super::super::super::testing::{Carriers, Gateway, Path, World, app, carry, open, soon};
use super::super::super::{Client, Config};
use crate::lanes::{Lanes, Load, PerLane};
use crate::net::Dialer;

/// A node that carries every connection, and tells on which threads.
async fn node(world: &World) -> (Gateway, mpsc::Receiver<String>, mpsc::Receiver<Closed>) {
    let (told, threads) = mpsc::channel(100);
    let (ended, ends) = mpsc::channel(100);
    let handler = move |incoming| {
        let (told, ended) = (told.clone(), ended.clone());
        async move {
            let thread = std::thread::current().name().unwrap_or_default().to_owned();
            told.send(thread).await.unwrap();
            if let Incoming::Connect(request) = incoming {
                carry(request, ended, CancellationToken::new()).await;
            }
        }
    };
    (world.serve(handler).await, threads, ends)
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_served_where_there_is_least_to_do_and_its_carrier_comes_along(
    #[values(Carriers::Exclusive, Carriers::Mux)] carriers: Carriers,
) {
    let (lanes, threads) = Lanes::start(2).unwrap();
    let world = World {
        lanes: lanes.clone(),
        ..World::on(carriers)
    };
    let (gateway, mut served, mut ends) = node(&world).await;
    let client = world.client().await;
    // The carrier is made on the first lane; the busy one changes.
    for (busy, expected) in [(0, "lane-1"), (0, "lane-1"), (1, "lane-0"), (0, "lane-1")] {
        let busy = lanes.turn(busy).unwrap().seat(Load::Stream);
        let mut path = Path::open(&world, &client, &gateway).await;
        assert_eq!(served.recv().await.unwrap(), expected);
        path.client.write_all(&vec![7; 100_000]).await.unwrap();
        soon(path.server.read_exact(&mut vec![0; 100_000]))
            .await
            .unwrap();
        path.server.write_all(b"!").await.unwrap();
        soon(path.client.read_exact(&mut [0])).await.unwrap();
        drop((path.client, path.server));
        soon(path.outbound).await.unwrap();
        // A shared carrier stays where it has a stream.
        soon(ends.recv()).await.unwrap();
        drop(busy);
    }
    assert_eq!(client.carriers(), 1);
    threads.end(Duration::from_secs(10));
}

/// A tunnel that is opened on a lane.
async fn opened_on(
    lanes: &Lanes,
    lane: usize,
    (world, clients): (&World, &PerLane<Client>),
    gateway: &Gateway,
) -> Tunnel {
    let (_app, destination) = app();
    let (clients, route) = (clients.clone(), gateway.route(destination));
    let (opened, mut opening) = mpsc::channel(1);
    {
        let _there = lanes.turn(lane).unwrap().enter();
        world.tasks.spawn("opening", async move {
            let tunnel = open(clients.here(), &route).await;
            opened.send(tunnel.unwrap()).await.unwrap();
        });
    }
    soon(opening.recv()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn carriers_are_bounded_for_all_lanes_together() {
    let world = World::with(Config {
        max_exclusive: 3,
        max_carriers: 6,
        ..Config::default()
    });
    let (gateway, _ends) = world.node().await;
    world.client().await;
    let (lanes, threads) = Lanes::start(2).unwrap();
    let clients = Client::per_lane(
        lanes.len(),
        &world.config,
        &world.identities,
        &Dialer::host(),
        &world.tasks,
    );
    let carriers = || clients.iter().map(Client::carriers).sum::<usize>();
    let mut held = Vec::new();
    // The first lane takes all that one stream may have to itself; the others share.
    for (lane, expected) in [(0, 1), (0, 2), (0, 3), (1, 4), (1, 5), (0, 6), (0, 6)] {
        held.push(opened_on(&lanes, lane, (&world, &clients), &gateway).await);
        assert_eq!(carriers(), expected);
    }
    drop(held);
    threads.end(Duration::from_secs(10));
}
