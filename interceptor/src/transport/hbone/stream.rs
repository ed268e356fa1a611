//! The bytes of one tunnelled connection: a pair of halves over one HTTP/2 stream, or a stream that
//! has its carrier to itself (`exclusive`).
//!
//! This file and the two that set sessions up (`carrier.rs`, `server.rs`) are all that knows the
//! `h2` crate.
//!
//! # Invariants
//!
//! * An end of stream, a reset and a broken session are three different things, and stay so.
//! * Nothing is sent beyond the capacity that flow control has granted: a peer that does not read
//!   costs at most `Config::send_buffer`.
//! * What was received and not yet released counts against the peer's window.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;

use super::super::buffer::{Segment, Sizer};
use super::super::error::{SessionError, StreamError};
use super::super::exclusive::stream::ExclusiveStream;
use super::super::grain::Grain;
use super::super::mux::MuxStream;
use super::Lease;

/// One tunnelled connection.
pub struct TunnelStream {
    pub(in crate::transport) kind: Kind,
    /// Who wants to know how large its messages are.
    pub(in crate::transport) grain: Option<Arc<Grain>>,
}

/// What the stream is a stream of.
pub(in crate::transport) enum Kind {
    /// An HTTP/2 connection that may have others.
    Shared(Shared),
    /// One that has no other.
    Exclusive(ExclusiveStream),
    /// One that has others, between two of our agents.
    Mux(MuxStream),
}

/// A stream of the `h2` crate's.
pub(in crate::transport) struct Shared {
    pub(in crate::transport) send: SendHalf,
    pub(in crate::transport) receive: ReceiveHalf,
    /// Keeps the carrier counted as in use.
    pub(in crate::transport) lease: Option<Lease>,
    /// Bytes of the application that have been sent already.
    pub(in crate::transport) early: usize,
    /// Memory that may be on its way to the carrier.
    pub(in crate::transport) most_aloft: usize,
}

impl fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Shared(shared) => {
                let id = shared.receive.stream.stream_id();
                write!(f, "TunnelStream({id:?})")
            }
            Kind::Exclusive(stream) => write!(f, "TunnelStream({stream:?})"),
            Kind::Mux(stream) => write!(f, "TunnelStream({stream:?})"),
        }
    }
}

impl TunnelStream {
    pub(super) const fn new(
        send: h2::SendStream<Segment>,
        receive: h2::RecvStream,
        lease: Option<Lease>,
        most_aloft: usize,
    ) -> Self {
        Self {
            kind: Kind::Shared(Shared {
                send: SendHalf { stream: send },
                receive: ReceiveHalf { stream: receive },
                lease,
                early: 0,
                most_aloft,
            }),
            grain: None,
        }
    }

    /// Lets `grain` know how large its messages are.
    pub(super) fn reporting_to(self, grain: Arc<Grain>) -> Self {
        Self {
            grain: Some(grain),
            ..self
        }
    }

    /// Sends what the application had said before the stream was open: at most one buffer, which
    /// waits if the peer's window is smaller.
    pub(super) fn after(mut self, said: &[u8]) -> Result<Self, StreamError> {
        if let Kind::Shared(shared) = &mut self.kind
            && !said.is_empty()
        {
            let mut segment = Segment::take(&Sizer::default());
            if let Some(room) = segment.room(said.len()).get_mut(..said.len()) {
                room.copy_from_slice(said);
            }
            segment.wrote(said.len());
            shared.early = said.len();
            shared.send.send(segment)?;
        }
        Ok(self)
    }

    pub(super) const fn exclusive(stream: ExclusiveStream) -> Self {
        Self {
            kind: Kind::Exclusive(stream),
            grain: None,
        }
    }

    pub(super) const fn mux(stream: MuxStream) -> Self {
        Self {
            kind: Kind::Mux(stream),
            grain: None,
        }
    }
}

/// Why a stream is ended in both directions at once.
///
/// | why | code | how others read it |
/// |---|---|---|
/// | the application reset | `CONNECT_ERROR`, as RFC 9113 8.5 demands | a reset |
/// | we cut it | `INADEQUATE_SECURITY` | a reset; our agents: a cut |
///
/// Not `CANCEL`: ztunnel takes that for an orderly end, which would claim that all had arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum Abort {
    /// The application did, or its socket broke.
    Reset,
    /// What allowed the connection no longer holds, or this agent is going away.
    Cut,
}

impl Abort {
    pub(in crate::transport) const fn code(self) -> Reason {
        match self {
            Self::Reset => Reason::CONNECT_ERROR,
            Self::Cut => Reason::INADEQUATE_SECURITY,
        }
    }
}

/// What a [`SendHalf`] was waiting for.
#[derive(Debug)]
pub(in crate::transport) enum SendEvent {
    /// So many bytes may be sent now.
    Capacity(usize),
    /// The peer wants nothing more from this stream; what it sent remains readable.
    Unwanted,
    /// The stream ended.
    Ended(StreamError),
}

/// The direction towards the peer.
#[derive(Debug)]
pub(in crate::transport) struct SendHalf {
    stream: h2::SendStream<Segment>,
}

impl SendHalf {
    /// Waits for room for up to `wanted` bytes, or for the end of the stream.
    pub(in crate::transport) fn poll_capacity(
        &mut self,
        cx: &mut Context<'_>,
        wanted: usize,
    ) -> Poll<SendEvent> {
        if let Poll::Ready(ended) = self.poll_ended(cx) {
            return Poll::Ready(ended);
        }
        self.stream.reserve_capacity(wanted);
        let granted = self.stream.capacity();
        if granted > 0 {
            return Poll::Ready(SendEvent::Capacity(granted));
        }
        match ready!(self.stream.poll_capacity(cx)) {
            Some(Ok(granted)) => Poll::Ready(SendEvent::Capacity(granted)),
            Some(Err(error)) => Poll::Ready(SendEvent::Ended(stream_error(&error))),
            // Closed without a reason that `poll_ended` would have seen.
            None => Poll::Ready(SendEvent::Unwanted),
        }
    }

    /// Waits for the peer to reset the stream, or for the session to break.
    pub(in crate::transport) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<SendEvent> {
        Poll::Ready(match ready!(self.stream.poll_reset(cx)) {
            Ok(Reason::NO_ERROR) => SendEvent::Unwanted,
            Ok(reason) => SendEvent::Ended(reset_error(reason)),
            Err(error) => SendEvent::Ended(stream_error(&error)),
        })
    }

    /// Sends bytes for which there is capacity.
    pub(in crate::transport) fn send(&mut self, bytes: Segment) -> Result<(), StreamError> {
        let sent = self.stream.send_data(bytes, false);
        sent.map_err(|error| stream_error(&error))
    }

    /// Gives back capacity that was granted and is not needed now, so that other streams of the
    /// same carrier can have it.
    pub(in crate::transport) fn release(&mut self) {
        self.stream.reserve_capacity(0);
    }

    /// Half-closes: nothing more will be sent.
    pub(in crate::transport) fn finish(&mut self) {
        // Fails only if the stream has ended already.
        let _ended = self.stream.send_data(Segment::empty(), true);
    }

    /// Resets the stream in both directions.
    pub(in crate::transport) fn reset(&mut self, why: Abort) {
        self.stream.send_reset(why.code());
    }
}

/// The direction from the peer.
#[derive(Debug)]
pub(in crate::transport) struct ReceiveHalf {
    stream: h2::RecvStream,
}

impl ReceiveHalf {
    /// The next bytes, `None` at the end of stream.
    pub(in crate::transport) fn poll_bytes(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, StreamError>>> {
        loop {
            return Poll::Ready(match ready!(self.stream.poll_data(cx)) {
                Some(Ok(bytes)) if bytes.is_empty() => continue,
                Some(Ok(bytes)) => Some(Ok(bytes)),
                Some(Err(error))
                    if error.reason() == Some(Reason::NO_ERROR) && error.is_reset() =>
                {
                    None
                }
                Some(Err(error)) => Some(Err(stream_error(&error))),
                None => None,
            });
        }
    }

    /// Opens the peer's window again by bytes that have been passed on.
    pub(in crate::transport) fn release(&mut self, count: usize) {
        // Fails only if the stream has ended: then there is no window left to open.
        let _ended = self.stream.flow_control().release_capacity(count);
    }
}

/// What a reset by the peer means.
pub(in crate::transport) fn reset_error(reason: Reason) -> StreamError {
    if reason == Abort::Cut.code() {
        return StreamError::Cut;
    }
    StreamError::Reset {
        code: name_of(reason),
    }
}

/// Sorts an `h2` error into: this stream was reset, or the whole session ended.
pub(super) fn stream_error(error: &h2::Error) -> StreamError {
    match error.reason() {
        Some(reason) if error.is_reset() => reset_error(reason),
        _ => StreamError::Session(session_error(error)),
    }
}

/// What an `h2` error means for the session.
pub(super) fn session_error(error: &h2::Error) -> SessionError {
    if let Some(io) = error.get_io() {
        return SessionError::Io(std::io::Error::new(io.kind(), io.to_string()).into());
    }
    match error.reason() {
        Some(reason) if error.is_remote() => SessionError::GoAway {
            code: name_of(reason),
        },
        _ => SessionError::Protocol {
            detail: error.to_string(),
        },
    }
}

/// `CANCEL`, `NO_ERROR`, ...
fn name_of(reason: Reason) -> String {
    format!("{reason:?}")
}
