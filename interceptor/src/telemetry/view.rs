//! A connection as `interceptor connections` and `/connections` show it.

use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::record::{End, Outcome, Record, Reporter, Security};
use super::text::bounded;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is being carried.
    Open,
    /// It was refused, or could not be carried.
    Refused,
    /// It was carried and has ended.
    Closed,
}

/// One end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndView {
    /// Address and port.
    pub address: Option<SocketAddr>,
    /// `namespace/name` of the workload.
    pub workload: Option<String>,
    /// Proven SPIFFE ID.
    pub identity: Option<String>,
}

impl From<&End> for EndView {
    fn from(end: &End) -> Self {
        Self {
            address: end.address,
            workload: end.workload.as_ref().map(|w| w.id.to_string()),
            identity: end.identity.as_ref().map(ToString::to_string),
        }
    }
}

/// What is shown of one connection. Made from a [`Record`]; text from peers is bounded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionView {
    /// The connection's number, as in both nodes' access lines.
    pub conn_id: String,
    /// When this view was made.
    pub at: Timestamp,
    /// Where it is in its life.
    pub state: State,
    /// Which end reports.
    pub reporter: Reporter,
    /// The client.
    pub source: EndView,
    /// The server.
    pub destination: EndView,
    /// The address behind the tunnel, when carried by HBONE.
    pub hbone_address: Option<SocketAddr>,
    /// `namespace/name` of the Service that was addressed.
    pub service: Option<String>,
    /// What was decided.
    pub decision: Outcome,
    /// Stable label of the reason.
    pub reason: String,
    /// `namespace/name` of the policy that decided.
    pub policy: Option<String>,
    /// Index of the rule in it.
    pub rule: Option<usize>,
    /// The reason as a sentence.
    pub detail: Option<String>,
    /// How the bytes are protected.
    pub security: Security,
    /// Cipher suite, when carried by TLS.
    pub cipher: Option<String>,
    /// Smoothed round-trip time in microseconds, when carried by the kernel and measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_us: Option<u64>,
    /// Segments sent again, when carried by the kernel and measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u64>,
    /// Bytes that the client sent.
    pub bytes_sent: u64,
    /// Bytes that the client received.
    pub bytes_received: u64,
    /// Milliseconds since it was captured.
    pub age_ms: u64,
}

impl ConnectionView {
    /// The view of `record` in `state`.
    pub fn new(record: &Record, state: State) -> Self {
        let reason = &record.reason;
        Self {
            conn_id: record.id.to_string(),
            at: Timestamp::now(),
            state,
            reporter: record.reporter,
            source: EndView::from(&record.source),
            destination: EndView::from(&record.destination),
            hbone_address: record.hbone_address,
            service: record.service.as_ref().map(ToString::to_string),
            decision: record.outcome,
            reason: reason.label.to_string(),
            policy: reason.policy.as_ref().map(|p| bounded(&p.to_string())),
            rule: reason.rule,
            detail: reason.detail.as_deref().map(bounded),
            security: record.security,
            cipher: record.tls.map(|tls| tls.cipher.to_owned()),
            round_trip_us: (record.tcp)
                .map(|tcp| u64::try_from(tcp.round_trip.as_micros()).unwrap_or(u64::MAX)),
            retransmits: record.tcp.map(|tcp| tcp.retransmits),
            bytes_sent: record.bytes_sent,
            bytes_received: record.bytes_received,
            age_ms: u64::try_from(record.duration.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl From<&Record> for ConnectionView {
    /// The view of a connection that has ended or was refused.
    fn from(record: &Record) -> Self {
        let state = match record.outcome {
            Outcome::Allowed | Outcome::Cut => State::Closed,
            Outcome::Denied | Outcome::Failed => State::Refused,
        };
        Self::new(record, state)
    }
}
