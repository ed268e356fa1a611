//! From documents to kinds, and `metadata`, which all kinds share.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Meta, Namespace, Objects, Origin, Written, kubernetes};
use crate::yaml::{Document, Fields, Position, Reader, Report, Value, nearest};

/// An object of a kind that is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// `apiVersion` and kind, such as `apps/v1 Deployment`.
    pub kind: String,
    /// Where it was written.
    pub origin: Origin,
}

/// Our own annotations.
pub(in crate::workload) const NETWORK_NAMESPACE: &str = "interceptor.dev/network-namespace";
pub(in crate::workload) const CGROUP: &str = "interceptor.dev/cgroup";
pub(in crate::workload) const NODE: &str = "interceptor.dev/node";
pub(in crate::workload) const UNKNOWN_DESTINATIONS: &str = "interceptor.dev/unknown-destinations";
pub(in crate::workload) const UDP: &str = "interceptor.dev/udp";
pub(in crate::workload) const EXISTING: &str = "interceptor.dev/existing-connections";
pub(in crate::workload) const SAME_NODE: &str = "interceptor.dev/same-node";
pub(in crate::workload) const ON_AGENT_DOWN: &str = "interceptor.dev/on-agent-down";

const OURS: [&str; 8] = [
    NETWORK_NAMESPACE,
    CGROUP,
    NODE,
    UNKNOWN_DESTINATIONS,
    UDP,
    EXISTING,
    SAME_NODE,
    ON_AGENT_DOWN,
];

/// The prefixes of annotations that may have a meaning for us; others are not kept.
const KEPT: [&str; 5] = [
    "interceptor.dev/",
    "traffic.sidecar.istio.io/",
    "sidecar.istio.io/",
    "ambient.istio.io/",
    "istio.io/",
];

impl Objects {
    /// Reads one document: an object, or a list of objects.
    pub fn read(&mut self, document: &Document, report: &Report) {
        self.read_object(&Reader::new(document, report));
    }

    fn read_object(&mut self, reader: &Reader<'_>) {
        let Some(fields) = reader.fields() else {
            return;
        };
        let version = fields.required("apiVersion").and_then(|v| v.name());
        let kind = fields.required("kind").and_then(|kind| kind.name());
        let (Some(version), Some(kind)) = (version, kind) else {
            return;
        };
        match (group(version), kind) {
            ("", "Pod") => self.pods.extend(super::pod::read(&fields).map(Arc::new)),
            ("", "Service") => self
                .services
                .extend(super::service::read(&fields).map(Arc::new)),
            ("", "Namespace") => self.namespaces.extend(namespace(&fields).map(Arc::new)),
            ("", _) if kind.ends_with("List") => self.read_items(&fields),
            ("networking.istio.io", "WorkloadEntry") => self
                .workload_entries
                .extend(super::workload_entry::read(&fields).map(Arc::new)),
            ("networking.istio.io", "ServiceEntry") => self
                .service_entries
                .extend(super::egress::service_entry(&fields).map(Arc::new)),
            ("networking.istio.io", "Sidecar") => {
                self.sidecars
                    .extend(super::egress::sidecar(&fields).map(Arc::new));
            }
            ("security.istio.io", "AuthorizationPolicy") => self
                .authorization_policies
                .extend(super::istio::authorization_policy(&fields).map(Arc::new)),
            ("security.istio.io", "PeerAuthentication") => self
                .peer_authentications
                .extend(super::istio::peer_authentication(&fields).map(Arc::new)),
            (group, _) => self.ignore(reader, group, version, kind),
        }
    }

    fn read_items(&mut self, fields: &Fields<'_>) {
        fields.known(&["metadata"]);
        let items = fields.required("items").and_then(|items| items.items());
        for item in items.into_iter().flatten() {
            self.read_object(&item);
        }
        fields.no_others();
    }

    fn ignore(&mut self, reader: &Reader<'_>, group: &str, version: &str, kind: &str) {
        // A kind that nobody has, in a group that we read, is a typo and not somebody else's.
        let read = match group {
            "" => ["Pod", "Service", "Namespace"].as_slice(),
            "security.istio.io" => &["AuthorizationPolicy", "PeerAuthentication"],
            "networking.istio.io" => &["ServiceEntry", "Sidecar", "WorkloadEntry"],
            _ => &[],
        };
        let meant = nearest(kind, read.iter().copied())
            .filter(|_| !kubernetes::OTHER_KINDS.contains(&kind));
        if let Some(meant) = meant {
            reader.error(format!("unknown kind `{kind}`; did you mean `{meant}`?"));
            return;
        }
        self.ignored.push(Ignored {
            kind: format!("{version} {kind}"),
            origin: origin(reader),
        });
    }
}

/// The API group of an `apiVersion`: empty for `v1`.
fn group(version: &str) -> &str {
    version.split_once('/').map_or("", |(group, _)| group)
}

fn namespace(fields: &Fields<'_>) -> Option<Namespace> {
    fields.known(&["spec", "status"]);
    let meta = Meta {
        namespace: Arc::from(""),
        ..meta(fields)?
    };
    fields.no_others();
    Some(Namespace { meta })
}

/// Where a value stands.
pub(super) fn origin(reader: &Reader<'_>) -> Origin {
    Origin {
        file: Arc::clone(reader.file()),
        at: reader.position(),
        key: Arc::from(reader.key()),
    }
}

/// A value together with where it stands.
pub(super) fn written<T>(reader: &Reader<'_>, value: T) -> Written<T> {
    Written {
        value,
        origin: origin(reader),
    }
}

/// Reads `metadata` of an object whose top level is `object`.
pub(super) fn meta(object: &Fields<'_>) -> Option<Meta> {
    let fields = object.required("metadata")?.fields()?;
    let named = fields.optional("name");
    if named.is_none() {
        fields.reader().error("field `name` is missing");
    }
    let name = named.as_ref().and_then(|name| dns_name(name));
    let namespace = fields.optional("namespace").map(|value| dns_name(&value));
    let labels = fields.optional("labels").map(|labels| labels_of(&labels));
    let annotations = fields.optional("annotations").map(|a| annotations(&a));
    let created = fields
        .optional("creationTimestamp")
        .and_then(|created| created.text());
    let meta = Meta {
        namespace: Arc::from(namespace.unwrap_or(Some("default"))?),
        name: Arc::from(name?),
        labels: Arc::new(labels.unwrap_or_default()),
        annotations: annotations.unwrap_or_default(),
        created: created.map(str::to_owned),
        deleting: fields.optional("deletionTimestamp").is_some(),
        owner: owner(&fields),
        origin: object_origin(object.reader(), named.as_ref()),
    };
    fields.known(kubernetes::OBJECT_META);
    fields.no_others();
    Some(meta)
}

/// The same for objects whose body has mistakes of its own to tell: what could not be read is as
/// written, or a name that nobody else has. The whole load is refused for it, so such a name decides
/// nothing; but its author sees every mistake at once.
pub(super) fn meta_if_only_to_judge(object: &Fields<'_>) -> Meta {
    if let Some(meta) = meta(object) {
        return meta;
    }
    let reader = object.reader();
    let metadata = reader.node().get("metadata");
    let written = |key| match &metadata?.value.get(key)?.value.value {
        Value::Scalar(scalar) => Some(scalar.as_str()).filter(|text| !text.is_empty()),
        Value::List(_) | Value::Map(_) => None,
    };
    let unnamed = || format!("(unnamed at {}:{})", reader.file(), reader.position().line);
    Meta {
        namespace: Arc::from(written("namespace").unwrap_or("default")),
        name: written("name").map_or_else(|| Arc::from(unnamed()), Arc::from),
        labels: Arc::default(),
        annotations: BTreeMap::new(),
        created: None,
        deleting: false,
        owner: None,
        origin: origin(reader),
    }
}

/// An object is shown at its name: that is what its author recognises.
fn object_origin(object: &Reader<'_>, name: Option<&Reader<'_>>) -> Origin {
    let at = name.map_or_else(|| object.position(), Reader::position);
    Origin {
        at: Position { ..at },
        ..origin(object)
    }
}

/// What the Pod's controller is called: the name up to the hashes that Deployments append.
fn owner(fields: &Fields<'_>) -> Option<String> {
    let owners = fields.optional("ownerReferences");
    let first = owners
        .as_ref()
        .and_then(|owners| owners.items()?.next()?.fields());
    let owner = first.as_ref().and_then(|owner| {
        let kind = owner.optional("kind").and_then(|kind| kind.text())?;
        let name = owner.optional("name").and_then(|name| name.text())?;
        match kind {
            "ReplicaSet" => name.rsplit_once('-').map(|(deployment, _)| deployment),
            _ => Some(name),
        }
    });
    let generated = fields
        .optional("generateName")
        .and_then(|prefix| prefix.text())
        .map(|prefix| prefix.trim_end_matches('-'));
    owner.or(generated).map(str::to_owned)
}

/// Labels. One of our annotations among them would have no effect, and nobody would notice.
fn labels_of(reader: &Reader<'_>) -> BTreeMap<String, String> {
    let labels = reader.text_map();
    for key in OURS.iter().filter(|key| labels.contains_key(**key)) {
        reader.error(format!(
            "{key} is an annotation: move it from labels to annotations"
        ));
    }
    labels
}

pub(super) fn annotations(reader: &Reader<'_>) -> BTreeMap<String, Written<String>> {
    let entries = reader.entries().into_iter().flatten();
    entries
        .filter_map(|(key, value)| {
            let text = value.text()?;
            if key.starts_with("interceptor.dev/") && !OURS.contains(&key) {
                let hint = nearest(key, OURS).unwrap_or("one of those in docs/config.md");
                value.error(format!("unknown annotation; did you mean {hint}?"));
            }
            let kept = KEPT.iter().any(|prefix| key.starts_with(prefix));
            kept.then(|| (key.to_owned(), written(&value, text.to_owned())))
        })
        .collect()
}

/// A name as Kubernetes allows it for the kinds that we read.
fn dns_name<'a>(reader: &Reader<'a>) -> Option<&'a str> {
    let name = reader.name()?;
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    if name.len() > 253 || !name.chars().all(legal) || name.starts_with(['-', '.']) {
        reader.error(
            "must be at most 253 lower-case letters, digits, '-' and '.', and begin with a \
             letter or digit",
        );
        return None;
    }
    Some(name)
}

/// Reads addresses that may stand in a list and, once more, alone: `podIPs` and `podIP`.
pub(super) fn addresses(
    several: Option<Vec<Option<Reader<'_>>>>,
    single: Option<Reader<'_>>,
) -> Vec<Written<IpAddr>> {
    let mut found: Vec<Written<IpAddr>> = Vec::new();
    for reader in several.into_iter().flatten().flatten().chain(single) {
        let Some(text) = reader.text() else {
            continue;
        };
        let Ok(address) = text.parse::<IpAddr>() else {
            reader.error("is not an IP address");
            continue;
        };
        let address = address.to_canonical();
        if !found.iter().any(|known| known.value == address) {
            found.push(written(&reader, address));
        }
    }
    found
}
