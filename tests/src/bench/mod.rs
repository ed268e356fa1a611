//! The benchmark: the same work over raw TCP and over the agents, interleaved in one run so that
//! ratios hold on a noisy machine.
//!
//! Client, server and both agents share the machine's cores, as they do in the tables of
//! `docs/`. The raw variant runs between two pods of the same nodes that no manifest mentions; the
//! agents' connect hooks see their connections, too, and let them be (less than 2 µs each).

mod load;
mod plan;
mod report;
mod rig;

pub use plan::{Plan, Work};
pub use report::Report;
pub use rig::{Figure, Rig, Variant};

#[cfg(test)]
mod tests;
