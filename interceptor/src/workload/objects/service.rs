//! Services.

use super::meta::{addresses, meta, origin, written};
use super::pod::{port_name, protocol_is_tcp};
use super::{Service, ServicePort, TargetPort, Written, kubernetes};
use crate::workload::Locality;
use crate::yaml::{Fields, Reader, Resolved, Scalar, Value};

/// Reads a Service from the fields of its top level. One of type `ExternalName` is an alias in
/// DNS and no destination of its own: `None`.
pub(super) fn read(object: &Fields<'_>) -> Option<Service> {
    object.known(&["status"]);
    let meta = meta(object);
    let spec = object.required("spec").and_then(|spec| spec.fields());
    object.no_others();
    let spec = spec?;
    let external = spec.optional("type").and_then(|kind| {
        kind.one_of(&[
            ("ClusterIP", false),
            ("NodePort", false),
            ("LoadBalancer", false),
            ("ExternalName", true),
        ])
    });
    let ports = spec
        .optional("ports")
        .map(|ports| ports.list(port))
        .unwrap_or_default();
    let selector = spec.optional("selector").map_or_else(
        || Written {
            value: std::collections::BTreeMap::new(),
            origin: origin(spec.reader()),
        },
        |selector| written(&selector, selector.text_map()),
    );
    let addresses = cluster_addresses(&spec);
    let publish_not_ready = spec
        .optional("publishNotReadyAddresses")
        .and_then(|publish| publish.boolean());
    let locality = locality(&spec);
    if let Some(affinity) = spec.optional("sessionAffinity")
        && affinity.one_of(&[("None", false), ("ClientIP", true)]) == Some(true)
    {
        affinity.warning("session affinity is not kept; each connection chooses anew");
    }
    spec.known(kubernetes::SERVICE_SPEC);
    spec.no_others();
    let service = Service {
        meta: meta?,
        addresses,
        ports: ports.into_iter().flatten().collect(),
        selector,
        publish_not_ready: publish_not_ready.unwrap_or_default(),
        locality,
    };
    (external != Some(true)).then_some(service)
}

/// The `clusterIPs`; `None` and the empty text (not yet assigned) are not addresses.
fn cluster_addresses(spec: &Fields<'_>) -> Vec<Written<std::net::IpAddr>> {
    let real = |reader: &Reader<'_>| match &reader.node().value {
        Value::Scalar(scalar) => !matches!(scalar.as_str(), "" | "None"),
        Value::List(_) | Value::Map(_) => true,
    };
    let several = spec
        .optional("clusterIPs")
        .map(|list| list.list(|item| Some(real(item).then(|| item.clone()))));
    addresses(several, spec.optional("clusterIP").filter(real))
}

fn locality(spec: &Fields<'_>) -> Locality {
    let only = spec
        .optional("internalTrafficPolicy")
        .and_then(|policy| policy.one_of(&[("Cluster", false), ("Local", true)]));
    let preferred = spec.optional("trafficDistribution");
    if only == Some(true) {
        return Locality::OnlyNode;
    }
    let Some(preferred) = preferred else {
        return Locality::Any;
    };
    match preferred.text() {
        Some("PreferSameNode") => Locality::PreferNode,
        Some("PreferSameZone" | "PreferClose") => {
            preferred.warning("zones are not known here; all endpoints are chosen alike");
            Locality::Any
        }
        Some(_) => {
            preferred.error("must be PreferSameNode, PreferSameZone or PreferClose");
            Locality::Any
        }
        None => Locality::Any,
    }
}

/// `Some(None)` for a port that is right but not TCP.
#[expect(
    clippy::option_option,
    reason = "wrong and not wanted are different answers"
)]
fn port(reader: &Reader<'_>) -> Option<Option<ServicePort>> {
    let fields = reader.fields()?;
    let number = fields.required("port").and_then(|port| {
        let number = port.integer(1..=u16::MAX)?;
        Some(written(&port, number))
    });
    let name = fields.optional("name").filter(|name| !is_empty_text(name));
    let target = fields.optional("targetPort");
    let target = target.map(|target| target_port(&target));
    let app_protocol = fields.optional("appProtocol");
    let tells = app_protocol.as_ref().or(name.as_ref()).map(origin);
    let name = name.and_then(|name| port_name(&name).map(str::to_owned));
    let app_protocol = app_protocol.and_then(|protocol| protocol.text().map(str::to_owned));
    let tcp = protocol_is_tcp(&fields);
    fields.known(kubernetes::SERVICE_PORT);
    fields.no_others();
    let (number, tcp) = (number?, tcp?);
    let same = || Written {
        value: TargetPort::Number(number.value),
        origin: number.origin.clone(),
    };
    let target = match target {
        Some(target) => target?,
        None => same(),
    };
    Some(tcp.then_some(ServicePort {
        name,
        tells: tells.unwrap_or_else(|| number.origin.clone()),
        port: number,
        target,
        app_protocol,
    }))
}

fn is_empty_text(reader: &Reader<'_>) -> bool {
    matches!(&reader.node().value, Value::Scalar(scalar) if scalar.as_str().is_empty())
}

/// A number without quotes, or a name. `"8080"` in quotes is a name to Kubernetes, and a wrong
/// one.
fn target_port(reader: &Reader<'_>) -> Option<Written<TargetPort>> {
    let scalar = match &reader.node().value {
        Value::Scalar(scalar) => Some(scalar),
        Value::List(_) | Value::Map(_) => None,
    };
    let resolved = scalar.map(Scalar::resolve);
    let digits = |scalar: &Scalar| {
        let text = scalar.as_str();
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let target = if resolved == Some(Resolved::Integer) {
        TargetPort::Number(reader.integer(1..=u16::MAX)?)
    } else if resolved == Some(Resolved::Text) && scalar.is_some_and(digits) {
        reader.error("in quotes is a name, and names have a letter; remove the quotes");
        return None;
    } else {
        TargetPort::Name(port_name(reader)?.to_owned())
    };
    Some(written(reader, target))
}
