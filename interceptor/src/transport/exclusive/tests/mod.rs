//! Exclusive carriers: against the `h2` crate on the other side, and what becomes of them.

mod carriers;
mod http2;
pub(in crate::transport) mod interop;
mod lanes;
mod leaving;
mod refusing;
mod stalls;
