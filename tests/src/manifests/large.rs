//! Manifests of a mesh as large as one wants, like those of a cluster: Pods of Deployments with a
//! Service each, in namespaces of fifty, and a policy for two of five.
//!
//! Needs nothing of this crate: benchmarks of the agent's insides include this file.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

/// Pods of one Service.
const REPLICAS: usize = 10;
/// Services of one namespace.
const SERVICES: usize = 50;
/// Of so many Services two have a policy.
const WITH_POLICY: usize = 5;

/// A large mesh. 50,000 workloads have 5,000 Services and 2,000 policies in 100 namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LargeMesh {
    /// How many Pods there are.
    pub workloads: usize,
    /// How many nodes they run on.
    pub nodes: usize,
}

/// Nodes of a mesh, if that is not what it is about.
pub const NODES: usize = 500;

impl LargeMesh {
    /// How many Services there are.
    pub const fn services(self) -> usize {
        self.workloads.div_ceil(REPLICAS)
    }

    fn namespaces(self) -> usize {
        self.services().div_ceil(SERVICES).max(1)
    }

    /// The objects as documents of YAML.
    pub fn documents(self) -> impl Iterator<Item = String> {
        let namespaces = (0..self.namespaces()).map(|number| {
            format!(
                "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: large-{number}\n  labels:\n    \
                 istio.io/dataplane-mode: ambient\n"
            )
        });
        let services = (0..self.services()).map(service);
        let policies = (0..self.services())
            .filter(|number| number % WITH_POLICY < 2)
            .map(policy);
        let pods = (0..self.workloads).map(move |number| pod(number, true, self.nodes));
        namespaces.chain(services).chain(policies).chain(pods)
    }

    /// Writes them into a folder, so many to a file.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be written.
    pub fn write(self, folder: &Path, per_file: usize) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut documents = self.documents();
        for file in 0_usize.. {
            let text = join(documents.by_ref().take(per_file));
            if text.is_empty() {
                break;
            }
            fs::write(folder.join(name(file)), text)?;
        }
        Ok(())
    }

    /// Removes what [`LargeMesh::write`] wrote.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be removed.
    pub fn remove(self, folder: &Path, per_file: usize) -> io::Result<()> {
        let files = self.documents().count().div_ceil(per_file);
        (0..files).try_for_each(|file| fs::remove_file(folder.join(name(file))))
    }
}

fn name(file: usize) -> String {
    format!("large-{file:06}.yaml")
}

fn join(documents: impl Iterator<Item = String>) -> String {
    documents.collect::<Vec<_>>().join("---\n")
}

/// One Pod of a mesh on so many nodes, ready or not.
pub fn pod(number: usize, ready: bool, nodes: usize) -> String {
    let service = number / REPLICAS;
    let (namespace, app) = (service / SERVICES, service % SERVICES);
    let mut text = format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: app-{app}-7d9f6c5b4-{number:05}
  namespace: large-{namespace}
  labels:
    app: app-{app}
    version: v1
    pod-template-hash: 7d9f6c5b4
  ownerReferences:
  - kind: ReplicaSet
    name: app-{app}-7d9f6c5b4
spec:
  nodeName: node-{node}
  serviceAccountName: app-{app}
  containers:
  - name: app
    ports:
    - name: http
      containerPort: 8080
status:
  phase: Running
",
        node = number % nodes.max(1),
    );
    // Writing to a String cannot fail.
    write!(
        text,
        "  podIP: {}\n  conditions:\n  - type: Ready\n    status: \"{}\"\n",
        pod_address(number),
        if ready { "True" } else { "False" }
    )
    .unwrap_or_default();
    text
}

/// One Service of ten Pods.
pub fn service(number: usize) -> String {
    let (namespace, app) = (number / SERVICES, number % SERVICES);
    format!(
        "apiVersion: v1
kind: Service
metadata:
  name: app-{app}
  namespace: large-{namespace}
spec:
  clusterIP: {}
  selector:
    app: app-{app}
  ports:
  - name: http
    port: 80
    targetPort: http
",
        service_address(number)
    )
}

/// A policy that admits two callers to one Service's Pods.
pub fn policy(number: usize) -> String {
    let (namespace, app) = (number / SERVICES, number % SERVICES);
    let caller = |other: usize| {
        let other = (app + other) % SERVICES;
        format!("cluster.local/ns/large-{namespace}/sa/app-{other}")
    };
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: allow-{app}
  namespace: large-{namespace}
spec:
  selector:
    matchLabels:
      app: app-{app}
  action: ALLOW
  rules:
  - from:
    - source:
        principals:
        - {}
        - {}
    to:
    - operation:
        ports: [\"8080\"]
",
        caller(1),
        caller(2)
    )
}

/// The address of a Pod: in the range that carriers share among their customers.
pub fn pod_address(number: usize) -> Ipv4Addr {
    beyond(Ipv4Addr::new(100, 64, 0, 1), number)
}

/// The address of a Service: in the range for benchmarks.
pub fn service_address(number: usize) -> Ipv4Addr {
    beyond(Ipv4Addr::new(198, 18, 0, 1), number)
}

fn beyond(first: Ipv4Addr, number: usize) -> Ipv4Addr {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    Ipv4Addr::from_bits(first.to_bits().saturating_add(number))
}
