//! `cargo xtask bench`: how fast the path is, against raw TCP and against peers, in one run.
//!
//! The workloads are in `tests/src/bench/`. Envoy comes from where the tests' Envoy does; haproxy,
//! nginx and wrk are the system's, and installed only with `--install-tools`: where an init system
//! runs, Debian starts their services. What is not there is not measured, and the report says so.

use anyhow::Result;

use crate::program::{self, Args};
use crate::project::Project;
use crate::step::say;
use crate::toolchain::envoy;
use crate::toolchain::tools::{Need, offer};

/// Measures.
pub(crate) fn task(project: &Project, args: &Args) -> Result<()> {
    // First, because building takes minutes and whoever wants to install something stops here.
    offer(&[Need::Peers])?;
    let mut program = program::built(project, "bench")?;
    match envoy::obtain(project) {
        Ok(envoy) => drop(program.env(envoy::VARIABLE, envoy)),
        Err(error) => say(format_args!("no Envoy to compare with: {error:#}")),
    }
    program::become_it(program, "bench", args)
}
