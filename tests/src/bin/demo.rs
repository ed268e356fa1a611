//! `cargo xtask demo`: two simulated nodes, real agents, real traffic, told in a minute.
#![forbid(unsafe_code)]

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser;
use interceptor_tests::demo::{Afterwards, Show, play};

/// Makes two simulated nodes with an agent each, sends real traffic between their workloads, shows
/// what happened, and stays up for you to try things until Ctrl-C. Needs root.
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Arguments {
    /// Do not wait for Ctrl-C, and exit with 1 if anything was not as claimed.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let afterwards = if arguments.check {
        Afterwards::Leave
    } else {
        Afterwards::Stay
    };
    match play(&mut Show::new(), afterwards) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            // Nothing is left to do if standard error is closed, too.
            writeln!(io::stderr(), "demo: {error:#}").unwrap_or_default();
            ExitCode::from(2)
        }
    }
}
