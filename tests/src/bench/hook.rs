//! What the programs add to `connect(2)` inside of a node.
//!
//! Everything is on one core, and who accepts does so after the call: whether the other end is woken
//! elsewhere makes ten microseconds. The SYN and its answer are delivered within the call, so that all
//! programs of a handshake are in it, up to the accepted socket.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::figure::Figure;
use super::lane::Lane;
use super::server::listen;

/// What follows from it: how much longer the call takes than without us.
pub(super) const WORK: &str = "connect_hook_us";
/// What is measured: how long it takes.
pub(super) const CALL: &str = "connect_call_us";

/// Where the connections go that nobody serves.
const PORT: u16 = 9300;
/// Fewer than a listener keeps waiting.
const BATCH: usize = 100;
/// Batches that are measured, after one that is not.
const BATCHES: usize = 10;

/// How long a call takes in the median.
pub(super) fn measure(lane: &Lane) -> Result<Vec<Figure>> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let listener = lane.server.run(|| listen(PORT))??;
    SockRef::from(&listener).set_read_timeout(Some(PATIENCE))?;
    let target = lane.target(PORT);
    let mut took = lane.client.run(|| calls(target, &listener))??;
    took.sort_unstable();
    let middle = took.get(took.len() / 2).context("no calls")?;
    Ok(vec![Figure::new(CALL, "µs", middle.as_secs_f64() * 1e6)])
}

/// How long each took, on a thread that ends after this and is nobody else's.
fn calls(target: SocketAddr, listener: &TcpListener) -> Result<Vec<Duration>> {
    let mut here = CpuSet::new();
    here.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &here)?;
    // The first takes the agent's path, and the next may.
    batch(target, listener)?;
    let batches = (0..BATCHES).map(|_| batch(target, listener));
    Ok(batches.collect::<io::Result<Vec<_>>>()?.concat())
}

fn batch(target: SocketAddr, listener: &TcpListener) -> io::Result<Vec<Duration>> {
    let (mut sockets, mut took) = (Vec::new(), Vec::new());
    for _ in 0..BATCH {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        // Closed with a reset, so that no port stays in TIME_WAIT.
        socket.set_linger(Some(Duration::ZERO))?;
        let begun = Instant::now();
        socket.connect(&target.into())?;
        took.push(begun.elapsed());
        sockets.push(socket);
    }
    for _ in &sockets {
        listener.accept()?;
    }
    Ok(took)
}
