//! What was found, by what it was found about: a change takes away what is not true any more and
//! adds what is, without looking at the rest.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::table::Key;
use crate::workload::Binding;
use crate::yaml::{Mistake, Severity};

/// More findings than this are counted only.
const MAX_SHOWN: usize = 1000;

/// So many are kept about one thing: one object can have as many mistakes as its file has words.
const MAX_OF_ONE: usize = 100;

/// So many are kept in all. Beyond, which of them are kept depends on the order of the changes;
/// that there are errors never does.
const MAX_KEPT: usize = 20_000;

/// What a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// Several objects of one kind with one name.
    Name(Kind, Key),
    Object(Kind, Key),
    /// The selector of a policy.
    Selector(Kind, Key),
    /// The `Sidecar` objects of a namespace.
    Sidecars(Arc<str>),
    Address(IpAddr),
    Binding(Place),
    /// The `PeerAuthentication` objects that have no effect.
    IgnoredModes,
    /// Port names in policies that workloads of this node do not have.
    PortNames,
}

/// A namespace or cgroup of a node.
pub(super) type Place = (Option<Arc<str>>, Binding);

/// The kinds whose names must differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Namespace,
    /// Pods and `WorkloadEntries` share the names of workloads.
    Workload,
    Service,
    AuthorizationPolicy,
    PeerAuthentication,
    ServiceEntry,
    Sidecar,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Workload => "workload",
            Self::Service => "Service",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::ServiceEntry => "ServiceEntry",
            Self::Sidecar => "Sidecar",
        }
    }
}

/// Collects what is found about one thing.
#[derive(Debug, Default)]
pub(super) struct Findings {
    list: Vec<Mistake>,
    dropped: usize,
}

impl Findings {
    pub(super) fn add(&mut self, mistake: Mistake) {
        if self.list.len() < MAX_OF_ONE {
            self.list.push(mistake);
        } else {
            self.drop_one(mistake);
        }
    }

    /// An error must stay visible as such, however many warnings came before it.
    fn drop_one(&mut self, mistake: Mistake) {
        self.dropped = self.dropped.saturating_add(1);
        if mistake.is_error()
            && let Some(last) = self.list.iter_mut().rfind(|kept| !kept.is_error())
        {
            *last = mistake;
        }
    }
}

/// Everything that is found at this time.
#[derive(Debug, Default)]
pub(super) struct Noted {
    about: BTreeMap<Subject, Findings>,
    kept: usize,
}

impl Noted {
    /// What is true of `subject` from now on, instead of what was.
    pub(super) fn set(&mut self, subject: Subject, mut findings: Findings) {
        if let Some(before) = self.about.remove(&subject) {
            self.kept = self.kept.saturating_sub(before.list.len());
        }
        if findings.list.is_empty() {
            return;
        }
        let room = MAX_KEPT.saturating_sub(self.kept).max(1);
        // Errors first, so that one is kept if there is one.
        if findings.list.len() > room {
            findings.list.sort_by_key(|finding| !finding.is_error());
            let beyond = findings.list.len().saturating_sub(room);
            findings.dropped = findings.dropped.saturating_add(beyond);
            findings.list.truncate(room);
        }
        self.kept = self.kept.saturating_add(findings.list.len());
        self.about.insert(subject, findings);
    }

    /// All findings in the order of files and lines, errors rather than others if there are too
    /// many.
    pub(super) fn to_mistakes(&self) -> Vec<Mistake> {
        let all = self.about.values().flat_map(|findings| &findings.list);
        let mut all: Vec<&Mistake> = all.collect();
        all.sort_unstable();
        // What a namespace says wrongly is found once for each of its workloads.
        all.dedup();
        let counted = self.about.values().map(|findings| findings.dropped);
        let mut dropped: usize = counted.sum();
        if all.len() > MAX_SHOWN {
            dropped = dropped.saturating_add(all.len().saturating_sub(MAX_SHOWN));
            all.sort_by_key(|finding| !finding.is_error());
            all.truncate(MAX_SHOWN);
            all.sort_unstable();
        }
        let mut shown: Vec<Mistake> = all.into_iter().cloned().collect();
        if let (Some(last), true) = (shown.last(), dropped > 0) {
            let message = format!("{dropped} more findings are not shown");
            let file = Arc::clone(&last.file);
            shown.push(Mistake::in_file(&file, message).with(Severity::Warning));
        }
        shown
    }
}
