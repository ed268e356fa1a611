//! End-to-end tests, one file per subject: real agents on simulated nodes, real traffic.
#![forbid(unsafe_code)]

mod harness;
