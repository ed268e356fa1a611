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
    /// Every step there is; which round has it, [`Plan::steps`] says.
    all: Vec<Step>,
    /// The longest sample, measured after a warm-up of a quarter of it.
    longest: Duration,
    /// What all samples together may take.
    budget: Option<Duration>,
    /// Churn: how many windows, and the length of one.
    pub(super) churn: (usize, Duration),
    churn_every_round: bool,
    /// How often a large mesh and a small one take turns, each of the two times.
    pub(super) mesh_turns: usize,
    /// How many samples make a median.
    pub rounds: usize,
}

impl Plan {
    /// A good quarter of an hour with two peers.
    pub fn full() -> Self {
        Self {
            all: steps(&[1000, idle_limit()], &[50_000]),
            longest: Duration::from_millis(1500),
            budget: None,
            churn: (15, Duration::from_secs(2)),
            churn_every_round: true,
            mesh_turns: 12,
            rounds: 3,
        }
    }

    /// Under two minutes, with shorter samples the more variants there are.
    pub fn quick() -> Self {
        Self {
            all: steps(&[1000.min(idle_limit())], &[50_000]),
            longest: Duration::from_millis(700),
            budget: Some(Duration::from_secs(45)),
            churn: (3, Duration::from_millis(500)),
            churn_every_round: false,
            mesh_turns: 6,
            rounds: 3,
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
            all,
            mesh_turns: 36,
            ..Self::full()
        }
    }

    /// Leaves only the steps whose names begin with one of these.
    pub fn only(&mut self, names: &[String]) {
        self.all
            .retain(|step| names.iter().any(|name| step.to_string().starts_with(name)));
    }

    /// Leaves steps out; tells whether there were any.
    pub(super) fn without(&mut self, unwanted: impl Fn(Step) -> bool) -> bool {
        let before = self.all.len();
        self.all.retain(|step| !unwanted(*step));
        self.all.len() < before
    }

    /// The steps of a round, counted from 1.
    ///
    /// Memory belongs to the first, while nobody has carried anything yet.
    pub fn steps(&self, round: usize) -> impl Iterator<Item = Step> {
        self.all.iter().copied().filter(move |step| match step {
            Step::Idle | Step::Hold(_) => round == 1,
            Step::Churn | Step::Mesh(_) => round == 1 || self.churn_every_round,
            _ => true,
        })
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

    /// How long all of it takes with that many variants of which so many are peers, roughly.
    pub fn estimate(&self, variants: usize, peers: usize) -> Duration {
        let sample = self.sample(variants);
        let steps = (1..=self.rounds).flat_map(|round| self.steps(round));
        steps
            .map(|step| self.length(step, sample, variants, peers))
            .sum()
    }

    /// How long a step takes over all variants.
    fn length(&self, step: Step, sample: Duration, variants: usize, peers: usize) -> Duration {
        let times = |each: Duration, count: usize| each * u32::try_from(count).unwrap_or(u32::MAX);
        let second = Duration::from_secs(1);
        match step {
            Step::Idle => times(second, peers),
            // A peer may take two milliseconds for a connection.
            Step::Hold(count) => times(times(Duration::from_millis(1), count), peers + 1),
            Step::Work(_) => times(sample * 5 / 4, variants),
            Step::Http(_) => times(sample.max(second), variants),
            Step::Churn => times(times(self.churn.1, self.churn.0), variants),
            Step::Policy | Step::Policies(_) => second,
            Step::Mesh(_) => {
                let samples = 4 * self.mesh_turns + 2;
                times(turn(sample) * 5 / 4, samples) + 15 * second
            }
            Step::Peers(_) => 17 * second,
            Step::Nodes(_) => 3 * second,
            Step::Held(count) => 6 * second + times(Duration::from_micros(300), count),
        }
    }

    /// How long one sample is, if there are that many variants.
    pub(super) fn sample(&self, variants: usize) -> Duration {
        let works = self.all.iter().filter(|it| matches!(it, Step::Work(_)));
        let samples = u32::try_from(works.count() * variants * self.rounds).unwrap_or(u32::MAX);
        let fair = self.budget.map(|budget| budget * 4 / 5 / samples.max(1));
        fair.map_or(self.longest, |fair| fair.min(self.longest))
    }
}

/// The length of one turn with a mesh: short, because there are many of them.
pub(super) fn turn(sample: Duration) -> Duration {
    (sample / 3).max(Duration::from_millis(300))
}

fn steps(idle: &[usize], meshes: &[usize]) -> Vec<Step> {
    let streams = [1, 4, 16];
    let up = streams.map(Work::Up).into_iter();
    let works = up
        .chain(streams.map(Work::Down))
        .chain([1, 16, 64].map(Work::PingPong))
        .chain([1, 16, 64, 256, 1000].map(Work::Connect));
    let mut steps = vec![Step::Idle];
    steps.extend(idle.iter().copied().map(Step::Hold));
    steps.extend(works.map(Step::Work));
    steps.extend([Step::Http(64), Step::Policy, Step::Churn]);
    steps.extend(meshes.iter().copied().map(Step::Mesh));
    steps
}

/// How many idle connections the limit on open files allows, in thousands: one end of each is in
/// this process. Who carries it may need two, and fails visibly if that is too much.
fn idle_limit() -> usize {
    const OTHERS: usize = 1000;
    let files = crate::settings::raise_open_files();
    files.saturating_sub(OTHERS).min(10_000) / 1000 * 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_run_stays_within_its_budget_whatever_it_measures() {
        let mut plan = Plan::quick();
        let all = plan.sample(5);
        assert!(all < Duration::from_millis(300), "{all:?}");
        plan.only(&["connect_64".to_owned()]);
        assert_eq!(plan.sample(5), Duration::from_millis(700));
    }

    #[test]
    fn a_full_run_with_two_peers_takes_less_than_twenty_five_minutes() {
        let full = Plan::full().estimate(6, 2);
        assert!(full < Duration::from_mins(25), "{full:?}");
        let quick = Plan::quick().estimate(6, 2);
        assert!(quick < Duration::from_mins(2), "{quick:?}");
    }

    #[test]
    fn memory_is_measured_before_anything_was_carried() {
        let plan = Plan::full();
        assert_eq!(plan.steps(1).next(), Some(Step::Idle));
        assert!(
            plan.steps(2)
                .all(|it| !matches!(it, Step::Idle | Step::Hold(_)))
        );
    }
}
