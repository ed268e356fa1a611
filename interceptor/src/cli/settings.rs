//! Which agent's configuration file a command works with.

use std::path::{Path, PathBuf};

use super::{Failure, client};
use crate::config::{Config, DEFAULT_FILE};
use crate::yaml::Mistake;

/// The agent's configuration, for commands that need its places and names.
#[derive(Debug, clap::Args)]
pub(super) struct AgentConfig {
    /// The agent's configuration file. Without one, /etc/interceptor/config.yaml if it is there,
    /// else the defaults.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The node's name, instead of the file's.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

impl AgentConfig {
    /// Whether a file was named.
    pub(super) const fn is_named(&self) -> bool {
        self.config.is_some()
    }

    /// The configuration that the options name; the defaults if they name none and there is none.
    pub(super) fn load_or_default(&self) -> Result<Config, Failure> {
        let node = self.node.as_deref();
        let default = Path::new(DEFAULT_FILE);
        match &self.config {
            Some(path) => Config::load(path, node),
            None if default.exists() => Config::load(default, node),
            None => Config::parse("the defaults", b"", node),
        }
        .map_err(|mistakes| failure(&mistakes))
    }
}

/// The configuration that the running agent has.
pub(super) fn of_agent(socket: &Path) -> Result<Config, Failure> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Dump {
        in_force: InForce,
    }
    #[derive(serde::Deserialize)]
    struct InForce {
        agent: serde_json::Value,
    }
    let dump: Dump = client::fetch(socket, "/config_dump")?;
    // JSON is YAML.
    let text = dump.in_force.agent.to_string();
    Config::parse("the agent's configuration", text.as_bytes(), None)
        .map_err(|mistakes| failure(&mistakes))
}

/// All mistakes of a configuration file, together.
pub(super) fn failure(mistakes: &[Mistake]) -> Failure {
    let lines: Vec<_> = mistakes.iter().map(|m| format!("\n  {m}")).collect();
    Failure::new(format!(
        "the configuration file has mistakes:{}",
        lines.concat()
    ))
}
