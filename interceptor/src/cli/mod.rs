//! The commands.
//!
//! `interceptor run` is the agent. The other commands are people's tools: each answers its
//! question in the first line, teaches by examples in its help, and is the same in JSON.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | yes: well, allowed, nothing found |
//! | 1 | no: not well, refused, something found |
//! | 2 | could not tell: no agent answers, wrong arguments, unreadable files |
//! | 3 | `run` only: another agent has taken over |
//!
//! Answers go to standard output, errors with what to do next to standard error. Colours only on
//! a terminal, and not if `NO_COLOR` is set.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::admin::DEFAULT_SOCKET;

mod analyze;
mod ca;
mod certificates;
mod client;
mod connections;
mod doctor;
mod explain;
mod failure;
mod human;
mod manifests;
mod output;
mod plan_upgrade;
mod policy;
mod ports;
mod run;
mod settings;
mod status;
mod uninstall;
mod validate;
mod version;

use failure::Failure;
use output::Printer;

/// Identity, policy and telemetry for every TCP port of a node, without sidecars.
#[derive(Debug, Parser)]
#[command(
    name = "interceptor",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  interceptor doctor                    can this machine run the agent?
  interceptor run --config agent.yaml   run it
  interceptor validate -f manifests/    would the agent take these manifests?
  interceptor analyze -f manifests/     what is wrong or weaker than it looks in them?
  interceptor status                    is this node well, and what is not protected?
  interceptor connections -w            what happens right now, and why is it refused?
  interceptor explain --last-denied     why was it refused, and what would allow it?

Exit codes: 0 yes, 1 no, 2 could not tell."
)]
struct Cli {
    /// How answers are printed.
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    output: Output,

    /// The running agent's socket.
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,

    #[command(subcommand)]
    command: Command,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Status(status::Args),
    Connections(connections::Args),
    Explain(Box<explain::Args>),
    Ports(ports::Args),
    Certificates(certificates::Args),
    Doctor(doctor::Args),
    Ca(ca::Args),
    Validate(validate::Args),
    Analyze(analyze::Args),
    Policy(policy::Args),
    Uninstall(uninstall::Args),
    Version(version::Args),
}

/// What a command found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// Yes.
    Yes,
    /// No.
    No,
    /// Could not tell.
    Unclear,
    /// The agent ended because another has taken over.
    Replaced,
}

/// Runs the command that `arguments` (with the program's name first) ask for.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers; anything else could not be understood.
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            // A closed standard output leaves nobody to tell.
            error.print().unwrap_or_default();
            return ExitCode::from(code);
        }
    };
    let mut printer = Printer::stdout(cli.output);
    match cli.command.run(&cli.socket, &mut printer) {
        Ok(Exit::Yes) => ExitCode::SUCCESS,
        Ok(Exit::No) => ExitCode::from(1),
        Ok(Exit::Unclear) => ExitCode::from(2),
        Ok(Exit::Replaced) => ExitCode::from(3),
        Err(failure) => {
            failure.print();
            ExitCode::from(2)
        }
    }
}

impl Command {
    fn run(self, socket: &std::path::Path, printer: &mut Printer) -> Result<Exit, Failure> {
        match self {
            Self::Run(args) => run::run(&args, printer),
            Self::Status(args) => status::run(&args, socket, printer),
            Self::Connections(args) => connections::run(&args, socket, printer),
            Self::Explain(args) => explain::run(&args, socket, printer),
            Self::Ports(args) => ports::run(&args, socket, printer),
            Self::Certificates(args) => certificates::run(&args, socket, printer),
            Self::Doctor(args) => doctor::run(&args, printer),
            Self::Ca(args) => ca::run(args, printer),
            Self::Validate(args) => validate::run(&args, printer),
            Self::Analyze(args) => analyze::run(&args, socket, printer),
            Self::Policy(args) => policy::run(&args, socket, printer),
            Self::Uninstall(args) => uninstall::run(&args, printer),
            Self::Version(args) => version::run(&args, printer),
        }
    }
}

#[cfg(test)]
mod tests;
