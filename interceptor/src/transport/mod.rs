//! Carrying connections to other nodes: HBONE over mutual TLS, and the splice that moves bytes.
//!
//! ```text
//!  app ◀─splice─▶ TunnelStream ◀─ carrier: HTTP/2 over mTLS ─▶ TunnelStream ◀─splice─▶ app
//!                      ▲                                            ▲
//!               hbone::Client                                 hbone::Server
//! ```
//!
//! HBONE is one HTTP/2 CONNECT stream per connection, over mutual TLS 1.3 to port 15008 of the
//! workload's own address; ztunnel and Envoy speak it, too. A *carrier* is such a TLS connection.
//! Carriers are kept warm and reused. Between two of our agents each stream has one to itself
//! (`exclusive`), unless there are many and they say little (`grain`): then they are together on one
//! of ours (`mux`). With other peers they carry one stream at a time as long as there are few: a
//! shared carrier lets one bulk stream hold up everybody else's (`hbone`).
//!
//! # Invariants
//!
//! * A key is used only for the identity it belongs to; a peer is only used if its certificate
//!   proves the identity that the verdict named. Transport never chooses either.
//! * What a peer writes (headers, refusals) is bounded, escaped, shown, and never decided upon.
//! * Everything that a peer can make us wait for or keep has a bound in [`Config`].
//!
//! Not here: whether a connection is allowed (`decide`), what is recorded of it (`connection`).

mod buffer;
pub mod codec;
mod config;
mod error;
mod exclusive;
mod flight;
mod grain;
pub mod hbone;
mod mux;
pub mod record;
pub mod splice;
mod stock;
mod tls;

pub use buffer::let_go_of_buffers;
pub use config::Config;
pub use error::{HandshakeError, SessionError, Stage, StreamError, TunnelError};
pub use hbone::{Client, ConnectHeaders, Server, Tunnel, TunnelStream};
pub use splice::Closed;
pub use stock::{bound_buffers, buffered};
pub use tls::SessionFacts;

#[cfg(test)]
mod testing;
