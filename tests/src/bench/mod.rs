//! The benchmark: the same work over raw TCP, over the agents and over their peers, interleaved in
//! one run so that ratios hold on a noisy machine.
//!
//! ```text
//!  raw         client ───────────────── TCP ─────────────────▶ server
//!  raw_same_…  client ───────────────── TCP ─────────────────▶ server     both on one node
//!  same_node   client ── TCP, verdict held by the kernel ────▶ server     both on one node
//!  cross_node  client ─▶ agent ═══ HBONE, mutual TLS ═══▶ agent ─▶ server
//!  envoy, …    client ─▶ peer ════════ mutual TLS ═══════▶ peer ─▶ server
//! ```
//!
//! Client, server, agents and peers share the machine's cores. Every variant has pods of its own,
//! so that none of them lives with another's `TIME_WAIT` sockets. The pods of `raw` and of the peers
//! are in no manifest: the agents' connect hooks see their connections, too, and let them be (less
//! than 2 µs each). Peers listen in the client's pod and are dialled there, which spares them the
//! redirection that a mesh would need.

mod churn;
mod congestion;
mod curves;
mod figure;
mod hold;
mod http;
mod lane;
mod load;
mod mesh;
mod page;
mod peer;
mod plan;
mod plots;
mod policy;
mod processes;
mod report;
mod rig;
mod scale;
pub mod soak;
mod svg;
mod table;
mod twin;
mod verdict;

pub use figure::{Figure, Variant};
pub use hold::keep_all;
pub use page::write as write_page;
pub use peer::Kind;
pub use plan::{Plan, Step, Work};
pub use report::Report;
pub use rig::Rig;
pub use scale::write as write_scale;
pub use verdict::{Outcome, Verdict};

#[cfg(test)]
mod tests;
