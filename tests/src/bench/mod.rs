//! The benchmark: the same work over raw TCP, over the agents and over their peers, interleaved in
//! one run so that ratios hold on a noisy machine.
//!
//! ```text
//!  raw         client ───────────────── TCP ─────────────────▶ server
//!  raw_same_…  client ───────────────── TCP ─────────────────▶ server     both on one node
//!  unmeshed_…  client ──── TCP that programs let be ─────────▶ server     both on one node
//!  same_node   client ── TCP, verdict held by the kernel ────▶ server     both on one node
//!  cross_node  client ─▶ agent ═══ HBONE, mutual TLS ═══▶ agent ─▶ server
//!  envoy, …    client ─▶ peer ════════ mutual TLS ═══════▶ peer ─▶ server
//! ```
//!
//! A [`Plan`] says what is measured how often, a [`Rig`] measures, a [`Report`] keeps the figures and
//! judges them by what the project has set itself.
//!
//! Client, server, agents and peers share the machine's cores. Every variant has pods of its own,
//! so that none of them lives with another's `TIME_WAIT` sockets. The pods of `raw` and of the peers
//! are in no manifest; a socket meets the programs of the node that it belongs to, and `raw` belongs
//! to none (`side.rs`). Peers listen in the client's pod and are dialled there, which spares them the
//! redirection that a mesh would need.

mod agents;
mod churn;
mod congestion;
mod curves;
mod endpoint;
mod figure;
mod hold;
mod hook;
mod http;
mod json;
mod judge;
mod lane;
mod load;
mod made;
mod memory;
mod mesh;
mod page;
mod peer;
mod plan;
mod plots;
mod policy;
mod processes;
mod report;
mod rig;
mod sample;
mod scale;
mod schedule;
mod server;
mod side;
pub mod soak;
mod svg;
mod table;
mod twin;
mod verdict;

pub use figure::{ENVOY_2, Figure, NGINX, Take, Variant};
pub use hold::keep_all;
pub use made::Made;
pub use page::write as write_page;
pub use peer::{Carriage, Kind, has_nginx_stream};
pub use plan::{KNOWN_TO, Plan, Step, Work};
pub use report::Report;
pub use rig::Rig;
pub use scale::write as write_scale;
pub use schedule::Turn;
pub use verdict::{Outcome, Verdict};

#[cfg(test)]
mod tests;
