//! All figures of a run: medians, ratios, and JSON for comparisons.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::figure::{Figure, Variant, median, more_is_better};

/// All figures of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    variants: Vec<Variant>,
    /// Works in the order in which they were first measured.
    order: Vec<String>,
    units: BTreeMap<String, &'static str>,
    /// By work and variant: the values by round.
    figures: BTreeMap<(String, Variant), BTreeMap<usize, f64>>,
    notes: Vec<String>,
    runs: Vec<Value>,
    own_failed: bool,
}

impl Report {
    /// A report without figures.
    pub fn new(variants: Vec<Variant>) -> Self {
        Self {
            variants,
            ..Self::default()
        }
    }

    /// Adds the figures of one sample.
    pub fn add(&mut self, round: usize, variant: &Variant, figures: &[Figure]) {
        for Figure { work, unit, value } in figures {
            if !self.order.contains(work) {
                self.order.push(work.clone());
            }
            self.units.insert(work.clone(), unit);
            let key = (work.clone(), variant.clone());
            self.figures.entry(key).or_default().insert(round, *value);
            self.runs.push(
                json!({ "round": round, "work": work, "variant": variant.to_string(), "value": value }),
            );
        }
    }

    /// Adds what is to be known about the run, such as what was left out.
    pub fn note(&mut self, note: &str) {
        self.notes.push(note.to_owned());
        self.runs.push(json!({ "note": note }));
    }

    /// Adds a sample that could not be taken.
    pub fn fail(&mut self, round: usize, work: &str, variant: &Variant, error: &anyhow::Error) {
        self.own_failed |= variant.is_own() || variant.is_raw();
        let reason = format!("{error:#}");
        self.notes.push(format!(
            "{work} over {variant} failed in round {round}: {reason}"
        ));
        self.runs.push(
            json!({ "round": round, "work": work, "variant": variant.to_string(), "failed": reason }),
        );
    }

    /// Adds what follows from the figures: memory per idle connection, and how the bytes between
    /// pods of one node went.
    pub fn conclude(&mut self) {
        /// CPU seconds per GB that are measurement error.
        const NOTHING: f64 = 0.05;
        for variant in self.variants.clone() {
            let Some(idle) = self.median("rss_mb_idle", &variant) else {
                continue;
            };
            let held: Vec<(f64, f64)> = self
                .order
                .iter()
                .filter_map(|work| {
                    let count: f64 = work.strip_prefix("rss_mb_")?.parse().ok()?;
                    Some((count, self.median(work, &variant)?))
                })
                .collect();
            for (count, size) in held {
                let each = (size - idle) * 1024.0 / count;
                let work = format!("rss_kb_per_connection_{count}");
                self.add(1, &variant, &[Figure::new(work, "KiB", each)]);
            }
        }
        match self.median("cpu_s_per_gb", &Variant::SameNode) {
            Some(cost) if cost > NOTHING => {
                self.note("same_node: carried by the node's agent, not by the kernel alone");
            }
            Some(_) => self.note("same_node: carried by the kernel alone"),
            None => {}
        }
    }

    /// Whether a sample of raw TCP or of the agents could not be taken.
    pub const fn own_failed(&self) -> bool {
        self.own_failed
    }

    /// The variants by column.
    pub(super) fn variants(&self) -> &[Variant] {
        &self.variants
    }

    /// The works by row.
    pub(super) fn works(&self) -> &[String] {
        &self.order
    }

    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    pub(super) fn unit(&self, work: &str) -> &'static str {
        self.units.get(work).copied().unwrap_or_default()
    }

    /// The median of a work over a variant.
    pub fn median(&self, work: &str, variant: &Variant) -> Option<f64> {
        let values = self.rounds(work, variant)?.values();
        median(&values.copied().collect::<Vec<_>>())
    }

    /// The median of the ratios, round by round: what disturbs a round disturbs both.
    pub fn ratio(&self, work: &str, variant: &Variant, to: &Variant) -> Option<f64> {
        let (values, others) = (self.rounds(work, variant)?, self.rounds(work, to)?);
        let both = values.iter().filter_map(|(round, value)| {
            let other = others.get(round).filter(|it| **it > 0.0)?;
            Some(value / other)
        });
        median(&both.collect::<Vec<_>>())
    }

    /// The peer that does a work best.
    pub fn best_peer(&self, work: &str) -> Option<&Variant> {
        let more = more_is_better(self.unit(work));
        let peers = self.variants.iter();
        let figures = peers
            .filter(|it| matches!(it, Variant::Peer(_)))
            .filter_map(|peer| Some((self.median(work, peer)?, peer)));
        let best = figures.reduce(|best, next| {
            if (next.0 > best.0) == more {
                next
            } else {
                best
            }
        })?;
        Some(best.1)
    }

    fn rounds(&self, work: &str, variant: &Variant) -> Option<&BTreeMap<usize, f64>> {
        self.figures.get(&(work.to_owned(), variant.clone()))
    }

    /// `{"medians": {WORK: {VARIANT: number}}, "unit": {WORK: text}, "runs": […]}`; among the runs
    /// are what failed and what was left out.
    pub fn json(&self) -> Value {
        let mut medians = Map::new();
        for work in &self.order {
            let figures = self.variants.iter().filter_map(|variant| {
                Some((variant.to_string(), json!(self.median(work, variant)?)))
            });
            medians.insert(work.clone(), Value::Object(figures.collect()));
        }
        json!({ "medians": medians, "unit": self.units, "runs": self.runs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_has_medians_by_work_and_variant() {
        let json = super::super::tests::report().json();
        assert_eq!(
            json["medians"]["throughput_up_4"],
            json!({ "raw": 33.0, "cross_node": 10.0, "envoy": 11.0, "haproxy": 5.0 })
        );
        assert_eq!(json["unit"]["throughput_up_4"], "Gbit/s");
        assert_eq!(json["runs"][0]["value"], 30.0);
        assert_eq!(json.as_object().map(Map::len), Some(3));
    }

    #[test]
    fn what_is_missing_is_among_the_runs() {
        let mut report = Report::new(vec![Variant::Raw]);
        report.note("http_64 skipped: not installed: wrk");
        report.fail(1, "connect_1", &Variant::Raw, &anyhow::anyhow!("refused"));
        let runs = json!([
            { "note": "http_64 skipped: not installed: wrk" },
            { "round": 1, "work": "connect_1", "variant": "raw", "failed": "refused" },
        ]);
        assert_eq!(report.json()["runs"], runs);
        assert!(report.own_failed());
    }

    #[test]
    fn the_best_peer_is_the_fastest_or_the_cheapest() {
        let report = super::super::tests::report();
        let best = |work| report.best_peer(work).map(ToString::to_string);
        assert_eq!(best("throughput_up_4").as_deref(), Some("envoy"));
        assert_eq!(best("rss_mb_idle").as_deref(), Some("haproxy"));
    }

    #[test]
    fn memory_per_connection_follows_from_idle_and_held() {
        let mut report = Report::new(vec![Variant::CrossNode]);
        let figures = [("rss_mb_idle", 14.0), ("rss_mb_1000", 24.0)];
        let figures = figures.map(|(work, value)| Figure::new(work, "MiB", value));
        report.add(1, &Variant::CrossNode, &figures);
        report.conclude();
        let each = report.median("rss_kb_per_connection_1000", &Variant::CrossNode);
        assert_eq!(each, Some(10.24));
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        let report = super::super::tests::report();
        let ratio = report.ratio("throughput_up_4", &Variant::CrossNode, &Variant::Raw);
        assert_eq!(ratio, Some(10.0 / 33.0));
    }
}
