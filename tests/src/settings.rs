//! What the environment tells the tests: where the agent's binary is, and whether a missing
//! privilege is a failure.

use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::cgroup;

static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// Why end-to-end tests cannot run here.
#[derive(Debug)]
pub struct Missing(Vec<String>);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "end-to-end tests cannot run here: {}", self.0.join("; "))
    }
}

impl std::error::Error for Missing {}

/// Whether this process may make namespaces and load kernel programs.
///
/// # Errors
///
/// Returns everything that is missing, together.
pub fn privileges() -> Result<(), Missing> {
    let mut missing = Vec::new();
    if !nix::unistd::Uid::effective().is_root() {
        missing.push("root is needed (namespaces, kernel programs)".to_owned());
    }
    if !["/sbin/ip", "/usr/sbin/ip", "/bin/ip", "/usr/bin/ip"]
        .iter()
        .any(|p| Path::new(p).exists())
    {
        missing.push("the `ip` tool is needed (package iproute2)".to_owned());
    }
    if let Err(error) = cgroup::root() {
        missing.push(format!("{error:#}"));
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Missing(missing))
    }
}

/// Whether a test may go on: `false` after printing a skip.
///
/// # Errors
///
/// Under `INTERCEPTOR_E2E=require` (CI) a missing privilege is an error.
pub fn may_run() -> Result<bool> {
    let Err(missing) = privileges() else {
        return Ok(true);
    };
    if required() {
        return Err(missing.into());
    }
    skip(&missing)?;
    Ok(false)
}

/// Whether what is missing is a failure.
fn required() -> bool {
    variable("INTERCEPTOR_E2E").is_some_and(|value| value == "require")
}

fn skip(missing: &dyn fmt::Display) -> Result<()> {
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    // Straight to the stream: the test runner would swallow what a passing test prints.
    Ok(writeln!(
        io::stderr(),
        "SKIPPED ({count} so far): {missing}"
    )?)
}

/// The agent's binary: `INTERCEPTOR_BIN`, else the one that was built beside this program.
///
/// # Errors
///
/// Fails if there is none, and says how to build it.
pub fn agent_binary() -> Result<PathBuf> {
    if let Some(path) = variable("INTERCEPTOR_BIN") {
        let path = PathBuf::from(path);
        return path
            .canonicalize()
            .with_context(|| format!("INTERCEPTOR_BIN={} is not there", path.display()));
    }
    let own = std::env::current_exe()?;
    for folder in own.ancestors().skip(1).take(2) {
        let candidate = folder.join("interceptor");
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!(
        "no agent binary beside {}: run `cargo xtask build`, or set INTERCEPTOR_BIN",
        own.display()
    )
}

/// Whether a test with Envoy may go on: `false` after printing a skip.
///
/// # Errors
///
/// Under `INTERCEPTOR_E2E=require` (CI) a missing Envoy is an error.
pub fn may_run_envoy() -> Result<bool> {
    let missing = match envoy_binary() {
        Ok(_) => return Ok(true),
        Err(missing) if required() => return Err(missing),
        Err(missing) => missing,
    };
    skip(&format!("{missing:#}"))?;
    Ok(false)
}

/// Envoy's binary: `INTERCEPTOR_ENVOY`.
///
/// # Errors
///
/// Fails if there is none, and says how to obtain it.
pub fn envoy_binary() -> Result<PathBuf> {
    let path = variable("INTERCEPTOR_ENVOY").context(
        "no Envoy: `cargo xtask test --e2e` obtains it, or set INTERCEPTOR_ENVOY to its binary",
    )?;
    let path = PathBuf::from(path);
    path.canonicalize()
        .with_context(|| format!("INTERCEPTOR_ENVOY={} is not there", path.display()))
}

/// Whether a program is in `PATH`.
pub fn is_installed(program: &str) -> bool {
    let path = variable("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Lets this process, and those that it starts, open as many files as it may; tells how many.
pub fn raise_open_files() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 0;
    };
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    usize::try_from(if raised { hard } else { soft }).unwrap_or(usize::MAX)
}

/// The repository's root folder.
pub fn repository() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// An environment variable's value.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place in this crate that reads the environment"
)]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
