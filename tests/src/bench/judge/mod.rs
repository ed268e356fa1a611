//! What the agents must reach, and whether they do: against the best peer of the same run, against
//! raw TCP inside of a node, and in itself.
//!
//! Every line is there in every verdict. A ratio to a peer is our median to the other's, so that
//! everybody can compute it again; of tails, which scatter most, of what is compared inside of a
//! node and of more at a time beside fewer it is the median of the ratios of samples that were taken
//! one after the other.

use std::fmt::Write as _;

use super::figure::{Variant, error_of_median, median, more_is_better, of_median};
use super::hook;
use super::plan::{Work, works};
use super::report::Report;
use super::verdict::{HEADINGS, Outcome, Verdict};

/// Ratios to the best peer: the work, its unit, what it must be, what is hoped for.
const PEERS: [(&str, &str, f64, f64); 23] = [
    ("throughput_up_1", "Gbit/s", 1.1, 1.4),
    ("throughput_down_1", "Gbit/s", 1.1, 1.4),
    ("throughput_up_4", "Gbit/s", 1.6, 2.2),
    ("throughput_down_4", "Gbit/s", 1.6, 2.2),
    ("throughput_up_16", "Gbit/s", 1.5, 2.0),
    ("throughput_down_16", "Gbit/s", 1.5, 2.0),
    ("pingpong_p50_us_1", "µs", 1.0, 0.8),
    ("pingpong_64", "1/s", 1.1, 1.4),
    ("connect_1", "1/s", 1.4, 2.0),
    ("connect_16", "1/s", 1.4, 2.0),
    ("connect_64", "1/s", 1.3, 1.8),
    ("http_64", "1/s", 1.1, 1.4),
    ("cpu_s_per_gb", "s", 0.65, 0.45),
    ("cpu_s_per_gb_down", "s", 0.65, 0.45),
    ("pingpong_p99_us_1", "µs", 1.0, 0.8),
    ("pingpong_p99_us_16", "µs", 1.0, 0.8),
    ("pingpong_p99_us_64", "µs", 1.0, 0.8),
    ("connect_p99_us_1", "µs", 1.0, 0.8),
    ("connect_p99_us_16", "µs", 1.0, 0.8),
    ("connect_p99_us_64", "µs", 1.0, 0.8),
    ("connect_p99_us_256", "µs", 1.0, 0.8),
    ("connect_p99_us_1000", "µs", 1.0, 0.8),
    ("http_p99_us_64", "µs", 1.0, 0.8),
];

/// Numbers of the agents across nodes alone: the work, what it must be, what is hoped for, its unit
/// (nothing if more of a ratio is better).
const OWN: [(&str, f64, f64, &str); 8] = [
    ("rss_mb_idle", 14.0, 7.0, "MiB"),
    ("rss_kb_per_connection_1000", 5.5, 2.75, "KiB"),
    ("rss_kb_per_connection_10000", 5.5, 2.75, "KiB"),
    (CHURN, 0.9, 1.0, ""),
    ("mesh_load_ms_50000", 3000.0, 1500.0, "ms"),
    ("mesh_rss_mb_50000", 300.0, 150.0, "MiB"),
    ("mesh_endpoint_applied_ms_50000", 10.0, 5.0, "ms"),
    (KEPT, 0.95, 1.0, ""),
];

const KEPT: &str = "mesh_connect_kept_50000";
/// Its error in each round, in hundredths of it.
const KEPT_ERROR: &str = "mesh_connect_error_50000";

const CHURN: &str = "churn_last_to_first";

/// More in flight must not be slower than fewer: 5 % are noise.
const STEPS: [[&str; 2]; 6] = [
    ["connect_1", "connect_16"],
    ["connect_16", "connect_64"],
    ["connect_64", "connect_256"],
    ["connect_256", "connect_1000"],
    ["pingpong_1", "pingpong_16"],
    ["pingpong_16", "pingpong_64"],
];

/// What is told beside them, but not judged: four streams fill four cores, and raw TCP falls, too.
const TOLD_STEPS: [[&str; 2]; 4] = [
    ["throughput_up_1", "throughput_up_4"],
    ["throughput_up_4", "throughput_up_16"],
    ["throughput_down_1", "throughput_down_4"],
    ["throughput_down_4", "throughput_down_16"],
];

/// What must be as good inside of a node as without us.
const SAME_NODE: [&str; 18] = [
    "throughput_up_1",
    "throughput_up_4",
    "throughput_up_16",
    "throughput_down_1",
    "throughput_down_4",
    "throughput_down_16",
    "pingpong_1",
    "pingpong_16",
    "pingpong_64",
    "pingpong_p50_us_1",
    "pingpong_p50_us_16",
    "pingpong_p50_us_64",
    "connect_1",
    "connect_16",
    "connect_64",
    "connect_256",
    "connect_1000",
    "http_64",
];

/// A ratio with its error, if there is one.
type Measured = Option<(f64, f64)>;

/// So few pairs of samples inside of a node say nothing about 5 %.
const FEWEST_PAIRS: usize = 6;
/// Nor does a median with an error as large as what is to be seen.
const LARGEST_ERROR: f64 = 0.05;

impl Report {
    /// A line for everything that must be reached, measured or not.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let peers = PEERS.iter().map(|line| self.beside_peers(*line));
        let own = OWN.iter().map(|line| self.alone(*line));
        let steps = STEPS.iter().map(|step| self.step(*step));
        let same = SAME_NODE.iter().map(|work| self.same_node(work));
        let all = peers.chain(own).chain(steps).chain(same);
        all.chain(std::iter::once(self.hook())).collect()
    }

    fn line(&self, work: &str, (must, hope): (f64, f64), value: Option<f64>) -> Verdict {
        let why = self.why_not(work, &Variant::CrossNode);
        Verdict {
            what: work.to_owned(),
            against: "–".to_owned(),
            to_a_peer: false,
            value: value.ok_or_else(|| why.unwrap_or("not asked for").to_owned()),
            error: None,
            spread: None,
            unit: "",
            must,
            hope,
            more: must <= hope,
        }
    }

    fn beside_peers(&self, (work, unit, must, hope): (&str, &str, f64, f64)) -> Verdict {
        let cross = &Variant::CrossNode;
        let Some(best) = self.best_peer(work) else {
            let mut line = self.line(work, (must, hope), None);
            if self.median(work, cross).is_some() {
                line.value = Err("no peer".to_owned());
            }
            return Verdict {
                against: "best peer".to_owned(),
                more: more_is_better(unit),
                ..line
            };
        };
        let value = if is_tail(work) {
            self.ratio(work, cross, best)
        } else {
            self.to_best_peer(work).map(|(_, ratio)| ratio)
        };
        let line = Verdict {
            against: best.to_string(),
            to_a_peer: true,
            more: more_is_better(unit),
            ..self.line(work, (must, hope), value)
        };
        line.from(&self.ratios(work, cross, best))
    }

    fn alone(&self, (work, must, hope, unit): (&str, f64, f64, &'static str)) -> Verdict {
        let cross = &Variant::CrossNode;
        let mut line = self.line(work, (must, hope), self.median(work, cross));
        line.unit = unit;
        line.more = unit.is_empty();
        let is_long = |it: &super::made::Made| it.has_long_churn();
        if work == CHURN && line.value.is_ok() && !self.made.as_ref().is_some_and(is_long) {
            line.value = Err("short windows".to_owned());
        }
        if work == KEPT {
            line.error = self.error_kept();
        }
        line.from(&self.values(work, cross))
    }

    /// The standard error of the median of the rounds' [`KEPT`].
    fn error_kept(&self) -> Option<f64> {
        let errors = self.values(KEPT_ERROR, &Variant::CrossNode);
        Some(median(&errors)? / 100.0 * of_median(errors.len())?)
    }

    fn step(&self, step: [&str; 2]) -> Verdict {
        let [fewer, more] = step;
        let ratios = self.step_ratios(step, &Variant::CrossNode);
        let line = Verdict {
            against: fewer.to_owned(),
            more: true,
            // A large one excuses nothing.
            error: error_of_median(&ratios).filter(|it| *it <= LARGEST_ERROR),
            ..self.line(more, (0.95, 1.0), median(&ratios))
        };
        line.from(&ratios)
    }

    /// What a work is to the same with fewer at a time, sample by sample.
    fn step_ratios(&self, [fewer, more]: [&str; 2], variant: &Variant) -> Vec<f64> {
        self.quotients((more, variant), (fewer, variant))
    }

    /// Inside of a node: the median of the pairs' ratios, with its error.
    fn same_node(&self, work: &str) -> Verdict {
        let (same, raw) = (Variant::SameNode, Variant::RawSameNode);
        let ratios = self.ratios(work, &same, &raw);
        let more = !work.contains("_us_");
        let must = if more { 0.95 } else { 1.05 };
        let error = error_of_median(&ratios);
        let mut line = self.line(work, (must, 1.0), median(&ratios));
        line.value = (line.value).and_then(|it| enough(it, (&ratios, error), LARGEST_ERROR));
        if let (Err(why), Some(known)) = (&mut line.value, self.why_not(work, &same)) {
            known.clone_into(why);
        }
        let line = Verdict {
            what: format!("same node, {work}"),
            against: "raw".to_owned(),
            error,
            more,
            ..line
        };
        line.from(&ratios)
    }

    /// Works of the load inside of a node whose ratio has an error above this, as far as it was
    /// measured.
    pub fn not_known_to(&self, error: f64) -> Vec<Work> {
        let (same, raw) = (Variant::SameNode, Variant::RawSameNode);
        let is_unknown = |figure: &&str| {
            let found = error_of_median(&self.ratios(figure, &same, &raw));
            found.is_some_and(|found| found > error)
        };
        let figures = SAME_NODE.iter().copied().filter(is_unknown);
        let names: Vec<String> = figures.map(|it| it.replace("_p50_us", "")).collect();
        let mut all = works();
        all.retain(|work| names.contains(&work.to_string()));
        all
    }

    /// What the programs add to connect(2) inside of a node: the median of the pairs' differences.
    fn hook(&self) -> Verdict {
        /// In µs.
        const LARGEST_ERROR: f64 = 0.5;
        let values = self.values(hook::WORK, &Variant::SameNode);
        let error = error_of_median(&values);
        let mut line = self.line(hook::WORK, (3.0, 2.0), median(&values));
        line.value = line
            .value
            .and_then(|it| enough(it, (&values, error), LARGEST_ERROR));
        let line = Verdict {
            against: "raw".to_owned(),
            unit: "µs",
            error,
            more: false,
            ..line
        };
        line.from(&values)
    }

    /// Beside what the ratios of same-node connections stand: the works, and what enrolled pods, pods
    /// that the mesh does not know and once more the same are to raw TCP, with their errors.
    pub(super) fn beside(&self) -> Vec<(&str, [Measured; 3])> {
        let variants = [Variant::SameNode, Variant::Unmeshed, Variant::Control];
        let works = self.works().iter().map(String::as_str);
        let all = works.map(|work| {
            let ratio = |variant: &Variant| {
                let ratios = self.ratios(work, variant, &Variant::RawSameNode);
                Some((median(&ratios)?, error_of_median(&ratios)?))
            };
            (work, variants.each_ref().map(ratio))
        });
        all.filter(|(work, [_, unmeshed, _])| !is_tail(work) && unmeshed.is_some())
            .collect()
    }

    /// How good each work is inside of a node beside raw TCP: 1 is as good, above is better. Without
    /// the tails of latencies, which are the machine's.
    pub(super) fn same_node_ratios(&self) -> Vec<(&str, f64)> {
        let (same, raw) = (Variant::SameNode, Variant::RawSameNode);
        let works = self.works().iter().map(String::as_str);
        works
            .filter(|work| !is_tail(work) && !work.starts_with("churn"))
            .filter_map(|work| {
                let ratio = self.ratio(work, &same, &raw);
                let ratio = ratio.filter(|it| it.is_normal() && *it > 0.0)?;
                let more = more_is_better(self.unit(work));
                Some((work, if more { ratio } else { 1.0 / ratio }))
            })
            .collect()
    }

    /// What more at a time does to ours, to raw TCP and to the best peer: the works, and three
    /// ratios.
    pub(super) fn steps(&self) -> Vec<([&'static str; 2], [Option<f64>; 3])> {
        let all = STEPS.into_iter().chain(TOLD_STEPS);
        let told = all.map(|step| {
            let [_, more] = step;
            let peer = self.best_peer(more);
            let ratio = |variant: &Variant| median(&self.step_ratios(step, variant));
            let ours = [ratio(&Variant::CrossNode), ratio(&Variant::Raw)];
            (step, [ours[0], ours[1], peer.and_then(ratio)])
        });
        told.filter(|(_, ratios)| ratios.iter().any(Option::is_some))
            .collect()
    }

    /// Of how many rounds' tails ours were longer than the best peer's, and how many there were.
    pub(super) fn lost_tails(&self) -> (usize, usize) {
        let tails = self.verdicts().into_iter();
        let tails = tails.filter(|it| is_tail(&it.what) && it.to_a_peer);
        let spreads = tails.filter_map(|it| it.spread);
        spreads.fold((0, 0), |(lost, count), it| {
            (lost + it.lost, count + it.count)
        })
    }

    /// Whether everything is shown to be what it must be, as far as the errors of what is compared
    /// inside of a node allow. What was not measured is not.
    pub fn has_reached_all(&self) -> bool {
        let verdicts = self.verdicts();
        !verdicts.iter().any(|it| it.outcome().is_lacking())
    }

    /// How the lines went, in a sentence.
    pub(super) fn summary(&self) -> String {
        let verdicts = self.verdicts();
        let count = |outcome: Outcome| {
            let lines = verdicts.iter().filter(|it| it.outcome() == outcome);
            lines.count()
        };
        let reached = verdicts.iter().filter(|it| it.outcome().is_reached());
        let mut summary = format!("{} of {} reached", reached.count(), verdicts.len());
        for outcome in [Outcome::WithinError, Outcome::Missed, Outcome::NotMeasured] {
            let number = count(outcome);
            if number > 0 {
                // Writing to a String cannot fail.
                write!(summary, ", {number} {outcome}").unwrap_or_default();
            }
        }
        let (lost, tails) = self.lost_tails();
        if tails > 0 {
            write!(
                summary,
                "; of {tails} single p99s ours are longer than the best peer’s {lost} times"
            )
            .unwrap_or_default();
        }
        summary + "."
    }

    /// The verdicts for a terminal.
    pub fn verdict_table(&self) -> String {
        let verdicts = self.verdicts();
        let mut table = String::new();
        let lines = verdicts.iter().map(Verdict::cells);
        let lines = std::iter::once(HEADINGS.map(str::to_owned)).chain(lines);
        for [what, against, ours, single, must, hope, outcome] in lines {
            writeln!(
                table,
                "{what:<32}{against:<14}{ours:>14}{single:>24}{must:>12}{hope:>12}   {outcome}"
            )
            .unwrap_or_default();
        }
        table + &self.summary() + "\n"
    }
}

/// The value, if there are enough pairs behind it to say it, with no larger error than that.
fn enough(value: f64, (pairs, error): (&[f64], Option<f64>), most: f64) -> Result<f64, String> {
    if pairs.len() < FEWEST_PAIRS {
        return Err(format!("{} pairs", pairs.len()));
    }
    match error.filter(|it| *it > most) {
        Some(error) => Err(format!("±{error:.2}")),
        None => Ok(value),
    }
}

/// Whether a work is the tail of a latency.
fn is_tail(work: &str) -> bool {
    work.contains("_p99_")
}

#[cfg(test)]
mod tests;
