//! Which samples a plan takes, of what and in which order, and how long that takes.

use std::time::Duration;

use super::figure::{Take, Variant};
use super::plan::{Plan, Step, Work};

/// One sample: of what, over what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// What is measured.
    pub step: Step,
    /// Over which variant.
    pub variant: Variant,
    /// When.
    pub take: Take,
}

/// What is measured inside of a node over more than the two that are compared: what a stream, a message
/// and a connection each are by themselves, and connections that use up the cores.
const BESIDE: [Work; 5] = [
    Work::Up(1),
    Work::PingPong(1),
    Work::Connect(1),
    Work::Connect(16),
    Work::Connect(64),
];

/// Those that are compared inside of a node.
const COMPARED: [Variant; 2] = [Variant::RawSameNode, Variant::SameNode];

/// Of the steps of connections at a time the last: neither is much more than the other, and so it is
/// judged by more than one sample of a round.
const CLIMB: [Step; 2] = [
    Step::Work(Work::Connect(256)),
    Step::Work(Work::Connect(1000)),
];

/// How long memory is left alone before it is looked at, and what opening nothing takes.
const REST: Duration = Duration::from_millis(4300);

impl Plan {
    /// The samples of a round, counted from 1, in their order.
    ///
    /// Nobody is always the first, or always comes after the same one. Inside of a node the two that
    /// are compared alternate, many short samples each: it is their ratio that counts, and what
    /// disturbs the machine lasts longer than a pair.
    pub fn turns(&self, round: usize, variants: &[Variant]) -> Vec<Turn> {
        let across = in_turn(variants.to_vec(), round);
        let mut turns = Vec::new();
        for step in self.steps(round) {
            let turn = |variant: &Variant, turn| Turn {
                step,
                variant: variant.clone(),
                take: Take { round, turn },
            };
            let (pairs, once): (Vec<&Variant>, Vec<&Variant>) = across
                .iter()
                .filter(|it| self.has(step, it, round))
                .partition(|it| it.is_within() && self.pairs_of(step) > 0);
            turns.extend(once.into_iter().map(|it| turn(it, 0)));
            for number in 1..=self.pairs_of(step) {
                let mut pair = pairs.clone();
                if number % 2 == 0 {
                    pair.reverse();
                }
                turns.extend(pair.into_iter().map(|it| turn(it, number)));
            }
        }
        turns.extend(self.climbs(round, variants));
        turns
    }

    /// Two steps that are compared with each other, one right after the other, over raw TCP and
    /// over ours.
    fn climbs(&self, round: usize, variants: &[Variant]) -> Vec<Turn> {
        let works = self.steps(round).filter(|it| CLIMB.contains(it));
        let works: Vec<Step> = works.collect();
        let compared = [Variant::Raw, Variant::CrossNode];
        let compared = compared.iter().filter(|it| variants.contains(it));
        let compared: Vec<&Variant> = compared.collect();
        let mut turns = Vec::new();
        if works.len() < CLIMB.len() {
            return turns;
        }
        for number in 1..=self.climbs {
            let pairs = compared.iter().flat_map(|variant| {
                works.iter().map(|step| Turn {
                    step: *step,
                    variant: (*variant).clone(),
                    take: Take {
                        round,
                        turn: number,
                    },
                })
            });
            let mut pairs: Vec<Turn> = pairs.collect();
            if number % 2 == 0 {
                pairs.reverse();
            }
            turns.extend(pairs);
        }
        turns
    }

    /// More pairs of what is not known well enough yet, as one round more.
    pub fn more_of(&self, works: &[Work], round: usize, variants: &[Variant]) -> Vec<Turn> {
        let mut more = self.clone();
        more.all = works.iter().copied().map(Step::Work).collect();
        more.climbs = 0;
        let mut compared = variants.to_vec();
        compared.retain(|it| COMPARED.contains(it));
        more.turns(round, &compared)
    }

    /// How often a round measures both that are compared inside of a node; 0 if like all others.
    const fn pairs_of(&self, step: Step) -> usize {
        match step {
            // A thousand threads take a second to begin and end, and wrk a second at least.
            Step::Work(Work::Connect(1000)) => self.pairs.div_ceil(8),
            Step::Http(_) => self.pairs.div_ceil(4),
            Step::Hook => self.pairs.div_ceil(2),
            Step::Work(_) => self.pairs,
            _ => 0,
        }
    }

    /// Whether a round measures this step over this variant.
    fn has(&self, step: Step, variant: &Variant, round: usize) -> bool {
        let ours = *variant == Variant::CrossNode;
        if variant.is_beside() {
            return matches!(step, Step::Work(work) if BESIDE.contains(&work));
        }
        match step {
            Step::Work(Work::PingPong(_)) => true,
            Step::Work(_) | Step::Http(_) => !variant.is_nginx(),
            Step::Hook => variant.is_within(),
            Step::Policy => variant.is_own(),
            Step::Idle | Step::Hold(_) => {
                ours || self.thorough && round == 1 && variant.is_peer() && !variant.is_partial()
            }
            Step::Churn => ours || round == 1 && !variant.is_partial(),
            _ => ours,
        }
    }

    /// How long all of it takes over these variants, roughly.
    pub fn estimate(&self, variants: &[Variant]) -> Duration {
        /// Nodes, pods, agents and peers start, and end.
        const AROUND: Duration = Duration::from_secs(6);
        let across = self.sample(variants);
        let within = Self::short_sample();
        let turns = (1..=self.rounds).flat_map(|round| self.turns(round, variants));
        let each = turns.map(|turn| self.length(&turn, [across, within]));
        let compares = COMPARED.iter().all(|it| variants.contains(it));
        let further = if compares {
            self.further()
        } else {
            Duration::ZERO
        };
        each.sum::<Duration>() + AROUND + further
    }

    fn length(&self, turn: &Turn, [across, within]: [Duration; 2]) -> Duration {
        /// Threads start and end.
        const THREADS: Duration = Duration::from_millis(10);
        let times = |each: Duration, count: usize| each * u32::try_from(count).unwrap_or(u32::MAX);
        let second = Duration::from_secs(1);
        let sample = if turn.is_short() { within } else { across };
        match turn.step {
            Step::Idle => REST,
            // A peer may take two milliseconds for a connection.
            Step::Hold(count) if turn.variant.is_own() => {
                REST + times(Duration::from_micros(300), count)
            }
            Step::Hold(count) => REST + times(Duration::from_millis(1), count),
            Step::Work(work) => sample * 5 / 4 + THREADS + self.longer(work, &turn.variant),
            // A pair of peers of its own, and wrk takes a second at least.
            Step::Http(_) => sample.max(second) + second / 5,
            Step::Churn => times(self.churn.1, self.churn.0),
            Step::Hook => second / 4,
            Step::Policy | Step::Policies(_) => second / 2,
            Step::Mesh(_) => {
                let samples = 4 * self.mesh_turns + 2;
                times(MESH * 5 / 4 + THREADS, samples) + 12 * second
            }
            Step::Peers(_) => 17 * second,
            Step::Nodes(_) => 3 * second,
            Step::Held(count) => 6 * second + times(Duration::from_micros(300), count),
        }
    }

    /// How much longer a sample becomes because its operations are slow, and the last ones end late.
    fn longer(&self, work: Work, variant: &Variant) -> Duration {
        let waves = match work {
            Work::Connect(1000) => 1100,
            Work::Connect(256) if variant.is_peer() => 500,
            Work::Connect(256) => 150,
            Work::Connect(64) if variant.is_peer() => 200,
            _ => 0,
        };
        let waves = Duration::from_millis(waves);
        waves.min(self.patience * 3)
    }

    /// How long one sample between two nodes is, if there are these variants.
    pub(super) fn sample(&self, variants: &[Variant]) -> Duration {
        let Some(budget) = self.budget else {
            return self.longest;
        };
        let turns = (1..=self.rounds).flat_map(|round| self.turns(round, variants));
        let works = turns.filter(|it| matches!(it.step, Step::Work(_)));
        // Those inside of a node are shorter.
        let shares: u32 = works
            .map(|it| if it.is_short() { 1 } else { SHORTER })
            .sum();
        (budget * SHORTER / shares.max(1)).min(self.longest)
    }

    /// How long one of those is that alternate inside of a node.
    pub(super) const fn short_sample() -> Duration {
        PAIR
    }

    /// How long one turn with a mesh is: short, because there are many of them.
    pub(super) const fn mesh_sample() -> Duration {
        MESH
    }
}

impl Turn {
    /// Whether it is one of the many short samples inside of a node.
    pub(super) const fn is_short(&self) -> bool {
        self.take.turn > 0 && self.variant.is_within()
    }
}

/// How many times shorter samples are of which there are many, about.
const SHORTER: u32 = 4;

/// How long those are. What disturbs a virtual machine takes a tenth of a second, and comes several times
/// in one: most samples that are shorter are without it, and nearly none that is longer.
const PAIR: Duration = Duration::from_millis(40);

/// How long one turn with a mesh is.
const MESH: Duration = Duration::from_millis(100);

/// The variants in this round's order.
fn in_turn(mut variants: Vec<Variant>, round: usize) -> Vec<Variant> {
    let first = (round - 1) / 2 % variants.len().max(1);
    variants.rotate_left(first);
    if round.is_multiple_of(2) {
        variants.reverse();
    }
    variants
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Variant> {
        let names = "raw raw_same_node same_node cross_node control_same_node unmeshed_same_node \
                     envoy envoy_tls envoy_2 haproxy nginx";
        names.split(' ').map(Variant::named).collect()
    }

    #[test]
    fn a_full_run_takes_less_than_half_an_hour_and_a_quick_one_two_minutes() {
        let full = Plan::full().estimate(&all()).as_secs();
        assert!((25 * 60..30 * 60).contains(&full), "{full}");
        let mut without = all();
        without.retain(|it| !it.is_partial());
        let quick = Plan::quick().estimate(&without).as_secs();
        assert!((100..=125).contains(&quick), "{quick}");
    }

    #[test]
    fn a_quick_run_of_one_work_has_longer_samples() {
        let mut plan = Plan::quick();
        let every = plan.sample(&all());
        assert!(every < Duration::from_millis(200), "{every:?}");
        plan.only(&["connect_256".to_owned()]);
        assert_eq!(plan.sample(&all()), Duration::from_millis(700));
    }

    #[test]
    fn memory_is_measured_before_anything_was_carried_in_the_first_rounds() {
        let plan = Plan::full();
        let memory = |step| matches!(step, Step::Idle | Step::Hold(_));
        for round in 1..=5 {
            let turns = plan.turns(round, &[Variant::CrossNode]);
            let first = turns.first().map(|it| it.step);
            assert_eq!(first.is_some_and(memory), round <= 3, "{round}");
        }
    }

    #[test]
    fn inside_of_a_node_both_alternate_and_neither_is_always_the_first() {
        let mut plan = Plan::full();
        plan.only(&["connect_256".to_owned()]);
        let turns = plan.turns(1, &all());
        let work = Step::Work(Work::Connect(256));
        assert!(turns.iter().all(|it| it.step == work));
        let once = turns.iter().filter(|it| it.take.turn == 0).count();
        assert_eq!(once, 6);
        let pairs = turns.iter().filter(|it| it.take.turn > 0);
        let names: Vec<String> = pairs.map(|it| it.variant.to_string()).take(4).collect();
        let expected = ["raw_same_node", "same_node", "same_node", "raw_same_node"];
        assert_eq!(names, expected);
    }

    #[test]
    fn some_works_tell_what_else_is_in_what_is_found_inside_of_a_node() {
        let variants = |work: Work| {
            let mut plan = Plan::full();
            plan.only(&[work.to_string()]);
            let turns = plan.turns(1, &all()).into_iter();
            let first = turns.filter(|it| it.take.turn == 1);
            first.map(|it| it.variant.to_string()).collect::<Vec<_>>()
        };
        let compared = ["raw_same_node", "same_node"];
        let beside = ["control_same_node", "unmeshed_same_node"];
        assert_eq!(variants(Work::Connect(1)), [compared, beside].concat());
        assert_eq!(variants(Work::Connect(256)), compared);
    }

    #[test]
    fn steps_that_are_close_to_each_other_alternate_over_raw_tcp_and_ours() {
        let mut plan = Plan::full();
        plan.only(&["connect_256".to_owned(), "connect_1000".to_owned()]);
        let of_first = |turns: &[Turn]| -> Vec<String> {
            let across = turns
                .iter()
                .filter(|it| it.take.turn == 1 && !it.is_short());
            across
                .map(|it| format!("{} {}", it.variant, it.step))
                .collect()
        };
        let expected = [
            "raw connect_256",
            "raw connect_1000",
            "cross_node connect_256",
            "cross_node connect_1000",
        ];
        assert_eq!(of_first(&plan.turns(1, &all())), expected);
        plan.only(&["connect_256".to_owned()]);
        assert_eq!(of_first(&plan.turns(1, &all())), [""; 0]);
    }

    #[test]
    fn what_is_not_known_well_enough_has_more_pairs_of_the_two_that_are_compared() {
        let plan = Plan::full();
        let works = [Work::Down(1), Work::Connect(1000)];
        let turns = plan.more_of(&works, 6, &all());
        assert!(turns.iter().all(Turn::is_short));
        let of = |work| {
            turns
                .iter()
                .filter(|it| it.step == Step::Work(work))
                .count()
        };
        assert_eq!(works.map(of), [2 * 20, 2 * 3]);
    }

    #[test]
    fn everybody_has_thirty_seconds_of_churn_and_ours_has_it_three_times() {
        let plan = Plan::full();
        let churns = |round| {
            let turns = plan.turns(round, &all()).into_iter();
            turns.filter(|it| it.step == Step::Churn).count()
        };
        assert_eq!([1, 2, 3, 4].map(churns), [7, 1, 1, 0]);
    }

    #[test]
    fn nobody_is_always_the_first() {
        let firsts = [1, 2, 3, 4].map(|round| in_turn(all(), round).into_iter().next());
        let names = firsts.map(|it| it.map(|it| it.to_string()).unwrap_or_default());
        assert_eq!(names, ["raw", "nginx", "raw_same_node", "raw"]);
    }
}
