//! The report as bar charts, one look each: what is measured, ours first, and how it compares.
//!
//! Each group of bars has a scale of its own and leaves raw TCP to a number: beside it nobody else's
//! bars could be told apart.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::figure::{Variant, more_is_better, to_float};
use super::report::Report;
use super::svg::{Anchor, Svg};
use super::table::{number, times};

const WIDTH: f64 = 860.0;
/// Where bars begin, and the length of the longest.
const BARS: (f64, f64) = (330.0, 300.0);
const BAR: f64 = 18.0;
const TOP: f64 = 72.0;

/// A page of bars: a file's name, its title, and the works on it with how they are called there;
/// `*` is a number.
struct Chart {
    file: &'static str,
    title: &'static str,
    works: &'static [(&'static str, &'static str)],
}

const CHARTS: [Chart; 6] = [
    Chart {
        file: "throughput",
        title: "Throughput between two nodes",
        works: &[
            ("throughput_up_*", "* streams up"),
            ("throughput_down_*", "* streams down"),
        ],
    },
    Chart {
        file: "requests",
        title: "Requests per second between two nodes",
        works: &[
            ("pingpong_*", "64 bytes, * connections"),
            ("http_*", "HTTP/1.1, * connections"),
        ],
    },
    Chart {
        file: "connections",
        title: "New connections per second between two nodes",
        works: &[
            ("connect_*", "* in flight"),
            ("churn_first", "churn, first window"),
            ("churn_last", "churn, last window"),
        ],
    },
    Chart {
        file: "latency",
        title: "Latency between two nodes",
        works: &[
            ("pingpong_p50_us_*", "64 bytes, *: median"),
            ("pingpong_p99_us_*", "64 bytes, *: p99"),
            ("connect_p50_us_*", "connect, *: median"),
            ("connect_p99_us_*", "connect, *: p99"),
            ("http_p50_us_*", "HTTP, *: median"),
            ("http_p99_us_*", "HTTP, *: p99"),
        ],
    },
    Chart {
        file: "cost",
        title: "CPU time of both ends' agents",
        works: &[
            ("cpu_s_per_gb", "GB, 4 streams up"),
            ("cpu_s_per_gb_down", "GB, 4 streams down"),
            ("cpu_s_per_10k_requests", "10,000 requests"),
            ("cpu_s_per_10k_http_*", "10,000 HTTP requests"),
            ("cpu_s_per_10k_connections", "10,000 connections"),
        ],
    },
    Chart {
        file: "memory",
        title: "Memory of the larger end's agent",
        works: &[
            ("rss_mb_idle", "idle"),
            ("rss_mb_*", "* idle connections"),
            ("rss_kb_per_connection_*", "each of * connections"),
        ],
    },
];

/// Writes a file per group of works that was measured.
///
/// # Errors
///
/// Fails if one cannot be written.
pub(super) fn write(report: &Report, folder: &Path) -> Result<Vec<&'static str>> {
    fs::create_dir_all(folder)?;
    let mut drawn = vec![
        ("overview", overview(report)),
        ("same-node", same_node(report)),
    ];
    drawn.extend(CHARTS.iter().map(|it| (it.file, it.draw(report))));
    let mut files = Vec::new();
    for (name, svg) in drawn {
        let Some(svg) = svg else { continue };
        let file = folder.join(format!("{name}.svg"));
        fs::write(&file, svg).with_context(|| format!("write {}", file.display()))?;
        files.push(name);
    }
    Ok(files)
}

/// What a work is called by a pattern, if it is meant.
fn called(work: &str, (pattern, name): (&str, &str)) -> Option<String> {
    let Some(front) = pattern.strip_suffix('*') else {
        return (work == pattern).then(|| name.to_owned());
    };
    let count = work.strip_prefix(front)?;
    let is_number = count.bytes().all(|byte| byte.is_ascii_digit());
    let name = name.replace('*', count);
    let one = name
        .replace("1 streams", "1 stream")
        .replace("1 connections", "1 connection");
    is_number.then_some(if count == "1" { one } else { name })
}

impl Chart {
    fn draw(&self, report: &Report) -> Option<String> {
        let works: Vec<(&str, String)> = self
            .works
            .iter()
            .flat_map(|pattern| {
                let all = report.works().iter();
                all.filter_map(|work| Some((work.as_str(), called(work, *pattern)?)))
            })
            .collect();
        let more = more_is_better(report.unit(works.first()?.0));
        let better = if more { "longer" } else { "shorter" };
        let subtitle = format!(
            "{better} is better; bold: times the best peer; medians of {} rounds",
            report.rounds_taken()
        );
        let mut svg = Svg::new(WIDTH, self.title, &subtitle);
        let mut y = TOP;
        for (work, name) in works {
            y = group(&mut svg, report, work, &name, y);
        }
        Some(svg.finish(y))
    }
}

/// The bars of a work. Returns where the next one begins.
fn group(svg: &mut Svg, report: &Report, work: &str, name: &str, mut y: f64) -> f64 {
    let unit = report.unit(work);
    let bars: Vec<(usize, &Variant, f64)> = (1..)
        .zip(report.variants().iter().filter(|it| is_across(it)))
        .filter_map(|(color, variant)| Some((color, variant, report.median(work, variant)?)))
        .collect();
    let most = bars
        .iter()
        .map(|bar| bar.2)
        .fold(f64::MIN_POSITIVE, f64::max);
    svg.text((16.0, y + 13.0), Anchor::Start, "b", name);
    if let Some(raw) = report.median(work, &Variant::Raw) {
        let raw = format!("raw TCP {} {unit}", number(raw));
        svg.text((16.0, y + 30.0), Anchor::Start, "m", &raw);
    }
    let end = y + (to_float(bars.len().try_into().unwrap_or(0)) * BAR).max(2.0 * BAR);
    for (color, variant, value) in bars {
        let length = (value / most * BARS.1).max(1.0);
        let middle = y + 13.0;
        svg.text((BARS.0 - 8.0, middle), Anchor::End, "m", &display(variant));
        svg.bar((BARS.0, y + 1.0), (length, BAR - 3.0), color);
        let text = format!("{} {unit}", number(value));
        svg.text((BARS.0 + length + 6.0, middle), Anchor::Start, "", &text);
        if let Some((_, ratio)) = report.to_best_peer(work).filter(|_| variant.is_own()) {
            svg.text((WIDTH - 16.0, middle), Anchor::End, "b", &times(ratio));
        }
        y += BAR;
    }
    end + 14.0
}

/// Whether it carries between nodes, with something in between.
const fn is_across(variant: &Variant) -> bool {
    matches!(variant, Variant::CrossNode | Variant::Peer(_))
}

fn display(variant: &Variant) -> String {
    match variant {
        Variant::CrossNode => "interceptor".to_owned(),
        other => other.to_string(),
    }
}

/// How many times better than the best peer, for every work that has something to reach.
fn overview(report: &Report) -> Option<String> {
    let rows: Vec<(String, f64)> = report
        .verdicts()
        .iter()
        .filter_map(|it| Some((it.what.clone(), it.advantage()?)))
        .collect();
    let subtitle = "times better than the best peer of the same run: right of the line is better";
    ratios(report, "interceptor against the best peer", subtitle, &rows)
}

/// What is left of raw TCP inside of a node.
fn same_node(report: &Report) -> Option<String> {
    let rows: Vec<(String, f64)> = report
        .same_node_ratios()
        .into_iter()
        .map(|(work, ratio)| (work.to_owned(), ratio))
        .collect();
    let subtitle = "times raw TCP between pods of one node: at the line is as good";
    ratios(report, "Connections inside of a node", subtitle, &rows)
}

/// Bars of ratios with a line at 1.
fn ratios(report: &Report, title: &str, subtitle: &str, rows: &[(String, f64)]) -> Option<String> {
    let most = rows.iter().map(|row| row.1).reduce(f64::max)?.max(1.2);
    let rounds = report.rounds_taken();
    let subtitle = format!("{subtitle}; medians of {rounds} rounds");
    let mut svg = Svg::new(WIDTH, title, &subtitle);
    let (left, width) = (BARS.0 - 70.0, BARS.1 + 150.0);
    let mut y = TOP;
    for (what, ratio) in rows {
        let (length, middle) = (ratio / most * width, y + 13.0);
        svg.text((left - 8.0, middle), Anchor::End, "", what);
        svg.bar(
            (left, y + 1.0),
            (length, BAR - 3.0),
            usize::from(*ratio >= 0.95),
        );
        svg.text(
            (left + length + 6.0, middle),
            Anchor::Start,
            "b",
            &times(*ratio),
        );
        y += BAR;
    }
    let one = left + width / most;
    svg.rule((one, TOP - 6.0), (one, y + 4.0), "t");
    Some(svg.finish(y + 16.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_scaled_to_the_longest_of_their_work_without_raw_tcp() {
        let report = super::super::tests::report();
        let svg = CHARTS[0].draw(&report).unwrap();
        assert!(svg.contains("raw TCP 33.0 Gbit/s"), "{svg}");
        // Ours, Envoy's, haproxy's.
        for width in ["272.7", "300.0", "136.4"] {
            assert!(svg.contains(&format!("width=\"{width}\"")), "{svg}");
        }
        assert!(svg.contains("class=\"b\">0.91×</text>"), "{svg}");
        assert_eq!(svg.matches("<rect").count(), 4);
    }

    #[test]
    fn what_was_not_measured_is_not_drawn() {
        let report = super::super::tests::report();
        assert_eq!(CHARTS[2].draw(&report), None);
        assert_eq!(same_node(&report), None);
    }

    #[test]
    fn works_are_called_by_what_they_do() {
        let pattern = CHARTS[0].works[0];
        let name = |work| called(work, pattern);
        assert_eq!(name("throughput_up_1").as_deref(), Some("1 stream up"));
        assert_eq!(name("throughput_up_16").as_deref(), Some("16 streams up"));
        assert_eq!(name("throughput_down_16"), None);
        assert_eq!(called("pingpong_p50_us_1", CHARTS[1].works[0]), None);
    }
}
