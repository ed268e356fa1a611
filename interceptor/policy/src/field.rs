//! Where in a rule a condition stands, under the names that Istio gives it.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::FieldPath;

/// A property of a connection that policies decide on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// The caller's whole identity.
    Principal,
    /// The namespace in the caller's identity.
    Namespace,
    /// Namespace and service account in the caller's identity.
    ServiceAccount,
    /// The trust domain in the caller's identity.
    TrustDomain,
    /// The address of the TCP peer.
    SourceIp,
    /// The address of the workload.
    DestinationIp,
    /// The port of the workload.
    DestinationPort,
}

/// The entry of a rule that a condition was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// `from[n].source`
    From(usize),
    /// `to[n].operation`
    To(usize),
    /// `when[n]`
    When(usize),
}

/// One field of a rule: `from[0].source.notPrincipals`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FieldRef {
    /// The entry it stands in.
    pub place: Place,
    /// What it compares.
    pub attribute: Attribute,
    /// Whether it is the list of excluded values.
    pub negated: bool,
}

impl Attribute {
    /// The key of this attribute in `when`.
    pub const fn condition_key(self) -> &'static str {
        match self {
            Self::Principal => "source.principal",
            Self::Namespace => "source.namespace",
            Self::ServiceAccount => "source.serviceAccount",
            Self::TrustDomain => "source.trustDomain",
            Self::SourceIp => "source.ip",
            Self::DestinationIp => "destination.ip",
            Self::DestinationPort => "destination.port",
        }
    }

    /// Whether it is read from the caller's certificate, so that plaintext has none.
    pub const fn needs_identity(self) -> bool {
        matches!(
            self,
            Self::Principal | Self::Namespace | Self::ServiceAccount | Self::TrustDomain
        )
    }

    /// The attribute that a `when` key names, if it can be decided at L4.
    pub(crate) fn from_condition_key(key: &str) -> Option<Self> {
        [
            Self::Principal,
            Self::Namespace,
            Self::ServiceAccount,
            Self::TrustDomain,
            Self::SourceIp,
            Self::DestinationIp,
            Self::DestinationPort,
        ]
        .into_iter()
        .find(|attribute| attribute.condition_key() == key)
    }

    /// The names of the two lists in `source` and `operation`.
    const fn list_names(self) -> (&'static str, &'static str) {
        match self {
            Self::Principal => ("principals", "notPrincipals"),
            Self::Namespace => ("namespaces", "notNamespaces"),
            Self::ServiceAccount => ("serviceAccounts", "notServiceAccounts"),
            Self::TrustDomain => ("trustDomains", "notTrustDomains"),
            Self::SourceIp => ("ipBlocks", "notIpBlocks"),
            // Only `when` can name it; the list names are those of `when`.
            Self::DestinationIp => ("values", "notValues"),
            Self::DestinationPort => ("ports", "notPorts"),
        }
    }
}

impl Place {
    /// The entry as it is named in sentences: `from[0]`.
    pub(crate) fn entry(self) -> String {
        match self {
            Self::From(entry) => format!("from[{entry}]"),
            Self::To(entry) => format!("to[{entry}]"),
            Self::When(entry) => format!("when[{entry}]"),
        }
    }

    /// The path of the whole entry in a rule.
    pub(crate) fn entry_path(self, rule: &FieldPath) -> FieldPath {
        match self {
            Self::From(entry) => rule.key("from").index(entry),
            Self::To(entry) => rule.key("to").index(entry),
            Self::When(entry) => rule.key("when").index(entry),
        }
    }

    /// The path of this entry in a rule.
    pub(crate) fn path(self, rule: &FieldPath) -> FieldPath {
        match self {
            Self::From(entry) => rule.key("from").index(entry).key("source"),
            Self::To(entry) => rule.key("to").index(entry).key("operation"),
            Self::When(entry) => rule.key("when").index(entry),
        }
    }
}

impl FieldRef {
    /// The key of the list.
    pub const fn key(self) -> &'static str {
        let (positive, negative) = match self.place {
            Place::When(_) => ("values", "notValues"),
            Place::From(_) | Place::To(_) => self.attribute.list_names(),
        };
        if self.negated { negative } else { positive }
    }

    /// The path of this field in the manifest, for the rule with this index.
    pub fn path(self, rule: usize) -> FieldPath {
        let rule = FieldPath::root("spec").key("rules").index(rule);
        self.place.path(&rule).key(self.key())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(entry) => write!(f, "from[{entry}].source"),
            Self::To(entry) => write!(f, "to[{entry}].operation"),
            Self::When(entry) => write!(f, "when[{entry}]"),
        }
    }
}

impl fmt::Display for FieldRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.place, self.key())?;
        match self.place {
            Place::When(_) => write!(f, " ({})", self.attribute.condition_key()),
            Place::From(_) | Place::To(_) => Ok(()),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for FieldRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
