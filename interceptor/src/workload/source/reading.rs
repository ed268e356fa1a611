//! Reading manifests: from a path to objects, many at the same time.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

use super::directory::{read_file, why_unreadable};
use crate::workload::objects::Objects;
use crate::yaml::{self, Limits, Mistake, Report};

/// So few files are read by one thread.
const FEW: usize = 32;

/// Threads that read a large folder. More would take the node's cores away from connections at the
/// time when its workloads are enrolled.
const MOST_THREADS: usize = 3;

/// Files that are read and wait to be put into the store.
const WAITING: usize = 8;

/// What there is in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Objects, or mistakes.
    Filled,
    /// Nothing but space.
    Empty,
    Unreadable,
    /// Not read, because the files before it fill the folder's limit.
    BeyondLimit,
}

/// A file as it was read.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) path: PathBuf,
    /// Its name for mistakes.
    pub(super) name: Arc<str>,
    /// A number that changes with the content, or with the reason why there is none.
    pub(super) digest: u64,
    pub(super) content: Content,
    /// Incomplete if a mistake is an error.
    pub(super) objects: Objects,
    pub(super) mistakes: Vec<Mistake>,
}

impl Reading {
    /// A file of which nothing can be said but why.
    pub(super) fn failed(path: PathBuf, why: String, content: Content) -> Self {
        let name: Arc<str> = Arc::from(path.to_string_lossy());
        let mut digest = DefaultHasher::new();
        why.hash(&mut digest);
        Self {
            path,
            digest: digest.finish(),
            content,
            objects: Objects::default(),
            mistakes: vec![Mistake::in_file(&name, why)],
            name,
        }
    }

    fn of(path: PathBuf, limits: &Limits) -> Self {
        // One byte more than allowed, so that the parser sees what is too long.
        let bytes = match read_file(&path, limits.bytes.saturating_add(1)) {
            Ok(bytes) => bytes,
            Err(error) => return Self::failed(path, why_unreadable(&error), Content::Unreadable),
        };
        let name: Arc<str> = Arc::from(path.to_string_lossy());
        let mut digest = DefaultHasher::new();
        bytes.hash(&mut digest);
        let report = Report::default();
        let mut objects = Objects::default();
        if let Some(text) = yaml::as_text(&name, &bytes, &report) {
            for document in yaml::documents(&name, text, limits, &report) {
                objects.read(&document, &report);
            }
        }
        let empty = bytes.trim_ascii().is_empty();
        Self {
            path,
            name,
            digest: digest.finish(),
            content: if empty {
                Content::Empty
            } else {
                Content::Filled
            },
            objects,
            mistakes: report.into_mistakes(),
        }
    }
}

/// Reads files and shows them to `take` one by one, in no order.
pub(super) fn read_all(paths: BTreeSet<PathBuf>, limits: &Limits, mut take: impl FnMut(Reading)) {
    if paths.len() <= FEW {
        for path in paths {
            take(Reading::of(path, limits));
        }
        return;
    }
    let paths: Vec<PathBuf> = paths.into_iter().collect();
    let next = AtomicUsize::new(0);
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        let (readings, read) = sync_channel(WAITING);
        for _ in 0..cores.min(MOST_THREADS) {
            let readings = readings.clone();
            let (paths, next) = (&paths, &next);
            scope.spawn(move || {
                while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if readings.send(Reading::of(path.clone(), limits)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(readings);
        read.into_iter().for_each(take);
    });
}
