//! The splice between an application's socket and a carrier that its stream has to itself.
//!
//! ```text
//!  app ── read into the payloads of up to 32 records ──▶ sealed there ──▶ one send ──▶ peer
//!  app ◀── one write of all payloads ◀── opened there ◀── one receive ◀────────────── peer
//! ```
//!
//! One poll serves both directions, does a bounded amount of work and asks to be polled again if
//! there is more. Nothing wakes anybody but the two sockets and the carrier's heart beat.
//!
//! # Invariants
//!
//! * Bytes of the peer are given to the application in the buffer in which they arrived, before
//!   anything else is received into it.
//! * The peer is listened to until both directions have ended, and no longer: it may reset the stream
//!   after its own last byte, and it may leave after the last one of either.

use std::future::poll_fn;
use std::io::{ErrorKind, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::super::buffer::Sizer;
use super::super::error::StreamError;
use super::super::exclusive::ExclusiveStream;
use super::super::exclusive::carrier::{Carrier, Hearing, LoadError, Said, SessionFailure};
use super::super::exclusive::socket::{read_once, write_pieces};
use super::super::hbone::stream::{Abort, reset_error};
use super::{By, Closed, Ends, Load, ROUNDS, error_of, half_close};
use crate::lanes::after_others;

/// Pieces of payload that are given to the application in one write.
const PIECES: usize = 32;

/// Carries bytes until both directions have ended, and sees to the stream's end.
pub(super) async fn carry(app: &TcpStream, stream: ExclusiveStream, mut load: Load) -> Closed {
    if stream.early > 0 {
        load.sent(stream.early);
    }
    let mut flow = Flow {
        app,
        load,
        stream,
        sizer: Sizer::of_bulk(),
        pieces: Pieces::default(),
        peer_finished: false,
        ends: Ends::default(),
        deaf: Deaf::default(),
    };
    let closed = flow.run().await;
    match closed.how {
        super::How::Eof => flow.stream.finish(),
        _ => flow.stream.abort(Abort::Reset),
    }
    closed
}

struct Flow<'a> {
    app: &'a TcpStream,
    load: Load,
    stream: ExclusiveStream,
    /// How much is read from the application at once.
    sizer: Sizer,
    /// Received and not yet written to the application.
    pieces: Pieces,
    /// The peer's end of stream came behind them.
    peer_finished: bool,
    ends: Ends,
    deaf: Deaf,
}

/// The ends that are not being read. What they say is not wanted now; that they are gone is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Deaf {
    to_app: bool,
    to_peer: bool,
}

/// Ranges of what the carrier has received.
#[derive(Default)]
struct Pieces {
    ranges: [Range<u32>; PIECES],
    first: usize,
    end: usize,
}

/// Why a poll stopped without having to wait.
enum Turn {
    /// Other ends are listened to from now on.
    Listen,
    /// The connection has ended.
    Ended(Closed),
}

impl Flow<'_> {
    async fn run(&mut self) -> Closed {
        let app = self.app;
        let Some(peer) = self
            .stream
            .carrier()
            .map(|carrier| Arc::clone(&carrier.socket))
        else {
            return Closed::reset(By::Peer);
        };
        loop {
            let deaf = self.deaf;
            tokio::select! {
                biased;
                turn = poll_fn(|cx| self.poll(cx)) => match turn {
                    Turn::Listen => {}
                    Turn::Ended(closed) => return closed,
                },
                ready = app.ready(Interest::ERROR), if deaf.to_app => {
                    return Closed::broken(By::App, app, ready);
                }
                ready = peer.ready(Interest::ERROR), if deaf.to_peer => {
                    let error = error_of(&peer, ready);
                    let error = error.unwrap_or_else(|| ErrorKind::ConnectionReset.into());
                    return self.failed(error.into());
                }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        match self.poll_both(cx) {
            Err(Stop::Closed(closed)) => Poll::Ready(Turn::Ended(closed)),
            Err(Stop::Failed(failure)) => Poll::Ready(Turn::Ended(self.failed(failure))),
            Ok((more, deaf)) => {
                if more {
                    // Fairness is ours to see to: this is outside of the runtime's budget.
                    after_others(cx);
                }
                if std::mem::replace(&mut self.deaf, deaf) != deaf {
                    return Poll::Ready(Turn::Listen);
                }
                Poll::Pending
            }
        }
    }

    /// Both directions, once. Whether there is more to do, and who is not being read.
    fn poll_both(&mut self, cx: &mut Context<'_>) -> Result<(bool, Deaf), Stop> {
        let down = self.poll_down(cx)?;
        let up = self.poll_up(cx)?;
        let carrier = carrier(&mut self.stream)?;
        let hearing = match down {
            Direction::Blocked => Hearing::Deaf,
            Direction::Idle | Direction::More => Hearing::Listens,
        };
        if carrier.poll_silent(cx, hearing).is_ready() {
            return Err(Stop::Failed(SessionFailure::Silent));
        }
        let sent = carrier.poll_flush(cx)?;
        if sent.is_ready()
            && let Some(closed) = self.ends.both()
        {
            return Err(Stop::Closed(closed));
        }
        let deaf = Deaf {
            to_app: up == Direction::Blocked || self.ends.from_app,
            to_peer: down == Direction::Blocked,
        };
        Ok((up == Direction::More || down == Direction::More, deaf))
    }

    /// From the application to the peer.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<Direction, Stop> {
        let app = self.app;
        let carrier = carrier(&mut self.stream)?;
        for _ in 0..ROUNDS {
            if carrier.has_pending() && carrier.poll_flush(cx)?.is_pending() {
                return Ok(Direction::Blocked);
            }
            if self.ends.from_app {
                return Ok(Direction::Idle);
            }
            match app.poll_read_ready(cx) {
                Poll::Pending => return Ok(Direction::Idle),
                Poll::Ready(ready) => ready.map_err(from_app)?,
            }
            let mut ended = false;
            let loaded = carrier.load(&self.sizer, |slots, most| {
                let read = read_once(app, slots, most);
                ended = matches!(read, Ok(0));
                read
            });
            match loaded {
                Ok(_) if ended => {
                    carrier.finish();
                    self.ends.eof_from(By::App);
                }
                Ok(count) => {
                    self.sizer.read(count);
                    self.load.sent(count);
                }
                Err(LoadError::Read(error)) if error.kind() == ErrorKind::WouldBlock => {}
                Err(LoadError::Read(error)) => return Err(from_app(error)),
                Err(LoadError::Seal(error)) => return Err(Stop::Failed(error.into())),
            }
        }
        Ok(Direction::More)
    }

    /// From the peer to the application.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Result<Direction, Stop> {
        for _ in 0..2 * ROUNDS {
            if !self.pieces.is_empty() && !self.write_app(cx)? {
                return Ok(Direction::Blocked);
            }
            if self.peer_finished && !self.ends.from_peer {
                half_close(self.app);
                self.ends.eof_from(By::Peer);
            }
            if self.ends.both().is_some() && !carrier(&mut self.stream)?.has_pending() {
                // A peer that leaves now leaves in order, and perhaps has already. As long as it has
                // not been sent everything, its signs of life are listened to.
                return Ok(Direction::Idle);
            }
            self.gather()?;
            if !self.pieces.is_empty() || (self.peer_finished && !self.ends.from_peer) {
                continue;
            }
            match carrier(&mut self.stream)?.poll_receive(cx) {
                Poll::Pending => return Ok(Direction::Idle),
                Poll::Ready(received) => received?,
            }
        }
        Ok(Direction::More)
    }

    /// Takes payload out of what has been received.
    fn gather(&mut self) -> Result<(), Stop> {
        let carrier = carrier(&mut self.stream)?;
        while !self.pieces.is_full() {
            match carrier.next()? {
                None => return Ok(()),
                Some(Said::Data(_) | Said::End) if self.peer_finished => {
                    return Err(Stop::Failed(
                        super::super::codec::CodecError::Unexpected.into(),
                    ));
                }
                Some(Said::Data(range)) => self.pieces.push(range),
                Some(Said::End) => {
                    self.peer_finished = true;
                    return Ok(());
                }
                Some(Said::Reset(code)) => {
                    return Err(Stop::Closed(Closed::stream(reset_error(code.into()))));
                }
                // Trailers, which mean nothing to us.
                Some(Said::Hello | Said::Headers(_)) => {}
            }
        }
        Ok(())
    }

    /// Writes what is pending to the application. `false` if its socket takes no more now.
    fn write_app(&mut self, cx: &mut Context<'_>) -> Result<bool, Stop> {
        let received = carrier(&mut self.stream)?.received();
        while !self.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let slices = self.pieces.slices(received, &mut slices);
            match write_pieces(self.app, slices) {
                Ok(written) => {
                    self.load.received(written);
                    self.pieces.advance(written);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    match self.app.poll_write_ready(cx) {
                        Poll::Pending => return Ok(false),
                        Poll::Ready(ready) => ready.map_err(from_app)?,
                    }
                }
                Err(error) => return Err(from_app(error)),
            }
        }
        Ok(true)
    }

    /// The session is over, and with it the stream.
    fn failed(&mut self, failure: SessionFailure) -> Closed {
        self.stream.fail(&failure);
        Closed::stream(StreamError::from(failure))
    }
}

/// How far a direction got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// It waits for the end that it reads.
    Idle,
    /// It waits for the end that it writes to.
    Blocked,
    /// It has done enough for once.
    More,
}

/// Why there is nothing more to be done.
enum Stop {
    Closed(Closed),
    Failed(SessionFailure),
}

impl<T: Into<SessionFailure>> From<T> for Stop {
    fn from(failure: T) -> Self {
        Self::Failed(failure.into())
    }
}

fn from_app(error: std::io::Error) -> Stop {
    Stop::Closed(Closed::socket(By::App, error))
}

/// The carrier of a stream that is not over.
fn carrier(stream: &mut ExclusiveStream) -> Result<&mut Carrier, Stop> {
    stream.carrier().ok_or(Stop::Failed(SessionFailure::Closed))
}

impl Pieces {
    const fn is_empty(&self) -> bool {
        self.first == self.end
    }

    const fn is_full(&self) -> bool {
        self.end == PIECES
    }

    fn push(&mut self, range: Range<usize>) {
        // Buffers are far smaller than 4 GiB.
        let short = |at| u32::try_from(at).unwrap_or_default();
        if let Some(free) = self.ranges.get_mut(self.end) {
            *free = short(range.start)..short(range.end);
            self.end += 1;
        }
    }

    fn slices<'s, 'b>(
        &self,
        bytes: &'b [u8],
        slices: &'s mut [IoSlice<'b>; PIECES],
    ) -> &'s [IoSlice<'b>] {
        let ranges = self.ranges.get(self.first..self.end).unwrap_or_default();
        for (slice, range) in slices.iter_mut().zip(ranges) {
            *slice = IoSlice::new(bytes.get(long(range)).unwrap_or_default());
        }
        slices.get(..ranges.len()).unwrap_or_default()
    }

    fn advance(&mut self, count: usize) {
        let mut left = u32::try_from(count).unwrap_or(u32::MAX);
        while let Some(range) = self.ranges.get_mut(self.first)
            && self.first < self.end
        {
            let length = range.end - range.start;
            if length > left {
                range.start += left;
                return;
            }
            left -= length;
            self.first += 1;
        }
        (self.first, self.end) = (0, 0);
    }
}

fn long(range: &Range<u32>) -> Range<usize> {
    let long = |at| usize::try_from(at).unwrap_or(usize::MAX);
    long(range.start)..long(range.end)
}
