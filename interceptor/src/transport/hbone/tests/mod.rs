//! Client and server against each other, and against peers that do not behave.

mod carriers;
mod fairness;
mod floods;
pub(in crate::transport) mod handshake;
mod requests;
mod stalls;
