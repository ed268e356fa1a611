//! A folder of manifests that is looked at again and again: only what has changed is read, and what
//! follows from it goes into a [`Store`], which keeps the mesh equal to all of them.
//!
//! # Invariants
//!
//! * What a folder says depends on its files as they are at the last look, not on the looks before.
//! * A file is read again if anything about it differs (its times, its size, which file it is), or
//!   if the kernel said that it was written. One whose content is the same changes nothing.
//! * A folder that is gone, or from which every manifest has vanished, is a mistake and not an
//!   order to release every workload.
//! * Memory is bounded by the parsed objects: of the text only the files that are being parsed are
//!   there.
//!
//! Not here: when to look (`watch`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::LoadState;
use super::directory::{self, DirectoryLimits};
use super::reading::{Content, Reading, read_all};
use crate::workload::objects::Ignored;
use crate::workload::{Mesh, MeshSettings, Store};
use crate::yaml::Mistake;

/// After so many files were read it is worth looking for memory that nobody needs any more.
const MUCH: usize = 100;

/// Everything about a file that changes when it does. Links are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stamp {
    times: [i64; 4],
    file: [u64; 2],
    bytes: u64,
}

impl Stamp {
    /// What cannot be looked at has none, and is read to say why.
    fn of(path: &Path) -> Self {
        fs::metadata(path).map_or_else(
            |_| Self::default(),
            |metadata| Self {
                times: [
                    metadata.mtime(),
                    metadata.mtime_nsec(),
                    metadata.ctime(),
                    metadata.ctime_nsec(),
                ],
                file: [metadata.dev(), metadata.ino()],
                bytes: metadata.size(),
            },
        )
    }
}

/// Where to look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// At these manifests, whatever their stamps say.
    pub(super) files: BTreeSet<PathBuf>,
    /// At all others, too, by their stamps.
    pub(super) all: bool,
}

impl Places {
    pub(super) fn all() -> Self {
        Self {
            all: true,
            ..Self::default()
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && !self.all
    }
}

/// What a look came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Whether anything is otherwise than at the look before.
    pub(super) changed: bool,
    /// Whether objects are gone that were there.
    pub(super) vanished: bool,
}

/// A file as it was read last.
#[derive(Debug)]
struct Kept {
    name: Arc<str>,
    stamp: Stamp,
    digest: u64,
    content: Content,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Folder {
    directory: PathBuf,
    limits: DirectoryLimits,
    store: Store,
    files: BTreeMap<PathBuf, Kept>,
    /// What was found in files, if anything was.
    mistakes: BTreeMap<Arc<str>, Vec<Mistake>>,
    ignored: BTreeMap<Arc<str>, Vec<Ignored>>,
    /// What the list of files itself is worth mentioning for.
    notes: Vec<Mistake>,
    /// Why the list could not be made.
    unlisted: Option<Mistake>,
    /// Files that changed since the mesh in force, and whether they said something in it.
    since: BTreeMap<PathBuf, bool>,
    /// How many files say something, and how many did in the mesh in force.
    filled: usize,
    had: usize,
}

impl Folder {
    pub(super) fn new(directory: PathBuf, limits: DirectoryLimits, settings: MeshSettings) -> Self {
        Self {
            directory,
            limits,
            store: Store::new(settings),
            files: BTreeMap::new(),
            mistakes: BTreeMap::new(),
            ignored: BTreeMap::new(),
            notes: Vec::new(),
            unlisted: None,
            since: BTreeMap::new(),
            filled: 0,
            had: 0,
        }
    }

    /// Keeps in mind that there was a mesh before, even if nobody knows from which files.
    pub(super) fn after(mut self, state: &LoadState) -> Self {
        self.had = self.had.max(usize::from(state.is_ready()));
        self
    }

    /// How many manifests there are.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// Reads what has changed in these places.
    pub(super) fn look(&mut self, places: &Places) -> Look {
        let mut look = Look::default();
        let mut stale: BTreeSet<PathBuf> = BTreeSet::new();
        for path in &places.files {
            if fs::symlink_metadata(path).is_ok() {
                stale.insert(path.clone());
            } else {
                look.changed |= self.remove(path);
            }
        }
        let listed = places.all || self.unlisted.is_some() || self.is_at_a_limit(&stale);
        if listed && !self.list(&mut stale, &mut look) {
            return look;
        }
        // Before the first read the kernel programs were loaded: large, and not needed any more.
        let much = stale.len() > MUCH || self.files.is_empty();
        look.changed |= self.read(stale);
        if look.changed {
            look.vanished = self.store.settle().vanished > 0;
        }
        if much {
            // Trees of YAML are several times as large as what is kept of them.
            crate::net::give_back_memory();
        }
        look
    }

    /// Whether the number of files has to be judged, which the list does: too many, or none.
    fn is_at_a_limit(&self, stale: &BTreeSet<PathBuf>) -> bool {
        let most = self.files.len().saturating_add(stale.len());
        most > self.limits.files || self.files.is_empty()
    }

    /// Compares the list of files with those that are known: adds to `stale` what must be read,
    /// and forgets what is gone. Returns whether there is a list.
    fn list(&mut self, stale: &mut BTreeSet<PathBuf>, look: &mut Look) -> bool {
        let listing = match directory::manifests(&self.directory, self.limits.files) {
            Ok(listing) => listing,
            Err(mistake) => {
                look.changed |= self.unlisted.as_ref() != Some(&mistake);
                self.unlisted = Some(mistake);
                return false;
            }
        };
        look.changed |= self.unlisted.take().is_some() || self.notes != listing.notes;
        self.notes = listing.notes;
        let there: BTreeSet<PathBuf> = listing.files.into_iter().collect();
        let gone = self.files.keys().filter(|path| !there.contains(*path));
        let gone: Vec<PathBuf> = gone.cloned().collect();
        for path in gone {
            look.changed |= self.remove(&path);
        }
        let differs = |path: &PathBuf| {
            let known = self.files.get(path).map(|kept| kept.stamp);
            known != Some(Stamp::of(path))
        };
        stale.extend(there.into_iter().filter(differs));
        true
    }

    /// Reads files, those beyond the limit of bytes for their mistake only. Returns whether one of
    /// them says something else than before.
    fn read(&mut self, mut stale: BTreeSet<PathBuf>) -> bool {
        let mut stamps = BTreeMap::new();
        for path in &stale {
            stamps.insert(path.clone(), Stamp::of(path));
        }
        let beyond = self.beyond_the_limit(&stamps);
        // Those that fit again, and those that do not any more.
        let known = self.files.iter().filter(|(path, kept)| {
            beyond.contains(*path) != (kept.content == Content::BeyondLimit)
        });
        stale.extend(known.map(|(path, _)| path.clone()));
        stale.retain(|path| !beyond.contains(path));
        let mut changed = false;
        for path in beyond {
            let message = format!(
                "is not read: the manifests before it fill the limit of {} bytes",
                self.limits.bytes
            );
            let known = self.files.get(&path).map(|kept| kept.stamp);
            let stamp = stamps.get(&path).copied().or(known).unwrap_or_default();
            let reading = Reading::failed(path, message, Content::BeyondLimit);
            changed |= self.keep(reading, stamp);
        }
        let limits = self.limits.file;
        read_all(stale, &limits, |reading| {
            let stamp = stamps.get(&reading.path);
            let stamp = stamp.map_or_else(|| Stamp::of(&reading.path), |stamp| *stamp);
            changed |= self.keep(reading, stamp);
        });
        changed
    }

    /// The files for which the limit of bytes leaves no room, in the order of their names.
    fn beyond_the_limit(&self, stamps: &BTreeMap<PathBuf, Stamp>) -> BTreeSet<PathBuf> {
        let known = self
            .files
            .iter()
            .map(|(path, kept)| (path, kept.stamp.bytes));
        let mut sizes: BTreeMap<&PathBuf, u64> = known.collect();
        sizes.extend(stamps.iter().map(|(path, stamp)| (path, stamp.bytes)));
        let mut left = u64::try_from(self.limits.bytes).unwrap_or(u64::MAX);
        let total = sizes
            .values()
            .fold(0_u64, |sum, size| sum.saturating_add(*size));
        if total <= left {
            return BTreeSet::new();
        }
        let mut beyond = BTreeSet::new();
        for (path, size) in sizes {
            match left.checked_sub(size) {
                Some(rest) => left = rest,
                None => {
                    beyond.insert(path.clone());
                }
            }
        }
        beyond
    }

    /// Takes what a file says for what it said before. Returns whether that differs.
    fn keep(&mut self, reading: Reading, stamp: Stamp) -> bool {
        let Reading {
            path,
            name,
            digest,
            content,
            mut objects,
            mistakes,
        } = reading;
        let before = self.files.get_mut(&path);
        if let Some(kept) = before
            && (kept.digest, kept.content) == (digest, content)
        {
            kept.stamp = stamp;
            return false;
        }
        let kept = Kept {
            name: Arc::clone(&name),
            stamp,
            digest,
            content,
        };
        let before = self.files.insert(path.clone(), kept);
        let was_filled = before.is_some_and(|before| before.content == Content::Filled);
        self.count(path, was_filled, content == Content::Filled);
        note(
            &mut self.ignored,
            &name,
            std::mem::take(&mut objects.ignored),
        );
        note(&mut self.mistakes, &name, mistakes);
        self.store.say(&name, objects);
        true
    }

    fn remove(&mut self, path: &Path) -> bool {
        let Some(kept) = self.files.remove(path) else {
            return false;
        };
        self.count(path.to_owned(), kept.content == Content::Filled, false);
        self.ignored.remove(&kept.name);
        self.mistakes.remove(&kept.name);
        self.store
            .say(&kept.name, crate::workload::objects::Objects::default());
        true
    }

    fn count(&mut self, path: PathBuf, was_filled: bool, is_filled: bool) {
        self.since.entry(path).or_insert(was_filled);
        let others = self.filled.saturating_sub(usize::from(was_filled));
        self.filled = others.saturating_add(usize::from(is_filled));
    }

    /// The mesh that the folder describes, or all mistakes, if one of them is an error.
    pub(super) fn outcome(&self) -> Result<(Mesh, Vec<Mistake>), Vec<Mistake>> {
        if let Some(mistake) = &self.unlisted {
            return Err(vec![mistake.clone()]);
        }
        // First, because it is the cause of what else seems to be missing.
        let mut mistakes = self.lost();
        mistakes.extend(self.notes.iter().cloned());
        mistakes.extend(self.mistakes.values().flatten().cloned());
        let ignored: Vec<&Ignored> = self.ignored.values().flatten().collect();
        mistakes.extend(directory::ignored_kinds(ignored));
        let broken = mistakes.iter().any(Mistake::is_error);
        let found = self.store.findings().into_iter();
        // What is missing because its file is wrong would be complained about once more.
        mistakes.extend(found.filter(|one| !broken || one.is_error()));
        if mistakes.iter().any(Mistake::is_error) {
            return Err(mistakes);
        }
        Ok((self.store.snapshot(), mistakes))
    }

    /// To be called when the mesh of the last outcome is in force.
    pub(super) fn is_in_force(&mut self) {
        self.since.clear();
        self.had = self.filled;
    }

    /// Objects that went without anybody having removed their manifest: a file that is being
    /// written, or a folder that is not there any more. Taking them for deletions would open what
    /// they protect.
    fn lost(&self) -> Vec<Mistake> {
        if self.files.is_empty() && self.had > 0 {
            let message = "holds no manifests any more; if nothing is to be enrolled, leave one \
                           with a Namespace in it";
            let directory = Arc::from(self.directory.to_string_lossy());
            return vec![Mistake::in_file(&directory, message)];
        }
        let message = "is empty and was not before; remove the file if its objects are to go";
        let said_something = self.since.iter().filter(|(_, filled)| **filled);
        said_something
            .filter_map(|(path, _)| self.files.get(path))
            .filter(|kept| kept.content == Content::Empty)
            .map(|kept| Mistake::in_file(&kept.name, message))
            .collect()
    }
}

fn note<T>(notes: &mut BTreeMap<Arc<str>, Vec<T>>, file: &Arc<str>, found: Vec<T>) {
    if found.is_empty() {
        notes.remove(file);
    } else {
        notes.insert(Arc::clone(file), found);
    }
}

#[cfg(test)]
mod tests;
