//! What is measured: the steps of a round and how long each takes.

use std::fmt;
use std::time::Duration;

/// One kind of work with its degree of concurrency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Streams from client to server.
    Up(usize),
    /// Streams from server to client.
    Down(usize),
    /// Connections that exchange 64 bytes each way, over and over.
    PingPong(usize),
    /// Connect, a byte each way, close; this many at a time.
    Connect(usize),
}

impl Work {
    /// How many threads, and connections at a time, the client has.
    pub const fn concurrency(self) -> usize {
        match self {
            Self::Up(n) | Self::Down(n) | Self::PingPong(n) | Self::Connect(n) => n,
        }
    }

    /// Whether it consists of operations that have a beginning and an end.
    pub(super) const fn has_operations(self) -> bool {
        matches!(self, Self::PingPong(_) | Self::Connect(_))
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up(n) => write!(f, "throughput_up_{n}"),
            Self::Down(n) => write!(f, "throughput_down_{n}"),
            Self::PingPong(n) => write!(f, "pingpong_{n}"),
            Self::Connect(n) => write!(f, "connect_{n}"),
        }
    }
}

/// What is measured over every variant before the next is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Memory at rest.
    Idle,
    /// Memory with this many idle connections.
    Hold(usize),
    /// The harness' own load.
    Work(Work),
    /// How long connect(2) takes inside of a node.
    Hook,
    /// HTTP/1.1 with this many connections kept alive: wrk against nginx.
    Http(usize),
    /// Connections that come and go with the kernel's default range of ports.
    Churn,
    /// From a policy's change to its effect.
    Policy,
    /// A mesh of this many workloads: what it costs to load, to keep and to change, and whether
    /// connections notice.
    Mesh(usize),
    /// A mesh of ten thousand workloads on this many nodes.
    Nodes(usize),
    /// This many open connections, and how one more fares.
    Held(usize),
    /// This many peers that something was carried to, and nothing more.
    Peers(usize),
    /// This many policies for one workload.
    Policies(usize),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("rss_mb_idle"),
            Self::Hold(n) => write!(f, "rss_mb_{n}"),
            Self::Work(work) => work.fmt(f),
            Self::Hook => f.write_str(super::hook::WORK),
            Self::Http(n) => write!(f, "http_{n}"),
            Self::Churn => f.write_str("churn"),
            Self::Policy => f.write_str("policy_change_ms"),
            Self::Mesh(workloads) => write!(f, "mesh_{workloads}"),
            Self::Nodes(nodes) => write!(f, "nodes_{nodes}"),
            Self::Held(count) => write!(f, "held_{count}"),
            Self::Peers(count) => write!(f, "peers_{count}"),
            Self::Policies(count) => write!(f, "policies_{count}"),
        }
    }
}

/// What to measure, how long, how often.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which of them it is: `full`, `quick`, `scale`.
    pub(super) name: &'static str,
    /// Every step there is; which round has it, [`Plan::steps`] says.
    pub(super) all: Vec<Step>,
    /// The longest sample, measured after a warm-up of a quarter of it.
    pub(super) longest: Duration,
    /// How long a sample may become if its operations are slow.
    pub(super) patience: Duration,
    /// What all samples together may take.
    pub(super) budget: Option<Duration>,
    /// Churn: how many windows, and the length of one.
    pub(super) churn: (usize, Duration),
    /// How often a round measures both that are compared inside of a node.
    pub(super) pairs: usize,
    /// How long those may be measured more often that are not known to [`KNOWN_TO`] yet.
    further: Duration,
    /// How often a round measures both of two steps that are compared between nodes.
    pub(super) climbs: usize,
    /// How often a large mesh and a small one take turns, each of the two times.
    pub(super) mesh_turns: usize,
    /// How many rounds have what takes long: memory, churn, large meshes.
    few: usize,
    /// Whether the peers' memory is measured, too.
    pub(super) thorough: bool,
    /// How many samples make a median.
    pub rounds: usize,
}

/// Ratios inside of a node are to be known as well as this.
pub const KNOWN_TO: f64 = 0.02;

/// The churn that is judged: half a minute in windows of two seconds.
pub(super) const CHURN: (usize, Duration) = (15, Duration::from_secs(2));

impl Plan {
    /// Everything, often enough to be judged.
    pub fn full() -> Self {
        let mut all = steps(&[1000, idle_limit()], &[50_000]);
        all.push(Step::Churn);
        Self {
            name: "full",
            all,
            longest: Duration::from_millis(800),
            patience: Duration::from_secs(2),
            budget: None,
            churn: CHURN,
            pairs: 20,
            further: Duration::from_mins(4),
            climbs: 4,
            mesh_turns: 40,
            few: 3,
            thorough: true,
            rounds: 5,
        }
    }

    /// About two minutes: shorter samples the more variants there are, no churn, and of memory only
    /// the agents'.
    pub fn quick() -> Self {
        Self {
            name: "quick",
            all: steps(&[1000.min(idle_limit())], &[50_000]),
            longest: Duration::from_millis(700),
            patience: Duration::from_millis(400),
            budget: Some(Duration::from_secs(16)),
            pairs: 2,
            further: Duration::ZERO,
            climbs: 0,
            mesh_turns: 12,
            few: 1,
            thorough: false,
            rounds: 3,
            ..Self::full()
        }
    }

    /// What more of something costs, for `docs/scale.md`: some minutes.
    pub fn scale() -> Self {
        let mut all = Vec::new();
        all.extend([1, 10, 100, 1000, 5000].map(Step::Policies));
        let held = [0, 10, 100, 1000, 3000, 5000, 7500, 10_000].into_iter();
        all.extend(held.filter(|it| *it <= idle_limit()).map(Step::Held));
        all.extend([0, 1, 16, 64, 128, 256].map(Step::Peers));
        all.extend([1, 10, 100, 1000, 10_000].map(Step::Nodes));
        all.extend([1000, 10_000, 25_000, 50_000].map(Step::Mesh));
        // A ratio of two short samples scatters by a tenth: whoever wants to know it to a fiftieth
        // needs as many as this.
        Self {
            name: "scale",
            all,
            mesh_turns: 60,
            further: Duration::ZERO,
            longest: Duration::from_millis(1500),
            rounds: 3,
            ..Self::full()
        }
    }

    /// Leaves only the steps of these names, or, if there is none, those whose names begin so.
    pub fn only(&mut self, names: &[String]) {
        let all: Vec<String> = self.all.iter().map(Step::to_string).collect();
        let means = |name: &String, step: &str| {
            step == name || !all.contains(name) && step.starts_with(name.as_str())
        };
        self.all
            .retain(|step| names.iter().any(|name| means(name, &step.to_string())));
    }

    /// Leaves steps out; tells whether there were any.
    pub(super) fn without(&mut self, unwanted: impl Fn(Step) -> bool) -> bool {
        let before = self.all.len();
        self.all.retain(|step| !unwanted(*step));
        self.all.len() < before
    }

    /// The steps of a round, counted from 1.
    ///
    /// Memory comes first, while nobody has carried anything yet.
    pub fn steps(&self, round: usize) -> impl Iterator<Item = Step> {
        self.all.iter().copied().filter(move |step| match step {
            Step::Idle | Step::Hold(_) | Step::Churn | Step::Mesh(_) => round <= self.few,
            _ => true,
        })
    }

    /// How long those may be measured more often, after all rounds, that are not known well enough.
    pub const fn further(&self) -> Duration {
        self.further
    }

    /// Whether a round has churn.
    pub(super) fn has_churn(&self, round: usize) -> bool {
        self.steps(round).any(|step| step == Step::Churn)
    }

    /// Whether there is nothing to measure.
    pub const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// How many peers there are to be at most.
    pub(super) fn most_peers(&self) -> usize {
        let peers = self.all.iter().map(|step| match step {
            Step::Peers(count) => *count,
            _ => 0,
        });
        peers.max().unwrap_or(0)
    }

    /// With how many idle connections memory is measured, and why not with more.
    pub(super) fn idle_connections(&self) -> Option<String> {
        let held = self.all.iter().filter_map(|step| match step {
            Step::Hold(count) | Step::Held(count) => Some(count.to_string()),
            _ => None,
        });
        let held = held.collect::<Vec<_>>().join(", ");
        let files = crate::settings::raise_open_files();
        let told = format!("idle connections: {held} (open files per process: {files})");
        (!held.is_empty()).then_some(told)
    }
}

fn steps(idle: &[usize], meshes: &[usize]) -> Vec<Step> {
    let mut steps = vec![Step::Idle];
    steps.extend(idle.iter().copied().map(Step::Hold));
    steps.extend(works().into_iter().map(Step::Work));
    steps.extend([Step::Hook, Step::Http(64), Step::Policy]);
    steps.extend(meshes.iter().copied().map(Step::Mesh));
    steps
}

/// Everything that the harness' own load does.
pub(super) fn works() -> Vec<Work> {
    let streams = [1, 4, 16];
    let up = streams.map(Work::Up).into_iter();
    let others = streams.map(Work::Down).into_iter();
    up.chain(others)
        .chain([1, 16, 64].map(Work::PingPong))
        .chain([1, 16, 64, 256, 1000].map(Work::Connect))
        .collect()
}

/// How many idle connections the limit on open files allows, in thousands: one end of each is in
/// this process. Who carries it may need two, and fails visibly if that is too much.
fn idle_limit() -> usize {
    const OTHERS: usize = 1000;
    let files = crate::settings::raise_open_files();
    files.saturating_sub(OTHERS).min(10_000) / 1000 * 1000
}
