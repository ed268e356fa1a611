//! The machine that the benchmark runs on: two nodes, two agents, and a lane for every variant.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::agents::Agents;
use super::endpoint::Endpoint;
use super::figure::{Figure, Variant, median};
use super::lane::{Lane, PORT, Parts};
use super::peer::Kind;
use super::plan::{Plan, Step, Work};
use super::report::Report;
use super::sample::Length;
use super::schedule::Turn;
use super::side::Side;
use super::twin::{Place, Twin};
use super::{churn, congestion, hook, http, memory, mesh, policy, sample, scale, twin};
use crate::agent::Setup;
use crate::fabric::Fabric;
use crate::manifests::large::{LargeMesh, NODES};
use crate::manifests::{self, AuthorizationPolicy, Manifest, NAMESPACE, Namespace, Rule};
use crate::node::Node;
use crate::pod::Pod;
use crate::world::Ground;

/// Nodes, agents and lanes, ready to be measured.
#[derive(Debug)]
pub struct Rig {
    // Field order is drop order: agents before what they run in.
    /// Nothing only while they start anew.
    agents: Option<Agents>,
    /// Whether the agents have carried nothing yet.
    fresh: bool,
    lanes: Vec<Lane>,
    endpoint: Endpoint,
    /// Agents come and go there to load large meshes.
    spare: mesh::Spare,
    /// Its agents run only while they are needed.
    place: Place,
    nodes: [Node; 2],
    fabric: Fabric,
    setup: Setup,
    /// Whether there is an agent on the second node: nobody without a variant that needs it.
    two: bool,
    /// Between nodes, and inside of one.
    lengths: [Length; 2],
    churn: (usize, Duration),
    /// How many turns with a large mesh there are, and how long each is.
    mesh_turns: (usize, Duration),
}

impl Rig {
    /// Builds it with the variants that are `wanted`, and leaves out of the plan what this machine
    /// cannot do.
    ///
    /// # Errors
    ///
    /// Fails where this machine does not allow it, or if an agent or a peer does not come up.
    pub fn new(
        plan: &mut Plan,
        peers: &[(String, Kind)],
        wanted: &dyn Fn(&Variant) -> bool,
        report: &mut Report,
    ) -> Result<Self> {
        let ground = Ground::new()?.context("the benchmark needs root and iproute2")?;
        let Ground {
            caller,
            server,
            a,
            b,
            fabric,
        } = ground;
        let [here, there] = [a.pod("here-caller")?, a.pod("here-server")?];
        let outside = unmeshed(&a, &b, peers)?;
        let mut namespaces = vec![a.namespace().as_ref(), b.namespace().as_ref()];
        let enrolled = [&caller, &server, &here, &there];
        let others = outside.iter().flat_map(|(_, _, pods)| pods);
        namespaces.extend(enrolled.into_iter().chain(others).map(Pod::namespace));
        report.note(&machine());
        report.note(&congestion::pin(&namespaces));
        if let Some(note) = plan.idle_connections() {
            report.note(&note);
        }
        Side::Far.enter()?;
        let endpoint = Endpoint::new(&b, &fabric)?;
        let setup = Setup {
            manifests: mesh(&enrolled, &endpoint),
            ..Setup::default()
        };
        let nodes = [a, b];
        let two = wanted(&Variant::CrossNode);
        let agents = Agents::start(&nodes, &setup, two)?;
        let parts = parts([[here, there], [caller, server]], outside, wanted);
        let web = has_web(plan, report);
        let mut rig = Self {
            lanes: start(parts, &fabric, web, report)?,
            agents: Some(agents),
            fresh: true,
            endpoint,
            spare: mesh::Spare::new(fabric.node("c")?)?,
            place: Place::new(&fabric, plan.most_peers())?,
            nodes,
            fabric,
            setup,
            two,
            lengths: [Length::of(plan.longest); 2],
            churn: plan.churn,
            mesh_turns: (plan.mesh_turns, Plan::mesh_sample()),
        };
        rig.carry()?;
        rig.measure_as(plan);
        Ok(rig)
    }

    /// Takes the lengths of samples from a plan, now that it is known how many variants there are.
    fn measure_as(&mut self, plan: &Plan) {
        let variants = self.variants();
        let length = |windows| Length {
            windows: (1, windows),
            patience: plan.patience,
        };
        let across = plan.sample(&variants);
        self.lengths = [length(across), length(Plan::short_sample())];
    }

    /// The variants in the order in which they alternate.
    pub fn variants(&self) -> Vec<Variant> {
        self.lanes.iter().map(|lane| lane.variant.clone()).collect()
    }

    /// Starts a peer anew whose sample failed.
    ///
    /// # Errors
    ///
    /// Fails if it does not start.
    pub fn revive(&mut self, variant: &Variant) -> Result<()> {
        let mut lanes = self.lanes.iter_mut();
        lanes
            .find(|lane| lane.variant == *variant)
            .map_or(Ok(()), Lane::revive)
    }

    /// Takes one sample and reports what it found.
    ///
    /// # Errors
    ///
    /// Fails if a connection does: a benchmark with errors measures something else.
    pub fn measure(&mut self, turn: &Turn, report: &mut Report) -> Result<()> {
        if turn.step == Step::Idle && turn.variant.is_own() && !self.fresh {
            self.restart()?;
        }
        self.fresh &= !turn.variant.is_own();
        let lane = self.lane(&turn.variant)?;
        lane.enter()?;
        let figures = match turn.step {
            Step::Churn => {
                let rates = self.churn(lane)?;
                report.add_series(turn.take.round, &turn.variant, churn::WINDOWS, &rates);
                churn::figures(&rates)?
            }
            step => self.figures(step, lane, turn.is_short())?,
        };
        report.add(turn.take, &turn.variant, &figures);
        Ok(())
    }

    fn lane(&self, variant: &Variant) -> Result<&Lane> {
        let mut lanes = self.lanes.iter();
        let lane = lanes.find(|lane| lane.variant == *variant);
        lane.with_context(|| format!("no variant {variant}"))
    }

    fn figures(&self, step: Step, lane: &Lane, short: bool) -> Result<Vec<Figure>> {
        let [across, within] = self.lengths;
        let length = if short { within } else { across };
        let (_, time) = length.windows;
        match step {
            Step::Idle => memory::measure(lane, step, 0),
            Step::Hold(count) => memory::measure(lane, step, count),
            Step::Work(work) => {
                let sample = sample::load(lane, work, length)?;
                sample::figures(work, &sample, !lane.carriers().is_empty())
            }
            Step::Http(connections) => {
                let pair = lane.carry(http::PORT)?;
                let carriers = lane.ends(pair.as_ref()).concat();
                let target = lane.target(http::PORT);
                http::measure(&lane.client, target, &carriers, (connections, time))
            }
            Step::Policy => {
                let taken = self.policy(lane)?;
                Ok(vec![Figure::new("policy_change_ms", "ms", taken)])
            }
            Step::Mesh(workloads) => self.mesh(lane, workloads),
            Step::Nodes(nodes) => {
                let mesh = LargeMesh {
                    workloads: 10_000,
                    nodes,
                };
                mesh::load(&self.spare, self.fabric.folder(), mesh, ("nodes", nodes))
            }
            Step::Peers(count) => Twin::start(&self.place)?.peers(count),
            Step::Held(count) => memory::held(lane, count, time),
            Step::Policies(count) => scale::verdict(count),
            Step::Hook => hook::measure(lane),
            Step::Churn => Ok(Vec::new()),
        }
    }

    fn agents(&self) -> Result<&Agents> {
        self.agents.as_ref().context("the agents do not run")
    }

    /// Starts the agents anew.
    fn restart(&mut self) -> Result<()> {
        // With them go their programs.
        drop(self.agents.take());
        self.agents = Some(Agents::start(&self.nodes, &self.setup, self.two)?);
        self.fresh = true;
        self.carry()
    }

    /// Tells the lanes who carries them.
    fn carry(&mut self) -> Result<()> {
        let ids = self.agents()?.processes()?;
        for lane in &mut self.lanes {
            lane.is_carried_by(&ids);
        }
        Ok(())
    }

    fn churn(&self, lane: &Lane) -> Result<Vec<f64>> {
        let length = Length {
            windows: self.churn,
            ..Length::of(Duration::ZERO)
        };
        lane.with_default_ports(|| {
            let sample = sample::load(lane, Work::Connect(churn::IN_FLIGHT), length)?;
            Ok(churn::rates(&sample.windows))
        })
    }

    /// What a large mesh costs, and what connections and changes cost in it.
    fn mesh(&self, lane: &Lane, workloads: usize) -> Result<Vec<Figure>> {
        let mesh = LargeMesh {
            workloads,
            nodes: NODES,
        };
        let mut figures = mesh::load(&self.spare, self.fabric.folder(), mesh, ("mesh", workloads))?;
        let twin = Twin::start(&self.place)?;
        let agents = self.agents()?.both()?;
        let (mut changes, mut moves) = (Vec::new(), Vec::new());
        let kept = twin::kept(&twin, (lane, agents), workloads, self.mesh_turns, || {
            for _ in 0..6 {
                changes.push(self.policy(lane)?);
            }
            moves = self.endpoint.moves(&lane.client, agents)?;
            Ok(())
        })?;
        let change = median(&changes).context("no changes")?;
        let connect = Work::Connect(64);
        figures.extend([
            Figure::new(format!("mesh_policy_ms_{workloads}"), "ms", change),
            Figure::new(format!("mesh_{connect}_{workloads}"), "1/s", kept.rate),
            Figure::new(
                format!("mesh_connect_kept_{workloads}"),
                "large/small",
                kept.ratio,
            ),
            Figure::new(
                format!("mesh_connect_error_{workloads}"),
                "%",
                kept.error * 100.0,
            ),
        ]);
        figures.extend(super::endpoint::figures(&moves, workloads));
        Ok(figures)
    }

    /// Milliseconds until a policy that refuses this lane's client, written to both agents, has its
    /// effect.
    fn policy(&self, lane: &Lane) -> Result<f64> {
        let deny = AuthorizationPolicy::deny("bench")
            .selecting(lane.server.name())
            .rule(&Rule::from(lane.client.name()));
        let manifests = &self.setup.manifests;
        let denied = format!("{manifests}---\n{}", manifests::yaml(&[&deny]));
        let agents = self.agents()?;
        policy::time_to_effect(
            &lane.client,
            lane.target(PORT),
            || agents.write_mesh(&denied),
            || agents.write_mesh(manifests),
        )
    }
}

/// Whether HTTP is measured: leaves it out of the plan where a program is missing.
fn has_web(plan: &mut Plan, report: &mut Report) -> bool {
    let http = plan.steps(1).any(|it| matches!(it, Step::Http(_)));
    let missing = http::missing().filter(|_| http);
    if let Some(missing) = &missing {
        plan.without(|it| matches!(it, Step::Http(_)));
        report.skip("http_64", missing);
    }
    http && missing.is_none()
}

/// What the lanes are made of, in their order: without us, with us, peers.
fn parts(
    [same, cross]: [[Pod; 2]; 2],
    outside: Vec<Unmeshed>,
    wanted: &dyn Fn(&Variant) -> bool,
) -> Vec<Parts> {
    let part = |(variant, kind, pods)| Parts {
        variant,
        pods,
        kind,
    };
    let own = [
        (Variant::SameNode, None, same),
        (Variant::CrossNode, None, cross),
    ];
    let mut parts: Vec<Parts> = outside.into_iter().map(part).collect();
    // Beside what they are compared with.
    parts.splice(2..2, own.map(part));
    parts.retain(|it| wanted(&it.variant));
    parts
}

/// A lane for each variant. One peer that does not start does not keep the others from being
/// measured.
fn start(parts: Vec<Parts>, fabric: &Fabric, web: bool, report: &mut Report) -> Result<Vec<Lane>> {
    let mut lanes = Vec::new();
    for part in parts {
        let variant = part.variant.clone();
        match Lane::start(part, fabric.folder(), web) {
            Ok(lane) => lanes.push(lane),
            Err(error) if matches!(variant, Variant::Peer(_)) => {
                report.lack(variant, format!("{error:#}").trim());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(lanes)
}

/// What this runs on.
fn machine() -> String {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model
        .unwrap_or("unknown")
        .trim_start_matches([' ', '\t', ':']);
    let release = read("/proc/sys/kernel/osrelease");
    let release = release.split('-').next().unwrap_or_default().trim();
    let cores = cpus.lines().filter(|it| it.starts_with("processor"));
    let cores = cores.count();
    format!(
        "machine: {cores} cores ({model}) that clients, servers and all agents share, Linux {release}"
    )
}

/// A variant that the agents have nothing to do with, and its pods.
type Unmeshed = (Variant, Option<Kind>, [Pod; 2]);

/// All of them.
fn unmeshed(a: &Node, b: &Node, peers: &[(String, Kind)]) -> Result<Vec<Unmeshed>> {
    let mut outside = vec![
        (Variant::Raw, None, pods(a, b, "raw")?),
        (Variant::RawSameNode, None, pods(a, a, "raw-here")?),
        (Variant::Control, None, pods(a, a, "raw-again")?),
        (Variant::Unmeshed, None, pods(a, a, "unmeshed")?),
    ];
    for (name, kind) in peers {
        let variant = Variant::Peer(name.clone());
        outside.push((variant, Some(kind.clone()), pods(a, b, name)?));
    }
    Ok(outside)
}

fn pods(a: &Node, b: &Node, name: &str) -> Result<[Pod; 2]> {
    Ok([
        a.pod(&format!("{name}-caller"))?,
        b.pod(&format!("{name}-server"))?,
    ])
}

/// The enrolled pods, a policy that admits each client to its server by identity, and the Service
/// whose endpoint moves.
fn mesh(pods: &[&Pod; 4], endpoint: &Endpoint) -> String {
    let namespace = Namespace::enrolled(NAMESPACE);
    let objects = pods.map(Pod::manifest);
    let allow = AuthorizationPolicy::allow("callers")
        .rule(&Rule::from("caller"))
        .rule(&Rule::from("here-caller"));
    let service = endpoint.service();
    let mut all: Vec<&dyn Manifest> = vec![&namespace, &allow, &service];
    all.extend(objects.iter().map(|it| -> &dyn Manifest { it }));
    manifests::yaml(&all)
}
