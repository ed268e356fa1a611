//! Medians, as a table for people and as JSON for comparisons.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::rig::{Figure, Variant};

/// All figures of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Works in the order in which they were first measured.
    order: Vec<String>,
    units: BTreeMap<String, &'static str>,
    figures: BTreeMap<(String, Variant), Vec<f64>>,
    runs: Vec<Value>,
}

impl Report {
    /// Adds the figures of one sample.
    pub fn add(&mut self, round: usize, variant: Variant, figures: &[Figure]) {
        for Figure { work, unit, value } in figures {
            if !self.order.contains(work) {
                self.order.push(work.clone());
            }
            self.units.insert(work.clone(), unit);
            self.figures
                .entry((work.clone(), variant))
                .or_default()
                .push(*value);
            self.runs.push(
                json!({ "round": round, "work": work, "variant": variant.to_string(), "value": value }),
            );
        }
    }

    /// The median of a work over a variant.
    pub fn median(&self, work: &str, variant: Variant) -> Option<f64> {
        let mut values = self.figures.get(&(work.to_owned(), variant))?.clone();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        if values.len() % 2 == 1 {
            return values.get(middle).copied();
        }
        Some(f64::midpoint(
            *values.get(middle.checked_sub(1)?)?,
            *values.get(middle)?,
        ))
    }

    /// `{"medians": {WORK: {VARIANT: number}}, "unit": {WORK: text}, "runs": […]}`.
    pub fn json(&self) -> Value {
        let mut medians = serde_json::Map::new();
        for work in &self.order {
            let mut variants = serde_json::Map::new();
            for variant in Variant::ALL {
                if let Some(median) = self.median(work, variant) {
                    variants.insert(variant.to_string(), json!(median));
                }
            }
            medians.insert(work.clone(), Value::Object(variants));
        }
        json!({ "medians": medians, "unit": self.units, "runs": self.runs })
    }

    /// A table: a row per work, a column per variant, and what part of raw the agents reach.
    pub fn table(&self) -> String {
        let mut table = format!(
            "{:<24}{:>7}{:>12}{:>13}{:>9}\n",
            "work", "unit", "raw", "cross-node", "ratio"
        );
        for work in &self.order {
            let unit = self.units.get(work).copied().unwrap_or_default();
            let [raw, cross] = Variant::ALL.map(|variant| self.median(work, variant));
            let ratio = raw
                .zip(cross)
                .map_or(String::new(), |(raw, cross)| format!("{:.2}", cross / raw));
            // Writing to a String cannot fail.
            writeln!(
                table,
                "{work:<24}{unit:>7}{:>12}{:>13}{ratio:>9}",
                number(raw),
                number(cross)
            )
            .unwrap_or_default();
        }
        table
    }
}

/// Three significant places, as far as noise allows to say more.
fn number(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        for (round, (raw, cross)) in [(30.0, 9.0), (36.0, 12.0), (33.0, 10.0)]
            .into_iter()
            .enumerate()
        {
            let figure = |value| Figure {
                work: "throughput_up_4".to_owned(),
                unit: "Gbit/s",
                value,
            };
            report.add(round, Variant::Raw, &[figure(raw)]);
            report.add(round, Variant::CrossNode, &[figure(cross)]);
        }
        report
    }

    #[test]
    fn the_json_has_medians_by_work_and_variant() {
        let json = report().json();
        assert_eq!(
            json["medians"]["throughput_up_4"],
            json!({ "raw": 33.0, "cross_node": 10.0 })
        );
        assert_eq!(json["unit"]["throughput_up_4"], "Gbit/s");
        assert_eq!(json["runs"].as_array().map(Vec::len), Some(6));
    }

    #[test]
    fn the_table_has_the_ratio_to_raw() {
        let expected = "work                       unit         raw   cross-node    ratio\n\
                        throughput_up_4          Gbit/s        33.0         10.0     0.30\n";
        assert_eq!(report().table(), expected);
    }
}
