//! Components of the running toolchain, added by rustup.

use std::fs::File;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Compiler;
use crate::project::Project;
use crate::step::{capture, say, within};

/// A good connection needs three seconds; one that hangs must not stop the other ways.
const LIMIT: Duration = Duration::from_mins(1);

/// Adds `component` unless `present` says that it is there.
///
/// # Errors
///
/// Fails if the compiler is not rustup's, or its server gives no answer in time.
pub(super) fn add(compiler: &Compiler, component: &str, present: impl Fn() -> bool) -> Result<()> {
    let toolchain = compiler
        .rustup_toolchain()
        .context("this compiler is not rustup's")?;
    // rustup does not expect to be run twice at once on one toolchain; other checkouts may do it.
    let lock = File::open(compiler.sysroot())?;
    lock.lock()?;
    if present() {
        return Ok(());
    }
    let arguments = ["component", "add", component, "--toolchain", toolchain];
    say(format_args!("{component}: rustup {}", arguments.join(" ")));
    within(LIMIT, Command::new("rustup").args(arguments))
}

/// Makes sure that `cargo <subcommand>` exists, which rustup's minimal profile leaves out.
pub(crate) fn require(project: &Project, subcommand: &str, component: &str) -> Result<()> {
    let present = || capture(project.cargo().args([subcommand, "--version"])).is_ok();
    if present() {
        return Ok(());
    }
    let compiler = Compiler::running(project)?;
    add(&compiler, component, present).with_context(|| {
        format!("`cargo {subcommand}` is missing; run `rustup component add {component}`")
    })
}
