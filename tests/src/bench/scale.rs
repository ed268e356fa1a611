//! What more of something costs: curves for `docs/scale.md`.
//!
//! Verdicts are measured inside of this process, since beside a connection they are nothing; all
//! else is measured on running agents.

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use interceptor_policy::{
    Attempt, Effective, Policy, PolicyMeta, PolicyName, PolicySet, Settings, SpiffeId, Target,
};

use super::curves::{Axis, Chart, Panel};
use super::figure::{Figure, median, to_float};
use super::page::between;
use super::report::Report;

#[path = "../../../interceptor/policy/benches/policies/mod.rs"]
mod policies;

/// Callers of [`verdict`], by the name of what becomes of them.
const CALLERS: [(&str, &str); 2] = [
    ("allowed", "ns/ns-5/sa/caller-3"),
    ("refused", "ns/nowhere/sa/nobody"),
];

/// Nanoseconds of a verdict where so many policies of five rules hold for one workload.
pub(super) fn verdict(count: usize) -> Result<Vec<Figure>> {
    let server = effective(count)?;
    let mut figures = Vec::new();
    for (name, path) in CALLERS {
        let caller: SpiffeId = format!("spiffe://cluster.local/{path}").parse()?;
        let attempt = Attempt {
            source: Some(&caller),
            source_ip: [192, 0, 2, 1].into(),
            destination_ip: [10, 0, 0, 2].into(),
            destination_port: 8080,
        };
        let allowed = server.decide(&attempt).is_allowed();
        ensure!(allowed == (name == "allowed"), "the policies are wrong");
        let taken = nanoseconds(|| drop(black_box(black_box(&server).decide(black_box(&attempt)))));
        figures.push(Figure::new(
            format!("verdict_{name}_ns_{count}"),
            "ns",
            taken.context("no samples")?,
        ));
    }
    Ok(figures)
}

fn effective(count: usize) -> Result<Effective> {
    let mut compiled = Vec::new();
    // The first one denies; the sixth admits the caller.
    for index in 0..count.max(6) {
        let name = PolicyName::new("demo", format!("policy-{index:05}"));
        let spec = policies::spec(index);
        let policy = Policy::compile(name, &PolicyMeta::default(), &spec, &Settings::default());
        let policy = policy.ok().context("a policy does not compile")?;
        compiled.push(policy.value);
    }
    let (labels, ports) = (BTreeMap::new(), BTreeMap::new());
    let set = PolicySet::new(Settings::default(), compiled, Vec::new());
    Ok(set.effective(&Target {
        namespace: "demo",
        labels: &labels,
        ports: &ports,
        services: &[],
    }))
}

/// The median of samples of a thousand calls, for a tenth of a second.
fn nanoseconds(mut call: impl FnMut()) -> Option<f64> {
    let (begun, mut samples) = (Instant::now(), Vec::new());
    while begun.elapsed() < Duration::from_millis(100) {
        let start = Instant::now();
        for _ in 0..1000 {
            call();
        }
        samples.push(start.elapsed().as_secs_f64() * 1e6);
    }
    median(&samples)
}

/// What is drawn: a file and its title, the title of what grows, and what that changes.
const CHARTS: [Chart; 5] = [
    Chart {
        file: "workloads",
        title: "A mesh of more workloads",
        subtitle: "with a Service for ten of them and a policy for twenty-five",
        grows: "workloads",
        axis: Axis::Linear,
        panels: &[
            Panel {
                title: "first load, ms",
                series: &[("", "mesh_load_ms_")],
            },
            Panel {
                title: "the agent’s memory, MiB",
                series: &[("", "mesh_rss_mb_")],
            },
            Panel {
                title: "a policy’s change takes effect after, ms",
                series: &[("", "mesh_policy_ms_")],
            },
            Panel {
                title: "connections per second, with to without",
                series: &[("", "mesh_connect_kept_")],
            },
        ],
        beside: &[Panel {
            title: "error of that, %",
            series: &[("", "mesh_connect_error_")],
        }],
    },
    Chart {
        file: "policies",
        title: "More policies that hold for one workload",
        subtitle: "five rules each; one of ten denies",
        grows: "policies",
        axis: Axis::Logarithmic,
        panels: &[Panel {
            title: "a verdict, ns",
            series: &[
                ("allowed", "verdict_allowed_ns_"),
                ("refused", "verdict_refused_ns_"),
            ],
        }],
        beside: &[],
    },
    Chart {
        file: "connections",
        title: "More open connections between two nodes",
        subtitle: "idle, but for one that is measured",
        grows: "connections",
        axis: Axis::Linear,
        panels: &[
            Panel {
                title: "memory of an agent, MiB",
                series: &[("caller’s", "held_near_mb_"), ("server’s", "held_far_mb_")],
            },
            Panel {
                title: "ping-pong on one more, µs",
                series: &[("median", "held_p50_us_"), ("p99", "held_p99_us_")],
            },
        ],
        beside: &[],
    },
    Chart {
        file: "peers",
        title: "More peers that something was carried to",
        subtitle: "a warm carrier to each, idle",
        grows: "peers",
        axis: Axis::Linear,
        panels: &[
            Panel {
                title: "memory of an agent, MiB",
                series: &[
                    ("caller’s", "peers_near_mb_"),
                    ("server’s", "peers_far_mb_"),
                ],
            },
            Panel {
                title: "CPU of both agents, s per minute",
                series: &[("", "peers_cpu_s_")],
            },
        ],
        beside: &[],
    },
    Chart {
        file: "nodes",
        title: "The same 10,000 workloads on more nodes",
        subtitle: "as an agent sees them that none of them is beside",
        grows: "nodes",
        axis: Axis::Logarithmic,
        panels: &[
            Panel {
                title: "first load, ms",
                series: &[("", "nodes_load_ms_")],
            },
            Panel {
                title: "the agent’s memory, MiB",
                series: &[("", "nodes_rss_mb_")],
            },
        ],
        beside: &[],
    },
];

const MARKERS: [&str; 2] = [
    "<!-- from here on written by `cargo xtask bench -- --scale --plots` -->",
    "<!-- end of what is written -->",
];

/// Draws the curves into `docs/scale/` and writes what was measured into `docs/scale.md`.
///
/// # Errors
///
/// Fails if a file cannot be written, or if the page has lost its markers.
pub fn write(report: &Report, docs: &Path) -> Result<()> {
    fs::create_dir_all(docs.join("scale"))?;
    let mut parts = Vec::new();
    for chart in &CHARTS {
        let Some(svg) = chart.draw(report) else {
            continue;
        };
        fs::write(docs.join(format!("scale/{}.svg", chart.file)), svg)?;
        let image = format!("![{}](scale/{}.svg)\n", chart.title, chart.file);
        parts.extend([image, chart.table(report)]);
    }
    for note in report.notes() {
        parts.push(format!("- {note}"));
    }
    parts.push(format!("- rounds: {}\n", report.rounds_taken()));
    let file = docs.join("scale.md");
    let page = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let page = between(&page, MARKERS, &parts.join("\n"))
        .with_context(|| format!("{} has lost its markers", file.display()))?;
    fs::write(&file, page).with_context(|| format!("write {}", file.display()))
}

/// Memory of both agents while so many connections are open, and latency of one more.
pub(super) fn held(count: usize, sizes: [f64; 2], latencies: [Option<f64>; 2]) -> Vec<Figure> {
    let [near, far] = sizes;
    let mut figures = vec![
        Figure::new(format!("held_near_mb_{count}"), "MiB", near),
        Figure::new(format!("held_far_mb_{count}"), "MiB", far),
    ];
    for (quantile, value) in ["p50", "p99"].into_iter().zip(latencies) {
        let work = format!("held_{quantile}_us_{count}");
        figures.extend(value.map(|value| Figure::new(work, "µs", value)));
    }
    figures
}

/// The number at the end of a work's name.
pub(super) fn size_of(work: &str, prefix: &str) -> Option<f64> {
    let count: u64 = work.strip_prefix(prefix)?.parse().ok()?;
    Some(to_float(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_measured_among_any_number_of_policies() -> Result<()> {
        for count in [1, 30] {
            let figures = verdict(count)?;
            let works: Vec<&str> = figures.iter().map(|it| it.work.as_str()).collect();
            assert_eq!(works.len(), 2);
            assert_eq!(
                size_of(works[0], "verdict_allowed_ns_"),
                Some(to_float(u64::try_from(count)?))
            );
        }
        Ok(())
    }
}
