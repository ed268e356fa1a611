//! Comparing what clients did with what agents say, connection by connection.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use interceptor_tests::access::Line;
use interceptor_tests::agent::Agent;
use interceptor_tests::metrics::Metrics;
use interceptor_tests::wait;
use interceptor_tests::wire::HBONE_PORT;

/// What a client saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Answered,
    Refused,
}

/// Who tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Party {
    /// Enrolled: its agent tells.
    Member,
    /// Not enrolled: the other end's agent tells.
    Stranger,
    /// Sometimes the one and sometimes the other.
    Visitor,
}

/// What the policies say of a connection, where that did not change while it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// It is carried to its end.
    Allowed,
    /// This policy refuses it.
    Denied(&'static str),
    /// Nobody listens there.
    Failed,
    /// It depends on the moment.
    Either,
}

/// One connection that a client tried to make.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) party: Party,
    /// Its own address and port: no two attempts have the same.
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) fate: Fate,
    pub(super) expected: Expected,
}

/// Everything that anybody has to say, after everything has ended.
pub(super) struct Books {
    attempts: Vec<Attempt>,
    outbound: Vec<Line>,
    inbound: Vec<Line>,
}

impl Books {
    /// Waits until the agents have written everything down, so that each agent's lines and metrics
    /// agree with each other, and every attempt has a record or was refused by the kernel.
    pub(super) fn close(attempts: &[Attempt], [near, far]: [&Agent; 2]) -> Result<Self> {
        wait::settled("the books to be closed", || {
            let mut books = Self {
                attempts: attempts.to_vec(),
                outbound: Vec::new(),
                inbound: Vec::new(),
            };
            books.read(near)?;
            books.read(far)?;
            let missing = books.missing().count();
            ensure!(missing == 0, "{missing} attempts without a record");
            Ok(books)
        })
    }

    /// Adds what one agent has to say.
    fn read(&mut self, agent: &Agent) -> Result<()> {
        let metrics = agent.metrics()?;
        let (outbound, inbound): (Vec<_>, Vec<_>) =
            agent.access().into_iter().partition(Line::is_outbound);
        agree(&metrics, "source", &outbound)?;
        agree(&metrics, "destination", &inbound)?;
        for nothing in [
            "interceptor_access_lines_lost_total",
            "interceptor_metric_label_sets_overflowed_total",
            "interceptor_connections_open",
        ] {
            let some = metrics.sum(nothing, &[]).abs();
            ensure!(some == 0.0, "{nothing}: {some}");
        }
        let lost = events(&metrics, "direct_event_lost");
        ensure!(lost == 0, "{lost} events of the kernel were lost");
        if !outbound.is_empty() {
            let (captured, direct) = (events(&metrics, "captured"), events(&metrics, "direct"));
            ensure!(
                captured + direct == outbound.len(),
                "the kernel saw {captured} captured and {direct} direct, not {}",
                outbound.len()
            );
            let told = outbound.iter().filter(|line| line.is_direct()).count();
            ensure!(told == direct, "{direct} were direct, {told} lines say so");
        }
        self.outbound.extend(outbound);
        self.inbound.extend(inbound);
        Ok(())
    }

    /// The attempts that nobody has told of yet.
    fn missing(&self) -> impl Iterator<Item = &Attempt> {
        let told = self.outbound.iter().chain(&self.inbound);
        let told: HashSet<_> = told.filter_map(source).collect();
        let attempts = self.attempts.iter();
        attempts.filter(move |attempt| !told.contains(&attempt.from))
    }

    /// Every attempt has its one record at its source, or where it arrived if it had no agent; no
    /// record is without an attempt, and all of them tell what the client saw.
    pub(super) fn assert_balanced(&self) {
        let mut wrong = self.unexplained();
        wrong.extend(self.orphans());
        let count = wrong.len();
        wrong.truncate(20);
        assert!(wrong.is_empty(), "{count} wrong: {wrong:#?}");
        // And it was a stress test.
        let answered = self.attempts.iter().filter(|it| it.fate == Fate::Answered);
        let answered = answered.count();
        let refused = self.attempts.len() - answered;
        let direct = self.outbound.iter().filter(|it| it.is_direct()).count();
        let judged = |expected: fn(&Expected) -> bool| {
            let attempts = self.attempts.iter();
            attempts.filter(|it| expected(&it.expected)).count()
        };
        let allowed = judged(|it| *it == Expected::Allowed);
        let denied = judged(|it| matches!(it, Expected::Denied(_)));
        let [past_us, by_us] = self.failures();
        let all = [answered, refused, direct, allowed, denied, past_us, by_us];
        assert!(
            all.iter().all(|it| *it > 20),
            "answered, refused, direct, judged as allowed and as denied, failed past the agent and \
             on its path: {all:?}"
        );
    }

    /// How many of those that reached nobody went past the agents, and how many did not.
    fn failures(&self) -> [usize; 2] {
        let failed = self.attempts.iter();
        let failed: HashSet<_> = failed
            .filter(|it| it.expected == Expected::Failed)
            .map(|it| it.from)
            .collect();
        let told = |line: &&Line| source(line).is_some_and(|it| failed.contains(&it));
        let (past_us, by_us): (Vec<_>, Vec<_>) =
            (self.outbound.iter().filter(told)).partition(|line| line.is_direct());
        [past_us.len(), by_us.len()]
    }

    /// Attempts with no record or several, or with one that tells otherwise.
    fn unexplained(&self) -> Vec<String> {
        let (outbound, inbound) = (by_source(&self.outbound), by_source(&self.inbound));
        let by_id = by_id(&self.inbound);
        let judge = |attempt: &Attempt| {
            let left = told_of(&outbound, attempt.from);
            let arrived = told_of(&inbound, attempt.from);
            let id = left.first().and_then(|line| line.conn_id.as_deref());
            // The other end of a connection past the agents has the same source.
            let others = arrived.iter().filter(|it| id != it.conn_id.as_deref());
            let own: Vec<_> = left.iter().chain(others).collect();
            let [line] = own.as_slice() else {
                return Some(format!("{attempt:?} has {} records: {own:?}", own.len()));
            };
            if !is_by_the_right_one(attempt.party, line)
                || !tells(line, attempt)
                || !is_expected(line, attempt)
            {
                return Some(format!("{attempt:?} is told otherwise: {line:?}"));
            }
            let ends = id.and_then(|it| by_id.get(it));
            let ends = ends.map_or(&[][..], Vec::as_slice);
            let is_judged = attempt.expected != Expected::Either;
            let is_carried = line.is_allowed() && line.dst_identity.is_some();
            let must = line.is_outbound() && (is_carried || is_judged);
            let wrong = ends.len() > 1
                || (must && ends.is_empty())
                || !ends.iter().all(|end| is_expected(end, attempt));
            wrong.then(|| format!("{attempt:?} has the other ends {ends:?}: {line:?}"))
        };
        self.attempts.iter().filter_map(judge).collect()
    }

    /// Records that no attempt explains.
    ///
    /// There are two kinds of connections besides those of the clients. An agent that does not know
    /// a destination any more calls it in plaintext, and the other end's agent, which still serves
    /// it, tells of that call. And an agent that dials a destination that has just come, or is about
    /// to go, may meet its agent without a certificate for it, which tells of that handshake. Both
    /// have a call at their source to the same place.
    fn orphans(&self) -> Vec<String> {
        let made: HashSet<_> = self.attempts.iter().map(|it| it.from).collect();
        let ids = by_id(&self.outbound);
        let mut dialled: HashMap<_, usize> = HashMap::new();
        let dials = |line: &&Line| is_in_plaintext(line) || is_gateway(line);
        for line in self.outbound.iter().filter(dials) {
            *dialled.entry(line.dst_addr.clone()).or_default() += 1;
        }
        let mut is_known = |line: &&Line| {
            let id = line.conn_id.as_deref().unwrap_or_default();
            let is_other_end = !line.is_outbound() && ids.contains_key(id);
            if is_other_end || source(line).is_some_and(|it| made.contains(&it)) {
                return true;
            }
            let calls = dialled.entry(line.dst_addr.clone()).or_default();
            let is_dial = !is_gateway(line) || line.reason.as_deref() == Some("no_identity");
            let is_dial = is_dial && !line.is_outbound() && line.src_identity.is_none();
            let explained = is_dial && *calls > 0;
            *calls -= usize::from(explained);
            explained
        };
        let lines = self.outbound.iter().chain(&self.inbound);
        let orphans = lines.filter(|line| !is_known(line));
        orphans
            .map(|line| format!("nobody made {line:?}"))
            .collect()
    }
}

/// Whether an agent carried it to somebody who could not prove an identity.
fn is_in_plaintext(line: &Line) -> bool {
    line.dst_identity.is_none() && line.reason.as_deref() == Some("unknown_destination")
}

/// Whether the other end is an agent's port for peers.
fn is_gateway(line: &Line) -> bool {
    let to = line.dst_addr.as_deref().and_then(|it| it.parse().ok());
    to.is_some_and(|to: SocketAddr| to.port() == HBONE_PORT)
}

/// Whether it was told where it should have been.
fn is_by_the_right_one(party: Party, line: &Line) -> bool {
    match party {
        Party::Member => line.is_outbound(),
        Party::Stranger => !line.is_outbound(),
        Party::Visitor => true,
    }
}

/// Whether a line tells what the client saw. One that was answered may be cut while it closes.
fn tells(line: &Line, attempt: &Attempt) -> bool {
    let to = line.dst_hbone_addr.as_ref().or(line.dst_addr.as_ref());
    if to.and_then(|it| it.parse().ok()) != Some(attempt.to) {
        return false;
    }
    let decision = line.decision.as_deref().unwrap_or_default();
    match attempt.fate {
        Fate::Answered => matches!(decision, "allowed" | "cut"),
        // In plaintext the other end may take it and then refuse, which is its own affair.
        Fate::Refused => {
            matches!(decision, "denied" | "failed" | "cut")
                || (line.is_allowed() && is_in_plaintext(line))
        }
    }
}

/// Whether a line tells what the policies made of it, and names the one that refused.
fn is_expected(line: &Line, attempt: &Attempt) -> bool {
    let told = (line.decision.as_deref(), line.policy.as_deref());
    match attempt.expected {
        Expected::Allowed => attempt.fate == Fate::Answered && line.is_allowed(),
        Expected::Denied(policy) => {
            attempt.fate == Fate::Refused && told == (Some("denied"), Some(policy))
        }
        Expected::Failed => {
            // Who dialled the application knows more than who was told by that one.
            let reason = match (line.is_outbound(), line.is_direct()) {
                (true, false) => "refused_by_peer",
                (true, true) | (false, _) => "app_unreachable",
            };
            let told = (line.decision.as_deref(), line.reason.as_deref());
            attempt.fate == Fate::Refused && told == (Some("failed"), Some(reason))
        }
        Expected::Either => true,
    }
}

fn source(line: &Line) -> Option<SocketAddr> {
    line.src_addr.as_deref()?.parse().ok()
}

fn by_source(lines: &[Line]) -> HashMap<SocketAddr, Vec<&Line>> {
    let mut found: HashMap<_, Vec<_>> = HashMap::new();
    for line in lines {
        if let Some(source) = source(line) {
            found.entry(source).or_default().push(line);
        }
    }
    found
}

fn told_of<'a>(lines: &HashMap<SocketAddr, Vec<&'a Line>>, from: SocketAddr) -> Vec<&'a Line> {
    lines.get(&from).cloned().unwrap_or_default()
}

fn by_id(lines: &[Line]) -> HashMap<&str, Vec<&Line>> {
    let mut found: HashMap<_, Vec<_>> = HashMap::new();
    for line in lines {
        let id = line.conn_id.as_deref().unwrap_or_default();
        found.entry(id).or_default().push(line);
    }
    found
}

/// How often something happened in the kernel.
fn events(metrics: &Metrics, event: &str) -> usize {
    let sum = metrics.sum("interceptor_kernel_events_total", &[("event", event)]);
    number(sum)
}

fn count(metrics: &Metrics, name: &str, reporter: &str) -> usize {
    number(metrics.sum(name, &[("reporter", reporter)]))
}

/// A count as a number; the sum of nothing is minus zero.
fn number(sum: f64) -> usize {
    format!("{}", sum.abs()).parse().unwrap_or(usize::MAX)
}

/// An agent's lines and its metrics tell of the same connections, and the same of each.
fn agree(metrics: &Metrics, reporter: &str, lines: &[Line]) -> Result<()> {
    let count = |name| count(metrics, name, reporter);
    let decided = |decision: &str| {
        let lines = lines.iter().map(|line| line.decision.as_deref());
        lines.filter(|it| *it == Some(decision)).count()
    };
    let failed = lines.len() - decided("allowed");
    for (name, expected) in [
        ("istio_tcp_connections_opened_total", lines.len()),
        ("istio_tcp_connections_closed_total", lines.len()),
        ("istio_tcp_connections_failed_total", failed),
        ("interceptor_connections_denied_total", decided("denied")),
        ("interceptor_connections_failed_total", decided("failed")),
        ("interceptor_connections_cut_total", decided("cut")),
    ] {
        let counted = count(name);
        ensure!(
            counted == expected,
            "{name} of {reporter}: {counted}, and {expected} lines"
        );
    }
    Ok(())
}
