//! The values under which a rule is filed.

use ipnet::IpNet;

use crate::field::Attribute;
use crate::policy::Test;
use crate::value::{Pattern, PortMatch, ServiceAccountRef, Values};

/// Ranges of more ports than this are not taken apart.
const MAX_PORTS_OF_A_RANGE: usize = 64;

/// A value that a connection has or has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key<'a> {
    /// A text of the caller's identity is, begins or ends so.
    Text(Attribute, Affix, &'a str),
    /// The caller's service account.
    Account(&'a ServiceAccountRef),
    /// An address lies in this block.
    Block(Attribute, IpNet),
    /// The port of the workload.
    Port(u16),
}

/// Where in a text a value stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Affix {
    Whole,
    Prefix,
    Suffix,
}

/// Values of which a connection must have one for the test to hold; `None` if it can hold anyway.
pub(super) fn of(test: &Test) -> Option<Vec<Key<'_>>> {
    let attribute = test.attribute();
    match test {
        Test::Principal(values) | Test::Namespace(values) | Test::TrustDomain(values) => {
            collect(values, |pattern| text(attribute, pattern).map(one))
        }
        Test::ServiceAccount(values) => collect(values, |account| Some(one(Key::Account(account)))),
        Test::SourceIp(values) | Test::DestinationIp(values) => collect(values, |block| {
            Some(one(Key::Block(attribute, block.network())))
        }),
        Test::DestinationPort(values) => collect(values, ports),
    }
}

/// The keys of all values, unless there are no values or one of them has no keys.
fn collect<'a, T>(
    values: &'a Values<T>,
    keys: impl Fn(&'a T) -> Option<Vec<Key<'a>>>,
) -> Option<Vec<Key<'a>>> {
    if values.any_of.is_empty() {
        return None;
    }
    let keys: Option<Vec<Vec<Key<'a>>>> = values.any_of.iter().map(keys).collect();
    Some(keys?.concat())
}

fn one(key: Key<'_>) -> Vec<Key<'_>> {
    vec![key]
}

fn text(attribute: Attribute, pattern: &Pattern) -> Option<Key<'_>> {
    let (affix, text) = match pattern {
        Pattern::Present => return None,
        Pattern::Exact(text) => (Affix::Whole, text),
        Pattern::Prefix(text) => (Affix::Prefix, text),
        Pattern::Suffix(text) => (Affix::Suffix, text),
    };
    Some(Key::Text(attribute, affix, text))
}

/// A name that the workload lacks has no port, so it has no key and never matches.
fn ports(port: &PortMatch) -> Option<Vec<Key<'_>>> {
    match port {
        PortMatch::Number(number) => Some(vec![Key::Port(*number)]),
        PortMatch::Name { number, .. } => Some(number.iter().copied().map(Key::Port).collect()),
        PortMatch::Range(range) if range.len() > MAX_PORTS_OF_A_RANGE => None,
        PortMatch::Range(range) => Some(range.clone().map(Key::Port).collect()),
    }
}
