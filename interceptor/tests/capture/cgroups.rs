//! Cgroups, and processes in them that connect.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::{Netns, cgroup_mount, close, spawn};

/// A cgroup of its own, with a child, removed when dropped.
pub(crate) struct Cgroup {
    pub(crate) path: PathBuf,
    /// Below the cgroup root.
    pub(crate) binding: PathBuf,
}

impl Cgroup {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let binding = PathBuf::from(format!("ic-test-{}-{number}", std::process::id()));
        let path = cgroup_mount().join(&binding);
        let cgroup = Self { path, binding };
        cgroup.make();
        cgroup
    }

    pub(crate) fn nested(&self) -> PathBuf {
        self.path.join("nested")
    }

    fn make(&self) {
        fs::create_dir_all(self.nested()).unwrap();
    }

    /// Removes it and makes another of the same name, as when a service is restarted.
    pub(crate) fn replace(&self) {
        fs::remove_dir(self.nested()).unwrap();
        fs::remove_dir(&self.path).unwrap();
        self.make();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let nested = fs::remove_dir(self.nested());
        let removed = fs::remove_dir(&self.path);
        assert!(std::thread::panicking() || (nested.is_ok() && removed.is_ok()));
    }
}

/// A process of the calling thread's network namespace in `cgroup` that connects and waits for
/// its input to close.
pub(crate) fn connect_from(cgroup: &Path, to: &str) -> Child {
    let (host, port) = to.rsplit_once(':').unwrap();
    let script = format!(
        "echo $$ > {}/cgroup.procs && echo ready && exec 3<>/dev/tcp/{host}/{port} && read -r _",
        cgroup.display()
    );
    let mut command = Command::new("bash");
    command
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stderr(Stdio::null());
    spawn(&mut command)
}

/// The same in `netns`.
pub(crate) fn connect_from_in(netns: &Netns, cgroup: &Path, to: &str) -> Child {
    let connect = || Ok(connect_from(cgroup, to));
    netns.namespace.enter(connect).unwrap()
}

pub(crate) fn stop(mut child: Child) {
    close(child.stdin.take());
    child.wait().unwrap();
}
