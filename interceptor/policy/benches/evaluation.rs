//! What a verdict costs among 1,000 policies of 5 rules each that all hold for one workload, and
//! what it costs to get there: `cargo bench -p interceptor-policy`.
//!
//! The figure to keep: every verdict stays under 5 µs. Results are in `docs/decisions/policy.md`.
#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up must fail loudly"
)]

mod policies;

use std::collections::BTreeMap;

use divan::{AllocProfiler, Bencher, black_box};
use interceptor_policy::spec::AuthorizationPolicySpec;
use interceptor_policy::{
    Attempt, Effective, Policy, PolicyMeta, PolicyName, PolicySet, Settings, SpiffeId, Target,
};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const POLICIES: usize = 1000;

fn main() {
    divan::main();
}

fn specs() -> Vec<AuthorizationPolicySpec> {
    (0..POLICIES).map(policies::spec).collect()
}

fn compiled(specs: &[AuthorizationPolicySpec]) -> Vec<Policy> {
    let compile = |(index, spec): (usize, &AuthorizationPolicySpec)| {
        let name = PolicyName::new("demo", format!("policy-{index:04}"));
        Policy::compile(name, &PolicyMeta::default(), spec, &Settings::default())
            .expect("a correct policy")
            .value
    };
    specs.iter().enumerate().map(compile).collect()
}

fn effective(set: &PolicySet) -> Effective {
    let (labels, ports) = (BTreeMap::new(), BTreeMap::new());
    set.effective(&Target {
        namespace: "demo",
        labels: &labels,
        ports: &ports,
        services: &[],
    })
}

fn server() -> Effective {
    let set = PolicySet::new(Settings::default(), compiled(&specs()), Vec::new());
    effective(&set)
}

/// Who calls, and what should become of it.
#[derive(Clone, Copy, Debug)]
enum Caller {
    AllowedByPrincipal,
    AllowedByPattern,
    AllowedByAddress,
    DeniedByRule,
    NotAllowed,
    Plaintext,
}

const CALLERS: [Caller; 6] = [
    Caller::AllowedByPrincipal,
    Caller::AllowedByPattern,
    Caller::AllowedByAddress,
    Caller::DeniedByRule,
    Caller::NotAllowed,
    Caller::Plaintext,
];

impl Caller {
    fn identity(self) -> Option<SpiffeId> {
        let path = match self {
            Self::AllowedByPrincipal => "ns/ns-555/sa/caller-3",
            Self::AllowedByPattern => "ns/elsewhere/sa/operator-777",
            Self::AllowedByAddress | Self::NotAllowed => "ns/nowhere/sa/nobody",
            Self::DeniedByRule => "ns/ns-550/sa/caller-3",
            Self::Plaintext => return None,
        };
        let id = format!("spiffe://cluster.local/{path}").parse();
        Some(id.expect("an identity"))
    }

    const fn is_allowed(self) -> bool {
        matches!(
            self,
            Self::AllowedByPrincipal | Self::AllowedByPattern | Self::AllowedByAddress
        )
    }
}

#[divan::bench(args = CALLERS)]
fn verdict(bencher: Bencher<'_, '_>, caller: Caller) {
    let server = server();
    let identity = caller.identity();
    let by_address = matches!(caller, Caller::AllowedByAddress);
    let attempt = Attempt {
        source: identity.as_ref(),
        source_ip: if by_address {
            [10, 101, 5, 9]
        } else {
            [192, 0, 2, 1]
        }
        .into(),
        destination_ip: [10, 0, 0, 2].into(),
        destination_port: if by_address { 9000 } else { 8080 },
    };
    assert_eq!(
        server.decide(&attempt).is_allowed(),
        caller.is_allowed(),
        "{caller:?}"
    );
    bencher.bench(|| black_box(&server).decide(black_box(&attempt)));
}

/// From what was written to policies, all of them.
#[divan::bench]
fn compile(bencher: Bencher<'_, '_>) {
    let specs = specs();
    bencher.bench(|| compiled(black_box(&specs)));
}

/// From policies to the index of one workload.
#[divan::bench]
fn index(bencher: Bencher<'_, '_>) {
    let set = PolicySet::new(Settings::default(), compiled(&specs()), Vec::new());
    bencher.bench(|| effective(black_box(&set)));
}

/// The smallest change that would turn a denial: for people, not for the data plane.
#[divan::bench]
fn flips(bencher: Bencher<'_, '_>) {
    let set = PolicySet::new(Settings::default(), compiled(&specs()), Vec::new());
    let (labels, ports) = (BTreeMap::new(), BTreeMap::new());
    let target = Target {
        namespace: "demo",
        labels: &labels,
        ports: &ports,
        services: &[],
    };
    let identity = Caller::NotAllowed.identity();
    let attempt = Attempt {
        source: identity.as_ref(),
        source_ip: [192, 0, 2, 1].into(),
        destination_ip: [10, 0, 0, 2].into(),
        destination_port: 8080,
    };
    bencher.bench(|| set.flips(&target, &attempt, None));
}
