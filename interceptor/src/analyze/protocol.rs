//! What a port's name or `appProtocol` that tells no protocol was probably meant to be.
//!
//! Which protocol it tells is [`protocol::select`]'s answer, the same that `interceptor ports` gives.

use crate::workload::protocol::{self, Port, Protocol};
use crate::yaml::nearest;

/// What Istio knows, in its own spelling.
const KNOWN: [&str; 12] = [
    "tcp",
    "udp",
    "grpc",
    "grpc-web",
    "http",
    "http_proxy",
    "http2",
    "https",
    "tls",
    "mongo",
    "redis",
    "mysql",
];

/// What a port says about its protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// This one.
    Protocol(Protocol),
    /// None, but almost: this name would.
    Nearly(String),
    /// None.
    Unknown,
}

/// What a port says about its protocol.
pub(super) fn of(port: &Port<'_>) -> Told {
    let (protocol, _) = protocol::select(port);
    if protocol != Protocol::Unknown {
        return Told::Protocol(protocol);
    }
    let said = port.app_protocol.or(port.name).unwrap_or_default();
    let lower = said.to_ascii_lowercase();
    let (first, rest) = match lower.split_once('-') {
        Some((first, rest)) => (first, Some(rest)),
        None => (lower.as_str(), None),
    };
    meant(first, rest).map_or(Told::Unknown, Told::Nearly)
}

/// The name that would have told the protocol.
fn meant(first: &str, rest: Option<&str>) -> Option<String> {
    let with_rest = |protocol: &str| match rest {
        Some(rest) => format!("{protocol}-{rest}"),
        None => protocol.to_owned(),
    };
    // The longest first, so that http2x is not taken for http.
    let mut known = KNOWN;
    known.sort_by_key(|protocol| std::cmp::Reverse(protocol.len()));
    let begun = known.into_iter().find_map(|protocol| {
        let more = first.strip_prefix(protocol)?;
        let more = more.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        Some(match (more, rest) {
            ("", _) => with_rest(protocol),
            (more, None) => format!("{protocol}-{more}"),
            (more, Some(rest)) => format!("{protocol}-{more}-{rest}"),
        })
    });
    begun.or_else(|| nearest(first, KNOWN).map(with_rest))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{Port, Protocol, Told, of};

    fn nearly(name: &str) -> Told {
        Told::Nearly(name.to_owned())
    }

    #[rstest]
    #[case("http", Told::Protocol(Protocol::Http))]
    #[case("grpc-web-x", Told::Protocol(Protocol::GrpcWeb))]
    #[case("tcp-mysql", Told::Protocol(Protocol::Tcp))]
    #[case("htpp", nearly("http"))]
    #[case("htpp-api", nearly("http-api"))]
    #[case("httpapi", nearly("http-api"))]
    #[case("http_api", nearly("http-api"))]
    #[case("grcp", nearly("grpc"))]
    #[case("grpcweb-x", nearly("grpc-web-x"))]
    #[case("mysql8", nearly("mysql-8"))]
    #[case("metrics", Told::Unknown)]
    #[case("web", Told::Unknown)]
    #[case("dns-tcp", Told::Unknown)]
    fn a_name_tells_a_protocol_or_what_was_meant(#[case] name: &str, #[case] expected: Told) {
        let port = Port {
            name: Some(name),
            number: 8080,
            ..Port::default()
        };
        assert_eq!(of(&port), expected);
    }

    #[test]
    fn app_protocol_wins_even_if_it_is_misspelt() {
        let port = Port {
            app_protocol: Some("htttp"),
            name: Some("http"),
            number: 8080,
            ..Port::default()
        };
        assert_eq!(of(&port), nearly("http"));
    }
}
