//! A Service's port as the junction that it is: what meets there, and who gets through.
//!
//! For each port: its protocol and what made it so; the ports of the workloads behind it; whether
//! what arrives is captured; mode and policies; who may call, read from the rules. Workloads that
//! are alike in all of that are shown as one.
//!
//! Not here: who does call (the command adds that from the agent's connections).

use std::sync::Arc;

use interceptor_policy::{CallerSet, Effective, Enforcement};
use serde::{Deserialize, Serialize};

use super::resolve::{by_host, service_port, unknown};
use crate::capture::inbound_captured;
use crate::workload::protocol::{self, Protocol};
use crate::workload::{
    Endpoint, Enrolment, Mesh, SaidBy, SameNode, Service, ServicePort, TunnelProtocol, Workload,
};

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortView {
    /// `namespace/name` of the Service.
    pub service: String,
    /// Its host.
    pub host: String,
    /// The number.
    pub port: u16,
    /// The name, if it has one.
    pub name: Option<String>,
    /// The application protocol that it is taken to speak.
    pub protocol: String,
    /// What made it so.
    pub protocol_because: String,
    /// What is behind it: workloads that are alike, together.
    pub targets: Vec<TargetView>,
    /// Workloads that are selected, but do not have the port.
    pub without: Vec<String>,
}

/// Workloads behind a port that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetView {
    /// `namespace/name` of each.
    pub workloads: Vec<String>,
    /// Their port.
    pub port: u16,
    /// Whether they are part of the mesh, and if not, why.
    pub enrolment: String,
    /// Whether an agent judges what arrives in plaintext; tunnels it always judges.
    pub captured: bool,
    /// What says so.
    pub captured_because: String,
    /// How callers of the same node are connected, as far as this end decides.
    #[serde(default)]
    pub same_node: String,
    /// `STRICT`, `PERMISSIVE` or `DISABLE`.
    pub mtls: String,
    /// Which object says so.
    pub mtls_because: String,
    /// The policies in force, as `ACTION namespace/name`.
    pub policies: Vec<String>,
    /// Who may call.
    pub may_call: Vec<CallerView>,
    /// Who may not, although the above says otherwise.
    pub may_not: Vec<CallerView>,
    /// Whether somebody in plaintext gets through.
    pub admits_plaintext: bool,
}

/// Some callers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerView {
    /// Who.
    pub who: String,
    /// The rule that says so, if one does.
    pub rule: Option<String>,
}

/// The ports that `name` means: `namespace/service`, a host, either with `:port`; all without.
///
/// # Errors
///
/// If there is no such Service or port, with what is there.
pub fn ports(mesh: &Mesh, name: Option<&str>) -> Result<Vec<PortView>, String> {
    let Some(name) = name else {
        let all = mesh.services().flat_map(|service| {
            let ports = service.ports.iter();
            ports.map(move |port| view(mesh, service, port))
        });
        return Ok(all.collect());
    };
    let (name, port) = match name.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (name, None),
    };
    let service = find(mesh, name)?;
    let wanted = match port {
        Some(_) => Some(service_port(service, port)?),
        None => None,
    };
    let mut found = (service.ports.iter())
        .filter(|port| wanted.is_none_or(|wanted| port.port == wanted))
        .peekable();
    if let (None, Some(wanted)) = (found.peek(), wanted) {
        let known: Vec<_> = service
            .ports
            .iter()
            .map(|port| port.port.to_string())
            .collect();
        return Err(format!(
            "Service {} has no TCP port {wanted}; it has {}",
            service.name,
            known.join(", ")
        ));
    }
    Ok(found.map(|port| view(mesh, service, port)).collect())
}

fn find<'m>(mesh: &'m Mesh, name: &str) -> Result<&'m Arc<Service>, String> {
    let by_name = name
        .split_once('/')
        .and_then(|(namespace, name)| mesh.service(namespace, name));
    if let Some(service) = by_name.or_else(|| by_host(mesh, "default", name)) {
        return Ok(service);
    }
    let known: Vec<String> = mesh
        .services()
        .map(|service| service.name.to_string())
        .collect();
    Err(unknown("Service", name, &known))
}

fn view(mesh: &Mesh, service: &Service, port: &ServicePort) -> PortView {
    let (protocol, why): (Protocol, _) = protocol::select(&protocol::Port {
        transport: None,
        app_protocol: port.app_protocol.as_deref(),
        name: port.name.as_deref(),
        number: port.port,
    });
    let mut targets: Vec<TargetView> = Vec::new();
    let mut without = Vec::new();
    for endpoint in &service.endpoints {
        let Some(target) = target(mesh, endpoint, port.port) else {
            without.push(endpoint.workload.id.to_string());
            continue;
        };
        let alike = |known: &&mut TargetView| {
            let workloads = target.workloads.clone();
            TargetView {
                workloads,
                ..(**known).clone()
            } == target
        };
        match targets.iter_mut().find(alike) {
            Some(known) => known.workloads.extend(target.workloads),
            None => targets.push(target),
        }
    }
    PortView {
        service: service.name.to_string(),
        host: service.name.host.to_string(),
        port: port.port,
        name: port.name.clone(),
        protocol: protocol.to_string(),
        protocol_because: why.to_string(),
        targets,
        without,
    }
}

/// One workload behind the port; `None` if it does not have it.
fn target(mesh: &Mesh, endpoint: &Endpoint, port: u16) -> Option<TargetView> {
    let workload = &*endpoint.workload;
    let port = *endpoint.target_ports.get(&port)?;
    let effective = mesh.policies(workload);
    let mtls = effective.mtls(port);
    let (captured, captured_because) = captured(workload, port);
    let callers = effective.callers(port);
    let judged = is_judged(workload);
    Some(TargetView {
        workloads: vec![workload.id.to_string()],
        port,
        enrolment: workload.enrolment.to_string(),
        captured,
        captured_because,
        same_node: same_node(workload, captured).to_owned(),
        mtls: mtls.mode.to_string(),
        mtls_because: mtls.origin.to_string(),
        policies: in_force(&effective),
        admits_plaintext: !captured || callers.admit_plaintext(),
        may_call: if judged {
            views(&callers.allowed)
        } else {
            anybody()
        },
        may_not: if judged {
            views(&callers.denied)
        } else {
            Vec::new()
        },
    })
}

/// Whether an agent is at the workload's door at all.
fn is_judged(workload: &Workload) -> bool {
    workload.protocol == TunnelProtocol::Hbone && workload.enrolment != Enrolment::Unbound
}

fn anybody() -> Vec<CallerView> {
    vec![CallerView {
        who: "anybody, in plaintext: no agent judges what arrives".to_owned(),
        rule: None,
    }]
}

fn captured(workload: &Workload, port: u16) -> (bool, String) {
    if !is_judged(workload) {
        return (false, workload.enrolment.to_string());
    }
    let captured = inbound_captured(&workload.capture, port);
    (captured.captured, captured.why.to_string())
}

/// How callers of the same node come in.
fn same_node(workload: &Workload, captured: bool) -> &'static str {
    match workload.same_node {
        _ if !is_judged(workload) => "in plaintext",
        SameNode::Mtls(SaidBy::Workload) => "mutual TLS (same-node: mtls)",
        SameNode::Mtls(SaidBy::Namespace) => "mutual TLS (same-node: mtls of its namespace)",
        SameNode::Mtls(SaidBy::Mesh) => "mutual TLS (sameNode: mtls of the mesh)",
        SameNode::Kernel if !captured => "mutual TLS, because the port is not captured",
        SameNode::Kernel => "from socket to socket, where the kernel can hold the verdict",
    }
}

fn in_force(effective: &Effective) -> Vec<String> {
    let policies = effective.policies();
    policies
        .map(|policy| {
            let reports = match policy.enforcement() {
                Enforcement::Enforced => "",
                Enforcement::DryRun => " (dry run)",
            };
            format!("{} {}{reports}", policy.action(), policy.name())
        })
        .collect()
}

fn views(sets: &[CallerSet]) -> Vec<CallerView> {
    let view = |set: &CallerSet| CallerView {
        who: set.to_string(),
        rule: set.rule.as_ref().map(ToString::to_string),
    };
    sets.iter().map(view).collect()
}

impl PortView {
    /// Whether somebody in plaintext gets through to one of its workloads.
    pub fn admits_plaintext(&self) -> bool {
        self.targets.iter().any(|target| target.admits_plaintext)
    }

    /// Whether it means a workload's port.
    pub fn leads_to(&self, workload: &str, port: u16) -> bool {
        self.targets.iter().any(|target| {
            target.port == port && target.workloads.iter().any(|known| known == workload)
        })
    }
}
