//! `cargo xtask demo [--check]`: two simulated nodes, real agents, real traffic, explained.
//!
//! The story itself is `tests/src/bin/demo.rs`.

use anyhow::Result;

use crate::build::Profile;
use crate::program::{self, Args, with_agent};
use crate::project::Project;
use crate::step::run;

const PROGRAM: &str = "demo";

/// Shows it.
pub(crate) fn task(project: &Project, args: &Args) -> Result<()> {
    program::task(project, PROGRAM, args)
}

/// Runs it to its end with what CI has built, and fails if anything was not as it should be.
pub(crate) fn check(project: &Project) -> Result<()> {
    run(with_agent(project, Profile::Dev, PROGRAM).arg("--check"))
}
