//! Shared carriers: HTTP/2 over mutual TLS between two of our agents, many streams that say little.
//!
//! ```text
//!  app ──read into the record──▶ ┐                        ┌ ──write from the record──▶ app
//!  app ──────────────────────▶  Out ── one send ─▶ Driver ┼ ─────────────────────────▶ app
//!  app ──────────────────────▶ ┘     (TLS)                └ ─────────────────────────▶ app
//! ```
//!
//! A message that travels alone costs a system call and the way through the kernel's network stack at
//! both ends, whatever its size. Here the messages that many connections have at the same moment are
//! one record, one system call and one packet; on the way in they are written to their applications
//! from where they were opened, without waking a task for each of them. What an exclusive carrier has
//! in common with this one is all below the streams: records, frames, header lists.
//!
//! It is agreed upon by an ALPN id of its own, and differs from HTTP/2 as everybody speaks it in what
//! both ends know beforehand: how many streams there may be ([`MAX_STREAMS`]), and what each of them
//! may say unheard ([`window::FIRST`]), so that an application's first bytes go with the request.
//!
//! | file | what |
//! |---|---|
//! | `hub.rs` | what the carrier's task and its streams share |
//! | `slot.rs` | one stream: its window, what waits for its application |
//! | `events.rs` | what the peer's frames mean for the streams |
//! | `out.rs` | what goes out, laid out as records |
//! | `window.rs` | how much a peer may say unheard |
//! | `driver.rs` | the carrier's task |
//! | `stream.rs` | a stream, for whoever has it |
//! | `carrying.rs` | one turn of a stream that is being carried |
//! | `client.rs`, `server.rs` | asking, and being asked |
//!
//! The splice is in `splice/mux.rs`.
//!
//! # Invariants
//!
//! * A stream whose application does not read holds up no other one: what it was sent waits in its
//!   slot, within its window.
//! * What a carrier keeps is bounded: streams, their windows, two buffers on the way out, one on the
//!   way in, and frames that are answers.
//! * Frames of a stream that is over are ignored: both ends may say something before they learn.
//! * The lock of a hub is held for one turn of one task; all of them are on one lane.

mod carrying;
mod client;
mod driver;
mod events;
mod hub;
mod out;
mod server;
mod slot;
mod stream;
mod window;

pub(super) use carrying::{Down, HasEnded, Trouble, Up};
pub(super) use client::ask;
pub(super) use driver::{Driver, greet};
pub(super) use hub::{Hub, Role};
pub(super) use server::{greeted, serve};
pub(super) use stream::MuxStream;

/// Streams that a client begins on one carrier. With [`window::FIRST`], what a peer can make us keep.
pub(super) const MAX_STREAMS: usize = 256;

/// Streams that a server has at most. A client begins the next one when both ends of another are
/// over for it, which the server may learn later than the request behind it.
const MOST_SERVED: usize = MAX_STREAMS + MAX_STREAMS / 2;

#[cfg(test)]
mod tests;
