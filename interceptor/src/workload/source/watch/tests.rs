//! Loading, keeping the last good mesh, and noticing changes of every kind.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::events::QUIET;
use super::{Hold, LONGEST_HOLD};
use crate::drain::Tasks;
use crate::workload::MeshSettings;
use crate::workload::source::folder::Places;
use crate::workload::source::{DirectorySource, Published, Publisher};

fn source(directory: &Path) -> (DirectorySource, Published) {
    let settings = MeshSettings::for_node("one");
    let publisher = Publisher::new(settings.clone());
    let published = publisher.published();
    (
        DirectorySource::new(directory.to_owned(), settings, publisher),
        published,
    )
}

fn pod(name: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: demo}}\nspec: {{}}\n")
}

fn names(published: &Published) -> Vec<String> {
    let mesh = published.snapshot();
    mesh.workloads()
        .map(|workload| workload.id.to_string())
        .collect()
}

fn messages(published: &Published) -> Vec<String> {
    let state = published.state();
    state
        .mistakes
        .iter()
        .map(|mistake| mistake.message.clone())
        .collect()
}

#[tokio::test]
async fn a_file_that_becomes_empty_is_being_written_and_one_that_goes_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (mut source, published) = source(folder.path());
    let (one, two) = (folder.path().join("1.yaml"), folder.path().join("2.yaml"));
    fs::write(&one, pod("one")).unwrap();
    fs::write(&two, "\n").unwrap();
    source.reload().await;
    assert_eq!(
        names(&published),
        ["demo/one"],
        "it may be empty from the start"
    );

    fs::write(&two, pod("two")).unwrap();
    source.reload().await;
    fs::write(&two, "").unwrap();
    source.reload().await;
    assert_eq!(names(&published), ["demo/one", "demo/two"]);
    assert!(messages(&published)[0].contains("is empty and was not before"));

    fs::remove_file(&two).unwrap();
    source.reload().await;
    assert_eq!(names(&published), ["demo/one"]);
}

#[tokio::test]
async fn a_wrong_file_keeps_the_last_good_mesh_and_shows_all_mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let (mut source, published) = source(folder.path());
    fs::write(folder.path().join("a.yaml"), pod("one")).unwrap();
    source.reload().await;
    assert_eq!(names(&published), ["demo/one"]);
    assert_eq!(published.state().version, 1);

    fs::write(folder.path().join("b.yaml"), "kind: Pod\nspecs: 1\n").unwrap();
    fs::write(folder.path().join("c.yaml"), b"\xff").unwrap();
    source.reload().await;
    let state = published.state();
    assert_eq!(names(&published), ["demo/one"], "the last good mesh stays");
    assert_eq!(
        (state.version, state.errors()),
        (1, 2),
        "{:?}",
        state.mistakes
    );
    assert!(state.failing_since.is_some());

    fs::write(folder.path().join("b.yaml"), pod("two")).unwrap();
    fs::remove_file(folder.path().join("c.yaml")).unwrap();
    source.reload().await;
    assert_eq!(names(&published), ["demo/one", "demo/two"]);
    let state = published.state();
    assert_eq!((state.version, state.errors()), (2, 0));
    assert!(state.failing_since.is_none());
}

#[tokio::test]
async fn before_the_first_good_load_nothing_is_enrolled() {
    let folder = tempfile::tempdir().unwrap();
    let (mut source, published) = source(folder.path());
    fs::write(folder.path().join("a.yaml"), "kind: [\n").unwrap();
    source.reload().await;
    assert_eq!(published.state().version, 0);
    assert!(!published.state().is_ready());
    assert_eq!(published.snapshot().workloads().count(), 0);
}

#[tokio::test]
async fn what_is_the_same_is_not_published_again() {
    let folder = tempfile::tempdir().unwrap();
    let (mut source, published) = source(folder.path());
    fs::write(folder.path().join("a.yaml"), pod("one")).unwrap();
    source.reload().await;
    fs::write(folder.path().join("a.yaml"), pod("one")).unwrap();
    source.reload().await;
    assert_eq!(published.state().version, 1);
}

#[tokio::test]
async fn vanished_manifests_do_not_release_every_workload() {
    let folder = tempfile::tempdir().unwrap();
    let (mut source, published) = source(folder.path());
    fs::write(folder.path().join("a.yaml"), pod("one")).unwrap();
    source.reload().await;
    fs::remove_file(folder.path().join("a.yaml")).unwrap();
    source.reload().await;
    assert_eq!(names(&published), ["demo/one"]);
    assert!(messages(&published)[0].contains("holds no manifests any more"));

    fs::remove_dir(folder.path()).unwrap();
    source.reload().await;
    assert_eq!(names(&published), ["demo/one"]);
    assert!(messages(&published)[0].contains("cannot be read"));
    fs::create_dir(folder.path()).unwrap();
}

#[tokio::test]
async fn pipes_links_to_nowhere_and_huge_files_are_mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    nix::unistd::mkfifo(&path.join("a.yaml"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    symlink("nowhere", path.join("b.yaml")).unwrap();
    fs::write(path.join("c.yaml"), vec![b'#'; 10 * 1024 * 1024 + 1]).unwrap();
    fs::create_dir(path.join("d.yaml")).unwrap();
    fs::create_dir(path.join("folder")).unwrap();
    fs::write(path.join(".hidden.yaml"), "{").unwrap();
    let (mut source, published) = source(path);
    source.reload().await;
    assert_eq!(
        messages(&published),
        [
            "is a folder inside of the folder and is not read",
            "cannot be read: not a regular file",
            "vanished, or is a link that leads nowhere",
            "is 10485761 bytes long, the limit is 10485760; split it into several files",
            "cannot be read: not a regular file",
        ]
    );
}

/// Runs the source on `folder`, lets `change` happen, and returns the names that follow.
async fn after(folder: &Path, change: impl FnOnce()) -> Vec<String> {
    let (mut source, mut published) = source(folder);
    source.look = Duration::from_millis(100);
    let tasks = Tasks::new();
    tasks.spawn("source", source.run(tasks.clone()));
    published.changed().await;
    assert_eq!(names(&published), ["demo/one"]);
    change();
    published.changed().await;
    tasks.finish(Duration::from_secs(5)).await;
    names(&published)
}

#[tokio::test]
async fn a_file_that_is_written_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("a.yaml"), pod("one")).unwrap();
    let change = || fs::write(path.join("b.yaml"), pod("two")).unwrap();
    assert_eq!(after(path, change).await, ["demo/one", "demo/two"]);
}

#[tokio::test]
async fn a_file_that_an_editor_renames_over_the_old_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("a.yaml"), pod("one")).unwrap();
    let change = || {
        fs::write(path.join(".a.yaml.swp"), pod("two")).unwrap();
        fs::rename(path.join(".a.yaml.swp"), path.join("a.yaml")).unwrap();
    };
    assert_eq!(after(path, change).await, ["demo/two"]);
}

#[tokio::test]
async fn the_swapped_link_of_a_mounted_config_map_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (version, name) in [("..1", "one"), ("..2", "two")] {
        fs::create_dir(path.join(version)).unwrap();
        fs::write(path.join(version).join("a.yaml"), pod(name)).unwrap();
    }
    symlink("..1", path.join("..data")).unwrap();
    symlink("..data/a.yaml", path.join("a.yaml")).unwrap();
    let change = || {
        symlink("..2", path.join("..data_tmp")).unwrap();
        fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
    };
    assert_eq!(after(path, change).await, ["demo/two"]);
}

#[tokio::test]
async fn a_folder_that_is_replaced_as_a_whole_is_noticed() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("manifests");
    for (folder, name) in [("1", "one"), ("2", "two")] {
        let folder = parent.path().join(folder);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("a.yaml"), pod(name)).unwrap();
    }
    symlink("1", &path).unwrap();
    let change = || {
        symlink("2", parent.path().join("tmp")).unwrap();
        fs::rename(parent.path().join("tmp"), &path).unwrap();
    };
    assert_eq!(after(&path, change).await, ["demo/two"]);
}

/// What looking at one file comes to while the folder is not quiet yet.
async fn at_once(source: &mut DirectorySource, file: &Path) -> bool {
    let places = Places {
        files: [file.to_owned()].into(),
        all: false,
    };
    source.look(places).await;
    source.publish_if_safe()
}

#[tokio::test]
async fn what_adds_and_changes_counts_at_once_and_what_takes_away_waits() {
    let folder = tempfile::tempdir().unwrap();
    let (mut source, published) = source(folder.path());
    let (one, two) = (folder.path().join("1.yaml"), folder.path().join("2.yaml"));
    fs::write(&one, pod("one")).unwrap();
    source.reload().await;

    fs::write(&two, pod("two")).unwrap();
    assert!(at_once(&mut source, &two).await);
    assert_eq!(names(&published), ["demo/one", "demo/two"]);

    fs::write(&two, "kind: [").unwrap();
    assert!(!at_once(&mut source, &two).await, "it is wrong");
    assert_eq!(published.state().errors(), 0, "and nobody is told yet");

    fs::remove_file(&two).unwrap();
    assert!(!at_once(&mut source, &two).await, "it is gone");
    assert_eq!(names(&published), ["demo/one", "demo/two"]);

    fs::write(&two, pod("two")).unwrap();
    source.reload().await;
    fs::write(&two, pod("three")).unwrap();
    assert!(!at_once(&mut source, &two).await, "demo/two is gone");
    source.conclude();
    assert_eq!(names(&published), ["demo/one", "demo/three"]);
}

#[tokio::test]
async fn a_manifest_that_an_editor_removes_and_writes_anew_is_never_gone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, pod("one")).unwrap();
    let (source, mut published) = source(folder.path());
    let tasks = Tasks::new();
    tasks.spawn("source", source.run(tasks.clone()));
    published.changed().await;
    for version in 2..5 {
        fs::rename(&file, folder.path().join("a.yaml~")).unwrap();
        let label = format!("labels: {{version: v{version}}}, name: one");
        fs::write(&file, pod("one").replace("name: one", &label)).unwrap();
        published.changed().await;
        assert_eq!(names(&published), ["demo/one"]);
        assert_eq!(published.state().version, version);
    }
    tasks.finish(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn what_may_be_half_of_a_change_waits_for_more_and_not_for_ever() {
    let begun = Instant::now();
    let mut hold = Hold::renewed(None);
    assert_eq!(hold.end(None), begun + QUIET);
    assert_eq!(hold.end(Some(begun)), begun + QUIET);
    let later = begun + 2 * QUIET;
    assert_eq!(hold.end(Some(later)), later);

    while hold.end(Some(Instant::now() + LONGEST_HOLD)) > Instant::now() {
        tokio::time::advance(QUIET / 2).await;
        hold = Hold::renewed(Some(hold));
    }
    assert_eq!(begun.elapsed(), LONGEST_HOLD);
}
