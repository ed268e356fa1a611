//! Which workloads the label selectors of Services, policies and `ServiceEntries` select.
//!
//! Kept from both ends: a workload that changes finds the selectors that may select it by one of
//! their labels, and a selector knows its workloads. A selector that changes costs one look at the
//! workloads that it could select.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::noted::Kind;
use super::table::Key;
use crate::workload::WorkloadId;

pub(super) type Labels = BTreeMap<String, String>;

/// Whose selector it is.
pub(super) type Owner = (Kind, Key);

/// The labels that are wanted, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The namespace; `None` for all of them.
    pub(super) namespace: Option<Arc<str>>,
    /// Never empty.
    pub(super) labels: Labels,
}

/// What a change has consequences for.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// Selectors that have gained or lost workloads, or one of whose workloads has changed.
    pub(super) owners: BTreeSet<Owner>,
    /// Workloads that other selectors select than before.
    pub(super) workloads: BTreeSet<WorkloadId>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Selection {
    workloads: HashMap<Arc<str>, BTreeMap<Arc<str>, Selected>>,
    selectors: HashMap<u32, Selector>,
    owners: HashMap<Owner, u32>,
    next: u32,
    index: Index,
}

/// A workload, and who selects it.
#[derive(Debug)]
struct Selected {
    labels: Arc<Labels>,
    /// Ascending.
    by: Box<[u32]>,
}

#[derive(Debug)]
struct Selector {
    owner: Owner,
    wanted: Wanted,
    members: BTreeSet<WorkloadId>,
}

impl Selection {
    /// The workloads that a selector selects, by name.
    pub(super) fn members(&self, owner: &Owner) -> impl Iterator<Item = &WorkloadId> {
        let selector = self.owners.get(owner).and_then(|id| self.selectors.get(id));
        selector.into_iter().flat_map(|selector| &selector.members)
    }

    /// Whether it has a selector, and that selects nothing.
    pub(super) fn selects_nothing(&self, owner: &Owner) -> bool {
        let selector = self.owners.get(owner).and_then(|id| self.selectors.get(id));
        selector.is_some_and(|selector| selector.members.is_empty())
    }

    /// Who selects a workload.
    pub(super) fn owners_of(&self, id: &WorkloadId) -> impl Iterator<Item = &Owner> {
        let selected = (self.workloads.get(&id.namespace)).and_then(|all| all.get(&id.name));
        let by = selected.into_iter().flat_map(|selected| &selected.by);
        by.filter_map(|id| Some(&self.selectors.get(id)?.owner))
    }

    /// The workloads of a namespace.
    pub(super) fn of_namespace(&self, namespace: &Arc<str>) -> Vec<WorkloadId> {
        let names = self.workloads.get(namespace).into_iter().flatten();
        names.map(|(name, _)| id(namespace, name)).collect()
    }

    /// All workloads.
    pub(super) fn all(&self) -> Vec<WorkloadId> {
        let namespaces = self.workloads.keys();
        namespaces.flat_map(|it| self.of_namespace(it)).collect()
    }

    /// Takes new selectors for the old ones of the same owners; `None` for one that has none.
    pub(super) fn select(&mut self, changes: Vec<(Owner, Option<Wanted>)>, moved: &mut Moved) {
        let mut looked_at: BTreeSet<Option<Arc<str>>> = BTreeSet::new();
        for (owner, wanted) in changes {
            let before = self
                .owners
                .get(&owner)
                .and_then(|id| self.selectors.get(id));
            if before.map(|selector| &selector.wanted) == wanted.as_ref() {
                continue;
            }
            looked_at.extend(self.forget(&owner).map(|before| before.namespace));
            if let Some(wanted) = wanted {
                looked_at.insert(wanted.namespace.clone());
                self.remember(&owner, wanted);
            }
            moved.owners.insert(owner);
        }
        if looked_at.contains(&None) {
            looked_at = self.workloads.keys().cloned().map(Some).collect();
        }
        for namespace in looked_at.iter().flatten() {
            let Some(names) = self.workloads.get_mut(namespace) else {
                continue;
            };
            for (name, selected) in names {
                let by = self
                    .index
                    .matching(namespace, &selected.labels, &self.selectors);
                if selected.by != by {
                    let id = id(namespace, name);
                    let before = std::mem::replace(&mut selected.by, by);
                    let changed = differing(&before, &selected.by);
                    relate(&mut self.selectors, &id, &before, &selected.by);
                    name_owners(&self.selectors, changed, moved);
                    moved.workloads.insert(id);
                }
            }
        }
    }

    /// Takes the labels of a workload that has changed; `None` for one that is gone.
    pub(super) fn place(
        &mut self,
        id: &WorkloadId,
        labels: Option<&Arc<Labels>>,
        moved: &mut Moved,
    ) {
        let by = match labels {
            Some(labels) => self.index.matching(&id.namespace, labels, &self.selectors),
            None => Box::default(),
        };
        let names = self.workloads.entry(Arc::clone(&id.namespace)).or_default();
        let before = match labels {
            Some(labels) => names.insert(
                Arc::clone(&id.name),
                Selected {
                    labels: Arc::clone(labels),
                    by: by.clone(),
                },
            ),
            None => names.remove(&id.name),
        };
        if names.is_empty() {
            self.workloads.remove(&id.namespace);
        }
        let before = before.map(|selected| selected.by).unwrap_or_default();
        if before != by {
            relate(&mut self.selectors, id, &before, &by);
            moved.workloads.insert(id.clone());
        }
        // Not only those that differ: the workload itself has changed.
        let all = before.iter().chain(&by).copied();
        name_owners(&self.selectors, all, moved);
    }

    fn forget(&mut self, owner: &Owner) -> Option<Wanted> {
        let id = self.owners.remove(owner)?;
        let selector = self.selectors.remove(&id)?;
        self.index.remove(&selector.wanted, id);
        Some(selector.wanted)
    }

    fn remember(&mut self, owner: &Owner, wanted: Wanted) {
        let id = self.next;
        // Four thousand million changes of selectors later.
        self.next = self.next.wrapping_add(1);
        self.index.add(&wanted, id);
        let selector = Selector {
            owner: owner.clone(),
            wanted,
            members: BTreeSet::new(),
        };
        self.selectors.insert(id, selector);
        self.owners.insert(owner.clone(), id);
    }
}

fn id(namespace: &Arc<str>, name: &Arc<str>) -> WorkloadId {
    WorkloadId {
        namespace: Arc::clone(namespace),
        name: Arc::clone(name),
    }
}

/// Those that are in one of two ascending lists only.
fn differing(one: &[u32], other: &[u32]) -> Vec<u32> {
    let only = |these: &[u32], those: &[u32]| {
        let missing = |id: &&u32| those.binary_search(id).is_err();
        these.iter().filter(missing).copied().collect::<Vec<_>>()
    };
    [only(one, other), only(other, one)].concat()
}

fn relate(selectors: &mut HashMap<u32, Selector>, id: &WorkloadId, before: &[u32], now: &[u32]) {
    for changed in differing(before, now) {
        // One that is gone has nobody to tell.
        let Some(selector) = selectors.get_mut(&changed) else {
            continue;
        };
        if now.binary_search(&changed).is_ok() {
            selector.members.insert(id.clone());
        } else {
            selector.members.remove(id);
        }
    }
}

fn name_owners(
    selectors: &HashMap<u32, Selector>,
    ids: impl IntoIterator<Item = u32>,
    moved: &mut Moved,
) {
    for id in ids {
        let Some(Selector { owner, .. }) = selectors.get(&id) else {
            continue;
        };
        if !moved.owners.contains(owner) {
            moved.owners.insert(owner.clone());
        }
    }
}

/// Selectors by namespace (empty for all), and by key and value of one of their labels.
#[derive(Debug, Default)]
struct Index(HashMap<Arc<str>, ByLabel>);

/// By key, then value.
type ByLabel = HashMap<String, HashMap<String, Vec<u32>>>;

impl Index {
    fn add(&mut self, wanted: &Wanted, id: u32) {
        let by_key = self.0.entry(scope(wanted)).or_default();
        let filed = |(key, value): &(&String, &String)| {
            let ids = by_key.get(*key).and_then(|by_value| by_value.get(*value));
            ids.map_or(0, Vec::len)
        };
        // Under the label that fewest others are filed under.
        let Some((key, value)) = wanted.labels.iter().min_by_key(filed) else {
            return;
        };
        let by_value = by_key.entry(key.clone()).or_default();
        by_value.entry(value.clone()).or_default().push(id);
    }

    fn remove(&mut self, wanted: &Wanted, id: u32) {
        let scope = scope(wanted);
        let Some(by_key) = self.0.get_mut(&scope) else {
            return;
        };
        for (key, value) in &wanted.labels {
            let Some(by_value) = by_key.get_mut(key) else {
                continue;
            };
            if let Some(ids) = by_value.get_mut(value) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    by_value.remove(value);
                }
            }
            if by_value.is_empty() {
                by_key.remove(key);
            }
        }
        if by_key.is_empty() {
            self.0.remove(&scope);
        }
    }

    /// The selectors that select a workload of `namespace` with these labels, ascending.
    fn matching(
        &self,
        namespace: &str,
        labels: &Labels,
        selectors: &HashMap<u32, Selector>,
    ) -> Box<[u32]> {
        let scopes = [self.0.get(namespace), self.0.get("")];
        let mut found: Vec<u32> = Vec::new();
        for by_key in scopes.into_iter().flatten() {
            for (key, value) in labels {
                let ids = by_key.get(key).and_then(|by_value| by_value.get(value));
                let selects = |id: &&u32| {
                    let selector = selectors.get(id);
                    selector.is_some_and(|selector| has(labels, &selector.wanted.labels))
                };
                found.extend(ids.into_iter().flatten().filter(selects));
            }
        }
        found.sort_unstable();
        found.into_boxed_slice()
    }
}

/// Whether `labels` has all that are wanted.
pub(super) fn has(labels: &Labels, wanted: &Labels) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

fn scope(wanted: &Wanted) -> Arc<str> {
    let namespace = wanted.namespace.as_ref();
    namespace.map_or_else(|| Arc::from(""), Arc::clone)
}
