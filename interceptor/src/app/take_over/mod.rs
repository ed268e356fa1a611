//! One agent takes over from another that goes on running, and no connection notices.
//!
//! ```text
//!  successor                                   predecessor
//!  hello (protocol, layout, node) ──────────▶  refused, with the reason; or:
//!                      ◀── offer, sockets ───  lock, listeners of workloads, ports of the node
//!  programs replaced, workloads enrolled       stops following the mesh, goes on serving
//!  ready ───────────────────────────────────▶
//!                      ◀── yours ────────────  stops accepting, drains, ends
//! ```
//!
//! Over a unix socket in the run folder that only root and the agent's own user may use.
//!
//! # Invariants
//!
//! * From the offer to `yours` both accept from the same listeners; a connection belongs to
//!   whoever accepted it. There is no moment at which nobody does.
//! * The predecessor decides, once: when it has said `yours`. A successor that gives up, hangs or
//!   dies before that leaves a predecessor that puts everything of its own back and goes on.
//! * A successor that cannot serve what it was handed gives up. It never takes over less.
//! * Nothing is touched when the two do not mean the same by what is in the kernel's maps.
//!
//! Not here: passing sockets (`net::pass`), what is done to the kernel (`capture::heritage`).

mod give;
mod take;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use interceptor_common::ListenerKey;
use serde::{Deserialize, Serialize};

use crate::net::pass::{Channel, Frame};

pub(super) use give::{Giver, Petition};
pub(super) use take::Taking;

/// What two agents say to each other, by number. Raised with any change to [`Message`].
const PROTOCOL: u32 = 1;

/// How long one answer may take that needs no work.
const ANSWER: Duration = Duration::from_secs(5);

/// How long a successor may take from the offer until it is ready: 512 workloads take seconds.
const HAND_OVER: Duration = Duration::from_mins(1);

/// How long a successor waits for its first configuration to be in force. Shorter than
/// [`HAND_OVER`], so that it is the successor who says why.
pub(super) const FIRST_PASS: Duration = Duration::from_secs(45);

/// The socket on which a running agent is asked.
pub(super) fn socket(run_folder: &Path) -> PathBuf {
    run_folder.join("take-over.sock")
}

/// What the two say.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "say", rename_all = "camelCase")]
enum Message {
    /// I want to take over.
    Hello {
        protocol: u32,
        layout: u32,
        version: String,
        node: String,
    },
    /// No.
    Refused { why: String },
    /// Yes; so many sockets follow.
    Offer {
        version: String,
        pid: u32,
        sockets: usize,
    },
    /// The sockets that come with this message.
    Sockets { names: Vec<Name> },
    /// I serve everything.
    Ready,
    /// I do not want it any more.
    GaveUp { why: String },
    /// It is yours alone.
    Yours,
    /// It stays mine.
    Withdrawn { why: String },
}

/// What a socket is.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "camelCase")]
enum Name {
    /// The node's lock.
    Lock,
    /// A workload's listener.
    Listener {
        workload: u64,
        role: u32,
        family: u32,
    },
    /// A port of the node's own.
    Port { address: SocketAddr },
}

impl From<ListenerKey> for Name {
    fn from(key: ListenerKey) -> Self {
        Self::Listener {
            workload: key.workload,
            role: key.role,
            family: key.family,
        }
    }
}

/// Why a take-over did not happen.
#[derive(Debug, thiserror::Error)]
pub(super) enum TakeOverError {
    /// The connection between the two broke.
    #[error("the connection to the other agent broke")]
    Broken(#[from] io::Error),
    /// It ended in the middle.
    #[error("the other agent went away in the middle")]
    Gone,
    /// It did not answer in time.
    #[error("the other agent did not answer within {0:?}")]
    Silent(Duration),
    /// It said something that makes no sense now.
    #[error("the other agent said something unexpected: {0}")]
    Unexpected(String),
    /// It does not hand over.
    #[error("the running agent refuses to be replaced and goes on: {0}")]
    Refused(String),
    /// It changed its mind.
    #[error("the other agent gave up: {0}")]
    GaveUp(String),
    /// This one would not serve all that it takes over.
    #[error("{0}; the running agent goes on")]
    NotServed(String),
    /// There is nothing to serve by.
    #[error(
        "no configuration came into force within {FIRST_PASS:?} (see the log above); the running \
         agent goes on"
    )]
    NotConfigured,
    /// This one is stopping.
    #[error("this agent is stopping")]
    Stopping,
}

/// Sends a message with its sockets.
async fn say(
    channel: &Channel,
    message: &Message,
    sockets: &[std::os::fd::BorrowedFd<'_>],
) -> Result<(), TakeOverError> {
    let bytes = serde_json::to_vec(message).map_err(io::Error::from)?;
    Ok(channel.send(&bytes, sockets).await?)
}

/// Receives the next message and what came with it.
async fn hear(
    channel: &mut Channel,
    within: Duration,
) -> Result<(Message, Vec<std::os::fd::OwnedFd>), TakeOverError> {
    let received = tokio::time::timeout(within, channel.receive()).await;
    let frame = received.map_err(|_elapsed| TakeOverError::Silent(within))??;
    let Frame { bytes, descriptors } = frame.ok_or(TakeOverError::Gone)?;
    let message = serde_json::from_slice(&bytes).map_err(|error| {
        let said: String = String::from_utf8_lossy(&bytes).chars().take(100).collect();
        TakeOverError::Unexpected(format!("{said} ({error})"))
    })?;
    Ok((message, descriptors))
}

/// The error for a message that is not expected now.
fn unexpected(message: &Message) -> TakeOverError {
    match message {
        Message::Refused { why } => TakeOverError::Refused(why.clone()),
        Message::GaveUp { why } | Message::Withdrawn { why } => TakeOverError::GaveUp(why.clone()),
        other => TakeOverError::Unexpected(format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests;
