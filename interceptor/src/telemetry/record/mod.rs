//! What is known of one connection when it ends: the single value from which the access line, the
//! metrics and `interceptor connections` are made, so that they cannot disagree.
//!
//! Not here: how any of them is rendered.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use interceptor_policy::{PolicyName, SpiffeId};
use serde::{Deserialize, Serialize};

use super::shadow::Shadow;
use crate::transport::SessionFacts;
use crate::workload::{ServiceName, Workload};

mod numbers;

pub use crate::reason::{Label, Outcome, ResponseFlags};
pub use numbers::{Numbers, Tally};

/// Number of a connection, unique for the life of the agent and random enough not to be guessed
/// across restarts: 16 hexadecimal digits. It is sent to the peer (in `traceparent`), so both
/// nodes' lines carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

impl ConnectionId {
    /// A number that nobody can guess. Never zero, which `traceparent` forbids.
    pub fn random() -> Self {
        Self(rand::random_range(1..=u64::MAX))
    }
}

impl std::fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Which end of the connection this agent reports from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reporter {
    /// The client's agent.
    Source,
    /// The server's agent.
    Destination,
}

impl Reporter {
    /// The value of Istio's label `reporter`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }

    /// The direction seen from the local workload: the value of `direction` in access lines.
    pub const fn direction(self) -> &'static str {
        match self {
            Self::Source => "outbound",
            Self::Destination => "inbound",
        }
    }

    /// Bytes that the local application sent and received, from those of the client; and back, which
    /// is the same: at the destination the local application is the server.
    pub const fn turned(self, (sent, received): (u64, u64)) -> (u64, u64) {
        match self {
            Self::Source => (sent, received),
            Self::Destination => (received, sent),
        }
    }
}

/// How the bytes were protected on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    /// HBONE with mutual TLS.
    MutualTls,
    /// From socket to socket inside of this node: the kernel knows both ends, and nobody else sees
    /// the bytes.
    Kernel,
    /// Plaintext.
    None,
}

impl Security {
    /// The value of Istio's label `connection_security_policy`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::Kernel => "kernel",
            Self::None => "unknown",
        }
    }

    /// Whether it is certain who both ends are.
    pub const fn proves_identity(self) -> bool {
        matches!(self, Self::MutualTls | Self::Kernel)
    }
}

/// One end of a connection.
#[derive(Clone, Debug, Default)]
pub struct End {
    /// Its address as the network sees it.
    pub address: Option<SocketAddr>,
    /// The workload, where known. At the destination the source workload is only a hint for
    /// names; the proven fact is `identity`.
    pub workload: Option<Arc<Workload>>,
    /// The identity proven by certificate, or of our own captured workload.
    pub identity: Option<SpiffeId>,
}

impl End {
    /// A local workload, known from the kernel: it has the identity that we hold the key of.
    pub fn local(address: SocketAddr, workload: Option<&Arc<Workload>>) -> Self {
        Self {
            identity: workload.map(|workload| workload.identity.clone()),
            ..Self::unproven(address, workload)
        }
    }

    /// A workload of which only the address is known so far.
    pub fn unproven(address: SocketAddr, workload: Option<&Arc<Workload>>) -> Self {
        Self {
            address: Some(address),
            workload: workload.cloned(),
            identity: None,
        }
    }
}

/// Facts about the TLS session that carried a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TlsFacts {
    /// Such as `TLS13_AES_128_GCM_SHA256`.
    pub cipher: &'static str,
    /// Key exchange group, such as `X25519MLKEM768`.
    pub key_exchange: &'static str,
}

impl From<SessionFacts> for TlsFacts {
    fn from(facts: SessionFacts) -> Self {
        Self {
            cipher: facts.cipher,
            key_exchange: facts.key_exchange,
        }
    }
}

/// What the kernel measured of a connection that it carried by itself, at the client's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFacts {
    /// Smoothed round-trip time.
    pub round_trip: Duration,
    /// Segments that were sent again.
    pub retransmits: u64,
}

/// Why a connection was refused, failed or cut, or what allowed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// In one word, as it is counted.
    pub label: Label,
    /// The policy that decided, if one did.
    pub policy: Option<PolicyName>,
    /// Index of the rule in that policy.
    pub rule: Option<usize>,
    /// One sentence for a person: what, why, and what to do next where that is known. Most open
    /// connections share theirs.
    pub detail: Option<Cow<'static, str>>,
}

impl Reason {
    /// A reason without a policy and without a sentence.
    pub const fn labelled(label: Label) -> Self {
        Self {
            label,
            policy: None,
            rule: None,
            detail: None,
        }
    }
}

/// Everything that is known of a connection at the time of reporting.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its number.
    pub id: ConnectionId,
    /// Which end reports.
    pub reporter: Reporter,
    /// The client.
    pub source: End,
    /// The server: after resolution of a Service to a workload.
    pub destination: End,
    /// The authority of the CONNECT, when carried by HBONE (then `destination.address` is the
    /// tunnel's address, as in ztunnel's lines).
    pub hbone_address: Option<SocketAddr>,
    /// The Service that was addressed.
    pub service: Option<ServiceName>,
    /// How it was carried.
    pub security: Security,
    /// What became of it.
    pub outcome: Outcome,
    /// Why.
    pub reason: Reason,
    /// What policies that only report said of it.
    pub shadows: Vec<Shadow>,
    /// For metrics.
    pub flags: ResponseFlags,
    /// TLS facts, when carried by HBONE and known.
    pub tls: Option<TlsFacts>,
    /// What the kernel measured, when it carried the connection.
    pub tcp: Option<TcpFacts>,
    /// Bytes that the client sent.
    pub bytes_sent: u64,
    /// Bytes that the client received.
    pub bytes_received: u64,
    /// From capture to close.
    pub duration: Duration,
}

#[cfg(test)]
pub(crate) mod fixtures;
