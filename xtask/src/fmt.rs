//! `cargo xtask fmt`: one layout for all code, the kernel programs included.

use anyhow::Result;

use crate::project::Project;
use crate::step::run;
use crate::toolchain::rustup;

/// Options of `cargo xtask fmt`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Change nothing; fail if something would change
    #[arg(long)]
    check: bool,
}

impl Args {
    /// As `lint` wants it.
    pub(crate) const CHECK: Self = Self { check: true };
}

/// Lays out the code, or checks that it is.
pub(crate) fn task(project: &Project, args: &Args) -> Result<()> {
    rustup::require(project, "fmt", "rustfmt")?;
    let mut cargo = project.cargo();
    cargo.args(["fmt", "--all"]);
    if args.check {
        cargo.arg("--check");
    }
    run(&mut cargo)
}
