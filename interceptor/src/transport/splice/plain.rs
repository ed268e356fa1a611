//! The splice between two plain sockets: passthrough, and plaintext inbound.

use std::io::ErrorKind;
use std::sync::Arc;

use bytes::Buf;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::super::buffer::{Segment, Sizer};
use super::{By, Closed, Ends, ROUNDS, ResetUnlessDone, bytes_of, half_close};
use crate::net::Traffic;

/// Carries bytes between the application and its peer until both directions have ended.
///
/// On return both sockets are half-closed or set to reset when they are dropped: the caller only
/// has to drop them.
///
/// # Cancel safety
///
/// Dropping the future before its end resets both ends.
pub async fn plain(app: &TcpStream, peer: &TcpStream, traffic: Arc<Traffic>) -> Closed {
    let mut resets = [app, peer].map(ResetUnlessDone::new);
    let closed = run(app, peer, &traffic).await;
    for reset in &mut resets {
        reset.closed(&closed);
    }
    closed
}

async fn run(app: &TcpStream, peer: &TcpStream, traffic: &Traffic) -> Closed {
    let mut up = Direction::new(app, peer, By::App);
    let mut down = Direction::new(peer, app, By::Peer);
    let mut ends = Ends::default();
    loop {
        if let Some(closed) = ends.both() {
            return closed;
        }
        let moved = tokio::select! {
            ready = up.ready() => ready.and_then(|()| up.turn(|count| traffic.add_sent(count))),
            ready = down.ready() => {
                ready.and_then(|()| down.turn(|count| traffic.add_received(count)))
            }
        };
        match moved {
            Ok(Turn::Ended(by)) => ends.eof_from(by),
            Ok(Turn::Idle) => {}
            // A flow that is always ready lets all others of its thread have their turn.
            Ok(Turn::More) => tokio::task::yield_now().await,
            Err(closed) => return closed,
        }
        tokio::task::consume_budget().await;
    }
}

/// What came of a turn.
enum Turn {
    /// One of the sockets has to be waited for.
    Idle,
    /// That was enough for once.
    More,
    /// This end has reached its end of file.
    Ended(By),
}

/// Bytes from one socket to the other.
struct Direction<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    /// The end that `from` is.
    by: By,
    sizer: Sizer,
    /// Read and not yet written.
    pending: Segment,
    ended: bool,
}

impl<'a> Direction<'a> {
    fn new(from: &'a TcpStream, to: &'a TcpStream, by: By) -> Self {
        Self {
            from,
            to,
            by,
            sizer: Sizer::default(),
            pending: Segment::empty(),
            ended: false,
        }
    }

    const fn other(&self) -> By {
        match self.by {
            By::App => By::Peer,
            By::Peer => By::App,
        }
    }

    /// Waits until [`Self::turn`] can do something.
    ///
    /// # Errors
    ///
    /// The reset of `from`, noticed while it is not being read.
    async fn ready(&self) -> Result<(), Closed> {
        let broken = |ready| Err(Closed::broken(self.by, self.from, ready));
        if self.ended {
            broken(self.from.ready(Interest::ERROR).await)
        } else if self.pending.has_remaining() {
            tokio::select! {
                ready = self.to.writable() => {
                    ready.map_err(|error| Closed::socket(self.other(), error))
                }
                ready = self.from.ready(Interest::ERROR) => broken(ready),
            }
        } else {
            let ready = self.from.readable().await;
            ready.map_err(|error| Closed::socket(self.by, error))
        }
    }

    /// Moves a bounded amount.
    fn turn(&mut self, moved: impl Fn(u64)) -> Result<Turn, Closed> {
        for _ in 0..ROUNDS {
            if !self.pending.has_remaining() {
                let mut segment = Segment::take(&self.sizer);
                match self.from.try_read(segment.room(usize::MAX)) {
                    Ok(0) => {
                        half_close(self.to);
                        self.ended = true;
                        return Ok(Turn::Ended(self.by));
                    }
                    Ok(count) => {
                        segment.wrote(count);
                        self.sizer.read(count);
                        self.pending = segment;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Turn::Idle),
                    Err(error) => return Err(Closed::socket(self.by, error)),
                }
            }
            while self.pending.has_remaining() {
                match self.to.try_write(self.pending.chunk()) {
                    Ok(count) => {
                        self.pending.advance(count);
                        moved(bytes_of(count));
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Turn::Idle),
                    Err(error) => return Err(Closed::socket(self.other(), error)),
                }
            }
            self.pending = Segment::empty();
        }
        Ok(Turn::More)
    }
}
