//! Why a tunnel could not be opened, a handshake failed, or a stream ended early.
//!
//! Variants are what an operator would do next, not which library failed; the library's error is
//! the `source`. Every `reason()` is a stable metric label. Errors are `Clone` because one set-up
//! of a carrier may be awaited by many connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use interceptor_policy::SpiffeId;

use super::hbone::PeerReason;
use crate::identity::PeerError;
use crate::net::is_out_of_resources;
use crate::reason::Label;

/// Why a tunnel to a peer could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TunnelError {
    /// There is no certificate for the workload: look at the issuer.
    #[error("no certificate for {identity}")]
    NoIdentity {
        /// The local workload's identity.
        identity: SpiffeId,
    },
    /// TCP to the peer failed: look at routes, `NetworkPolicies` on port 15008, the peer's agent.
    #[error("cannot reach {gateway} (is its agent running, does a NetworkPolicy block the port?)")]
    Unreachable {
        /// The HBONE listener that was dialled.
        gateway: SocketAddr,
        /// The failed `connect(2)`.
        source: Arc<io::Error>,
    },
    /// The peer did not get on in time.
    #[error("{gateway} did not {stage} within {limit:?}")]
    TimedOut {
        /// The HBONE listener that was dialled.
        gateway: SocketAddr,
        /// What was awaited.
        stage: Stage,
        /// The configured limit.
        limit: Duration,
    },
    /// Mutual TLS or the HTTP/2 preface failed.
    #[error("handshake with {expected} at {gateway} failed")]
    Handshake {
        /// The HBONE listener that was dialled.
        gateway: SocketAddr,
        /// The identity that the verdict demanded.
        expected: SpiffeId,
        /// What went wrong.
        source: HandshakeError,
    },
    /// The peer proved an identity, but another one: a stale address, or an impostor.
    #[error("{gateway} is {got}, expected {expected}")]
    WrongPeer {
        /// The HBONE listener that was dialled.
        gateway: SocketAddr,
        /// The identity that the verdict demanded.
        expected: SpiffeId,
        /// The identity in the peer's certificate.
        got: SpiffeId,
    },
    /// The peer is up, authenticated, and said no.
    #[error("{peer} refused with {status}{}", Because(detail.as_deref()))]
    Refused {
        /// The identity that refused.
        peer: SpiffeId,
        /// Its answer.
        status: StatusCode,
        /// Why, in its own words. Written by the peer: shown, never acted upon.
        detail: Option<Box<PeerReason>>,
    },
    /// The HTTP/2 session broke before the peer answered.
    #[error("the session with {peer} at {gateway} broke")]
    Session {
        /// The HBONE listener that was dialled.
        gateway: SocketAddr,
        /// The identity at its other end.
        peer: SpiffeId,
        /// What broke.
        source: SessionError,
    },
    /// The agent is shutting down or the workload is being removed.
    #[error("draining: no new connections")]
    Draining,
}

impl TunnelError {
    /// The stable, low-cardinality label under which this failure is counted.
    pub fn reason(&self) -> Label {
        match self {
            Self::NoIdentity { .. } => Label::NoIdentity,
            Self::Unreachable { source, .. } if is_out_of_resources(source) => {
                Label::AgentExhausted
            }
            Self::Unreachable { .. } => Label::Unreachable,
            Self::TimedOut { .. } => Label::Timeout,
            Self::Handshake { source, .. } => source.reason(),
            Self::WrongPeer { .. } => Label::WrongIdentity,
            Self::Refused { status, .. } if status.as_u16() == 401 => Label::RefusedByPeerPolicy,
            Self::Refused { .. } => Label::RefusedByPeer,
            Self::Session { source, .. } => source.reason(),
            Self::Draining => Label::Draining,
        }
    }
}

/// Renders an optional reason as a suffix.
struct Because<'a>(Option<&'a PeerReason>);

impl std::fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

/// What a peer was expected to do when it ran out of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Accept the TCP connection.
    Connect,
    /// Finish TLS and the HTTP/2 preface.
    Handshake,
    /// Answer the CONNECT.
    Answer,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect => "accept a connection",
            Self::Handshake => "finish the handshake",
            Self::Answer => "answer the CONNECT",
        })
    }
}

/// Why mutual TLS or the HTTP/2 preface failed, on either end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer was too slow, or says nothing at all.
    #[error("not finished within {limit:?}")]
    TimedOut {
        /// The configured limit.
        limit: Duration,
    },
    /// So many handshakes are under way that this one was not begun.
    #[error("too many handshakes under way")]
    TooMany,
    /// The peer closed or reset the connection in the middle.
    #[error("the peer closed the connection during the handshake")]
    Closed,
    /// The peer does not speak TLS: plaintext, or another protocol.
    #[error("the peer does not speak TLS")]
    NotTls,
    /// The peer offers no TLS 1.3.
    #[error("the peer does not speak TLS 1.3")]
    Version,
    /// The peer does not offer the protocol `h2`.
    #[error("the peer does not offer the application protocol h2")]
    Protocol,
    /// The peer showed no certificate.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// The peer's certificate was examined and not accepted.
    #[error("the peer's certificate was not accepted")]
    Certificate(#[source] Arc<PeerError>),
    /// The peer refused us: most often it does not trust our certificate.
    #[error("the peer refused the handshake with alert {alert}")]
    Alert {
        /// The TLS alert.
        alert: String,
    },
    /// TLS worked, HTTP/2 did not.
    #[error("the peer speaks TLS but not HTTP/2")]
    NotHttp2(#[source] SessionError),
    /// Anything else that TLS may say.
    #[error("TLS failed")]
    Tls(#[source] rustls::Error),
    /// The socket failed.
    #[error("the connection failed during the handshake")]
    Io(#[source] Arc<io::Error>),
}

impl HandshakeError {
    /// The stable, low-cardinality label under which this failure is counted.
    pub fn reason(&self) -> Label {
        match self {
            Self::TimedOut { .. } => Label::TlsTimeout,
            Self::TooMany => Label::TooManyHandshakes,
            Self::Closed => Label::TlsClosed,
            Self::NotTls => Label::NotTls,
            Self::Version => Label::TlsVersion,
            Self::Protocol => Label::TlsProtocol,
            Self::NoCertificate => Label::NoCertificate,
            Self::Certificate(error) => error.reason(),
            Self::Alert { .. } => Label::RefusedByPeerTls,
            Self::NotHttp2(_) => Label::NotHttp2,
            Self::Tls(_) => Label::Tls,
            Self::Io(_) => Label::TlsIo,
        }
    }
}

/// Why an HTTP/2 session ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SessionError {
    /// The connection under it broke.
    #[error("the connection broke")]
    Io(#[source] Arc<io::Error>),
    /// The peer announced that it is going away, or ended the session with an error.
    #[error("the peer ended the session ({code})")]
    GoAway {
        /// HTTP/2 error code, such as `NO_ERROR`.
        code: String,
    },
    /// The peer broke the protocol, or exceeded a limit of ours.
    #[error("protocol error ({detail})")]
    Protocol {
        /// What the codec has to say.
        detail: String,
    },
    /// The peer gave no sign of life in time.
    #[error("the peer gave no sign of life")]
    Silent,
}

impl SessionError {
    /// The peer has ended the session in order, or is about to.
    pub(crate) fn goodbye() -> Self {
        Self::GoAway {
            code: "NO_ERROR".to_owned(),
        }
    }

    /// Whether the peer ended the session in order: what it has not answered, it has not seen.
    pub(crate) fn is_goodbye(&self) -> bool {
        matches!(self, Self::GoAway { code } if code == "NO_ERROR")
    }

    /// The stable, low-cardinality label under which this failure is counted.
    pub const fn reason(&self) -> Label {
        match self {
            Self::Io(_) => Label::SessionIo,
            Self::GoAway { .. } => Label::SessionGoAway,
            Self::Protocol { .. } => Label::SessionProtocol,
            Self::Silent => Label::SessionSilent,
        }
    }
}

/// Why a stream ended other than by its own end of stream.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StreamError {
    /// The peer reset this stream; others on the same carrier are unharmed.
    #[error("reset by the peer ({code})")]
    Reset {
        /// HTTP/2 error code, such as `CANCEL`.
        code: String,
    },
    /// The peer's agent ended this stream of its own accord.
    #[error("cut by the peer's agent")]
    Cut,
    /// The whole session broke.
    #[error(transparent)]
    Session(SessionError),
}

impl StreamError {
    /// The stable, low-cardinality label under which this end is counted.
    pub const fn reason(&self) -> Label {
        match self {
            Self::Reset { .. } => Label::PeerReset,
            Self::Cut => Label::CutByPeer,
            Self::Session(error) => error.reason(),
        }
    }
}
