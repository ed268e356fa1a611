//! YAML documents whose every value knows its line, read within bounds.
//!
//! ```text
//!  text ──parse──▶ Document (Node tree with lines) ──Reader/Fields──▶ typed values
//!                     │                                  │
//!                     └────────── Report ◀───────────────┘   every mistake, not just the first
//! ```
//!
//! # Why not serde
//!
//! An operator who breaks a manifest wants all mistakes at once, each with file, line and key, and
//! the field that was probably meant. A deserialiser stops at the first and has forgotten the line
//! of anything that turns out wrong later (a port name that nobody has, a second workload with the
//! same address).
//!
//! # Invariants
//!
//! * Time and memory are linear in the input and bounded by [`Limits`], whatever the input is:
//!   anchors are expanded within a budget, nesting is bounded, the number of mistakes, too.
//! * Nothing is guessed: duplicate keys, merge keys (`<<`), tags other than the core ones and keys
//!   that are not scalars are mistakes. A number where text is wanted is a mistake, as it is for
//!   the Kubernetes API server.
//!
//! Not here: what the documents mean (`workload`, `config`).

mod build;
mod mistake;
mod node;
mod parse;
mod read;
mod suggest;

pub use mistake::{Mistake, Report, Severity};
pub use node::{Document, Entry, Node, Position, Resolved, Scalar, Value};
pub use parse::{Documents, Limits, as_text, documents, parse, parse_bytes};
pub use read::{Fields, Reader};
pub use suggest::nearest;

#[cfg(test)]
mod tests;
