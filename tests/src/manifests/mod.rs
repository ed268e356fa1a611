//! Manifests for tests: small typed builders that produce the YAML an operator would write.
//!
//! They say what tests vary and nothing else. A test about wrong manifests writes its YAML by hand.

pub mod large;
mod policy;
mod yaml;

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Map, Value, json};

pub use policy::{AuthorizationPolicy, PeerAuthentication, Rule};

/// The namespace in which tests put everything, unless they say otherwise.
pub const NAMESPACE: &str = "demo";

/// Something that can be written into a manifest file.
pub trait Manifest {
    /// The object as a value.
    fn object(&self) -> Value;
}

/// Writes manifests as one YAML file.
pub fn yaml(manifests: &[&dyn Manifest]) -> String {
    let documents: Vec<String> = manifests
        .iter()
        .map(|manifest| yaml::document(&manifest.object()))
        .collect();
    documents.join("---\n")
}

/// The identity of a service account of the tests' namespace.
pub fn identity(service_account: &str) -> String {
    format!("spiffe://cluster.local/ns/{NAMESPACE}/sa/{service_account}")
}

/// The identity of a service account as policies write it.
pub fn principal(service_account: &str) -> String {
    format!("cluster.local/ns/{NAMESPACE}/sa/{service_account}")
}

fn metadata(name: &str, namespace: &str) -> Map<String, Value> {
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), json!(name));
    metadata.insert("namespace".to_owned(), json!(namespace));
    metadata
}

/// A `v1` Namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    labels: Map<String, Value>,
    annotations: Map<String, Value>,
}

impl Namespace {
    /// A namespace whose pods are enrolled.
    pub fn enrolled(name: &str) -> Self {
        Self::plain(name).label("istio.io/dataplane-mode", "ambient")
    }

    /// A namespace whose pods are not enrolled.
    pub fn plain(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            labels: Map::new(),
            annotations: Map::new(),
        }
    }

    /// Adds an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), json!(value));
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), json!(value));
        self
    }
}

impl Manifest for Namespace {
    fn object(&self) -> Value {
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": self.name, "labels": self.labels, "annotations": self.annotations } })
    }
}

/// A `v1` Pod.
#[derive(Clone, Debug)]
pub struct Pod {
    name: String,
    namespace: String,
    service_account: String,
    node: String,
    addresses: Vec<IpAddr>,
    labels: Map<String, Value>,
    annotations: Map<String, Value>,
    ports: Vec<Value>,
    host_network: bool,
}

impl Pod {
    /// A pod of namespace `demo` with its own name as service account and label `app`.
    pub fn new(name: &str, node: &str, addresses: &[IpAddr]) -> Self {
        let mut labels = Map::new();
        labels.insert("app".to_owned(), json!(name));
        Self {
            name: name.to_owned(),
            namespace: NAMESPACE.to_owned(),
            service_account: name.to_owned(),
            node: node.to_owned(),
            addresses: addresses.to_vec(),
            labels,
            annotations: Map::new(),
            ports: Vec::new(),
            host_network: false,
        }
    }

    /// Gives it other addresses.
    #[must_use]
    pub fn at(mut self, addresses: &[IpAddr]) -> Self {
        addresses.clone_into(&mut self.addresses);
        self
    }

    /// Binds it to a network namespace of its node.
    #[must_use]
    pub fn network_namespace(self, path: &Path) -> Self {
        self.annotation(
            "interceptor.dev/network-namespace",
            &path.display().to_string(),
        )
    }

    /// Puts it into the host's network, bound to a cgroup.
    #[must_use]
    pub fn host_network(mut self, cgroup: &str) -> Self {
        self.host_network = true;
        self.annotations.remove("interceptor.dev/network-namespace");
        self.annotation("interceptor.dev/cgroup", cgroup)
    }

    /// Puts it into another Kubernetes namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Gives it another service account.
    #[must_use]
    pub fn service_account(mut self, name: &str) -> Self {
        name.clone_into(&mut self.service_account);
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), json!(value));
        self
    }

    /// Adds an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), json!(value));
        self
    }

    /// Names a container port.
    #[must_use]
    pub fn port(mut self, name: &str, number: u16) -> Self {
        self.ports
            .push(json!({ "name": name, "containerPort": number }));
        self
    }
}

impl Manifest for Pod {
    fn object(&self) -> Value {
        let mut metadata = metadata(&self.name, &self.namespace);
        metadata.insert("labels".to_owned(), json!(self.labels));
        metadata.insert("annotations".to_owned(), json!(self.annotations));
        let mut container = json!({ "name": "app", "image": "app" });
        if let (Some(container), false) = (container.as_object_mut(), self.ports.is_empty()) {
            container.insert("ports".to_owned(), json!(self.ports));
        }
        let mut spec = json!({
            "serviceAccountName": self.service_account,
            "nodeName": self.node,
            "containers": [container],
        });
        if let (Some(spec), true) = (spec.as_object_mut(), self.host_network) {
            spec.insert("hostNetwork".to_owned(), json!(true));
        }
        let ips: Vec<Value> = self
            .addresses
            .iter()
            .map(|ip| json!({ "ip": ip.to_string() }))
            .collect();
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": spec,
            "status": {
                "phase": "Running",
                "podIP": self.addresses.first().map(ToString::to_string),
                "podIPs": ips,
                "conditions": [{ "type": "Ready", "status": "True" }],
            },
        })
    }
}

/// A `v1` Service.
#[derive(Clone, Debug)]
pub struct Service {
    name: String,
    addresses: Vec<IpAddr>,
    selector: String,
    ports: Vec<Value>,
}

impl Service {
    /// A Service of namespace `demo` in front of the pods labelled `app: <name>`.
    pub fn new(name: &str, addresses: &[IpAddr]) -> Self {
        Self {
            name: name.to_owned(),
            addresses: addresses.to_vec(),
            selector: name.to_owned(),
            ports: Vec::new(),
        }
    }

    /// Selects pods labelled `app: <app>`.
    #[must_use]
    pub fn selecting(mut self, app: &str) -> Self {
        app.clone_into(&mut self.selector);
        self
    }

    /// Adds a port whose target is a number.
    #[must_use]
    pub fn port(mut self, name: &str, port: u16, target: u16) -> Self {
        self.ports
            .push(json!({ "name": name, "port": port, "targetPort": target }));
        self
    }

    /// Adds a port whose target is a container port's name.
    #[must_use]
    pub fn named_port(mut self, name: &str, port: u16, target: &str) -> Self {
        self.ports
            .push(json!({ "name": name, "port": port, "targetPort": target }));
        self
    }
}

impl Manifest for Service {
    fn object(&self) -> Value {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(&self.name, NAMESPACE),
            "spec": {
                "clusterIP": addresses.first().map_or("None", String::as_str),
                "clusterIPs": if addresses.is_empty() { vec!["None".to_owned()] } else { addresses },
                "selector": { "app": self.selector },
                "ports": self.ports,
            },
        })
    }
}

/// A `networking.istio.io/v1` `WorkloadEntry`: a workload that is no pod.
#[derive(Clone, Debug)]
pub struct WorkloadEntry {
    name: String,
    address: IpAddr,
    service_account: String,
    labels: Map<String, Value>,
    ports: Map<String, Value>,
}

impl WorkloadEntry {
    /// An entry of namespace `demo` with its own name as service account and label `app`, which
    /// takes HBONE.
    pub fn new(name: &str, address: IpAddr) -> Self {
        let mut labels = Map::new();
        labels.insert("app".to_owned(), json!(name));
        labels.insert("networking.istio.io/tunnel".to_owned(), json!("http"));
        Self {
            name: name.to_owned(),
            address,
            service_account: name.to_owned(),
            labels,
            ports: Map::new(),
        }
    }

    /// Makes it one that is reached in plaintext.
    #[must_use]
    pub fn plaintext(mut self) -> Self {
        self.labels.remove("networking.istio.io/tunnel");
        self
    }

    /// Names a port.
    #[must_use]
    pub fn port(mut self, name: &str, number: u16) -> Self {
        self.ports.insert(name.to_owned(), json!(number));
        self
    }
}

impl Manifest for WorkloadEntry {
    fn object(&self) -> Value {
        let mut metadata = metadata(&self.name, NAMESPACE);
        metadata.insert("labels".to_owned(), json!(self.labels));
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "WorkloadEntry",
            "metadata": metadata,
            "spec": {
                "address": self.address.to_string(),
                "serviceAccount": self.service_account,
                "labels": self.labels,
                "ports": self.ports,
            },
        })
    }
}
