//! What the agent has no use for and an analysis has: Pod templates, `NetworkPolicy`,
//! `ServiceEntry`, `ServiceAccount`, annotations where nobody reads them.
//!
//! Read leniently: whether these objects are right is the business of whoever uses them. What
//! cannot be read is left out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::finding::Place;
use super::network_policy::NetworkPolicy;
use crate::workload::WorkloadId;
use crate::workload::objects::{Objects, Template, templates};
use crate::yaml::{Document, Fields, Position, Reader, Report};

/// The prefixes of annotations that mean something on a Pod only.
const POD_ANNOTATIONS: [&str; 2] = ["traffic.sidecar.istio.io/", "interceptor.dev/"];
/// The label that enrols Pods and namespaces.
const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";

/// What was read beside the agent's own objects.
#[derive(Debug, Default)]
pub(super) struct Extra {
    pub(super) templates: Vec<Template>,
    pub(super) network_policies: Vec<NetworkPolicy>,
    /// `NetworkPolicy` objects that could not be read, and why.
    pub(super) unreadable: Vec<(Place, String)>,
    pub(super) service_entries: Vec<ServiceEntry>,
    /// `ServiceAccount` objects, by namespace and name.
    pub(super) accounts: BTreeSet<(String, String)>,
    /// Annotations and labels that nobody reads where they stand.
    pub(super) misplaced: Vec<(Place, String)>,
    /// Ports of `ExternalName` Services, with their names.
    pub(super) external_ports: Vec<(Place, Option<String>)>,
    /// The line that each object begins in, by file.
    begins: HashMap<Arc<str>, BTreeMap<u32, String>>,
}

/// A `ServiceEntry`, as far as it may overlap with another.
#[derive(Debug)]
pub(super) struct ServiceEntry {
    pub(super) place: Place,
    pub(super) namespace: String,
    /// Seen by its own namespace only.
    pub(super) private: bool,
    pub(super) hosts: Vec<String>,
    pub(super) addresses: Vec<IpNet>,
    pub(super) ports: Vec<u16>,
}

impl Extra {
    /// Takes one document in.
    pub(super) fn see(&mut self, document: &Document) {
        self.templates.extend(templates(document));
        let report = Report::with_limit(0);
        self.object(&Reader::new(document, &report));
    }

    fn object(&mut self, reader: &Reader<'_>) {
        let Some(fields) = reader.fields() else {
            return;
        };
        let Some(kind) = fields.optional("kind").and_then(|kind| kind.text()) else {
            return;
        };
        if let Some(items) = fields.optional("items").filter(|_| kind.ends_with("List")) {
            items
                .items()
                .into_iter()
                .flatten()
                .for_each(|item| self.object(&item));
            return;
        }
        let object = Object::of(kind, reader, &fields);
        let shown = object
            .as_ref()
            .map_or_else(|| kind.to_owned(), Object::shown);
        let begins = self.begins.entry(Arc::clone(reader.file())).or_default();
        begins.insert(reader.position().line, shown);
        let Some(object) = object else {
            return;
        };
        self.misplaced.extend(misplaced(&object));
        match kind {
            "NetworkPolicy" => self.network_policy(&object),
            "ServiceEntry" => self.service_entries.extend(service_entry(&object)),
            "Service" => self.external_ports.extend(external_ports(&object)),
            "ServiceAccount" => {
                let namespace = object.namespace.to_owned();
                self.accounts.insert((namespace, object.name.to_owned()));
            }
            _ => {}
        }
    }

    fn network_policy(&mut self, object: &Object<'_>) {
        match NetworkPolicy::read(object) {
            Ok(policy) => self.network_policies.push(policy),
            Err(why) => self.unreadable.push((object.place(), why)),
        }
    }

    /// The object that a line of a file belongs to.
    pub(super) fn object_at(&self, file: &Arc<str>, line: u32) -> String {
        let begins = self.begins.get(file);
        let before = begins.and_then(|begins| begins.range(..=line).next_back());
        before.map(|(_, name)| name.clone()).unwrap_or_default()
    }

    /// Adds the Pods that controllers will make to the Pods that are there, under names that are
    /// free.
    pub(super) fn make_pods(&mut self, objects: &mut Objects) {
        let ids = objects.pods.iter().map(|pod| &pod.meta);
        let ids = ids.chain(objects.workload_entries.iter().map(|entry| &entry.meta));
        let mut taken: HashSet<WorkloadId> = ids.map(id).collect();
        for template in self.templates.iter_mut().filter(|t| t.kind != "Pod") {
            let kind = template.kind.to_ascii_lowercase();
            let own = Arc::clone(&template.pod.meta.name);
            let mut copy = 1_usize;
            while taken.contains(&id(&template.pod.meta)) {
                let name = match copy {
                    1 => format!("{own}.{kind}"),
                    more => format!("{own}.{kind}.{more}"),
                };
                template.pod.meta.name = Arc::from(name);
                copy = copy.saturating_add(1);
            }
            taken.insert(id(&template.pod.meta));
            objects.pods.push(Arc::new(template.pod.clone()));
        }
    }

    pub(super) fn templates_by_id(&self) -> HashMap<WorkloadId, &Template> {
        let templates = self.templates.iter();
        templates
            .map(|template| (id(&template.pod.meta), template))
            .collect()
    }
}

fn id(meta: &crate::workload::objects::Meta) -> WorkloadId {
    WorkloadId {
        namespace: Arc::clone(&meta.namespace),
        name: Arc::clone(&meta.name),
    }
}

/// An object of whatever kind.
pub(super) struct Object<'a> {
    kind: &'a str,
    pub(super) namespace: &'a str,
    name: &'a str,
    reader: &'a Reader<'a>,
    meta: Fields<'a>,
    pub(super) spec: Option<Fields<'a>>,
    at: Position,
}

impl<'a> Object<'a> {
    fn of(kind: &'a str, reader: &'a Reader<'a>, fields: &Fields<'a>) -> Option<Self> {
        let meta = fields.optional("metadata")?.fields()?;
        let name = meta
            .optional("name")
            .or_else(|| meta.optional("generateName"))?;
        let namespace = meta.optional("namespace").and_then(|value| value.text());
        Some(Self {
            kind,
            namespace: namespace.unwrap_or("default"),
            name: name.text()?,
            at: name.position(),
            reader,
            meta,
            spec: fields.optional("spec").and_then(|spec| spec.fields()),
        })
    }

    fn shown(&self) -> String {
        if matches!(
            self.kind,
            "Namespace" | "Node" | "ClusterRole" | "ClusterRoleBinding"
        ) {
            return format!("{} {}", self.kind, self.name);
        }
        format!("{} {}/{}", self.kind, self.namespace, self.name)
    }

    pub(super) fn place(&self) -> Place {
        Place {
            object: self.shown(),
            file: Arc::clone(self.reader.file()),
            at: self.at,
            key: self.reader.key(),
        }
    }

    fn place_of(&self, value: &Reader<'_>) -> Place {
        Place {
            at: value.position(),
            key: value.key(),
            ..self.place()
        }
    }
}

/// Capture annotations and the enrolling label on objects that are no Pods.
fn misplaced(object: &Object<'_>) -> Vec<(Place, String)> {
    if matches!(
        object.kind,
        "Pod" | "WorkloadEntry" | "Namespace" | "Node" | "WorkloadGroup"
    ) {
        return Vec::new();
    }
    let entries = |key| {
        let map = object.meta.optional(key);
        map.and_then(|map: Reader<'_>| map.entries())
            .into_iter()
            .flatten()
    };
    let annotations = entries("annotations")
        .filter(|(key, _)| POD_ANNOTATIONS.iter().any(|prefix| key.starts_with(prefix)));
    let templated = object.spec.as_ref().is_some_and(|spec| {
        spec.optional("template").is_some() || spec.optional("jobTemplate").is_some()
    });
    let labels = entries("labels").filter(|(key, _)| *key == DATAPLANE_MODE && templated);
    let found = annotations.chain(labels);
    found
        .map(|(key, value)| (object.place_of(&value), key.to_owned()))
        .collect()
}

fn service_entry(object: &Object<'_>) -> Option<ServiceEntry> {
    let spec = object.spec.as_ref()?;
    let texts = |key| {
        spec.optional(key)
            .map(|list: Reader<'_>| list.texts())
            .unwrap_or_default()
    };
    let range = |text: &String| {
        let single = || text.parse::<IpAddr>().ok().map(IpNet::from);
        text.parse::<IpNet>().ok().or_else(single)
    };
    let ports = spec
        .optional("ports")
        .map(|ports| ports.list(|port| port.fields()?.optional("number")?.integer(1..=u16::MAX)));
    let exported: Vec<String> = texts("exportTo");
    Some(ServiceEntry {
        place: object.place(),
        namespace: object.namespace.to_owned(),
        private: !exported.is_empty() && exported.iter().all(|to| to == "."),
        hosts: texts("hosts"),
        addresses: texts("addresses").iter().filter_map(range).collect(),
        ports: ports.unwrap_or_default(),
    })
}

fn external_ports(object: &Object<'_>) -> Vec<(Place, Option<String>)> {
    let Some(spec) = &object.spec else {
        return Vec::new();
    };
    let kind = spec.optional("type").and_then(|kind| kind.text());
    if kind != Some("ExternalName") {
        return Vec::new();
    }
    let ports = spec.optional("ports").map(|ports| {
        ports.list(|port| {
            let fields = port.fields()?;
            let name = fields
                .optional("appProtocol")
                .or_else(|| fields.optional("name"));
            let text = name.as_ref().and_then(Reader::text).map(str::to_owned);
            Some((object.place_of(port), text))
        })
    });
    ports.unwrap_or_default()
}
