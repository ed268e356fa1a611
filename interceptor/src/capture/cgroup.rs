//! Finding the cgroup2 hierarchy, which distributions mount in two places: alone at
//! `/sys/fs/cgroup`, or beside version 1 at `/sys/fs/cgroup/unified`.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::error::CaptureError;

/// Where the kernel lists the mounts of this process.
const MOUNTS: &str = "/proc/self/mountinfo";

/// The cgroup that programs attach to, and the mount that it is in.
#[derive(Clone, Debug)]
pub(super) struct Hierarchy {
    /// Mount point of the cgroup2 hierarchy.
    pub(super) mount: PathBuf,
    /// The cgroup root, the mount point or below it.
    pub(super) root: PathBuf,
}

impl Hierarchy {
    /// Finds the hierarchy; `root` limits it to a part.
    pub(super) fn find(root: Option<&Path>) -> Result<Self, CaptureError> {
        let mounts = fs::read_to_string(MOUNTS).map_err(|source| CaptureError::Io {
            doing: "read",
            path: PathBuf::from(MOUNTS),
            source,
        })?;
        // Mounts are listed by their true paths.
        let true_root = root.map(|root| fs::canonicalize(root).unwrap_or_else(|_| root.to_owned()));
        let root = true_root.as_deref();
        let mount = cgroup2_mount(&mounts, root).ok_or_else(|| CaptureError::NoCgroup2 {
            path: root.unwrap_or(Path::new("/sys/fs/cgroup")).to_owned(),
        })?;
        let root = root.map_or_else(|| mount.clone(), Path::to_path_buf);
        if statfs(&root).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC) {
            Ok(Self { mount, root })
        } else {
            Err(CaptureError::NoCgroup2 { path: root })
        }
    }

    /// The id of the cgroup root.
    pub(super) fn root_id(&self) -> io::Result<u64> {
        Ok(fs::metadata(&self.root)?.ino())
    }

    /// How many levels `path` is below the machine's root cgroup, if the mount shows that root.
    /// Inside of a cgroup namespace it may show another, and levels could not be counted; only
    /// the true root lacks `cgroup.type`.
    pub(super) fn level(&self, path: &Path) -> Option<u32> {
        if self.mount.join("cgroup.type").exists() {
            return None;
        }
        let below = path.strip_prefix(&self.mount).ok()?;
        u32::try_from(below.components().count()).ok()
    }
}

/// The mount point of a cgroup2 hierarchy in a `mountinfo` file: the one that `root` is in, else
/// the first. A container has one of its own before the host's that is mounted for the agent.
fn cgroup2_mount(mountinfo: &str, root: Option<&Path>) -> Option<PathBuf> {
    let mut mounts = mountinfo.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let is_cgroup2 = file_system.split(' ').next() == Some("cgroup2");
        let mount_point = mount.split(' ').nth(4)?;
        is_cgroup2.then(|| unescape(mount_point))
    });
    match root {
        Some(root) => mounts
            .filter(|mount| root.starts_with(mount))
            .max_by_key(|mount| mount.components().count()),
        None => mounts.next(),
    }
}

/// Undoes the octal escapes for blanks and backslashes (`\040`).
fn unescape(field: &str) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        path.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() {
            tail.get(3..).unwrap_or_default()
        } else {
            tail
        };
    }
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:31 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
";
    const UNIFIED: &str =
        "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const BLANK: &str = "35 24 0:30 / /mnt/two\\040words rw - cgroup2 none rw\n";
    const VERSION_1: &str = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n";

    #[rstest]
    #[case::hybrid(HYBRID, Some("/sys/fs/cgroup/unified"))]
    #[case::unified(UNIFIED, Some("/sys/fs/cgroup"))]
    #[case::escaped(BLANK, Some("/mnt/two words"))]
    #[case::version_1_only(VERSION_1, None)]
    #[case::empty("", None)]
    fn the_cgroup2_mount_is_found_wherever_it_is(
        #[case] mountinfo: &str,
        #[case] expected: Option<&str>,
    ) {
        let found = cgroup2_mount(mountinfo, None);
        assert_eq!(found, expected.map(PathBuf::from));
    }

    const CONTAINER: &str = "\
900 880 0:30 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate
901 880 0:30 /../.. /host/cgroup ro,nosuid - cgroup2 cgroup2 rw,nsdelegate
";

    #[rstest]
    #[case::the_hosts(CONTAINER, "/host/cgroup", Some("/host/cgroup"))]
    #[case::a_part_of_it(CONTAINER, "/host/cgroup/pods", Some("/host/cgroup"))]
    #[case::not_cgroup2(CONTAINER, "/tmp", None)]
    fn a_configured_root_tells_which_mount_is_meant(
        #[case] mountinfo: &str,
        #[case] root: &str,
        #[case] expected: Option<&str>,
    ) {
        let found = cgroup2_mount(mountinfo, Some(Path::new(root)));
        assert_eq!(found, expected.map(PathBuf::from));
    }
}
