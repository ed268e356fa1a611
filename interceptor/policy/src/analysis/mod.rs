//! What a policy can never do, proved: rules that never match, rules that another covers, rules
//! that callers without mutual TLS pass.
//!
//! ```text
//!  Rule ──▶ Region: callers × destinations, as sets ──▶ empty?        dead, with the fields that conflict
//!                                                   ├─▶ an element    live, with that connection
//!                                                   └─▶ contained?    shadowed, with the rule that covers it
//! ```
//!
//! # Invariants
//!
//! * What is called dead never fires, what is called shadowed changes no verdict, and every example
//!   was evaluated by the engine itself. Property tests hold the first two to random connections.
//! * Not everything dead or shadowed is found: where sets grow too large, or a port is known by its
//!   name only, the answer is "not proved".
//! * Time and memory are bounded whatever was written.
//!
//! Not here: what only shows together with workloads (a selector that selects nothing), which is
//! the agent's `analyze`.

mod dead;
mod identities;
mod plaintext;
mod ports;
mod ranges;
mod region;
mod shadow;

pub use dead::{Conflict, Dead, Liveness, Witness};
pub use plaintext::{Plaintext, PlaintextAt};
pub use shadow::{Shadow, ShadowEffect, Shadows, shadows};
