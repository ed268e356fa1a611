//! The report as bar charts: SVG by hand, readable on light and on dark ground.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::figure::to_float;
use super::report::Report;

const WIDTH: usize = 900;
const LABELS: usize = 250;
const BAR: usize = 14;
const GAP: usize = 12;
const TOP: usize = 44;
/// By variant; further peers begin again.
const COLORS: [&str; 6] = [
    "#8a8f98", "#4c9f70", "#2f6fde", "#d9822b", "#a663cc", "#c23030",
];

/// A page of bars: a file's name, its title, and how the names of its works begin.
type Chart = (&'static str, &'static str, &'static [&'static str]);

const CHARTS: [Chart; 6] = [
    (
        "throughput",
        "Throughput, Gbit/s: more is better",
        &["throughput"],
    ),
    (
        "requests",
        "Requests per second: more is better",
        &["pingpong_1", "pingpong_6", "http_6"],
    ),
    (
        "connections",
        "Connections per second: more is better",
        &[
            "connect_1",
            "connect_2",
            "connect_6",
            "churn_first",
            "churn_last",
        ],
    ),
    (
        "latency",
        "Latency, µs: less is better",
        &["pingpong_p", "http_p", "connect_p"],
    ),
    ("cost", "CPU seconds: less is better", &["cpu_s"]),
    (
        "memory",
        "Memory of an agent, MiB, and KiB per idle connection: less is better",
        &["rss_"],
    ),
];

/// Writes a file per group of works that was measured.
///
/// # Errors
///
/// Fails if one cannot be written.
pub fn write(report: &Report, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for (name, title, prefixes) in CHARTS {
        let works: Vec<&String> = report
            .works()
            .iter()
            .filter(|work| prefixes.iter().any(|prefix| work.starts_with(prefix)))
            .filter(|work| report.unit(work) != "last/first")
            .collect();
        if !works.is_empty() {
            let file = folder.join(format!("{name}.svg"));
            fs::write(&file, chart(report, title, &works))
                .with_context(|| format!("write {}", file.display()))?;
        }
    }
    Ok(())
}

/// One group of bars per work, each scaled to its own longest bar.
fn chart(report: &Report, title: &str, works: &[&String]) -> String {
    let mut bars = String::new();
    let mut y = TOP;
    for work in works {
        let values: Vec<_> = report
            .variants()
            .iter()
            .zip(COLORS.iter().cycle())
            .filter_map(|(variant, color)| Some((variant, color, report.median(work, variant)?)))
            .collect();
        let most = values
            .iter()
            .map(|it| it.2)
            .fold(f64::MIN_POSITIVE, f64::max);
        let middle = y + BAR * values.len() / 2 + 4;
        line(
            &mut bars,
            format_args!("<text x=\"8\" y=\"{middle}\">{work}</text>"),
        );
        for (variant, color, value) in values {
            let length = value / most * to_float(420);
            let text = y + 11;
            let end = to_float(250) + length + 6.0;
            line(
                &mut bars,
                format_args!(
                    "<rect x=\"{LABELS}\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\" fill=\"{color}\"/>\
                 <text x=\"{end:.1}\" y=\"{text}\">{value:.2} {variant}</text>",
                    BAR - 2
                ),
            );
            y += BAR;
        }
        y += GAP;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" \
         font-family=\"sans-serif\" font-size=\"11\" fill=\"#777\">\n\
         <text x=\"8\" y=\"24\" font-size=\"16\">{title}</text>\n{bars}</svg>\n"
    )
}

fn line(bars: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    writeln!(bars, "{text}").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::chart;

    #[test]
    fn bars_are_scaled_to_the_longest_of_their_work() {
        let report = super::super::tests::report();
        let svg = chart(&report, "Throughput", &[&"throughput_up_4".to_owned()]);
        assert!(svg.contains("width=\"420.0\""), "{svg}");
        assert!(svg.contains("width=\"127.3\""), "{svg}");
        assert!(svg.contains(">33.00 raw</text>"), "{svg}");
        assert_eq!(svg.matches("<rect").count(), 4);
    }
}
