//! One turn of a stream that is being carried: what the application has to say is laid out, what
//! waits for it is given to it.
//!
//! Most of what the peer says has been given to the application by the carrier's task before; a turn
//! has to do with it only if the application's socket was full.

use std::io::{self, ErrorKind, IoSliceMut};
use std::task::{Context, Poll};

use tokio::net::TcpStream;

use super::super::codec::frame;
use super::super::error::{SessionError, StreamError};
use super::super::exclusive::socket::read_once;
use super::super::hbone::stream::reset_error;
use super::hub::Inner;
use super::slot::{End, Progress};
use super::stream::MuxStream;

/// Reads of one stream in one turn.
const ROUNDS: usize = 2;

/// From the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum Up {
    /// It has nothing more to say now.
    Idle,
    /// It has said enough for once.
    More,
    /// It has to wait: for the peer, or for others.
    Blocked,
    /// It will say nothing more.
    Ended,
}

/// To the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum Down {
    /// It has all there is.
    Idle,
    /// It takes no more now.
    Blocked,
    /// It has all there will ever be.
    Ended,
}

/// Why a stream cannot go on.
#[derive(Debug)]
pub(in crate::transport) enum Trouble {
    /// The application's socket.
    App(io::Error),
    /// The peer, or the session.
    Stream(StreamError),
}

impl MuxStream {
    /// One turn; nothing is read from an application that `has_ended`.
    pub(in crate::transport) fn poll_turn(
        &self,
        cx: &mut Context<'_>,
        app: &TcpStream,
        has_ended: HasEnded,
    ) -> Result<(Up, Down), Trouble> {
        let mut inner = self.hub().lock();
        let down = inner.poll_down(cx, self.stream, (app, has_ended))?;
        let up = match has_ended {
            HasEnded::Yes => Up::Ended,
            HasEnded::No => inner.poll_up(cx, self.stream, app)?,
        };
        Ok((up, down))
    }
}

/// Whether the application will say nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum HasEnded {
    /// It has closed, or half-closed.
    Yes,
    /// It may.
    No,
}

impl Inner {
    fn poll_down(
        &mut self,
        cx: &mut Context<'_>,
        stream: u32,
        (app, has_ended): (&TcpStream, HasEnded),
    ) -> Result<Down, Trouble> {
        let slot = self.streams.get_mut(&stream);
        let slot = slot.ok_or_else(|| broken(&SessionError::goodbye()))?;
        slot.wakes(cx.waker());
        if let Some(End::App(error)) = slot.end.take_if(|end| matches!(end, End::App(_))) {
            return Err(Trouble::App(error));
        }
        let mut progress = Progress::All;
        let mut taken = 0;
        while !slot.is_drained() {
            let (count, reached) = slot.catch_up().map_err(Trouble::App)?;
            taken += count;
            progress = reached;
            if progress == Progress::All {
                break;
            }
            match app.poll_write_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(ready) => ready.map_err(Trouble::App)?,
            }
        }
        let ended = slot.peer_finished && progress == Progress::All;
        // What came before the end is the application's, if that was all there is. Whoever has ended
        // and heard the end needs the session no more: a peer may leave behind it.
        let is_whole =
            slot.peer_finished && (progress == Progress::Blocked || has_ended == HasEnded::Yes);
        match (&slot.end, &self.ended) {
            (Some(End::Reset(code)), _) if !is_whole => {
                return Err(Trouble::Stream(reset_error((*code).into())));
            }
            (Some(_), _) if !is_whole => return Err(broken(&SessionError::goodbye())),
            (None, Some(error)) if !is_whole => return Err(broken(error)),
            _ => {}
        }
        if taken > 0 {
            self.took(stream, taken);
        }
        Ok(match progress {
            Progress::Blocked => Down::Blocked,
            Progress::All if ended => Down::Ended,
            Progress::All => Down::Idle,
        })
    }

    fn poll_up(
        &mut self,
        cx: &mut Context<'_>,
        stream: u32,
        app: &TcpStream,
    ) -> Result<Up, Trouble> {
        for _ in 0..ROUNDS {
            match app.poll_read_ready(cx) {
                Poll::Pending => return Ok(Up::Idle),
                Poll::Ready(ready) => ready.map_err(Trouble::App)?,
            }
            match self.read(stream, app)? {
                Read::Some => {}
                Read::End => return Ok(Up::Ended),
                Read::NoRoom => return Ok(Up::Blocked),
            }
        }
        Ok(Up::More)
    }

    /// Reads once what the application has to say, to where it is sealed.
    fn read(&mut self, stream: u32, app: &TcpStream) -> Result<Read, Trouble> {
        let Some(slot) = self.streams.get_mut(&stream) else {
            return Ok(Read::NoRoom);
        };
        if slot.allowed == 0 {
            return Ok(Read::NoRoom);
        }
        let room = self.out.payload();
        let room = room.map_err(|error| broken(&sealing(&error)))?;
        let Some(room) = room else {
            if !std::mem::replace(&mut slot.is_queued, true) {
                self.queue.push_back(stream);
            }
            self.wake_driver();
            return Ok(Read::NoRoom);
        };
        let most = room
            .len()
            .min(usize::try_from(slot.allowed).unwrap_or(usize::MAX));
        let room = room.get_mut(..most).unwrap_or_default();
        match read_once(app, &mut [IoSliceMut::new(room)], most) {
            Ok(0) => {
                frame::push_end(self.out.frames(), stream);
                self.wake_driver();
                Ok(Read::End)
            }
            Ok(count) => {
                self.out.commit(stream, count);
                slot.allowed -= u32::try_from(count).unwrap_or(slot.allowed);
                if let Some(app) = &mut slot.app {
                    app.load.sent(count);
                }
                self.wake_driver();
                Ok(Read::Some)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Read::Some),
            Err(error) => Err(Trouble::App(error)),
        }
    }
}

/// What came of a read.
enum Read {
    /// Something, or nothing after all.
    Some,
    /// The application will say nothing more.
    End,
    /// Nothing may be said now.
    NoRoom,
}

fn broken(error: &SessionError) -> Trouble {
    Trouble::Stream(StreamError::Session(error.clone()))
}

fn sealing(error: &super::super::record::RecordError) -> SessionError {
    SessionError::Protocol {
        detail: error.to_string(),
    }
}
