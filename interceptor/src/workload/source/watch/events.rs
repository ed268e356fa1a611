//! What the kernel says about a folder, put together until somebody asks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::workload::source::directory::is_manifest;
use crate::workload::source::folder::Places;

/// More files than this at once are found by looking at all of them.
const MOST_FILES: usize = 1000;

/// How far a change of a file has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Whoever writes it has not closed it yet, or has removed it, perhaps to write it anew.
    Begun,
    /// It was closed after writing, or put there as a whole.
    Complete,
}

/// What has changed since somebody last asked.
#[derive(Debug, Default)]
struct Pending {
    files: BTreeMap<PathBuf, Stage>,
    /// The folder as a whole.
    whole: Option<Stage>,
    /// Files that are no manifests, but to which manifests may be links.
    others: bool,
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
        let mut pending = self.pending.lock();
        match event {
            // Events were lost, or the watch is.
            Err(_) => pending.whole = Some(Stage::Begun),
            Ok(event) if event.need_rescan() => pending.whole = Some(Stage::Begun),
            Ok(event) if !is_change(event.kind) => return,
            Ok(event) => self.sort(&event, &mut pending),
        }
        drop(pending);
        // A full queue already holds what we would say.
        self.signal.try_send(()).unwrap_or_default();
    }

    fn sort(&self, event: &Event, pending: &mut Pending) {
        let stage = stage(event.kind);
        for path in &event.paths {
            let name = path.file_name().filter(|_| *path != *self.watched);
            let Some(file) = name else {
                pending.whole = Some(Stage::Begun);
                continue;
            };
            let name = file.to_string_lossy();
            if is_manifest(&name) {
                let path = self.folder.join(file);
                let known = pending.files.entry(path).or_insert(Stage::Complete);
                *known = stage.unwrap_or(*known);
            } else if name.starts_with("..") {
                // A mounted `ConfigMap` changes all of its files by renaming one link.
                pending.whole = Some(stage.unwrap_or(Stage::Complete));
            } else {
                pending.others = true;
            }
        }
        if pending.files.len() > MOST_FILES {
            pending.files.clear();
            pending.whole = Some(Stage::Begun);
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

    /// Whether everything that was begun is complete.
    pub(super) fn are_complete(&self) -> bool {
        let pending = self.pending.lock();
        let mut stages = pending.files.values().chain(&pending.whole);
        stages.all(|stage| *stage == Stage::Complete)
    }

    /// Where to look for what has changed, and whether to look at everything else soon.
    pub(super) fn take(&self) -> (Places, bool) {
        let pending = std::mem::take(&mut *self.pending.lock());
        let places = Places {
            files: pending.files.into_keys().collect(),
            all: pending.whole.is_some(),
        };
        (places, pending.others)
    }
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

    #[rstest]
    #[case::written(&[("a.yaml", CREATED), ("a.yaml", WRITTEN), ("a.yaml", CLOSED)], true)]
    #[case::being_written(&[("a.yaml", CLOSED), ("a.yaml", WRITTEN)], false)]
    #[case::touched_while_it_is_written(&[("a.yaml", WRITTEN), ("a.yaml", TOUCHED)], false)]
    #[case::touched(&[("a.yaml", TOUCHED)], true)]
    #[case::removed(&[("a.yaml", REMOVED)], false)]
    #[case::renamed_over(&[(".a.swp", WRITTEN), (".a.swp", WENT), ("a.yaml", CAME)], true)]
    #[case::one_of_two(&[("a.yaml", CLOSED), ("b.yaml", CREATED)], false)]
    #[case::a_config_map(&[("..data_tmp", CREATED), ("..data_tmp", WENT), ("..data", CAME)], true)]
    #[case::the_folder_itself(&[("", REMOVED)], false)]
    fn what_is_complete(#[case] events: &[(&str, EventKind)], #[case] complete: bool) {
        let (sender, changes) = channel(Path::new("/m"));
        for (name, kind) in events {
            let path = if name.is_empty() {
                "/m".into()
            } else {
                Path::new("/m").join(name)
            };
            sender.take(Ok(Event::new(*kind).add_path(path)));
        }
        assert_eq!(changes.are_complete(), complete);
    }

    #[test]
    fn files_are_named_as_the_folder_was() {
        let (sender, changes) = channel(Path::new("some/folder"));
        let named = std::env::current_dir().unwrap().join("some/folder/a.yaml");
        sender.take(Ok(Event::new(CLOSED).add_path(named)));
        let (places, others) = changes.take();
        assert_eq!(places.files, [PathBuf::from("some/folder/a.yaml")].into());
        assert!(!places.all && !others);
        assert_eq!(changes.take(), (Places::default(), false));
    }

    #[test]
    fn too_many_files_and_lost_events_are_found_by_looking_at_everything() {
        let (sender, changes) = channel(Path::new("/m"));
        for number in 0..=MOST_FILES {
            let path = Path::new("/m").join(format!("{number}.yaml"));
            sender.take(Ok(Event::new(CLOSED).add_path(path)));
        }
        assert_eq!(changes.take().0, Places::all());
        sender.take(Err(notify::Error::generic("lost")));
        assert_eq!(changes.take().0, Places::all());
    }
}
