//! The splice between an application's socket and a tunnelled stream.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::super::buffer::{Segment, Sizer};
use super::super::exclusive::socket::{read_once, write_pieces};
use super::super::hbone::TunnelStream;
use super::super::hbone::stream::{Abort, Kind, ReceiveHalf, SendEvent, SendHalf, Shared};
use super::{By, Closed, Ends, ROUNDS, ResetUnlessDone, bytes_of, exclusive, half_close};
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
    app: &TcpStream,
    stream: TunnelStream,
    traffic: Arc<Traffic>,
) -> impl Future<Output = Closed> + Send {
    // At once: a future that is dropped before its first poll has cut the connection, too.
    let mut app_reset = ResetUnlessDone::new(app);
    async move {
        let closed = match stream.kind {
            // The two are large in different ways, and nobody shall have room for both.
            Kind::Exclusive(stream) => Box::pin(exclusive::carry(app, stream, &traffic)).await,
            Kind::Shared(stream) => Box::pin(shared(app, stream, &traffic)).await,
        };
        app_reset.closed(&closed);
        closed
    }
}

async fn shared(app: &TcpStream, stream: Shared, traffic: &Traffic) -> Closed {
    traffic.add_sent(bytes_of(stream.early));
    let mut splice = Splice::new(app, stream, traffic);
    let closed = splice.run().await;
    let in_order = matches!(closed.how, super::How::Eof);
    splice.abort = (!in_order).then_some(Abort::Reset);
    closed
}

struct Splice<'a> {
    app: &'a TcpStream,
    traffic: &'a Traffic,
    send: SendHalf,
    receive: ReceiveHalf,
    /// Keeps the carrier counted as in use until the splice ends.
    _lease: Option<super::super::hbone::Lease>,
    /// The application has something to say but the peer grants no capacity.
    blocked: bool,
    sizer: Sizer,
    /// Received and not yet written to the application.
    pending: VecDeque<Bytes>,
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
    fn new(app: &'a TcpStream, stream: Shared, traffic: &'a Traffic) -> Self {
        Self {
            app,
            traffic,
            send: stream.send,
            receive: stream.receive,
            _lease: stream.lease,
            blocked: false,
            sizer: Sizer::default(),
            pending: VecDeque::new(),
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
            if let Err(closed) = self.turn().await {
                return closed;
            }
            // A flow that is always ready must still let other tasks of its thread run.
            tokio::task::consume_budget().await;
        }
    }

    /// Waits until something can be done, and does a bounded amount of it.
    async fn turn(&mut self) -> Result<(), Closed> {
        let wants_to_read = !self.ends.from_app && !self.blocked;
        let wants_to_write = !self.pending.is_empty();
        let wants_to_receive = !wants_to_write && !self.peer_finished;
        let (blocked, wanted) = (self.blocked, self.sizer.wanted());
        let (send, receive) = (&mut self.send, &mut self.receive);
        tokio::select! {
            event = poll_fn(|cx| poll_send(send, cx, blocked, wanted)) => self.on_send(event),
            ready = self.app.readable(), if wants_to_read => {
                ready.map_err(|error| Closed::socket(By::App, error))?;
                self.read_app()
            }
            // While nothing is read from the application, nothing else would tell of its reset.
            ready = self.app.ready(Interest::ERROR), if !wants_to_read => {
                let error = ready.err().or_else(|| self.app.take_error().ok().flatten());
                Err(error.map_or_else(|| Closed::reset(By::App), |error| Closed::socket(By::App, error)))
            }
            ready = self.app.writable(), if wants_to_write => {
                ready.map_err(|error| Closed::socket(By::App, error))?;
                self.write_app()
            }
            bytes = poll_fn(|cx| receive.poll_bytes(cx)), if wants_to_receive => {
                self.on_received(bytes).await
            }
        }
    }

    fn on_send(&mut self, event: SendEvent) -> Result<(), Closed> {
        match event {
            SendEvent::Capacity(_) => {
                self.blocked = false;
                self.read_app()
            }
            SendEvent::Unwanted => {
                // The peer has closed for good and cleanly: what it sent is still delivered.
                self.ends.first.get_or_insert(By::Peer);
                self.ends.from_app = true;
                self.blocked = false;
                Ok(())
            }
            SendEvent::Ended(error) => Err(Closed::stream(error)),
        }
    }

    /// Moves what the application has written to the tunnel, as far as capacity goes.
    fn read_app(&mut self) -> Result<(), Closed> {
        let mut no_wake = Context::from_waker(std::task::Waker::noop());
        for _ in 0..ROUNDS {
            let wanted = self.sizer.wanted();
            let capacity = match self.send.poll_capacity(&mut no_wake, wanted) {
                Poll::Ready(SendEvent::Capacity(capacity)) => capacity,
                Poll::Ready(event) => return self.on_send(event),
                Poll::Pending => {
                    self.blocked = true;
                    return Ok(());
                }
            };
            let mut segment = Segment::take(&self.sizer);
            let room = segment.room(capacity);
            let most = room.len();
            match read_once(self.app, &mut [IoSliceMut::new(room)], most) {
                Ok(0) => {
                    self.send.finish();
                    self.ends.eof_from(By::App);
                    return Ok(());
                }
                Ok(count) => {
                    segment.wrote(count);
                    self.sizer.read(count);
                    self.traffic.add_sent(bytes_of(count));
                    self.send.send(segment).map_err(Closed::stream)?;
                    if count < most {
                        // The runtime has been told that there is nothing more.
                        self.send.release();
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.send.release();
                    return Ok(());
                }
                Err(error) => return Err(Closed::socket(By::App, error)),
            }
        }
        Ok(())
    }

    /// Takes what has arrived, without waiting for more, and writes it.
    async fn on_received(&mut self, first: Option<Received>) -> Result<(), Closed> {
        let mut next = Some(first);
        while let Some(received) = next {
            match received {
                Some(Ok(bytes)) => self.pending.push_back(bytes),
                Some(Err(error)) => return Err(Closed::stream(error)),
                None => {
                    self.peer_finished = true;
                    break;
                }
            }
            if self.pending.len() >= MAX_GATHERED {
                break;
            }
            next = poll_fn(|cx| match self.receive.poll_bytes(cx) {
                Poll::Ready(received) => Poll::Ready(Some(received)),
                Poll::Pending => Poll::Ready(None),
            })
            .await;
        }
        self.write_app()
    }

    /// Writes what is pending to the application, as far as its socket takes it.
    fn write_app(&mut self) -> Result<(), Closed> {
        while !self.pending.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_GATHERED];
            let mut count = 0;
            for (slice, bytes) in slices.iter_mut().zip(&self.pending) {
                *slice = IoSlice::new(bytes);
                count += 1;
            }
            match write_pieces(self.app, slices.get(..count).unwrap_or_default()) {
                Ok(written) => self.wrote(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(Closed::socket(By::App, error)),
            }
        }
        if self.peer_finished && !self.ends.from_peer {
            half_close(self.app);
            self.ends.eof_from(By::Peer);
        }
        Ok(())
    }

    fn wrote(&mut self, written: usize) {
        self.traffic.add_received(bytes_of(written));
        self.receive.release(written);
        let mut left = written;
        while let Some(front) = self.pending.front_mut() {
            if front.len() > left {
                front.advance(left);
                return;
            }
            left -= front.len();
            self.pending.pop_front();
        }
    }
}

type Received = Result<Bytes, super::super::error::StreamError>;

/// Capacity is asked for only while the application has something to say.
fn poll_send(
    send: &mut SendHalf,
    cx: &mut Context<'_>,
    blocked: bool,
    wanted: usize,
) -> Poll<SendEvent> {
    if blocked {
        send.poll_capacity(cx, wanted)
    } else {
        send.poll_ended(cx)
    }
}
