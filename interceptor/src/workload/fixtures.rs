//! Meshes from manifests written in a test.

use std::sync::Arc;

use super::objects::Objects;
use super::{Mesh, MeshSettings, Workload, WorkloadId};
use crate::yaml::{Limits, Mistake, Report, parse};

/// The mesh that `manifests` describe on node `one`, and every finding about them.
pub(crate) fn mesh(manifests: &str) -> (Mesh, Vec<Mistake>) {
    mesh_with(manifests, &MeshSettings::for_node("one"))
}

/// The same with these settings.
pub(crate) fn mesh_with(manifests: &str, settings: &MeshSettings) -> (Mesh, Vec<Mistake>) {
    let report = Report::default();
    let mut objects = Objects::default();
    for document in parse(
        &Arc::from("demo.yaml"),
        manifests,
        &Limits::default(),
        &report,
    ) {
        objects.read(&document, &report);
    }
    let mut mistakes = report.into_mistakes();
    let (mesh, found) = Mesh::build(&objects, settings);
    mistakes.extend(found);
    (mesh, mistakes)
}

/// The objects of manifests without any mistake of their own.
pub(crate) fn read(manifests: &str) -> Objects {
    let report = Report::default();
    let mut objects = Objects::default();
    for document in parse(
        &Arc::from("demo.yaml"),
        manifests,
        &Limits::default(),
        &report,
    ) {
        objects.read(&document, &report);
    }
    assert_eq!(shown(&report.into_mistakes()), Vec::<String>::new());
    objects
}

/// The same, from manifests without any finding.
pub(crate) fn good_mesh(manifests: &str) -> Mesh {
    let (mesh, mistakes) = mesh(manifests);
    assert_eq!(shown(&mistakes), Vec::<String>::new());
    mesh
}

/// Findings as an operator reads them.
pub(crate) fn shown(mistakes: &[Mistake]) -> Vec<String> {
    mistakes.iter().map(ToString::to_string).collect()
}

/// Workload `namespace/name`, which must be there.
pub(crate) fn workload<'m>(mesh: &'m Mesh, id: &str) -> &'m Arc<Workload> {
    let (namespace, name) = id.split_once('/').unwrap();
    let id = WorkloadId {
        namespace: Arc::from(namespace),
        name: Arc::from(name),
    };
    mesh.workload(&id).unwrap()
}
