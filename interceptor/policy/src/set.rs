//! All policies of the mesh, indexed by the namespace that they hold for.
//!
//! Built once per configuration change. What matters for one destination is asked once per
//! workload ([`PolicySet::effective`]), never per connection.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use crate::effective::{Bound, Effective, Modes};
use crate::peer_authentication::{Mtls, MtlsMode, MtlsOrigin, PeerAuthentication, PeerScope};
use crate::policy::{Policy, PolicyName};
use crate::scope::{Scope, Target};
use crate::settings::Settings;

/// Every policy of the mesh.
#[derive(Debug, Default)]
pub struct PolicySet {
    settings: Settings,
    /// Policies of the root namespace.
    mesh: Vec<Arc<Policy>>,
    /// Policies by the namespace that they are limited to.
    namespaces: HashMap<Arc<str>, Vec<Arc<Policy>>>,
    mesh_mtls: Option<PeerAuthentication>,
    namespace_mtls: HashMap<Arc<str>, PeerAuthentication>,
    /// Those with a selector, oldest first.
    workload_mtls: HashMap<Arc<str>, Vec<PeerAuthentication>>,
    ignored: Vec<Ignored>,
}

/// A `PeerAuthentication` that has no effect because an older one has the same scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ignored {
    /// The one without effect.
    pub name: PolicyName,
    /// The one that counts instead.
    pub in_favour_of: PolicyName,
}

impl PolicySet {
    /// Indexes compiled policies. `settings` are those that they were compiled with.
    pub fn new(
        settings: Settings,
        policies: Vec<Policy>,
        peer_authentications: Vec<PeerAuthentication>,
    ) -> Self {
        let policies = policies.into_iter().map(Arc::new).collect();
        Self::of(settings, policies, peer_authentications)
    }

    /// The same of policies that are shared with another set.
    pub fn of(
        settings: Settings,
        mut policies: Vec<Arc<Policy>>,
        mut peer_authentications: Vec<PeerAuthentication>,
    ) -> Self {
        let mut set = Self {
            settings,
            ..Self::default()
        };
        // By name, so that the policy that a verdict names does not depend on the order of loading.
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        for policy in policies {
            set.add(policy);
        }
        peer_authentications.sort_by(|a, b| a.age_key().cmp(&b.age_key()));
        for peer_authentication in peer_authentications {
            set.add_mtls(peer_authentication);
        }
        set
    }

    /// What the policies were compiled with.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The `PeerAuthentication` objects that have no effect on any workload.
    pub fn ignored(&self) -> &[Ignored] {
        &self.ignored
    }

    /// Every policy that may hold for a workload, by name.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        let namespaces = self.namespaces.values().flatten();
        let mut all: Vec<&Policy> = self
            .mesh
            .iter()
            .chain(namespaces)
            .map(Arc::as_ref)
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.into_iter()
    }

    /// The names of every `PeerAuthentication` that has an effect.
    pub fn peer_authentications(&self) -> impl Iterator<Item = &PolicyName> {
        let namespaces = self.namespace_mtls.values();
        let workloads = self.workload_mtls.values().flatten();
        let all = self.mesh_mtls.iter().chain(namespaces).chain(workloads);
        all.map(|object| &object.name)
    }

    /// Everything that matters for connections to one workload.
    pub fn effective(&self, target: &Target<'_>) -> Effective {
        let own = self.namespaces.get(target.namespace);
        let candidates = self.mesh.iter().chain(own.into_iter().flatten());
        let bound: Vec<Bound> = candidates
            .filter_map(|policy| bind(policy, target))
            .collect();
        Effective::new(&bound, target, self.modes(target))
    }

    /// The policies that hold for one workload.
    pub(crate) fn holding(&self, target: &Target<'_>) -> Vec<Arc<Policy>> {
        let own = self.namespaces.get(target.namespace);
        let candidates = self.mesh.iter().chain(own.into_iter().flatten());
        candidates
            .filter(|policy| bind(policy, target).is_some())
            .cloned()
            .collect()
    }

    /// The objects that may set the modes of workloads of one namespace.
    pub(crate) fn modes_of(&self, namespace: &str) -> Vec<PeerAuthentication> {
        let workload = self.workload_mtls.get(namespace).into_iter().flatten();
        let namespace = self.namespace_mtls.get(namespace);
        workload
            .chain(namespace)
            .chain(self.mesh_mtls.as_ref())
            .cloned()
            .collect()
    }

    fn add(&mut self, policy: Arc<Policy>) {
        let namespace = match &policy.scope {
            Scope::Elsewhere => return,
            Scope::Mesh | Scope::MeshLabels(_) => {
                self.mesh.push(policy);
                return;
            }
            Scope::Namespace(namespace)
            | Scope::NamespaceLabels(namespace, _)
            | Scope::Services(namespace, _) => Arc::clone(namespace),
        };
        self.namespaces.entry(namespace).or_default().push(policy);
    }

    /// Adds the next younger object; the first of a scope counts.
    fn add_mtls(&mut self, object: PeerAuthentication) {
        let older = match &object.scope {
            PeerScope::Labels(namespace, _) => {
                self.workload_mtls
                    .entry(Arc::clone(namespace))
                    .or_default()
                    .push(object);
                return;
            }
            PeerScope::Mesh => self.mesh_mtls.as_ref(),
            PeerScope::Namespace(namespace) => self.namespace_mtls.get(namespace),
        };
        if let Some(older) = older {
            let in_favour_of = older.name.clone();
            self.ignored.push(Ignored {
                name: object.name,
                in_favour_of,
            });
            return;
        }
        match &object.scope {
            PeerScope::Namespace(namespace) => {
                self.namespace_mtls.insert(Arc::clone(namespace), object);
            }
            PeerScope::Mesh | PeerScope::Labels(..) => self.mesh_mtls = Some(object),
        }
    }

    /// The modes of a workload's ports: each level inherits what it leaves unset.
    fn modes(&self, target: &Target<'_>) -> Modes {
        let set_by = |object: Option<&PeerAuthentication>, origin: fn(PolicyName) -> MtlsOrigin| {
            let object = object?;
            Some(Mtls {
                mode: object.mode?,
                origin: origin(object.name.clone()),
            })
        };
        let workload = self
            .workload_mtls
            .get(target.namespace)
            .and_then(|objects| {
                objects.iter().find(|object| match &object.scope {
                    PeerScope::Labels(_, selector) => selector.selects(target.labels),
                    PeerScope::Mesh | PeerScope::Namespace(_) => false,
                })
            });
        let namespace = self.namespace_mtls.get(target.namespace);
        let elsewhere = set_by(workload, MtlsOrigin::Workload)
            .or_else(|| set_by(namespace, MtlsOrigin::Namespace))
            .or_else(|| set_by(self.mesh_mtls.as_ref(), MtlsOrigin::Mesh))
            .unwrap_or(Mtls {
                mode: MtlsMode::Permissive,
                origin: MtlsOrigin::Default,
            });
        let ports = workload.into_iter().flat_map(|object| {
            let origin = MtlsOrigin::Port(object.name.clone());
            object.ports.iter().map(move |(port, mode)| {
                (
                    *port,
                    Mtls {
                        mode: *mode,
                        origin: origin.clone(),
                    },
                )
            })
        });
        Modes {
            ports: ports.collect(),
            elsewhere,
        }
    }
}

/// The policy as it holds for the target, if it does.
fn bind(policy: &Arc<Policy>, target: &Target<'_>) -> Option<Bound> {
    let only_ports = match &policy.scope {
        Scope::Mesh | Scope::Namespace(_) => None,
        Scope::MeshLabels(selector) | Scope::NamespaceLabels(_, selector) => {
            if !selector.selects(target.labels) {
                return None;
            }
            None
        }
        Scope::Services(_, names) => {
            let named = |service: &str| names.iter().any(|name| **name == *service);
            let mut backed = target
                .services
                .iter()
                .filter(|ports| named(ports.service))
                .peekable();
            backed.peek()?;
            Some(
                backed
                    .flat_map(|ports| ports.target_ports)
                    .copied()
                    .collect(),
            )
        }
        Scope::Elsewhere => return None,
    };
    Some(Bound {
        policy: policy.bound(target.ports),
        only_ports,
    })
}
