//! What a decision costs in a small and in a large mesh, and what it costs to keep the mesh up to
//! date: `cargo bench -p interceptor --bench mesh`.
//!
//! The figures to keep: a decision costs the same in both; one endpoint's change stays under 10 ms.
//! Results are in `docs/scale.md`.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot be set up must fail loudly"
)]

#[path = "../../tests/src/manifests/large.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    reason = "the harness of the end-to-end tests uses all of it"
)]
mod large;

use std::net::SocketAddr;
use std::sync::Arc;

use divan::{Bencher, black_box};
use interceptor::decide;
use interceptor::workload::objects::Objects;
use interceptor::workload::{Mesh, MeshSettings, Store, Workload, WorkloadId};
use interceptor::yaml::{Limits, Report, parse};
use interceptor_policy::Attempt;
use large::{LargeMesh, NODES};

fn main() {
    divan::main();
}

/// Workloads.
const SIZES: [usize; 3] = [100, 5_000, 50_000];

fn objects(file: &Arc<str>, text: &str) -> Objects {
    let report = Report::default();
    let mut objects = Objects::default();
    for document in parse(file, text, &Limits::default(), &report) {
        objects.read(&document, &report);
    }
    assert!(report.is_empty(), "the manifests are right");
    objects
}

/// What a folder of that many workloads says, a hundred objects to a file.
fn said(workloads: usize) -> Vec<(Arc<str>, Objects)> {
    let documents: Vec<String> = LargeMesh {
        workloads,
        nodes: NODES,
    }
    .documents()
    .collect();
    let files = documents.chunks(100).enumerate();
    let file = |(number, documents): (usize, &[String])| {
        let file: Arc<str> = Arc::from(format!("{number}.yaml"));
        let said = objects(&file, &documents.join("---\n"));
        (file, said)
    };
    files.map(file).collect()
}

fn store(workloads: usize) -> Store {
    let mut store = Store::new(MeshSettings::for_node("node-0"));
    for (file, said) in said(workloads) {
        store.say(&file, said);
    }
    store.settle();
    store
}

fn mesh(workloads: usize) -> Mesh {
    store(workloads).snapshot()
}

/// A Pod of this node, to which a policy applies, and a caller that it admits.
fn ends(mesh: &Mesh) -> (Arc<Workload>, Arc<Workload>) {
    let one = |number: usize, app: usize| {
        let id = WorkloadId {
            namespace: Arc::from("large-0"),
            name: Arc::from(format!("app-{app}-7d9f6c5b4-{number:05}")),
        };
        Arc::clone(mesh.workload(&id).expect("it is there"))
    };
    (one(0, 0), one(10, 1))
}

#[divan::bench(args = SIZES)]
fn outbound_to_a_service(bencher: Bencher<'_, '_>, workloads: usize) {
    let mesh = mesh(workloads);
    let (_, source) = ends(&mesh);
    let to = SocketAddr::from((large::service_address(7), 80));
    bencher.bench(|| decide::outbound(black_box(&mesh), &source, black_box(to), black_box(12_345)));
}

#[divan::bench(args = SIZES)]
fn outbound_to_a_workload(bencher: Bencher<'_, '_>, workloads: usize) {
    let mesh = mesh(workloads);
    let (destination, source) = ends(&mesh);
    let to = SocketAddr::from((destination.addresses[0], 8080));
    bencher.bench(|| decide::outbound(black_box(&mesh), &source, black_box(to), 0));
}

#[divan::bench(args = SIZES)]
fn inbound(bencher: Bencher<'_, '_>, workloads: usize) {
    let mesh = mesh(workloads);
    let (destination, source) = ends(&mesh);
    let attempt = Attempt {
        source: Some(&source.identity),
        source_ip: source.addresses[0],
        destination_ip: destination.addresses[0],
        destination_port: 8080,
    };
    assert!(decide::inbound(&mesh, &destination, attempt).is_allowed());
    bencher.bench(|| decide::inbound(black_box(&mesh), &destination, black_box(attempt)));
}

/// One Pod becomes ready or unready: from its parsed manifest to the next mesh, while somebody
/// still reads the one before.
#[divan::bench(args = SIZES)]
fn one_endpoint_changes(bencher: Bencher<'_, '_>, workloads: usize) {
    changes(bencher, workloads, |turn| {
        large::pod(3, turn % 2 == 0, NODES)
    });
}

/// One policy is written with another name for its port, and back.
#[divan::bench(args = SIZES)]
fn one_policy_changes(bencher: Bencher<'_, '_>, workloads: usize) {
    changes(bencher, workloads, |turn| {
        let text = large::policy(0);
        if turn % 2 == 0 {
            text
        } else {
            text.replace("8080", "9090")
        }
    });
}

fn changes(bencher: Bencher<'_, '_>, workloads: usize, change: impl Fn(usize) -> String) {
    let file: Arc<str> = Arc::from("change.yaml");
    let mut store = Store::new(MeshSettings::for_node("node-0"));
    let own = objects(&file, &change(0));
    for (name, mut said) in said(workloads) {
        said.pods
            .retain(|pod| own.pods.iter().all(|own| own.meta.name != pod.meta.name));
        let policies = &mut said.authorization_policies;
        policies.retain(|policy| {
            let same = |own: &Arc<_>| is_same(own, policy);
            !own.authorization_policies.iter().any(same)
        });
        store.say(&name, said);
    }
    store.say(&file, own);
    store.settle();
    let mut read = store.snapshot();
    let mut turn = 0;
    bencher.bench_local(move || {
        turn += 1;
        store.say(&file, objects(&file, &change(turn)));
        store.settle();
        std::mem::replace(&mut read, store.snapshot())
    });
}

fn is_same(
    one: &interceptor::workload::objects::AuthorizationPolicy,
    other: &interceptor::workload::objects::AuthorizationPolicy,
) -> bool {
    (&one.meta.namespace, &one.meta.name) == (&other.meta.namespace, &other.meta.name)
}

/// From parsed manifests to a mesh.
#[divan::bench(args = SIZES, sample_count = 5, sample_size = 1)]
fn first_build(bencher: Bencher<'_, '_>, workloads: usize) {
    bencher
        .with_inputs(|| said(workloads))
        .bench_local_values(|said| {
            let mut store = Store::new(MeshSettings::for_node("node-0"));
            for (file, said) in said {
                store.say(&file, said);
            }
            store.settle();
            store.snapshot()
        });
}
