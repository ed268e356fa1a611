//! `cargo xtask test`: the unit tests, then the end-to-end tests.
//!
//! Both run on what [`build::everything`] has built, with the same packages chosen, because cargo
//! builds a dependency anew for every other set of features.

use anyhow::Result;

use crate::build::{self, HOST_CRATES, Profile};
use crate::project::Project;
use crate::step::{run, say};
use crate::toolchain::envoy;
use crate::toolchain::tools::{Need, require};

/// Options of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the tests beside the code, which need no privilege
    #[arg(long, conflicts_with = "e2e")]
    unit: bool,

    /// Only the end-to-end tests: as root, with namespaces, cgroups and real agents
    #[arg(long)]
    e2e: bool,

    /// Given to `cargo test` as it is, for example `-- capture -- --nocapture`
    #[arg(last = true)]
    cargo_arguments: Vec<String>,
}

/// Runs the tests that were asked for.
pub(crate) fn task(project: &Project, args: &Args) -> Result<()> {
    if !args.unit {
        require(&[Need::Compile, Need::Namespaces])?;
    }
    build::everything(project)?;
    if !args.e2e {
        unit(project, &args.cargo_arguments)?;
    }
    if !args.unit {
        e2e(project, &args.cargo_arguments)?;
    }
    Ok(())
}

/// The tests in the libraries and programs, and the examples in the documentation.
pub(crate) fn unit(project: &Project, arguments: &[String]) -> Result<()> {
    let mut cargo = project.cargo();
    cargo.arg("test").args(HOST_CRATES);
    run(cargo.args(["--lib", "--bins"]).args(arguments))?;

    let mut cargo = project.cargo();
    cargo.arg("test").args(HOST_CRATES);
    run(cargo.arg("--doc").args(arguments))
}

/// The tests in `tests` folders, given the agent that was built.
pub(crate) fn e2e(project: &Project, arguments: &[String]) -> Result<()> {
    let agent = Profile::Dev.folder(project).join("interceptor");
    let mut cargo = project.cargo();
    cargo.env("INTERCEPTOR_BIN", agent);
    match envoy::obtain(project) {
        Ok(envoy) => drop(cargo.env("INTERCEPTOR_ENVOY", envoy)),
        // The tests that need it fail where a skip is a failure, and print a skip elsewhere.
        Err(error) => say(format_args!("no Envoy to test against: {error:#}")),
    }
    cargo.arg("test").args(HOST_CRATES);
    run(cargo.args(["--test", "*"]).args(arguments))
}
