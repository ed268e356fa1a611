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

use std::io::{self, ErrorKind, IoSliceMut, Read as _, Write as _};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::super::buffer::{Chunk, Sizer};
use super::super::codec::{CodecError, Event, Fields, Reader, frame, name_of};
use super::super::config::Config;
use super::super::error::{SessionError, StreamError};
use super::super::hbone::stream::Abort;
use super::super::record::{self, Content, RecordError};
use super::super::tls::Fast;

/// Payload of one DATA frame: what is left of a record.
pub(in crate::transport) const PAYLOAD: usize = frame::MAX_PAYLOAD - frame::HEADER;
/// Where that payload begins in its record.
const FRONT: usize = record::HEADER + frame::HEADER;
/// Records that are filled at once.
const SLOTS: usize = 16;
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
    /// The peer has sent its settings.
    greeted: bool,
    /// We have ended the stream and wait until the peer has heard of it, at most so long.
    leaving: Option<Instant>,
    /// The peer takes no more streams.
    going: bool,
    heart: Heart,
    pub(in crate::transport) config: Arc<Config>,
}

/// Received and not yet given out.
struct Inbox {
    chunk: Chunk,
    sizer: Sizer,
    /// Sealed.
    sealed: Range<usize>,
    /// Open, and not yet read as frames.
    open: Range<usize>,
}

/// Whether the peer lives: asked only when it is silent.
struct Heart {
    beat: Pin<Box<Sleep>>,
    heard: bool,
    asked: bool,
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
        frame::push_settings(&mut outbox, max_headers);
        Self {
            socket: Arc::new(fast.socket),
            role,
            session: fast.session,
            reader,
            inbox: Inbox::new(&fast.early),
            outbox,
            unsent: Chunk::none(),
            unsent_at: 0..0,
            stream: 0,
            active: false,
            greeted: false,
            leaving: None,
            going: false,
            heart: Heart {
                beat: Box::pin(sleep(config.ping_interval)),
                heard: false,
                asked: false,
            },
            config: Arc::clone(config),
        }
    }

    /// Sends our greeting and waits for the peer's: from then on it has accepted our certificate
    /// and speaks HTTP/2.
    pub(super) async fn greet(&mut self) -> Result<(), SessionFailure> {
        std::future::poll_fn(|cx| {
            let sent = self.poll_flush(cx);
            loop {
                match self.next()? {
                    Some(Said::Hello) => return sent,
                    Some(_) => return Poll::Ready(Err(CodecError::Unexpected.into())),
                    None => ready!(self.poll_receive(cx))?,
                }
            }
        })
        .await
    }

    /// Begins a stream of ours.
    pub(super) const fn begin(&mut self) -> u32 {
        // Odd numbers, beginning with 1 (RFC 9113 5.1.1).
        self.stream = if self.stream == 0 { 1 } else { self.stream + 2 };
        self.active = true;
        self.stream
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

    /// The bytes that ranges in [`Said::Data`] refer to, until the next [`Self::receive`].
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

    /// Sends what is waiting, as far as the socket takes it now.
    pub(super) fn send_now(&mut self) {
        let mut no_wake = Context::from_waker(std::task::Waker::noop());
        // A failure shows again to whoever reads next.
        let _later = self.poll_flush(&mut no_wake);
    }

    /// Ends our direction of the stream.
    pub(in crate::transport) fn finish(&mut self) {
        frame::push_end(&mut self.outbox, self.stream);
    }

    /// Both directions have ended in order.
    pub(in crate::transport) const fn finished(&mut self) {
        self.active = false;
    }

    /// What the peer says next, out of what has been received. `None` when more is needed.
    ///
    /// # Errors
    ///
    /// Why the session is over.
    pub(in crate::transport) fn next(&mut self) -> Result<Option<Said>, SessionFailure> {
        loop {
            while let Some(event) = (self.reader).next(&self.inbox.chunk, &mut self.inbox.open)? {
                if let Some(said) = self.on(event)? {
                    return Ok(Some(said));
                }
            }
            let Range { start, end } = self.inbox.sealed;
            let filled = self.inbox.chunk.get_mut(..end).unwrap_or_default();
            match self.session.opener.open(filled, start)? {
                None => return Ok(None),
                Some(record) => {
                    self.inbox.sealed.start = record.end;
                    match record.content {
                        Content::Data(open) => self.inbox.open = open,
                        Content::Nothing => {}
                        Content::Closed => return Err(SessionFailure::Closed),
                    }
                }
            }
        }
    }

    /// What an event means for the stream.
    fn on(&mut self, event: Event) -> Result<Option<Said>, SessionFailure> {
        let ours = |stream| stream == self.stream && self.active;
        Ok(match event {
            Event::Data { stream, at } if ours(stream) => Some(Said::Data(at)),
            Event::End { stream } if ours(stream) => Some(Said::End),
            Event::Headers { stream, fields } => self.on_headers(stream, fields)?,
            Event::Reset { stream, code } if stream == self.stream => self.on_reset(code),
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
            Event::Data { .. } | Event::End { .. } | Event::Reset { .. } => None,
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
            Role::Server if stream < self.stream || stream.is_multiple_of(2) => {
                return Err(CodecError::Unexpected.into());
            }
            Role::Server if self.active => {
                frame::push_reset(&mut self.outbox, stream, frame::REFUSED_STREAM);
                return Ok(self.bounded()?);
            }
            Role::Server => {
                // A client that goes on has left the stream before.
                self.leaving = None;
                self.stream = stream;
                self.active = true;
            }
        }
        Ok(Some(Said::Headers(fields)))
    }

    /// The peer ends the stream: it is told that we have heard, unless this is what tells us so.
    fn on_reset(&mut self, code: u32) -> Option<Said> {
        if self.leaving.take().is_none() {
            frame::push_reset(&mut self.outbox, self.stream, frame::CANCEL);
        }
        std::mem::take(&mut self.active).then_some(Said::Reset(code))
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
        loop {
            if self.inbox.sealed.is_empty() {
                self.inbox.release();
            }
            let Poll::Ready(ready) = self.socket.poll_read_ready(cx) else {
                self.inbox.shrink();
                return Poll::Pending;
            };
            ready?;
            match self.receive() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error.into())),
                Ok(0) => return Poll::Ready(Err(SessionFailure::Closed)),
                Ok(_) => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Receives what there is, once. 0 at the end of the connection.
    fn receive(&mut self) -> io::Result<usize> {
        let room = self.inbox.room();
        let wanted = room.len();
        let count = read_once(&self.socket, &mut [IoSliceMut::new(room)], wanted)?;
        self.inbox.received(count);
        if count > 0 {
            self.heart.heard = true;
        }
        Ok(count)
    }

    /// Whether records wait for the socket.
    pub(in crate::transport) fn has_pending(&self) -> bool {
        !self.unsent_at.is_empty()
    }

    /// Sends what is waiting.
    pub(in crate::transport) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SessionFailure>> {
        loop {
            if self.unsent_at.is_empty() {
                if self.outbox.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                self.load(&Sizer::default(), |_slots, _room| Ok(0))?;
            }
            if self.try_send()? {
                continue;
            }
            ready!(self.socket.poll_write_ready(cx))?;
        }
    }

    /// Makes records of the frames that are waiting and of what `read` puts into the slots that it
    /// is given, which is counted in bytes and at most the second argument. Only if nothing is
    /// unsent. Returns the count.
    ///
    /// # Errors
    ///
    /// Of `read`, or because no record can be sealed any more.
    pub(in crate::transport) fn load(
        &mut self,
        sizer: &Sizer,
        read: impl FnOnce(&mut [IoSliceMut<'_>], usize) -> io::Result<usize>,
    ) -> Result<usize, LoadError> {
        let mut chunk = Chunk::take(sizer);
        let mut end = 0;
        if let Some(control) = self.session.due()? {
            end = copy(&mut chunk, 0, control.bytes());
        }
        end += self.seal_outbox(chunk.get_mut(end..).unwrap_or_default())?;
        let count = if self.outbox.is_empty() {
            let slots = chunk.get_mut(end..).unwrap_or_default();
            let read = read_into(slots, read);
            let count = match &read {
                Ok(count) => *count,
                Err(_) => 0,
            };
            end += self.seal_slots(chunk.get_mut(end..).unwrap_or_default(), count)?;
            read.map_err(LoadError::Read)
        } else {
            // More frames than one buffer holds: data has to wait.
            Ok(0)
        };
        if end > 0 {
            self.unsent = chunk;
            self.unsent_at = 0..end;
        }
        count
    }

    /// Seals as many of the waiting frames as there is room for. Returns the bytes used.
    fn seal_outbox(&mut self, mut room: &mut [u8]) -> Result<usize, RecordError> {
        let mut used = 0;
        while !self.outbox.is_empty() && room.len() > record::OVERHEAD {
            let most = (room.len() - record::OVERHEAD).min(record::PAYLOAD);
            let length = self.outbox.len().min(most);
            copy(
                room,
                record::HEADER,
                self.outbox.get(..length).unwrap_or_default(),
            );
            let sealed = self.session.sealer.seal(room, length)?;
            self.outbox.drain(..length);
            used += sealed;
            room = room.get_mut(sealed..).unwrap_or_default();
        }
        if self.outbox.is_empty() && self.outbox.capacity() > 256 {
            self.outbox = Vec::new();
        }
        Ok(used)
    }

    /// Seals `count` bytes that were read into slots. Returns the bytes used.
    fn seal_slots(&mut self, room: &mut [u8], count: usize) -> Result<usize, RecordError> {
        let mut used = 0;
        let mut left = count;
        for slot in room.chunks_mut(record::SLOT) {
            let length = left.min(PAYLOAD);
            if length == 0 {
                break;
            }
            copy(slot, record::HEADER, &frame::data(self.stream, length));
            used += self.session.sealer.seal(slot, frame::HEADER + length)?;
            left -= length;
        }
        Ok(used)
    }

    /// Sends what the socket takes now. `true` if that is all.
    pub(in crate::transport) fn try_send(&mut self) -> io::Result<bool> {
        let waiting = self.unsent.get(self.unsent_at.clone()).unwrap_or_default();
        match write_once(&self.socket, waiting) {
            Ok(count) => self.unsent_at.start += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        let done = self.unsent_at.is_empty();
        if done {
            self.unsent.release();
            self.unsent_at = 0..0;
        }
        Ok(done)
    }

    /// Resolves when the peer has given no sign of life in time. The question is put into the
    /// outbox.
    pub(in crate::transport) fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.heart.beat.as_mut().poll(cx).is_ready() {
            if self.beat() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// The same without waiting.
    fn is_silent(&mut self) -> bool {
        while Instant::now() >= self.heart.beat.deadline() {
            if self.beat() {
                return true;
            }
        }
        false
    }

    fn beat(&mut self) -> bool {
        let heard = std::mem::take(&mut self.heart.heard);
        if !heard && self.heart.asked {
            return true;
        }
        self.heart.asked = !heard;
        let next = if heard {
            self.config.ping_interval
        } else {
            frame::push_ping(&mut self.outbox);
            self.config.ping_timeout
        };
        self.heart.beat.as_mut().reset(Instant::now() + next);
        false
    }

    /// Ends the stream in both directions. The peer is told if the socket takes it now; until it
    /// has heard, at most until `limit`, the carrier is good for nothing else.
    pub(super) fn leave(&mut self, why: Abort, limit: Instant) {
        if std::mem::take(&mut self.active) {
            frame::push_reset(&mut self.outbox, self.stream, why.code().into());
            self.leaving = Some(limit);
        }
        self.send_now();
    }

    /// When a stream that was left has to be over.
    pub(super) const fn leaving(&self) -> Option<Instant> {
        self.leaving
    }

    /// Reads what has arrived meanwhile, without waiting. Whether the carrier is still good for a
    /// new stream.
    pub(super) fn look(&mut self) -> bool {
        let mut no_wake = Context::from_waker(std::task::Waker::noop());
        loop {
            match self.next() {
                Ok(Some(_)) => {}
                Err(_) => return false,
                Ok(None) => match self.poll_receive(&mut no_wake) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return false,
                    Poll::Pending => break,
                },
            }
        }
        if !self.is_clean() || self.is_silent() {
            return false;
        }
        // What could not be sent now goes out with the next stream.
        !matches!(self.poll_flush(&mut no_wake), Poll::Ready(Err(_)))
    }

    /// Waits until everything is sent and the peer has heard that the last stream was left.
    pub(super) fn poll_settled(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SessionFailure>> {
        loop {
            while self.next()?.is_some() {}
            let sent = self.poll_flush(cx)?;
            if sent.is_ready() && self.leaving.is_none() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_receive(cx))?;
        }
    }

    /// Waits for what the peer says next, and gives it signs of life meanwhile.
    pub(super) fn poll_said(&mut self, cx: &mut Context<'_>) -> Poll<Result<Said, SessionFailure>> {
        loop {
            if let Some(said) = self.next()? {
                return Poll::Ready(Ok(said));
            }
            if self.poll_silent(cx).is_ready() {
                return Poll::Ready(Err(SessionFailure::Silent));
            }
            let _sent = self.poll_flush(cx)?;
            ready!(self.poll_receive(cx))?;
        }
    }

    /// Says goodbye as far as the socket takes it now.
    pub(super) fn say_goodbye(&mut self, code: u32) {
        let mut no_wake = Context::from_waker(std::task::Waker::noop());
        let last = self.stream_of_peer();
        frame::push_go_away(&mut self.outbox, last, code);
        let sent = self.poll_flush(&mut no_wake);
        if let Poll::Ready(Ok(())) = sent
            && let Ok(control) = self.session.sealer.close()
        {
            let _gone = write_once(&self.socket, control.bytes());
        }
    }

    /// Tells the peer why it is left, if there is anything to tell.
    pub(super) fn accuse(&mut self, failure: &SessionFailure) {
        match failure {
            SessionFailure::Codec(error) => self.say_goodbye(error.code()),
            SessionFailure::Record(error) => {
                if let Some(alert) = error.alert()
                    && self.unsent_at.is_empty()
                    && let Ok(control) = self.session.sealer.alert(alert)
                {
                    let _gone = write_once(&self.socket, control.bytes());
                }
            }
            _ => {}
        }
    }

    /// The last stream of the peer's that was served: none, if the peer is a server.
    const fn stream_of_peer(&self) -> u32 {
        match self.role {
            Role::Client => 0,
            Role::Server => self.stream,
        }
    }
}

impl Inbox {
    fn new(early: &[u8]) -> Self {
        let sizer = Sizer::default();
        let mut inbox = Self {
            chunk: Chunk::none(),
            sizer,
            sealed: 0..0,
            open: 0..0,
        };
        if !early.is_empty() {
            copy(inbox.room(), 0, early);
            inbox.sealed.end = early.len();
        }
        inbox
    }

    fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.open.is_empty()
    }

    fn release(&mut self) {
        self.chunk.release();
        (self.sealed, self.open) = (0..0, 0..0);
    }

    /// Where more can be received, behind what is not complete.
    fn room(&mut self) -> &mut [u8] {
        let length = self.sealed.len();
        if self.chunk.len() < self.sizer.wanted() {
            // None yet, or the flow has grown.
            let mut chunk = Chunk::take(&self.sizer);
            let kept = self.chunk.get(self.sealed.clone()).unwrap_or_default();
            copy(&mut chunk, 0, kept);
            self.chunk = chunk;
        } else if self.sealed.start > 0 {
            self.chunk.copy_within(self.sealed.clone(), 0);
        }
        (self.sealed, self.open) = (0..length, 0..0);
        self.chunk.get_mut(length..).unwrap_or_default()
    }

    /// Keeps no more than it takes for a record that is not complete: the rest of it may never come.
    fn shrink(&mut self) {
        let smallest = Sizer::default();
        if self.chunk.len() > 2 * smallest.wanted() && !self.sealed.is_empty() {
            let mut chunk = Chunk::take(&smallest);
            let kept = self.chunk.get(self.sealed.clone()).unwrap_or_default();
            self.sealed = 0..copy(&mut chunk, 0, kept);
            self.chunk = chunk;
        }
    }

    fn received(&mut self, count: usize) {
        self.sealed.end += count;
        self.sizer.read(count);
    }
}

/// Why a session is over.
#[derive(Debug)]
pub(in crate::transport) enum SessionFailure {
    /// The connection ended.
    Closed,
    /// The peer said that it is going.
    GoneAway {
        /// Why.
        code: u32,
        /// And that it has not looked at our stream.
        unserved: bool,
    },
    /// The socket failed.
    Io(io::Error),
    /// Records.
    Record(RecordError),
    /// Frames.
    Codec(CodecError),
    /// No sign of life.
    Silent,
}

impl From<io::Error> for SessionFailure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<RecordError> for SessionFailure {
    fn from(error: RecordError) -> Self {
        Self::Record(error)
    }
}

impl From<CodecError> for SessionFailure {
    fn from(error: CodecError) -> Self {
        Self::Codec(error)
    }
}

impl From<LoadError> for SessionFailure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Read(error) => Self::Io(error),
            LoadError::Seal(error) => Self::Record(error),
        }
    }
}

impl From<SessionFailure> for SessionError {
    fn from(failure: SessionFailure) -> Self {
        match failure {
            SessionFailure::Closed => Self::Io(io::Error::from(ErrorKind::UnexpectedEof).into()),
            SessionFailure::GoneAway { code, .. } => Self::GoAway {
                code: name_of(code),
            },
            SessionFailure::Io(error) => Self::Io(error.into()),
            SessionFailure::Record(error) => Self::Protocol {
                detail: error.to_string(),
            },
            SessionFailure::Codec(error) => error.into(),
            SessionFailure::Silent => Self::Silent,
        }
    }
}

impl From<SessionFailure> for StreamError {
    /// A carrier that is reset resets its stream: an end that finds the other one not reading has
    /// no other way to say so.
    fn from(failure: SessionFailure) -> Self {
        match failure {
            SessionFailure::Io(error) if error.kind() == ErrorKind::ConnectionReset => {
                Self::Reset {
                    code: name_of(Abort::Reset.code().into()),
                }
            }
            failure => Self::Session(failure.into()),
        }
    }
}

/// Why nothing was loaded.
#[derive(Debug)]
pub(in crate::transport) enum LoadError {
    /// The application's socket.
    Read(io::Error),
    /// The session.
    Seal(RecordError),
}

impl From<RecordError> for LoadError {
    fn from(error: RecordError) -> Self {
        Self::Seal(error)
    }
}

/// Lets `read` fill the payloads of as many slots as there are.
fn read_into(
    room: &mut [u8],
    read: impl FnOnce(&mut [IoSliceMut<'_>], usize) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut slots: [IoSliceMut<'_>; SLOTS] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
    let mut count = 0;
    let mut most = 0;
    // The last slot is used as far as it goes, if it is worth it.
    let usable = room
        .chunks_mut(record::SLOT)
        .filter(|slot| slot.len() >= record::SLOT);
    for (slice, slot) in slots.iter_mut().zip(usable) {
        let payload = slot.get_mut(FRONT..FRONT + PAYLOAD).unwrap_or_default();
        most += payload.len();
        *slice = IoSliceMut::new(payload);
        count += 1;
    }
    read(slots.get_mut(..count).unwrap_or_default(), most)
}

/// Reads once, and remembers that nothing is left if less came than there was room for: the next
/// look then waits for the kernel instead of asking it in vain.
pub(in crate::transport) fn read_once(
    socket: &TcpStream,
    room: &mut [IoSliceMut<'_>],
    most: usize,
) -> io::Result<usize> {
    let mut read = None;
    // The notice belongs to the same call, or it could undo a later wake-up.
    let tried = socket.try_io(Interest::READABLE, || {
        let count = (&*SockRef::from(socket)).read_vectored(room)?;
        read = Some(count);
        if count > 0 && count < most {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(())
    });
    read.map_or_else(|| tried.map(|()| 0), Ok)
}

/// The same for writing.
fn write_once(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = None;
    let tried = socket.try_io(Interest::WRITABLE, || {
        let count = (&*SockRef::from(socket)).write(bytes)?;
        written = Some(count);
        if count < bytes.len() {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(())
    });
    written.map_or_else(|| tried.map(|()| 0), Ok)
}

/// Copies as far as there is room. Returns where it ends.
fn copy(to: &mut [u8], at: usize, from: &[u8]) -> usize {
    let room = to.get_mut(at..).unwrap_or_default();
    let count = room.len().min(from.len());
    let (room, from) = (room.get_mut(..count), from.get(..count));
    if let (Some(room), Some(from)) = (room, from) {
        room.copy_from_slice(from);
    }
    at + count
}

fn size(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
