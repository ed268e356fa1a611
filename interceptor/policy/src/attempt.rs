//! One connection, as a policy sees it.

use std::net::IpAddr;

use crate::SpiffeId;

/// A connection that wants to reach a workload.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The identity that the caller proved with its certificate; `None` for plaintext.
    pub source: Option<&'a SpiffeId>,
    /// The address of the TCP peer; IPv4-mapped addresses count as IPv4.
    pub source_ip: IpAddr,
    /// The address of the workload.
    pub destination_ip: IpAddr,
    /// The port on which the workload listens (the target port, not a Service's port).
    pub destination_port: u16,
}
