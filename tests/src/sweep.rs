//! Removes what killed test runs left behind: agents, namespaces, pinned programs, cgroups,
//! folders. Everything of ours carries the id of the process that made it; only what belongs to a
//! process that is gone is touched.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Once;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{cgroup, netns};

/// What every name of ours begins with.
pub const PREFIX: &str = "icpt-";

/// The environment variable that marks an agent with the test process that started it.
pub const PARENT: &str = "INTERCEPTOR_TEST_PARENT";

/// Where agents pin their programs, a folder per node.
pub const PINS: &str = "/sys/fs/bpf/interceptor";

/// Sweeps once per process.
pub fn once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(sweep);
}

fn sweep() {
    for agent in orphans() {
        // It may have ended meanwhile: that is what was wanted.
        kill(agent, Signal::SIGKILL).unwrap_or_default();
    }
    let stale = stale_in(Path::new(netns::FOLDER));
    let names: Vec<&str> = stale
        .iter()
        .filter_map(|path| path.file_name()?.to_str())
        .collect();
    if !names.is_empty() {
        netns::remove(&names);
    }
    for pins in stale_in(Path::new(PINS)) {
        drop(fs::remove_dir_all(pins));
    }
    for folder in stale_in(&std::env::temp_dir()) {
        drop(fs::remove_dir_all(folder));
    }
    if let Ok(root) = cgroup::root() {
        for stale in stale_in(&root) {
            cgroup::remove(&stale);
        }
    }
}

/// Entries of a folder whose name says that a process made them that is gone.
fn stale_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(is_stale))
        .collect()
}

fn is_stale(name: &OsStr) -> bool {
    let maker = name.to_str().and_then(maker_of);
    maker.is_some_and(|pid| {
        pid != process::id() && !Path::new("/proc").join(pid.to_string()).exists()
    })
}

/// The process id in `icpt-<pid>` or `icpt-<pid>-…`.
fn maker_of(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(PREFIX)?;
    rest.split('-').next()?.parse().ok()
}

/// Agents whose test process is gone.
fn orphans() -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let Ok(environment) = fs::read(entry.path().join("environ")) else {
            continue;
        };
        let marker = format!("{PARENT}=");
        let parent = environment.split(|byte| *byte == 0).find_map(|variable| {
            let text = std::str::from_utf8(variable).ok()?;
            text.strip_prefix(&marker)?.parse::<u32>().ok()
        });
        if parent.is_some_and(|parent| !Path::new("/proc").join(parent.to_string()).exists()) {
            found.push(Pid::from_raw(pid));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_maker_and_foreign_names_do_not() {
        assert_eq!(maker_of("icpt-123-4-a"), Some(123));
        assert_eq!(maker_of("icpt-123"), Some(123));
        assert_eq!(maker_of("icpt-x"), None);
        assert_eq!(maker_of("cni-123"), None);
        assert!(!is_stale(OsStr::new(&format!("icpt-{}-1", process::id()))));
    }
}
