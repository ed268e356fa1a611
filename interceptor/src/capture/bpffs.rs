//! The BPF file system: mounted where it is not yet.
//!
//! Two agents that start at once must not mount one over the other, or the pins of the first would be
//! hidden. So whoever mounts holds a lock on the folder, for a moment. Whoever else can open that folder
//! can hold it as well, and for as long as it likes: then nobody mounts, and the agent says who keeps it
//! from starting.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{major, minor};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::error::CaptureError;

/// So long another agent may take to mount it: a thousand times what it does.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(10);

/// Who keeps a folder locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder(Option<(u32, String)>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some((process, name)) => write!(f, "process {process} ({name})"),
            None => f.write_str("a process that cannot be seen from here"),
        }
    }
}

/// Makes sure that a BPF file system is mounted at `path`.
pub(super) fn ensure(path: &Path) -> Result<(), CaptureError> {
    ensure_within(path, PATIENCE)
}

fn ensure_within(path: &Path, patience: Duration) -> Result<(), CaptureError> {
    if is_mounted(path) {
        return Ok(());
    }
    let failed = |source: io::Error| CaptureError::NoBpffs {
        path: path.to_path_buf(),
        source,
    };
    fs::create_dir_all(path).map_err(failed)?;
    let mut folder = File::open(path).map_err(failed)?;
    let deadline = Instant::now() + patience;
    let _lock = loop {
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => break lock,
            Err((again, Errno::EWOULDBLOCK)) => folder = again,
            Err((_folder, errno)) => return Err(failed(errno.into())),
        }
        if is_mounted(path) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(CaptureError::BpffsLocked {
                path: path.to_path_buf(),
                holder: holder(&folder),
            });
        }
        sleep(LOOK);
    };
    if is_mounted(path) {
        return Ok(());
    }
    mount(
        Some("bpf"),
        path,
        Some("bpf"),
        MsFlags::empty(),
        // Everybody may make folders in one that has none.
        Some("mode=0700"),
    )
    .map_err(|errno| failed(errno.into()))
}

fn is_mounted(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// Who has this folder locked, as far as it can be seen.
fn holder(folder: &File) -> Holder {
    let seen = || {
        let found = folder.metadata().ok()?;
        let locks = fs::read_to_string("/proc/locks").ok()?;
        let process = locks.lines().find_map(|line| locker(line, &found))?;
        let name = fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
        Some((process, name.trim_end().to_owned()))
    };
    Holder(seen())
}

/// The process that holds the lock of this line of `/proc/locks`, if it is one on that file:
/// `1: FLOCK  ADVISORY  WRITE 1234 00:1b:5678 0 EOF`. Those that wait have an arrow.
fn locker(line: &str, file: &fs::Metadata) -> Option<u32> {
    let mut words = line.split_whitespace().skip(1);
    if words.next()? != "FLOCK" {
        return None;
    }
    let (process, place) = (words.nth(2)?, words.next()?);
    let (major, minor) = (major(file.dev()), minor(file.dev()));
    let is_it = place == format!("{major:02x}:{minor:02x}:{}", file.ino());
    is_it.then(|| process.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_stays_locked_is_waited_for_a_while_and_its_holder_named() {
        let folder = tempfile::tempdir().unwrap();
        let locked = File::open(folder.path()).unwrap();
        let held = Flock::lock(locked, FlockArg::LockShared).unwrap();
        let error = ensure_within(folder.path(), Duration::ZERO).unwrap_err();
        let said = error.to_string();
        let CaptureError::BpffsLocked { holder, .. } = error else {
            panic!("{error:?}");
        };
        // Some file systems have another number of their own than of their files.
        if let Holder(Some((process, _))) = holder {
            assert_eq!(process, std::process::id());
            assert!(said.contains(&format!("process {process} (")), "{said}");
        }
        drop(held);
    }

    #[test]
    fn only_the_lock_on_that_file_is_meant_and_nobody_who_waits_for_it() {
        let file = tempfile::tempfile().unwrap().metadata().unwrap();
        let (major, minor, inode) = (major(file.dev()), minor(file.dev()), file.ino());
        let at = |kind: &str, inode| {
            let line = format!("{kind} {major:02x}:{minor:02x}:{inode} 0 EOF");
            locker(&line, &file)
        };
        assert_eq!(at("1: FLOCK  ADVISORY  WRITE 1234", inode), Some(1234));
        assert_eq!(at("1: FLOCK  ADVISORY  WRITE 1234", inode + 1), None);
        assert_eq!(at("1: -> FLOCK  ADVISORY  WRITE 1234", inode), None);
        assert_eq!(at("1: POSIX  ADVISORY  READ 1234", inode), None);
        assert_eq!(locker("", &file), None);
    }
}
