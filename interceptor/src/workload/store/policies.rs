//! Policies: compiled, their mistakes brought to lines, worked out for local workloads.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use interceptor_policy::{
    Compiled, Effective, PeerAuthentication, Policy, PolicyMeta, PolicyName, PolicySet, Problem,
    Severity as ProblemSeverity, spec::SelectorSpec,
};

use super::build::Findings;
use super::service::LabelIndex;
use super::{Mesh, MeshSettings};
use crate::workload::objects::{AuthorizationPolicy, Meta, Objects, PeerAuthentication as Modes};
use crate::workload::{Enrolment, Workload, WorkloadId};
use crate::yaml::{Mistake, Node, Severity};

/// So many workloads are named in a finding about several.
const NAMED: usize = 3;

/// Compiles all policies and reports what is wrong with them, and what selects nothing.
pub(super) fn policies(
    objects: &Objects,
    settings: &MeshSettings,
    by_label: &LabelIndex<'_>,
    findings: &mut Findings,
) -> PolicySet {
    let policy_settings = settings.policy_settings();
    let mut policies = Vec::new();
    for object in &objects.authorization_policies {
        let written = Written::from(object);
        let dry_run = object.meta.annotations.get("istio.io/dry-run");
        let meta = PolicyMeta {
            dry_run: dry_run.map(|annotation| annotation.value.clone()),
        };
        let compiled = Policy::compile(written.name(), &meta, &object.spec, &policy_settings);
        policies.extend(written.locate_problems(compiled, findings));
        written.report_empty(object.spec.selector.as_ref(), by_label, settings, findings);
    }
    let mut modes = Vec::new();
    for object in &objects.peer_authentications {
        let written = Written::from(object);
        let created = object.meta.created.as_deref();
        let name = written.name();
        let compiled = PeerAuthentication::compile(name, created, &object.spec, &policy_settings);
        modes.extend(written.locate_problems(compiled, findings));
        written.report_empty(object.spec.selector.as_ref(), by_label, settings, findings);
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

/// An Istio object as it was written.
#[derive(Clone, Copy)]
struct Written<'a> {
    meta: &'a Meta,
    tree: &'a Node,
    misread: &'a [String],
}

impl<'a> From<&'a AuthorizationPolicy> for Written<'a> {
    fn from(object: &'a AuthorizationPolicy) -> Self {
        Self {
            meta: &object.meta,
            tree: &object.written,
            misread: &object.misread,
        }
    }
}

impl<'a> From<&'a Modes> for Written<'a> {
    fn from(object: &'a Modes) -> Self {
        Self {
            meta: &object.meta,
            tree: &object.written,
            misread: &object.misread,
        }
    }
}

impl Written<'_> {
    fn name(&self) -> PolicyName {
        PolicyName::new(
            Arc::clone(&self.meta.namespace),
            Arc::clone(&self.meta.name),
        )
    }

    /// An error at a key path inside of the object, which may itself stand in a list.
    fn error_at(&self, path: &str, message: String) -> Mistake {
        let origin = &self.meta.origin;
        let key = match &*origin.key {
            "" => path.to_owned(),
            object => format!("{object}.{path}"),
        };
        Mistake::at(&origin.file, self.tree.locate(path), key, message)
    }

    /// Turns the field paths of the policy engine into lines. What only follows from a field that
    /// could not be read is left out: its author knows already.
    fn locate_problems<T>(
        &self,
        compiled: Result<Compiled<T>, Vec<Problem>>,
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
            let finding = self.error_at(&problem.path.to_string(), problem.message);
            let follows = |misread: &String| {
                let below = misread.strip_prefix(finding.key.as_str());
                below.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            };
            if !self.misread.iter().any(follows) {
                findings.add(finding.with(severity));
            }
        }
        value
    }

    /// A selector that selects nothing is probably a typo, and its policy protects nobody.
    fn report_empty(
        &self,
        selector: Option<&SelectorSpec>,
        by_label: &LabelIndex<'_>,
        settings: &MeshSettings,
        findings: &mut Findings,
    ) {
        let Some(selector) = selector.filter(|selector| !selector.match_labels.is_empty()) else {
            return;
        };
        // From the root namespace a selector reaches into all of them.
        let everywhere = *self.meta.namespace == *settings.root_namespace;
        let namespace = (!everywhere).then_some(&*self.meta.namespace);
        if !by_label.any(namespace, &selector.match_labels) {
            let message = "selects no workload; compare it with the Pods' labels".to_owned();
            let finding = self.error_at("spec.selector.matchLabels", message);
            findings.add(finding.with(Severity::Warning));
        }
    }
}

/// Works out what holds for this node's workloads and reports port names that they do not have.
pub(super) fn work_out_local(mesh: &mut Mesh, objects: &Objects, findings: &mut Findings) {
    let local: HashMap<WorkloadId, Effective> = mesh
        .on_this_node()
        .map(|workload| (workload.id.clone(), mesh.work_out_policies(workload)))
        .collect();
    let mut without: BTreeMap<(PolicyName, String, &str), Vec<&WorkloadId>> = BTreeMap::new();
    for (id, effective) in &local {
        let enrolled = |workload: &Arc<Workload>| workload.enrolment == Enrolment::Enrolled;
        if !mesh.workload(id).is_some_and(enrolled) {
            continue;
        }
        for unknown in effective.unknown_port_names() {
            let path = unknown.path.to_string();
            let key = (unknown.policy.clone(), path, unknown.port_name.as_str());
            without.entry(key).or_default().push(id);
        }
    }
    let by_name: HashMap<(&str, &str), &AuthorizationPolicy> = objects
        .authorization_policies
        .iter()
        .map(|object| ((&*object.meta.namespace, &*object.meta.name), object))
        .collect();
    for ((policy, path, port), mut ids) in without {
        ids.sort();
        let Some(object) = by_name.get(&(&*policy.namespace, &*policy.name)) else {
            continue;
        };
        let message = format!(
            "never matches for {}: no port there is named \"{port}\"",
            several(&ids)
        );
        let finding = Written::from(*object).error_at(&path, message);
        findings.add(finding.with(Severity::Warning));
    }
    mesh.effective = local;
}

/// "demo/a, demo/b, demo/c (and 4 more)".
fn several(ids: &[&WorkloadId]) -> String {
    let named: Vec<String> = ids.iter().take(NAMED).map(ToString::to_string).collect();
    match ids.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} (and {more} more)", named.join(", ")),
    }
}
