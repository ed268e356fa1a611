//! The project's own tasks, started as `cargo xtask <task>`.
//!
//! A machine needs stable Rust from rustup, a C compiler and, for what touches the kernel, root.
//! Whatever else a task needs it obtains, says so, and keeps in `target/` (see [`toolchain`]).
//!
//! One file per task; the tasks' order of use is `build-ebpf` → `build` → `test`, and `ci` is all
//! of them as CI runs them.

#![forbid(unsafe_code)]

mod build;
mod build_ebpf;
mod project;
mod step;
mod toolchain;

use std::process::ExitCode;

use clap::Parser;

use project::Project;

#[derive(Parser)]
#[command(
    bin_name = "cargo xtask",
    about = "The project's own tasks",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    task: Task,

    /// Install missing system programs with apt-get (needs root); `CI=true` does the same
    #[arg(long, global = true)]
    install_tools: bool,
}

#[derive(clap::Subcommand)]
enum Task {
    /// Build the kernel programs, obtaining their toolchain if need be
    BuildEbpf,
    /// Build the agent, kernel programs included
    Build(build::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            step::say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    if cli.install_tools {
        toolchain::tools::allow_installing();
    }
    let project = Project::find()?;
    match &cli.task {
        Task::BuildEbpf => build_ebpf::build_ebpf(&project).map(drop),
        Task::Build(args) => build::task(&project, args),
    }
}
