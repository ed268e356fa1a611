//! Which workloads a policy holds for.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The workload that connections want to reach.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The namespace it runs in.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Its named container ports, for policies that name ports.
    pub ports: &'a BTreeMap<String, u16>,
    /// The Services of its namespace that it backs, for policies attached to a Service.
    pub services: &'a [ServicePorts<'a>],
}

/// A Service that a workload backs.
#[derive(Clone, Copy, Debug)]
pub struct ServicePorts<'a> {
    /// The Service's name.
    pub service: &'a str,
    /// The ports of the workload behind it.
    pub target_ports: &'a [u16],
}

/// Which workloads a policy holds for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Every workload of the mesh.
    Mesh,
    /// Every workload of one namespace.
    Namespace(Arc<str>),
    /// The workloads of every namespace that have these labels.
    MeshLabels(Selector),
    /// The workloads of one namespace that have these labels.
    NamespaceLabels(Arc<str>, Selector),
    /// The ports behind these Services of one namespace.
    Services(Arc<str>, Box<[Box<str>]>),
    /// No workload: it is attached to an object that another proxy serves.
    Elsewhere,
}

/// Labels that a workload must have. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selector(pub(crate) BTreeMap<String, String>);

impl Selector {
    pub(crate) fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Whether it asks for all that `other` asks for, so that it selects nothing beyond.
    pub(crate) fn includes(&self, other: &Self) -> bool {
        other.selects(&self.0)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh => f.write_str("every workload"),
            Self::Namespace(namespace) => write!(f, "namespace {namespace}"),
            Self::MeshLabels(selector) => write!(f, "{selector} in every namespace"),
            Self::NamespaceLabels(namespace, selector) => {
                write!(f, "{selector} in namespace {namespace}")
            }
            Self::Services(namespace, names) => {
                write!(f, "Service {} in namespace {namespace}", names.join(" or "))
            }
            Self::Elsewhere => f.write_str("another proxy"),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (key, value)) in self.0.iter().enumerate() {
            let separator = if position > 0 { "," } else { "" };
            write!(f, "{separator}{key}={value}")?;
        }
        Ok(())
    }
}
