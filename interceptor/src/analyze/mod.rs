//! What is wrong or weaker than it looks in a set of manifests, before they are applied.
//!
//! ```text
//!  files ──▶ Objects (as the agent reads them) ─┐
//!        └─▶ Extra (templates, NetworkPolicy…) ─┴─▶ Model: Mesh + policies ──▶ checks ──▶ Findings
//! ```
//!
//! # Why it builds the mesh
//!
//! The checks ask the very functions that the data plane uses: which policies hold for a workload,
//! which mode its ports have, what is captured, where a Service leads. The Pods that Deployments
//! will make stand in for the workloads that do not exist yet. What rules can and cannot do is
//! proved by the policy engine.
//!
//! # Invariants
//!
//! * An error is an error: on manifests that work there is none. What only may be wrong is a warning,
//!   and what cannot be known from these manifests is a note or nothing.
//! * What the agent itself would complain about is never lost: it is a finding, once.
//! * Time and memory are bounded, whatever the files hold.
//!
//! Not here: printing (`cli`), proofs about rules (`interceptor_policy`).

mod catalogue;
mod checks;
mod extra;
mod finding;
mod model;
mod network_policy;
mod protocol;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

pub use catalogue::{CATALOGUE, Check, Severity, documentation};
pub use finding::{Finding, Suppression};

use crate::workload::MeshSettings;
use crate::workload::objects::{Ignored, Meta, Objects};
use crate::workload::source::directory::{DirectoryLimits, load_trees};
use crate::yaml::{self, Mistake};
use extra::Extra;
use finding::{Findings, Place};
use model::Model;

/// What was found in a set of manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Analysis {
    /// How many files were read.
    pub files: usize,
    /// How many objects were looked at, templates of Pods included.
    pub objects: usize,
    /// The findings, the worst first.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub not_shown: usize,
    /// How many were suppressed.
    pub suppressed: usize,
}

/// Reads files and folders, and says what is wrong with them.
pub fn analyze(paths: &[PathBuf], settings: &MeshSettings, accepted: &[Suppression]) -> Analysis {
    let mut extra = Extra::default();
    let limits = DirectoryLimits::default();
    let loaded = load_trees(paths, &limits, |document| extra.see(document));
    let mut objects = loaded.objects;
    let mut findings = Findings::default();
    report_duplicates(&mut objects, &mut findings);
    report_kinds_not_read(&objects, &extra, &mut findings);
    extra.make_pods(&mut objects);
    let (model, mistakes) = Model::new(&objects, &extra, settings);
    checks::all(&model, settings, &mut findings);
    report_mistakes(loaded.mistakes, mistakes, &extra, &mut findings);
    if loaded.files == 0 {
        report_nothing(paths, &mut findings);
    }
    let objects = objects.len();
    let (mut list, not_shown) = findings.finish();
    let found = list.len();
    list.retain(|finding| !accepted.iter().any(|one| one.hides(finding)));
    Analysis {
        files: loaded.files,
        objects,
        suppressed: found.saturating_sub(list.len()),
        findings: list,
        not_shown,
    }
}

impl Analysis {
    /// How many findings of a severity there are.
    pub fn count(&self, severity: Severity) -> usize {
        let findings = self.findings.iter();
        findings.filter(|f| f.severity == severity).count()
    }

    /// Whether anything is at least so severe.
    pub fn has(&self, severity: Severity) -> bool {
        self.findings.iter().any(|f| f.severity >= severity)
    }
}

/// What the agent would complain about and no check has found.
fn report_mistakes(
    read: Vec<Mistake>,
    built: Vec<Mistake>,
    extra: &Extra,
    findings: &mut Findings,
) {
    for mistake in read.into_iter().chain(built) {
        let check = match mistake.severity {
            yaml::Severity::Note => continue,
            yaml::Severity::Warning => &catalogue::SCHEMA_WARNING,
            yaml::Severity::Error => &catalogue::SCHEMA_ERROR,
        };
        if findings.covers(&mistake) {
            continue;
        }
        let place = Place {
            object: extra.object_at(&mistake.file, mistake.line),
            file: Arc::clone(&mistake.file),
            at: yaml::Position {
                line: mistake.line,
                column: mistake.column,
            },
            key: mistake.key,
        };
        let (effect, fix) = told(&mistake.message);
        findings.add(check, &place, effect, fix);
    }
}

/// That nothing was found in nothing is no answer.
fn report_nothing(paths: &[PathBuf], findings: &mut Findings) {
    for path in paths.iter().filter(|path| path.is_dir()) {
        let place = Place {
            object: String::new(),
            file: Arc::from(path.to_string_lossy()),
            at: yaml::Position { line: 0, column: 0 },
            key: String::new(),
        };
        let effect = "holds no manifests (*.yaml, *.yml, *.json), so nothing was looked at";
        findings.add(
            &catalogue::SCHEMA_WARNING,
            &place,
            effect,
            "name the folder that holds them",
        );
    }
}

/// What a message says, and what it tells to do: what comes after the last semicolon, if that is an
/// instruction.
fn told(message: &str) -> (&str, &str) {
    const INSTRUCTIONS: [&str; 18] = [
        "add", "attach", "compare", "correct", "delete", "did", "join", "make", "move", "name",
        "remove", "rename", "save", "set", "split", "to", "use", "write",
    ];
    let instructs = |text: &str| {
        let first = text.split(' ').next();
        first.is_some_and(|word| INSTRUCTIONS.contains(&word))
    };
    match message.rsplit_once("; ") {
        Some((effect, fix)) if instructs(fix) => (effect, fix),
        _ => (message, ""),
    }
}

/// Objects that are there twice: the last one counts here, as it does when they are applied.
fn report_duplicates(objects: &mut Objects, findings: &mut Findings) {
    fn check<T>(kind: &str, list: &mut Vec<T>, meta: fn(&T) -> &Meta, findings: &mut Findings) {
        let key = |meta: &Meta| (Arc::clone(&meta.namespace), Arc::clone(&meta.name));
        let mut last: HashMap<(Arc<str>, Arc<str>), usize> = HashMap::new();
        let mut gone: BTreeSet<usize> = BTreeSet::new();
        for (index, object) in list.iter().enumerate() {
            let meta = meta(object);
            if let Some(before) = last.insert(key(meta), index) {
                gone.insert(before);
            }
        }
        for index in &gone {
            let (Some(object), Some(stays)) = (
                list.get(*index).map(meta),
                list.get(*index)
                    .and_then(|o| list.get(*last.get(&key(meta(o)))?)),
            ) else {
                continue;
            };
            let stays = Place::at(kind, meta(stays), &meta(stays).origin).short();
            let place = Place::at(kind, object, &object.origin);
            findings.add(
                &catalogue::DUPLICATE,
                &place,
                format!(
                    "is there again in {stays}: the agent refuses both, and kubectl keeps the last"
                ),
                "delete one of them",
            );
        }
        let mut index = 0_usize;
        list.retain(|_| {
            let stays = !gone.contains(&index);
            index = index.saturating_add(1);
            stays
        });
    }
    check("Namespace", &mut objects.namespaces, |o| &o.meta, findings);
    check("Pod", &mut objects.pods, |o| &o.meta, findings);
    check(
        "WorkloadEntry",
        &mut objects.workload_entries,
        |o| &o.meta,
        findings,
    );
    check("Service", &mut objects.services, |o| &o.meta, findings);
    check(
        "AuthorizationPolicy",
        &mut objects.authorization_policies,
        |o| &o.meta,
        findings,
    );
    check(
        "ServiceEntry",
        &mut objects.service_entries,
        |o| &o.meta,
        findings,
    );
    check("Sidecar", &mut objects.sidecars, |o| &o.meta, findings);
    check(
        "PeerAuthentication",
        &mut objects.peer_authentications,
        |o| &o.meta,
        findings,
    );
}

/// One note per kind of Istio's that this release does not read.
fn report_kinds_not_read(objects: &Objects, extra: &Extra, findings: &mut Findings) {
    let mut kinds: BTreeMap<&str, (&Ignored, usize)> = BTreeMap::new();
    let ignored = objects.ignored.iter();
    for ignored in ignored.filter(|one| one.kind.contains(".istio.io/")) {
        let (_, count) = kinds.entry(&ignored.kind).or_insert((ignored, 0));
        *count = count.saturating_add(1);
    }
    for (ignored, count) in kinds.into_values() {
        let origin = &ignored.origin;
        let place = Place {
            object: extra.object_at(&origin.file, origin.at.line),
            file: Arc::clone(&origin.file),
            at: origin.at,
            key: origin.key.to_string(),
        };
        findings.add(
            &catalogue::NOT_READ,
            &place,
            format!(
                "{} ({count} here) has no effect on this agent",
                ignored.kind
            ),
            "keep it for Istio's own proxies; do not count on it here",
        );
    }
}

#[cfg(test)]
mod tests;
