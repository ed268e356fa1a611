//! Watching a folder of manifests and publishing what it says.
//!
//! ```text
//!  inotify event ─┐
//!                 ├─▶ wait until quiet ─▶ load ─▶ same as before? ─▶ publish | keep the last good
//!  every few secs ┘
//! ```
//!
//! The kernel's events make a change take effect at once. Looking at the folder's state every few
//! seconds catches what they miss: files behind links, a folder that was replaced as a whole,
//! network file systems.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher, event::AccessKind, event::AccessMode,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::Publisher;
use super::directory::{self, DirectoryLimits, Loaded};
use crate::drain::Tasks;
use crate::workload::MeshSettings;
use crate::yaml::{Mistake, Severity};

/// A load begins when the folder has been quiet for this long: editors and `kubectl cp` write in
/// several steps.
const QUIET: Duration = Duration::from_millis(100);

/// A folder that never gets quiet is loaded anyway.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// How often the folder's state is looked at besides.
const LOOK: Duration = Duration::from_secs(5);

/// How many mistakes of a failed load are logged; all are in `status`.
const LOGGED: usize = 20;

/// A folder of manifests as the source of the mesh.
#[derive(Debug)]
pub struct DirectorySource {
    directory: PathBuf,
    settings: MeshSettings,
    limits: DirectoryLimits,
    publisher: Publisher,
    last: Last,
    look: Duration,
}

/// What was loaded last.
#[derive(Debug, Default)]
struct Last {
    digest: Option<u64>,
    /// The manifests that the mesh in force came from.
    filled: BTreeSet<Arc<str>>,
}

impl DirectorySource {
    /// A source that publishes what the manifests in `directory` say.
    pub fn new(directory: PathBuf, settings: MeshSettings, publisher: Publisher) -> Self {
        Self {
            directory,
            settings,
            limits: DirectoryLimits::default(),
            publisher,
            last: Last::default(),
            look: LOOK,
        }
    }

    /// Loads at once, then whenever the folder changes, until `tasks` stop.
    pub async fn run(mut self, tasks: Tasks) {
        let (events, mut changed) = mpsc::channel(1);
        let mut watch = Watch::new(self.directory.clone(), events);
        let mut look = tokio::time::interval(self.look);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = None;
        loop {
            // Watching first: what changes during the load is not missed.
            watch.renew();
            let directory = self.directory.clone();
            let look_at = move || fingerprint(&directory);
            let state = tokio::task::spawn_blocking(look_at).await.ok();
            if seen.is_none() || seen != state {
                seen = state;
                self.reload().await;
            }
            tokio::select! {
                () = tasks.stopping() => return,
                Some(()) = changed.recv() => {
                    until_quiet(&mut changed).await;
                    // Whatever the fingerprint says: it may be too coarse for two quick writes.
                    seen = None;
                }
                _ = look.tick() => {}
            }
        }
    }

    /// Loads the folder and publishes the outcome, if it is another than before.
    pub async fn reload(&mut self) {
        let (path, limits, settings) = (self.directory.clone(), self.limits, self.settings.clone());
        let (directory, had) = (self.directory.clone(), self.last.filled.clone());
        let work = move || {
            let mut loaded = directory::load(&path, &limits);
            // First, because it is the cause of what else seems to be missing.
            let lost = lost(&directory, &had, &loaded);
            loaded.mistakes.splice(0..0, lost);
            let seen = Seen {
                digest: loaded.digest,
                files: loaded.files,
                filled: std::mem::take(&mut loaded.filled),
            };
            (seen, directory::build(loaded, &settings))
        };
        let now = SystemTime::now();
        let Ok((seen, outcome)) = tokio::task::spawn_blocking(work).await else {
            let message = "reading the manifests failed: a bug, please report it";
            let file = Arc::from(self.directory.to_string_lossy());
            self.fail(vec![Mistake::in_file(&file, message)], now);
            return;
        };
        let Seen {
            digest,
            files,
            filled,
        } = seen;
        if self.last.digest.replace(digest) == Some(digest) {
            return;
        }
        match outcome {
            Ok((mesh, mistakes)) => {
                log_warnings(&mistakes);
                let workloads = mesh.workloads().count();
                let services = mesh.services().count();
                let version = self.publisher.publish(mesh, mistakes, now);
                tracing::info!(version, files, workloads, services, "configuration loaded");
                self.last.filled = filled;
            }
            Err(mistakes) => self.fail(mistakes, now),
        }
    }

    fn fail(&self, mistakes: Vec<Mistake>, now: SystemTime) {
        let in_force = self.publisher.published().state().version;
        let errors = mistakes.iter().filter(|mistake| mistake.is_error());
        for mistake in errors.clone().take(LOGGED) {
            tracing::error!(%mistake, "configuration refused");
        }
        let consequence = if in_force == 0 {
            "nothing is enrolled until the configuration is right"
        } else {
            "the last good configuration stays in force"
        };
        tracing::error!(
            errors = errors.count(),
            in_force,
            consequence,
            "configuration not changed"
        );
        self.publisher.fail(mistakes, now);
    }
}

/// What one look at the folder has seen.
struct Seen {
    digest: u64,
    files: usize,
    filled: BTreeSet<Arc<str>>,
}

/// Objects that went without anybody having removed their manifest: a file that is being written,
/// or a folder that is not there any more. Taking them for deletions would open what they protect.
fn lost(directory: &Path, had: &BTreeSet<Arc<str>>, loaded: &Loaded) -> Vec<Mistake> {
    if loaded.files == 0 && !had.is_empty() && !loaded.has_errors() {
        let message = "holds no manifests any more; if nothing is to be enrolled, leave one \
                       with a Namespace in it";
        return vec![Mistake::in_file(
            &Arc::from(directory.to_string_lossy()),
            message,
        )];
    }
    let emptied = had.intersection(&loaded.empty);
    let message = "is empty and was not before; remove the file if its objects are to go";
    emptied
        .map(|file| Mistake::in_file(file, message))
        .collect()
}

fn log_warnings(mistakes: &[Mistake]) {
    let warnings = mistakes
        .iter()
        .filter(|mistake| mistake.severity == Severity::Warning);
    for mistake in warnings.take(LOGGED) {
        tracing::warn!(%mistake, "configuration");
    }
}

/// Returns when no event has come for [`QUIET`], or after [`LONGEST_WAIT`].
async fn until_quiet(changed: &mut mpsc::Receiver<()>) {
    let deadline = Instant::now() + LONGEST_WAIT;
    while Instant::now() < deadline {
        match tokio::time::timeout(QUIET, changed.recv()).await {
            Ok(Some(())) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

/// What a folder looks like from outside: the files with everything that changes when they do.
/// Links are followed.
fn fingerprint(directory: &Path) -> Option<Vec<(PathBuf, [i64; 4], u64)>> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .ok()?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let facts = fs::metadata(&path).map_or(([0; 4], 0), |metadata| {
                let times = [
                    metadata.mtime(),
                    metadata.mtime_nsec(),
                    metadata.ctime(),
                    metadata.ctime_nsec(),
                ];
                (times, metadata.ino() ^ metadata.size().rotate_left(32))
            });
            Some((path, facts.0, facts.1))
        })
        .collect();
    files.sort();
    Some(files)
}

/// The kernel's watch on a folder, renewed when another folder has taken its place.
struct Watch {
    directory: PathBuf,
    events: mpsc::Sender<()>,
    watched: Option<(RecommendedWatcher, (u64, u64))>,
}

impl Watch {
    const fn new(directory: PathBuf, events: mpsc::Sender<()>) -> Self {
        Self {
            directory,
            events,
            watched: None,
        }
    }

    fn renew(&mut self) {
        let identity = fs::metadata(&self.directory)
            .map(|metadata| (metadata.dev(), metadata.ino()))
            .ok();
        if self.watched.as_ref().map(|(_, watched)| *watched) == identity {
            return;
        }
        self.watched = identity.and_then(|identity| Some((self.watch()?, identity)));
    }

    fn watch(&self) -> Option<RecommendedWatcher> {
        let events = self.events.clone();
        let changed = move |event: notify::Result<notify::Event>| {
            // Our own reading is an event, too. A full queue already holds what we would say.
            if event.map_or(true, |event| is_change(event.kind)) {
                events.try_send(()).unwrap_or_default();
            }
        };
        let started = notify::recommended_watcher(changed).and_then(|mut watcher| {
            watcher.watch(&self.directory, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match started {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                // Not fatal: the folder is still looked at every few seconds.
                tracing::warn!(directory = %self.directory.display(), %error, "cannot watch");
                None
            }
        }
    }
}

const fn is_change(kind: EventKind) -> bool {
    !matches!(
        kind,
        EventKind::Access(
            AccessKind::Open(_) | AccessKind::Read | AccessKind::Close(AccessMode::Read)
        )
    )
}

#[cfg(test)]
mod tests;
