//! Watching a folder of manifests and publishing what it says.
//!
//! ```text
//!  inotify event ─▶ file complete? ── a few ms ───▶ look at it ─▶ all is well? ─▶ publish
//!        │               no │                           ▲              no │
//!        │                  └── until it is quiet ──────┘                 └── until that is quiet
//!        │                                                                           │
//!  every few secs ─▶ look at everything ─▶ all is well? ─▶ publish   publish | keep the last good
//! ```
//!
//! # When a change takes effect
//!
//! A file that was closed after writing, or renamed into the folder, is complete, and takes effect
//! a few milliseconds later: long enough for files that come together to be taken together. That
//! is safe as far as it adds and changes. What takes something away or is wrong may be half of a
//! change: an editor removes a file before it writes it anew, a script empties it first. That waits
//! until nothing more has come for it, and only then counts (or, if it is wrong, is shown). Others
//! that never stop writing to the folder cannot put off what somebody has taken away.
//!
//! Looking at everything every few seconds catches what the kernel does not tell: files behind
//! links, a folder that was replaced as a whole, network file systems.

mod events;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::time::Instant;

use super::Publisher;
use super::directory::DirectoryLimits;
use super::folder::{Folder, Places};
use crate::drain::Tasks;
use crate::workload::{Mesh, MeshSettings};
use crate::yaml::{Mistake, Severity};
use events::{Events, QUIET};

/// What may be half of a change waits for the rest this long at most.
const LONGEST_HOLD: Duration = Duration::from_millis(500);

/// How often everything is looked at besides.
const LOOK: Duration = Duration::from_secs(5);

/// Looking at a large folder takes time, of which it may take this share.
const SHARE: u32 = 100;

/// How many mistakes of a failed load are logged; all are in `status`.
const LOGGED: usize = 20;

/// Until when what may be half of a change is not decided.
#[derive(Clone, Copy, Debug)]
struct Hold {
    until: Instant,
    limit: Instant,
}

impl Hold {
    /// One that begins now, or the next part of `before`.
    fn renewed(before: Option<Self>) -> Self {
        let now = Instant::now();
        let limit = before.map_or(now + LONGEST_HOLD, |hold| hold.limit);
        Self {
            until: limit.min(now + QUIET),
            limit,
        }
    }

    /// When it ends, if something is to be looked at at `due`.
    fn end(self, due: Option<Instant>) -> Instant {
        due.map_or(self.until, |due| self.limit.min(due.max(self.until)))
    }
}

/// A folder of manifests as the source of the mesh.
#[derive(Debug)]
pub struct DirectorySource {
    directory: PathBuf,
    settings: MeshSettings,
    publisher: Publisher,
    /// Not there while somebody looks at it.
    folder: Option<Folder>,
    /// Whether something changed that was neither published nor refused.
    unsettled: bool,
    /// Whether that took something away.
    vanished: bool,
    /// How long that is given time to come back, if it may.
    hold: Option<Hold>,
    /// What reading took since something was last published.
    busy: Duration,
    look: Duration,
}

impl DirectorySource {
    /// A source that publishes what the manifests in `directory` say.
    pub const fn new(directory: PathBuf, settings: MeshSettings, publisher: Publisher) -> Self {
        Self {
            directory,
            settings,
            publisher,
            folder: None,
            unsettled: false,
            vanished: false,
            hold: None,
            busy: Duration::ZERO,
            look: LOOK,
        }
    }

    /// Loads at once, then whenever the folder changes, until `tasks` stop.
    pub async fn run(mut self, tasks: Tasks) {
        let (events, mut changes) = events::channel(&self.directory);
        let mut watch = Watch::new(self.directory.clone(), events);
        // Watching first: what changes during the load is not missed.
        watch.renew();
        let begun = Instant::now();
        self.reload().await;
        let mut next = self.next_look(begun);
        loop {
            let due = changes.due();
            let held = self.hold.map(|hold| hold.end(due));
            let wake = due.into_iter().chain(held).fold(next, Instant::min);
            tokio::select! {
                () = tasks.stopping() => return,
                () = changes.changed() => {
                    if watch.renew() {
                        next = Instant::now();
                    }
                    continue;
                }
                () = tokio::time::sleep_until(wake) => {}
            }
            if next <= wake {
                watch.renew();
                let begun = Instant::now();
                self.look(Places::all()).await;
                self.weigh(false);
                next = self.next_look(begun);
            }
            let due = changes.take(Instant::now());
            if due.others {
                next = next.min(Instant::now() + QUIET);
            }
            if !due.places.is_empty() {
                self.look(due.places.clone()).await;
                self.weigh(due.quiet && !changes.concern(&due.places));
            }
            let hold = self.hold.map(|hold| hold.end(changes.due()));
            if hold.is_some_and(|end| end <= Instant::now()) {
                self.conclude();
            }
        }
    }

    /// Looks at everything and publishes the outcome, if it is another than before.
    pub async fn reload(&mut self) {
        self.look(Places::all()).await;
        if self.unsettled {
            self.conclude();
        }
    }

    /// When to look at everything again after a look that began then.
    fn next_look(&self, begun: Instant) -> Instant {
        Instant::now() + self.look.max(begun.elapsed().saturating_mul(SHARE))
    }

    /// Decides what a look came to. What may be half of a change is given the time to become a whole
    /// one, if it has not had it: all of it has been `quiet`.
    fn weigh(&mut self, quiet: bool) {
        if self.publish_if_safe() {
            return;
        }
        match self.hold {
            None if quiet => self.conclude(),
            Some(_) if quiet => {}
            hold => self.hold = Some(Hold::renewed(hold)),
        }
    }

    /// Publishes what a change came to if it cannot be half of one. Returns whether there is nothing
    /// left to decide.
    fn publish_if_safe(&mut self) -> bool {
        if !self.unsettled {
            return true;
        }
        let outcome = self.folder.as_ref().filter(|_| !self.vanished);
        match outcome.map(Folder::outcome) {
            Some(Ok((mesh, mistakes))) => {
                self.publish(mesh, mistakes);
                true
            }
            Some(Err(_)) | None => false,
        }
    }

    /// Publishes or refuses what the folder says now.
    fn conclude(&mut self) {
        match self.folder.as_ref().map(Folder::outcome) {
            Some(Ok((mesh, mistakes))) => self.publish(mesh, mistakes),
            Some(Err(mistakes)) => self.fail(mistakes),
            None => {}
        }
        self.settle();
    }

    /// Nothing is left to decide.
    const fn settle(&mut self) {
        (self.unsettled, self.vanished, self.hold) = (false, false, None);
    }

    async fn look(&mut self, places: Places) {
        let folder = self.folder.take().unwrap_or_else(|| {
            let limits = DirectoryLimits::default();
            // The first look at a folder is a change, whatever is in it.
            self.unsettled = true;
            let folder = Folder::new(self.directory.clone(), limits, self.settings.clone());
            folder.after(&self.publisher.published().state())
        });
        let begun = Instant::now();
        let work = move || {
            let mut folder = folder;
            let look = folder.look(&places);
            (folder, look)
        };
        let Ok((folder, look)) = tokio::task::spawn_blocking(work).await else {
            // What it knew is lost with it: the next look begins anew.
            let message = "reading the manifests failed: a bug, please report it";
            let file = Arc::from(self.directory.to_string_lossy());
            self.fail(vec![Mistake::in_file(&file, message)]);
            return;
        };
        self.folder = Some(folder);
        if look.changed {
            self.busy = self.busy.saturating_add(begun.elapsed());
            self.unsettled = true;
            self.vanished |= look.vanished;
        }
    }

    fn publish(&mut self, mesh: Mesh, mistakes: Vec<Mistake>) {
        log_warnings(&mistakes);
        let (workloads, services) = (mesh.workload_count(), mesh.service_count());
        let version = self.publisher.publish(mesh, mistakes, SystemTime::now());
        let files = self.folder.as_ref().map_or(0, Folder::len);
        let took = self.busy;
        tracing::info!(
            version,
            files,
            workloads,
            services,
            ?took,
            "configuration loaded"
        );
        if let Some(folder) = &mut self.folder {
            folder.is_in_force();
        }
        self.busy = Duration::ZERO;
        self.settle();
    }

    fn fail(&self, mistakes: Vec<Mistake>) {
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
        self.publisher.fail(mistakes, SystemTime::now());
    }
}

fn log_warnings(mistakes: &[Mistake]) {
    let warnings = mistakes
        .iter()
        .filter(|mistake| mistake.severity == Severity::Warning);
    for mistake in warnings.take(LOGGED) {
        tracing::warn!(%mistake, "configuration");
    }
}

/// The kernel's watch on a folder, renewed when another folder has taken its place.
struct Watch {
    directory: PathBuf,
    events: Events,
    watched: Option<(RecommendedWatcher, (u64, u64))>,
}

impl Watch {
    const fn new(directory: PathBuf, events: Events) -> Self {
        Self {
            directory,
            events,
            watched: None,
        }
    }

    /// Returns whether it was renewed: what changed before was not seen then.
    fn renew(&mut self) -> bool {
        let identity = fs::metadata(&self.directory)
            .map(|metadata| (metadata.dev(), metadata.ino()))
            .ok();
        if self.watched.as_ref().map(|(_, watched)| *watched) == identity {
            return false;
        }
        self.watched = identity.and_then(|identity| Some((self.watch()?, identity)));
        true
    }

    fn watch(&self) -> Option<RecommendedWatcher> {
        let events = self.events.clone();
        let changed = move |event| events.take(event);
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

#[cfg(test)]
mod tests;
