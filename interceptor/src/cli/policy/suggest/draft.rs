//! From recorded connections to the least that would have allowed them, as manifests.
//!
//! One ALLOW policy for each set of workloads that one selector can name, one rule for each set of
//! ports that the same callers use. A caller without mutual TLS can only be named by its address,
//! which proves nothing; the rule says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Serialize;

use super::recording::{Call, Departure, Recording, Seen};
use crate::cli::human;
use crate::workload::{Enrolment, Mesh, Workload, WorkloadId};

/// Labels that name an application, the most telling first.
const TELLING: [&str; 3] = ["app.kubernetes.io/name", "app", "k8s-app"];

/// Labels that name one Pod or one version of it, or that are about something else.
const PASSING: [&str; 7] = [
    "apps.kubernetes.io/pod-index",
    "controller-revision-hash",
    "istio.io/dataplane-mode",
    "pod-template-generation",
    "pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
    "version",
];

/// The policies that would have allowed what was recorded.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Draft {
    /// How many connections they allow.
    pub(super) allows: u64,
    /// How many were looked at.
    pub(super) of: u64,
    pub(super) policies: Vec<Policy>,
    /// What no policy could be written for, and why.
    pub(super) left_out: Vec<String>,
    /// Records that say too little.
    pub(super) unusable: u64,
    #[serde(skip)]
    pub(super) now: Timestamp,
}

/// One `AuthorizationPolicy`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) selector: BTreeMap<String, String>,
    pub(super) rules: Vec<Rule>,
    /// Workloads that it selects as well and that nobody called.
    pub(super) uncalled: Vec<String>,
}

/// One rule: these callers at these ports.
#[derive(Debug, Serialize)]
pub(super) struct Rule {
    pub(super) callers: Vec<Caller>,
    pub(super) ports: Vec<u16>,
}

/// One caller of a rule.
#[derive(Debug, Serialize)]
pub(super) struct Caller {
    /// A principal, or an address if it proved none.
    #[serde(flatten)]
    pub(super) who: Who,
    pub(super) connections: u64,
    pub(super) last: Option<Timestamp>,
}

/// How a rule can name a caller.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Who {
    /// By what it proved.
    Principal(String),
    /// By its address.
    IpBlock(String),
}

type Selected = (String, BTreeMap<String, String>);
type Callers = BTreeMap<Who, (BTreeSet<u16>, u64, Option<Timestamp>)>;

impl Draft {
    /// Drafts policies for what went through, and for what was refused if `refused` says so.
    pub(super) fn of(mesh: &Mesh, recording: &Recording, refused: Refused, now: Timestamp) -> Self {
        let mut drafts: BTreeMap<Selected, Callers> = BTreeMap::new();
        let mut called: BTreeSet<WorkloadId> = BTreeSet::new();
        let mut left_out: BTreeMap<String, u64> = BTreeMap::new();
        let (mut allows, mut of) = (0, 0);
        let wanted = |call: &Call| call.allowed || refused == Refused::Include;
        for (call, seen) in recording.calls.iter().filter(|(call, _)| wanted(call)) {
            of += seen.count();
            match selected(mesh, call) {
                Ok(selected) => {
                    allows += seen.count();
                    called.insert(call.destination.clone());
                    add(drafts.entry(selected).or_default(), call, *seen);
                }
                Err(why) => *left_out.entry(why).or_default() += seen.count(),
            }
        }
        let wanted = |left: &Departure| left.allowed || refused == Refused::Include;
        for (_, seen) in recording.departures.iter().filter(|(left, _)| wanted(left)) {
            of += seen.count();
            let why = "left the mesh; Sidecar and ServiceEntry say what may".to_owned();
            *left_out.entry(why).or_default() += seen.count();
        }
        let left_out = left_out
            .into_iter()
            .map(|(why, n)| format!("{}: {why}", connections(n)))
            .collect();
        let mut policies: Vec<Policy> = drafts
            .into_iter()
            .map(|(selected, callers)| Policy::of(mesh, selected, callers, &called))
            .collect();
        number_equal_names(&mut policies);
        Self {
            allows,
            of,
            policies,
            left_out,
            unusable: recording.unusable,
            now,
        }
    }
}

/// Whether what was refused shall be allowed, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Include,
    LeaveOut,
}

/// The namespace and the labels by which a policy can select what was called.
fn selected(mesh: &Mesh, call: &Call) -> Result<Selected, String> {
    let id = &call.destination;
    let Some(workload) = mesh.workload(id) else {
        return Err(format!("{id} is not in the manifests"));
    };
    if workload.enrolment != Enrolment::Enrolled {
        return Err(format!("{id} is {}", workload.enrolment));
    }
    let labels = selector(workload);
    if labels.is_empty() {
        return Err(format!(
            "{id} has no label by which a policy could select it"
        ));
    }
    Ok((id.namespace.to_string(), labels))
}

fn selector(workload: &Workload) -> BTreeMap<String, String> {
    let pair = |key: &str| Some((key.to_owned(), workload.labels.get(key)?.clone()));
    if let Some(telling) = TELLING.iter().find_map(|key| pair(key)) {
        return [telling]
            .into_iter()
            .chain(pair("app.kubernetes.io/instance"))
            .collect();
    }
    let lasting = |key: &&String| !PASSING.contains(&key.as_str());
    workload
        .labels
        .keys()
        .filter(lasting)
        .filter_map(|key| pair(key))
        .collect()
}

fn add(callers: &mut Callers, call: &Call, seen: Seen) {
    let who = match &call.identity {
        Some(identity) => Who::Principal(identity.principal().to_owned()),
        None => Who::IpBlock(call.source_ip.to_string()),
    };
    let (ports, count, last) = callers.entry(who).or_default();
    ports.insert(call.target.port());
    *count += seen.count();
    *last = (*last).max(seen.last);
}

impl Policy {
    fn of(
        mesh: &Mesh,
        (namespace, selector): Selected,
        callers: Callers,
        called: &BTreeSet<WorkloadId>,
    ) -> Self {
        let mut rules: BTreeMap<(bool, BTreeSet<u16>), Vec<Caller>> = BTreeMap::new();
        for (who, (ports, connections, last)) in callers {
            let plain = matches!(who, Who::IpBlock(_));
            let caller = Caller {
                who,
                connections,
                last,
            };
            rules.entry((plain, ports)).or_default().push(caller);
        }
        let rules = rules.into_iter().map(|((_, ports), callers)| Rule {
            callers,
            ports: ports.into_iter().collect(),
        });
        let uncalled = mesh.workloads().filter(|workload| {
            let mut labels = selector.iter();
            *workload.id.namespace == *namespace
                && labels.all(|(key, value)| workload.labels.get(key) == Some(value))
                && !called.contains(&workload.id)
        });
        Self {
            name: name(&selector),
            rules: rules.collect(),
            uncalled: uncalled.map(|workload| workload.id.to_string()).collect(),
            namespace,
            selector,
        }
    }

    fn write(&self, out: &mut String, now: Timestamp) -> std::fmt::Result {
        for workload in &self.uncalled {
            writeln!(
                out,
                "# Nobody called {workload}, which this selects as well: nobody else will reach it."
            )?;
        }
        writeln!(
            out,
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: {}\n  \
             namespace: {}\nspec:\n  selector:\n    matchLabels:",
            scalar(&self.name),
            scalar(&self.namespace)
        )?;
        for (key, value) in &self.selector {
            writeln!(out, "      {}: {}", scalar(key), scalar(value))?;
        }
        writeln!(out, "  action: ALLOW\n  rules:")?;
        for rule in &self.rules {
            rule.write(out, now)?;
        }
        Ok(())
    }
}

impl Rule {
    fn write(&self, out: &mut String, now: Timestamp) -> std::fmt::Result {
        let plain = self
            .callers
            .iter()
            .any(|caller| matches!(caller.who, Who::IpBlock(_)));
        if plain {
            writeln!(
                out,
                "    # Plaintext: an address is no identity. Enrol these callers instead."
            )?;
        }
        let field = if plain { "ipBlocks" } else { "principals" };
        writeln!(out, "    - from:\n        - source:\n            {field}:")?;
        for caller in &self.callers {
            let (Who::Principal(who) | Who::IpBlock(who)) = &caller.who;
            let count = connections(caller.connections);
            let age = caller
                .last
                .map(|last| format!(", the last {} ago", human::since(last, now)));
            let age = age.unwrap_or_default();
            writeln!(out, "              - {} # {count}{age}", scalar(who))?;
        }
        writeln!(out, "      to:\n        - operation:\n            ports:")?;
        for port in &self.ports {
            writeln!(out, "              - \"{port}\"")?;
        }
        Ok(())
    }
}

impl Draft {
    /// The manifests, with everything else as comments.
    pub(super) fn yaml(&self) -> String {
        let policies = match self.policies.len() {
            1 => "1 policy".to_owned(),
            n => format!("{n} policies"),
        };
        let (allows, of) = (self.allows, connections(self.of));
        let mut out = format!("# {policies} would have allowed {allows} of {of} recorded\n");
        for left_out in &self.left_out {
            out.extend(["# left out: ", &comment(left_out), "\n"]);
        }
        if self.unusable > 0 {
            let unusable = self.unusable.to_string();
            out.extend(["# ", &unusable, " records say too little\n"]);
        }
        for policy in &self.policies {
            out.push_str("---\n");
            // Writing to a String cannot fail.
            policy.write(&mut out, self.now).unwrap_or_default();
        }
        out
    }
}

fn connections(count: u64) -> String {
    human::count(usize::try_from(count).unwrap_or(usize::MAX), "connection")
}

/// A name that Kubernetes allows.
fn name(selector: &BTreeMap<String, String>) -> String {
    let telling = TELLING.iter().find_map(|key| selector.get(*key));
    let value = telling
        .or(selector.values().next())
        .map_or("", String::as_str);
    let legal = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_lowercase() || c.is_ascii_digit() => c,
        _ => '-',
    };
    let value: String = value.chars().map(legal).collect();
    format!("allow-callers-of-{value}")
        .trim_end_matches('-')
        .to_owned()
}

fn number_equal_names(policies: &mut [Policy]) {
    let mut taken: BTreeMap<(String, String), usize> = BTreeMap::new();
    for policy in policies {
        let key = (policy.namespace.clone(), policy.name.clone());
        let number = taken.entry(key).or_default();
        *number += 1;
        if *number > 1 {
            policy.name = format!("{}-{number}", policy.name);
        }
    }
}

/// Text as YAML reads it back: as it is if it is a plain word, else in double quotes.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(word)
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if plain {
        return text.to_owned();
    }
    // A JSON string is a YAML string.
    serde_json::Value::String(text.to_owned()).to_string()
}

/// Text that stays within one comment.
fn comment(text: &str) -> String {
    crate::telemetry::text::bounded(text)
}
