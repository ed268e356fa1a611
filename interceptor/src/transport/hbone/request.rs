//! What makes a request a CONNECT that this end can serve.
//!
//! # Invariants
//!
//! * The address in the authority is the one that the TLS connection came in on: without this, an
//!   authenticated peer would reach a third workload through the agent, past that one's policies.
//! * It names none of the agent's own ports.
//! * Not knowing is a refusal: a host name, a missing port, a second spelling of an address.

use std::net::{IpAddr, SocketAddr};

use http::Method;

use super::refusal::Refusal;
use crate::reason::Label;

/// Longest authority that is repeated in a message.
const MAX_SHOWN: usize = 128;

/// Why a request is not a CONNECT that this end can serve. Always answered with 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadConnect {
    /// Another method.
    #[error("not a CONNECT request")]
    NotConnect,
    /// No authority, or none with an address and a port.
    #[error("authority {authority:?} is not an address and port")]
    NotAnAddress {
        /// As written, shortened.
        authority: String,
    },
    /// A port of the agent itself.
    #[error("port {port} belongs to the agent")]
    OwnPort {
        /// The port.
        port: u16,
    },
    /// Another address than the one that the connection came in on.
    #[error("authority names {asked}, but the connection came in on {arrived}")]
    AnotherAddress {
        /// In the authority.
        asked: IpAddr,
        /// The connection's local address.
        arrived: IpAddr,
    },
}

impl BadConnect {
    /// The stable, low-cardinality label under which this refusal is counted.
    pub const fn reason(&self) -> Label {
        match self {
            Self::NotConnect => Label::NotConnect,
            Self::NotAnAddress { .. } => Label::BadAuthority,
            Self::OwnPort { .. } => Label::OwnPort,
            Self::AnotherAddress { .. } => Label::AuthorityMismatch,
        }
    }

    /// The answer that it gets.
    pub(super) fn refusal(&self) -> Refusal {
        Refusal::bad_request(self.to_string())
    }
}

/// Checks that a request is a CONNECT to a port of the workload at `arrived`.
pub(super) fn destination(
    method: &Method,
    authority: Option<&str>,
    arrived: IpAddr,
    own_ports: &[u16],
) -> Result<SocketAddr, BadConnect> {
    if method != Method::CONNECT {
        return Err(BadConnect::NotConnect);
    }
    let authority = authority.unwrap_or_default();
    let destination = authority.parse::<SocketAddr>().ok();
    let destination = destination.filter(|destination| destination.port() != 0);
    let Some(destination) = destination else {
        return Err(BadConnect::NotAnAddress {
            authority: authority.chars().take(MAX_SHOWN).collect(),
        });
    };
    let (asked, arrived) = (destination.ip().to_canonical(), arrived.to_canonical());
    if asked != arrived {
        return Err(BadConnect::AnotherAddress { asked, arrived });
    }
    let port = destination.port();
    if own_ports.contains(&port) {
        return Err(BadConnect::OwnPort { port });
    }
    Ok(SocketAddr::new(asked, port))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const OWN: [u16; 3] = [15001, 15006, 15008];

    fn arrived() -> IpAddr {
        "10.0.0.1".parse().unwrap()
    }

    #[rstest]
    #[case::v4("10.0.0.1:80", "10.0.0.1", "10.0.0.1:80")]
    #[case::v6("[fd00::1]:80", "fd00::1", "[fd00::1]:80")]
    #[case::mapped("[::ffff:10.0.0.1]:80", "10.0.0.1", "10.0.0.1:80")]
    #[case::arrived_mapped("10.0.0.1:80", "::ffff:10.0.0.1", "10.0.0.1:80")]
    fn a_port_of_the_workload_is_accepted(
        #[case] authority: &str,
        #[case] arrived: IpAddr,
        #[case] expected: SocketAddr,
    ) {
        let found = destination(&Method::CONNECT, Some(authority), arrived, &OWN);
        assert_eq!(found, Ok(expected));
    }

    #[rstest]
    #[case::another_workload("10.0.0.2:80", "authority_mismatch")]
    #[case::loopback("127.0.0.1:80", "authority_mismatch")]
    #[case::host_name("server.demo:80", "bad_authority")]
    #[case::no_port("10.0.0.1", "bad_authority")]
    #[case::port_zero("10.0.0.1:0", "bad_authority")]
    #[case::port_too_large("10.0.0.1:65616", "bad_authority")]
    #[case::user("root@10.0.0.1:80", "bad_authority")]
    #[case::empty("", "bad_authority")]
    #[case::hbone_itself("10.0.0.1:15008", "own_port")]
    #[case::outbound("10.0.0.1:15001", "own_port")]
    fn anything_else_is_refused(#[case] authority: &str, #[case] reason: &str) {
        let refused = destination(&Method::CONNECT, Some(authority), arrived(), &OWN).unwrap_err();
        assert_eq!(refused.reason(), reason);
    }

    #[test]
    fn other_methods_are_refused() {
        let refused = destination(&Method::GET, Some("10.0.0.1:80"), arrived(), &OWN);
        assert_eq!(refused, Err(BadConnect::NotConnect));
    }

    #[test]
    fn what_is_repeated_of_a_bad_authority_is_bounded() {
        let long = "x".repeat(10_000);
        let refused = destination(&Method::CONNECT, Some(&long), arrived(), &OWN).unwrap_err();
        assert!(refused.to_string().len() < 200);
    }
}
