//! What the kernel says about a folder, put together until it is time to look.
//!
//! Each file waits for itself: one that was removed is not looked at before it had the time to be
//! written anew, whatever happens to others meanwhile, and none waits for others to be quiet.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::workload::source::directory::is_manifest;
use crate::workload::source::folder::Places;

/// More files than this at once are found by looking at all of them.
const MOST_FILES: usize = 1000;

/// Complete changes are looked at when none has come for this long: files that come together are
/// taken together.
const SOON: Duration = Duration::from_millis(2);

/// A change that was begun is looked at when its file has been quiet for this long: editors and
/// `kubectl cp` write in several steps.
pub(super) const QUIET: Duration = Duration::from_millis(100);

/// Complete changes that never stop coming are looked at after this long anyway.
const LONGEST_BURST: Duration = Duration::from_millis(100);

/// A file that never gets quiet is looked at anyway.
const LONGEST_CHANGE: Duration = Duration::from_secs(2);

/// How far a change of a file has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Whoever writes it has not closed it yet, or has removed it, perhaps to write it anew.
    Begun,
    /// It was closed after writing, or put there as a whole.
    Complete,
}

/// A change that was not looked at yet.
#[derive(Clone, Copy, Debug)]
struct Change {
    stage: Stage,
    first: Instant,
    last: Instant,
}

impl Change {
    /// When it is looked at, if it is not complete.
    fn quiet(&self) -> Instant {
        (self.last + QUIET).min(self.first + LONGEST_CHANGE)
    }
}

/// What has changed and was not looked at yet.
#[derive(Debug, Default)]
struct Pending {
    files: BTreeMap<PathBuf, Change>,
    /// The folder as a whole.
    whole: Option<Change>,
    /// Files that are no manifests, but to which manifests may be links.
    others: bool,
}

/// What is to be looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) places: Places,
    /// Whether all of it has been quiet for [`QUIET`], so that it will not come back by itself.
    pub(super) quiet: bool,
    /// Whether to look at everything else soon.
    pub(super) others: bool,
}

/// The end that the kernel's events go into.
#[derive(Clone, Debug)]
pub(super) struct Events {
    /// As it was named to us: files are named after it.
    folder: Arc<Path>,
    /// As it is named in events.
    watched: Arc<Path>,
    pending: Arc<Mutex<Pending>>,
    signal: mpsc::Sender<()>,
}

/// The end that is asked.
#[derive(Debug)]
pub(super) struct Changes {
    pending: Arc<Mutex<Pending>>,
    signal: mpsc::Receiver<()>,
}

/// Both ends.
pub(super) fn channel(folder: &Path) -> (Events, Changes) {
    let (sender, receiver) = mpsc::channel(1);
    let pending = Arc::default();
    let events = Events {
        folder: Arc::from(folder),
        watched: std::path::absolute(folder).map_or_else(|_| Arc::from(folder), Arc::from),
        pending: Arc::clone(&pending),
        signal: sender,
    };
    let changes = Changes {
        pending,
        signal: receiver,
    };
    (events, changes)
}

impl Events {
    /// Takes what the kernel says.
    pub(super) fn take(&self, event: notify::Result<Event>) {
        let now = Instant::now();
        let mut pending = self.pending.lock();
        match event {
            // Events were lost, or the watch is.
            Err(_) => change(&mut pending.whole, Some(Stage::Begun), now),
            Ok(event) if event.need_rescan() => {
                change(&mut pending.whole, Some(Stage::Begun), now);
            }
            Ok(event) if !is_change(event.kind) => return,
            Ok(event) => self.sort(&event, &mut pending, now),
        }
        drop(pending);
        // A full queue already holds what we would say.
        self.signal.try_send(()).unwrap_or_default();
    }

    fn sort(&self, event: &Event, pending: &mut Pending, now: Instant) {
        let stage = stage(event.kind);
        for path in &event.paths {
            let name = path.file_name().filter(|_| *path != *self.watched);
            let Some(file) = name else {
                change(&mut pending.whole, Some(Stage::Begun), now);
                continue;
            };
            let name = file.to_string_lossy();
            if is_manifest(&name) {
                let path = self.folder.join(file);
                let mut known = pending.files.remove(&path);
                change(&mut known, stage, now);
                pending.files.extend(known.map(|known| (path, known)));
            } else if name.starts_with("..") {
                // A mounted `ConfigMap` changes all of its files by renaming one link.
                change(&mut pending.whole, stage, now);
            } else {
                pending.others = true;
            }
        }
        if pending.files.len() > MOST_FILES {
            pending.files.clear();
            change(&mut pending.whole, Some(Stage::Begun), now);
        }
    }
}

impl Changes {
    /// Resolves when something has changed; never once the other end is gone.
    ///
    /// # Cancel safety
    ///
    /// Safe: what has changed stays until it is taken.
    pub(super) async fn changed(&mut self) {
        if self.signal.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// When something is to be looked at, if nothing else happens.
    pub(super) fn due(&self) -> Option<Instant> {
        self.pending.lock().due()
    }

    /// Whether anything has changed in these places since they were taken.
    pub(super) fn concern(&self, places: &Places) -> bool {
        let pending = self.pending.lock();
        let known = |file: &PathBuf| pending.files.contains_key(file);
        let any = places.all && !pending.files.is_empty();
        pending.whole.is_some() || any || places.files.iter().any(known)
    }

    /// Takes what is to be looked at by now.
    pub(super) fn take(&self, now: Instant) -> Due {
        self.pending.lock().take(now)
    }
}

impl Pending {
    fn changes(&self) -> impl Iterator<Item = &Change> {
        self.files.values().chain(&self.whole)
    }

    /// When the complete ones are looked at, all at once.
    fn burst(&self) -> Option<Instant> {
        let complete = || {
            self.changes()
                .filter(|change| change.stage == Stage::Complete)
        };
        let last = complete().map(|change| change.last).max()?;
        let first = complete().map(|change| change.first).min()?;
        Some((last + SOON).min(first + LONGEST_BURST))
    }

    fn due(&self) -> Option<Instant> {
        let begun = self.changes().filter(|change| change.stage == Stage::Begun);
        let others = self.others.then(Instant::now);
        begun
            .map(Change::quiet)
            .chain(self.burst())
            .chain(others)
            .min()
    }

    fn take(&mut self, now: Instant) -> Due {
        let burst = self.burst().is_some_and(|burst| burst <= now);
        let is_due = |change: &Change| match change.stage {
            Stage::Begun => change.quiet() <= now,
            Stage::Complete => burst,
        };
        let is_quiet = |change: &Change| change.last + QUIET <= now;
        let mut quiet = true;
        let mut files = BTreeSet::new();
        self.files.retain(|path, change| {
            let due = is_due(change);
            if due {
                quiet &= is_quiet(change);
                files.insert(path.clone());
            }
            !due
        });
        let whole = self.whole.take_if(|whole| is_due(whole));
        quiet &= whole.is_none_or(|whole| is_quiet(&whole));
        Due {
            places: Places {
                files,
                all: whole.is_some(),
            },
            quiet,
            others: std::mem::take(&mut self.others),
        }
    }
}

/// Something has happened to what `known` is the change of.
fn change(known: &mut Option<Change>, stage: Option<Stage>, now: Instant) {
    let before = known.unwrap_or(Change {
        stage: Stage::Complete,
        first: now,
        last: now,
    });
    *known = Some(Change {
        stage: stage.unwrap_or(before.stage),
        last: now,
        ..before
    });
}

/// Reading is an event, too; a renaming is told twice more by its ends.
const fn is_change(kind: EventKind) -> bool {
    !matches!(
        kind,
        EventKind::Access(
            AccessKind::Open(_) | AccessKind::Read | AccessKind::Close(AccessMode::Read)
        ) | EventKind::Modify(ModifyKind::Name(RenameMode::Both))
    )
}

/// How far a change has come by this; `None` if it has come as far as before.
const fn stage(kind: EventKind) -> Option<Stage> {
    match kind {
        EventKind::Modify(ModifyKind::Metadata(_)) => None,
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(Stage::Complete),
        _ => Some(Stage::Begun),
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, MetadataKind, RemoveKind};
    use rstest::rstest;

    use super::*;

    const CREATED: EventKind = EventKind::Create(CreateKind::File);
    const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
    const TOUCHED: EventKind = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
    const REMOVED: EventKind = EventKind::Remove(RemoveKind::File);
    const CAME: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));
    const WENT: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::From));

    const MILLISECOND: Duration = Duration::from_millis(1);

    impl Due {
        fn nothing() -> Self {
            Self {
                quiet: true,
                ..Self::default()
            }
        }
    }

    /// Something happens to a file, or to the folder, which has no name.
    fn say(sender: &Events, name: &str, kind: EventKind) {
        let folder = Path::new("/m");
        let path = match name {
            "" => folder.to_owned(),
            name => folder.join(name),
        };
        sender.take(Ok(Event::new(kind).add_path(path)));
    }

    /// Lets time go by, and returns what it is then.
    async fn wait(time: Duration) -> Instant {
        tokio::time::advance(time).await;
        Instant::now()
    }

    #[rstest]
    #[case::written(&[("a.yaml", CREATED), ("a.yaml", WRITTEN), ("a.yaml", CLOSED)], true)]
    #[case::being_written(&[("a.yaml", CLOSED), ("a.yaml", WRITTEN)], false)]
    #[case::touched_while_it_is_written(&[("a.yaml", WRITTEN), ("a.yaml", TOUCHED)], false)]
    #[case::touched(&[("a.yaml", TOUCHED)], true)]
    #[case::removed(&[("a.yaml", REMOVED)], false)]
    #[case::renamed_over(&[(".a.swp", WRITTEN), (".a.swp", WENT), ("a.yaml", CAME)], true)]
    #[case::a_config_map(&[("..data_tmp", CREATED), ("..data_tmp", WENT), ("..data", CAME)], true)]
    #[case::the_folder_itself(&[("", REMOVED)], false)]
    #[tokio::test(start_paused = true)]
    async fn what_is_complete_is_due_soon_and_what_is_not_when_it_is_quiet(
        #[case] events: &[(&str, EventKind)],
        #[case] complete: bool,
    ) {
        let (sender, changes) = channel(Path::new("/m"));
        for (name, kind) in events {
            say(&sender, name, *kind);
        }
        let pause = if complete { SOON } else { QUIET };
        let due = changes.take(wait(pause / 2).await);
        assert!(due.places.is_empty());
        let due = changes.take(wait(pause / 2).await);
        assert!(!due.places.is_empty());
        assert_eq!(due.quiet, !complete);
        assert_eq!(changes.due(), None);
        assert!(!changes.concern(&due.places));
        say(&sender, "a.yaml", REMOVED);
        assert!(changes.concern(&due.places));
        assert!(!changes.concern(&Places::default()));
        assert!(changes.concern(&Places::all()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_waits_for_itself_and_not_for_others() {
        let (sender, changes) = channel(Path::new("/m"));
        say(&sender, "gone.yaml", REMOVED);
        let mut seen = 0;
        let due = loop {
            say(&sender, "busy.yaml", CLOSED);
            let due = changes.take(wait(SOON).await);
            if due.places.files.contains(Path::new("/m/gone.yaml")) {
                break due;
            }
            seen += due.places.files.len();
        };
        assert!(seen > 10, "what is complete does not wait, either: {seen}");
        assert!(!due.quiet, "not all of what came together");
        assert_eq!(changes.due(), None);
    }

    #[rstest]
    #[case::of_writing(WRITTEN, LONGEST_CHANGE)]
    #[case::of_files_that_are_complete(CLOSED, LONGEST_BURST)]
    #[tokio::test(start_paused = true)]
    async fn there_is_an_end_to_waiting(#[case] kind: EventKind, #[case] longest: Duration) {
        let (sender, changes) = channel(Path::new("/m"));
        let begun = Instant::now();
        loop {
            say(&sender, "a.yaml", kind);
            if changes.take(wait(MILLISECOND).await) != Due::nothing() {
                break;
            }
        }
        assert_eq!(begun.elapsed(), longest);
    }

    #[tokio::test(start_paused = true)]
    async fn files_are_named_as_the_folder_was() {
        let (sender, changes) = channel(Path::new("some/folder"));
        let named = std::env::current_dir().unwrap().join("some/folder/a.yaml");
        sender.take(Ok(Event::new(CLOSED).add_path(named)));
        let due = changes.take(wait(SOON).await);
        assert_eq!(
            due.places.files,
            [PathBuf::from("some/folder/a.yaml")].into()
        );
        assert!(!due.places.all && !due.others);
        assert_eq!(changes.take(Instant::now()), Due::nothing());
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_files_and_lost_events_are_found_by_looking_at_everything() {
        let (sender, changes) = channel(Path::new("/m"));
        for number in 0..=MOST_FILES {
            say(&sender, &format!("{number}.yaml"), CLOSED);
        }
        assert_eq!(changes.take(wait(QUIET).await).places, Places::all());
        sender.take(Err(notify::Error::generic("lost")));
        assert_eq!(changes.take(wait(QUIET).await).places, Places::all());
    }
}
