//! Which protocol a port's name or `appProtocol` tells, as Istio chooses it, and what was probably
//! meant if it tells none.

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
/// Kubernetes' own values of `appProtocol`.
const KUBERNETES: [&str; 3] = ["kubernetes.io/h2c", "kubernetes.io/ws", "kubernetes.io/wss"];

/// What a name says about the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// This one.
    Protocol(&'static str),
    /// None, but almost: this name would.
    Nearly(String),
    /// None.
    Unknown,
}

/// What a port's name (or, if `is_app_protocol`, its `appProtocol`) says.
pub(super) fn of(text: &str, is_app_protocol: bool) -> Named {
    let lower = text.to_ascii_lowercase();
    if is_app_protocol && let Some(known) = KUBERNETES.into_iter().find(|known| *known == lower) {
        return Named::Protocol(known);
    }
    if lower.starts_with("grpc-web") {
        return Named::Protocol("grpc-web");
    }
    let (first, rest) = match lower.split_once('-') {
        Some((first, rest)) => (first, Some(rest)),
        None => (lower.as_str(), None),
    };
    if let Some(known) = KNOWN.into_iter().find(|known| *known == first) {
        return Named::Protocol(known);
    }
    meant(first, rest).map_or(Named::Unknown, Named::Nearly)
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

    use super::{Named, of};

    #[rstest]
    #[case("http", Named::Protocol("http"))]
    #[case("HTTP-api", Named::Protocol("http"))]
    #[case("grpc-web-x", Named::Protocol("grpc-web"))]
    #[case("tcp-mysql", Named::Protocol("tcp"))]
    #[case("htpp", Named::Nearly("http".to_owned()))]
    #[case("htpp-api", Named::Nearly("http-api".to_owned()))]
    #[case("httpapi", Named::Nearly("http-api".to_owned()))]
    #[case("http_api", Named::Nearly("http-api".to_owned()))]
    #[case("grcp", Named::Nearly("grpc".to_owned()))]
    #[case("grpcweb-x", Named::Nearly("grpc-web-x".to_owned()))]
    #[case("mysql8", Named::Nearly("mysql-8".to_owned()))]
    #[case("metrics", Named::Unknown)]
    #[case("web", Named::Unknown)]
    #[case("dns-tcp", Named::Unknown)]
    #[case("kubernetes.io/h2c", Named::Unknown)]
    fn a_name_tells_a_protocol_or_what_was_meant(#[case] name: &str, #[case] expected: Named) {
        assert_eq!(of(name, false), expected);
    }

    #[test]
    fn app_protocol_knows_more_values() {
        assert_eq!(
            of("kubernetes.io/ws", true),
            Named::Protocol("kubernetes.io/ws")
        );
        assert_eq!(of("htttp", true), Named::Nearly("http".to_owned()));
    }
}
