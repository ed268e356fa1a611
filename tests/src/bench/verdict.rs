//! What the agents must reach, and whether they do: against the best peer of the same run, against
//! raw TCP inside of a node, and in itself.
//!
//! A ratio is our median to the other's, so that everybody can compute it again. Where less is better
//! it must stay below its bound.

use std::fmt::{self, Write as _};

use super::figure::{Variant, median, more_is_better};
use super::report::Report;
use super::table::{number, times};

/// How a work went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Not what it must be.
    Missed,
    /// What it must be.
    Reached,
    /// What is hoped for.
    Surpassed,
}

/// One line of the verdict.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Of what.
    pub what: String,
    /// What it is compared with.
    against: String,
    to_a_peer: bool,
    value: f64,
    /// Nothing if it is a ratio.
    unit: &'static str,
    must: f64,
    hope: f64,
    more: bool,
}

impl Verdict {
    /// How it went.
    pub fn outcome(&self) -> Outcome {
        let holds = |bound: f64| {
            if self.more {
                self.value >= bound
            } else {
                self.value <= bound
            }
        };
        match (holds(self.must), holds(self.hope)) {
            (false, _) => Outcome::Missed,
            (true, false) => Outcome::Reached,
            (true, true) => Outcome::Surpassed,
        }
    }

    fn bound(&self, bound: f64) -> String {
        format!(
            "{} {}",
            if self.more { "≥" } else { "≤" },
            self.shown(bound)
        )
    }

    fn shown(&self, value: f64) -> String {
        match self.unit {
            "" => times(value),
            unit => format!("{} {unit}", number(value)),
        }
    }

    /// How many times better than the best peer; nothing if that is not what it is compared with.
    pub(super) fn advantage(&self) -> Option<f64> {
        let ratio = Some(self.value).filter(|it| self.to_a_peer && *it > 0.0)?;
        Some(if self.more { ratio } else { 1.0 / ratio })
    }

    /// What is told of it: what, against what, how much, what it must be, what is hoped for.
    pub(super) fn cells(&self) -> [String; 6] {
        [
            self.what.clone(),
            self.against.clone(),
            self.shown(self.value),
            self.bound(self.must),
            self.bound(self.hope),
            self.outcome().to_string(),
        ]
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missed => "missed",
            Self::Reached => "reached",
            Self::Surpassed => "surpassed",
        })
    }
}

/// The headings of [`Verdict::cells`].
pub(super) const HEADINGS: [&str; 6] =
    ["work", "against", "ours", "must be", "reach for", "verdict"];

/// Ratios to the best peer: the work, what it must be, what is hoped for.
const PEERS: [(&str, f64, f64); 23] = [
    ("throughput_up_1", 1.1, 1.4),
    ("throughput_down_1", 1.1, 1.4),
    ("throughput_up_4", 1.6, 2.2),
    ("throughput_down_4", 1.6, 2.2),
    ("throughput_up_16", 1.5, 2.0),
    ("throughput_down_16", 1.5, 2.0),
    ("pingpong_p50_us_1", 1.0, 0.8),
    ("pingpong_64", 1.1, 1.4),
    ("connect_1", 1.4, 2.0),
    ("connect_16", 1.4, 2.0),
    ("connect_64", 1.3, 1.8),
    ("http_64", 1.1, 1.4),
    ("cpu_s_per_gb", 0.65, 0.45),
    ("cpu_s_per_gb_down", 0.65, 0.45),
    ("pingpong_p99_us_1", 1.0, 0.8),
    ("pingpong_p99_us_16", 1.0, 0.8),
    ("pingpong_p99_us_64", 1.0, 0.8),
    ("connect_p99_us_1", 1.0, 0.8),
    ("connect_p99_us_16", 1.0, 0.8),
    ("connect_p99_us_64", 1.0, 0.8),
    ("connect_p99_us_256", 1.0, 0.8),
    ("connect_p99_us_1000", 1.0, 0.8),
    ("http_p99_us_64", 1.0, 0.8),
];

/// Numbers of the agents across nodes alone.
const OWN: [(&str, f64, f64, &str); 7] = [
    ("rss_mb_idle", 14.0, 7.0, "MiB"),
    ("rss_kb_per_connection_1000", 5.5, 2.75, "KiB"),
    ("rss_kb_per_connection_10000", 5.5, 2.75, "KiB"),
    ("churn_last_to_first", 0.9, 1.0, ""),
    ("mesh_load_ms_50000", 3000.0, 1500.0, "ms"),
    ("mesh_rss_mb_50000", 300.0, 150.0, "MiB"),
    ("mesh_connect_kept_50000", 0.95, 1.0, ""),
];

/// More in flight must not be slower than fewer: 5 % are noise.
const STEPS: [[&str; 2]; 3] = [
    ["connect_16", "connect_64"],
    ["connect_64", "connect_256"],
    ["connect_256", "connect_1000"],
];

/// What must be as good inside of a node as without us: the figure, and the works that show it,
/// without the numbers at their ends.
const SAME_NODE: [(&str, &[&str]); 3] = [
    ("throughput", &["throughput_up_", "throughput_down_"]),
    ("ping-pong p50", &["pingpong_p50_us_"]),
    ("connections", &["connect_"]),
];

impl Report {
    /// What was measured of what must be reached.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let cross = &Variant::CrossNode;
        let mut verdicts: Vec<Verdict> = PEERS
            .iter()
            .filter_map(|(work, must, hope)| {
                let (best, value) = self.to_best_peer(work)?;
                Some(Verdict {
                    against: best.to_string(),
                    to_a_peer: true,
                    value,
                    ..self.verdict(work, *must, *hope)
                })
            })
            .collect();
        verdicts.extend(OWN.iter().filter_map(|(work, must, hope, unit)| {
            Some(Verdict {
                value: self.median(work, cross)?,
                unit,
                ..self.verdict(work, *must, *hope)
            })
        }));
        verdicts.extend(STEPS.iter().filter_map(|[fewer, more]| {
            Some(Verdict {
                against: (*fewer).to_owned(),
                value: self.median(more, cross)? / self.median(fewer, cross)?,
                ..self.verdict(more, 0.95, 1.0)
            })
        }));
        verdicts.extend(SAME_NODE.iter().filter_map(|figure| self.same_node(figure)));
        verdicts
    }

    fn verdict(&self, work: &str, must: f64, hope: f64) -> Verdict {
        Verdict {
            what: work.to_owned(),
            against: "–".to_owned(),
            to_a_peer: false,
            value: 0.0,
            unit: "",
            must,
            hope,
            more: more_is_better(self.unit(work)),
        }
    }

    /// Inside of a node: the median of all rounds' ratios of the works that show a figure. Single
    /// samples scatter by more than what is to be seen.
    fn same_node(&self, (name, kinds): &(&str, &[&str])) -> Option<Verdict> {
        let is_meant = |work: &&String| {
            let numbers = kinds.iter().filter_map(|kind| work.strip_prefix(kind));
            let mut numbers = numbers.filter(|it| it.bytes().all(|it| it.is_ascii_digit()));
            numbers.next().is_some()
        };
        let works: Vec<&String> = self.works().iter().filter(is_meant).collect();
        let (same, raw) = (Variant::SameNode, Variant::RawSameNode);
        let ratios = works.iter().map(|work| self.ratios(work, &same, &raw));
        let more = more_is_better(self.unit(works.first()?));
        Some(Verdict {
            what: format!("same node, {name}"),
            against: "raw".to_owned(),
            to_a_peer: false,
            value: median(&ratios.flatten().collect::<Vec<_>>())?,
            unit: "",
            must: if more { 0.95 } else { 1.05 },
            hope: 1.0,
            more,
        })
    }

    /// How good each work is inside of a node beside raw TCP: 1 is as good, above is better. Without
    /// the tails of latencies, which are the machine's.
    pub(super) fn same_node_ratios(&self) -> Vec<(&str, f64)> {
        let (same, raw) = (Variant::SameNode, Variant::RawSameNode);
        let works = self.works().iter().map(String::as_str);
        works
            .filter(|work| !work.contains("_p99_") && !work.starts_with("churn"))
            .filter_map(|work| {
                let ratio = self.ratio(work, &same, &raw).filter(|it| *it > 0.0)?;
                let more = more_is_better(self.unit(work));
                Some((work, if more { ratio } else { 1.0 / ratio }))
            })
            .collect()
    }

    /// Whether everything that was measured is what it must be.
    pub fn has_reached_all(&self) -> bool {
        let mut verdicts = self.verdicts().into_iter();
        verdicts.all(|it| it.outcome() > Outcome::Missed)
    }

    /// The verdicts for a terminal; nothing if none can be given.
    pub fn verdict_table(&self) -> String {
        let verdicts = self.verdicts();
        let mut table = String::new();
        let lines = verdicts.iter().map(Verdict::cells);
        let lines = std::iter::once(HEADINGS.map(str::to_owned)).chain(lines);
        for [what, against, ours, must, hope, outcome] in lines {
            // Writing to a String cannot fail.
            writeln!(
                table,
                "{what:<32}{against:<14}{ours:>12}{must:>14}{hope:>14}   {outcome}"
            )
            .unwrap_or_default();
        }
        if verdicts.is_empty() {
            String::new()
        } else {
            table
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::figure::Figure;
    use super::*;

    fn against_envoy(work: &str, unit: &'static str, ours: f64, envoys: f64) -> Report {
        let (cross, envoy) = (Variant::CrossNode, Variant::named("envoy"));
        let mut report = Report::new(vec![cross.clone(), envoy.clone()]);
        report.add(1, &cross, &[Figure::new(work, unit, ours)]);
        report.add(1, &envoy, &[Figure::new(work, unit, envoys)]);
        report
    }

    #[rstest]
    #[case::too_little("throughput_up_4", "Gbit/s", 15.0, Outcome::Missed)]
    #[case::enough("throughput_up_4", "Gbit/s", 17.0, Outcome::Reached)]
    #[case::more_than_enough("throughput_up_4", "Gbit/s", 22.0, Outcome::Surpassed)]
    #[case::too_much("cpu_s_per_gb", "s", 7.0, Outcome::Missed)]
    #[case::little_enough("cpu_s_per_gb", "s", 6.0, Outcome::Reached)]
    #[case::less_than_enough("cpu_s_per_gb", "s", 4.0, Outcome::Surpassed)]
    fn a_work_is_judged_by_the_best_peer(
        #[case] work: &str,
        #[case] unit: &'static str,
        #[case] ours: f64,
        #[case] expected: Outcome,
    ) {
        let report = against_envoy(work, unit, ours, 10.0);
        let outcomes: Vec<Outcome> = report.verdicts().iter().map(Verdict::outcome).collect();
        assert_eq!(outcomes, [expected]);
        assert_eq!(report.has_reached_all(), expected > Outcome::Missed);
    }

    #[test]
    fn more_in_flight_must_not_be_slower() {
        let mut report = against_envoy("connect_256", "1/s", 1000.0, 10.0);
        let slower = Figure::new("connect_1000", "1/s", 900.0);
        report.add(1, &Variant::CrossNode, &[slower]);
        let table = "work                            against               ours       must be     \
                     reach for   verdict\n\
                     connect_1000                    connect_256          0.90×       ≥ 0.95×       \
                     ≥ 1.00×   missed\n";
        assert_eq!(report.verdict_table(), table);
    }

    #[test]
    fn inside_of_a_node_each_figure_is_judged_by_the_ratios_of_all_rounds() {
        let (same, raw) = (Variant::SameNode, Variant::RawSameNode);
        let mut report = Report::new(vec![raw.clone(), same.clone()]);
        let mut add = |work: &str, unit, ratios: [f64; 3]| {
            for (round, ratio) in (1..).zip(ratios) {
                report.add(round, &raw, &[Figure::new(work, unit, 100.0)]);
                report.add(round, &same, &[Figure::new(work, unit, 100.0 * ratio)]);
            }
        };
        add("throughput_up_1", "Gbit/s", [1.0, 0.97, 0.99]);
        add("throughput_down_4", "Gbit/s", [0.98, 0.5, 0.98]);
        add("pingpong_1", "1/s", [0.5; 3]);
        add("pingpong_p50_us_1", "µs", [1.0, 1.06, 1.2]);
        add("connect_16", "1/s", [0.96; 3]);
        add("connect_p50_us_16", "µs", [2.0; 3]);
        let lines: Vec<String> = report
            .verdicts()
            .iter()
            .map(|it| it.cells().join(" "))
            .collect();
        let expected = [
            "same node, throughput raw 0.98× ≥ 0.95× ≥ 1.00× reached",
            "same node, ping-pong p50 raw 1.06× ≤ 1.05× ≤ 1.00× missed",
            "same node, connections raw 0.96× ≥ 0.95× ≥ 1.00× reached",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn inside_of_a_node_less_latency_and_more_throughput_are_both_better() {
        let (same, raw) = (Variant::SameNode, Variant::RawSameNode);
        let mut report = Report::new(vec![raw.clone(), same.clone()]);
        for (work, unit, ours, bare) in [("connect_1", "1/s", 99.0, 100.0), ("p50", "µs", 5.0, 4.0)]
        {
            report.add(1, &same, &[Figure::new(work, unit, ours)]);
            report.add(1, &raw, &[Figure::new(work, unit, bare)]);
        }
        assert_eq!(
            report.same_node_ratios(),
            [("connect_1", 0.99), ("p50", 0.8)]
        );
    }
}
