//! The report as a table on the terminal.

use std::fmt::Write as _;

use super::figure::Variant;
use super::report::Report;

impl Report {
    /// A row per work, a column per variant with its ratio to raw TCP, and what the agents across
    /// nodes reach of the best peer.
    pub fn table(&self) -> String {
        let mut table = format!("{:<26}{:>11}", "work", "unit");
        for variant in self.variants() {
            pad(&mut table, &variant.to_string());
        }
        pad(&mut table, "to best peer");
        for work in self.works() {
            table.push('\n');
            let unit = self.unit(work);
            // Writing to a String cannot fail.
            write!(table, "{work:<26}{unit:>11}").unwrap_or_default();
            for variant in self.variants() {
                pad(&mut table, &self.cell(work, variant));
            }
            let best = self.to_best_peer(work);
            pad(&mut table, &best.map_or("–".to_owned(), |it| times(it.1)));
        }
        table.push('\n');
        for note in self.notes() {
            writeln!(table, "- {note}").unwrap_or_default();
        }
        table
    }

    /// The median, with its ratio to raw TCP.
    pub(super) fn cell(&self, work: &str, variant: &Variant) -> String {
        let Some(value) = self.median(work, variant) else {
            let failed = self.has_failed(work, variant);
            return if failed { "failed" } else { "–" }.to_owned();
        };
        match self.ratio(work, variant, &variant.baseline()) {
            Some(ratio) if !variant.is_raw() => {
                format!("{} ({})", number(value), times(ratio))
            }
            _ => number(value),
        }
    }
}

fn pad(table: &mut String, cell: &str) {
    write!(table, "{cell:>18}").unwrap_or_default();
}

/// A ratio.
pub(super) fn times(ratio: f64) -> String {
    format!("{}×", number(ratio))
}

/// Three significant places: noise does not allow to say more.
pub(super) fn number(value: f64) -> String {
    match value {
        value if value.is_infinite() => "∞".to_owned(),
        value if value >= 10_000.0 => {
            let digits = format!("{value:.0}");
            let (thousands, rest) = digits.split_at(digits.len() - 3);
            format!("{thousands},{rest}")
        }
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_has_the_ratios_and_what_is_to_be_known() {
        let mut report = super::super::tests::report();
        report.note("congestion control: cubic");
        let lines = [
            "work                             unit               raw        cross_node             envoy           haproxy      to best peer",
            "throughput_up_4                Gbit/s              33.0      10.0 (0.30×)      11.0 (0.33×)      5.00 (0.17×)             0.91×",
            "rss_mb_idle                       MiB                 –              14.0              60.0              15.0             0.93×",
            "- congestion control: cubic",
            "",
        ];
        assert_eq!(report.table(), lines.join("\n"));
    }
}
