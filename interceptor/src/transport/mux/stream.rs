//! A stream of a shared carrier, for whoever has it.
//!
//! # Invariants
//!
//! * A stream that is dropped before its end is cut.

use std::sync::Arc;

use tokio::net::TcpStream;

use super::super::codec::{fields, frame};
use super::super::hbone::stream::Abort;
use super::super::hbone::{ConnectHeaders, Lease, Refusal};
use super::super::splice::Load;
use super::hub::{Hub, Inner};
use super::slot::App;

/// One stream among others.
pub(in crate::transport) struct MuxStream {
    hub: Arc<Hub>,
    /// Its number, 0 once it is over.
    pub(super) stream: u32,
    /// Bytes of the application that travelled with the request.
    pub(in crate::transport) early: usize,
    /// Keeps the carrier counted as in use.
    _lease: Option<Lease>,
}

impl MuxStream {
    pub(super) fn new(hub: &Arc<Hub>, stream: u32, early: usize, lease: Option<Lease>) -> Self {
        Self {
            hub: Arc::clone(hub),
            stream,
            early,
            _lease: lease,
        }
    }

    pub(super) fn hub(&self) -> &Hub {
        &self.hub
    }

    /// From now on the stream is carried: it belongs to `app`.
    pub(in crate::transport) fn carried(&self, socket: &Arc<TcpStream>, mut load: Load) {
        if self.early > 0 {
            load.sent(self.early);
        }
        let socket = Arc::clone(socket);
        let app = App { socket, load };
        if let Some(slot) = self.hub.lock().streams.get_mut(&self.stream) {
            slot.app = Some(app);
        }
    }

    /// Both directions ended in order.
    pub(in crate::transport) fn finish(&mut self) {
        self.leave(|_stream, _inner| {});
    }

    /// Ends both directions at once.
    pub(in crate::transport) fn abort(&mut self, why: Abort) {
        self.leave(|stream, inner| {
            frame::push_reset(inner.out.frames(), stream, why.code().into());
        });
    }

    /// Answers that the connection is open.
    pub(in crate::transport) fn accept(&self, headers: &ConnectHeaders) {
        let mut map = http::HeaderMap::new();
        headers.write(&mut map);
        let block = fields::answer(http::StatusCode::OK, &map);
        let mut inner = self.hub.lock();
        frame::push_headers(inner.out.frames(), self.stream, &block, frame::End::Open);
        inner.wake_driver();
    }

    /// Answers that there is no connection. What the application may already have sent is ignored.
    pub(in crate::transport) fn refuse(mut self, refusal: &Refusal) {
        let mut map = http::HeaderMap::new();
        let (name, value) = refusal.header();
        map.insert(name, value);
        let block = fields::answer(refusal.status, &map);
        self.leave(|stream, inner| {
            frame::push_headers(inner.out.frames(), stream, &block, frame::End::Stream);
        });
    }

    /// The stream is over, with some last words for the peer, if it is not over for it.
    fn leave(&mut self, last_words: impl FnOnce(u32, &mut Inner)) {
        let stream = std::mem::take(&mut self.stream);
        if stream == 0 {
            return;
        }
        let mut inner = self.hub.lock();
        let slot = inner.remove(stream);
        let was_reset = slot.as_ref().is_some_and(|slot| slot.is_over());
        if !was_reset && inner.ended.is_none() {
            last_words(stream, &mut inner);
            inner.wake_driver();
        }
        // Not under the lock: with it goes the last hold on a socket, perhaps.
        drop(inner);
        drop(slot);
    }
}

impl Drop for MuxStream {
    fn drop(&mut self) {
        self.abort(Abort::Cut);
    }
}

impl std::fmt::Debug for MuxStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MuxStream({})", self.stream)
    }
}
