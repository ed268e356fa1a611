//! What `explain` says is what happens: every caller calls every port under every combination of
//! policies and annotations, and is asked about beforehand.
//!
//! A disagreement may last as long as a change needs to take effect, and no longer.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use interceptor_tests::apps;
use interceptor_tests::manifests::{AuthorizationPolicy, PeerAuthentication, Rule};
use interceptor_tests::pod::Pod;
use interceptor_tests::wait;
use interceptor_tests::world::{Ground, Objects, World};
use serde_json::Value;

const PORTS: [u16; 2] = [8080, 9090];

/// Who may, in one way of saying it.
type Policies = (&'static str, fn(&mut Objects, &Cast));
/// What an owner has said about one workload.
type Annotation = (&'static str, &'static str, &'static str);

const POLICIES: [Policies; 9] = [
    ("no policies", |_, _| {}),
    ("STRICT", |it, _| it.add(PeerAuthentication::strict())),
    ("STRICT but for a port", |it, _| {
        it.add(PeerAuthentication::strict());
        it.add(
            PeerAuthentication::strict()
                .selecting("server")
                .port(9090, "PERMISSIVE"),
        );
    }),
    ("one caller allowed", |it, _| {
        it.add(AuthorizationPolicy::allow("one").rule(&Rule::from("caller")));
    }),
    ("one caller denied at a port", |it, _| {
        it.add(AuthorizationPolicy::deny("one").rule(&Rule::from("caller").ports(&["9090"])));
    }),
    ("an address allowed", |it, cast| {
        let address = cast.outsider.v4().to_string();
        let rule = Rule::default().source("ipBlocks", &[&address]);
        it.add(AuthorizationPolicy::allow("address").rule(&rule));
    }),
    ("all but one allowed, over mutual TLS", |it, _| {
        it.add(PeerAuthentication::strict());
        let rule = Rule::default()
            .source("namespaces", &["demo"])
            .source("notPrincipals", &["*/sa/neighbour"]);
        it.add(AuthorizationPolicy::allow("most").rule(&rule));
    }),
    ("nobody, in dry-run", |it, _| {
        it.add(
            AuthorizationPolicy::deny("all")
                .dry_run()
                .rule(&Rule::default()),
        );
    }),
    ("nobody at one workload", |it, _| {
        it.add(AuthorizationPolicy::allow("none").selecting("neighbour"));
    }),
];

const ANNOTATIONS: [Annotation; 5] = [
    ("", "", ""),
    (
        "server",
        "traffic.sidecar.istio.io/excludeInboundPorts",
        "9090",
    ),
    (
        "caller",
        "traffic.sidecar.istio.io/excludeOutboundPorts",
        "8080",
    ),
    ("caller", "interceptor.dev/unknown-destinations", "refuse"),
    ("neighbour", "interceptor.dev/same-node", "mtls"),
];

/// Two workloads beside the usual ones: one on the caller's node, and one that is not enrolled.
struct Cast {
    neighbour: Pod,
    outsider: Pod,
}

/// A call that was answered otherwise than explained.
#[derive(Debug)]
#[expect(dead_code, reason = "shown when a test fails")]
struct Disagreement {
    from: String,
    to: String,
    explained: String,
    summary: String,
    reached: bool,
}

#[test]
fn what_explain_says_is_what_happens() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let cast = Cast {
        neighbour: ground.a.pod("neighbour")?,
        outsider: ground.a.pod("outsider")?,
    };
    let world = ground.start_with(|it| cast.manifests(it, ("", "", "")))?;
    let mut servers = Vec::new();
    for pod in [&world.server, &cast.neighbour, &cast.outsider] {
        for port in PORTS {
            servers.push(pod.serve(port, apps::echo)?);
        }
    }
    let mut kernel = BTreeSet::new();
    for annotation in ANNOTATIONS {
        for (name, policies) in POLICIES {
            world.change(|it| {
                cast.manifests(it, annotation);
                policies(it, &cast);
            })?;
            agree(&world, &cast, &mut kernel).with_context(|| format!("{name}, {annotation:?}"))?;
        }
    }
    ensure!(
        !kernel.is_empty(),
        "no connection was said to be carried by the kernel"
    );
    for line in world.near.access().iter().filter(|line| line.is_direct()) {
        let pair = (line.src_workload.clone(), line.dst_workload.clone());
        ensure!(
            kernel.contains(&pair),
            "carried by the kernel and not said so: {line:?}"
        );
    }
    Ok(())
}

type Pair = (Option<String>, Option<String>);

/// Waits until everything that is said of the world is so.
fn agree(world: &World, cast: &Cast, kernel: &mut BTreeSet<Pair>) -> Result<()> {
    let mut last = Ok(Vec::new());
    let agreed = wait::until("what happens to be what was explained", || {
        last = disagreements(world, cast, kernel);
        matches!(&last, Ok(none) if none.is_empty()).then_some(())
    });
    agreed.with_context(|| format!("{last:#?}"))
}

/// Every call of everybody to everybody else that does not end as explained.
fn disagreements(
    world: &World,
    cast: &Cast,
    kernel: &mut BTreeSet<Pair>,
) -> Result<Vec<Disagreement>> {
    let callers = [&world.caller, &cast.neighbour, &cast.outsider];
    let called = [&world.server, &cast.neighbour, &cast.outsider];
    let mut found = Vec::new();
    for from in callers {
        for to in called.iter().filter(|to| to.name() != from.name()) {
            for address in PORTS.map(|port| to.at(port)) {
                let (source, target) = (format!("demo/{}", from.name()), address.to_string());
                let answer = world.near.explain(&["--from", &source, "--to", &target])?;
                let says = |key: &str| text(&answer, key).to_owned();
                let steps = answer.get("steps").and_then(Value::as_array);
                let mut path =
                    (steps.into_iter().flatten()).filter(|step| text(step, "step") == "path");
                if path.any(|step| text(step, "answer").starts_with("kernel")) {
                    let pair = (Some(from.name().to_owned()), Some(to.name().to_owned()));
                    kernel.insert(pair);
                }
                let reached = from.ask(address, "hello").is_ok();
                if reached != (says("outcome") == "allowed") {
                    found.push(Disagreement {
                        from: source,
                        to: target,
                        explained: says("outcome"),
                        summary: says("summary"),
                        reached,
                    });
                }
            }
        }
    }
    Ok(found)
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    let value = value.get(key).and_then(Value::as_str);
    value.unwrap_or_default()
}

impl Cast {
    /// The manifests of everybody, one of them annotated.
    fn manifests(&self, it: &mut Objects, (who, key, value): Annotation) {
        let mut neighbour = self.neighbour.manifest();
        match who {
            "caller" => it.caller = it.caller.clone().annotation(key, value),
            "server" => it.server = it.server.clone().annotation(key, value),
            "neighbour" => neighbour = neighbour.annotation(key, value),
            _ => {}
        }
        let outsider = self.outsider.manifest();
        it.add(neighbour);
        it.add(outsider.label("istio.io/dataplane-mode", "none"));
    }
}
