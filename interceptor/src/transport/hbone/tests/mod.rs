//! Client and server against each other, and against peers that do not behave.

mod carriers;
mod handshake;
mod requests;
