//! The machine that the benchmark runs on: two nodes, two agents, and a lane for every variant.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::figure::{Figure, Variant, median};
use super::lane::{Lane, PORT, Parts};
use super::load::{Load, Sample, measure};
use super::peer::Kind;
use super::plan::{Plan, Step, Work, turn};
use super::processes::resident_mib;
use super::report::Report;
use super::twin::{Place, Twin};
use super::{churn, congestion, hold, http, mesh, policy, scale, twin};
use crate::agent::{Agent, Setup};
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
    near: Agent,
    /// Nobody without a variant that needs it: a node has one agent, and every socket of this machine
    /// pays for the programs of both.
    far: Option<Agent>,
    lanes: Vec<Lane>,
    /// Has no pods: agents come and go there to load large meshes.
    spare: Node,
    /// Its agents run only while they are needed.
    place: Place,
    _nodes: [Node; 2],
    fabric: Fabric,
    manifests: String,
    sample: Duration,
    churn: (usize, Duration),
    mesh_turns: usize,
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
        let manifests = mesh(&enrolled);
        let setup = Setup {
            manifests: manifests.clone(),
            ..Setup::default()
        };
        let (near, far) = start_agents(&a, &b, &setup, wanted(&Variant::CrossNode))?;
        let id = |agent: &Agent| agent.process().context("an agent ended");
        let near_id = id(&near)?;
        let mut both = vec![near_id];
        both.extend(far.as_ref().map(id).transpose()?);
        let own = |variant, pods, agents| Parts {
            variant,
            pods,
            agents,
            kind: None,
        };
        let same = own(Variant::SameNode, [here, there], vec![near_id]);
        let cross = own(Variant::CrossNode, [caller, server], both);
        let mut parts: Vec<Parts> = outside
            .into_iter()
            .map(|(variant, kind, pods)| Parts {
                variant,
                pods,
                agents: Vec::new(),
                kind,
            })
            .collect();
        parts.splice(2..2, [same, cross]);
        parts.retain(|part| wanted(&part.variant));
        let http = plan.steps(1).any(|it| matches!(it, Step::Http(_)));
        let missing = http::missing().filter(|_| http);
        if let Some(missing) = &missing {
            plan.without(|it| matches!(it, Step::Http(_)));
            report.skip("http_64", missing);
        }
        let web = http && missing.is_none();
        let lanes = start(parts, &fabric, web, report)?;
        Ok(Self {
            sample: plan.sample(lanes.len()),
            churn: plan.churn,
            mesh_turns: plan.mesh_turns,
            near,
            far,
            lanes,
            spare: fabric.node("c")?,
            place: Place::new(&fabric, plan.most_peers())?,
            _nodes: [a, b],
            fabric,
            manifests,
        })
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

    /// Measures one step over one variant once; nothing if it is of no meaning there.
    ///
    /// # Errors
    ///
    /// Fails if a connection does: a benchmark with errors measures something else.
    pub fn measure(&self, step: Step, variant: &Variant) -> Result<Vec<Figure>> {
        let mut lanes = self.lanes.iter();
        let lane = lanes.find(|lane| lane.variant == *variant);
        let lane = lane.with_context(|| format!("no variant {variant}"))?;
        match step {
            Step::Idle => memory(lane, step, 0),
            Step::Hold(count) => memory(lane, step, count),
            Step::Work(work) => {
                let sample = load(lane, work, (1, self.sample))?;
                work_figures(work, &sample, !lane.carriers().is_empty())
            }
            Step::Http(connections) => {
                let pair = lane.carry(http::PORT)?;
                let carriers = lane.ends(pair.as_ref()).concat();
                let target = lane.target(http::PORT);
                http::measure(&lane.client, target, &carriers, (connections, self.sample))
            }
            Step::Churn => lane.with_default_ports(|| {
                let sample = load(lane, Work::Connect(churn::IN_FLIGHT), self.churn)?;
                churn::figures(&sample.windows)
            }),
            Step::Policy if variant.is_own() => {
                let taken = self.policy(lane)?;
                Ok(vec![Figure::new("policy_change_ms", "ms", taken)])
            }
            Step::Mesh(workloads) if *variant == Variant::CrossNode => self.mesh(lane, workloads),
            Step::Nodes(nodes) if *variant == Variant::CrossNode => {
                let mesh = LargeMesh {
                    workloads: 10_000,
                    nodes,
                };
                mesh::load(&self.spare, self.fabric.folder(), mesh, ("nodes", nodes))
            }
            Step::Peers(count) if *variant == Variant::CrossNode => {
                Twin::start(&self.place)?.peers(count)
            }
            Step::Held(count) if *variant == Variant::CrossNode => held(lane, count, self.sample),
            Step::Policies(count) if *variant == Variant::CrossNode => scale::verdict(count),
            _ => Ok(Vec::new()),
        }
    }

    /// Those that run.
    fn agents(&self) -> impl Iterator<Item = &Agent> {
        std::iter::once(&self.near).chain(&self.far)
    }

    /// What a large mesh costs, and what connections and changes cost in it.
    fn mesh(&self, lane: &Lane, workloads: usize) -> Result<Vec<Figure>> {
        let mesh = LargeMesh {
            workloads,
            nodes: NODES,
        };
        let mut figures = mesh::load(&self.spare, self.fabric.folder(), mesh, ("mesh", workloads))?;
        let twin = Twin::start(&self.place)?;
        let far = self.far.as_ref().context("two agents are wanted")?;
        let agents = [&self.near, far];
        let turns = (self.mesh_turns, turn(self.sample));
        let mut changes = Vec::new();
        let kept = twin::kept(&twin, (lane, agents), workloads, turns, || {
            for _ in 0..6 {
                changes.push(self.policy(lane)?);
            }
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
        Ok(figures)
    }

    /// Milliseconds until a policy that refuses this lane's client, written to both agents, has its
    /// effect.
    fn policy(&self, lane: &Lane) -> Result<f64> {
        let deny = AuthorizationPolicy::deny("bench")
            .selecting(lane.server.name())
            .rule(&Rule::from(lane.client.name()));
        let denied = format!("{}---\n{}", self.manifests, manifests::yaml(&[&deny]));
        let write = |text: &str| self.agents().try_for_each(|agent| agent.write_mesh(text));
        policy::time_to_effect(
            &lane.client,
            lane.target(PORT),
            || write(&denied),
            || write(&self.manifests),
        )
    }
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
    ];
    for (name, kind) in peers {
        let variant = Variant::Peer(name.clone());
        outside.push((variant, Some(kind.clone()), pods(a, b, name)?));
    }
    Ok(outside)
}

/// An agent on the first node, and, if there shall be `two`, on the second, ready.
fn start_agents(a: &Node, b: &Node, setup: &Setup, two: bool) -> Result<(Agent, Option<Agent>)> {
    let mut near = a.agent_unready(setup)?;
    let mut far = two.then(|| b.agent_unready(setup)).transpose()?;
    near.wait_ready()?;
    if let Some(far) = &mut far {
        far.wait_ready()?;
    }
    Ok((near, far))
}

fn pods(a: &Node, b: &Node, name: &str) -> Result<[Pod; 2]> {
    Ok([
        a.pod(&format!("{name}-caller"))?,
        b.pod(&format!("{name}-server"))?,
    ])
}

/// The enrolled pods, and a policy that admits each client to its server by identity.
fn mesh(pods: &[&Pod; 4]) -> String {
    let namespace = Namespace::enrolled(NAMESPACE);
    let objects = pods.map(Pod::manifest);
    let allow = AuthorizationPolicy::allow("callers")
        .rule(&Rule::from("caller"))
        .rule(&Rule::from("here-caller"));
    let mut all: Vec<&dyn Manifest> = vec![&namespace, &allow];
    all.extend(objects.iter().map(|it| -> &dyn Manifest { it }));
    manifests::yaml(&all)
}

fn load(lane: &Lane, work: Work, windows: (usize, Duration)) -> Result<Sample> {
    let carriers = lane.carriers();
    let load = Load {
        work,
        target: lane.target(PORT),
        windows,
        carriers: &carriers,
    };
    measure(&lane.client, &lane.load, &load)
}

/// Operations per second in one window.
pub(super) fn rate(lane: &Lane, work: Work, length: Duration) -> Result<f64> {
    let sample = load(lane, work, (1, length))?;
    Ok(sample.windows.first().context("no window")?.rate())
}

/// How long memory may take to come to rest. What a program needed to start, or to open connections,
/// it may give back when it has time.
const REST: Duration = Duration::from_secs(4);

/// Memory of one program, the larger of the two ends, with this many idle connections.
fn memory(lane: &Lane, step: Step, count: usize) -> Result<Vec<Figure>> {
    if lane.variant.is_raw() || lane.variant == Variant::SameNode {
        return Ok(Vec::new());
    }
    let _keeper = hold::Keeper::start(&lane.server)?;
    let pair = lane.carry(hold::PORT)?;
    let open = hold::open_all(&lane.client, lane.target(hold::PORT), count)?;
    ensure!(open.len() == count, "{} of {count} opened", open.len());
    thread::sleep(REST);
    let ends = lane.ends(pair.as_ref());
    let sizes = ends.iter().map(|end| resident_mib(end));
    let sizes = sizes.collect::<Result<Vec<_>>>()?;
    let most = sizes.into_iter().fold(0.0, f64::max);
    Ok(vec![Figure::new(step.to_string(), "MiB", most)])
}

/// Memory of both ends' agents while so many connections are open, and how one more fares.
fn held(lane: &Lane, count: usize, length: Duration) -> Result<Vec<Figure>> {
    let _keeper = hold::Keeper::start(&lane.server)?;
    let open = hold::open_all(&lane.client, lane.target(hold::PORT), count)?;
    let sizes = lane.ends(None);
    let [near, far] = sizes.as_slice() else {
        anyhow::bail!("an agent at each end is wanted");
    };
    let sample = load(lane, Work::PingPong(1), (1, length))?;
    let latencies = [50, 99].map(|quantile| sample.quantile_us(quantile));
    // At rest: a few connections do not disturb it.
    thread::sleep(REST);
    let sizes = [resident_mib(near)?, resident_mib(far)?];
    drop(open);
    Ok(scale::held(count, sizes, latencies))
}

fn work_figures(work: Work, sample: &Sample, carried: bool) -> Result<Vec<Figure>> {
    let window = sample.windows.first().context("no window")?;
    let (n, name) = (work.concurrency(), work.to_string());
    let cost = match work {
        Work::Up(4) => Some(("cpu_s_per_gb".to_owned(), window.cpu_per_gb())),
        Work::Down(4) => Some(("cpu_s_per_gb_down".to_owned(), window.cpu_per_gb())),
        Work::PingPong(64) => Some(("cpu_s_per_10k_requests".to_owned(), window.cpu_per_10k())),
        Work::Connect(64) => Some(("cpu_s_per_10k_connections".to_owned(), window.cpu_per_10k())),
        _ => None,
    };
    let (kind, main) = match work {
        Work::Up(_) | Work::Down(_) => (None, Figure::new(name, "Gbit/s", window.throughput())),
        Work::PingPong(_) => (Some("pingpong"), Figure::new(name, "1/s", window.rate())),
        Work::Connect(_) => (Some("connect"), Figure::new(name, "1/s", window.rate())),
    };
    let mut figures = vec![main];
    for (kind, quantile) in kind.into_iter().flat_map(|kind| [(kind, 50), (kind, 99)]) {
        let value = sample.quantile_us(quantile).context("no latencies")?;
        figures.push(Figure::new(
            format!("{kind}_p{quantile}_us_{n}"),
            "µs",
            value,
        ));
    }
    figures.extend(
        cost.filter(|_| carried)
            .map(|(name, value)| Figure::new(name, "s", value)),
    );
    Ok(figures)
}
