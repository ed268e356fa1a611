//! Exclusive carriers: HTTP/2 over mutual TLS between two of our agents, one stream at a time.
//!
//! ```text
//!  connection ── checkout ──▶ Carrier ── HEADERS + first bytes ──▶ Carrier ── Asked ──▶ handler
//!                  (Warm)        │              (TLS)                 │
//!      splice ◀── ExclusiveStream ┘ ◀────── 200 + first bytes ─────── ExclusiveStream ──▶ splice
//! ```
//!
//! The same bytes as HBONE everywhere, agreed upon by an ALPN id of our own, which says two things
//! more: one stream at a time, and no windows. A stream then has a TLS connection to itself while it
//! lasts, so nothing is multiplexed: no task between socket and stream, no lock, no copy, one
//! system call for up to 512 KiB. Peers that do not know the id get `hbone`, as do connections
//! beyond [`Config::max_exclusive`](super::Config).
//!
//! | file | what |
//! |---|---|
//! | `carrier.rs` | socket, records and frames of one carrier |
//! | `stream.rs` | its stream, and how the carrier comes home |
//! | `warm.rs` | the client's pool, one for each lane |
//! | `handed.rs` | what it is asked, and what it hands out |
//! | `quota.rs` | what bounds those of all lanes together |
//! | `client.rs` | request, early data, answer |
//! | `server.rs` | one request after the other |
//!
//! The splice is in `splice/exclusive.rs`.

pub(super) mod carrier;
mod client;
mod handed;
mod quota;
mod server;
pub(super) mod socket;
pub(super) mod stream;
mod warm;

pub(super) use carrier::Carrier;
pub(super) use client::{AskError, Early, ask, greet};
pub(super) use handed::{Checkout, Dialled, Handed};
pub(super) use quota::Quota;
pub(super) use server::{Asked, Left, Serving, greeted, serve};
pub(super) use stream::ExclusiveStream;
pub(super) use warm::{Dial, Ready, Warm};

#[cfg(test)]
pub(super) mod tests;

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
