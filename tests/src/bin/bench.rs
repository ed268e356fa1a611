//! `cargo xtask bench`: what the agents cost, against raw TCP in the same run.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;
use interceptor_tests::bench::{Plan, Report, Rig, Variant};

/// Measures throughput, latency and connections per second between two simulated nodes: raw TCP
/// and captured traffic over mTLS, interleaved, medians of several rounds.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    /// Shorter samples and fewer rounds: under two minutes.
    #[arg(long)]
    quick: bool,
    /// Rounds that make a median.
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Works to measure, by the beginning of their names, such as `throughput_up` or `connect_64`.
    #[arg(long, value_name = "WORK")]
    only: Vec<String>,
    /// Also write medians and single results to a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut plan = if arguments.quick {
        Plan::quick()
    } else {
        Plan::full()
    };
    if let Some(rounds) = arguments.rounds {
        plan.rounds = rounds.max(1);
    }
    if !arguments.only.is_empty() {
        plan.works.retain(|work| {
            arguments
                .only
                .iter()
                .any(|it| work.to_string().starts_with(it))
        });
    }
    let rig = Rig::new(&plan)?;
    let report = run(&rig, &plan)?;
    drop(rig);
    write!(io::stdout(), "{}", report.table())?;
    if let Some(file) = arguments.json {
        fs::write(&file, format!("{:#}\n", report.json()))
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

fn run(rig: &Rig, plan: &Plan) -> Result<Report> {
    let mut report = Report::default();
    report.add(0, Variant::CrossNode, &rig.idle()?);
    let total = plan.rounds * plan.works.len() * Variant::ALL.len();
    let mut done = 0;
    for round in 1..=plan.rounds {
        for work in &plan.works {
            for variant in Variant::ALL {
                progress(
                    done,
                    total,
                    &format!("round {round}/{} {work} {variant}", plan.rounds),
                )?;
                report.add(round, variant, &rig.sample(*work, variant, plan)?);
                done += 1;
            }
        }
    }
    progress(total, total, "")?;
    Ok(report)
}

/// One line on a terminal that is written over; nothing elsewhere.
fn progress(done: usize, total: usize, what: &str) -> Result<()> {
    const WIDTH: usize = 30;
    let mut terminal = io::stderr();
    if !terminal.is_terminal() {
        return Ok(());
    }
    if done == total {
        return Ok(write!(terminal, "\r\x1b[K")?);
    }
    let filled = done * WIDTH / total.max(1);
    write!(
        terminal,
        "\r\x1b[K[{}{}] {what}",
        "█".repeat(filled),
        "·".repeat(WIDTH - filled)
    )?;
    Ok(terminal.flush()?)
}
