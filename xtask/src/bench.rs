//! `cargo xtask bench`: how fast the path is, against raw TCP and against peers, in one run.
//!
//! The workloads are in `tests/src/bin/bench.rs`.

use anyhow::Result;

use crate::program::{self, Args};
use crate::project::Project;

/// Measures.
pub(crate) fn task(project: &Project, args: &Args) -> Result<()> {
    program::task(project, "bench", args)
}
