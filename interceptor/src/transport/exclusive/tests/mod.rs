//! Exclusive carriers: against the `h2` crate on the other side, and what becomes of them.

mod carriers;
mod interop;
mod lanes;
mod stalls;
