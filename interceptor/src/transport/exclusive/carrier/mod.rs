//! One exclusive carrier: a socket, the keys of its TLS session, and the frames in its records.
//!
//! It belongs to whoever has the stream, so nothing is shared and nothing is locked. It has no task
//! of its own: every method does what can be done now, and the caller polls. Bytes are received
//! into a pooled buffer, opened there, and given out as ranges of it; bytes of an application are
//! read straight into the records that carry them ([`Carrier::load`]).
//!
//! # Invariants
//!
//! * A carrier without pending bytes holds no buffer.
//! * Frames of a stream that is over are ignored: both ends may still say something on it before
//!   they learn that the other one has left.
//! * After an error nothing is sent or received any more.

mod ending;
mod failure;
mod heart;
pub(in crate::transport) mod inbox;
mod sending;

use std::io;
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;
use tokio::time::Instant;

pub(in crate::transport) use self::failure::{LoadError, SessionFailure};
pub(in crate::transport) use self::heart::Hearing;
use self::heart::Heart;
use self::inbox::Inbox;
use super::super::buffer::{Chunk, Sizer};
use super::super::codec::{CodecError, Event, Fields, Reader, frame};
use super::super::config::Config;
use super::super::record;
use super::super::tls::Fast;
use crate::lanes::Lane;

/// Payload of one DATA frame: what is left of a record.
pub(in crate::transport) const PAYLOAD: usize = frame::MAX_PAYLOAD - frame::HEADER;
/// Where that payload begins in its record.
const FRONT: usize = record::HEADER + frame::HEADER;
/// Records that are filled at once.
const SLOTS: usize = 32;
/// Frames that may wait to be sent. A peer that asks without reading answers ends here.
const MAX_OUTBOX: usize = 128 << 10;

/// Which end of a carrier we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

/// What the peer said about the stream.
#[derive(Debug)]
pub(in crate::transport) enum Said {
    /// Its settings, for the first time: it has accepted us and speaks HTTP/2.
    Hello,
    /// Bytes: where they are in [`Carrier::received`].
    Data(Range<usize>),
    /// Nothing more will come.
    End,
    /// A header list: the answer, or a request on a new stream.
    Headers(Box<Fields>),
    /// It ended the stream in both directions.
    Reset(u32),
}

/// One exclusive carrier.
pub(in crate::transport) struct Carrier {
    pub(in crate::transport) socket: Arc<TcpStream>,
    role: Role,
    session: record::Session,
    reader: Reader,
    inbox: Inbox,
    /// Frames that go out before anything else.
    outbox: Vec<u8>,
    /// Sealed and not yet taken by the socket.
    unsent: Chunk,
    unsent_at: Range<usize>,
    /// The stream, or the latest one.
    stream: u32,
    /// Whether it is still going on.
    active: bool,
    /// The highest number that a stream had: one that was refused, or the latest one.
    highest: u32,
    /// The peer has sent its settings.
    greeted: bool,
    /// We have ended the stream and wait until the peer has heard of it, at most so long.
    leaving: Option<Instant>,
    /// The peer takes no more streams.
    going: bool,
    heart: Heart,
    pub(in crate::transport) config: Arc<Config>,
}

impl std::fmt::Debug for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Carrier({:?}, stream {})", self.role, self.stream)
    }
}

impl Carrier {
    /// The carrier on a session that was just agreed upon. Our greeting waits to be sent.
    pub(super) fn new(fast: Fast<TcpStream>, role: Role, config: &Arc<Config>) -> Self {
        let mut outbox = Vec::new();
        let (reader, max_headers) = match role {
            Role::Client => {
                outbox.extend(frame::PREFACE);
                let most = config.max_response_headers;
                (Reader::of_server(size(most)), most)
            }
            Role::Server => {
                let most = config.max_request_headers;
                (Reader::of_client(size(most)), most)
            }
        };
        frame::push_settings(&mut outbox, frame::Streams::One, max_headers);
        Self {
            socket: Arc::new(fast.socket),
            role,
            session: fast.session,
            reader,
            inbox: Inbox::new(&fast.early, Sizer::of_bulk()),
            outbox,
            unsent: Chunk::none(),
            unsent_at: 0..0,
            stream: 0,
            active: false,
            highest: 0,
            greeted: false,
            leaving: None,
            going: false,
            heart: Heart::new(config),
            config: Arc::clone(config),
        }
    }

    /// Lets the carrier belong to `lane`: its socket and its timer are that runtime's from now on.
    ///
    /// # Errors
    ///
    /// If that runtime cannot have it; then all is as before.
    pub(super) fn move_to(&mut self, lane: &Lane) -> io::Result<()> {
        let _there = lane.enter();
        // A second descriptor, because the first one may still be watched from here.
        let socket = std::net::TcpStream::from(self.socket.as_fd().try_clone_to_owned()?);
        self.socket = Arc::new(TcpStream::from_std(socket)?);
        self.heart = Heart::new(&self.config);
        Ok(())
    }

    /// Sends our greeting and waits for the peer's: from then on it has accepted our certificate
    /// and speaks HTTP/2.
    pub(super) async fn greet(&mut self) -> Result<(), SessionFailure> {
        let mut greeted = false;
        std::future::poll_fn(|cx| {
            let sent = self.poll_flush(cx);
            while !greeted {
                match self.next()? {
                    Some(Said::Hello) => {
                        greeted = true;
                        // A client may have asked already; a server answers nobody yet.
                        if self.role == Role::Client {
                            match self.next() {
                                Ok(None) => {}
                                Ok(Some(_)) => {
                                    return Poll::Ready(Err(CodecError::Unexpected.into()));
                                }
                                // It is about to be replaced: whoever asks here is told so.
                                Err(SessionFailure::Closed) if self.going => {}
                                Err(failure) => return Poll::Ready(Err(failure)),
                            }
                        }
                    }
                    Some(_) => return Poll::Ready(Err(CodecError::Unexpected.into())),
                    None => ready!(self.poll_receive(cx))?,
                }
            }
            sent
        })
        .await
    }

    /// Begins a stream of ours.
    pub(super) const fn begin(&mut self) -> u32 {
        // Odd numbers, beginning with 1 (RFC 9113 5.1.1).
        self.stream = if self.stream == 0 { 1 } else { self.stream + 2 };
        self.highest = self.stream;
        self.active = true;
        self.stream
    }

    /// Whether the peer has said that it takes no more streams.
    pub(super) const fn is_going(&self) -> bool {
        self.going
    }

    /// Whether another stream can begin here: the last one is over, for both ends, and nothing of
    /// it is left.
    pub(super) fn is_clean(&self) -> bool {
        !self.active
            && self.leaving.is_none()
            && !self.going
            && self.unsent_at.is_empty()
            && self.inbox.is_empty()
            && !self.reader.in_frame()
            // Streams are numbered up to 2^31: far beyond the AEAD's limit, but who knows.
            && self.stream < u32::MAX / 4
    }

    /// The bytes that ranges in [`Said::Data`] refer to, until the next [`Self::poll_receive`].
    pub(in crate::transport) fn received(&self) -> &[u8] {
        &self.inbox.chunk
    }

    /// Frames that go out before anything else.
    pub(super) const fn outbox(&mut self) -> &mut Vec<u8> {
        &mut self.outbox
    }

    /// The stream, or the latest one.
    pub(super) const fn stream(&self) -> u32 {
        self.stream
    }

    /// Ends our direction of the stream.
    pub(in crate::transport) fn finish(&mut self) {
        frame::push_end(&mut self.outbox, self.stream);
    }

    /// Both directions have ended in order.
    ///
    /// # Errors
    ///
    /// If what has arrived since ends the session: there is no next stream.
    pub(in crate::transport) fn finished(&mut self) -> Result<(), SessionFailure> {
        self.active = false;
        if self.role == Role::Client {
            // What else has arrived belongs to what is over.
            while self.next()?.is_some() {}
        }
        Ok(())
    }

    /// What the peer says next, out of what has been received. `None` when more is needed.
    ///
    /// # Errors
    ///
    /// Why the session is over.
    pub(in crate::transport) fn next(&mut self) -> Result<Option<Said>, SessionFailure> {
        while let Some(event) = (self.inbox).next(&mut self.reader, &mut self.session.opener)? {
            if let Some(said) = self.on(event)? {
                return Ok(Some(said));
            }
        }
        Ok(None)
    }

    /// What an event means for the stream.
    fn on(&mut self, event: Event) -> Result<Option<Said>, SessionFailure> {
        let ours = |stream| stream == self.stream && self.active;
        Ok(match event {
            // RFC 9113 5.1: a stream begins with a header list.
            Event::Data { stream, .. } | Event::End { stream } | Event::Reset { stream, .. }
                if stream > self.highest =>
            {
                return Err(CodecError::Unexpected.into());
            }
            Event::Data { stream, at } if ours(stream) => Some(Said::Data(at)),
            Event::End { stream } if ours(stream) => Some(Said::End),
            Event::Headers { stream, fields } => self.on_headers(stream, fields)?,
            Event::Reset { stream, code } if stream == self.stream => self.on_reset(code)?,
            Event::Settings => {
                frame::push_settings_ack(&mut self.outbox);
                let first = !std::mem::replace(&mut self.greeted, true);
                if first {
                    return Ok(Some(Said::Hello));
                }
                self.bounded()?
            }
            Event::Ping(payload) => {
                frame::push_pong(&mut self.outbox, payload);
                self.bounded()?
            }
            Event::GoAway { last, code } => {
                self.going = true;
                let unserved = self.role == Role::Client && self.active && last < self.stream;
                if unserved || code != frame::NO_ERROR {
                    return Err(SessionFailure::GoneAway { code, unserved });
                }
                None
            }
            // Nobody counts here.
            Event::Data { .. } | Event::End { .. } | Event::Reset { .. } | Event::Window { .. } => {
                None
            }
        })
    }

    fn on_headers(
        &mut self,
        stream: u32,
        fields: Box<Fields>,
    ) -> Result<Option<Said>, SessionFailure> {
        match self.role {
            Role::Client if stream == self.stream && self.active => {}
            // Of a stream that we have left.
            Role::Client if stream <= self.stream => return Ok(None),
            Role::Client => return Err(CodecError::Unexpected.into()),
            // Trailers, of a request that has been served or is being served.
            Role::Server if stream == self.stream => return Ok(None),
            Role::Server if stream <= self.highest || stream.is_multiple_of(2) => {
                return Err(CodecError::Unexpected.into());
            }
            Role::Server if self.active => {
                self.highest = stream;
                frame::push_reset(&mut self.outbox, stream, frame::REFUSED_STREAM);
                return Ok(self.bounded()?);
            }
            Role::Server => {
                // Of the answers to those before, too, there are not more than it reads.
                self.bounded()?;
                // A client that goes on has left the stream before.
                self.leaving = None;
                (self.stream, self.highest) = (stream, stream);
                self.active = true;
            }
        }
        Ok(Some(Said::Headers(fields)))
    }

    /// The peer ends the stream: it is told that we have heard, unless this is what tells us so.
    fn on_reset(&mut self, code: u32) -> Result<Option<Said>, CodecError> {
        if self.leaving.take().is_none() {
            frame::push_reset(&mut self.outbox, self.stream, frame::CANCEL);
            self.bounded()?;
        }
        Ok(std::mem::take(&mut self.active).then_some(Said::Reset(code)))
    }

    const fn bounded(&self) -> Result<Option<Said>, CodecError> {
        if self.outbox.len() > MAX_OUTBOX {
            return Err(CodecError::Flood);
        }
        Ok(None)
    }

    /// Waits until something has been received. What was given out as ranges before is gone.
    pub(in crate::transport) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SessionFailure>> {
        let received = ready!(self.inbox.poll_receive(&self.socket, cx));
        self.heart.heard |= received.is_ok();
        Poll::Ready(received)
    }
}

fn size(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
