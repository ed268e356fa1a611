//! `interceptor policy`: policies as something that one tests, compares, learns and tries out.
//!
//! Whatever these commands say about a connection, the data plane's own functions said it:
//! [`judge`] asks `decide` and the mesh, and nothing here evaluates a rule.

use std::path::Path;

use clap::Subcommand;

use super::output::Printer;
use super::{Exit, Failure};

mod diff;
mod judge;
mod shadow;
mod suggest;
mod suite;
mod world;

/// Test, compare, learn and try out policies.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  interceptor policy test deploy/tests/*.yaml    do the policies do what we think they do?
  interceptor policy diff old/ new/              who may call what, before and after?
  interceptor policy suggest --log access.json   which policies would allow what happened?
  interceptor policy shadow                      what would enforcing the dry-run policies change?")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Test(suite::Args),
    Diff(diff::Args),
    Suggest(suggest::Args),
    Shadow(shadow::Args),
}

pub(super) fn run(args: &Args, socket: &Path, printer: &Printer) -> Result<Exit, Failure> {
    match &args.command {
        Command::Test(args) => suite::run(args, printer),
        Command::Diff(args) => diff::run(args, printer),
        Command::Suggest(args) => suggest::run(args, socket, printer),
        Command::Shadow(args) => shadow::run(args, socket, printer),
    }
}
