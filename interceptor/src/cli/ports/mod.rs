//! `interceptor ports`: what meets at a Service's port, and who gets through?

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde::Serialize;

use super::connections::Answer as Connections;
use super::manifests::Manifests;
use super::output::{Printer, Report, Style, Tone};
use super::{Exit, Failure, client, human};
use crate::explain::ports::{self, CallerView, PortView, TargetView};
use crate::telemetry::record::{Outcome, Reporter};
use crate::telemetry::{ConnectionView, calls};

/// What meets at a Service's port, and who gets through?
///
/// For each port: its number and name; the application protocol that it is taken to speak and what
/// made it so; the ports of the workloads behind it; whether what arrives is captured; mTLS mode and
/// policies in force; who may call, read from the rules; and, from the running agent, who does.
/// Workloads that are alike are shown together.
///
/// Asks the running agent about the mesh in force; with `-f` it reads manifests instead.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code: 0 answered, 2 there is no such Service or port.

Examples:
  interceptor ports                              every port of every Service
  interceptor ports demo/server                  the ports of one
  interceptor ports demo/server:tcp-echo         one port, by number or name
  interceptor ports -f deploy/examples -o json | jq -r '.ports[] | select(.admitsPlaintext).service'")]
pub(super) struct Args {
    /// NAMESPACE/SERVICE or its host, with `:PORT` for one port. All without.
    #[arg(value_name = "SERVICE")]
    service: Option<String>,

    #[command(flatten)]
    manifests: Manifests,
}

pub(super) fn run(args: &Args, socket: &Path, printer: &Printer) -> Result<Exit, Failure> {
    let service = args.service.as_deref();
    if let Some(mesh) = args.manifests.load()? {
        let found = ports::ports(&mesh, service).map_err(Failure::new)?;
        return printer.report(&Ports::of(found, None));
    }
    let path = match service {
        Some(service) => format!("/ports?service={}", client::encoded(service)),
        None => "/ports".to_owned(),
    };
    let found: Vec<PortView> = client::fetch(socket, &path)?;
    let Connections { live, recent, .. } = client::fetch(socket, "/connections")?;
    let over: calls::Report = client::fetch(socket, "/calls")?;
    let connections: Vec<ConnectionView> = live.into_iter().flatten().chain(recent).collect();
    let known = Known {
        connections: &connections,
        over: &over.calls,
    };
    printer.report(&Ports::of(found, Some(known)))
}

#[derive(Debug, Serialize)]
struct Ports {
    ports: Vec<Port>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    #[serde(flatten)]
    view: PortView,
    admits_plaintext: bool,
    /// Who calls, as far as this agent has seen; `None` if no agent was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<Vec<Seen>>,
}

/// A caller that was seen.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Seen {
    /// Its identity; its address where it proved none.
    who: String,
    /// Connections that are open now.
    open: u64,
    /// Connections that went through before, since the agent started.
    before: u64,
    /// Connections that were refused, failed or cut lately.
    refused: u64,
}

/// What the agent knows of connections.
#[derive(Clone, Copy)]
struct Known<'a> {
    /// Those that are open, and those that did not end well lately.
    connections: &'a [ConnectionView],
    /// Those that are over, counted.
    over: &'a [calls::Call],
}

impl Ports {
    fn of(views: Vec<PortView>, known: Option<Known<'_>>) -> Self {
        let port = |view: PortView| Port {
            admits_plaintext: view.admits_plaintext(),
            seen: known.map(|known| seen(&view, known)),
            view,
        };
        Self {
            ports: views.into_iter().map(port).collect(),
        }
    }

    fn headline(&self, style: Style) -> String {
        let count = human::count(self.ports.len(), "port");
        let open = self
            .ports
            .iter()
            .filter(|port| port.admits_plaintext)
            .count();
        match (self.ports.len(), open) {
            (0, _) => "no Service has a TCP port".to_owned(),
            (1, 0) => style.paint(Tone::Good, "plaintext does not get through"),
            (1, _) => style.paint(Tone::Warning, "plaintext gets through"),
            (_, 0) => style.paint(
                Tone::Good,
                &format!("{count}; plaintext gets through to none"),
            ),
            (_, open) => {
                let told = format!("{count}; plaintext gets through to {open}");
                style.paint(Tone::Warning, &told)
            }
        }
    }
}

/// Who called the port, those with open connections first.
fn seen(view: &PortView, known: Known<'_>) -> Vec<Seen> {
    let mut callers: BTreeMap<String, Seen> = BTreeMap::new();
    for connection in known.connections {
        let to = connection.hbone_address.or(connection.destination.address);
        let addressed = connection.service.as_deref() == Some(view.service.as_str())
            && to.is_some_and(|to| to.port() == view.port);
        if !addressed && !reaches(view, connection.destination.workload.as_deref(), to) {
            continue;
        }
        let source = &connection.source;
        let ip = source.address.map(|address| address.ip());
        let Some(caller) = caller_of(&mut callers, source.identity.as_deref(), ip) else {
            continue;
        };
        match connection.decision {
            Outcome::Allowed => caller.open += 1,
            Outcome::Denied | Outcome::Failed | Outcome::Cut => caller.refused += 1,
        }
    }
    // Both ends of a connection inside of this node tell of it; where it arrived counts.
    let told_by = |reporter: Reporter| {
        let calls = known.over.iter().filter(|call| {
            let arrives = reaches(view, call.destination.as_deref(), Some(call.to));
            !call.refused && call.reporter == reporter && arrives
        });
        calls.collect::<Vec<_>>()
    };
    let arrived = before(&told_by(Reporter::Destination), &mut callers);
    let left = before(&told_by(Reporter::Source), &mut callers);
    for (who, caller) in &mut callers {
        let of = |counts: &BTreeMap<String, u64>| counts.get(who).copied().unwrap_or_default();
        caller.before = of(&arrived).max(of(&left));
    }
    let mut seen: Vec<Seen> = callers.into_values().collect();
    let order = |one: &Seen| (one.open, one.before);
    seen.sort_by(|a, b| order(b).cmp(&order(a)).then_with(|| a.who.cmp(&b.who)));
    seen
}

fn reaches(view: &PortView, workload: Option<&str>, to: Option<SocketAddr>) -> bool {
    let both = workload.zip(to);
    both.is_some_and(|(workload, to)| view.leads_to(workload, to.port()))
}

/// The caller with that identity, or with that address if it proved none.
fn caller_of<'c>(
    callers: &'c mut BTreeMap<String, Seen>,
    identity: Option<&str>,
    ip: Option<IpAddr>,
) -> Option<&'c mut Seen> {
    let plaintext = || ip.map(|ip| format!("plaintext from {ip}"));
    let who = identity.map(str::to_owned).or_else(plaintext)?;
    Some(callers.entry(who.clone()).or_insert(Seen {
        who,
        open: 0,
        before: 0,
        refused: 0,
    }))
}

/// How often each caller called.
fn before(calls: &[&calls::Call], callers: &mut BTreeMap<String, Seen>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for call in calls {
        let caller = caller_of(callers, call.identity.as_deref(), Some(call.source_ip));
        if let Some(caller) = caller {
            *counts.entry(caller.who.clone()).or_default() += call.connections;
        }
    }
    counts
}

// === how it is shown ===

impl Report for Ports {
    fn text(&self, style: Style) -> String {
        let mut text = self.headline(style);
        text.push('\n');
        for port in &self.ports {
            text.push('\n');
            port.text(style, &mut text);
        }
        text
    }

    fn exit(&self) -> Exit {
        Exit::Yes
    }
}

impl Port {
    fn text(&self, style: Style, text: &mut String) {
        let PortView {
            service,
            port,
            name,
            ..
        } = &self.view;
        let name = name
            .as_ref()
            .map_or_else(String::new, |name| format!(" ({name})"));
        text.push_str(&style.paint(Tone::Strong, &format!("{service}:{port}{name}")));
        text.push('\n');
        let protocol = format!("{}: {}", self.view.protocol, self.view.protocol_because);
        let tone = match self.view.protocol.as_str() {
            "unknown" => Tone::Warning,
            _ => Tone::Normal,
        };
        text.push_str(&row(style, "protocol", &protocol, tone));
        if self.view.targets.is_empty() {
            let told = "nowhere: connections to it are refused";
            text.push_str(&row(style, "leads to", told, Tone::Warning));
        }
        for target in &self.view.targets {
            target_text(target, style, text);
        }
        if !self.view.without.is_empty() {
            let told = self.view.without.join(", ");
            text.push_str(&row(style, "without it", &told, Tone::Warning));
        }
        let seen = self.seen.iter().flatten().map(Seen::to_string);
        rows(style, "seen", seen, text);
        if self.seen.as_ref().is_some_and(Vec::is_empty) {
            text.push_str(&row(
                style,
                "seen",
                "nobody yet, by this agent",
                Tone::Faint,
            ));
        }
    }
}

fn target_text(target: &TargetView, style: Style, text: &mut String) {
    let workloads = target.workloads.join(", ");
    let leads = format!("port {} of {workloads}", target.port);
    text.push_str(&row(style, "leads to", &leads, Tone::Normal));
    let (told, tone) = if target.captured {
        (format!("yes: {}", target.captured_because), Tone::Normal)
    } else {
        (format!("no: {}", target.captured_because), Tone::Warning)
    };
    text.push_str(&row(style, "captured", &told, tone));
    text.push_str(&row(style, "same node", &target.same_node, Tone::Normal));
    let mtls = format!("{} ({})", target.mtls, target.mtls_because);
    text.push_str(&row(style, "mTLS", &mtls, Tone::Normal));
    if target.policies.is_empty() {
        text.push_str(&row(style, "policies", "none", Tone::Normal));
    }
    rows(style, "policies", target.policies.iter().cloned(), text);
    if target.may_call.is_empty() {
        text.push_str(&row(style, "may call", "nobody", Tone::Warning));
    }
    rows(style, "may call", target.may_call.iter().map(caller), text);
    rows(style, "but not", target.may_not.iter().map(caller), text);
}

fn caller(view: &CallerView) -> String {
    match &view.rule {
        Some(rule) => format!("{}  ({rule})", view.who),
        None => view.who.clone(),
    }
}

/// A label, and a line for each of several values.
fn rows(style: Style, label: &str, values: impl Iterator<Item = String>, text: &mut String) {
    for (position, value) in values.enumerate() {
        let label = if position == 0 { label } else { "" };
        text.push_str(&row(style, label, &value, Tone::Normal));
    }
}

fn row(style: Style, label: &str, text: &str, tone: Tone) -> String {
    let label = style.paint(Tone::Faint, &format!("{label:<10}"));
    format!("  {label}  {}\n", style.paint(tone, text))
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            who,
            open,
            before,
            refused,
        } = self;
        write!(f, "{who}: {open} open")?;
        if *before > 0 {
            write!(f, ", {before} before")?;
        }
        match refused {
            0 => Ok(()),
            refused => write!(f, ", {refused} refused, failed or cut lately"),
        }
    }
}

#[cfg(test)]
mod tests;
