//! Ports of the destination: by number as in Istio; by range and by name, which are ours.
//!
//! A name is a container port's name. It is resolved when a policy is bound to a workload, so the
//! policy follows the port when its number changes; a workload without that name is never matched.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use super::Covers;

/// Kubernetes' limit for the name of a port, in bytes.
const MAX_NAME_BYTES: usize = 15;

/// A set of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PortMatch {
    /// One target port.
    Number(u16),
    /// All target ports from the first to the last.
    Range(RangeInclusive<u16>),
    /// The port of the workload that has this name; `number` is known once bound to a workload.
    Name {
        /// The name as written.
        name: Arc<str>,
        /// The workload's port of that name, if it has one.
        number: Option<u16>,
    },
}

impl PortMatch {
    pub(crate) fn contains(&self, port: u16) -> bool {
        match self {
            Self::Number(number) => *number == port,
            Self::Range(range) => range.contains(&port),
            Self::Name { number, .. } => *number == Some(port),
        }
    }

    /// The ports, if they do not depend on the workload.
    fn numbers(&self) -> Option<RangeInclusive<u16>> {
        match self {
            Self::Number(number) => Some(*number..=*number),
            Self::Range(range) => Some(range.clone()),
            Self::Name { .. } => None,
        }
    }

    /// The same set for a workload with these named ports.
    pub(crate) fn bound(&self, ports: &BTreeMap<String, u16>) -> Self {
        match self {
            Self::Name { name, .. } => Self::Name {
                name: Arc::clone(name),
                number: ports.get(&**name).copied(),
            },
            other => other.clone(),
        }
    }
}

impl Covers for PortMatch {
    fn covers(&self, other: &Self) -> bool {
        match (self.numbers(), other.numbers()) {
            (Some(all), Some(some)) => all.start() <= some.start() && some.end() <= all.end(),
            _ => self == other,
        }
    }
}

impl FromStr for PortMatch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(number) = number(text) {
            return Ok(Self::Number(number));
        }
        let numeric = text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
        if let Some((first, last)) = text.split_once('-').filter(|_| numeric) {
            return match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => Ok(Self::Range(first..=last)),
                _ => Err(format!(
                    "{text:?} is not a range of ports: write it as 8000-8080, the lower end first"
                )),
            };
        }
        if is_port_name(text) {
            return Ok(Self::Name {
                name: Arc::from(text),
                number: None,
            });
        }
        Err(format!(
            "{text:?} is not a port: write a number from 0 to 65535, a range such as 8000-8080, \
             or the name of a container port"
        ))
    }
}

/// A decimal port; signs, spaces and anything beyond 65535 are not one.
fn number(text: &str) -> Option<u16> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// Whether Kubernetes would accept this as the name of a container port.
fn is_port_name(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    text.len() <= MAX_NAME_BYTES
        && text.bytes().all(legal)
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Range(range) => write!(f, "{}-{}", range.start(), range.end()),
            Self::Name {
                name,
                number: Some(number),
            } => write!(f, "{name} ({number})"),
            Self::Name { name, number: None } => f.write_str(name),
        }
    }
}
