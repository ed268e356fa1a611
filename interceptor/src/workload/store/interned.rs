//! What workloads have in common, each once.
//!
//! Replicas have the same labels, ports, capture rules and names, and every manifest has the same
//! key paths; at 50,000 workloads these would be most of the memory of a mesh.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use interceptor_policy::{SpiffeId, SpiffeIdError, TrustDomain};

use super::intern::Interner;
use super::selection::Labels;
use crate::workload::Canonical;
use crate::workload::objects::{Meta, Objects, Origin};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Interned {
    pub(super) ports: Interner<BTreeMap<String, u16>>,
    pub(super) canonical: Interner<Canonical>,
    labels: Interner<Labels>,
    texts: Interner<str>,
    identities: HashMap<Arc<str>, HashMap<Box<str>, SpiffeId>>,
    identity_count: usize,
}

/// Identities are forgotten when there are so many, and made again when somebody asks.
const MAX_IDENTITIES: usize = 100_000;

impl Interned {
    /// The identity of a service account.
    pub(super) fn identity(
        &mut self,
        trust_domain: &TrustDomain,
        namespace: &Arc<str>,
        account: &str,
    ) -> Result<SpiffeId, SpiffeIdError> {
        let known = self.identities.get(namespace);
        if let Some(identity) = known.and_then(|accounts| accounts.get(account)) {
            return Ok(identity.clone());
        }
        let identity = SpiffeId::new(trust_domain, namespace, account)?;
        if self.identity_count >= MAX_IDENTITIES {
            self.identities.clear();
            self.identity_count = 0;
        }
        self.identity_count = self.identity_count.saturating_add(1);
        let accounts = self.identities.entry(Arc::clone(namespace)).or_default();
        accounts.insert(Box::from(account), identity.clone());
        Ok(identity)
    }

    /// Lets objects that were just read share what they have in common with those that are there.
    /// Objects that somebody else has, too, stay as they are.
    pub(super) fn objects(&mut self, objects: &mut Objects) {
        for pod in objects.pods.iter_mut().filter_map(Arc::get_mut) {
            self.meta(&mut pod.meta);
            self.origin(&mut pod.service_account.origin);
            let ports = pod.ports.iter_mut().map(|port| &mut port.origin);
            let addresses = pod.addresses.iter_mut().map(|it| &mut it.origin);
            ports.chain(addresses).for_each(|it| self.origin(it));
            if let Some(node) = &mut pod.node {
                self.texts.intern(node);
            }
            pod.ports.shrink_to_fit();
            pod.addresses.shrink_to_fit();
        }
        for entry in objects.workload_entries.iter_mut().filter_map(Arc::get_mut) {
            self.meta(&mut entry.meta);
            self.origin(&mut entry.service_account.origin);
            let ports = entry.ports.iter_mut().map(|port| &mut port.origin);
            let addresses = entry.address.iter_mut().map(|it| &mut it.origin);
            ports.chain(addresses).for_each(|it| self.origin(it));
        }
        for service in objects.services.iter_mut().filter_map(Arc::get_mut) {
            self.meta(&mut service.meta);
            self.origin(&mut service.selector.origin);
            for port in &mut service.ports {
                self.origin(&mut port.port.origin);
                self.origin(&mut port.target.origin);
            }
        }
        for policy in (objects.authorization_policies.iter_mut()).filter_map(Arc::get_mut) {
            self.meta(&mut policy.meta);
        }
    }

    fn meta(&mut self, meta: &mut Meta) {
        self.labels.intern(&mut meta.labels);
        self.texts.intern(&mut meta.namespace);
        self.origin(&mut meta.origin);
        for written in meta.annotations.values_mut() {
            self.origin(&mut written.origin);
        }
    }

    fn origin(&mut self, origin: &mut Origin) {
        self.texts.intern(&mut origin.key);
    }
}
