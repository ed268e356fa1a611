//! `cargo xtask bench`: what the agents cost, against raw TCP and against peers in the same run.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use interceptor_tests::bench::{
    Carriage, ENVOY_2, KNOWN_TO, Kind, Made, NGINX, Plan, Report, Rig, Turn, Variant,
    has_nginx_stream, keep_all, write_page, write_scale,
};
use interceptor_tests::interruption::Interruption;
use interceptor_tests::settings;
use serde_json::Value;

/// Measures throughput, latency, connections per second, memory and CPU time between two simulated
/// nodes: raw TCP, captured traffic, and peers, interleaved, medians of several rounds. Needs root.
#[derive(Debug, Parser)]
#[command(name = "bench")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches of a command line"
)]
struct Arguments {
    /// A look in two minutes: short samples, no churn, of memory only the agents'.
    #[arg(long)]
    quick: bool,
    /// Rounds that make a median.
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Works to measure, by their names or how those begin, such as `connect_64` or `throughput_up`.
    #[arg(long, value_name = "WORK")]
    only: Vec<String>,
    /// Variants to measure, such as `raw_same_node` and `same_node`; all without this.
    #[arg(long, value_name = "VARIANT")]
    variant: Vec<String>,
    /// One more peer: a command for the shell that is run in the client's and in the server's pod.
    /// `ROLE` is `client` or `server`; it carries from `LISTEN` to `CONNECT` with `CERTIFICATE`,
    /// `KEY` and `CA` (PEM files), on `WORKERS` threads, and keeps its files in `FOLDER`.
    #[arg(long, value_name = "NAME=COMMAND", value_parser = peer)]
    peer: Vec<(String, Kind)>,
    /// Do not measure Envoy, haproxy and nginx, even if they are there.
    #[arg(long)]
    no_peers: bool,
    /// Also write medians, single results and how they were made to a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw `docs/bench/*.svg` and write the results into `docs/bench/README.md`.
    #[arg(long)]
    plots: bool,
    /// Measure nothing, but show, judge and plot what an earlier run wrote with `--json`, or what
    /// several did that each measured a part.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "rounds", "only", "variant", "json"])]
    from: Vec<PathBuf>,
    /// Measure what more workloads, policies, connections, peers and nodes cost; `--plots`
    /// then draws `docs/scale/*.svg` and writes the results into `docs/scale.md`.
    #[arg(long, conflicts_with = "quick")]
    scale: bool,
    /// Exit with 1 if something is not what it must be, or was not measured; not for machines that
    /// have other work.
    #[arg(long)]
    check: bool,
    /// Be the application that keeps idle connections.
    #[arg(long, hide = true)]
    keep: bool,
}

fn peer(text: &str) -> Result<(String, Kind)> {
    let (name, command) = text.split_once('=').context("not NAME=COMMAND")?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let taken = [
        "raw",
        "raw_same_node",
        "control_same_node",
        "unmeshed_same_node",
        "same_node",
        "cross_node",
        "envoy",
        "envoy_tls",
        ENVOY_2,
        "haproxy",
        NGINX,
        "here",
        "endpoint",
        "unmeshed",
    ];
    if name.is_empty() || !name.chars().all(plain) || taken.contains(&name) {
        bail!("a name of a-z, 0-9 and _ that no other variant has is wanted");
    }
    Ok((name.to_owned(), Kind::Command(command.to_owned())))
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.keep {
        keep_all()?;
    }
    let report = if arguments.from.is_empty() {
        measured(&arguments)?
    } else {
        earlier(&arguments.from)?
    };
    write!(io::stdout(), "{}", report.table())?;
    if !arguments.scale {
        write!(io::stdout(), "\n{}", report.verdict_table())?;
    }
    let docs = settings::repository().join("docs");
    if arguments.plots && arguments.scale {
        write_scale(&report, &docs)?;
    } else if arguments.plots {
        write_page(&report, &docs.join("bench"))?;
    }
    let missed = arguments.check && !report.has_reached_all();
    Ok(ExitCode::from(u8::from(report.own_failed() || missed)))
}

fn earlier(files: &[PathBuf]) -> Result<Report> {
    let read = |file: &PathBuf| {
        let text = fs::read(file).with_context(|| format!("read {}", file.display()))?;
        let json: Value = serde_json::from_slice(&text)
            .with_context(|| format!("{} is no result of a benchmark", file.display()))?;
        Ok(json)
    };
    let parts = files.iter().map(read).collect::<Result<Vec<_>>>()?;
    Report::together(&parts).context("these are no results of a benchmark")
}

fn measured(arguments: &Arguments) -> Result<Report> {
    let mut plan = if arguments.quick {
        Plan::quick()
    } else if arguments.scale {
        Plan::scale()
    } else {
        Plan::full()
    };
    if let Some(rounds) = arguments.rounds {
        plan.rounds = rounds.max(1);
    }
    if !arguments.only.is_empty() {
        plan.only(&arguments.only);
    }
    if plan.is_empty() {
        bail!(
            "none of these works is in this plan: {}",
            arguments.only.join(", ")
        );
    }
    let mut report = Report::default();
    let begun = Instant::now();
    let mut peers = found(arguments, &mut report);
    peers.extend(arguments.peer.iter().cloned());
    let interruption = Interruption::watch()?;
    let wanted = |variant: &Variant| {
        if arguments.variant.is_empty() {
            !arguments.quick || !variant.is_beside()
        } else {
            arguments.variant.contains(&variant.to_string())
        }
    };
    let mut rig = Rig::new(&mut plan, &peers, &wanted, &mut report)?;
    if rig.variants().is_empty() {
        bail!(
            "none of these variants is there: {}",
            arguments.variant.join(", ")
        );
    }
    let variants = rig.variants();
    let only = [arguments.only.as_slice(), &arguments.variant].concat();
    let mut made = Made::new(&plan, &variants, &only);
    let estimate = plan.estimate(&variants);
    report.measure(variants);
    let rounds = plan.rounds;
    writeln!(io::stderr(), "{rounds} rounds, {}", about(estimate))?;
    let mut keep = |report: &mut Report| {
        made.took(begun.elapsed());
        report.made(made.clone());
        match &arguments.json {
            Some(file) => fs::write(file, report.json_text())
                .with_context(|| format!("write {}", file.display())),
            None => Ok(()),
        }
    };
    for round in 1..=plan.rounds {
        let turns = plan.turns(round, &rig.variants());
        take(&mut rig, &turns, &mut report, &interruption)?;
        if interruption.came() {
            report.note(&format!("interrupted in round {round} of {}", plan.rounds));
            break;
        }
        // What ends this program later does not take it away.
        keep(&mut report)?;
    }
    take_more(&mut rig, &plan, &mut report, &interruption)?;
    drop(rig);
    report.conclude();
    keep(&mut report)?;
    Ok(report)
}

fn about(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("about {}:{:02} minutes", seconds / 60, seconds % 60)
}

/// The usual peers that are there; the report says which are not.
///
/// Everybody has as many threads as by default. Envoy with two has its turn in a full run: what is
/// compared is the better of both.
fn found(arguments: &Arguments, report: &mut Report) -> Vec<(String, Kind)> {
    let mut peers = Vec::new();
    if arguments.no_peers || arguments.scale {
        report.note("without peers, as asked");
        return peers;
    }
    let envoy = |carriage, workers| Kind::Envoy { carriage, workers };
    match settings::envoy_binary() {
        Ok(_) => {
            peers.push(("envoy".to_owned(), envoy(Carriage::Hbone, None)));
            peers.push(("envoy_tls".to_owned(), envoy(Carriage::Plain, None)));
            if !arguments.quick {
                peers.push((ENVOY_2.to_owned(), envoy(Carriage::Hbone, Some(2))));
            }
        }
        Err(error) => report.lack(Variant::Peer("envoy".to_owned()), &format!("{error:#}")),
    }
    if settings::is_installed("haproxy") {
        peers.push(("haproxy".to_owned(), Kind::Haproxy));
    } else {
        let install = "not installed (`cargo xtask --install-tools bench` does it)";
        report.lack(Variant::Peer("haproxy".to_owned()), install);
    }
    if !arguments.quick && has_nginx_stream() {
        peers.push((NGINX.to_owned(), Kind::Nginx));
    } else if !arguments.quick {
        let install = "not installed: nginx with its module (Debian's libnginx-mod-stream)";
        report.lack(Variant::Peer(NGINX.to_owned()), install);
    }
    let wanted = |name: &String| arguments.variant.is_empty() || arguments.variant.contains(name);
    peers.retain(|(name, _)| wanted(name));
    peers
}

/// More pairs inside of a node of what is not known well enough after all rounds, as long as the plan
/// allows.
fn take_more(
    rig: &mut Rig,
    plan: &Plan,
    report: &mut Report,
    interruption: &Interruption,
) -> Result<()> {
    let begun = Instant::now();
    for round in plan.rounds + 1.. {
        let works = report.not_known_to(KNOWN_TO);
        let is_over = begun.elapsed() >= plan.further() || interruption.came();
        if is_over || works.is_empty() {
            break;
        }
        let turns = plan.more_of(&works, round, &rig.variants());
        take(rig, &turns, report, interruption)?;
    }
    Ok(())
}

/// One round.
fn take(
    rig: &mut Rig,
    turns: &[Turn],
    report: &mut Report,
    interruption: &Interruption,
) -> Result<()> {
    for (done, turn) in turns.iter().enumerate() {
        let Turn {
            step,
            variant,
            take,
        } = turn;
        let round = take.round;
        let what = format!("round {round} {step} {variant}");
        progress(done, turns.len(), &what)?;
        match rig.measure(turn, report) {
            Ok(()) => {}
            // Ctrl-C at a terminal ends the agents, too: what failed says nothing.
            Err(_) if interruption.came() => {}
            Err(error) => {
                report.fail(round, &step.to_string(), variant, &format!("{error:#}"));
                if let Err(error) = rig.revive(variant) {
                    report.note(&format!("{variant} does not start again: {error:#}"));
                }
            }
        }
        if interruption.came() {
            break;
        }
    }
    progress(turns.len(), turns.len(), "")
}

/// One line on a terminal that is written over; elsewhere a line at the end of each round.
fn progress(done: usize, total: usize, what: &str) -> Result<()> {
    const WIDTH: usize = 30;
    let mut terminal = io::stderr();
    if !terminal.is_terminal() {
        return match done {
            0 => Ok(writeln!(terminal, "{what} and {} more", total - 1)?),
            _ => Ok(()),
        };
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
