//! Folders of manifests, read whole.
//!
//! Every `*.yaml`, `*.yml` and `*.json` of the folder is read, not those of folders inside it and
//! none whose name begins with a dot (editors' files, and the `..data` of a mounted `ConfigMap`,
//! whose visible links lead there anyway).
//!
//! # Invariants
//!
//! * Reading ends: only regular files are opened, and size and number are bounded.
//!
//! Not here: reading only what changed (`folder`), watching (`watch`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::workload::objects::{Ignored, Objects};
use crate::workload::{Mesh, MeshSettings};
use crate::yaml::{self, Document, Limits, Mistake, Report, Severity};

/// Folders of a tree are followed so deep.
const MAX_DEPTH: usize = 32;

/// What a folder may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryLimits {
    /// Number of manifests.
    pub files: usize,
    /// Their size together.
    pub bytes: usize,
    /// What each of them may cost.
    pub file: Limits,
}

impl Default for DirectoryLimits {
    fn default() -> Self {
        Self {
            // One file per object of a large mesh.
            files: 100_000,
            bytes: 512 * 1024 * 1024,
            file: Limits::default(),
        }
    }
}

/// What reading a folder came to.
#[derive(Debug)]
pub struct Loaded {
    /// The objects; incomplete if a mistake is an error.
    pub objects: Objects,
    /// Everything that was found, by file and line.
    pub mistakes: Vec<Mistake>,
    /// How many manifests there were.
    pub files: usize,
}

/// Reads the manifests of a folder, or the one manifest that `path` is.
pub fn load(path: &Path, limits: &DirectoryLimits) -> Loaded {
    load_all(&[path], limits)
}

/// Reads several folders or manifests as if they were one folder.
pub fn load_all(paths: &[impl AsRef<Path>], limits: &DirectoryLimits) -> Loaded {
    let mut folder = Folder::new(limits);
    for path in paths {
        match manifests(path.as_ref(), limits.files) {
            Ok(listing) => {
                folder.loaded.mistakes.extend(listing.notes);
                for manifest in listing.files {
                    folder.read(&manifest, |_| {});
                }
            }
            Err(mistake) => folder.loaded.mistakes.push(mistake),
        }
    }
    let mut loaded = folder.loaded;
    let ignored = loaded.objects.ignored.iter().collect();
    loaded.mistakes.extend(ignored_kinds(ignored));
    loaded
}

/// Reads manifests and whole trees of folders, as people keep them in repositories; every document
/// is also shown to `see`, so that kinds which the agent does not read can be looked at, too.
pub fn load_trees(
    paths: &[PathBuf],
    limits: &DirectoryLimits,
    mut see: impl FnMut(&Document),
) -> Loaded {
    let mut folder = Folder::new(limits);
    let mut open: Vec<(PathBuf, usize)> = paths.iter().rev().map(|p| (p.clone(), 0)).collect();
    let mut left = limits.files;
    while let Some((path, depth)) = open.pop() {
        match manifests(&path, left) {
            Ok(listing) => {
                left = left.saturating_sub(listing.files.len());
                if depth < MAX_DEPTH {
                    let inner = listing.folders.into_iter().rev();
                    open.extend(inner.map(|folder| (folder, depth + 1)));
                }
                for manifest in listing.files {
                    folder.read(&manifest, &mut see);
                }
            }
            Err(mistake) => folder.loaded.mistakes.push(mistake),
        }
    }
    folder.loaded
}

/// Reads the manifests of a folder (or one manifest) and builds the mesh that they describe: what
/// offline commands need.
///
/// # Errors
///
/// All mistakes, if at least one is an error.
pub fn load_mesh(
    path: &Path,
    settings: &MeshSettings,
) -> Result<(Mesh, Vec<Mistake>), Vec<Mistake>> {
    load_meshes(&[path], settings)
}

/// The same of several folders or manifests together.
///
/// # Errors
///
/// All mistakes, if at least one is an error.
pub fn load_meshes(
    paths: &[impl AsRef<Path>],
    settings: &MeshSettings,
) -> Result<(Mesh, Vec<Mistake>), Vec<Mistake>> {
    build(load_all(paths, &DirectoryLimits::default()), settings)
}

/// Builds the mesh, also if a file is wrong: then for its mistakes only.
fn build(loaded: Loaded, settings: &MeshSettings) -> Result<(Mesh, Vec<Mistake>), Vec<Mistake>> {
    let Loaded {
        objects,
        mut mistakes,
        ..
    } = loaded;
    let broken = mistakes.iter().any(Mistake::is_error);
    let (mesh, found) = Mesh::build(&objects, settings);
    // What is missing because its file is wrong would be complained about once more.
    mistakes.extend(found.into_iter().filter(|one| !broken || one.is_error()));
    if mistakes.iter().any(Mistake::is_error) {
        return Err(mistakes);
    }
    Ok((mesh, mistakes))
}

pub(super) struct Listing {
    pub(super) files: Vec<PathBuf>,
    /// Folders inside, links to folders not among them.
    folders: Vec<PathBuf>,
    pub(super) notes: Vec<Mistake>,
}

/// The manifests to read, by name.
pub(super) fn manifests(path: &Path, limit: usize) -> Result<Listing, Mistake> {
    let shown: Arc<str> = Arc::from(path.to_string_lossy());
    let failed = |error: io::Error| Mistake::in_file(&shown, format!("cannot be read: {error}"));
    if fs::metadata(path).map_err(failed)?.is_file() {
        return Ok(Listing {
            files: vec![path.to_owned()],
            folders: Vec::new(),
            notes: Vec::new(),
        });
    }
    let mut listing = Listing {
        files: Vec::new(),
        folders: Vec::new(),
        notes: Vec::new(),
    };
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let found = entry.path();
        if name.starts_with('.') {
            continue;
        }
        if is_manifest(&name) {
            listing.files.push(found);
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let file = Arc::from(found.to_string_lossy());
            let note = Mistake::in_file(&file, "is a folder inside of the folder and is not read");
            listing.notes.push(note.with(Severity::Note));
            listing.folders.push(found);
        }
        if listing.files.len() > limit {
            let message = format!("holds more than {limit} manifests; join some of them");
            return Err(Mistake::in_file(&shown, message));
        }
    }
    if listing.files.is_empty() {
        let message = "holds no manifests (*.yaml, *.yml, *.json)";
        let warning = Mistake::in_file(&shown, message).with(Severity::Warning);
        listing.notes.push(warning);
    }
    listing.files.sort();
    listing.folders.sort();
    Ok(listing)
}

/// Whether a folder's file of this name is read.
pub(super) fn is_manifest(name: &str) -> bool {
    let mut suffixes = [".yaml", ".yml", ".json"].into_iter();
    !name.starts_with('.') && suffixes.any(|suffix| name.ends_with(suffix))
}

struct Folder<'l> {
    limits: &'l DirectoryLimits,
    left: usize,
    loaded: Loaded,
}

impl<'l> Folder<'l> {
    fn new(limits: &'l DirectoryLimits) -> Self {
        Folder {
            limits,
            left: limits.bytes,
            loaded: Loaded {
                objects: Objects::default(),
                mistakes: Vec::new(),
                files: 0,
            },
        }
    }

    fn read(&mut self, path: &Path, mut see: impl FnMut(&Document)) {
        let file: Arc<str> = Arc::from(path.to_string_lossy());
        self.loaded.files += 1;
        // One byte more than allowed, so that the parser sees what is too long.
        let most = self.limits.file.bytes.saturating_add(1);
        let bytes = match read_file(path, most) {
            Ok(bytes) => bytes,
            Err(error) => {
                let mistake = Mistake::in_file(&file, why_unreadable(&error));
                self.loaded.mistakes.push(mistake);
                return;
            }
        };
        let Some(left) = self.left.checked_sub(bytes.len()) else {
            let message = format!(
                "is not read: the manifests before it fill the limit of {} bytes",
                self.limits.bytes
            );
            self.loaded.mistakes.push(Mistake::in_file(&file, message));
            return;
        };
        self.left = left;
        let report = Report::default();
        if let Some(text) = yaml::as_text(&file, &bytes, &report) {
            for document in yaml::documents(&file, text, &self.limits.file, &report) {
                self.loaded.objects.read(&document, &report);
                see(&document);
            }
        }
        self.loaded.mistakes.extend(report.into_mistakes());
    }
}

/// One note per kind that is not read, not one per object.
pub(super) fn ignored_kinds(mut ignored: Vec<&Ignored>) -> Vec<Mistake> {
    ignored.sort_by(|a, b| a.kind.cmp(&b.kind));
    let groups = ignored.chunk_by(|a, b| a.kind == b.kind);
    let note = |group: &[&Ignored]| {
        let [first, rest @ ..] = group else {
            return None;
        };
        let others = match rest.len() {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        // Somebody relies on what Istio's kinds say; others are none of our business.
        let (severity, effect) = if first.kind.contains(".istio.io/") {
            let effect = "has no effect: this release does not read it";
            (Severity::Warning, effect)
        } else if makes_pods(&first.kind) {
            let effect = "is not read here, only the Pods that it makes are; `interceptor analyze` \
                          judges both";
            (Severity::Note, effect)
        } else {
            (Severity::Note, "is not read here")
        };
        let message = format!("{}{others} {effect}", first.kind);
        Some(first.origin.error(message).with(severity))
    };
    groups.filter_map(note).collect()
}

/// Whether a kind is one of Kubernetes' controllers, from which people's Pods come.
fn makes_pods(kind: &str) -> bool {
    matches!(
        kind.rsplit_once(' '),
        Some((version, "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" | "CronJob"))
            if version.starts_with("apps/") || version.starts_with("batch/")
    )
}

/// Reads at most `most` bytes of a regular file. Opening does not block, whatever the path is.
pub(super) fn read_file(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    let mut bytes = Vec::new();
    file.take(u64::try_from(most).unwrap_or(u64::MAX))
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn why_unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "vanished, or is a link that leads nowhere".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "cannot be read: permission denied; make it readable for the agent".to_owned()
        }
        _ => format!("cannot be read: {error}"),
    }
}
