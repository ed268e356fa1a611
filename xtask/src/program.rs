//! Programs of the tests crate that need an agent: the demo and the benchmark.
//!
//! The agent and the program are built together, and then this process *becomes* the program: it
//! gets Ctrl-C and every other signal itself, cleans up, and its exit code is the task's.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Result, anyhow};

use crate::build::Profile;
use crate::build_ebpf::build_ebpf;
use crate::project::Project;
use crate::step::{run, say};
use crate::toolchain::tools::{Need, require};

/// Options of a task that is such a program: all of them are the program's own.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Given to the program; `--help` after `--` lists what it understands
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds `name` and the agent as they are shipped, and becomes `name`.
pub(crate) fn task(project: &Project, name: &str, args: &Args) -> Result<()> {
    become_it(built(project, name)?, name, args)
}

/// Builds `name` and the agent as they are shipped.
pub(crate) fn built(project: &Project, name: &str) -> Result<Command> {
    require(&[Need::Compile, Need::Namespaces])?;
    build_ebpf(project)?;
    run(project.cargo().args([
        "build",
        "--release",
        "--package=interceptor",
        "--package=interceptor-tests",
        "--bin=interceptor",
        &format!("--bin={name}"),
    ]))?;
    Ok(with_agent(project, Profile::Release, name))
}

/// Ends this process by becoming the program.
pub(crate) fn become_it(mut program: Command, name: &str, args: &Args) -> Result<()> {
    say(format_args!("{name}: started (Ctrl-C ends it)"));
    let error = program.args(&args.arguments).exec();
    Err(anyhow!(error).context(format!("could not start {name}")))
}

/// The program as it was built, told where the agent is.
pub(crate) fn with_agent(project: &Project, profile: Profile, name: &str) -> Command {
    let folder = profile.folder(project);
    let mut command = project.command(folder.join(name));
    command.env("INTERCEPTOR_BIN", folder.join("interceptor"));
    command
}
