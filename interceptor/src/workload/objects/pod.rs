//! Pods.

use std::sync::Arc;

use super::meta::{addresses, meta, origin, written};
use super::{Meta, NamedPort, Pod, Written, kubernetes};
use crate::yaml::{Fields, Reader};

/// Reads a Pod from the fields of its top level.
pub(super) fn read(object: &Fields<'_>) -> Option<Pod> {
    let meta = meta(object);
    let spec = object.required("spec").and_then(|spec| spec.fields());
    let status = object.optional("status").and_then(|status| status.fields());
    object.no_others();
    let spec = spec?;
    let status = status.as_ref().map(read_status).unwrap_or_default();
    from_spec(meta, &spec, status)
}

/// The Pod that a controller makes from its template, whose top level is `object`. It runs nowhere
/// yet, so it has no address.
pub(super) fn from_template(meta: Meta, object: &Fields<'_>) -> Option<Pod> {
    let spec = object.required("spec")?.fields()?;
    from_spec(Some(meta), &spec, Status::default())
}

fn from_spec(meta: Option<Meta>, spec: &Fields<'_>, status: Status) -> Option<Pod> {
    let written_account = spec
        .optional("serviceAccountName")
        .or_else(|| spec.optional("serviceAccount"));
    let account = written_account.and_then(|account| Some(written(&account, account.name()?)));
    let node = spec.optional("nodeName").and_then(|node| node.name());
    let host_network = spec.optional("hostNetwork").and_then(|host| host.boolean());
    let mut ports = Vec::new();
    for key in ["initContainers", "containers"] {
        if let Some(containers) = spec.optional(key) {
            let sidecars_only = key == "initContainers";
            ports.extend(
                containers
                    .list(|c| container(c, sidecars_only))
                    .into_iter()
                    .flatten(),
            );
        }
    }
    spec.known(kubernetes::POD_SPEC);
    spec.no_others();
    let service_account = account.map_or_else(
        || Written {
            value: "default".to_owned(),
            origin: origin(spec.reader()),
        },
        |account| Written {
            value: account.value.to_owned(),
            origin: account.origin,
        },
    );
    Some(Pod {
        meta: meta?,
        service_account,
        node: node.map(Arc::from),
        host_network: host_network.unwrap_or_default(),
        ports,
        addresses: status.addresses,
        ready: status.ready,
        terminal: status.terminal,
    })
}

/// The named TCP ports of a container. Init containers count only if they keep running.
fn container(reader: &Reader<'_>, sidecars_only: bool) -> Option<Vec<Written<NamedPort>>> {
    let fields = reader.fields()?;
    fields.required("name");
    let restart = fields.optional("restartPolicy").and_then(|r| r.text());
    let ports = fields
        .optional("ports")
        .map(|ports| ports.list(|port| container_port(port).flatten()))
        .unwrap_or_default();
    fields.known(kubernetes::CONTAINER);
    fields.no_others();
    (!sidecars_only || restart == Some("Always")).then_some(ports)
}

/// `Some(None)` for a port that is right but has no name or is not TCP.
#[expect(
    clippy::option_option,
    reason = "wrong and not wanted are different answers"
)]
fn container_port(reader: &Reader<'_>) -> Option<Option<Written<NamedPort>>> {
    let fields = reader.fields()?;
    let port = fields
        .required("containerPort")
        .and_then(|port| port.integer(1..=u16::MAX));
    let name = fields.optional("name");
    let text = name.as_ref().and_then(|name| port_name(name));
    let tcp = protocol_is_tcp(&fields);
    fields.known(kubernetes::CONTAINER_PORT);
    fields.no_others();
    let (port, tcp) = (port?, tcp?);
    let (Some(name), Some(text), true) = (name, text, tcp) else {
        return Some(None);
    };
    let port = NamedPort {
        name: text.to_owned(),
        port,
    };
    Some(Some(written(&name, port)))
}

/// A port's name: a service name of RFC 6335, as Kubernetes wants it.
pub(super) fn port_name<'a>(reader: &Reader<'a>) -> Option<&'a str> {
    let name = reader.name()?;
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let right = name.len() <= 63
        && name.chars().all(legal)
        && name.chars().any(|c| c.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    if !right {
        reader.error(
            "is not a port name: lower-case letters, digits and single '-', with at least one \
             letter, at most 63",
        );
        return None;
    }
    Some(name)
}

/// Whether `protocol` is TCP; `None` if it is not a protocol.
pub(super) fn protocol_is_tcp(fields: &Fields<'_>) -> Option<bool> {
    match fields.optional("protocol") {
        None => Some(true),
        Some(protocol) => protocol.one_of(&[("TCP", true), ("UDP", false), ("SCTP", false)]),
    }
}

struct Status {
    addresses: Vec<Written<std::net::IpAddr>>,
    ready: bool,
    terminal: bool,
}

impl Default for Status {
    /// A Pod without a status, as people write it for a plain host, is taken to run.
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            ready: true,
            terminal: false,
        }
    }
}

fn read_status(fields: &Fields<'_>) -> Status {
    let several = fields.optional("podIPs").map(|list| {
        list.list(|entry| {
            let fields = entry.fields()?;
            let address = fields.required("ip");
            fields.no_others();
            Some(address)
        })
    });
    let phase = fields.optional("phase").and_then(|phase| {
        phase.one_of(&[
            ("Pending", Phase::Pending),
            ("Running", Phase::Running),
            ("Succeeded", Phase::Terminal),
            ("Failed", Phase::Terminal),
            ("Unknown", Phase::Unknown),
        ])
    });
    let conditions = fields
        .optional("conditions")
        .map(|conditions| conditions.list(ready_condition));
    let status = Status {
        addresses: addresses(several, fields.optional("podIP")),
        ready: match (conditions, phase) {
            (Some(conditions), _) => conditions.into_iter().flatten().any(|ready| ready),
            (None, Some(Phase::Pending | Phase::Unknown)) => false,
            (None, _) => true,
        },
        terminal: phase == Some(Phase::Terminal),
    };
    fields.known(kubernetes::POD_STATUS);
    fields.no_others();
    status
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Pending,
    Running,
    Terminal,
    Unknown,
}

/// Whether a condition says that the Pod is ready; `Some(None)` for the others.
#[expect(
    clippy::option_option,
    reason = "wrong and not wanted are different answers"
)]
fn ready_condition(reader: &Reader<'_>) -> Option<Option<bool>> {
    let fields = reader.fields()?;
    let kind = fields.required("type").and_then(|kind| kind.text());
    let status = fields
        .required("status")
        .and_then(|status| status.one_of(&[("True", true), ("False", false), ("Unknown", false)]));
    fields.known(kubernetes::POD_CONDITION);
    fields.no_others();
    Some((kind? == "Ready").then_some(status?))
}
