//! Which application protocol a port is taken to speak, and why: Istio's protocol selection.
//!
//! In Istio's order: UDP is UDP; `appProtocol` wins even if it is unknown, there is no way back to
//! the port's name; then the name up to the first `-`; then a few well-known numbers. Nothing here
//! changes what happens to a connection, which is TCP to this agent: it is told because dashboards,
//! waypoints and the peers at the other end go by it, and because a typo turns it off silently.

use std::fmt;

use serde::Serialize;

/// What a Service's port says about itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Port<'a> {
    /// The transport protocol, `TCP` if none is given.
    pub transport: Option<&'a str>,
    /// `appProtocol`.
    pub app_protocol: Option<&'a str>,
    /// The port's name.
    pub name: Option<&'a str>,
    /// The port's number.
    pub number: u16,
}

/// An application protocol that Istio knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are the protocols' own")]
pub enum Protocol {
    Udp,
    Tcp,
    Http,
    HttpProxy,
    Http2,
    Grpc,
    GrpcWeb,
    Https,
    Tls,
    Mongo,
    Redis,
    Mysql,
    /// None: Istio's sidecars would look at the first bytes.
    Unknown,
}

/// What made a port have its protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "by", content = "value")]
pub enum Why {
    /// The transport protocol.
    Transport,
    /// `appProtocol`.
    AppProtocol(String),
    /// The port's name begins so.
    NamePrefix(String),
    /// The number is well known.
    WellKnown(u16),
    /// Neither says anything that is known.
    Nothing {
        /// What `appProtocol` or the name say, if they say anything.
        said: Option<String>,
    },
}

/// The protocol of a port, and what made it so.
pub fn select(port: &Port<'_>) -> (Protocol, Why) {
    if port
        .transport
        .is_some_and(|transport| transport.eq_ignore_ascii_case("UDP"))
    {
        return (Protocol::Udp, Why::Transport);
    }
    let app_protocol = port.app_protocol.filter(|text| !text.is_empty());
    let kubernetes = match app_protocol {
        Some("kubernetes.io/h2c") => Some(Protocol::Http2),
        Some("kubernetes.io/ws") => Some(Protocol::Http),
        Some("kubernetes.io/wss") => Some(Protocol::Https),
        _ => None,
    };
    let said = app_protocol.or_else(|| port.name.filter(|name| !name.is_empty()));
    let found = kubernetes.or_else(|| by_prefix(said?));
    match (found, app_protocol, said) {
        (Some(protocol), Some(text), _) => (protocol, Why::AppProtocol(text.to_owned())),
        (Some(protocol), None, Some(name)) => (protocol, Why::NamePrefix(prefix(name).to_owned())),
        _ if matches!(port.number, 25 | 53 | 3306 | 27017) => {
            (Protocol::Tcp, Why::WellKnown(port.number))
        }
        _ => {
            let said = said.map(str::to_owned);
            (Protocol::Unknown, Why::Nothing { said })
        }
    }
}

/// A text up to its first `-`.
fn prefix(text: &str) -> &str {
    if is_grpc_web(text) {
        return text.get(.."grpc-web".len()).unwrap_or(text);
    }
    text.split_once('-').map_or(text, |(prefix, _)| prefix)
}

/// `grpc-web` has a `-` of its own, and may go on in any way.
fn is_grpc_web(text: &str) -> bool {
    let start = text.get(.."grpc-web".len());
    start.is_some_and(|start| start.eq_ignore_ascii_case("grpc-web"))
}

fn by_prefix(text: &str) -> Option<Protocol> {
    if is_grpc_web(text) {
        return Some(Protocol::GrpcWeb);
    }
    Some(match prefix(text).to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "grpc" => Protocol::Grpc,
        "http" => Protocol::Http,
        "http_proxy" => Protocol::HttpProxy,
        "http2" => Protocol::Http2,
        "https" => Protocol::Https,
        "tls" => Protocol::Tls,
        "mongo" => Protocol::Mongo,
        "redis" => Protocol::Redis,
        "mysql" => Protocol::Mysql,
        _ => return None,
    })
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::HttpProxy => "http_proxy",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::GrpcWeb => "grpc-web",
            Self::Https => "https",
            Self::Tls => "tls",
            Self::Mongo => "mongo",
            Self::Redis => "redis",
            Self::Mysql => "mysql",
            Self::Unknown => "unknown",
        })
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport => f.write_str("the port's protocol is UDP"),
            Self::AppProtocol(text) => write!(f, "appProtocol is {text}"),
            Self::NamePrefix(prefix) => write!(f, "the port's name begins with {prefix}"),
            Self::WellKnown(port) => write!(f, "{port} is a well-known port"),
            Self::Nothing { said: Some(said) } => write!(f, "{said:?} says no protocol"),
            Self::Nothing { said: None } => {
                f.write_str("the port has neither appProtocol nor name")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn told(app_protocol: &str, name: &str, number: u16) -> String {
        let some = |text: &'static str| Some(text).filter(|text| !text.is_empty());
        let port = Port {
            transport: None,
            app_protocol: some(Box::leak(app_protocol.into())),
            name: some(Box::leak(name.into())),
            number,
        };
        let (protocol, why) = select(&port);
        format!("{protocol}: {why}")
    }

    #[rstest]
    #[case::app_protocol("http", "", 80, "http: appProtocol is http")]
    #[case::it_beats_the_name("tcp", "http-api", 80, "tcp: appProtocol is tcp")]
    #[case::even_if_unknown("smtp", "http-api", 80, "unknown: \"smtp\" says no protocol")]
    #[case::kubernetes_h2c("kubernetes.io/h2c", "", 80, "http2: appProtocol is kubernetes.io/h2c")]
    #[case::kubernetes_ws("kubernetes.io/ws", "", 80, "http: appProtocol is kubernetes.io/ws")]
    #[case::kubernetes_wss("kubernetes.io/wss", "", 80, "https: appProtocol is kubernetes.io/wss")]
    #[case::a_name("", "http", 80, "http: the port's name begins with http")]
    #[case::a_prefix("", "http-api", 80, "http: the port's name begins with http")]
    #[case::in_any_case("", "GRPC-x", 80, "grpc: the port's name begins with GRPC")]
    #[case::grpc_web("", "grpc-web", 80, "grpc-web: the port's name begins with grpc-web")]
    #[case::grpc_web_goes_on("", "grpc-webx", 80, "grpc-web: the port's name begins with grpc-web")]
    #[case::without_its_dash("", "grpcweb-x", 80, "unknown: \"grpcweb-x\" says no protocol")]
    #[case::http_proxy(
        "",
        "http_proxy-x",
        80,
        "http_proxy: the port's name begins with http_proxy"
    )]
    #[case::http2("", "http2", 80, "http2: the port's name begins with http2")]
    #[case::https("", "https-web", 443, "https: the port's name begins with https")]
    #[case::tls("", "tls", 443, "tls: the port's name begins with tls")]
    #[case::mongo("", "mongo", 1, "mongo: the port's name begins with mongo")]
    #[case::redis("", "redis-main", 1, "redis: the port's name begins with redis")]
    #[case::mysql("", "mysql", 1, "mysql: the port's name begins with mysql")]
    #[case::a_typo("", "htpp-api", 80, "unknown: \"htpp-api\" says no protocol")]
    #[case::a_wrong_separator("", "http_api", 80, "unknown: \"http_api\" says no protocol")]
    #[case::no_separator("", "httpapi", 80, "unknown: \"httpapi\" says no protocol")]
    #[case::a_number_in_it("", "mysql8", 3307, "unknown: \"mysql8\" says no protocol")]
    #[case::well_known_mail("", "mail", 25, "tcp: 25 is a well-known port")]
    #[case::well_known_dns("", "", 53, "tcp: 53 is a well-known port")]
    #[case::well_known_mysql("", "mysql8", 3306, "tcp: 3306 is a well-known port")]
    #[case::well_known_mongo("nosql", "", 27017, "tcp: 27017 is a well-known port")]
    #[case::nothing_said("", "", 80, "unknown: the port has neither appProtocol nor name")]
    fn the_protocol_is_chosen_as_istio_does(
        #[case] app_protocol: &str,
        #[case] name: &str,
        #[case] number: u16,
        #[case] expected: &str,
    ) {
        assert_eq!(told(app_protocol, name, number), expected);
    }

    #[test]
    fn udp_is_udp_whatever_it_is_called() {
        let port = Port {
            transport: Some("UDP"),
            app_protocol: Some("http"),
            name: Some("http"),
            number: 80,
        };
        assert_eq!(select(&port).0, Protocol::Udp);
    }
}
