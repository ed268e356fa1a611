//! A message beside bulk transfers on the same lane: it waits for one turn of each of them, not until
//! all of them have had dozens.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rstest::rstest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::super::testing::{Carriers, Path, World, soon};
use crate::net::Traffic;

/// Bulk transfers.
const BULK: usize = 4;
const ROUND_TRIPS: usize = 20;
/// What all of them may move while a message goes there and back: each hop of it waits for a turn of
/// everybody's, at both ends.
const MOST: u64 = 128 << 20;

/// A thread's end of a connection.
fn blocking(socket: TcpStream) -> std::net::TcpStream {
    let socket = socket.into_std().unwrap();
    socket.set_nonblocking(false).unwrap();
    socket
}

/// Sends and receives without end, outside of the runtime that carries it, and tells what is carried.
fn transfer(path: Path, is_over: &Arc<AtomicBool>) -> Arc<Traffic> {
    let (mut from, mut to) = (blocking(path.client), blocking(path.server));
    let over = Arc::clone(is_over);
    std::thread::spawn(move || {
        let block = vec![7; 1 << 20];
        while !over.load(Ordering::Relaxed) && from.write_all(&block).is_ok() {}
    });
    std::thread::spawn(move || {
        let mut block = vec![0; 1 << 20];
        while let Ok(1..) = to.read(&mut block) {}
    });
    path.traffic
}

#[rstest]
#[tokio::test]
async fn a_message_does_not_wait_until_bulk_transfers_have_had_dozens_of_turns(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let client = world.client().await;
    let (gateway, _ends) = world.node().await;
    let (is_over, mut bulk) = (Arc::default(), Vec::new());
    for _ in 0..BULK {
        let path = Path::open(&world, &client, &gateway).await;
        bulk.push(transfer(path, &is_over));
    }
    let moved = || bulk.iter().map(|it| it.sent()).sum::<u64>();
    let mut path = Path::open(&world, &client, &gateway).await;
    let mut most = 0;
    for _ in 0..ROUND_TRIPS {
        let before = moved();
        soon(path.client.write_all(b"x")).await.unwrap();
        soon(path.server.read_exact(&mut [0])).await.unwrap();
        soon(path.server.write_all(b"y")).await.unwrap();
        soon(path.client.read_exact(&mut [0])).await.unwrap();
        most = most.max(moved() - before);
    }
    is_over.store(true, Ordering::Relaxed);
    assert!(most < MOST, "{most} bytes were moved meanwhile");
}
