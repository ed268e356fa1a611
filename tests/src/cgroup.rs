//! The cgroup in which a test's sockets live, and to which its agents attach their programs.
//!
//! Test processes move into a cgroup of their own while a fabric exists. So the agents under test
//! attach there and not at the machine's root, nothing else on the machine passes through their
//! programs, and removing the folder detaches whatever a crashed agent left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;

/// How many fabrics use [`own`] now, and where the process was before.
static USERS: Mutex<Option<Stay>> = Mutex::new(None);

struct Stay {
    users: usize,
    home: PathBuf,
}

/// The mount point of cgroup2, wherever it is.
///
/// # Errors
///
/// Fails if it is not mounted.
pub fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    for line in mounts.lines() {
        let Some((place, kind)) = line.split_once(" - ") else {
            continue;
        };
        if kind.starts_with("cgroup2 ")
            && let Some(path) = place.split(' ').nth(4)
        {
            return Ok(PathBuf::from(path));
        }
    }
    bail!("cgroup2 is not mounted: `mount -t cgroup2 none /sys/fs/cgroup`")
}

/// The cgroup of this test process.
///
/// # Errors
///
/// Fails if cgroup2 is not mounted.
pub fn own() -> Result<PathBuf> {
    Ok(root()?.join(format!("icpt-{}", process::id())))
}

/// Moves this process into [`own`] until the value is dropped.
#[derive(Debug)]
pub struct Membership(());

impl Membership {
    /// Enters, or counts one more user.
    ///
    /// # Errors
    ///
    /// Fails if the cgroup cannot be made or entered.
    pub fn enter() -> Result<Self> {
        let mut stay = USERS.lock();
        if let Some(stay) = stay.as_mut() {
            stay.users += 1;
            return Ok(Self(()));
        }
        let home = current()?;
        let own = own()?;
        fs::create_dir_all(&own).with_context(|| format!("make the cgroup {}", own.display()))?;
        join(&own, process::id())?;
        *stay = Some(Stay { users: 1, home });
        drop(stay);
        Ok(Self(()))
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut guard = USERS.lock();
        let Some(stay) = guard.as_mut() else { return };
        stay.users -= 1;
        if stay.users == 0 {
            let home = stay.home.clone();
            *guard = None;
            if join(&home, process::id()).is_ok()
                && let Ok(own) = own()
            {
                remove(&own);
            }
        }
    }
}

/// Moves a process into a cgroup.
///
/// # Errors
///
/// Fails if the kernel refuses.
pub fn join(cgroup: &Path, process: u32) -> Result<()> {
    let file = cgroup.join("cgroup.procs");
    fs::write(&file, process.to_string())
        .with_context(|| format!("move process {process} into {}", cgroup.display()))
}

/// Removes a cgroup and those below it as far as possible.
pub fn remove(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    drop(fs::remove_dir(cgroup));
}

fn current() -> Result<PathBuf> {
    let lines = fs::read_to_string("/proc/self/cgroup")?;
    let path = lines
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .context("this process is in no cgroup2")?;
    Ok(root()?.join(path.trim_start_matches('/')))
}
