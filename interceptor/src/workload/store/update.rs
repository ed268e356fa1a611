//! Keeping a mesh equal to what its sources say, at the cost of what changes.
//!
//! ```text
//!  say(file, objects) ─▶ tables of objects by name ─▶ touched names
//!                                                         │ settle
//!     ┌───────────────────────────────────────────────────┘
//!     ▼
//!  selectors ─▶ workloads ─▶ Services ─▶ addresses ─▶ policies ─▶ what holds here ─▶ snapshot
//! ```
//!
//! Each step takes the names that the steps before it touched, works out what is true of them now,
//! and touches what depends on that: a Pod the Services that select it, a Service the workloads
//! that name its ports. What comes out as it was touches nothing. The first load is the same
//! steps with every name touched, so there is one way to build a mesh and not two that could
//! differ.
//!
//! # Invariants
//!
//! * A store is a function of what was said last of each file, whatever was said before and in
//!   which order. `tests/changes.rs` holds it to that.
//! * What is wrong is found and left out; the caller does not put a snapshot in force if anything
//!   found is an error.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use interceptor_policy::{PeerAuthentication, Policy};

use super::claims::Claims;
use super::egress::Sidecars;
use super::enrol;
use super::interned::Interned;
use super::members::Claimant;
use super::noted::{Findings, Kind, Noted, Place, Subject};
use super::policies::InForce;
use super::port_names::PortNames;
use super::selection::{Moved, Selection, Wanted};
use super::table::{Key, Object, Source, Table};
use super::{Mesh, MeshSettings, egress, policies, service};
use crate::workload::WorkloadId;
use crate::workload::objects::{self, Objects};
use crate::yaml::Mistake;

/// Everything that was said, and the mesh that follows from it.
#[derive(Debug)]
pub struct Store {
    said: HashMap<Arc<str>, Objects>,
    pub(super) objects: Tables,
    touched: Touched,
    pub(super) selection: Selection,
    pub(super) sidecars: Sidecars,
    pub(super) addresses: Claims<std::net::IpAddr, Claimant>,
    pub(super) bindings: Claims<Place, WorkloadId>,
    pub(super) port_names: PortNames,
    pub(super) policies: BTreeMap<Key, Arc<Policy>>,
    pub(super) modes: BTreeMap<Key, PeerAuthentication>,
    pub(super) in_force: InForce,
    pub(super) interned: Interned,
    pub(super) noted: Noted,
    pub(super) mesh: Mesh,
}

/// The objects of each kind.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) namespaces: Table<Arc<objects::Namespace>>,
    pub(super) workloads: Table<Source>,
    pub(super) services: Table<Arc<objects::Service>>,
    pub(super) policies: Table<Arc<objects::AuthorizationPolicy>>,
    pub(super) modes: Table<Arc<objects::PeerAuthentication>>,
    pub(super) entries: Table<Arc<objects::ServiceEntry>>,
    pub(super) sidecars: Table<Arc<objects::Sidecar>>,
}

/// The names of which something else was said since the last settling.
#[derive(Debug, Default)]
struct Touched(BTreeMap<Kind, BTreeSet<Key>>);

impl Touched {
    fn of(&self, kind: Kind) -> &BTreeSet<Key> {
        self.0.get(&kind).unwrap_or(&NOTHING)
    }

    fn on(&mut self, kind: Kind) -> &mut BTreeSet<Key> {
        self.0.entry(kind).or_default()
    }
}

static NOTHING: BTreeSet<Key> = BTreeSet::new();

/// What settling came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// How many of the objects that were there are gone.
    pub vanished: usize,
}

impl Store {
    /// A store to which nothing has been said.
    pub fn new(settings: MeshSettings) -> Self {
        Self {
            said: HashMap::new(),
            objects: Tables::default(),
            touched: Touched::default(),
            selection: Selection::default(),
            sidecars: Sidecars::new(Arc::clone(&settings.root_namespace)),
            addresses: Claims::default(),
            bindings: Claims::default(),
            port_names: PortNames::default(),
            policies: BTreeMap::new(),
            modes: BTreeMap::new(),
            in_force: InForce::default(),
            interned: Interned::default(),
            noted: Noted::default(),
            mesh: Mesh::empty(settings),
        }
    }

    /// Takes what a file says now for what it said before.
    pub fn say(&mut self, file: &Arc<str>, mut objects: Objects) {
        self.interned.objects(&mut objects);
        let before = self.said.remove(file).unwrap_or_default();
        let said = self.exchange(before, objects);
        if !said.is_empty() {
            self.said.insert(Arc::clone(file), said);
        }
    }

    /// Works out what follows from everything that was said since the last time.
    pub fn settle(&mut self) -> Settled {
        let touched = std::mem::take(&mut self.touched);
        let mut moved = Moved::default();
        self.report_names(&touched);
        let workloads = self.concerned(&touched);
        self.reselect(&touched, &mut moved);
        self.follow(workloads, touched.of(Kind::Service).clone(), &mut moved);
        self.follow_entries(touched.of(Kind::ServiceEntry), &moved);
        self.follow_policies(
            touched.of(Kind::AuthorizationPolicy),
            touched.of(Kind::PeerAuthentication),
            &moved,
        );
        Settled {
            vanished: self.vanished(&touched),
        }
    }

    /// The mesh that follows. It shares with the store what does not change.
    pub fn snapshot(&self) -> Mesh {
        self.mesh.clone()
    }

    /// What only shows when objects are seen together, and all that is wrong with policies.
    pub fn findings(&self) -> Vec<Mistake> {
        self.noted.to_mistakes()
    }

    fn exchange(&mut self, before: Objects, now: Objects) -> Objects {
        let Self {
            objects: tables,
            touched,
            ..
        } = self;
        let (pods, workload_entries) = split(swap(
            &mut tables.workloads,
            sources(before.pods, before.workload_entries),
            sources(now.pods, now.workload_entries),
            touched.on(Kind::Workload),
        ));
        Objects {
            pods,
            workload_entries,
            namespaces: swap(
                &mut tables.namespaces,
                before.namespaces,
                now.namespaces,
                touched.on(Kind::Namespace),
            ),
            services: swap(
                &mut tables.services,
                before.services,
                now.services,
                touched.on(Kind::Service),
            ),
            authorization_policies: swap(
                &mut tables.policies,
                before.authorization_policies,
                now.authorization_policies,
                touched.on(Kind::AuthorizationPolicy),
            ),
            peer_authentications: swap(
                &mut tables.modes,
                before.peer_authentications,
                now.peer_authentications,
                touched.on(Kind::PeerAuthentication),
            ),
            service_entries: swap(
                &mut tables.entries,
                before.service_entries,
                now.service_entries,
                touched.on(Kind::ServiceEntry),
            ),
            sidecars: swap(
                &mut tables.sidecars,
                before.sidecars,
                now.sidecars,
                touched.on(Kind::Sidecar),
            ),
            // What is not read has no consequences.
            ignored: Vec::new(),
        }
    }

    /// Two objects of one kind with one name: which of them counts would depend on the order of
    /// loading.
    fn report_names(&mut self, touched: &Touched) {
        let (tables, noted) = (&self.objects, &mut self.noted);
        for key in touched.of(Kind::Namespace) {
            let mut findings = Findings::default();
            for namespace in tables.namespaces.all(key) {
                enrol::report_unknown_mode(&namespace.meta, &mut findings);
            }
            noted.set(Subject::Object(Kind::Namespace, key.clone()), findings);
        }
        report_twice(Kind::Namespace, &tables.namespaces, touched, noted);
        report_twice(Kind::Workload, &tables.workloads, touched, noted);
        report_twice(Kind::Service, &tables.services, touched, noted);
        report_twice(Kind::AuthorizationPolicy, &tables.policies, touched, noted);
        report_twice(Kind::PeerAuthentication, &tables.modes, touched, noted);
        report_twice(Kind::ServiceEntry, &tables.entries, touched, noted);
        report_twice(Kind::Sidecar, &tables.sidecars, touched, noted);
    }

    /// The workloads to read again: those of which something was said, and those of a namespace of
    /// which something was said.
    fn concerned(&mut self, touched: &Touched) -> BTreeSet<WorkloadId> {
        let named = touched
            .of(Kind::Workload)
            .iter()
            .map(|(namespace, name)| WorkloadId {
                namespace: Arc::clone(namespace),
                name: Arc::clone(name),
            });
        let mut concerned: BTreeSet<WorkloadId> = named.collect();
        for (_, namespace) in touched.of(Kind::Namespace) {
            concerned.extend(self.selection.of_namespace(namespace));
        }
        let with_sidecars: BTreeSet<Arc<str>> = (touched.of(Kind::Sidecar).iter())
            .map(|(namespace, _)| Arc::clone(namespace))
            .collect();
        for namespace in with_sidecars {
            let here = |sidecar: &&Arc<objects::Sidecar>| sidecar.meta.namespace == namespace;
            let sidecars = self.objects.sidecars.values().filter(here);
            let sidecars = sidecars.map(Arc::clone).collect();
            let mut findings = Findings::default();
            self.sidecars.set(&namespace, sidecars, &mut findings);
            if namespace == self.mesh.settings.root_namespace {
                concerned.extend(self.selection.all());
            } else {
                concerned.extend(self.selection.of_namespace(&namespace));
            }
            self.noted.set(Subject::Sidecars(namespace), findings);
        }
        concerned
    }

    fn reselect(&mut self, touched: &Touched, moved: &mut Moved) {
        let tables = &self.objects;
        let root = &self.mesh.settings.root_namespace;
        let changes: Vec<(Kind, &Key, Option<Wanted>)> = (touched.of(Kind::Service).iter())
            .map(|key| {
                let service = tables.services.get(key);
                (
                    Kind::Service,
                    key,
                    service.and_then(|it| service::wanted(it)),
                )
            })
            .chain(touched.of(Kind::ServiceEntry).iter().map(|key| {
                let entry = tables.entries.get(key);
                (
                    Kind::ServiceEntry,
                    key,
                    entry.and_then(|it| egress::wanted(it)),
                )
            }))
            .chain(touched.of(Kind::AuthorizationPolicy).iter().map(|key| {
                let policy = tables.policies.get(key);
                let wanted = policy
                    .and_then(|it| policies::wanted(&it.meta, it.spec.selector.as_ref(), root));
                (Kind::AuthorizationPolicy, key, wanted)
            }))
            .chain(touched.of(Kind::PeerAuthentication).iter().map(|key| {
                let modes = tables.modes.get(key);
                let wanted = modes
                    .and_then(|it| policies::wanted(&it.meta, it.spec.selector.as_ref(), root));
                (Kind::PeerAuthentication, key, wanted)
            }))
            .collect();
        let changes = changes.into_iter();
        let changes = changes.map(|(kind, key, wanted)| ((kind, key.clone()), wanted));
        self.selection.select(changes.collect(), moved);
    }

    fn vanished(&self, touched: &Touched) -> usize {
        let tables = &self.objects;
        let gone = |kind: Kind, there: &dyn Fn(&Key) -> bool| {
            touched.of(kind).iter().filter(|key| !there(key)).count()
        };
        gone(Kind::Namespace, &|key| tables.namespaces.get(key).is_some())
            + gone(Kind::Workload, &|key| tables.workloads.get(key).is_some())
            + gone(Kind::Service, &|key| tables.services.get(key).is_some())
            + gone(Kind::AuthorizationPolicy, &|key| {
                tables.policies.get(key).is_some()
            })
            + gone(Kind::PeerAuthentication, &|key| {
                tables.modes.get(key).is_some()
            })
            + gone(Kind::ServiceEntry, &|key| tables.entries.get(key).is_some())
            + gone(Kind::Sidecar, &|key| tables.sidecars.get(key).is_some())
    }
}

fn report_twice<T: Object>(kind: Kind, table: &Table<T>, touched: &Touched, noted: &mut Noted) {
    for key in touched.of(kind) {
        let mut findings = Findings::default();
        for pair in table.all(key).windows(2) {
            let [first, second] = pair else { continue };
            let (namespace, name) = key;
            let slash = if namespace.is_empty() { "" } else { "/" };
            findings.add(second.meta().origin.error(format!(
                "{} {namespace}{slash}{name} is defined twice, also in {}; delete one",
                kind.name(),
                first.meta().origin.place()
            )));
        }
        noted.set(Subject::Name(kind, key.clone()), findings);
    }
}

/// Takes the objects `now` for those `before`. What is the same stays the same object; the names of
/// the others are touched.
fn swap<T: Object>(
    table: &mut Table<T>,
    before: Vec<T>,
    now: Vec<T>,
    touched: &mut BTreeSet<Key>,
) -> Vec<T> {
    let mut known: HashMap<Key, Vec<T>> = HashMap::new();
    for object in before {
        known.entry(object.key()).or_default().push(object);
    }
    let mut fresh = Vec::new();
    let kept = now.into_iter().map(|object| {
        let same = known.get_mut(&object.key());
        let same = same.and_then(|known| {
            let at = known.iter().position(|other| *other == object)?;
            Some(known.swap_remove(at))
        });
        same.unwrap_or_else(|| {
            fresh.push(object.clone());
            object
        })
    });
    let kept: Vec<T> = kept.collect();
    for gone in known.into_values().flatten() {
        touched.insert(gone.key());
        table.remove(&gone);
    }
    for object in fresh {
        touched.insert(object.key());
        table.add(object);
    }
    kept
}

fn sources(pods: Vec<Arc<objects::Pod>>, entries: Vec<Arc<objects::WorkloadEntry>>) -> Vec<Source> {
    let pods = pods.into_iter().map(Source::Pod);
    let entries = entries.into_iter().map(Source::Entry);
    pods.chain(entries).collect()
}

fn split(sources: Vec<Source>) -> (Vec<Arc<objects::Pod>>, Vec<Arc<objects::WorkloadEntry>>) {
    let (mut pods, mut entries) = (Vec::new(), Vec::new());
    for source in sources {
        match source {
            Source::Pod(pod) => pods.push(pod),
            Source::Entry(entry) => entries.push(entry),
        }
    }
    (pods, entries)
}
