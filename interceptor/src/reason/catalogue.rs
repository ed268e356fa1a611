//! Every label, in alphabetical order: what it means, how connections ended of which it is told, and
//! who has to act.

use super::Outcome::{Allowed, Cut, Denied, Failed};
use super::ResponseFlags::{
    Connect, Deny, H2HandshakeFailure, IdentityError, None as Nothing, TlsFailure,
};
use super::{Entry, Side};

macro_rules! labels {
    ($($name:ident = $text:literal, [$($outcome:ident $flags:ident),+], $side:ident, $meaning:literal;)+) => {
        /// Why a connection was refused, failed or was cut, or what allowed it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Label {
            $(#[doc = $meaning] $name,)+
        }

        impl Label {
            /// Every label.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            pub(super) const fn entry(self) -> Entry {
                match self {
                    $(Self::$name => Entry {
                        text: $text,
                        ends: &[$(($outcome, $flags)),+],
                        side: Side::$side,
                        meaning: $meaning,
                    },)+
                }
            }
        }
    };
}

labels! {
    Abandoned = "abandoned", [Failed Connect], Caller,
        "Same node: the caller gave up before the server had answered. Only the caller's line is written.";
    AgentExhausted = "agent_exhausted", [Failed Connect], Agent,
        "This agent has no file descriptor or memory left for the next connection. Raise its limits (`LimitNOFILE`), or bound workloads with `maxConnectionsPerWorkload`.";
    AgentFault = "agent_fault", [Failed Nothing], Agent,
        "A task of the agent's panicked: a fault of ours. Its log names the task, `interceptor_task_panics_total` counts; please report it.";
    AgentPort = "agent_port", [Denied Deny, Cut Deny], Caller,
        "A port of an agent (15001, 15006, 15008) of an enrolled workload was dialled. Connect to a port of the application.";
    AgentStopped = "agent_stopped", [Failed Nothing, Cut Nothing], Nobody,
        "The agent stopped: before this was decided (`failed`), or `drainDeadline` passed while it was open (`cut`).";
    Allowed = "allowed", [Allowed Nothing], Nobody,
        "A rule of an ALLOW policy matched: `policy` and `rule`. In a caller's line without those, the server's agent has accepted.";
    AppError = "app_error", [Failed Nothing], Agent,
        "Reading from or writing to the socket of this node's application failed otherwise than by a reset; `error` has what the kernel said.";
    AppUnreachable = "app_unreachable", [Failed Connect], Server,
        "The application does not accept, or not in time. See whether it runs and listens at that port and address, and not on loopback only.";
    AuthorityMismatch = "authority_mismatch", [Denied Deny], Peer,
        "A peer asked through the port 15008 of one workload for the address of another. Its view of addresses is stale, or it is up to something.";
    BadAuthority = "bad_authority", [Denied Deny], Peer,
        "A peer's CONNECT names no address and port. Host names are not resolved here.";
    BrokenChain = "broken_chain", [Failed TlsFailure], Peer,
        "The peer's certificate chain does not hold for a reason that none of the others names; `error` has it.";
    CaAsLeaf = "ca_as_leaf", [Failed TlsFailure], Peer,
        "The peer presented the certificate of a CA as its own.";
    ChainTooLong = "chain_too_long", [Failed TlsFailure], Peer,
        "The peer sent more certificates than any real chain has.";
    Cut = "cut", [Cut Nothing, Failed Connect], Agent,
        "Same node: the socket was destroyed, and not by this agent: by the one before it, or by somebody else who may (`ss -K`).";
    CutByPeer = "cut_by_peer", [Cut Nothing, Failed Nothing], Peer,
        "The agent at the other end cut it: what allowed it no longer holds there, or that agent stopped. Its line under the same `conn_id` says what.";
    Denied = "denied", [Denied Deny, Cut Deny], Server,
        "A DENY policy matched: `policy`, `rule`, and in `error` the fields.";
    Draining = "draining", [Failed Connect], Nobody,
        "This agent is stopping, or the workload is being removed: no new tunnels.";
    Expired = "expired", [Failed TlsFailure], Peer,
        "The peer's certificate has expired: its agent cannot renew it (`interceptor certificates` there), or one of the two clocks is wrong.";
    Gone = "gone", [Failed Nothing], Nobody,
        "The application closed the connection before the agent could ask where it was headed.";
    IdentityChanged = "identity_changed", [Cut Deny], Nobody,
        "One of the two workloads has another service account now, and what was proven was the old one.";
    MalformedCertificate = "malformed_certificate", [Failed TlsFailure], Peer,
        "The peer's certificate cannot be read.";
    Network = "network", [Failed Nothing, Failed Connect], Network,
        "Same node: the kernel ended it with an error of the network (`CONNECT` if before it was established); `error` names it. See routes and firewall of the node.";
    NoAllowMatched = "no_allow_matched", [Denied Deny, Cut Deny], Server,
        "There are ALLOW policies and none matched. `policy` and `rule` are the nearest, `error` has the field that failed; `interceptor explain` says what would turn it.";
    NoCertificate = "no_certificate", [Failed TlsFailure], Peer,
        "The peer showed no certificate: whatever it is, it is no agent of a mesh.";
    NoDenyMatched = "no_deny_matched", [Allowed Nothing], Nobody,
        "Only DENY policies hold for the server, and none matched.";
    NoHealthyEndpoint = "no_healthy_endpoint", [Denied Deny], Server,
        "No endpoint of the Service could take it; `error` counts why: not ready, without the target port, without an address, on other nodes.";
    NoIdentity = "no_identity", [Failed IdentityError, Cut Deny], Agent,
        "This agent has no valid certificate for the workload. `interceptor certificates` and `status` say what the issuer said.";
    NoPolicies = "no_policies", [Allowed Nothing], Nobody,
        "No policy holds for the server, so everybody may call it.";
    NoSpiffeId = "no_spiffe_id", [Failed TlsFailure], Peer,
        "The peer's certificate names no SPIFFE ID: it is one for web servers, for example.";
    NoSuchServicePort = "no_such_service_port", [Denied Deny], Caller,
        "The Service has no such TCP port; `error` has those that it has.";
    NotAWorkload = "not_a_workload", [Failed TlsFailure], Peer,
        "The URI in the peer's certificate is not the identity of a workload (`spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`).";
    NotCaptured = "not_captured", [Failed Nothing], Caller,
        "Somebody inside of the workload dialled a listener of the agent's on loopback, or the kernel could not hand the destination over (`hand_over_failed`, [events](metrics.md#kernel-events)).";
    NotConnect = "not_connect", [Denied Deny], Peer,
        "A peer sent another request than CONNECT to port 15008.";
    NotEnrolled = "not_enrolled", [Allowed Nothing, Denied Deny, Cut Deny], Caller,
        "The server is known and not enrolled, so it cannot prove an identity: in plaintext, or refused where `interceptor.dev/unknown-destinations` is `refuse`. Enrol the server, or say `passthrough`.";
    NotHttp2 = "not_http2", [Failed H2HandshakeFailure], Peer,
        "The peer speaks TLS, and what came then was not HTTP/2.";
    NotRegistered = "not_registered", [Denied Deny, Cut Deny], Caller,
        "The mesh does not know the address and port, and the caller's `Sidecar`, named in `error`, says `REGISTRY_ONLY`. Add a `ServiceEntry`.";
    NotTls = "not_tls", [Failed TlsFailure], Peer,
        "What is at the other end does not speak TLS: plaintext to port 15008, or something else than an agent behind it.";
    NotYetValid = "not_yet_valid", [Failed TlsFailure], Peer,
        "The peer's certificate is not valid yet: compare the two nodes' clocks.";
    OwnPort = "own_port", [Denied Deny], Peer,
        "A peer's CONNECT asks for a port of the agent itself.";
    PeerError = "peer_error", [Failed Nothing], Network,
        "Reading from or writing to the other end failed otherwise than by a reset; `error` has what the kernel said.";
    PeerReset = "peer_reset", [Failed Nothing], Caller,
        "The caller's end reset the request before it was answered: its application gave up.";
    PlaintextToStrict = "plaintext_to_strict", [Denied Deny, Cut Deny], Caller,
        "The port requires mutual TLS (`PeerAuthentication`, STRICT) and the caller came without. Enrol the caller, or make the port PERMISSIVE.";
    RefusedByPeer = "refused_by_peer", [Failed Connect], Server,
        "The server's agent could not, or would not, serve the request; `error` has its words: the application does not accept, too many connections, a workload that is gone.";
    RefusedByPeerPolicy = "refused_by_peer_policy", [Denied Deny], Server,
        "The server's agent refused by policy: `policy`, `rule` and `error` are what it said.";
    RefusedByPeerTls = "refused_by_peer_tls", [Failed TlsFailure], Peer,
        "The peer ended the handshake with an alert, most often because it does not trust our certificate. Its own line says why; compare the roots (`status`, row *authority*).";
    RootExpired = "root_expired", [Failed TlsFailure], Agent,
        "No root that this agent trusts for the peer's trust domain is valid now: [renew the CA](authority.md), or set the clock.";
    SameNodeMtls = "same_node_mtls", [Cut Deny], Nobody,
        "It went from socket to socket, and `same-node: mtls` was said of one end since. The next one is encrypted.";
    ServiceEntry = "service_entry", [Allowed Nothing, Denied Deny, Cut Deny], Caller,
        "The address is a `ServiceEntry`'s and outside of the mesh: in plaintext, or refused where `interceptor.dev/unknown-destinations` is `refuse`.";
    SessionGoAway = "session_go_away", [Failed H2HandshakeFailure, Failed Nothing], Peer,
        "The peer ended the session that carried it: its agent stops, or found a fault. The flag is `-` where the connection was open, or about to be.";
    SessionIo = "session_io", [Failed H2HandshakeFailure, Failed Nothing], Network,
        "The TCP connection between the nodes broke, or the peer's agent died. The flag is `-` where the connection was open, or about to be.";
    SessionProtocol = "session_protocol", [Failed H2HandshakeFailure, Failed Nothing], Peer,
        "The peer broke the protocol, or exceeded a limit of ours; `error` has which. The flag is `-` where the connection was open, or about to be.";
    SessionSilent = "session_silent", [Failed H2HandshakeFailure, Failed Nothing], Network,
        "The peer gave no sign of life within `transport.pingTimeout`: its node or the way to it is gone. The flag is `-` where the connection was open, or about to be.";
    SeveralIdentities = "several_identities", [Failed TlsFailure], Peer,
        "The peer's certificate has more than one URI; an SVID has exactly one.";
    TimedOut = "timed_out", [Failed Nothing], Server,
        "Same node: the other end's socket did not answer any more.";
    Timeout = "timeout", [Failed Connect], Network,
        "The other end did not accept, finish its handshake or answer in time; `error` says which, and `transport.…Timeout` is the limit. Look for dropped packets: a `NetworkPolicy` without port 15008, a firewall.";
    Tls = "tls", [Failed TlsFailure], Peer,
        "TLS failed for a reason that none of the others names; `error` has it.";
    TlsClosed = "tls_closed", [Failed TlsFailure], Peer,
        "The peer closed or reset the connection in the middle of the handshake.";
    TlsIo = "tls_io", [Failed TlsFailure], Network,
        "The socket failed during the handshake; `error` has what the kernel said.";
    TlsProtocol = "tls_protocol", [Failed TlsFailure], Peer,
        "The peer does not offer the application protocol `h2`.";
    TlsTimeout = "tls_timeout", [Failed TlsFailure], Peer,
        "The peer did not finish the handshake within `transport.handshakeTimeout`, or says nothing at all.";
    TlsVersion = "tls_version", [Failed TlsFailure], Peer,
        "The peer does not speak TLS 1.3.";
    TooManyConnections = "too_many_connections", [Failed Nothing], Agent,
        "The workload has as many connections as it may (`maxConnectionsPerWorkload`), or its share while the agent is short of file descriptors; `error` says which.";
    TooManyHandshakes = "too_many_handshakes", [Failed TlsFailure], Agent,
        "So many handshakes are under way that this one was not begun (`transport.maxHandshakes`, `transport.maxHandshakesPerAddress`). If it goes on, find out who calls.";
    Unknown = "unknown", [Failed Connect], Nobody,
        "Same node: it was never established, and the kernel does not say why.";
    UnknownDestination = "unknown_destination", [Allowed Nothing, Denied Deny, Cut Deny], Caller,
        "The mesh does not know the address: in plaintext, or refused where `interceptor.dev/unknown-destinations` is `refuse`. Add a `ServiceEntry`, or the Pod that has it. At the server: its workload is no longer part of the mesh.";
    UnknownIssuer = "unknown_issuer", [Failed TlsFailure], Peer,
        "No root that this agent trusts for the peer's trust domain signed the peer's certificate. Compare the roots of both nodes (`status`, row *authority*).";
    UnknownSource = "unknown_source", [Denied Deny], Nobody,
        "The caller is no longer part of the mesh: it was captured in the moment in which it was taken out.";
    Unreachable = "unreachable", [Failed Connect], Network,
        "TCP to the other end failed: no route, or nobody listens. In a tunnel, see whether the agent of that node runs, and whether a `NetworkPolicy` blocks 15008.";
    UntrustedDomain = "untrusted_domain", [Failed TlsFailure], Agent,
        "This agent has no roots for the trust domain that the peer's certificate names. Compare `trustDomain` of the two nodes.";
    WorkloadGone = "workload_gone", [Cut Deny], Nobody,
        "One of the two workloads is no longer part of the mesh: deleted, finished, or not enrolled any more.";
    WrongIdentity = "wrong_identity", [Failed TlsFailure], Peer,
        "The server proved another identity than the mesh says that it has: its address has changed hands and one of the nodes has old manifests, or it is an impostor.";
    WrongPurpose = "wrong_purpose", [Failed TlsFailure], Peer,
        "The peer's certificate is not for this use (client or server authentication).";
}
