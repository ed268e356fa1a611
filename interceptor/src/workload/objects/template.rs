//! Pods that do not exist yet: what controllers (Deployment, `StatefulSet`, `DaemonSet`, Job, `CronJob`
//! and any kind of the same shape) will make from their templates.
//!
//! The agent has no use for them; tools that judge manifests before they are applied do, because
//! that is where people's Pods come from. Read leniently: whether a template is right is the API
//! server's business, and what cannot be read is left out.

use std::sync::Arc;

use super::meta::{annotations, origin};
use super::{Meta, Origin, Pod};
use crate::yaml::{Document, Fields, Reader, Report};

/// The Pod of a manifest, or the one that a controller will make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// `Pod`, `Deployment`, ...
    pub kind: String,
    /// What it will be: named as its controller, without addresses.
    pub pod: Pod,
    /// All ports of its containers, of every protocol.
    pub declared: Vec<DeclaredPort>,
}

/// A port that a container declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredPort {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// `containerPort`.
    pub number: u16,
    /// Whether its protocol is UDP.
    pub udp: bool,
    /// Where it was written.
    pub origin: Origin,
}

/// The Pods that a document describes, itself or by a template.
pub fn templates(document: &Document) -> Vec<Template> {
    // A report of its own: what is wrong here is not complained about.
    let report = Report::with_limit(0);
    let mut found = Vec::new();
    collect(&Reader::new(document, &report), &mut found);
    found
}

fn collect(object: &Reader<'_>, found: &mut Vec<Template>) {
    let Some(fields) = object.fields() else {
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
            .for_each(|item| collect(&item, found));
        return;
    }
    found.extend(template(kind, object, &fields));
}

fn template(kind: &str, object: &Reader<'_>, fields: &Fields<'_>) -> Option<Template> {
    let pod = if kind == "Pod" {
        object.clone()
    } else {
        let spec = fields.optional("spec")?.fields()?;
        let of_job = spec
            .optional("jobTemplate")
            .and_then(|job| job.fields()?.optional("spec")?.fields());
        of_job.unwrap_or(spec).optional("template")?
    };
    let inner = pod.fields()?;
    let declared = declared(&inner)?;
    let meta = meta(&fields.optional("metadata")?, &inner, object)?;
    Some(Template {
        kind: kind.to_owned(),
        pod: super::pod::from_template(meta, &inner)?,
        declared,
    })
}

/// The controller's name, the template's labels and annotations.
fn meta(controller: &Reader<'_>, pod: &Fields<'_>, object: &Reader<'_>) -> Option<Meta> {
    let controller = controller.fields()?;
    let named = controller
        .optional("name")
        .or_else(|| controller.optional("generateName"))?;
    let name = named.text()?.trim_end_matches('-');
    let namespace = controller
        .optional("namespace")
        .and_then(|value| value.text());
    let own = pod.optional("metadata").and_then(|meta| meta.fields());
    let labels = own.as_ref().and_then(|own| own.optional("labels"));
    let notes = own.as_ref().and_then(|own| own.optional("annotations"));
    Some(Meta {
        namespace: Arc::from(namespace.unwrap_or("default")),
        name: Arc::from(name),
        labels: Arc::new(labels.map(|labels| labels.text_map()).unwrap_or_default()),
        annotations: notes.map(|notes| annotations(&notes)).unwrap_or_default(),
        created: None,
        deleting: false,
        owner: Some(name.to_owned()),
        origin: Origin {
            at: named.position(),
            ..origin(object)
        },
    })
}

/// `None` if this is no Pod: it has no containers.
fn declared(pod: &Fields<'_>) -> Option<Vec<DeclaredPort>> {
    let spec = pod.optional("spec")?.fields()?;
    let containers = spec.optional("containers")?.list(|container| {
        let ports = container.fields()?.optional("ports")?;
        Some(ports.list(declared_port))
    });
    Some(containers.into_iter().flatten().collect())
}

fn declared_port(port: &Reader<'_>) -> Option<DeclaredPort> {
    let fields = port.fields()?;
    let number = fields.optional("containerPort")?;
    let text = |key| {
        fields
            .optional(key)
            .and_then(|value: Reader<'_>| value.text())
    };
    Some(DeclaredPort {
        name: text("name").map(str::to_owned),
        number: number.integer(1..=u16::MAX)?,
        udp: text("protocol") == Some("UDP"),
        origin: origin(&number),
    })
}
