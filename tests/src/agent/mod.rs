//! A running agent: the real binary in a node's network namespace, with folders of its own, asked
//! through the doors that operators use.

mod ask;

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::access::Line;
use crate::manifests::{self, Manifest};
use crate::netns::NetNs;
use crate::node::Node;
use crate::{settings, sweep, wait};

const READINESS: u16 = 15021;
/// The file of manifests that [`Agent::apply`] replaces.
const MANIFESTS: &str = "mesh.yaml";

/// How an agent is set up, where tests differ.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// The first manifests.
    pub manifests: String,
    /// A folder of manifests that is there already, instead of one of its own.
    pub manifests_folder: Option<PathBuf>,
    /// A folder of its own for the certificate authority, instead of the fabric's shared one.
    pub own_ca: bool,
    /// Life of the certificates that it issues, such as `30s`.
    pub svid_lifetime: Option<String>,
    /// Another cgroup root than the fabric's.
    pub cgroup: Option<PathBuf>,
    /// The cgroup of the node's prober.
    pub prober: Option<PathBuf>,
    /// More lines for the end of its configuration file.
    pub extra: String,
    /// More lines of its `capture:`, two blanks before each.
    pub capture: String,
}

impl Setup {
    /// An agent with these manifests.
    pub fn with(manifests: &[&dyn Manifest]) -> Self {
        Self {
            manifests: manifests::yaml(manifests),
            ..Self::default()
        }
    }
}

/// An agent. It is killed, and what it pinned is removed, when this value is dropped.
#[derive(Debug)]
pub struct Agent {
    name: String,
    namespace: Arc<NetNs>,
    folder: PathBuf,
    manifests: PathBuf,
    own_group: bool,
    child: Option<Child>,
    /// Those that it has taken over from, and that have not been waited for.
    predecessors: Vec<Child>,
}

impl Agent {
    pub(crate) fn start(node: &Node, setup: &Setup) -> Result<Self> {
        let shared = node.shared();
        let folder = shared.folder.join(node.name());
        let manifests = setup.manifests_folder.clone();
        let mut agent = Self {
            name: node.mesh_name().to_owned(),
            namespace: Arc::clone(node.namespace()),
            manifests: manifests
                .clone()
                .unwrap_or_else(|| folder.join("manifests")),
            folder,
            // Ctrl-C at a terminal is for the demonstration, which then stops its agents.
            own_group: shared.prefix.is_empty(),
            child: None,
            predecessors: Vec::new(),
        };
        fs::create_dir_all(&agent.folder)?;
        fs::create_dir_all(&agent.manifests)?;
        let ca = if setup.own_ca {
            agent.folder.join("ca")
        } else {
            shared.folder.join("ca")
        };
        fs::write(
            agent.config(),
            configuration(
                &agent,
                &ca,
                setup.cgroup.as_ref().unwrap_or(&shared.cgroup),
                setup,
            ),
        )?;
        if manifests.is_none() {
            agent.write(MANIFESTS, &setup.manifests)?;
        }
        agent.launch()?;
        Ok(agent)
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("config.yaml")
    }

    /// Its folder of manifests.
    pub fn manifests(&self) -> &Path {
        &self.manifests
    }

    /// Its socket for the command line.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("interceptor.sock")
    }

    /// The folder below bpffs in which it pins.
    pub fn pins(&self) -> PathBuf {
        Path::new(sweep::PINS).join(&self.name)
    }

    /// Its process id while it runs.
    pub fn process(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    fn launch(&mut self) -> Result<()> {
        self.child = Some(self.spawn(&self.config(), &[])?);
        Ok(())
    }

    /// Starts the agent's binary beside whatever runs already, with a configuration and more
    /// arguments. What it says goes to this agent's log.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be started.
    pub fn spawn(&self, config: &Path, arguments: &[&str]) -> Result<Child> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))?;
        let errors = log.try_clone()?;
        // The privileges of a deployed agent and no others, so that every test proves them.
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--bounding-set=-all{}", privileges()))
            .args(["--inh-caps=-all", "--"])
            .arg(settings::agent_binary()?)
            .args(["run", "--config"])
            .arg(config)
            .args(arguments)
            .env(sweep::PARENT, std::process::id().to_string())
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        if self.own_group {
            command.process_group(0);
        }
        // A child inherits the namespace of the thread that makes it.
        let child = self.namespace.run(move || command.spawn())?;
        child.context("start the agent")
    }

    /// Starts another agent that takes over from this one, and waits until it has. The old one
    /// goes on draining: [`Agent::wait_predecessors`].
    ///
    /// # Errors
    ///
    /// Fails with the log if the new one ends or does not take over.
    pub fn take_over(&mut self) -> Result<()> {
        let old = self.child.take().context("the agent is not running")?;
        self.predecessors.push(old);
        let mut new = self.spawn(&self.config(), &["--take-over"])?;
        let pid = new.id();
        let waited = wait::until("the successor to answer", || {
            if let Some(status) = new.try_wait().ok().flatten() {
                return Some(Err(status));
            }
            let status = self.status().ok()?;
            (status.get("pid")? == pid).then_some(Ok(()))
        });
        self.child = Some(new);
        match waited {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("the successor ended with {status}:\n{}", self.log()),
            Err(error) => bail!("{error}; the log:\n{}", self.log()),
        }
    }

    /// Waits until those that were replaced have ended, and tells how.
    ///
    /// # Errors
    ///
    /// Fails if one goes on.
    pub fn wait_predecessors(&mut self) -> Result<Vec<ExitStatus>> {
        let mut ended = Vec::new();
        for mut old in self.predecessors.drain(..) {
            ended.push(wait::until("a predecessor to end", || {
                old.try_wait().ok().flatten()
            })?);
        }
        Ok(ended)
    }

    /// Waits until its readiness port says yes.
    ///
    /// # Errors
    ///
    /// Fails with the agent's log if it ends or does not become ready.
    pub fn wait_ready(&mut self) -> Result<()> {
        let waited = wait::until("the agent to be ready", || {
            if let Some(status) = self.ended() {
                return Some(Err(status));
            }
            self.get(READINESS, "/healthz/ready")
                .ok()
                .filter(|it| it.status == 200)
                .map(|_| Ok(()))
        });
        match waited {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!(
                "the agent of {} ended with {status}:\n{}",
                self.name,
                self.log()
            ),
            Err(error) => bail!("{error}; its log:\n{}", self.log()),
        }
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    ///
    /// Fails if it goes on.
    pub fn wait_end(&mut self) -> Result<ExitStatus> {
        wait::until("the agent to end", || self.ended())
    }

    /// Ends it at once, as the kernel's out-of-memory killer would.
    ///
    /// # Errors
    ///
    /// Fails if it is not running.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the agent is not running")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    ///
    /// Fails if it is not running or goes on.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let status = self.wait_end()?;
        self.child = None;
        Ok(status)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// Fails if it is not running.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.process().context("the agent is not running")?;
        Ok(kill(Pid::from_raw(i32::try_from(id)?), signal)?)
    }

    /// Starts it again with the same folders and waits until it is ready.
    ///
    /// # Errors
    ///
    /// Fails if it still runs or does not become ready.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the agent still runs");
        self.launch()?;
        self.wait_ready()
    }

    /// Replaces its manifests. Returns at once: what changes is to be waited for.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be written.
    pub fn apply(&self, manifests: &[&dyn Manifest]) -> Result<()> {
        self.write(MANIFESTS, &manifests::yaml(manifests))
    }

    /// Replaces its manifests by this text.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be written.
    pub fn write_mesh(&self, text: &str) -> Result<()> {
        self.write(MANIFESTS, text)
    }

    /// Replaces one file of manifests as editors do: a new file renamed over the old one.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be written.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let temporary = self.folder.join("new.yaml");
        fs::write(&temporary, text)?;
        Ok(fs::rename(temporary, self.manifests().join(file))?)
    }

    /// Removes one file of manifests.
    ///
    /// # Errors
    ///
    /// Fails if there is none.
    pub fn remove(&self, file: &str) -> Result<()> {
        Ok(fs::remove_file(self.manifests().join(file))?)
    }

    /// Everything it said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Its access log.
    pub fn access(&self) -> Vec<Line> {
        let text = fs::read_to_string(self.folder.join("access.log")).unwrap_or_default();
        text.lines().filter_map(Line::parse).collect()
    }

    /// Waits for an access line.
    ///
    /// # Errors
    ///
    /// Fails with all lines there are.
    pub fn access_line(&self, what: &str, wanted: impl Fn(&Line) -> bool) -> Result<Line> {
        wait::until(what, || self.access().into_iter().find(&wanted)).with_context(|| {
            format!(
                "access log of {}: {:#?}\nlog: {}",
                self.name,
                self.access(),
                self.log()
            )
        })
    }

    /// Its memory in use, in bytes.
    ///
    /// # Errors
    ///
    /// Fails if it is not running.
    pub fn resident_bytes(&self) -> Result<u64> {
        let id = self.process().context("the agent is not running")?;
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("no VmRSS")?;
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kibibytes * 1024)
    }

    /// How many files and sockets it has open.
    ///
    /// # Errors
    ///
    /// Fails if it is not running.
    pub fn open_files(&self) -> Result<usize> {
        let id = self.process().context("the agent is not running")?;
        Ok(fs::read_dir(format!("/proc/{id}/fd"))?.count())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        for mut child in self
            .child
            .take()
            .into_iter()
            .chain(self.predecessors.drain(..))
        {
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            // The folder is about to go: keep what the agent said for whoever reads the failure.
            let log = self.log();
            let start = log.len().saturating_sub(8 * 1024);
            drop(std::io::Write::write_all(
                &mut std::io::stderr(),
                format!(
                    "--- agent {}:\n{}\n",
                    self.name,
                    log.get(start..).unwrap_or_default()
                )
                .as_bytes(),
            ));
        }
        drop(fs::remove_dir_all(self.pins()));
        // The kernel frees programs a little after their last reference.
        drop(wait::within(
            Duration::from_secs(2),
            "pins to be gone",
            || (!self.pins().exists()).then_some(()),
        ));
    }
}

/// The capabilities that the systemd unit leaves to the agent, as `setpriv` wants them:
/// `,+net_admin,+sys_admin`.
fn privileges() -> String {
    let unit = include_str!("../../../deploy/systemd/interceptor.service");
    let mut lines = unit.lines();
    let list = lines.find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = list.unwrap_or_default().split_whitespace();
    names
        .map(|name| name.replacen("CAP_", ",+", 1).to_lowercase())
        .collect()
}

fn configuration(agent: &Agent, ca: &Path, cgroup: &Path, setup: &Setup) -> String {
    let lifetime = setup
        .svid_lifetime
        .as_ref()
        .map_or(String::new(), |it| format!("  svidLifetime: {it}\n"));
    let prober = setup
        .prober
        .as_ref()
        .map_or(String::new(), |it| format!("  prober: {}\n", it.display()));
    format!(
        "node: {name}\n\
         manifests: {manifests}\n\
         runFolder: {run}\n\
         identity:\n  caDirectory: {ca}\n{lifetime}\
         capture:\n  cgroupRoot: {cgroup}\n{prober}{capture}\
         telemetry:\n  accessLog:\n    format: json\n    file: {access}\n\
         {extra}\n",
        name = agent.name,
        manifests = agent.manifests().display(),
        run = agent.folder.display(),
        ca = ca.display(),
        cgroup = cgroup.display(),
        access = agent.folder.join("access.log").display(),
        capture = setup.capture,
        extra = setup.extra,
    )
}
