//! `interceptor run --plan-upgrade`: what taking over from the running agent would do, before it
//! is done. Reads only.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::output::{Report, Style, Table, Tone, cell};
use super::{Exit, Failure, client, human, settings};
use crate::config::Config;
use crate::telemetry::record::Security;
use crate::telemetry::{ConnectionView, Status};

/// What would happen.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Plan {
    node: String,
    /// The running agent.
    from: Agent,
    /// This binary.
    to: String,
    /// Why it would be refused, if it would.
    refused: Option<String>,
    /// Kernel programs that would be replaced in place, and how often each is attached.
    replaced: BTreeMap<String, usize>,
    /// Maps that would be adopted as they are.
    adopted: Vec<String>,
    /// How long open connections may take to end.
    drain_seconds: u64,
    /// Connections that the running agent carries: they may end until the deadline, then they are
    /// cut.
    drained: Vec<ConnectionView>,
    /// Connections that the kernel carries: they go on.
    go_on: usize,
}

#[derive(Debug, Serialize)]
struct Agent {
    version: String,
    pid: u32,
}

#[derive(Deserialize)]
struct Connections {
    live: Vec<ConnectionView>,
}

/// Asks the running agent of this configuration.
pub(super) fn plan(config: &Config) -> Result<Plan, Failure> {
    let socket = config.socket();
    let status: Status = client::fetch(&socket, "/status")?;
    let connections: Connections = client::fetch(&socket, "/connections")?;
    let deadline = deadline_of(&socket).unwrap_or(config.drain_deadline);
    let refused = refusal(config, &status);
    Ok(Plan::new(
        status,
        connections.live,
        (deadline, refused),
        env!("CARGO_PKG_VERSION"),
    ))
}

/// The running agent's own deadline counts, not the new configuration's.
fn deadline_of(socket: &Path) -> Option<Duration> {
    Some(settings::of_agent(socket).ok()?.drain_deadline)
}

/// Why the running agent would not hand over to this one.
fn refusal(config: &Config, status: &Status) -> Option<String> {
    if *config.mesh.node != *status.node {
        return Some(format!(
            "the agent in {} is that of node {}",
            config.run_folder.display(),
            status.node
        ));
    }
    let ours = crate::capture::Config::layout();
    let other = config.capture.pinned_layouts();
    let other = other.into_iter().find(|layout| *layout != ours)?;
    Some(format!(
        "its kernel maps have layout {other}, this version's {ours}: stop the agent, run \
         `interceptor uninstall`, start this one"
    ))
}

impl Plan {
    fn new(
        status: Status,
        live: Vec<ConnectionView>,
        (deadline, refused): (Duration, Option<String>),
        version: &str,
    ) -> Self {
        let mut replaced = BTreeMap::new();
        for program in status.programs {
            *replaced.entry(program.name).or_default() += 1;
        }
        let by_kernel = |it: &ConnectionView| it.security == Security::Kernel;
        let (go_on, drained): (Vec<_>, Vec<_>) = live.into_iter().partition(by_kernel);
        Self {
            node: status.node,
            from: Agent {
                version: status.version,
                pid: status.pid,
            },
            to: version.to_owned(),
            refused,
            replaced,
            adopted: status.maps.into_iter().map(|map| map.name).collect(),
            drain_seconds: deadline.as_secs(),
            drained,
            go_on: go_on.len(),
        }
    }

    fn first_line(&self) -> String {
        let Agent { version, pid } = &self.from;
        let who = format!("node {}: version {version}, pid {pid}", self.node);
        match &self.refused {
            Some(why) => format!("{who} would NOT hand over: {why}"),
            None => format!(
                "{who} would hand over to version {}; {} may end within {} s, then cut",
                self.to,
                human::count(self.drained.len(), "open connection"),
                self.drain_seconds
            ),
        }
    }
}

impl Report for Plan {
    fn text(&self, style: Style) -> String {
        let tone = match self.refused {
            None => Tone::Good,
            Some(_) => Tone::Bad,
        };
        let mut text = style.paint(tone, &self.first_line());
        let programs: Vec<_> = (self.replaced.iter())
            .map(|(name, count)| format!("{name} ({count})"))
            .collect();
        for line in [
            format!("replaced in place: {}", programs.join(", ")),
            format!("adopted: {}", self.adopted.join(", ")),
            format!(
                "carried by the kernel, so they go on: {}",
                human::count(self.go_on, "connection")
            ),
        ] {
            text.push_str("\n  ");
            text.push_str(&line);
        }
        text.push('\n');
        if !self.drained.is_empty() {
            let mut table = Table::new(["CONNECTION", "AGE", "FROM", "TO"]);
            for view in &self.drained {
                let age = human::duration(Duration::from_millis(view.age_ms));
                table.row([
                    cell(view.conn_id.clone()),
                    cell(age),
                    cell(name(&view.source)),
                    cell(name(&view.destination)),
                ]);
            }
            text.push_str(&table.text(style));
        }
        text
    }

    fn exit(&self) -> Exit {
        match self.refused {
            None => Exit::Yes,
            Some(_) => Exit::No,
        }
    }
}

/// An end, as people know it.
fn name(end: &crate::telemetry::view::EndView) -> String {
    let address = end.address.map(|it| it.to_string());
    match (&end.workload, address) {
        (Some(workload), Some(address)) => format!("{workload} ({address})"),
        (Some(one), None) => one.clone(),
        (None, address) => address.unwrap_or_else(|| "unknown".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::telemetry::record::fixtures as records;
    use crate::telemetry::status::fixtures::healthy;
    use crate::telemetry::view::State;

    fn plan(refused: Option<&str>) -> Plan {
        let mut status = healthy();
        let again = status.programs.clone();
        status.programs.extend(again.into_iter().skip(1));
        let live = [
            records::allowed(),
            records::direct(),
            records::passthrough(),
            records::allowed_inbound(),
        ];
        let live = live.iter().map(|it| ConnectionView::new(it, State::Open));
        let refused = refused.map(str::to_owned);
        let deadline = Duration::from_secs(30);
        Plan::new(status, live.collect(), (deadline, refused), "0.2.0")
    }

    #[rstest]
    #[case::it_would_hand_over("plan", None, Exit::Yes)]
    #[case::it_would_not(
        "refused_plan",
        Some("its kernel maps have layout 2, this version's 3: stop the agent"),
        Exit::No
    )]
    fn what_an_upgrade_would_do_is_golden(
        #[case] name: &str,
        #[case] refused: Option<&str>,
        #[case] exit: Exit,
    ) {
        let plan = plan(refused);
        insta::assert_snapshot!(name, plan.text(Style::Plain));
        assert_eq!(plan.exit(), exit);
    }
}
