//! All figures of a run: medians, ratios, and JSON for comparisons.
//!
//! What could not be measured is part of it: a work or a variant that is missing has its row or its
//! column, and its reason is told.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::figure::{Figure, Variant, median, more_is_better};

/// All figures of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    variants: Vec<Variant>,
    /// Works in the order in which they were first measured.
    order: Vec<String>,
    units: BTreeMap<String, String>,
    /// By work and variant: the values by round.
    figures: BTreeMap<(String, Variant), BTreeMap<usize, f64>>,
    notes: Vec<String>,
    runs: Vec<Value>,
    /// Samples that could not be taken.
    failed: BTreeSet<(String, Variant)>,
}

impl Report {
    /// A report without figures.
    pub fn new(variants: Vec<Variant>) -> Self {
        Self {
            variants,
            ..Self::default()
        }
    }

    /// Adds variants that are going to be measured, before those that are not.
    pub fn measure(&mut self, mut variants: Vec<Variant>) {
        variants.append(&mut self.variants);
        self.variants = variants;
    }

    /// Adds the figures of one sample.
    pub fn add(&mut self, round: usize, variant: &Variant, figures: &[Figure]) {
        for Figure { work, unit, value } in figures {
            self.order_of(work);
            self.units.insert(work.clone(), (*unit).to_owned());
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

    /// Adds a work that this machine cannot do.
    pub fn skip(&mut self, work: &str, reason: &str) {
        self.order_of(work);
        self.notes.push(format!("{work} skipped: {reason}"));
        self.runs.push(json!({ "work": work, "skipped": reason }));
    }

    /// Adds a variant that cannot be measured here.
    pub fn lack(&mut self, variant: Variant, reason: &str) {
        self.notes.push(format!("{variant} skipped: {reason}"));
        self.runs
            .push(json!({ "variant": variant.to_string(), "skipped": reason }));
        self.variants.push(variant);
    }

    /// Adds a sample that could not be taken.
    pub fn fail(&mut self, round: usize, work: &str, variant: &Variant, reason: &str) {
        self.order_of(work);
        self.failed.insert((work.to_owned(), variant.clone()));
        self.notes.push(format!(
            "{work} over {variant} failed in round {round}: {reason}"
        ));
        self.runs.push(
            json!({ "round": round, "work": work, "variant": variant.to_string(), "failed": reason }),
        );
    }

    fn order_of(&mut self, work: &str) {
        if !self.order.iter().any(|it| it == work) {
            self.order.push(work.to_owned());
        }
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
    pub fn own_failed(&self) -> bool {
        let mut failed = self.failed.iter();
        failed.any(|(_, variant)| variant.is_own() || variant.is_raw())
    }

    /// Whether a sample of this work could not be taken over this variant.
    pub(super) fn has_failed(&self, work: &str, variant: &Variant) -> bool {
        self.failed.contains(&(work.to_owned(), variant.clone()))
    }

    /// How many rounds there were.
    pub(super) fn rounds_taken(&self) -> usize {
        let rounds = self.figures.values().flat_map(BTreeMap::keys);
        rounds.copied().max().unwrap_or_default()
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

    pub(super) fn unit(&self, work: &str) -> &str {
        self.units.get(work).map(String::as_str).unwrap_or_default()
    }

    /// The median of a work over a variant.
    pub fn median(&self, work: &str, variant: &Variant) -> Option<f64> {
        let values = self.rounds(work, variant)?.values();
        median(&values.copied().collect::<Vec<_>>())
    }

    /// The median of the ratios, round by round: what disturbs a round disturbs both.
    pub fn ratio(&self, work: &str, variant: &Variant, to: &Variant) -> Option<f64> {
        median(&self.ratios(work, variant, to))
    }

    /// The ratios, round by round.
    pub(super) fn ratios(&self, work: &str, variant: &Variant, to: &Variant) -> Vec<f64> {
        let (Some(values), Some(others)) = (self.rounds(work, variant), self.rounds(work, to))
        else {
            return Vec::new();
        };
        let both = values.iter().filter_map(|(round, value)| {
            let other = others.get(round).filter(|it| **it > 0.0)?;
            Some(value / other)
        });
        both.collect()
    }

    /// What the agents across nodes reach of the best peer, by the medians that everybody can see.
    pub(super) fn to_best_peer(&self, work: &str) -> Option<(&Variant, f64)> {
        let best = self.best_peer(work)?;
        let theirs = self.median(work, best).filter(|it| *it > 0.0)?;
        Some((best, self.median(work, &Variant::CrossNode)? / theirs))
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

    /// What several runs have measured, together: a long run can be made in parts. Of a sample that
    /// two of them have, the later one counts.
    ///
    /// # Errors
    ///
    /// Fails if one of them is none.
    pub fn together(parts: &[Value]) -> Result<Self> {
        let (mut runs, mut units) = (Vec::new(), Map::new());
        for part in parts {
            for run in part["runs"].as_array().context("no `runs`")? {
                // All of them were on this machine.
                let is_known = run["work"].is_null() && runs.contains(run);
                runs.extend((!is_known).then(|| run.clone()));
            }
            units.extend(part["unit"].as_object().cloned().unwrap_or_default());
        }
        Self::from_json(&json!({ "runs": runs, "unit": units }))
    }

    /// The report that [`Report::json`] was made of.
    ///
    /// # Errors
    ///
    /// Fails if it was made of something else.
    fn from_json(json: &Value) -> Result<Self> {
        let runs = json["runs"].as_array().context("no `runs`")?;
        let variants = runs.iter().filter_map(|run| run["variant"].as_str());
        let mut report = Self::default();
        for variant in variants.map(Variant::named) {
            if !report.variants.contains(&variant) {
                report.variants.push(variant);
            }
        }
        report.variants.sort();
        for run in runs {
            report.read(run, &json["unit"]);
        }
        report.runs.clone_from(runs);
        Ok(report)
    }

    fn read(&mut self, run: &Value, units: &Value) {
        let text = |key: &str| run[key].as_str();
        let round = run["round"]
            .as_u64()
            .and_then(|it| usize::try_from(it).ok());
        match (text("work"), text("variant").map(Variant::named), round) {
            (Some(work), Some(variant), Some(round)) => {
                if let Some(reason) = text("failed") {
                    self.fail(round, work, &variant, reason);
                } else if let Some(value) = run["value"].as_f64() {
                    self.order_of(work);
                    let unit = units[work].as_str().unwrap_or_default();
                    self.units.insert(work.to_owned(), unit.to_owned());
                    let values = self.figures.entry((work.to_owned(), variant)).or_default();
                    values.insert(round, value);
                }
            }
            (Some(work), None, None) => self.skip(work, text("skipped").unwrap_or_default()),
            (None, Some(variant), None) => {
                self.variants.retain(|it| *it != variant);
                self.lack(variant, text("skipped").unwrap_or_default());
            }
            _ => self.notes.extend(text("note").map(ToOwned::to_owned)),
        }
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
        report.skip("http_64", "not installed: wrk");
        report.lack(Variant::named("haproxy"), "not installed");
        report.fail(1, "connect_1", &Variant::Raw, "refused");
        let runs = json!([
            { "work": "http_64", "skipped": "not installed: wrk" },
            { "variant": "haproxy", "skipped": "not installed" },
            { "round": 1, "work": "connect_1", "variant": "raw", "failed": "refused" },
        ]);
        assert_eq!(report.json()["runs"], runs);
        assert!(report.own_failed());
        assert_eq!(report.works(), ["http_64", "connect_1"]);
    }

    #[test]
    fn a_report_can_be_read_again() -> Result<()> {
        let mut report = super::super::tests::report();
        report.note("congestion control: cubic");
        report.skip("http_64", "not installed: wrk");
        report.fail(2, "connect_1", &Variant::named("envoy"), "refused");
        let again = Report::together(&[report.json()])?;
        assert_eq!(again.json(), report.json());
        assert_eq!(again.table(), report.table());
        Ok(())
    }

    #[test]
    fn a_run_in_parts_is_one_report() -> Result<()> {
        let part = |work: &str, value| {
            let mut report = Report::new(vec![Variant::CrossNode]);
            report.note("congestion control: cubic");
            report.add(1, &Variant::CrossNode, &[Figure::new(work, "MiB", value)]);
            report.json()
        };
        let parts = [part("held_near_mb_0", 1.0), part("held_near_mb_10", 2.0)];
        let all = Report::together(&parts)?;
        assert_eq!(all.works(), ["held_near_mb_0", "held_near_mb_10"]);
        assert_eq!(all.unit("held_near_mb_10"), "MiB");
        assert_eq!(all.notes(), ["congestion control: cubic"]);
        Ok(())
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
