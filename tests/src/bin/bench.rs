//! `cargo xtask bench`: what the agents cost, against raw TCP and against peers in the same run.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use interceptor_tests::bench::{Kind, Plan, Report, Rig, write_plots};
use interceptor_tests::interruption::Interruption;
use interceptor_tests::settings;

/// Measures throughput, latency, connections per second, memory and CPU time between two simulated
/// nodes: raw TCP, captured traffic, and peers, interleaved, medians of several rounds. Needs root.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    /// Shorter samples, less churn: under two minutes.
    #[arg(long)]
    quick: bool,
    /// Rounds that make a median.
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Works to measure, by the beginning of their names, such as `throughput_up` or `connect_64`.
    #[arg(long, value_name = "WORK")]
    only: Vec<String>,
    /// One more peer: a command for the shell that is run in the client's and in the server's pod.
    /// `ROLE` is `client` or `server`; it carries from `LISTEN` to `CONNECT` with `CERTIFICATE`,
    /// `KEY` and `CA` (PEM files), on `WORKERS` threads, and keeps its files in `FOLDER`.
    #[arg(long, value_name = "NAME=COMMAND", value_parser = peer)]
    peer: Vec<(String, Kind)>,
    /// Do not measure Envoy and haproxy, even if they are there.
    #[arg(long)]
    no_peers: bool,
    /// Also write medians and single results to a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw `docs/bench/*.svg`.
    #[arg(long)]
    plots: bool,
}

fn peer(text: &str) -> Result<(String, Kind)> {
    let (name, command) = text.split_once('=').context("not NAME=COMMAND")?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let taken = [
        "raw",
        "raw_same_node",
        "same_node",
        "cross_node",
        "envoy",
        "haproxy",
        "here",
    ];
    if name.is_empty() || !name.chars().all(plain) || taken.contains(&name) {
        bail!("a name of a-z, 0-9 and _ that no other variant has is wanted");
    }
    Ok((name.to_owned(), Kind::Command(command.to_owned())))
}

fn main() -> Result<ExitCode> {
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
        plan.only(&arguments.only);
    }
    let (mut peers, missing) = found(arguments.no_peers);
    peers.extend(arguments.peer);
    let interruption = Interruption::watch()?;
    let rig = Rig::new(&mut plan, &peers)?;
    let mut report = Report::new(rig.variants());
    for note in missing.iter().chain(rig.notes()) {
        report.note(note);
    }
    run(&rig, &plan, &mut report, &interruption)?;
    drop(rig);
    report.conclude();
    write!(io::stdout(), "{}", report.table())?;
    if let Some(file) = arguments.json {
        fs::write(&file, format!("{:#}\n", report.json()))
            .with_context(|| format!("write {}", file.display()))?;
    }
    if arguments.plots {
        write_plots(&report, &settings::repository().join("docs/bench"))?;
    }
    Ok(ExitCode::from(u8::from(report.own_failed())))
}

/// The usual peers that are there, and what is to be said of the others.
fn found(none: bool) -> (Vec<(String, Kind)>, Vec<String>) {
    let (mut peers, mut missing) = (Vec::new(), Vec::new());
    if none {
        return (peers, vec!["envoy, haproxy skipped: --no-peers".to_owned()]);
    }
    match settings::envoy_binary() {
        Ok(_) => peers.push(("envoy".to_owned(), Kind::Envoy)),
        Err(error) => missing.push(format!("envoy skipped: {error:#}")),
    }
    if settings::is_installed("haproxy") {
        peers.push(("haproxy".to_owned(), Kind::Haproxy));
    } else {
        missing.push("haproxy skipped: not installed".to_owned());
    }
    (peers, missing)
}

fn run(rig: &Rig, plan: &Plan, report: &mut Report, interruption: &Interruption) -> Result<()> {
    let mut variants = rig.variants();
    let steps: usize = (1..=plan.rounds).map(|it| plan.steps(it).count()).sum();
    let total = steps * variants.len();
    let mut done = 0;
    for round in 1..=plan.rounds {
        for step in plan.steps(round) {
            for variant in &variants {
                let what = format!("round {round}/{} {step} {variant}", plan.rounds);
                progress(done, total, &what)?;
                match rig.measure(step, variant) {
                    Ok(figures) => report.add(round, variant, &figures),
                    // Ctrl-C at a terminal ends the agents, too: what failed says nothing.
                    Err(_) if interruption.came() => {}
                    Err(error) => report.fail(round, &step.to_string(), variant, &error),
                }
                interruption.check()?;
                done += 1;
            }
        }
        // Nobody always comes after the same one.
        variants.rotate_left(1);
    }
    progress(total, total, "")
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
