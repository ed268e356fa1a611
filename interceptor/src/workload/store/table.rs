//! The objects of one kind, as they were written, by namespace and name.
//!
//! Two objects with one name are a mistake. Until it is corrected the one that is written last
//! counts, whatever the order in which the files were read.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::workload::objects::{
    AuthorizationPolicy, Meta, Namespace, PeerAuthentication, Pod, Service, ServiceEntry, Sidecar,
    WorkloadEntry,
};

/// Namespace (empty for a Namespace) and name.
pub(super) type Key = (Arc<str>, Arc<str>);

/// An object with metadata, cheap to clone.
pub(super) trait Object: Clone + PartialEq {
    fn meta(&self) -> &Meta;

    fn key(&self) -> Key {
        let meta = self.meta();
        (Arc::clone(&meta.namespace), Arc::clone(&meta.name))
    }
}

/// What a workload is written as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Pod(Arc<Pod>),
    Entry(Arc<WorkloadEntry>),
}

impl Object for Source {
    fn meta(&self) -> &Meta {
        match self {
            Self::Pod(pod) => &pod.meta,
            Self::Entry(entry) => &entry.meta,
        }
    }
}

impl Source {
    /// Its share of the connections of a Service.
    pub(super) fn weight(&self) -> u32 {
        match self {
            Self::Pod(_) => 1,
            Self::Entry(entry) => entry.weight,
        }
    }
}

macro_rules! objects {
    ($($kind:ty),*) => {$(
        impl Object for Arc<$kind> {
            fn meta(&self) -> &Meta {
                &self.meta
            }
        }
    )*};
}

objects!(
    Namespace,
    Service,
    AuthorizationPolicy,
    PeerAuthentication,
    ServiceEntry,
    Sidecar
);

/// See the module.
#[derive(Debug)]
pub(super) struct Table<T> {
    /// The one that counts.
    counts: HashMap<Key, T>,
    /// All of a name that several have, in the order of writing.
    several: BTreeMap<Key, Vec<T>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            counts: HashMap::new(),
            several: BTreeMap::new(),
        }
    }
}

impl<T: Object> Table<T> {
    /// The object that counts.
    pub(super) fn get(&self, key: &Key) -> Option<&T> {
        self.counts.get(key)
    }

    /// Every object with this name, in the order of writing.
    pub(super) fn all(&self, key: &Key) -> &[T] {
        match self.several.get(key) {
            Some(several) => several,
            None => self.counts.get(key).map_or(&[], std::slice::from_ref),
        }
    }

    /// The objects that count, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.counts.values()
    }

    pub(super) fn add(&mut self, object: T) {
        let key = object.key();
        let mut all = self.all(&key).to_vec();
        let after = |other: &T| written_at(other) <= written_at(&object);
        let at = all.partition_point(after);
        all.insert(at, object);
        self.put(key, all);
    }

    pub(super) fn remove(&mut self, object: &T) {
        let key = object.key();
        let mut all = self.all(&key).to_vec();
        if let Some(at) = all.iter().position(|other| other == object) {
            all.remove(at);
        }
        self.put(key, all);
    }

    fn put(&mut self, key: Key, all: Vec<T>) {
        match all.last() {
            None => self.counts.remove(&key),
            Some(last) => self.counts.insert(key.clone(), last.clone()),
        };
        if all.len() > 1 {
            self.several.insert(key, all);
        } else {
            self.several.remove(&key);
        }
    }
}

fn written_at<T: Object>(object: &T) -> (&str, crate::yaml::Position) {
    let origin = &object.meta().origin;
    (&origin.file, origin.at)
}
