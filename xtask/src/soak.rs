//! `cargo xtask soak`: whether anything grows while many connections are open for a long time.
//!
//! What is kept open and what must not grow is in `tests/src/bench/soak.rs`.

use anyhow::Result;

use crate::program::{self, Args};
use crate::project::Project;

/// Soaks.
pub(crate) fn task(project: &Project, args: &Args) -> Result<()> {
    program::task(project, "soak", args)
}
