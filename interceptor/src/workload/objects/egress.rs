//! Istio's `ServiceEntry` and `Sidecar`: what workloads may reach outside of the mesh.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::meta::{meta, written};
use super::{EntryEndpoint, EntryPort, OutboundMode, ServiceEntry, Sidecar, Written};
use crate::workload::external::{Location, Resolution};
use crate::yaml::{Fields, Reader};

/// Reads a `ServiceEntry` from the fields of its top level.
pub(super) fn service_entry(object: &Fields<'_>) -> Option<ServiceEntry> {
    object.known(&["status"]);
    let meta = meta(object);
    let spec = object.required("spec").and_then(|spec| spec.fields());
    object.no_others();
    let spec = spec?;
    let hosts = spec.required("hosts").map(|hosts| hosts.list(host));
    let addresses = spec.optional("addresses").map(|list| list.list(range));
    let ports = spec.required("ports").map(|ports| ports.list(port));
    let location = spec.optional("location").and_then(|location| {
        location.one_of(&[
            ("MESH_EXTERNAL", Location::MeshExternal),
            ("MESH_INTERNAL", Location::MeshInternal),
        ])
    });
    let resolution = resolution(&spec);
    let endpoints = spec.optional("endpoints").map(|list| list.list(endpoint));
    let selector = spec
        .optional("workloadSelector")
        .map(|selector| labels(&selector));
    let export_to = spec.optional("exportTo").map(|names| names.texts());
    spec.known(&["subjectAltNames"]);
    check_together(&spec, resolution.as_ref());
    spec.no_others();
    Some(ServiceEntry {
        meta: meta?,
        hosts: hosts.filter(|hosts| !hosts.is_empty())?,
        addresses: addresses.unwrap_or_default(),
        ports: ports?.into_iter().flatten().collect(),
        location: location.unwrap_or_default(),
        resolution: resolution.map_or_else(Resolution::default, |written| written.value),
        endpoints: endpoints
            .unwrap_or_default()
            .into_iter()
            .flatten()
            .collect(),
        selector,
        export_to: export_to.unwrap_or_default(),
    })
}

/// What Istio refuses, because the fields contradict each other.
fn check_together(spec: &Fields<'_>, resolution: Option<&Written<Resolution>>) {
    let endpoints = spec.optional("endpoints");
    let selector = spec.optional("workloadSelector");
    if let (Some(_), Some(selector)) = (&endpoints, &selector) {
        selector.error("cannot be together with endpoints; remove one");
    }
    let kind = resolution.map_or_else(Resolution::default, |written| written.value);
    match (kind, &endpoints, &selector) {
        (Resolution::None, Some(endpoints), _) => endpoints
            .error("have no effect with resolution NONE: write resolution STATIC, or remove them"),
        (Resolution::Static, None, None) => spec
            .reader()
            .error("resolution STATIC needs endpoints or a workloadSelector"),
        _ => {}
    }
}

fn resolution(spec: &Fields<'_>) -> Option<Written<Resolution>> {
    let reader = spec.optional("resolution")?;
    let value = reader.one_of(&[
        ("NONE", Resolution::None),
        ("STATIC", Resolution::Static),
        ("DNS", Resolution::Dns),
        ("DNS_ROUND_ROBIN", Resolution::Dns),
        ("DYNAMIC_DNS", Resolution::Dns),
    ])?;
    Some(written(&reader, value))
}

fn host(reader: &Reader<'_>) -> Option<Written<String>> {
    let host = reader.name()?;
    let plain = host.strip_prefix("*.").unwrap_or(host);
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if plain.is_empty() || !plain.chars().all(legal) {
        reader.error("is not a host: write a DNS name, or *.example.com for all below one");
        return None;
    }
    Some(written(reader, host.to_owned()))
}

fn range(reader: &Reader<'_>) -> Option<Written<IpNet>> {
    let text = reader.name()?;
    let net = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| ip.to_canonical().into()));
    match net {
        Ok(net) => Some(written(reader, net.trunc())),
        Err(_error) => {
            reader.error("is neither an IP address nor a CIDR such as 192.0.2.0/24");
            None
        }
    }
}

/// `Some(None)` for a port that is right but not TCP.
#[expect(
    clippy::option_option,
    reason = "wrong and not wanted are different answers"
)]
fn port(reader: &Reader<'_>) -> Option<Option<EntryPort>> {
    let fields = reader.fields()?;
    let number = fields.required("number");
    let port = number.as_ref().and_then(|number| {
        let port = number.integer(1..=u16::MAX)?;
        Some(written(number, port))
    });
    let name = fields
        .required("name")
        .and_then(|name| name.name().map(str::to_owned));
    let protocol = fields
        .optional("protocol")
        .and_then(|protocol| protocol.text().map(str::to_owned));
    let target = fields
        .optional("targetPort")
        .and_then(|target| target.integer(1..=u16::MAX));
    fields.no_others();
    let port = port?;
    let udp = (protocol.as_ref()).is_some_and(|protocol| protocol.eq_ignore_ascii_case("UDP"));
    Some((!udp).then_some(EntryPort {
        target: target.unwrap_or(port.value),
        name,
        port,
        protocol,
    }))
}

/// `Some(None)` for an endpoint that is a name or a path.
#[expect(
    clippy::option_option,
    reason = "wrong and not known by address are different answers"
)]
fn endpoint(reader: &Reader<'_>) -> Option<Option<EntryEndpoint>> {
    let fields = reader.fields()?;
    let address = fields.optional("address");
    let ports = fields.optional("ports").map(|ports| {
        let entries = ports.entries().into_iter().flatten();
        let numbers =
            entries.filter_map(|(name, port)| Some((name.to_owned(), port.integer(1..=u16::MAX)?)));
        numbers.collect::<BTreeMap<_, _>>()
    });
    let weight = fields
        .optional("weight")
        .and_then(|weight| weight.integer(0..=u32::MAX));
    fields.known(&["labels", "network", "locality", "serviceAccount"]);
    fields.no_others();
    let address = address.as_ref().and_then(|address| {
        let text = address.name()?;
        let Ok(ip) = text.parse::<IpAddr>() else {
            address
                .warning("is not an IP address; names are not resolved, so nothing is sent there");
            return None;
        };
        Some(written(address, ip.to_canonical()))
    });
    Some(address.map(|address| EntryEndpoint {
        address,
        ports: ports.unwrap_or_default(),
        weight: weight.unwrap_or(1).max(1),
    }))
}

/// Reads a `Sidecar` from the fields of its top level.
pub(super) fn sidecar(object: &Fields<'_>) -> Option<Sidecar> {
    object.known(&["status"]);
    let meta = meta(object);
    let spec = object.optional("spec").and_then(|spec| spec.fields());
    object.no_others();
    let mut sidecar = Sidecar {
        meta: meta?,
        selector: None,
        mode: None,
    };
    let Some(spec) = spec else {
        return Some(sidecar);
    };
    for key in ["ingress", "egress", "inboundConnectionPool"] {
        if let Some(field) = spec.optional(key) {
            field.warning(
                "has no effect: a node decides by address and port, not by listener; only \
                 outboundTrafficPolicy is read",
            );
        }
    }
    sidecar.selector = (spec.optional("workloadSelector")).map(|selector| labels(&selector));
    sidecar.mode = (spec.optional("outboundTrafficPolicy"))
        .and_then(|policy| policy.fields())
        .map(|policy| mode(&policy));
    spec.no_others();
    Some(sidecar)
}

/// Without a mode it is Istio's zero value.
fn mode(policy: &Fields<'_>) -> OutboundMode {
    let mode = policy.optional("mode").and_then(|mode| {
        mode.one_of(&[
            ("ALLOW_ANY", OutboundMode::AllowAny),
            ("REGISTRY_ONLY", OutboundMode::RegistryOnly),
        ])
    });
    if let Some(proxy) = policy.optional("egressProxy") {
        proxy.warning("has no effect: unknown destinations are reached directly");
    }
    policy.no_others();
    mode.unwrap_or(OutboundMode::RegistryOnly)
}

fn labels(selector: &Reader<'_>) -> Written<BTreeMap<String, String>> {
    let labels = selector.fields().and_then(|fields| {
        let labels = fields.optional("labels").map(|labels| labels.text_map());
        fields.no_others();
        labels
    });
    written(selector, labels.unwrap_or_default())
}
