//! The scenes, in order: each plays real traffic, shows what both agents said of it, and claims
//! only what it has checked.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use super::show::{Ink, Show};
use super::stage::{ADMIN, ECHO, ECHO_TARGET, Stage, service};
use crate::access::Line;
use crate::agent::Agent;
use crate::{apps, settings, wait};

type Scene = fn(&mut Stage, &mut Show) -> Result<()>;

/// All scenes in order.
pub(super) const ALL: [Scene; 8] = [
    allowed, refused, denied, plaintext, beside, cut, killed, seen,
];

const SECRET: &str = "the password is swordfish";
const ALLOW: &str = "demo/allow-caller";
const DENY: &str = "demo/deny-admin";
const STRICT: &str = "demo/default";

fn allowed(stage: &mut Stage, show: &mut Show) -> Result<()> {
    show.scene("The caller calls the server by its Service, as it always did")?;
    let to = service(ECHO)?;
    let answer = stage.caller.ask(to, SECRET)?;
    show.fact(
        "caller",
        &format!("connects to {to} in plaintext, says {SECRET:?}"),
    )?;
    show.fact(
        "server",
        &format!("hears it on port {ECHO_TARGET} and says {answer:?}"),
    )?;
    let (near, far) = both(stage, |line| {
        line.is_allowed() && workload(line) == "caller"
    })?;
    show.fact(
        "identities",
        &format!(
            "{}\n→ {}",
            text(far.src_identity.as_deref()),
            text(far.dst_identity.as_deref())
        ),
    )?;
    show.fact(
        "allowed by",
        &format!("{} rule {}", text(far.policy.as_deref()), number(far.rule)),
    )?;
    let (cipher, exchange) = (
        text(near.tls_cipher.as_deref()),
        text(near.tls_kx.as_deref()),
    );
    show.fact(
        "on the wire",
        &format!("TLS 1.3, {cipher}, {exchange}\n{}", records(stage)),
    )?;

    show.claim(
        "the answer is what was said",
        so(answer == SECRET, || answer.clone()),
    )?;
    show.claim(
        "the words never left node one in plaintext",
        stage.wire.assert_protected(SECRET.as_bytes()),
    )?;
    let seen = stage.echo.first()?;
    let address = seen.peer.ip();
    show.claim(
        &format!("the server saw the caller's true address, {address}"),
        so(address == stage.caller.v4(), || {
            format!("it saw {}", seen.peer)
        }),
    )?;
    let matches = near.src_identity == far.src_identity && near.dst_identity == far.dst_identity;
    show.claim(
        &format!(
            "both nodes' access logs have connection {} with these identities",
            text(near.conn_id.as_deref())
        ),
        so(
            matches && text(far.src_identity.as_deref()).ends_with("/sa/caller"),
            || format!("{near:#?}{far:#?}"),
        ),
    )
}

/// The beginnings of the TLS records that were captured.
fn records(stage: &Stage) -> String {
    let segments = stage.wire.on_port(crate::wire::HBONE_PORT);
    let begins: Vec<String> = segments
        .iter()
        .rev()
        .take(2)
        .filter_map(|segment| segment.payload.get(..5))
        .map(|bytes| {
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    format!(
        "{} segments on port 15008, such as {} …",
        segments.len(),
        begins.join(" …, ")
    )
}

fn refused(stage: &mut Stage, show: &mut Show) -> Result<()> {
    show.scene("An intruder on the same node tries the same")?;
    let before = stage.echo.seen().len();
    let error = stage.intruder.call(service(ECHO)?, SECRET);
    show.fact("intruder", &error_text(&error))?;
    let (near, far) = both(stage, |line| workload(line) == "intruder")?;
    show_refusal(show, &near, &far)?;
    show.claim("the connection was reset", reset(&error))?;
    show.claim(
        "both agents name the policy and the rule",
        names(&[&near, &far], ALLOW, Some(0)),
    )?;
    show.claim(
        "not a byte reached the server",
        so(stage.echo.seen().len() == before, || {
            "the server saw a connection".to_owned()
        }),
    )
}

fn denied(stage: &mut Stage, show: &mut Show) -> Result<()> {
    show.scene("The caller tries the server's admin port, which a DENY policy protects")?;
    let error = stage.caller.call(service(ADMIN)?, "shutdown");
    let (near, far) = both(stage, |line| line.policy.as_deref() == Some(DENY))?;
    show_refusal(show, &near, &far)?;
    show.claim("the connection was reset", reset(&error))?;
    show.claim(
        "both agents name the policy and the rule",
        names(&[&near, &far], DENY, Some(0)),
    )
}

fn plaintext(stage: &mut Stage, show: &mut Show) -> Result<()> {
    show.scene("A machine outside the mesh connects to the server's address in plaintext")?;
    let to = stage.server.at(ECHO_TARGET);
    let error = stage.outside.connect(to).and_then(|mut stream| {
        stream.write_all(b"let me in")?;
        stream.read(&mut [0]).map(|_| Vec::new())
    });
    show.fact("outside", &error_text(&error))?;
    let line = stage
        .far
        .access_line("the refusal", |line| line.policy.as_deref() == Some(STRICT))?;
    show.fact("node two says", text(line.error.as_deref()))?;
    show.claim("the connection was reset", reset(&error))?;
    show.claim(
        "node two names the object that demands mutual TLS",
        names(&[&line], STRICT, None),
    )
}

fn beside(stage: &mut Stage, show: &mut Show) -> Result<()> {
    const PORT: u16 = 7000;
    show.scene(
        "Two workloads of one node talk: through the agent once, then from socket to socket",
    )?;
    let _app = stage.caller.serve(PORT, apps::echo)?;
    let to = stage.caller.at(PORT);
    let direct = wait::until("a connection from socket to socket", || {
        stage.intruder.ask(to, SECRET).ok()?;
        let lines = stage.near.access();
        let direct = |line: &&Line| line.is_direct() && line.is_outbound();
        lines.iter().find(direct).cloned()
    })?;
    let first = stage.near.access_line("the first call", |line| {
        line.is_outbound() && line.dst_workload == direct.dst_workload
    })?;
    let other = stage.near.access_line("the other end", |line| {
        !line.is_outbound() && line.conn_id == direct.conn_id
    })?;
    let cipher = text(first.tls_cipher.as_deref());
    show.fact("the first", &format!("through the agent: {cipher}"))?;
    let round_trip = number(direct.tcp_srtt_us);
    let told = format!("no proxy on the path; the kernel measured a round trip of {round_trip} µs");
    show.fact("a later one", &told)?;
    show.claim(
        "the kernel knew both identities without a handshake",
        so(
            direct.src_identity.is_some() && direct.dst_identity.is_some(),
            || direct.text.clone(),
        ),
    )?;
    show.claim(
        "both ends were recorded all the same, with every byte",
        so(
            other.is_direct() && other.is_of(SECRET.len(), SECRET.len()),
            || other.text.clone(),
        ),
    )
}

fn cut(stage: &mut Stage, show: &mut Show) -> Result<()> {
    show.scene("A policy is edited while the caller has a connection open")?;
    let mut stream = stage.caller.connect(service(ECHO)?)?;
    stream.write_all(b"still there?")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    let file = stage.policies();
    let good = fs::read_to_string(&file)?;
    let edited = good.replace("sa/caller", "sa/somebody-else");
    ensure!(
        edited != good,
        "{} has changed: nothing to edit",
        file.display()
    );

    let start = Instant::now();
    stage.near.write("policies.yaml", &edited)?;
    let end = stream.read(&mut answer).map(|_| Vec::new());
    let took = start.elapsed();
    show.fact("edit", "allow-caller now allows sa/somebody-else only")?;
    show.fact(
        "caller",
        &format!(
            "{} {} ms after the edit",
            error_text(&end),
            took.as_millis()
        ),
    )?;
    let line = stage
        .far
        .access_line("the cut", |line| line.decision.as_deref() == Some("cut"))?;
    show.fact("node two says", text(line.error.as_deref()))?;
    show.claim("the open connection was reset", reset(&end))?;
    show.claim(
        "node two names the policy that cut it",
        names(&[&line], ALLOW, Some(0)),
    )?;

    let version = version(&stage.far)?;
    stage.near.write("policies.yaml", &good)?;
    wait::so("the restored policy to be in force", || {
        self::version(&stage.far).is_ok_and(|now| now > version)
    })?;
    let answer = stage.caller.ask(service(ECHO)?, SECRET);
    show.claim(
        "with the policy restored, the caller is served again",
        answer.and_then(|answer| so(answer == SECRET, || answer.clone())),
    )
}

/// The version of the configuration in force.
fn version(agent: &Agent) -> Result<u64> {
    let status = agent.status()?;
    let version = status
        .pointer("/configuration/version")
        .and_then(serde_json::Value::as_u64);
    version.context("status has no configuration version")
}

fn killed(stage: &mut Stage, show: &mut Show) -> Result<()> {
    show.scene("The agent of node one is killed: ports close instead of opening")?;
    let to = service(ECHO)?;
    stage.near.kill()?;
    let error = stage.caller.call(to, SECRET);
    show.fact("caller", &error_text(&error))?;
    let closed = match &error {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        other => Err(anyhow::anyhow!("{other:?}")),
    };
    show.claim("captured ports refuse at once", closed)?;
    show.claim(
        "nothing left in plaintext",
        stage.wire.assert_protected(SECRET.as_bytes()),
    )?;
    stage.near.restart()?;
    let answer = stage.caller.ask(to, SECRET);
    show.claim(
        "the agent is back, and no workload had to restart",
        answer.and_then(|answer| so(answer == SECRET, || answer.clone())),
    )
}

fn seen(stage: &mut Stage, show: &mut Show) -> Result<()> {
    show.scene("What operators see")?;
    let _live = stage.caller.connect(service(ECHO)?)?;
    wait::so("the live connection to be shown", || {
        let shown = stage.far.connections().unwrap_or_default();
        shown.pointer("/live/0").is_some()
    })?;
    for command in ["status", "connections"] {
        let (said, outcome) = tool(&stage.far, command)?;
        show.say(&show.ink(
            Ink::Bold,
            &format!("$ interceptor {command}      (node two)"),
        ))?;
        show.quote(abridged(&said))?;
        show.claim(&format!("interceptor {command} answers"), outcome)?;
    }
    show.say(&show.ink(
        Ink::Bold,
        "$ curl localhost:15020/metrics      (node two, abridged)",
    ))?;
    let metrics = stage.far.metrics()?;
    let name = "istio_tcp_connections_failed_total";
    let denied = [("reporter", "destination"), ("response_flags", "DENY")];
    for sample in metrics.matching(name, &denied) {
        let label = |key: &str| sample.labels.get(key).cloned().unwrap_or_default();
        let labels = format!(
            "source_workload={:?}, response_flags=\"DENY\", …",
            label("source_workload")
        );
        show.quote(&format!("{name}{{{labels}}} {}", sample.value))?;
    }
    let counted = metrics.sum(name, &denied);
    show.claim(
        "every refusal was counted",
        so(counted >= 3.0, || format!("{counted} of 3")),
    )
}

/// The first screen of `status`: without the kernel's counters.
fn abridged(said: &str) -> &str {
    said.split_once("\nKERNEL\n").map_or(said, |(head, _)| head)
}

/// Runs one of the agent's own tools as an operator would.
fn tool(agent: &Agent, command: &str) -> Result<(String, Result<()>)> {
    let socket = agent.socket();
    let socket = socket.to_str().context("the socket's path is not text")?;
    let output = agent.cli(&[command, "--socket", socket])?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let outcome = so(output.status.success(), || errors.clone());
    Ok((
        String::from_utf8_lossy(&output.stdout).into_owned(),
        outcome,
    ))
}

/// Waits for node one's line, then for node two's of the same connection.
fn both(stage: &Stage, wanted: impl Fn(&Line) -> bool) -> Result<(Line, Line)> {
    let near = stage
        .near
        .access_line("node one's line", |it| it.is_outbound() && wanted(it))?;
    let far = stage
        .far
        .access_line("node two's line", |line| line.conn_id == near.conn_id)?;
    Ok((near, far))
}

fn show_refusal(show: &Show, near: &Line, far: &Line) -> Result<()> {
    show.fact("node two says", text(far.error.as_deref()))?;
    show.fact("node one says", text(near.error.as_deref()))
}

fn workload(line: &Line) -> &str {
    line.src_workload.as_deref().unwrap_or_default()
}

fn text(value: Option<&str>) -> &str {
    value.unwrap_or("–")
}

fn number(value: Option<u64>) -> String {
    value.map_or_else(|| "–".to_owned(), |it| it.to_string())
}

fn so(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(anyhow::anyhow!(otherwise()))
    }
}

fn reset(outcome: &std::io::Result<Vec<u8>>) -> Result<()> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => bail!("instead: {other:?}"),
    }
}

fn names(lines: &[&Line], policy: &str, rule: Option<u64>) -> Result<()> {
    for line in lines {
        ensure!(
            line.policy.as_deref() == Some(policy) && line.rule == rule,
            "{line:#?}"
        );
    }
    Ok(())
}

fn error_text(outcome: &std::io::Result<Vec<u8>>) -> String {
    match outcome {
        Ok(answer) => format!("answer: {:?}", String::from_utf8_lossy(answer)),
        Err(error) => plain(error),
    }
}

/// An error in the system's words, without its number.
pub(super) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// The binary as people would call it.
pub(super) fn binary() -> Result<String> {
    Ok(settings::agent_binary()?.display().to_string())
}
