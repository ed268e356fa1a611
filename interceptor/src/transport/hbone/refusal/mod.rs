//! Saying no so that the other end knows why: status code and `proxy-status` (RFC 9209).
//!
//! ```text
//! :status: 401
//! proxy-status: interceptor; error=http_request_denied; policy="demo/allow-caller"; rule=0;
//!               details="no ALLOW policy matched; nearest: ..."
//! ```
//!
//! `policy` and `rule` are parameters of ours, which others ignore as the standard demands.
//! The details go to an authenticated peer only, whose operator would otherwise see an unexplained
//! reset. Peers that do not know the header ignore it.
//!
//! # Invariants
//!
//! * What we write is printable ASCII of bounded length, whatever a policy's name contains.
//! * What we read is a stranger's: parsed within the same bounds, shown, never acted upon. A value
//!   that does not parse is no reason at all.

use std::fmt;

use http::{HeaderMap, HeaderValue, StatusCode};
use interceptor_policy::PolicyName;

/// The header's name.
const PROXY_STATUS: &str = "proxy-status";
/// How this agent calls itself there.
const OURSELVES: &str = "interceptor";
/// Longest header value that is looked at.
const MAX_HEADER: usize = 4096;
/// Longest text that is written or kept of `details`.
const MAX_DETAILS: usize = 512;
/// Longest name of a policy that is written or kept: a namespace's 63 and an object's 253.
const MAX_POLICY: usize = 320;
/// Longest name of a proxy or error that is kept.
const MAX_NAME: usize = 64;

/// An answer other than "connected".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status code: 400, 401 or 503 in HBONE.
    pub status: StatusCode,
    /// RFC 9209 error type.
    pub error: ErrorType,
    /// The policy that decided, if one did.
    pub policy: Option<PolicyName>,
    /// The index of its rule.
    pub rule: Option<usize>,
    /// One sentence for the peer's operator: why, or what is down.
    pub details: String,
}

impl Refusal {
    /// Policy says no: 401, as in ztunnel.
    pub fn denied(details: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ErrorType::Denied, details)
    }

    /// Names the policy that decided.
    #[must_use]
    pub fn by(mut self, policy: Option<&PolicyName>, rule: Option<usize>) -> Self {
        self.policy = policy.cloned();
        self.rule = rule;
        self
    }

    /// The application cannot be reached: 503, as in ztunnel.
    pub fn unavailable(details: impl Into<String>) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, ErrorType::ConnectionRefused, details)
    }

    /// The application did not answer in time: 503, as in ztunnel.
    pub fn timed_out(details: impl Into<String>) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, ErrorType::ConnectionTimeout, details)
    }

    /// We are at fault, or going away: 503.
    pub fn internal(details: impl Into<String>) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, ErrorType::Internal, details)
    }

    /// The request makes no sense here: 400.
    pub fn bad_request(details: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorType::BadRequest, details)
    }

    fn new(status: StatusCode, error: ErrorType, details: impl Into<String>) -> Self {
        Self {
            status,
            error,
            policy: None,
            rule: None,
            details: details.into(),
        }
    }

    /// The value of the `proxy-status` header.
    pub(in crate::transport) fn header(&self) -> (&'static str, HeaderValue) {
        let mut value = format!("{OURSELVES}; error={}", self.error.as_str());
        if let Some(policy) = &self.policy {
            value.push_str("; policy=\"");
            push_quoted(&mut value, &policy.to_string(), MAX_POLICY);
            value.push('"');
        }
        if let Some(rule) = self.rule {
            value.push_str("; rule=");
            value.push_str(&rule.to_string());
        }
        if !self.details.is_empty() {
            value.push_str("; details=\"");
            push_quoted(&mut value, &self.details, MAX_DETAILS);
            value.push('"');
        }
        // Printable ASCII is always a header value; were it not, no reason beats a wrong one.
        let value = HeaderValue::try_from(value);
        (
            PROXY_STATUS,
            value.unwrap_or_else(|_| HeaderValue::from_static(OURSELVES)),
        )
    }
}

/// Appends at most `most` characters of `text` as the inside of a structured-field string.
fn push_quoted(out: &mut String, text: &str, most: usize) {
    for character in text.chars().take(most) {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            ' '..='~' => out.push(character),
            control if control.is_control() => out.push(' '),
            _ => out.push('?'),
        }
    }
}

/// The error types of RFC 9209 that we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    /// `http_request_denied`.
    Denied,
    /// `http_request_error`.
    BadRequest,
    /// `connection_refused`.
    ConnectionRefused,
    /// `connection_timeout`.
    ConnectionTimeout,
    /// `proxy_internal_error`.
    Internal,
}

impl ErrorType {
    /// As RFC 9209 writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "http_request_denied",
            Self::BadRequest => "http_request_error",
            Self::ConnectionRefused => "connection_refused",
            Self::ConnectionTimeout => "connection_timeout",
            Self::Internal => "proxy_internal_error",
        }
    }
}

/// Why a peer refused, in its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerReason {
    /// Who says so: `interceptor`, `envoy`, ...
    pub proxy: String,
    /// RFC 9209 error type, or whatever the peer wrote there.
    pub error: Option<String>,
    /// The policy that decided there.
    pub policy: Option<PolicyName>,
    /// The index of its rule.
    pub rule: Option<usize>,
    /// One sentence.
    pub details: Option<String>,
}

impl PeerReason {
    /// Reads the reason nearest to us from an answer's headers, if there is one.
    pub(in crate::transport) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        // Each proxy on the way appends itself: the last member is the peer that we talk to.
        let value = headers.get_all(PROXY_STATUS).iter().next_back()?;
        let text = value.to_str().ok()?;
        Self::parse(text)
    }

    /// Parses a `proxy-status` value; `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_HEADER {
            return None;
        }
        let mut rest = text.trim_matches(' ');
        let mut last = None;
        while !rest.is_empty() {
            let (member, after) = parse_member(rest)?;
            last = Some(member);
            rest = after.trim_start_matches([' ', '\t']);
            if let Some(next) = rest.strip_prefix(',') {
                rest = next.trim_start_matches([' ', '\t']);
                if rest.is_empty() {
                    return None;
                }
            } else if !rest.is_empty() {
                return None;
            }
        }
        last
    }
}

impl fmt::Display for PeerReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.details, &self.error) {
            (Some(details), _) => f.write_str(details),
            (None, Some(error)) => f.write_str(error),
            (None, None) => write!(f, "no reason given by {}", self.proxy),
        }
    }
}

/// One list member: an item with parameters.
fn parse_member(text: &str) -> Option<(PeerReason, &str)> {
    let (proxy, mut rest) = parse_item(text)?;
    let mut reason = PeerReason {
        proxy: bounded(proxy, MAX_NAME),
        ..PeerReason::default()
    };
    while let Some(parameter) = rest.strip_prefix(';') {
        let parameter = parameter.trim_start_matches(' ');
        let end = parameter.find(|c: char| !is_key(c));
        let (key, after) = parameter.split_at(end.unwrap_or(parameter.len()));
        if !key.starts_with(|c: char| c.is_ascii_lowercase() || c == '*') {
            return None;
        }
        let (value, after) = match after.strip_prefix('=') {
            Some(after) => parse_item(after)?,
            None => (String::new(), after),
        };
        match key {
            "error" => reason.error = Some(bounded(value, MAX_NAME)),
            "details" => reason.details = Some(bounded(value, MAX_DETAILS)),
            // Parameters of ours mean nothing in another's mouth.
            "policy" if reason.proxy == OURSELVES => reason.policy = policy_name(&value),
            "rule" if reason.proxy == OURSELVES => reason.rule = value.parse().ok(),
            _ => {}
        }
        rest = after;
    }
    Some((reason, rest))
}

const fn is_key(c: char) -> bool {
    matches!(c, 'a'..='z' | '0'..='9' | '_' | '-' | '.' | '*')
}

/// A bare item: a string, or anything else up to the next delimiter.
fn parse_item(text: &str) -> Option<(String, &str)> {
    if let Some(inside) = text.strip_prefix('"') {
        return parse_string(inside);
    }
    let end = text.find([';', ',', ' ', '\t', '"', '\\']);
    let (item, rest) = text.split_at(end.unwrap_or(text.len()));
    let printable = !item.is_empty() && item.bytes().all(|byte| byte.is_ascii_graphic());
    printable.then(|| (item.to_owned(), rest))
}

/// The inside of a quoted string, up to its closing quote.
fn parse_string(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match characters.next()?.1 {
                escaped @ ('"' | '\\') => value.push(escaped),
                _ => return None,
            },
            ' '..='~' => value.push(character),
            _ => return None,
        }
    }
    None
}

/// `namespace/name`, in characters that Kubernetes allows.
fn policy_name(text: &str) -> Option<PolicyName> {
    let allowed = |c: char| matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' | '_');
    let valid = |name: &str| !name.is_empty() && name.chars().all(allowed);
    let (namespace, name) = text.split_once('/')?;
    let fits = text.len() <= MAX_POLICY && valid(namespace) && valid(name);
    fits.then(|| PolicyName::new(namespace, name))
}

/// The first `most` bytes of `text`, which is ASCII.
fn bounded(mut text: String, most: usize) -> String {
    text.truncate(most);
    text
}

#[cfg(test)]
mod tests;
