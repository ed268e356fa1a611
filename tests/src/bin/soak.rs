//! `cargo xtask soak`: many connections through two agents for a long time, and whether anything
//! grows.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use interceptor_tests::bench::soak::{Soak, answer, growth, json, sample_length};
use interceptor_tests::interruption::Interruption;

/// Keeps connections open between two simulated nodes, with a little traffic on each, and fails if
/// the agents' memory, open files or latency grow. Needs root.
#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Arguments {
    /// How many connections.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// How long.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Also write the samples to a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Be the application at the other end.
    #[arg(long, value_name = "PORT", hide = true)]
    answer: Option<u16>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(port) = arguments.answer {
        answer(port)?;
    }
    let interruption = Interruption::watch()?;
    let soak = Soak::begin(arguments.connections)?;
    let length = Duration::from_secs(arguments.minutes * 60);
    let count = length.as_secs() / sample_length().as_secs();
    let mut samples = Vec::new();
    for _ in 0..count {
        let sample = soak.sample()?;
        interruption.check()?;
        writeln!(io::stdout(), "{sample}")?;
        samples.push(sample);
    }
    soak.end();
    if let Some(file) = arguments.json {
        let text = format!("{:#}\n", json(&samples, arguments.connections));
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    let grown = growth(&samples);
    for growth in &grown {
        writeln!(io::stdout(), "{growth}")?;
    }
    if grown.is_empty() {
        writeln!(io::stdout(), "nothing grew")?;
    }
    Ok(ExitCode::from(u8::from(!grown.is_empty())))
}
