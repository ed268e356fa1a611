//! What passes between the pool of warm carriers and those who want or make one.
//!
//! Not here: who gets what (`warm.rs`).

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::error::TunnelError;
use super::super::grain::Grain;
use super::super::tls::SessionFacts;
use super::carrier::Carrier;
use super::warm::{Dial, Ready};

/// What a connection that waits gets.
pub(in crate::transport) enum Handed {
    /// A carrier to itself.
    Ready(Ready),
    /// It has to share one.
    Share,
    /// It is better off together with others, on as few as possible.
    Gather(Arc<Grain>),
    /// There is none.
    Failed(TunnelError),
}

/// What a connection gets at once.
pub(in crate::transport) enum Checkout {
    /// The carrier, or the advice to share one.
    Now(Handed),
    /// Something to wait for, and perhaps something to do for it.
    Wait(oneshot::Receiver<Handed>, Option<Dial>),
}

/// What a dial has led to.
pub(in crate::transport) enum Dialled {
    /// A carrier that one stream has to itself.
    Exclusive(Box<Carrier>, SessionFacts, Instant),
    /// The peer speaks only what everybody speaks.
    Http2,
    /// Nothing.
    Failed(TunnelError),
}
