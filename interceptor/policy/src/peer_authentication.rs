//! Whether a port requires mutual TLS, and which object says so.
//!
//! Mesh < namespace < workload < port; what is unset inherits; nothing set is PERMISSIVE; of several
//! objects in one scope the oldest counts.
//!
//! DISABLE is a mode of its own here (ztunnel treats it as PERMISSIVE): it tells callers to send
//! plaintext. Towards the workload it admits the same as PERMISSIVE: a caller that comes with
//! mutual TLS anyway is served, because refusing the stronger form would protect nobody.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::PolicyName;
use crate::compile::compile_selector;
use crate::problem::{Compiled, FieldPath, Problem, Problems};
use crate::scope::Selector;
use crate::settings::Settings;
use crate::spec::{MtlsSpec, PeerAuthenticationSpec};

/// What a port accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MtlsMode {
    /// Mutual TLS and plaintext.
    Permissive,
    /// Only mutual TLS.
    Strict,
    /// Plaintext is expected; mutual TLS is still accepted.
    Disable,
}

/// The mode of a port and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mtls {
    /// What the port accepts.
    pub mode: MtlsMode,
    /// Which object says so.
    pub origin: MtlsOrigin,
}

/// Which object sets the mode of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MtlsOrigin {
    /// None: PERMISSIVE is the default.
    Default,
    /// The one of the root namespace.
    Mesh(PolicyName),
    /// The one of the workload's namespace.
    Namespace(PolicyName),
    /// One that selects the workload.
    Workload(PolicyName),
    /// One that selects the workload, for this port.
    Port(PolicyName),
}

/// A `PeerAuthentication` that is correct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAuthentication {
    pub(crate) name: PolicyName,
    pub(crate) created: Option<Box<str>>,
    pub(crate) scope: PeerScope,
    /// `None` inherits.
    pub(crate) mode: Option<MtlsMode>,
    pub(crate) ports: BTreeMap<u16, MtlsMode>,
    /// What it was compiled from, to try changes of it.
    pub(crate) source: Arc<PeerAuthenticationSpec>,
}

/// Which workloads a `PeerAuthentication` holds for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PeerScope {
    Mesh,
    Namespace(Arc<str>),
    Labels(Arc<str>, Selector),
}

// === impl PeerAuthentication ===

impl PeerAuthentication {
    /// Reads what was written; `created` is `metadata.creationTimestamp`.
    ///
    /// # Errors
    ///
    /// Every mistake, and every warning found on the way.
    pub fn compile(
        name: PolicyName,
        created: Option<&str>,
        spec: &PeerAuthenticationSpec,
        settings: &Settings,
    ) -> Result<Compiled<Self>, Vec<Problem>> {
        let mut problems = Problems::default();
        let root = FieldPath::root("spec");
        let mtls = root.key("mtls");
        let mode = spec
            .mtls
            .as_ref()
            .and_then(|spec| parse_mode(spec, &mtls, &mut problems));
        let selector = spec
            .selector
            .as_ref()
            .and_then(|selector| compile_selector(selector, &mut problems));
        let ports = compile_ports(spec, selector.is_some(), &mut problems);
        let in_root = *name.namespace == *settings.root_namespace;
        if in_root && selector.is_some() {
            problems.error(
                root.key("selector"),
                "in the root namespace a selector makes a PeerAuthentication apply to nothing: \
                 move it to the workloads' namespace, or remove the selector for the whole mesh",
            );
        }
        let namespace = Arc::clone(&name.namespace);
        let scope = match selector {
            Some(selector) => PeerScope::Labels(namespace, selector),
            None if in_root => PeerScope::Mesh,
            None => PeerScope::Namespace(namespace),
        };
        let created = created.map(Into::into);
        problems.finish(Some(Self {
            name,
            created,
            scope,
            mode,
            ports,
            source: Arc::new(spec.clone()),
        }))
    }

    /// Which object this is.
    pub const fn name(&self) -> &PolicyName {
        &self.name
    }

    /// The order in one scope: the oldest first; without a timestamp it counts as the newest.
    pub(crate) fn age_key(&self) -> (bool, Option<&str>, &PolicyName) {
        (self.created.is_none(), self.created.as_deref(), &self.name)
    }
}

fn compile_ports(
    spec: &PeerAuthenticationSpec,
    has_selector: bool,
    problems: &mut Problems,
) -> BTreeMap<u16, MtlsMode> {
    let mut ports = BTreeMap::new();
    let Some(written) = &spec.port_level_mtls else {
        return ports;
    };
    let path = FieldPath::root("spec").key("portLevelMtls");
    if written.is_empty() {
        problems.error(
            path.clone(),
            "needs at least one port: add one, or remove the key",
        );
    } else if !has_selector {
        problems.error(
            path.clone(),
            "only allowed with a selector: port modes of a whole namespace or mesh have no effect",
        );
    }
    for (port, spec) in written {
        let path = path.key(port.clone());
        let mode = parse_mode(spec, &path, problems);
        match port.parse::<u16>() {
            Ok(number) if number > 0 && number.to_string() == *port => {
                ports.extend(mode.map(|mode| (number, mode)));
            }
            _ => problems.error(
                path,
                format!("{port:?} is not a port: write a number from 1 to 65535"),
            ),
        }
    }
    ports
}

/// The mode, or `None` for one that inherits.
fn parse_mode(spec: &MtlsSpec, path: &FieldPath, problems: &mut Problems) -> Option<MtlsMode> {
    match spec.mode.as_deref() {
        None | Some("UNSET") => None,
        Some("PERMISSIVE") => Some(MtlsMode::Permissive),
        Some("STRICT") => Some(MtlsMode::Strict),
        Some("DISABLE") => Some(MtlsMode::Disable),
        Some(other) => {
            problems.error(
                path.key("mode"),
                format!("{other:?} is not a mode: write STRICT, PERMISSIVE, DISABLE or UNSET"),
            );
            None
        }
    }
}

// === impl MtlsOrigin ===

impl MtlsOrigin {
    /// The object, if there is one.
    pub const fn policy(&self) -> Option<&PolicyName> {
        match self {
            Self::Default => None,
            Self::Mesh(name) | Self::Namespace(name) | Self::Workload(name) | Self::Port(name) => {
                Some(name)
            }
        }
    }

    const fn scope(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Mesh(_) => "mesh",
            Self::Namespace(_) => "namespace",
            Self::Workload(_) => "workload",
            Self::Port(_) => "port",
        }
    }
}

impl fmt::Display for MtlsOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.policy() {
            None => f.write_str("no PeerAuthentication, default"),
            Some(name) => write!(f, "PeerAuthentication {name}, {} level", self.scope()),
        }
    }
}

impl Serialize for MtlsOrigin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for MtlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Permissive => "PERMISSIVE",
            Self::Strict => "STRICT",
            Self::Disable => "DISABLE",
        })
    }
}
