//! All figures of a run: medians and ratios.
//!
//! What could not be measured is part of it: a work or a variant that is missing has its row or its
//! column, and its reason is told.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::figure::{Figure, Take, Variant, median, more_is_better};
use super::hook;
use super::made::Made;

/// All figures of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub(super) variants: Vec<Variant>,
    /// Works in the order in which they were first measured.
    pub(super) order: Vec<String>,
    pub(super) units: BTreeMap<String, String>,
    /// By work and variant: the values by round, or sample of a round.
    pub(super) figures: BTreeMap<(String, Variant), BTreeMap<Take, f64>>,
    pub(super) notes: Vec<String>,
    /// Everything in the order in which it came.
    pub(super) runs: Vec<Value>,
    /// Samples that could not be taken.
    failed: BTreeSet<(String, Variant)>,
    /// Works that this machine cannot do, and why not.
    skipped: BTreeMap<String, String>,
    /// How it was made.
    pub(super) made: Option<Made>,
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
    pub fn add(&mut self, take: impl Into<Take>, variant: &Variant, figures: &[Figure]) {
        let take = take.into();
        for Figure { work, unit, value } in figures {
            let value = rounded(*value);
            self.order_of(work);
            self.units.insert(work.clone(), (*unit).to_owned());
            let key = (work.clone(), variant.clone());
            self.figures.entry(key).or_default().insert(take, value);
            if let Some(earlier) = take.turn.checked_sub(1) {
                self.add_turn(take.round, earlier, (work, variant, value));
            } else {
                self.runs.push(json!({
                    "round": take.round, "work": work, "variant": variant.to_string(), "value": value,
                }));
            }
        }
    }

    /// Adds one of many samples of a round to where the others are, at its place: one that failed
    /// leaves a gap.
    fn add_turn(&mut self, round: usize, place: usize, found: (&str, &Variant, f64)) {
        let (work, variant, value) = found;
        let name = variant.to_string();
        let is_meant = |run: &Value| {
            run["round"] == round && run["work"] == work && run["variant"] == name.as_str()
        };
        let place_of = self.runs.iter().rposition(is_meant);
        let entry =
            place_of.and_then(|at| self.runs.get_mut(at)?.get_mut("values")?.as_array_mut());
        let mut new = Vec::new();
        let values = match entry {
            Some(values) => values,
            None => &mut new,
        };
        values.resize(place.max(values.len()), Value::Null);
        values.push(json!(value));
        if !new.is_empty() {
            self.runs
                .push(json!({ "round": round, "work": work, "variant": name, "values": new }));
        }
    }

    /// Adds what was seen one after the other, such as the windows of churn.
    pub fn add_series(&mut self, round: usize, variant: &Variant, work: &str, values: &[f64]) {
        let values: Vec<f64> = values.iter().copied().map(rounded).collect();
        self.runs.push(json!({
            "round": round, "series": work, "variant": variant.to_string(), "values": values,
        }));
    }

    /// Says how it was made.
    pub fn made(&mut self, made: Made) {
        self.made = Some(made);
    }

    /// Adds what is to be known about the run, such as what was left out.
    pub fn note(&mut self, note: &str) {
        self.notes.push(note.to_owned());
        self.runs.push(json!({ "note": note }));
    }

    /// Adds a work that this machine cannot do.
    pub fn skip(&mut self, work: &str, reason: &str) {
        self.order_of(work);
        self.skipped.insert(work.to_owned(), reason.to_owned());
        self.notes.push(format!("{work} skipped: {reason}"));
        self.runs.push(json!({ "work": work, "skipped": reason }));
    }

    /// Why a work was not measured, if that is known.
    pub(super) fn why_not(&self, work: &str, variant: &Variant) -> Option<&str> {
        if self.has_failed(work, variant) {
            return Some("failed");
        }
        self.skipped.get(work).map(String::as_str)
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

    pub(super) fn order_of(&mut self, work: &str) {
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
            let Some(idle) = self.rounds("rss_mb_idle", &variant).cloned() else {
                continue;
            };
            let mut found = Vec::new();
            for work in &self.order {
                let count = work.strip_prefix("rss_mb_").and_then(|it| it.parse().ok());
                let held = count.and_then(|count: f64| Some((count, self.rounds(work, &variant)?)));
                let Some((count, held)) = held else { continue };
                let work = format!("rss_kb_per_connection_{count}");
                found.extend(held.iter().filter_map(|(take, size)| {
                    let each = (size - idle.get(take)?) * 1024.0 / count;
                    Some((*take, Figure::new(work.clone(), "KiB", each)))
                }));
            }
            for (take, figure) in found {
                self.add(take, &variant, &[figure]);
            }
        }
        self.conclude_hook();
        match self.median("cpu_s_per_gb", &Variant::SameNode) {
            Some(cost) if cost > NOTHING => {
                self.note("same_node: carried by the node's agent, not by the kernel alone");
            }
            Some(_) => self.note("same_node: carried by the kernel alone"),
            None => {}
        }
    }

    /// How much longer connect(2) takes inside of a node than without us, pair by pair.
    fn conclude_hook(&mut self) {
        let (same, raw) = (Variant::SameNode, Variant::RawSameNode);
        let [ours, others] = [&same, &raw].map(|it| self.rounds(hook::CALL, it).cloned());
        let pairs = ours.unwrap_or_default().into_iter();
        let others = others.unwrap_or_default();
        let differences = pairs.filter_map(|(take, ours)| Some((take, ours - others.get(&take)?)));
        for (take, difference) in differences.collect::<Vec<_>>() {
            self.add(take, &same, &[Figure::new(hook::WORK, "µs", difference)]);
        }
    }

    /// Whether a sample of raw TCP or of the agents could not be taken. Whose client has the kernel's
    /// ports to itself may well be out of them during churn: that is what churn is about.
    pub fn own_failed(&self) -> bool {
        let is_out_of_ports =
            |work: &str, variant: &Variant| work == "churn" && *variant != Variant::CrossNode;
        let mut failed = self.failed.iter();
        failed.any(|(work, variant)| {
            (variant.is_own() || variant.is_raw()) && !is_out_of_ports(work, variant)
        })
    }

    /// Whether a sample of this work could not be taken over this variant.
    pub(super) fn has_failed(&self, work: &str, variant: &Variant) -> bool {
        self.failed.contains(&(work.to_owned(), variant.clone()))
    }

    /// How many rounds there were.
    pub(super) fn rounds_taken(&self) -> usize {
        let takes = self.figures.values().flat_map(BTreeMap::keys);
        takes.map(|take| take.round).max().unwrap_or_default()
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
        median(&self.values(work, variant))
    }

    /// The values of a work over a variant, round by round.
    pub(super) fn values(&self, work: &str, variant: &Variant) -> Vec<f64> {
        let rounds = self.rounds(work, variant).into_iter();
        rounds.flat_map(BTreeMap::values).copied().collect()
    }

    /// The median of the ratios, round by round: what disturbs a round disturbs both.
    pub fn ratio(&self, work: &str, variant: &Variant, to: &Variant) -> Option<f64> {
        median(&self.ratios(work, variant, to))
    }

    /// The ratios, round by round, or of as many pairs as there are in a round. A pair in which the
    /// other did nothing is as much a result as one in which this one did; of a pair in which neither
    /// did anything nothing is known.
    pub(super) fn ratios(&self, work: &str, variant: &Variant, to: &Variant) -> Vec<f64> {
        self.quotients((work, variant), (work, to))
    }

    /// The ratios of one work over a variant to another of the same sample, or to another work.
    pub(super) fn quotients(&self, of: (&str, &Variant), to: (&str, &Variant)) -> Vec<f64> {
        let [values, others] = [of, to].map(|(work, variant)| self.rounds(work, variant));
        let (Some(values), Some(others)) = (values, others) else {
            return Vec::new();
        };
        let both = values.iter().filter_map(|(take, value)| {
            let other = others.get(take)?;
            Some(value / other).filter(|it| !it.is_nan())
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
            .filter(|it| it.is_peer())
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

    fn rounds(&self, work: &str, variant: &Variant) -> Option<&BTreeMap<Take, f64>> {
        self.figures.get(&(work.to_owned(), variant.clone()))
    }
}

/// Five places: more of them are noise that only makes the file longer.
fn rounded(value: f64) -> f64 {
    format!("{value:.4e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn who_runs_out_of_ports_by_himself_has_not_failed() {
        let mut report = Report::new(vec![Variant::Raw]);
        for variant in [Variant::Raw, Variant::RawSameNode, Variant::SameNode] {
            report.fail(1, "churn", &variant, "no ports");
        }
        assert!(!report.own_failed());
        report.fail(1, "churn", &Variant::CrossNode, "no ports");
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
    fn a_sample_in_which_nothing_moved_is_a_result_of_its_pair() {
        let (raw, same) = (Variant::RawSameNode, Variant::SameNode);
        let mut report = Report::new(vec![raw.clone(), same.clone()]);
        let pairs = [[4.0, 4.0], [0.0, 4.0], [4.0, 0.0], [4.0, 2.0], [0.0, 0.0]];
        for (round, [bare, ours]) in (1..).zip(pairs) {
            for (variant, value) in [(&raw, bare), (&same, ours)] {
                report.add(
                    round,
                    variant,
                    &[Figure::new("throughput_up_1", "Gbit/s", value)],
                );
            }
        }
        let ratios = report.ratios("throughput_up_1", &same, &raw);
        assert_eq!(ratios, [1.0, f64::INFINITY, 0.0, 0.5]);
        assert_eq!(report.ratio("throughput_up_1", &same, &raw), Some(0.75));
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        let report = super::super::tests::report();
        let ratio = report.ratio("throughput_up_4", &Variant::CrossNode, &Variant::Raw);
        assert_eq!(ratio, Some(10.0 / 33.0));
    }
}
