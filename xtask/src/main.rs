//! The project's own tasks, started as `cargo xtask <task>`.
//!
//! A machine needs stable Rust from rustup, a C compiler and, for what touches the kernel, root.
//! Whatever else a task needs it obtains, says so, and keeps in `target/` (see [`toolchain`]).
//!
//! One file per task; the tasks' order of use is `build-ebpf` → `build` → `test`, and `ci` is all
//! of them as CI runs them.

#![forbid(unsafe_code)]

mod bench;
mod build;
mod build_ebpf;
mod ci;
mod demo;
mod dependencies;
mod files;
mod fmt;
mod fuzz;
mod layers;
mod lint;
mod program;
mod project;
mod soak;
mod step;
mod test;
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
    /// Run the unit tests, then the end-to-end tests
    Test(test::Args),
    /// Try bad input on the readers of manifests and policies
    Fuzz(fuzz::Args),
    /// Check layout, layers, dependencies, clippy and documentation
    Lint,
    /// Check that imports in the agent go one way
    Layers,
    /// Lay out the code
    Fmt(fmt::Args),
    /// Show two nodes, their agents and real traffic; `--check` only verifies it
    Demo(program::Args),
    /// Measure the path against raw TCP and against peers
    Bench(program::Args),
    /// Keep many connections open for a long time: whatever grows, leaks
    Soak(program::Args),
    /// Run exactly what CI runs
    Ci,
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
        Task::Test(args) => test::task(&project, args),
        Task::Fuzz(args) => fuzz::task(&project, args),
        Task::Lint => lint::task(&project),
        Task::Layers => layers::layers(&project),
        Task::Fmt(args) => fmt::task(&project, args),
        Task::Demo(args) => demo::task(&project, args),
        Task::Bench(args) => bench::task(&project, args),
        Task::Soak(args) => soak::task(&project, args),
        Task::Ci => ci::task(&project),
    }
}
