//! Looking again and again comes to what one look comes to.

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::workload::fixtures::shown;

fn pod(name: u8, label: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: w{name}, namespace: demo, \
         labels: {{app: a{label}}}}}\nspec: {{}}\nstatus: {{podIP: 10.0.0.{name}}}\n"
    )
}

#[derive(Clone, Debug)]
enum Edit {
    Write(u8, String),
    Remove(u8),
}

fn edit() -> impl Strategy<Value = Edit> {
    let text = prop_oneof![
        6 => prop::collection::vec((0..5_u8, 0..3_u8), 1..4).prop_map(|pods| {
            let pods: Vec<String> = pods.into_iter().map(|(name, label)| pod(name, label)).collect();
            pods.join("---\n")
        }),
        1 => Just("  \n".to_owned()),
        1 => Just("kind: [".to_owned()),
        1 => Just("apiVersion: v1\nkind: Secret\n".to_owned()),
        1 => Just("#".repeat(3000)),
    ];
    prop_oneof![
        5 => (0..5_u8, text).prop_map(|(file, text)| Edit::Write(file, text)),
        1 => (0..5_u8).prop_map(Edit::Remove),
    ]
}

fn new(path: &Path) -> Folder {
    let limits = DirectoryLimits {
        files: 4,
        // Two of the largest files are too much.
        bytes: 5000,
        ..DirectoryLimits::default()
    };
    Folder::new(path.to_owned(), limits, MeshSettings::for_node("one"))
}

/// What can be said of an outcome, without what only somebody who was there before knows.
fn told(folder: &Folder) -> (bool, Vec<String>, Vec<String>) {
    let lost = folder.lost();
    let (mesh, mut mistakes) = match folder.outcome() {
        Ok((mesh, mistakes)) => (Some(mesh), mistakes),
        Err(mistakes) => (None, mistakes),
    };
    mistakes.retain(|mistake| !lost.contains(mistake));
    if !lost.is_empty() {
        // Errors hide what is no error.
        mistakes.retain(Mistake::is_error);
    }
    let workloads = mesh.iter().flat_map(|mesh| {
        let workloads = mesh.workloads();
        workloads
            .map(|workload| format!("{workload:?}"))
            .collect::<Vec<_>>()
    });
    (!lost.is_empty(), shown(&mistakes), workloads.collect())
}

proptest! {
    #[test]
    fn looking_again_and_again_comes_to_what_one_look_comes_to(
        edits in prop::collection::vec((edit(), any::<bool>(), any::<bool>()), 1..12),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut folder = new(directory.path());
        let mut pending = Places::default();
        for (edit, told_by_the_kernel, look) in edits {
            let file = match &edit { Edit::Write(file, _) | Edit::Remove(file) => *file };
            let path = directory.path().join(format!("{file}.yaml"));
            match edit {
                Edit::Write(_, text) => fs::write(&path, text).unwrap(),
                Edit::Remove(_) => fs::remove_file(&path).unwrap_or_default(),
            }
            if told_by_the_kernel {
                pending.files.insert(path);
            } else {
                pending.all = true;
            }
            if look {
                folder.look(&std::mem::take(&mut pending));
                if folder.outcome().is_ok() {
                    folder.is_in_force();
                }
            }
        }
        folder.look(&pending);
        let mut fresh = new(directory.path());
        fresh.look(&Places::all());
        let (was_lost, mistakes, workloads) = told(&folder);
        let (_, mut expected, meshed) = told(&fresh);
        if was_lost {
            expected.retain(|one| !one.contains(": warning: ") && !one.contains(": note: "));
        } else {
            prop_assert_eq!(workloads, meshed);
        }
        prop_assert_eq!(mistakes, expected);
    }
}

#[test]
fn a_file_that_was_not_touched_is_not_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.yaml");
    fs::write(&path, pod(1, 1)).unwrap();
    let mut folder = new(directory.path());
    assert!(folder.look(&Places::all()).changed);
    let before = folder.outcome().unwrap().0;
    assert_eq!(folder.look(&Places::all()), Look::default());
    // The same content: read, and nothing follows.
    fs::write(&path, pod(1, 1)).unwrap();
    assert_eq!(folder.look(&Places::all()), Look::default());
    let after = folder.outcome().unwrap().0;
    let first = |mesh: &Mesh| Arc::clone(mesh.workloads().next().unwrap());
    assert!(Arc::ptr_eq(&first(&before), &first(&after)));
}

#[test]
fn many_files_are_read_at_the_same_time() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..200 {
        let text = pod(0, 0).replace("w0", &format!("w{number}"));
        let text = text.replace("status: {podIP: 10.0.0.0}\n", "");
        fs::write(directory.path().join(format!("{number}.yaml")), text).unwrap();
    }
    let settings = MeshSettings::for_node("one");
    let path = directory.path().to_owned();
    let mut folder = Folder::new(path, DirectoryLimits::default(), settings);
    folder.look(&Places::all());
    assert_eq!(folder.outcome().unwrap().0.workload_count(), 200);
    assert_eq!(folder.len(), 200);
}
