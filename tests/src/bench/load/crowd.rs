//! Very many connections at a time, by a client whose own work does not depend on how many.
//!
//! A thread for each of a thousand makes the client slower than one for each of 256: raw TCP, too,
//! lost a quarter of its rate from the one to the other, and who shares the cores with such a client
//! loses with it. So beyond [`THREADS`] as many threads as there are cores have an event loop each.

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Run, TIMEOUT};
use crate::netns::join;

/// As many connections at a time have a thread each.
pub(super) const THREADS: usize = 64;

/// Connects, has a byte go there and back, and closes, so many at a time, until the run stops.
pub(super) fn connects(run: &Arc<Run>, count: usize) -> io::Result<()> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        // A thread inherits the namespace of the one that makes it.
        let loops: Vec<_> = (0..cores)
            .map(|first| scope.spawn(move || event_loop(run, (first..count).step_by(cores))))
            .collect();
        loops.into_iter().try_for_each(|it| join(it.join()))
    })
}

fn event_loop(run: &Arc<Run>, numbers: impl Iterator<Item = usize>) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut all = JoinSet::new();
        for number in numbers {
            all.spawn(one_after_the_other(Arc::clone(run), number));
        }
        while let Some(ended) = all.join_next().await {
            ended.map_err(io::Error::other)??;
        }
        Ok(())
    })
}

async fn one_after_the_other(run: Arc<Run>, number: usize) -> io::Result<()> {
    while !run.is_over() {
        let start = Instant::now();
        timeout(TIMEOUT, once(&run)).await??;
        run.keep(start, number);
    }
    Ok(())
}

async fn once(run: &Run) -> io::Result<()> {
    let mut stream = TcpStream::connect(run.target).await?;
    stream.set_nodelay(true)?;
    stream.write_all(b"c").await?;
    stream.read_exact(&mut [0]).await.map(drop)
}
