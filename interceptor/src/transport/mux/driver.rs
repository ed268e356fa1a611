//! The task of a shared carrier: it receives, gives to the applications, and sends.
//!
//! # Invariants
//!
//! * One run receives a bounded amount, then others have their turn.
//! * Whatever ends the session, everybody who has a stream learns of it.

use std::future::{Future as _, poll_fn};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::super::buffer::Sizer;
use super::super::codec::{CodecError, Event, Fields, Reader, frame};
use super::super::config::Config;
use super::super::error::{HandshakeError, SessionError};
use super::super::exclusive::carrier::SessionFailure;
use super::super::exclusive::carrier::inbox::Inbox;
use super::super::record::{Opener, RecordError};
use super::super::splice::half_close;
use super::super::tls::Fast;
use super::events::Arrived;
use super::hub::{Hub, Role};
use super::out::{FlushError, Out};
use super::stream::MuxStream;
use super::window::FIRST;
use super::{MAX_STREAMS, hub};
use crate::lanes::{Lane, Lanes, Seat, after_others};

/// Receives in one run.
const ROUNDS: usize = 4;
/// Frames that are looked at in one run: each may be a system call, and a byte of data is a frame.
const FRAMES: usize = 512;
/// How long the other end may take to leave.
const DEPARTURE: Duration = Duration::from_secs(5);

/// The task's part of a shared carrier.
pub(in crate::transport) struct Driver {
    hub: Arc<Hub>,
    socket: TcpStream,
    reader: Reader,
    opener: Opener,
    inbox: Inbox,
    beat: Pin<Box<Sleep>>,
    heard: bool,
    asked: bool,
    /// There are no streams any more, and the other end is about to leave.
    departing: bool,
    /// Streams that have begun and that nobody has seen yet.
    begun: Vec<Arrived>,
}

/// Why a run is the last one.
enum Last {
    /// Nobody needs the carrier any more.
    Over,
    /// What has begun is better off on another lane.
    Elsewhere(Seat),
}

/// Greets the peer on a new session and waits until it does: from then on it has accepted our
/// certificate and speaks the protocol.
pub(in crate::transport) async fn greet(
    fast: Fast<TcpStream>,
    role: Role,
    config: &Arc<Config>,
) -> Result<Driver, HandshakeError> {
    let mut driver = Driver::new(fast, role, config);
    match poll_fn(|cx| driver.poll_greeted(cx)).await {
        Ok(()) => Ok(driver),
        Err(SessionFailure::Closed) => Err(HandshakeError::Closed),
        Err(SessionFailure::Record(RecordError::Alert(alert))) => Err(HandshakeError::Alert {
            alert: format!("{alert:?}"),
        }),
        Err(failure) => {
            driver.accuse(&failure);
            Err(HandshakeError::NotHttp2(failure.into()))
        }
    }
}

impl Driver {
    fn new(fast: Fast<TcpStream>, role: Role, config: &Arc<Config>) -> Self {
        let session = fast.session;
        let mut out = Out::new(session.sealer);
        let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        let most = u32::try_from(MAX_STREAMS).unwrap_or(u32::MAX);
        let streams = frame::Streams::Many {
            most,
            window: FIRST,
        };
        let reader = match role {
            Role::Client => {
                out.frames().extend(frame::PREFACE);
                frame::push_settings(out.frames(), streams, config.max_response_headers);
                Reader::of_server(size(config.max_response_headers))
            }
            Role::Server => {
                frame::push_settings(out.frames(), streams, config.max_request_headers);
                Reader::of_client(size(config.max_request_headers))
            }
        };
        Self {
            hub: Hub::new(role, out, config),
            socket: fast.socket,
            reader,
            opener: session.opener,
            inbox: Inbox::new(&fast.early, Sizer::default()),
            beat: Box::pin(sleep(config.ping_interval)),
            heard: false,
            asked: false,
            departing: false,
            begun: Vec::new(),
        }
    }

    /// What it shares with its streams.
    pub(in crate::transport) const fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Drives the carrier until its end, or until what begins on it is better off on another of
    /// `lanes`, to which it belongs by then. What the peer asks for goes to `handle`.
    ///
    /// # Errors
    ///
    /// Why the session ended, if not orderly.
    pub(in crate::transport) async fn run(
        &mut self,
        lanes: &Lanes,
        mut handle: impl FnMut(Box<Fields>, MuxStream),
    ) -> Result<Option<Arc<Lane>>, SessionError> {
        let failure = loop {
            match poll_fn(|cx| self.poll(cx, lanes, &mut handle)).await {
                Ok(Last::Over) => break SessionFailure::Closed,
                Ok(Last::Elsewhere(seat)) => {
                    if self.move_to(seat.lane()).is_ok() {
                        return Ok(Some(Arc::clone(seat.lane())));
                    }
                }
                Err(failure) => break failure,
            }
        };
        self.accuse(&failure);
        let is_orderly = is_orderly(&failure);
        let error = SessionError::from(failure);
        let mut inner = self.hub.lock();
        if is_orderly && inner.streams.is_empty() {
            inner.fail(&SessionError::goodbye());
        } else {
            inner.fail(&error);
        }
        if is_orderly { Ok(None) } else { Err(error) }
    }

    /// Lets the carrier belong to `lane`.
    ///
    /// # Errors
    ///
    /// If that runtime cannot have it; then all is as before.
    fn move_to(&mut self, lane: &Lane) -> io::Result<()> {
        let _there = lane.enter();
        // A second descriptor, because the first one may still be watched from here.
        let socket = std::net::TcpStream::from(self.socket.as_fd().try_clone_to_owned()?);
        self.socket = TcpStream::from_std(socket)?;
        self.beat = Box::pin(sleep(self.hub.config.ping_interval));
        Ok(())
    }

    /// One run.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        lanes: &Lanes,
        handle: &mut impl FnMut(Box<Fields>, MuxStream),
    ) -> Poll<Result<Last, SessionFailure>> {
        self.hub.lock().driven_by(cx.waker());
        for Arrived { stream, fields } in self.begun.drain(..) {
            handle(fields, MuxStream::new(&self.hub, stream, 0, None));
        }
        match self.poll_run(cx, lanes, handle) {
            Ok(None) => Poll::Pending,
            Ok(Some(last)) => Poll::Ready(Ok(last)),
            Err(failure) => Poll::Ready(Err(failure)),
        }
    }

    /// Whether that was the last run, and why.
    fn poll_run(
        &mut self,
        cx: &mut Context<'_>,
        lanes: &Lanes,
        handle: &mut impl FnMut(Box<Fields>, MuxStream),
    ) -> Result<Option<Last>, SessionFailure> {
        let (mut received, mut frames) = (0, FRAMES);
        loop {
            let was_idle = self.hub.is_idle();
            let begun = self.take_in(&mut frames)?;
            if was_idle
                && !begun.is_empty()
                && let Some(seat) = lanes.elsewhere()
            {
                self.begun = begun;
                return Ok(Some(Last::Elsewhere(seat)));
            }
            for Arrived { stream, fields } in begun {
                handle(fields, MuxStream::new(&self.hub, stream, 0, None));
            }
            // What has begun or ended meanwhile has its turn before the rest is looked at.
            if received == ROUNDS || frames == 0 {
                after_others(cx);
                break;
            }
            match self.poll_receive(cx) {
                Poll::Pending => break,
                Poll::Ready(result) => result?,
            }
            received += 1;
        }
        if self.poll_silent(cx).is_ready() {
            return Err(SessionFailure::Silent);
        }
        // Whoever has said goodbye has nothing more to say.
        if self.departing && self.hub.lock().role == Role::Client {
            return Ok(self.poll_departed(cx));
        }
        let all_is_sent = self.send(cx)?;
        Ok(if all_is_sent {
            self.poll_over(cx)
        } else {
            None
        })
    }

    /// Sends what there is, as far as the socket takes it. Whether that is all.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<bool, SessionFailure> {
        let mut inner = self.hub.lock();
        inner.sends();
        let sent = inner.out.poll_flush(&self.socket, cx)?;
        if !inner.queue.is_empty() && inner.out.payload()?.is_some() {
            inner.make_way();
        }
        Ok(sent.is_ready())
    }

    /// Whether nobody needs the carrier any more, when all has been sent.
    ///
    /// Neither end closes its socket first thing: what the peer has said and nobody has read would
    /// have the kernel reset the connection, and with it go the last bytes of the last stream. The
    /// client says that it has finished, the server reads that and closes.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Option<Last> {
        let mut inner = self.hub.lock();
        if !inner.is_retired || !inner.streams.is_empty() {
            return None;
        }
        if inner.role == Role::Client {
            // Whoever is about to begin a stream is told to do it elsewhere.
            inner.fail(&SessionError::goodbye());
            drop(inner);
            self.say_goodbye(frame::NO_ERROR);
            half_close(&self.socket);
        } else {
            drop(inner);
        }
        self.poll_departed(cx)
    }

    /// Whether the other end has had its time to leave.
    fn poll_departed(&mut self, cx: &mut Context<'_>) -> Option<Last> {
        if !std::mem::replace(&mut self.departing, true) {
            self.beat.as_mut().reset(Instant::now() + DEPARTURE);
        }
        (self.beat.as_mut().poll(cx).is_ready()).then_some(Last::Over)
    }

    /// Gives to the streams what has been received, at most so many `frames`. Returns the ones that
    /// have begun.
    fn take_in(&mut self, frames: &mut usize) -> Result<Vec<Arrived>, SessionFailure> {
        let mut arrived = Vec::new();
        let mut inner = self.hub.lock();
        while *frames > 0
            && let Some(event) = self.inbox.next(&mut self.reader, &mut self.opener)?
        {
            *frames -= 1;
            arrived.extend(inner.on(event, &self.inbox.chunk)?);
        }
        if self.opener.take_update_request() {
            inner.out.update()?;
        }
        Ok(arrived)
    }

    /// Waits until something has been received.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionFailure>> {
        let received = ready!(self.inbox.poll_receive(&self.socket, cx));
        self.heard |= received.is_ok();
        Poll::Ready(received)
    }

    /// Resolves when the peer has given no sign of life in time.
    fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.departing {
            return Poll::Pending;
        }
        loop {
            ready!(self.beat.as_mut().poll(cx));
            let heard = std::mem::take(&mut self.heard);
            if !heard && self.asked {
                return Poll::Ready(());
            }
            self.asked = !heard;
            let config = Arc::clone(&self.hub.config);
            let next = if heard {
                config.ping_interval
            } else {
                frame::push_ping(self.hub.lock().out.frames());
                config.ping_timeout
            };
            self.beat.as_mut().reset(Instant::now() + next);
        }
    }

    fn poll_greeted(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionFailure>> {
        loop {
            let sent = self.hub.lock().out.poll_flush(&self.socket, cx)?;
            {
                let mut inner = self.hub.lock();
                while !inner.is_greeted
                    && let Some(event) = self.inbox.next(&mut self.reader, &mut self.opener)?
                {
                    // Nothing comes before the greeting.
                    if event != Event::Settings {
                        return Poll::Ready(Err(CodecError::Unexpected.into()));
                    }
                    let _none = inner.on(event, &self.inbox.chunk)?;
                }
                if self.opener.take_update_request() {
                    inner.out.update()?;
                }
                if inner.is_greeted {
                    return sent.map(Ok);
                }
            }
            ready!(self.poll_receive(cx))?;
        }
    }

    /// Says goodbye as far as the socket takes it now.
    fn say_goodbye(&mut self, code: u32) {
        let mut inner = self.hub.lock();
        let last = match inner.role {
            // No stream was the peer's.
            Role::Client => 0,
            Role::Server => inner.highest,
        };
        frame::push_go_away(inner.out.frames(), last, code);
        self.end_with(&mut inner, super::super::record::Sealer::close);
    }

    /// Tells the peer why it is left, if there is anything to tell.
    fn accuse(&mut self, failure: &SessionFailure) {
        match failure {
            SessionFailure::Codec(error) => self.say_goodbye(error.code()),
            SessionFailure::Record(error) => {
                if let Some(alert) = error.alert() {
                    let mut inner = self.hub.lock();
                    self.end_with(&mut inner, |sealer| sealer.alert(alert));
                }
            }
            _ => {}
        }
    }

    /// The last record of ours, as far as the socket takes it now.
    fn end_with(
        &self,
        inner: &mut hub::Inner,
        last: impl FnOnce(
            &mut super::super::record::Sealer,
        ) -> Result<super::super::record::Control, RecordError>,
    ) {
        let mut no_wake = Context::from_waker(std::task::Waker::noop());
        if inner.out.end_with(last).is_ok() {
            let _gone = inner.out.poll_flush(&self.socket, &mut no_wake);
        }
    }
}

impl Drop for Driver {
    /// A task that was cancelled leaves nobody waiting.
    fn drop(&mut self) {
        let error = SessionFailure::Closed.into();
        self.hub.lock().fail(&error);
    }
}

/// A peer that closes has left, however it does; if there are streams, each of them tells how it
/// ended.
fn is_orderly(ended: &SessionFailure) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match ended {
        SessionFailure::Closed => true,
        SessionFailure::Io(error) => {
            matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
        }
        SessionFailure::GoneAway { code, .. } => *code == frame::NO_ERROR,
        _ => false,
    }
}

impl From<FlushError> for SessionFailure {
    fn from(error: FlushError) -> Self {
        match error {
            FlushError::Io(error) => Self::Io(error),
            FlushError::Seal(error) => Self::Record(error),
        }
    }
}
