//! Selectors that select nothing, references to nothing, objects that another one replaces.

use std::collections::{BTreeMap, BTreeSet};

use interceptor_policy::spec::{SelectorSpec, TargetRefSpec};

use super::super::catalogue::{MODE_IGNORED, NO_PODS, NO_WORKLOADS, REFERENCE_NOT_FOUND};
use super::super::finding::{Findings, Place};
use super::super::model::Model;
use super::{in_modes, in_policy};
use crate::workload::MeshSettings;
use crate::workload::objects::{AuthorizationPolicy, Meta};

const LABELS: &str = "spec.selector.matchLabels";

pub(super) fn check(model: &Model<'_>, settings: &MeshSettings, findings: &mut Findings) {
    let objects = model.objects;
    if model.workloads.is_empty() {
        no_pods(model, findings);
    }
    for object in &objects.authorization_policies {
        let place = in_policy(object, LABELS);
        let selector = object.spec.selector.as_ref();
        report_empty(model, settings, (&object.meta, selector, &place), findings);
        report_targets(model, object, findings);
    }
    for object in &objects.peer_authentications {
        let place = in_modes(object, LABELS);
        let selector = object.spec.selector.as_ref();
        report_empty(model, settings, (&object.meta, selector, &place), findings);
    }
    for ignored in model.mesh.policy_set().ignored() {
        let mut all = objects.peer_authentications.iter();
        let object = all.find(|object| {
            *object.meta.namespace == *ignored.name.namespace
                && *object.meta.name == *ignored.name.name
        });
        if let Some(object) = object {
            findings.add(
                &MODE_IGNORED,
                &Place::at("PeerAuthentication", &object.meta, &object.meta.origin),
                format!(
                    "has no effect: {} is older and has the same scope",
                    ignored.in_favour_of
                ),
                "delete one of them",
            );
        }
    }
}

/// Without any workload every selector would be a finding.
fn no_pods(model: &Model<'_>, findings: &mut Findings) {
    let services = model
        .objects
        .services
        .iter()
        .map(|object| ("Service", &object.meta));
    let policies = model.objects.authorization_policies.iter();
    let policies = policies.map(|object| ("AuthorizationPolicy", &object.meta));
    if let Some((kind, meta)) = policies.chain(services).next() {
        findings.add(
            &NO_PODS,
            &Place::at(kind, meta, &meta.origin),
            "selectors and ports were not checked: these manifests have no Pod and no template of one",
            "give the Deployments, too: -f takes several files and folders",
        );
    }
    for object in &model.objects.services {
        findings.cover(&Place::at("Service", &object.meta, &object.selector.origin));
    }
}

fn report_empty(
    model: &Model<'_>,
    settings: &MeshSettings,
    (meta, selector, place): (&Meta, Option<&SelectorSpec>, &Place),
    findings: &mut Findings,
) {
    let Some(selector) = selector.filter(|selector| !selector.match_labels.is_empty()) else {
        return;
    };
    findings.cover(place);
    let everywhere = *meta.namespace == *settings.root_namespace;
    let labels = &selector.match_labels;
    let mut elsewhere = None;
    for known in &model.workloads {
        let workload = &known.workload;
        let selected = labels
            .iter()
            .all(|(key, value)| workload.labels.get(key) == Some(value));
        if selected && (everywhere || *workload.id.namespace == *meta.namespace) {
            return;
        }
        elsewhere = elsewhere.or_else(|| selected.then_some(&workload.id));
    }
    if model.workloads.is_empty() {
        return;
    }
    let shown: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let fix = match elsewhere {
        Some(id) => format!("{id} has these labels: put the policy into its namespace"),
        None => nearest_labels(model, &meta.namespace, labels)
            .unwrap_or_else(|| "compare it with the Pods' labels".to_owned()),
    };
    // From the root namespace a selector reaches into all of them.
    let among = if everywhere {
        String::new()
    } else {
        format!(" of namespace {}", meta.namespace)
    };
    findings.add(
        &NO_WORKLOADS,
        place,
        format!(
            "holds for nothing: no workload{among} has {}",
            shown.join(",")
        ),
        fix,
    );
}

/// A label of the namespace that is spelt almost alike.
pub(super) fn nearest_labels(
    model: &Model<'_>,
    namespace: &str,
    wanted: &BTreeMap<String, String>,
) -> Option<String> {
    let own = model
        .workloads
        .iter()
        .filter(|known| *known.workload.id.namespace == *namespace);
    let labels: BTreeSet<String> = own
        .flat_map(|known| known.workload.labels.iter())
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    wanted.iter().find_map(|(key, value)| {
        let written = format!("{key}={value}");
        if labels.contains(&written) {
            return None;
        }
        let meant = model.meant(&written, labels.iter().map(String::as_str))?;
        Some(format!("did you mean {meant}?"))
    })
}

/// A policy attached to a Service that is not there holds for nothing.
fn report_targets(model: &Model<'_>, object: &AuthorizationPolicy, findings: &mut Findings) {
    let own = &*object.meta.namespace;
    let mut names = model.objects.services.iter();
    if !names.any(|service| *service.meta.namespace == *own) {
        return;
    }
    let listed = object.spec.target_refs.iter().enumerate();
    let listed = listed.map(|(index, target)| (format!("spec.targetRefs[{index}].name"), target));
    let single = object.spec.target_ref.iter();
    let single = single.map(|target| ("spec.targetRef.name".to_owned(), target));
    let is_service = |target: &TargetRefSpec| {
        target.kind == "Service" && matches!(target.group.as_str(), "" | "core")
    };
    for (path, target) in single
        .chain(listed)
        .filter(|(_, target)| is_service(target))
    {
        let exists = |name: &str| {
            let mut services = model.objects.services.iter();
            services.any(|s| *s.meta.namespace == *own && *s.meta.name == *name)
        };
        let external = model.extra.external_ports.iter();
        let shown = format!("Service {own}/{}", target.name);
        if exists(&target.name) || external.clone().any(|(place, _)| place.object == shown) {
            continue;
        }
        let there = model
            .objects
            .services
            .iter()
            .filter(|s| *s.meta.namespace == *own);
        let meant = model.meant(&target.name, there.map(|service| &*service.meta.name));
        let fix = meant.map_or_else(
            || "correct the name, or add the Service".to_owned(),
            |meant| format!("did you mean {meant}?"),
        );
        findings.add(
            &REFERENCE_NOT_FOUND,
            &in_policy(object, &path),
            format!(
                "the policy holds for nothing: there is no Service {own}/{}",
                target.name
            ),
            fix,
        );
    }
}
