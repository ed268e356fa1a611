//! The words in which the end of a connection is told: what became of it, Istio's flag, and the label
//! of the reason, of which each has a text in the [catalogue].
//!
//! Access lines, metrics and `interceptor connections` show labels, people alert on them, and at night
//! somebody greps for one. So there are no labels but these: an error that can end a connection answers
//! with a [`Label`], and there is none without its meaning, the ends that it can stand for, and the side
//! that has to act. `docs/reasons.md` is made from it.
//!
//! Not here: labels of the agent's own log, and what decides which label it is.

use std::fmt;

use interceptor_policy::Cause;
use serde::{Deserialize, Serialize};

mod catalogue;
mod document;

pub use catalogue::Label;

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Carried.
    Allowed,
    /// Refused by policy or mode, here or by the peer.
    Denied,
    /// Should have been carried and could not be.
    Failed,
    /// Was carried until something that the verdict rested on changed.
    Cut,
}

impl Outcome {
    /// The value of `decision` in access lines.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::Cut => "cut",
        }
    }
}

/// ztunnel's response flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResponseFlags {
    /// `-`: nothing to report.
    None,
    /// `DENY`: refused by policy.
    Deny,
    /// `CONNECT`: the other end could not be reached.
    Connect,
    /// `TLS_FAILURE`: the TLS handshake failed.
    TlsFailure,
    /// `H2_HANDSHAKE_FAILURE`: TLS worked, HTTP/2 did not.
    H2HandshakeFailure,
    /// `IDENTITY_ERROR`: no certificate for the workload.
    IdentityError,
}

impl ResponseFlags {
    /// The value of Istio's label `response_flags`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            Self::IdentityError => "IDENTITY_ERROR",
        }
    }
}

/// Who has to act, if anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It is as intended.
    Nobody,
    /// Whoever owns the caller: its application, its manifests, its egress mode.
    Caller,
    /// Whoever owns the server: its application, its manifests, the policies that hold for it.
    Server,
    /// Whoever runs the agent that wrote the line.
    Agent,
    /// Whoever runs the agent at the other end.
    Peer,
    /// Whoever runs the network between the nodes.
    Network,
}

impl Side {
    /// As the document has it.
    const fn label(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Caller => "caller",
            Self::Server => "server",
            Self::Agent => "this agent",
            Self::Peer => "other agent",
            Self::Network => "network",
        }
    }
}

/// What is to be known of a label.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// As it is shown and counted. Stable.
    text: &'static str,
    /// What became of the connections that it is told of, and Istio's flag.
    ends: &'static [(Outcome, ResponseFlags)],
    /// Who has to act.
    side: Side,
    /// What it means, and what to do.
    meaning: &'static str,
}

impl Label {
    /// As it is shown and counted. Stable, and one of few.
    pub const fn as_str(self) -> &'static str {
        self.entry().text
    }

    /// Whether a connection of which this is told may have ended so.
    pub fn tells_of(self, outcome: Outcome, flags: ResponseFlags) -> bool {
        self.entry().ends.contains(&(outcome, flags))
    }

    /// The label of what decided a verdict.
    pub const fn of(cause: &Cause) -> Self {
        match cause {
            Cause::NoPolicies => Self::NoPolicies,
            Cause::NoDenyMatched => Self::NoDenyMatched,
            Cause::AllowedBy(_) => Self::Allowed,
            Cause::DeniedBy { .. } => Self::Denied,
            Cause::NoAllowMatched(_) => Self::NoAllowMatched,
            Cause::PlaintextToStrict { .. } => Self::PlaintextToStrict,
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl PartialEq<&str> for Label {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

#[cfg(test)]
mod tests;
