//! The node agent: captures the TCP connections of enrolled workloads, decides by cryptographic
//! identity what becomes of them, carries them over mutual TLS, and records what happened.
//!
//! Imports go one way, from the bottom of this list to the top; `cargo xtask layers` enforces it.
//!
//! | layer | modules | what |
//! |---|---|---|
//! | 0 | [`net`], [`drain`], [`lanes`], [`yaml`], [`error`], [`reason`] | sockets and namespaces, tasks and the threads they run on, located documents, errors in one line, the words for how connections end |
//! | 1 | [`workload`], [`identity`] | what we know |
//! | 2 | [`capture`], [`decide`], [`transport`], [`analyze`] | what we do; these never import each other |
//! | 3 | [`telemetry`] | what we saw |
//! | 4 | [`connection`], [`explain`] | the story of one connection: as it happens, and as it would |
//! | 5 | [`config`], [`admin`] | what is asked of us, what we show |
//! | 6 | [`app`] | the process |
//! | 7 | [`cli`] | the commands |

pub mod drain;
pub mod error;
pub mod lanes;
pub mod net;
pub mod reason;
pub mod yaml;

pub mod identity;
pub mod workload;

pub mod analyze;
pub mod capture;
pub mod decide;
pub mod transport;

pub mod telemetry;

pub mod connection;
pub mod explain;

pub mod admin;
pub mod config;

pub mod app;

pub mod cli;
