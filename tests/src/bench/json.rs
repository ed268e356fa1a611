//! A report as JSON, for comparisons, and back.

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::figure::{Take, Variant};
use super::made::Made;
use super::report::Report;

impl Report {
    /// `{"plan": {…}, "medians": {WORK: {VARIANT: number}}, "unit": {WORK: text}, "runs": […]}`;
    /// among the runs are what failed and what was left out. A run has a `value`, or the `values` of
    /// a round's samples in their order; those of one number in the runs of two variants were taken
    /// one right after the other.
    pub fn json(&self) -> Value {
        let mut medians = Map::new();
        for work in &self.order {
            let figures = self.variants.iter().filter_map(|variant| {
                Some((variant.to_string(), json!(self.median(work, variant)?)))
            });
            medians.insert(work.clone(), Value::Object(figures.collect()));
        }
        json!({
            "plan": self.made.as_ref().map(Made::json),
            "medians": medians,
            "unit": self.units,
            "runs": self.runs,
        })
    }

    /// The same as text, a line for each work and each run.
    pub fn json_text(&self) -> String {
        let json = self.json();
        let lines = |value: &Value| -> String {
            let lines: Vec<String> = match value {
                Value::Object(all) => all
                    .iter()
                    .map(|(key, value)| format!("  {}: {value}", json!(key)))
                    .collect(),
                Value::Array(all) => all.iter().map(|it| format!("  {it}")).collect(),
                other => return other.to_string(),
            };
            let [open, close] = if value.is_array() { "[]" } else { "{}" }
                .split_at(1)
                .into();
            format!("{open}\n{}\n{close}", lines.join(",\n"))
        };
        let parts = ["plan", "medians", "unit", "runs"];
        let parts = parts.map(|key| {
            format!(
                "{}: {}",
                json!(key),
                lines(json.get(key).unwrap_or(&Value::Null))
            )
        });
        format!("{{\n{}\n}}\n", parts.join(",\n"))
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
        let made = parts.iter().map(|part| Made::from_json(&part["plan"]));
        let made = made.reduce(|one, other| Some(one?.and(other?))).flatten();
        let plan = made.map(|it| it.json());
        Self::from_json(&json!({ "plan": plan, "runs": runs, "unit": units }))
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
        report.made = Made::from_json(&json["plan"]);
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
                } else {
                    self.order_of(work);
                    let unit = units[work].as_str().unwrap_or_default();
                    self.units.insert(work.to_owned(), unit.to_owned());
                    let figures = self.figures.entry((work.to_owned(), variant)).or_default();
                    figures.extend(values(run, round));
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

/// What a run found, by when.
fn values(run: &Value, round: usize) -> Vec<(Take, f64)> {
    let once = run["value"].as_f64().map(|it| (round.into(), it));
    let many = run["values"].as_array().map(Vec::as_slice);
    let many = many.unwrap_or_default().iter().zip(1..);
    let many = many.filter_map(|(value, turn)| Some((Take { round, turn }, value.as_f64()?)));
    once.into_iter().chain(many).collect()
}

#[cfg(test)]
mod tests {
    use super::super::figure::Figure;
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
        assert_eq!(json.as_object().map(Map::len), Some(4));
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
        let text: Value = serde_json::from_str(&report.json_text())?;
        assert_eq!(text, report.json());
        Ok(())
    }

    #[test]
    fn samples_of_a_round_are_one_run_with_a_gap_for_what_failed() -> Result<()> {
        let raw = Variant::RawSameNode;
        let mut report = Report::new(vec![raw.clone()]);
        for (round, turn) in [(1, 1), (1, 3), (2, 1)] {
            let figure = Figure::new("connect_1", "1/s", 1.5);
            report.add(Take { round, turn }, &raw, &[figure]);
        }
        let expected = json!([
            { "round": 1, "work": "connect_1", "variant": "raw_same_node", "values": [1.5, null, 1.5] },
            { "round": 2, "work": "connect_1", "variant": "raw_same_node", "values": [1.5] },
        ]);
        assert_eq!(report.json()["runs"], expected);
        let again = Report::together(&[report.json()])?;
        assert_eq!(again.figures, report.figures);
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
}
