//! The system's own programs: what is missing is named together, with one command that installs it.
//!
//! With `--install-tools`, or in CI (`CI=true`), they are installed if this is Debian's or Ubuntu's
//! apt and we are root.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};

use super::linker::in_path;
use crate::step::{run, say};

/// Set once by `--install-tools`, so that it need not pass through every task.
static ALLOWED: AtomicBool = AtomicBool::new(false);

/// From now on, what is missing is installed rather than asked for.
pub(crate) fn allow_installing() {
    ALLOWED.store(true, Ordering::Relaxed);
}

/// What a task is going to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Compile Rust and the C that some crates contain.
    Compile,
    /// Make network namespaces and veths.
    Namespaces,
    /// Unpack the archive that `INTERCEPTOR_RUST_SRC` names.
    Archive,
    /// Install a Python package into a folder of its own.
    Envoy,
    /// Compare the benchmark's results with more than Envoy's.
    Peers,
}

struct Tool {
    program: &'static str,
    package: &'static str,
    need: Need,
    /// Arguments with which it proves that all of it is there: distributions split programs up.
    probe: &'static [&'static str],
}

const TOOLS: [Tool; 8] = [
    Tool {
        program: "cc",
        package: "gcc libc6-dev",
        need: Need::Compile,
        probe: &[],
    },
    Tool {
        program: "ip",
        package: "iproute2",
        need: Need::Namespaces,
        probe: &[],
    },
    Tool {
        program: "tar",
        package: "tar",
        need: Need::Archive,
        probe: &[],
    },
    Tool {
        program: "xz",
        package: "xz-utils",
        need: Need::Archive,
        probe: &[],
    },
    Tool {
        program: "python3",
        package: "python3 python3-venv",
        need: Need::Envoy,
        probe: &["-c", "import ensurepip, venv"],
    },
    Tool {
        program: "haproxy",
        package: "haproxy",
        need: Need::Peers,
        probe: &[],
    },
    Tool {
        program: "nginx",
        package: "nginx-light libnginx-mod-stream",
        need: Need::Peers,
        probe: &[],
    },
    Tool {
        program: "wrk",
        package: "wrk",
        need: Need::Peers,
        probe: &[],
    },
];

/// Makes sure that every program for `needs` is there.
///
/// # Errors
///
/// Names all that are missing, and the command that installs them.
pub(crate) fn require(needs: &[Need]) -> Result<()> {
    let lacking = missing(needs);
    if lacking.is_empty() {
        return Ok(());
    }
    let packages = packages(&lacking);
    let install = format!("apt-get install -y --no-install-recommends {packages}");
    if !may_install() {
        bail!(
            "missing: {}. Install them with\n  sudo {install}\nor the like, or run this again as \
             root with --install-tools",
            names(&lacking)
        );
    }
    say(format_args!(
        "missing: {}; apt-get update && {install}",
        names(&lacking)
    ));
    run(apt_get().arg("update").arg("-qq"))?;
    run(apt_get()
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(packages.split(' ')))?;
    let still = missing(needs);
    if still.is_empty() {
        return Ok(());
    }
    bail!("still missing after `{install}`: {}", names(&still))
}

/// Installs what is missing for `needs` if that is allowed, else says what will be left out.
///
/// # Errors
///
/// Fails if what may be installed cannot be.
pub(crate) fn offer(needs: &[Need]) -> Result<()> {
    let lacking = missing(needs);
    if lacking.is_empty() || may_install() {
        return require(needs);
    }
    say(format_args!(
        "not there, and left out: {} (packages {}; `cargo xtask --install-tools …` installs them)",
        names(&lacking),
        packages(&lacking)
    ));
    Ok(())
}

fn missing(needs: &[Need]) -> Vec<&'static Tool> {
    TOOLS
        .iter()
        .filter(|tool| needs.contains(&tool.need) && !is_there(tool))
        .collect()
}

fn is_there(tool: &Tool) -> bool {
    let proven = || Command::new(tool.program).args(tool.probe).output();
    in_path(tool.program).is_some()
        && (tool.probe.is_empty() || proven().is_ok_and(|output| output.status.success()))
}

fn names(tools: &[&Tool]) -> String {
    let names: Vec<&str> = tools.iter().map(|tool| tool.program).collect();
    names.join(", ")
}

fn packages(tools: &[&Tool]) -> String {
    let packages: BTreeSet<&str> = tools
        .iter()
        .flat_map(|tool| tool.package.split(' '))
        .collect();
    packages.into_iter().collect::<Vec<_>>().join(" ")
}

fn may_install() -> bool {
    let asked = ALLOWED.load(Ordering::Relaxed) || env::var_os("CI").is_some_and(|ci| ci == "true");
    asked && in_path("apt-get").is_some() && is_root()
}

/// Root by the kernel's word, without a crate for one system call.
fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:"))
            .and_then(|ids| ids.split_whitespace().nth(1))
            .is_some_and(|effective| effective == "0")
    })
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_of_all_missing_tools_are_named_once() {
        let all: Vec<&Tool> = TOOLS.iter().collect();
        assert_eq!(
            packages(&all),
            "gcc haproxy iproute2 libc6-dev libnginx-mod-stream nginx-light python3 python3-venv tar wrk xz-utils"
        );
        assert_eq!(names(&all), "cc, ip, tar, xz, python3, haproxy, nginx, wrk");
    }
}
