//! HBONE: one HTTP/2 CONNECT stream per connection, over mutual TLS.
//!
//! ```text
//!  Client ── choose ──▶ carrier ── CONNECT ──▶ Server ── Request ──▶ handler
//!    │        (pool)      │                       │                    │
//!    ◀──── Tunnel ────────┴──── 200 / 401 ... ────┴── accept / refuse ─┘
//! ```
//!
//! | file | what |
//! |---|---|
//! | `client.rs` | opening a tunnel: identity, carrier, CONNECT, answer, one retry |
//! | `pool.rs` | which carrier: idle first, new up to a bound, then the least loaded |
//! | `making.rs` | dialling, and a carrier's task |
//! | `carrier.rs` | one mTLS connection: set-up, keepalive, idling out, retirement |
//! | `server.rs` | one accepted connection: set-up, requests, answers, drain |
//! | `windows.rs` | how much a peer may say unheard |
//! | `stream.rs` | the bytes of one stream, and all knowledge of `h2` errors |
//! | `headers/`, `refusal/`, `request.rs` | what the ends tell each other, bounded both ways |

mod answer;
mod carrier;
mod client;
mod headers;
mod making;
mod observed;
mod pool;
mod refusal;
mod request;
mod server;
pub(super) mod stream;
mod windows;

pub use answer::Answer;
pub use client::{Client, Tunnel};
pub use headers::{Baggage, ConnectHeaders, NotATraceparent, Traceparent};
pub(super) use pool::{Choice, Key, Lease};
pub use refusal::{ErrorType, PeerReason, Refusal};
pub use request::BadConnect;
pub use server::{Inbound, Incoming, Rejected, Request, Served, Server};
pub use stream::TunnelStream;

#[cfg(test)]
pub(super) mod tests;
