//! Policies: compiled, their mistakes brought to lines, worked out for local workloads.

use std::collections::HashMap;
use std::sync::Arc;

use interceptor_policy::{
    Compiled, Effective, PeerAuthentication, Policy, PolicyMeta, PolicyName, PolicySet, Problem,
    Severity as ProblemSeverity, spec::SelectorSpec,
};

use super::build::Findings;
use super::service::LabelIndex;
use super::{Mesh, MeshSettings};
use crate::workload::objects::{AuthorizationPolicy, Meta, Objects};
use crate::workload::{Enrolment, WorkloadId};
use crate::yaml::{Mistake, Node, Severity};

/// Compiles all policies and reports what is wrong with them, and what selects nothing.
pub(super) fn policies(
    objects: &Objects,
    settings: &MeshSettings,
    by_label: &LabelIndex,
    findings: &mut Findings,
) -> PolicySet {
    let policy_settings = settings.policy_settings();
    let mut policies = Vec::new();
    for object in &objects.authorization_policies {
        let name = policy_name(&object.meta);
        let meta = PolicyMeta {
            dry_run: dry_run(object),
        };
        let compiled = Policy::compile(name, &meta, &object.spec, &policy_settings);
        policies.extend(located(compiled, &object.meta, &object.written, findings));
        let selector = object.spec.selector.as_ref();
        let selection = Selection {
            meta: &object.meta,
            written: &object.written,
            selector,
        };
        selection.report(by_label, settings, findings);
    }
    let mut modes = Vec::new();
    for object in &objects.peer_authentications {
        let name = policy_name(&object.meta);
        let created = object.meta.created.as_deref();
        let compiled = PeerAuthentication::compile(name, created, &object.spec, &policy_settings);
        modes.extend(located(compiled, &object.meta, &object.written, findings));
        let selector = object.spec.selector.as_ref();
        let selection = Selection {
            meta: &object.meta,
            written: &object.written,
            selector,
        };
        selection.report(by_label, settings, findings);
    }
    let set = PolicySet::new(policy_settings, policies, modes);
    for ignored in set.ignored() {
        let object = objects.peer_authentications.iter().find(|object| {
            *object.meta.namespace == *ignored.name.namespace
                && *object.meta.name == *ignored.name.name
        });
        if let Some(object) = object {
            findings.add(object.meta.origin.warning(format!(
                "has no effect: {} is older and holds for the same workloads",
                ignored.in_favour_of
            )));
        }
    }
    set
}

fn policy_name(meta: &Meta) -> PolicyName {
    PolicyName::new(Arc::clone(&meta.namespace), Arc::clone(&meta.name))
}

fn dry_run(object: &AuthorizationPolicy) -> Option<String> {
    let annotation = object.meta.annotations.get("istio.io/dry-run");
    annotation.map(|written| written.value.clone())
}

/// Turns the field paths of the policy engine into lines.
fn located<T>(
    compiled: Result<Compiled<T>, Vec<Problem>>,
    meta: &Meta,
    written: &Node,
    findings: &mut Findings,
) -> Option<T> {
    let (value, problems) = match compiled {
        Ok(compiled) => (Some(compiled.value), compiled.warnings),
        Err(problems) => (None, problems),
    };
    for problem in problems {
        let severity = match problem.severity {
            ProblemSeverity::Error => Severity::Error,
            ProblemSeverity::Warning => Severity::Warning,
        };
        let path = problem.path.to_string();
        findings.add(at_path(meta, written, &path, problem.message).with(severity));
    }
    value
}

/// An error at a key path inside of an object, which may itself stand in a list.
fn at_path(meta: &Meta, written: &Node, path: &str, message: String) -> Mistake {
    let key = match &*meta.origin.key {
        "" => path.to_owned(),
        object => format!("{object}.{path}"),
    };
    Mistake::at(&meta.origin.file, written.locate(path), key, message)
}

/// A selector and the object that it stands in.
struct Selection<'a> {
    meta: &'a Meta,
    written: &'a Node,
    selector: Option<&'a SelectorSpec>,
}

impl Selection<'_> {
    /// A selector that selects nothing is probably a typo, and its policy protects nobody.
    fn report(&self, by_label: &LabelIndex, settings: &MeshSettings, findings: &mut Findings) {
        let Self { meta, written, .. } = self;
        let Some(selector) = self
            .selector
            .filter(|selector| !selector.match_labels.is_empty())
        else {
            return;
        };
        // From the root namespace a selector reaches into all of them.
        let everywhere = *meta.namespace == *settings.root_namespace;
        let namespace = (!everywhere).then_some(&*meta.namespace);
        if !by_label.any(namespace, &selector.match_labels) {
            let path = "spec.selector.matchLabels";
            let message = "selects no workload; compare it with the Pods' labels".to_owned();
            findings.add(at_path(meta, written, path, message).with(Severity::Warning));
        }
    }
}

/// Works out what holds for this node's workloads and reports port names that they do not have.
pub(super) fn work_out_local(mesh: &mut Mesh, objects: &Objects, findings: &mut Findings) {
    let local: HashMap<WorkloadId, Effective> = mesh
        .on_this_node()
        .map(|workload| (workload.id.clone(), mesh.work_out_policies(workload)))
        .collect();
    let mut named: Vec<_> = local
        .iter()
        .filter(|(id, _)| {
            mesh.workload(id)
                .is_some_and(|workload| workload.enrolment == Enrolment::Enrolled)
        })
        .flat_map(|(id, effective)| effective.unknown_port_names().iter().map(move |u| (id, u)))
        .collect();
    named.sort_by_key(|(id, _)| *id);
    for (id, unknown) in named {
        let object = objects.authorization_policies.iter().find(|object| {
            *object.meta.namespace == *unknown.policy.namespace
                && *object.meta.name == *unknown.policy.name
        });
        if let Some(object) = object {
            let path = unknown.path.to_string();
            let message = format!(
                "workload {id} has no port named \"{}\", so this never matches there",
                unknown.port_name
            );
            let finding = at_path(&object.meta, &object.written, &path, message);
            findings.add(finding.with(Severity::Warning));
        }
    }
    mesh.effective = local;
}
