//! End-to-end tests, one file per subject: real agents on simulated nodes, real traffic.
#![forbid(unsafe_code)]

mod aborts;
mod agreement;
mod authority;
mod capture;
mod carriers;
mod churn;
mod config;
mod envoy;
mod exceptions;
mod explain;
mod faults;
mod harness;
mod hostile;
mod identity;
mod node;
mod older;
mod peers;
mod policy;
mod restart;
mod same_node;
mod shadow;
mod shortage;
mod stress;
mod takeover;
mod telemetry;
mod uninstall;
mod ways;
