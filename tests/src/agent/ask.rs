//! Asking an agent: its ports, its metrics, and its own commands.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Agent;
use crate::http::{self, Response};
use crate::metrics::Metrics;
use crate::{settings, wait};

const ADMIN: u16 = 15000;
const METRICS: u16 = 15020;

impl Agent {
    /// Scrapes its metrics.
    ///
    /// # Errors
    ///
    /// Fails if it does not answer.
    pub fn metrics(&self) -> Result<Metrics> {
        let response = self.get(METRICS, "/metrics")?;
        ensure!(
            response.status == 200,
            "metrics answered {}: {}",
            response.status,
            response.body
        );
        Ok(Metrics::parse(&response.body))
    }

    /// Waits until the sum of a metric is at least this.
    ///
    /// # Errors
    ///
    /// Fails with the samples of that name.
    pub fn metric_reaches(&self, name: &str, labels: &[(&str, &str)], value: f64) -> Result<()> {
        wait::until(&format!("{name}{labels:?} to reach {value}"), || {
            (self.metrics().ok()?.sum(name, labels) >= value).then_some(())
        })
        .with_context(|| match self.metrics() {
            Ok(metrics) => format!("{:#?}", metrics.matching(name, &[]).collect::<Vec<_>>()),
            Err(error) => format!("{error:#}"),
        })
    }

    /// Asks its admin port.
    ///
    /// # Errors
    ///
    /// Fails if it does not answer.
    pub fn admin(&self, path: &str) -> Result<Response> {
        self.get(ADMIN, path)
    }

    /// Asks one of its ports from inside the node.
    ///
    /// # Errors
    ///
    /// Fails if it does not answer.
    pub fn get(&self, port: u16, path: &str) -> Result<Response> {
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        self.namespace.run(|| http::request(server, "GET", path))?
    }

    /// `interceptor status`.
    ///
    /// # Errors
    ///
    /// Fails if the command does.
    pub fn status(&self) -> Result<Value> {
        self.ask(&["status"])
    }

    /// `interceptor policy shadow`.
    ///
    /// # Errors
    ///
    /// Fails if the command does.
    pub fn shadow(&self) -> Result<Value> {
        self.ask(&["policy", "shadow"])
    }

    /// `interceptor policy suggest`, for what is open now.
    ///
    /// # Errors
    ///
    /// Fails if the command does.
    pub fn suggest(&self) -> Result<Value> {
        self.ask(&["policy", "suggest"])
    }

    /// `interceptor analyze`, of what the agent has.
    ///
    /// # Errors
    ///
    /// Fails if the command does, or finds an error.
    pub fn analyze(&self) -> Result<Value> {
        self.ask(&["analyze"])
    }

    /// `interceptor connections`.
    ///
    /// # Errors
    ///
    /// Fails if the command does.
    pub fn connections(&self) -> Result<Value> {
        self.ask(&["connections"])
    }

    /// `interceptor explain` with these arguments.
    ///
    /// # Errors
    ///
    /// Fails if the command does.
    pub fn explain(&self, arguments: &[&str]) -> Result<Value> {
        self.ask(&[&["explain"], arguments].concat())
    }

    /// `interceptor ports` of one Service.
    ///
    /// # Errors
    ///
    /// Fails if the command does.
    pub fn ports(&self, service: &str) -> Result<Value> {
        self.ask(&["ports", service])
    }

    fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let socket = self.socket();
        let socket = socket.to_str().context("the socket's path is not text")?;
        let output = self.cli(&[arguments, &["-o", "json", "--socket", socket]].concat())?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            format!(
                "{arguments:?} answered {said} {}",
                String::from_utf8_lossy(&output.stderr)
            )
        })
    }

    /// Runs the binary on this node and waits for it.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be started.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(settings::agent_binary()?);
        command.args(arguments).stdin(Stdio::null());
        Ok(self.namespace.run(move || command.output())??)
    }

    /// `interceptor connections -w`, which goes on until it is killed.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be started.
    pub fn follow(&self) -> Result<Child> {
        let mut command = Command::new(settings::agent_binary()?);
        command.args(["connections", "-w", "-o", "json", "--socket"]);
        command
            .arg(self.socket())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        Ok(self.namespace.run(move || command.spawn())??)
    }

    /// `interceptor uninstall --verify` with this agent's configuration.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be started.
    pub fn uninstall(&self) -> Result<Output> {
        let config = self.config();
        let config = config
            .to_str()
            .context("the configuration's path is not text")?;
        self.cli(&["uninstall", "--verify", "--config", config])
    }
}
