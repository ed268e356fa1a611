//! The splice between an application's socket and a tunnelled stream.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::super::buffer::{Segment, Sizer};
use super::super::exclusive::socket::{read_once, write_pieces};
use super::super::flight::Flight;
use super::super::hbone::TunnelStream;
use super::super::hbone::stream::{Abort, Kind, ReceiveHalf, SendEvent, SendHalf, Shared};
use super::{By, Closed, Ends, Load, ROUNDS, ResetUnlessDone, exclusive, half_close, mux};
use crate::net::Traffic;

/// Frames that are gathered into one write.
const MAX_GATHERED: usize = 16;

/// Carries bytes between the application and the tunnel until both directions have ended.
///
/// On return the tunnel is closed or reset, and `app` is half-closed or set to reset when it is
/// dropped: the caller only has to drop it.
///
/// # Cancel safety
///
/// Dropping the future before its end cuts the connection: both ends are reset, and a peer of ours
/// learns that it was not the application's doing.
pub fn tunnel(
    app: &Arc<TcpStream>,
    stream: TunnelStream,
    traffic: Arc<Traffic>,
) -> impl Future<Output = Closed> + Send {
    // At once: a future that is dropped before its first poll has cut the connection, too.
    let mut app_reset = ResetUnlessDone::new(app);
    let load = Load::new(traffic, stream.grain);
    // The two are large in different ways, and nobody shall have room for both.
    let carried: Pin<Box<dyn Future<Output = Closed> + Send + '_>> = match stream.kind {
        Kind::Exclusive(stream) => Box::pin(exclusive::carry(app, stream, load)),
        Kind::Mux(stream) => Box::pin(mux::carry(app, stream, load)),
        Kind::Shared(stream) => Box::pin(shared(app, stream, load)),
    };
    async move {
        let closed = carried.await;
        app_reset.closed(&closed);
        closed
    }
}

async fn shared(app: &TcpStream, stream: Shared, mut load: Load) -> Closed {
    if stream.early > 0 {
        load.sent(stream.early);
    }
    let mut splice = Splice::new(app, stream, load);
    let closed = splice.run().await;
    let in_order = matches!(closed.how, super::How::Eof);
    splice.abort = (!in_order).then_some(Abort::Reset);
    closed
}

struct Splice<'a> {
    app: &'a TcpStream,
    load: Load,
    send: SendHalf,
    receive: ReceiveHalf,
    /// Keeps the carrier counted as in use until the splice ends.
    _lease: Option<super::super::hbone::Lease>,
    /// Why the application is not read, although it may have something to say.
    hold: Hold,
    /// What it has said and has not been written.
    flight: Flight,
    /// How much that may be.
    most_aloft: usize,
    sizer: Sizer,
    down_first: bool,
    /// Received and not yet written to the application.
    pending: Pending,
    /// The peer's end of stream came behind what is pending.
    peer_finished: bool,
    ends: Ends,
    /// What the peer is told when this is dropped; nothing, once both directions ended in order.
    abort: Option<Abort>,
}

impl Drop for Splice<'_> {
    fn drop(&mut self) {
        if let Some(why) = self.abort {
            self.send.reset(why);
        }
    }
}

impl<'a> Splice<'a> {
    fn new(app: &'a TcpStream, stream: Shared, load: Load) -> Self {
        Self {
            app,
            load,
            send: stream.send,
            receive: stream.receive,
            _lease: stream.lease,
            hold: Hold::Off,
            flight: Flight::default(),
            most_aloft: stream.most_aloft,
            sizer: Sizer::default(),
            down_first: false,
            pending: Pending::default(),
            peer_finished: false,
            ends: Ends::default(),
            abort: Some(Abort::Cut),
        }
    }

    async fn run(&mut self) -> Closed {
        loop {
            if let Some(closed) = self.ends.both() {
                return closed;
            }
            match self.turn().await {
                Ok(Amount::Little) => tokio::task::consume_budget().await,
                // A flow that is always ready lets all others of its thread have their turn.
                Ok(Amount::Much) => tokio::task::yield_now().await,
                Err(closed) => return closed,
            }
        }
    }

    /// Waits until something can be done, and does a bounded amount of it.
    async fn turn(&mut self) -> Result<Amount, Closed> {
        let app = self.app;
        let is_deaf = self.ends.from_app || self.hold != Hold::Off;
        tokio::select! {
            turn = poll_fn(|cx| self.poll_turn(cx)) => turn,
            // While nothing is read from the application, nothing else would tell of its reset.
            ready = app.ready(Interest::ERROR), if is_deaf => {
                Err(Closed::broken(By::App, app, ready))
            }
        }
    }

    /// Does what can be done first. One poll for all that is waited for: a future for each of them
    /// would be half a kilobyte in every connection.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<Amount, Closed>> {
        if let Poll::Ready(event) = poll_send(&mut self.send, cx, self.hold, self.sizer.wanted()) {
            return Poll::Ready(self.on_send(event));
        }
        if self.hold == Hold::Unwritten && self.flight.poll_room(cx, self.most_aloft).is_ready() {
            return Poll::Ready(self.read_app());
        }
        // In turns, so that neither direction waits for the end of the other.
        self.down_first = !self.down_first;
        if self.down_first {
            match self.poll_down(cx) {
                Poll::Pending => self.poll_up(cx),
                Poll::Ready(done) => Poll::Ready(done),
            }
        } else {
            match self.poll_up(cx) {
                Poll::Pending => self.poll_down(cx),
                Poll::Ready(done) => Poll::Ready(done),
            }
        }
    }

    /// From the application.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<Amount, Closed>> {
        if self.ends.from_app || self.hold != Hold::Off {
            return Poll::Pending;
        }
        ready!(self.app.poll_read_ready(cx)).map_err(from_app)?;
        Poll::Ready(self.read_app())
    }

    /// To the application.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<Amount, Closed>> {
        if !self.pending.is_empty() {
            ready!(self.app.poll_write_ready(cx)).map_err(from_app)?;
            return Poll::Ready(self.write_app().map(|()| Amount::Little));
        }
        if self.peer_finished {
            return Poll::Pending;
        }
        let first = ready!(self.receive.poll_bytes(cx));
        Poll::Ready(self.on_received(first, cx))
    }

    fn on_send(&mut self, event: SendEvent) -> Result<Amount, Closed> {
        match event {
            SendEvent::Capacity(_) => self.read_app(),
            SendEvent::Unwanted => {
                // The peer has closed for good and cleanly: what it sent is still delivered.
                self.ends.first.get_or_insert(By::Peer);
                self.ends.from_app = true;
                self.hold = Hold::Off;
                Ok(Amount::Little)
            }
            SendEvent::Ended(error) => Err(Closed::stream(error)),
        }
    }

    /// Moves what the application has written to the tunnel, as far as capacity goes.
    fn read_app(&mut self) -> Result<Amount, Closed> {
        let mut no_wake = Context::from_waker(std::task::Waker::noop());
        self.hold = Hold::Off;
        for _ in 0..ROUNDS {
            if !self.flight.has_room(self.most_aloft) {
                self.send.release();
                self.hold = Hold::Unwritten;
                return Ok(Amount::Little);
            }
            let wanted = self.sizer.wanted();
            let capacity = match self.send.poll_capacity(&mut no_wake, wanted) {
                Poll::Ready(SendEvent::Capacity(capacity)) => capacity,
                Poll::Ready(event) => return self.on_send(event),
                Poll::Pending => {
                    self.hold = Hold::NoCapacity;
                    return Ok(Amount::Little);
                }
            };
            let mut segment = Segment::take(&self.sizer);
            let room = segment.room(capacity);
            let most = room.len();
            match read_once(self.app, &mut [IoSliceMut::new(room)], most) {
                Ok(0) => {
                    self.send.finish();
                    self.ends.eof_from(By::App);
                    return Ok(Amount::Little);
                }
                Ok(count) => {
                    segment.wrote(count);
                    self.sizer.read(count);
                    self.load.sent(count);
                    segment.launch(self.flight.launch(segment.footprint()));
                    self.send.send(segment).map_err(Closed::stream)?;
                    if count < most {
                        // The runtime has been told that there is nothing more.
                        self.send.release();
                        return Ok(Amount::Little);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.send.release();
                    return Ok(Amount::Little);
                }
                Err(error) => return Err(from_app(error)),
            }
        }
        Ok(Amount::Much)
    }

    /// Takes what has arrived, without waiting for more, and writes it.
    fn on_received(&mut self, first: Received, cx: &mut Context<'_>) -> Result<Amount, Closed> {
        let (mut next, mut amount) = (Poll::Ready(first), Amount::Little);
        while let Poll::Ready(received) = next {
            match received {
                Some(Ok(bytes)) => self.pending.push(bytes),
                Some(Err(error)) => return Err(Closed::stream(error)),
                None => {
                    self.peer_finished = true;
                    break;
                }
            }
            if self.pending.len() >= MAX_GATHERED {
                amount = Amount::Much;
                break;
            }
            next = self.receive.poll_bytes(cx);
        }
        self.write_app().map(|()| amount)
    }

    /// Writes what is pending to the application, as far as its socket takes it.
    fn write_app(&mut self) -> Result<(), Closed> {
        while !self.pending.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_GATHERED];
            let mut count = 0;
            for (slice, bytes) in slices.iter_mut().zip(self.pending.iter()) {
                *slice = IoSlice::new(bytes);
                count += 1;
            }
            match write_pieces(self.app, slices.get(..count).unwrap_or_default()) {
                Ok(written) => self.wrote(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(from_app(error)),
            }
        }
        if self.peer_finished && !self.ends.from_peer {
            half_close(self.app);
            self.ends.eof_from(By::Peer);
        }
        Ok(())
    }

    fn wrote(&mut self, written: usize) {
        self.load.received(written);
        self.receive.release(written);
        self.pending.advance(written);
    }
}

/// What keeps an application from being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// Nothing.
    Off,
    /// The peer grants no capacity.
    NoCapacity,
    /// What it has said is to be written first.
    Unwritten,
}

/// How much was done in one turn.
#[derive(Clone, Copy)]
enum Amount {
    /// All that could be.
    Little,
    /// Enough for once.
    Much,
}

/// Bytes on their way to the application. Most of the time there are none, or few enough to be in one
/// piece, which takes no memory besides.
#[derive(Default)]
struct Pending {
    /// Never empty while there are others.
    front: Bytes,
    others: VecDeque<Bytes>,
}

impl Pending {
    const fn is_empty(&self) -> bool {
        self.front.is_empty()
    }

    fn len(&self) -> usize {
        usize::from(!self.front.is_empty()) + self.others.len()
    }

    fn iter(&self) -> impl Iterator<Item = &Bytes> {
        let front = (!self.front.is_empty()).then_some(&self.front);
        front.into_iter().chain(&self.others)
    }

    fn push(&mut self, bytes: Bytes) {
        if self.front.is_empty() {
            self.front = bytes;
        } else {
            self.others.push_back(bytes);
        }
    }

    fn advance(&mut self, count: usize) {
        let mut left = count;
        while left > 0 && !self.is_empty() {
            let here = left.min(self.front.len());
            self.front.advance(here);
            left -= here;
            if self.front.is_empty() {
                self.front = self.others.pop_front().unwrap_or_default();
            }
        }
        if self.is_empty() {
            self.others = VecDeque::new();
        }
    }
}

type Received = Option<Result<Bytes, super::super::error::StreamError>>;

fn from_app(error: std::io::Error) -> Closed {
    Closed::socket(By::App, error)
}

/// Capacity is asked for only while the application has something to say.
fn poll_send(
    send: &mut SendHalf,
    cx: &mut Context<'_>,
    hold: Hold,
    wanted: usize,
) -> Poll<SendEvent> {
    match hold {
        Hold::NoCapacity => send.poll_capacity(cx, wanted),
        Hold::Off | Hold::Unwritten => send.poll_ended(cx),
    }
}
