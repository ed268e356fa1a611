//! Moves bytes between an application's socket and its tunnel (or a plain socket) until both
//! directions have ended, and makes each end see what it would have seen without us.
//!
//! | one end does | the other end sees |
//! |---|---|
//! | close or shutdown for writing (FIN, `END_STREAM`) | end of file; the other direction goes on |
//! | reset (RST, `RST_STREAM`) | a reset |
//! | is cut (dropping the splice) | a reset |
//! | stop reading | its writes block: at most the windows and one buffer are in between |
//! | break (the carrier dies) | a reset: an end of file would claim that all had arrived |
//!
//! # Invariants
//!
//! * A connection without traffic holds no buffer. Nothing is allocated per read in steady state.
//! * Each direction works a bounded round before the other one gets its turn.
//! * A reset is noticed also while the other end is not reading.
//!
//! * A splice that is dropped before its end resets both ends: that is how a connection is cut. The
//!   peer's agent can tell it from a reset by the application.
//!
//! Not here: opening either end, deciding how long it may last.

mod exclusive;
mod mux;
mod plain;
mod tunnel;

use std::io;
use std::sync::Arc;

pub use plain::plain;
pub use tunnel::tunnel;

use tokio::io::Ready;
use tokio::net::TcpStream;

use super::error::StreamError;
use super::grain::{Grain, Tally};
use crate::net::{Traffic, close_in_order, reset_on_close};
use crate::reason::Label;

/// Rounds of reading and writing that one direction may do before the other gets its turn.
const ROUNDS: usize = 4;

/// How a connection ended.
#[derive(Debug)]
pub struct Closed {
    /// The end that closed first, or that broke.
    pub by: By,
    /// How.
    pub how: How,
}

/// One end of a spliced connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The local application.
    App,
    /// The other end.
    Peer,
}

/// How an end closed.
#[derive(Debug)]
pub enum How {
    /// Both directions reached their end of file.
    Eof,
    /// It reset the connection.
    Reset,
    /// Its agent ended the connection: what allowed it no longer holds there, or it is going away.
    Cut,
    /// Its socket or session failed.
    Error(CloseError),
}

/// What failed under an open connection.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// A socket.
    #[error("the socket failed")]
    Socket(#[from] io::Error),
    /// The carrier.
    #[error(transparent)]
    Session(super::SessionError),
}

impl CloseError {
    /// The label under which it is told and counted, where it happened to this end.
    pub const fn reason(&self, by: By) -> Label {
        match (self, by) {
            (_, By::App) => Label::AppError,
            (Self::Session(error), By::Peer) => error.reason(),
            (Self::Socket(_), By::Peer) => Label::PeerError,
        }
    }
}

impl Closed {
    /// Which end did what, in one word.
    pub const fn reason(&self) -> &'static str {
        match (&self.how, self.by) {
            (How::Eof, By::App) => "app_closed",
            (How::Eof, By::Peer) => "peer_closed",
            (How::Reset, By::App) => "app_reset",
            (How::Reset, By::Peer) => "peer_reset",
            (How::Cut, _) => Label::CutByPeer.as_str(),
            (How::Error(error), by) => error.reason(by).as_str(),
        }
    }

    const fn eof(by: By) -> Self {
        Self { by, how: How::Eof }
    }

    const fn reset(by: By) -> Self {
        Self {
            by,
            how: How::Reset,
        }
    }

    fn socket(by: By, error: io::Error) -> Self {
        match error.kind() {
            // EPIPE: we wrote after the application had reset.
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::reset(by),
            _ => Self {
                by,
                how: How::Error(error.into()),
            },
        }
    }

    /// The socket of this end has said that it is broken, while nobody read from it.
    fn broken(by: By, socket: &TcpStream, ready: io::Result<Ready>) -> Self {
        let error = error_of(socket, ready);
        error.map_or_else(|| Self::reset(by), |error| Self::socket(by, error))
    }

    fn stream(error: StreamError) -> Self {
        match error {
            StreamError::Reset { .. } => Self::reset(By::Peer),
            StreamError::Cut => Self {
                by: By::Peer,
                how: How::Cut,
            },
            StreamError::Session(error) => Self {
                by: By::Peer,
                how: How::Error(CloseError::Session(error)),
            },
        }
    }
}

/// Which direction has reached its end of file, and which end was first.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    first: Option<By>,
    from_app: bool,
    from_peer: bool,
}

impl Ends {
    fn eof_from(&mut self, by: By) {
        self.first.get_or_insert(by);
        match by {
            By::App => self.from_app = true,
            By::Peer => self.from_peer = true,
        }
    }

    /// The end of the connection, once both directions have ended.
    fn both(self) -> Option<Closed> {
        let ended = self.from_app && self.from_peer;
        self.first.filter(|_| ended).map(Closed::eof)
    }
}

/// Makes a socket reset when it is closed, unless both directions ended in order.
///
/// That is said to the kernel at once and taken back at the end: the sockets of an agent that is
/// killed are closed by the kernel, and an end of file would claim that all had arrived.
struct ResetUnlessDone<'a> {
    socket: &'a TcpStream,
    done: bool,
}

impl<'a> ResetUnlessDone<'a> {
    fn new(socket: &'a TcpStream) -> Self {
        // Fails only on a socket that is gone.
        let _gone = reset_on_close(socket);
        Self {
            socket,
            done: false,
        }
    }

    fn closed(&mut self, closed: &Closed) {
        self.done = matches!(closed.how, How::Eof);
        if self.done {
            let _gone = close_in_order(self.socket);
        }
    }
}

/// What a connection carries, as it is counted.
#[derive(Debug)]
pub(super) struct Load {
    traffic: Arc<Traffic>,
    tally: Tally,
}

impl Load {
    const fn new(traffic: Arc<Traffic>, grain: Option<Arc<Grain>>) -> Self {
        Self {
            traffic,
            tally: Tally::new(grain),
        }
    }

    /// The application said so many bytes.
    pub(super) fn sent(&mut self, bytes: usize) {
        let bytes = bytes_of(bytes);
        self.traffic.add_sent(bytes);
        self.tally.count(bytes);
    }

    /// It was given so many.
    pub(super) fn received(&mut self, bytes: usize) {
        let bytes = bytes_of(bytes);
        self.traffic.add_received(bytes);
        self.tally.count(bytes);
    }
}

/// What a socket that is ready for an error has to tell, if it does.
fn error_of(socket: &TcpStream, ready: io::Result<Ready>) -> Option<io::Error> {
    ready.err().or_else(|| socket.take_error().ok().flatten())
}

/// Shuts a socket down for writing.
pub(super) fn half_close(socket: &TcpStream) {
    // Fails only if the socket is closed already, which the reading side reports better.
    let _closed = socket2::SockRef::from(socket).shutdown(std::net::Shutdown::Write);
}

/// A count of bytes of one read or write, which always fits.
fn bytes_of(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests;
