//! The stream of an exclusive carrier, and the way home for the carrier when the stream is over.
//!
//! # Invariants
//!
//! * A carrier comes home exactly once: after the stream ended in order, or after it was left. If
//!   the session failed it is closed instead.
//! * A stream that is dropped before its end is cut.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::super::codec::{fields, frame};
use super::super::hbone::stream::Abort;
use super::super::hbone::{ConnectHeaders, Refusal};
use super::carrier::{Carrier, SessionFailure};
use super::warm::Place;
use crate::net::reset_on_close;

/// How long the peer may take to hear that a stream was left. If it takes longer it is most likely
/// not reading, and only a reset of the connection reaches it.
const FAREWELL: Duration = Duration::from_secs(1);

/// The stream that has a carrier to itself.
pub(in crate::transport) struct ExclusiveStream {
    /// Gone once the stream is over.
    carrier: Option<Box<Carrier>>,
    home: Home,
    /// Bytes of the application that travelled with the request.
    pub(in crate::transport) early: usize,
}

/// Where a carrier goes when its stream is over.
pub(super) enum Home {
    /// To the client's other warm carriers.
    Warm(Option<Place>),
    /// Back to what serves it.
    Served(Berth),
}

/// Where the server finds its carrier again.
pub(super) type Berth = Arc<Mutex<Option<Box<Carrier>>>>;

impl ExclusiveStream {
    pub(super) const fn new(carrier: Box<Carrier>, home: Home, early: usize) -> Self {
        Self {
            carrier: Some(carrier),
            home,
            early,
        }
    }

    /// The carrier, for as long as the stream is not over.
    pub(in crate::transport) fn carrier(&mut self) -> Option<&mut Carrier> {
        self.carrier.as_deref_mut()
    }

    /// Both directions ended in order.
    pub(in crate::transport) fn finish(&mut self) {
        if let Some(mut carrier) = self.carrier.take() {
            match carrier.finished() {
                Ok(()) => self.home.give_back(carrier),
                Err(failure) => carrier.accuse(&failure),
            }
        }
    }

    /// Ends both directions at once.
    pub(in crate::transport) fn abort(&mut self, why: Abort) {
        if let Some(mut carrier) = self.carrier.take() {
            carrier.leave(why, Instant::now() + FAREWELL);
            self.home.give_back(carrier);
        }
    }

    /// The session failed: there is nothing to come home.
    pub(in crate::transport) fn fail(&mut self, failure: &SessionFailure) {
        if let Some(mut carrier) = self.carrier.take() {
            carrier.accuse(failure);
        }
    }

    /// Answers that the connection is open.
    pub(in crate::transport) fn accept(&mut self, headers: &ConnectHeaders) {
        if let Some(carrier) = &mut self.carrier {
            let mut map = http::HeaderMap::new();
            headers.write(&mut map);
            let block = fields::answer(http::StatusCode::OK, &map);
            let stream = carrier.stream();
            frame::push_headers(carrier.outbox(), stream, &block, frame::End::Open);
            carrier.send_now();
        }
    }

    /// Answers that there is no connection. What the application may already have sent is ignored.
    pub(in crate::transport) fn refuse(mut self, refusal: &Refusal) {
        if let Some(carrier) = &mut self.carrier {
            let mut map = http::HeaderMap::new();
            let (name, value) = refusal.header();
            map.insert(name, value);
            let block = fields::answer(refusal.status, &map);
            let stream = carrier.stream();
            frame::push_headers(carrier.outbox(), stream, &block, frame::End::Stream);
        }
        self.finish();
    }
}

impl Drop for ExclusiveStream {
    fn drop(&mut self) {
        self.abort(Abort::Cut);
    }
}

impl Home {
    fn give_back(&mut self, carrier: Box<Carrier>) {
        match self {
            Self::Warm(place) => {
                if let Some(place) = place.take() {
                    place.give_back(carrier);
                }
            }
            Self::Served(berth) => *berth.lock() = Some(carrier),
        }
    }
}

/// Waits until a carrier is good for another stream: everything is sent, and the peer has heard
/// that the last stream was left. `false` if that takes too long; then the carrier is closed so
/// that the peer cannot miss it.
pub(super) async fn settle(carrier: &mut Carrier) -> bool {
    let limit = carrier
        .leaving()
        .unwrap_or_else(|| Instant::now() + FAREWELL);
    let settled = std::future::poll_fn(|cx| carrier.poll_settled(cx));
    let settled = tokio::time::timeout_at(limit, settled).await;
    if settled.is_err() {
        // Fails only on a socket that is gone.
        let _gone = reset_on_close(&carrier.socket);
    }
    matches!(settled, Ok(Ok(())))
}

impl std::fmt::Debug for ExclusiveStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ExclusiveStream({:?})", self.carrier)
    }
}
