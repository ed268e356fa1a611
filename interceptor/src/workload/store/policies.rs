//! Policies: compiled, their mistakes brought to lines, worked out for the workloads of this node.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use interceptor_policy::{
    Compiled, Effective, PeerAuthentication, Policy, PolicyMeta, PolicyName, PolicySet, Problem,
    Severity as ProblemSeverity, spec::SelectorSpec,
};

use super::noted::{Findings, Kind, Subject};
use super::selection::{Labels, Moved, Owner, Wanted};
use super::table::Key;
use super::update::Store;
use crate::workload::objects::{AuthorizationPolicy, Meta, PeerAuthentication as Modes};
use crate::workload::{Enrolment, Workload, WorkloadId};
use crate::yaml::{Mistake, Node, Severity};

/// So many workloads are named in a finding about several.
const NAMED: usize = 3;

/// The workloads that a selector of a policy selects; `None` if it has none.
pub(super) fn wanted(meta: &Meta, selector: Option<&SelectorSpec>, root: &str) -> Option<Wanted> {
    let labels = &selector?.match_labels;
    // From the root namespace a selector reaches into all of them.
    let everywhere = *meta.namespace == *root;
    (!labels.is_empty()).then(|| Wanted {
        namespace: (!everywhere).then(|| Arc::clone(&meta.namespace)),
        labels: labels.clone(),
    })
}

/// Ports of a Service to those of a workload.
type TargetPorts = Arc<BTreeMap<u16, u16>>;

/// What holds for the workloads of this node, worked out once for replicas.
#[derive(Debug, Default)]
pub(super) struct InForce(HashMap<Replicas, Effective>);

/// All that decides which policies hold for a workload, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Replicas {
    namespace: Arc<str>,
    labels: Arc<Labels>,
    ports: Arc<BTreeMap<String, u16>>,
    /// The Services that it backs, with the ports behind them.
    services: Vec<(Arc<str>, TargetPorts)>,
}

impl Store {
    /// Compiles the policies that have changed, and works out what holds here.
    pub(super) fn follow_policies(
        &mut self,
        policies: &BTreeSet<Key>,
        modes: &BTreeSet<Key>,
        moved: &Moved,
    ) {
        let mut changed: BTreeSet<Arc<str>> = BTreeSet::new();
        for key in policies {
            self.compile_policy(key);
            changed.insert(Arc::clone(&key.0));
        }
        for key in modes {
            self.compile_modes(key);
            changed.insert(Arc::clone(&key.0));
        }
        let of = |kind: Kind| move |key: &Key| (kind, key.clone());
        let mut selectors = moved.owners.clone();
        selectors.extend(policies.iter().map(of(Kind::AuthorizationPolicy)));
        selectors.extend(modes.iter().map(of(Kind::PeerAuthentication)));
        self.report_empty(&selectors);
        if !changed.is_empty() {
            self.put_in_force(&changed);
        }
        self.work_out_here();
    }

    fn compile_policy(&mut self, key: &Key) {
        let mut findings = Findings::default();
        let settings = self.mesh.policies.settings();
        // Of several with one name the last counts; what is wrong is told of each.
        let mut compiled = None;
        for object in self.objects.policies.all(key) {
            let written = Written::from(&**object);
            let dry_run = object.meta.annotations.get("istio.io/dry-run");
            let meta = PolicyMeta {
                dry_run: dry_run.map(|annotation| annotation.value.clone()),
            };
            let outcome = Policy::compile(written.name(), &meta, &object.spec, settings);
            compiled = written.locate_problems(outcome, &mut findings);
        }
        match compiled {
            Some(policy) => self.policies.insert(key.clone(), Arc::new(policy)),
            None => self.policies.remove(key),
        };
        let subject = Subject::Object(Kind::AuthorizationPolicy, key.clone());
        self.noted.set(subject, findings);
    }

    fn compile_modes(&mut self, key: &Key) {
        let mut findings = Findings::default();
        let settings = self.mesh.policies.settings();
        let mut compiled = None;
        for object in self.objects.modes.all(key) {
            let written = Written::from(&**object);
            let created = object.meta.created.as_deref();
            let outcome =
                PeerAuthentication::compile(written.name(), created, &object.spec, settings);
            compiled = written.locate_problems(outcome, &mut findings);
        }
        match compiled {
            Some(modes) => self.modes.insert(key.clone(), modes),
            None => self.modes.remove(key),
        };
        let subject = Subject::Object(Kind::PeerAuthentication, key.clone());
        self.noted.set(subject, findings);
    }

    /// A selector that selects nothing is probably a typo, and its policy protects nobody.
    fn report_empty(&mut self, selectors: &BTreeSet<Owner>) {
        for owner in selectors {
            let (kind, key) = owner;
            let written = match kind {
                Kind::AuthorizationPolicy => {
                    (self.objects.policies.get(key)).map(|it| Written::from(&**it))
                }
                Kind::PeerAuthentication => {
                    (self.objects.modes.get(key)).map(|it| Written::from(&**it))
                }
                _ => continue,
            };
            let mut findings = Findings::default();
            let empty = self.selection.selects_nothing(owner);
            // Nor is it told of an object whose namespace could not be read: that is told already.
            let empty = |it: &Written<'_>| empty && !it.misread_at("metadata.namespace");
            if let Some(written) = written.filter(empty) {
                let message = "selects no workload; compare it with the Pods' labels".to_owned();
                let finding = written.error_at("spec.selector.matchLabels", message);
                findings.add(finding.with(Severity::Warning));
            }
            let subject = Subject::Selector(*kind, key.clone());
            self.noted.set(subject, findings);
        }
    }

    /// A new set of policies, in which those of these namespaces have changed.
    fn put_in_force(&mut self, changed: &BTreeSet<Arc<str>>) {
        let set = PolicySet::of(
            self.mesh.policies.settings().clone(),
            self.policies.values().cloned().collect(),
            self.modes.values().cloned().collect(),
        );
        let mut findings = Findings::default();
        for ignored in set.ignored() {
            let name = &ignored.name;
            let key = (Arc::clone(&name.namespace), Arc::clone(&name.name));
            if let Some(object) = self.objects.modes.get(&key) {
                findings.add(object.meta.origin.warning(format!(
                    "has no effect: {} is older and holds for the same workloads",
                    ignored.in_favour_of
                )));
            }
        }
        self.noted.set(Subject::IgnoredModes, findings);
        self.mesh.policies = Arc::new(set);
        if changed.contains(&self.mesh.settings.root_namespace) {
            self.in_force.0.clear();
        } else {
            let unchanged = |of: &Replicas, _: &mut Effective| !changed.contains(&of.namespace);
            self.in_force.0.retain(unchanged);
        }
    }

    /// Works out what holds for this node's workloads.
    fn work_out_here(&mut self) {
        let mut known = HashMap::new();
        let mut effective = HashMap::new();
        for (id, workload) in &*self.mesh.here {
            let replicas = self.replicas(workload);
            let holds = known.entry(replicas).or_insert_with_key(|replicas| {
                let before = self.in_force.0.remove(replicas);
                before.unwrap_or_else(|| self.mesh.work_out_policies(workload))
            });
            effective.insert(id.clone(), holds.clone());
        }
        self.in_force = InForce(known);
        self.report_port_names(&effective);
        self.mesh.effective = Arc::new(effective);
    }

    fn replicas(&self, workload: &Workload) -> Replicas {
        Replicas {
            namespace: Arc::clone(&workload.id.namespace),
            labels: Arc::clone(&workload.labels),
            ports: Arc::clone(&workload.ports),
            services: (self.mesh.backed_by(workload))
                .map(|(service, ports)| (Arc::clone(&service.name.name), Arc::clone(ports)))
                .collect(),
        }
    }

    /// Port names in policies that this node's workloads do not have.
    fn report_port_names(&mut self, effective: &HashMap<WorkloadId, Effective>) {
        let mut without: BTreeMap<(PolicyName, String, &str), Vec<&WorkloadId>> = BTreeMap::new();
        for (id, effective) in effective {
            let enrolled = |workload: &Arc<Workload>| workload.enrolment == Enrolment::Enrolled;
            if !self.mesh.workload(id).is_some_and(enrolled) {
                continue;
            }
            for unknown in effective.unknown_port_names() {
                let path = unknown.path.to_string();
                let key = (unknown.policy.clone(), path, unknown.port_name.as_str());
                without.entry(key).or_default().push(id);
            }
        }
        let mut findings = Findings::default();
        for ((policy, path, port), mut ids) in without {
            ids.sort();
            let key = (Arc::clone(&policy.namespace), Arc::clone(&policy.name));
            let Some(object) = self.objects.policies.get(&key) else {
                continue;
            };
            let message = format!(
                "never matches for {}: no port there is named \"{port}\"",
                several(&ids)
            );
            let finding = Written::from(&**object).error_at(&path, message);
            findings.add(finding.with(Severity::Warning));
        }
        self.noted.set(Subject::PortNames, findings);
    }
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

    /// Whether a field could not be read.
    fn misread_at(&self, path: &str) -> bool {
        self.misread
            .contains(&self.error_at(path, String::new()).key)
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
}

/// "demo/a, demo/b, demo/c (and 4 more)".
fn several(ids: &[&WorkloadId]) -> String {
    let named: Vec<String> = ids.iter().take(NAMED).map(ToString::to_string).collect();
    match ids.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} (and {more} more)", named.join(", ")),
    }
}
