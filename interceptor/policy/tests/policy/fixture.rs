//! A mesh in a few words: policies as JSON, one workload `demo/server`, attempts to reach it.
#![expect(
    clippy::expect_used,
    reason = "a case that cannot be set up must fail loudly"
)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use interceptor_policy::{
    Attempt, Compiled, Effective, PeerAuthentication, Policy, PolicyMeta, PolicyName, PolicySet,
    Problem, ServicePorts, Settings, SpiffeId, Target, Verdict,
};
use serde_json::Value;

/// What is compiled and asked.
#[derive(Default)]
pub(crate) struct Mesh {
    pub(crate) settings: Settings,
    policies: Vec<Policy>,
    peer_authentications: Vec<PeerAuthentication>,
}

/// A caller and where it calls to.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) source: Option<SpiffeId>,
    pub(crate) source_ip: IpAddr,
    pub(crate) destination_ip: IpAddr,
    pub(crate) port: u16,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn with_settings(settings: Settings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }

    /// Adds a policy `namespace/name`, which must be correct.
    pub(crate) fn policy(self, name: &str, spec: &Value) -> Self {
        self.add(name, &PolicyMeta::default(), spec)
    }

    /// The same in dry-run.
    pub(crate) fn dry_run(self, name: &str, spec: &Value) -> Self {
        self.add(
            name,
            &PolicyMeta {
                dry_run: Some("true".to_owned()),
            },
            spec,
        )
    }

    fn add(mut self, name: &str, meta: &PolicyMeta, spec: &Value) -> Self {
        let compiled = compile(name, meta, spec, &self.settings).expect("a correct policy");
        self.policies.push(compiled.value);
        self
    }

    /// Adds a `PeerAuthentication`, which must be correct.
    pub(crate) fn mtls(self, name: &str, spec: &Value) -> Self {
        self.mtls_created(name, None, spec)
    }

    pub(crate) fn mtls_created(mut self, name: &str, created: Option<&str>, spec: &Value) -> Self {
        let spec = serde_json::from_value(spec.clone()).expect("a well-formed spec");
        let compiled = PeerAuthentication::compile(named(name), created, &spec, &self.settings);
        self.peer_authentications
            .push(compiled.expect("a correct object").value);
        self
    }

    pub(crate) fn set(&self) -> PolicySet {
        PolicySet::new(
            self.settings.clone(),
            self.policies.clone(),
            self.peer_authentications.clone(),
        )
    }

    /// What holds for `demo/server`: labels app=server, ports http=8080 and admin=9000, behind the
    /// Service `server` with 8080 only.
    pub(crate) fn server(&self) -> Effective {
        self.workload("demo", &[("app", "server"), ("version", "v1")])
    }

    pub(crate) fn workload(&self, namespace: &str, labels: &[(&str, &str)]) -> Effective {
        let text = |text: &&str| (*text).to_owned();
        let labels: BTreeMap<_, _> = labels.iter().map(|(k, v)| (text(k), text(v))).collect();
        let ports = BTreeMap::from([("http".to_owned(), 8080), ("admin".to_owned(), 9000)]);
        let services = [ServicePorts {
            service: "server",
            target_ports: &[8080],
        }];
        self.set().effective(&Target {
            namespace,
            labels: &labels,
            ports: &ports,
            services: &services,
        })
    }

    /// The verdict on a call to `demo/server`.
    pub(crate) fn decide(&self, call: &Call) -> Verdict {
        self.server().decide(&call.attempt())
    }
}

impl Call {
    /// From `demo/<name>` with an identity of `cluster.local`, to port 8080.
    pub(crate) fn by(service_account: &str) -> Self {
        Self::with_id(&format!(
            "spiffe://cluster.local/ns/demo/sa/{service_account}"
        ))
    }

    pub(crate) fn with_id(id: &str) -> Self {
        Self {
            source: Some(id.parse().expect("an identity")),
            ..Self::plaintext()
        }
    }

    pub(crate) fn plaintext() -> Self {
        Self {
            source: None,
            source_ip: "10.1.2.3".parse().expect("an address"),
            destination_ip: "10.9.9.9".parse().expect("an address"),
            port: 8080,
        }
    }

    pub(crate) fn calling_from(mut self, address: &str) -> Self {
        self.source_ip = address.parse().expect("an address");
        self
    }

    pub(crate) fn calling_at(mut self, address: &str) -> Self {
        self.destination_ip = address.parse().expect("an address");
        self
    }

    pub(crate) const fn on_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    pub(crate) const fn attempt(&self) -> Attempt<'_> {
        Attempt {
            source: self.source.as_ref(),
            source_ip: self.source_ip,
            destination_ip: self.destination_ip,
            destination_port: self.port,
        }
    }
}

pub(crate) fn compile(
    name: &str,
    meta: &PolicyMeta,
    spec: &Value,
    settings: &Settings,
) -> Result<Compiled<Policy>, Vec<Problem>> {
    let spec = serde_json::from_value(spec.clone()).expect("a well-formed spec");
    Policy::compile(named(name), meta, &spec, settings)
}

/// A mesh that moves from `old.org` to `new.org`.
pub(crate) fn migrating() -> Settings {
    Settings {
        trust_domain: "new.org".parse().expect("a trust domain"),
        trust_domain_aliases: vec!["old.org".parse().expect("a trust domain")],
        ..Settings::default()
    }
}

pub(crate) fn named(name: &str) -> PolicyName {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    PolicyName::new(namespace, name)
}
