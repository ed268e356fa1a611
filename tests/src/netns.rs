//! A network namespace: made with `ip`, entered by threads, removed on drop.
//!
//! Only threads that live for one closure enter a namespace, so no thread ever has to find its
//! way back. A socket keeps the namespace that it was made in, so it may be used from anywhere.

use std::any::Any;
use std::fs::{self, File};
use std::io::Write as _;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

/// Where `ip netns` keeps its namespaces.
pub const FOLDER: &str = "/run/netns";

/// A network namespace that is removed when this value is dropped.
#[derive(Debug)]
pub struct NetNs {
    name: String,
}

impl NetNs {
    /// Makes a namespace with loopback up, forwarding on, and without the seconds that duplicate
    /// address detection takes.
    ///
    /// # Errors
    ///
    /// Fails if the namespace exists or cannot be made.
    pub fn create(name: &str) -> Result<Self> {
        batch(None, &format!("netns add {name}\n"))?;
        let created = Self {
            name: name.to_owned(),
        };
        created.run(set_sysctls)??;
        created.ip("link set lo up\n")?;
        Ok(created)
    }

    /// Its name below `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    /// Runs a batch of `ip` commands inside.
    ///
    /// # Errors
    ///
    /// Fails if any of the commands does.
    pub fn ip(&self, commands: &str) -> Result<()> {
        batch(Some(&self.name), commands)
    }

    /// Runs a closure on a thread of its own inside the namespace and waits for it.
    ///
    /// # Errors
    ///
    /// Fails if the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = self.open()?;
        let outcome = thread::scope(|scope| {
            let thread = thread::Builder::new()
                .name(self.name.clone())
                .spawn_scoped(scope, || -> Result<T> {
                    setns(&file, CloneFlags::CLONE_NEWNET)?;
                    Ok(work())
                })?;
            Ok::<_, anyhow::Error>(join(thread.join()))
        })?;
        outcome.with_context(|| format!("enter the namespace {}", self.name))
    }

    /// Starts a thread inside the namespace.
    ///
    /// # Errors
    ///
    /// Fails if the namespace cannot be opened. A thread that cannot enter it ends at once with
    /// an error.
    pub fn spawn(
        &self,
        work: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<JoinHandle<Result<()>>> {
        let file = self.open()?;
        let thread = thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET)?;
                drop(file);
                work()
            })?;
        Ok(thread)
    }

    fn open(&self) -> Result<File> {
        File::open(self.path()).with_context(|| format!("open the namespace {}", self.name))
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        remove(&[self.name.as_str()]);
    }
}

/// A thread's panic goes on in the thread that waited for it.
pub fn join<T>(outcome: Result<T, Box<dyn Any + Send>>) -> T {
    outcome.unwrap_or_else(|panic| panic::resume_unwind(panic))
}

/// Removes namespaces by name as far as possible.
pub fn remove(names: &[&str]) {
    let mut lines = String::new();
    for name in names {
        lines.push_str("netns del ");
        lines.push_str(name);
        lines.push('\n');
    }
    drop(execute(&["-force", "-batch", "-"], &lines));
}

/// Runs a batch of `ip` commands, in a namespace or where we are.
///
/// # Errors
///
/// Fails with what `ip` said.
pub fn batch(namespace: Option<&str>, commands: &str) -> Result<()> {
    match namespace {
        Some(name) => execute(&["-n", name, "-batch", "-"], commands),
        None => execute(&["-batch", "-"], commands),
    }
}

fn execute(arguments: &[&str], input: &str) -> Result<()> {
    let mut ip = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start `ip` (package iproute2)")?;
    if let Some(mut stdin) = ip.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = ip.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "ip {}: {}\n{input}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn set_sysctls() -> Result<()> {
    // The kernel resolves /proc/sys/net by the calling thread's namespace.
    for (key, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/all/accept_dad", "0"),
    ] {
        let path = Path::new("/proc/sys/net").join(key);
        if let Err(error) = fs::write(&path, value)
            && !key.starts_with("ipv6")
        {
            return Err(error).with_context(|| format!("set {}", path.display()));
        }
    }
    Ok(())
}
