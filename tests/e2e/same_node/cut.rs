//! What a change does to connections that are open.

use std::io::{self, ErrorKind, Read as _};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use humantime::{format_rfc3339_seconds, parse_rfc3339};
use interceptor_tests::fabric::Fabric;
use interceptor_tests::manifests::{AuthorizationPolicy, Rule};
use interceptor_tests::wait;
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    SanType,
};
use rstest::rstest;
use serde_json::Value;

use super::{Home, exchange};

/// A change must have cut what it forbids within this time, from the moment when its file is
/// written.
const SOON: Duration = Duration::from_secs(1);

/// Other tests may keep the machine busy: the best of so many times counts.
const TRIES: usize = 6;

/// How soon an authority ends, and with it what it issues, if it is in force by then.
const LIFE: Duration = Duration::from_secs(6);

/// So many connections are open, besides the first.
const MANY: usize = 200;

/// A change that forbids what is open.
#[derive(Clone, Copy, Debug)]
enum Change {
    Policy,
    Label,
    Account,
    CallersAccount,
    SameNode,
}

impl Change {
    /// What it makes of the manifests.
    fn apply(self, home: &Home) -> Result<()> {
        let neighbour = home.neighbour.manifest();
        let neighbour = match self {
            Self::Policy | Self::CallersAccount => neighbour,
            Self::Label => neighbour.label("app", "closed"),
            Self::Account => neighbour.service_account("somebody-else"),
            Self::SameNode => neighbour.annotation("interceptor.dev/same-node", "mtls"),
        };
        let closed = AuthorizationPolicy::deny("closed").rule(&Rule::from("caller"));
        home.world.change(|it| {
            if matches!(self, Self::CallersAccount) {
                it.caller = it.caller.clone().service_account("somebody-else");
            }
            it.add(neighbour);
            it.add(match self {
                Self::Policy => closed,
                _ => closed.selecting("closed"),
            });
        })
    }
}

#[rstest]
#[case::a_policy(Change::Policy, "denied", Some("demo/closed"))]
#[case::a_label(Change::Label, "denied", Some("demo/closed"))]
#[case::a_service_account(Change::Account, "identity_changed", None)]
#[case::the_callers_service_account(Change::CallersAccount, "identity_changed", None)]
#[case::the_owners_wish(Change::SameNode, "same_node_mtls", None)]
fn a_change_that_forbids_an_open_connection_cuts_it_and_both_ends_say_why(
    #[case] change: Change,
    #[case] reason: &str,
    #[case] policy: Option<&str>,
) -> Result<()> {
    let Some(home) = Home::with(|it| it.add(not_yet()))? else {
        return Ok(());
    };
    let (first, server) = home.open(8080)?;
    let mut first = Some(first);
    let mut took = Vec::new();
    while took.len() < TRIES && took.iter().all(|took| *took >= SOON) {
        if !took.is_empty() {
            let neighbour = home.neighbour.manifest();
            home.world.change(|it| {
                it.add(neighbour);
                it.add(not_yet());
            })?;
        }
        let mut streams = open_many(&home)?;
        streams.extend(first.take());
        let begun = Instant::now();
        change.apply(&home)?;
        for stream in &mut streams {
            let error = stream.read(&mut [0]).expect_err("cut, not closed");
            let kinds = [ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted];
            assert!(kinds.contains(&error.kind()), "{error}");
        }
        took.push(begun.elapsed());
    }
    assert!(took.last().is_some_and(|took| *took < SOON), "{took:?}");
    // Those before it ended well; the application sees a reset, too.
    while server.outcome()?.is_ok() {}

    let cut = took.len() * MANY + 1;
    let agent = &home.world.near;
    let lines = wait::until("both ends' lines of all of them", || {
        let lines = agent.access().into_iter().filter(|it| !it.is_allowed());
        let lines: Vec<_> = lines.collect();
        (lines.len() == 2 * cut).then_some(lines)
    })?;
    for line in &lines {
        assert_eq!(line.decision.as_deref(), Some("cut"), "{line:?}");
        assert_eq!(line.reason.as_deref(), Some(reason), "{line:?}");
        assert_eq!(line.policy.as_deref(), policy, "{line:?}");
        assert!(line.is_direct() && line.error.is_some(), "{line:?}");
        assert!(line.is_of(6, 6), "{line:?}");
    }
    let cut = f64::from(u16::try_from(cut)?);
    for reporter in ["source", "destination"] {
        let labels = [("reporter", reporter), ("reason", reason)];
        let metric = "interceptor_connections_cut_total";
        agent.metric_reaches(metric, &labels, cut)?;
    }
    Ok(())
}

/// A policy that holds for nobody yet.
fn not_yet() -> AuthorizationPolicy {
    let closed = AuthorizationPolicy::deny("closed").selecting("closed");
    closed.rule(&Rule::from("caller"))
}

/// Opens many connections past the agent, of which it knows.
fn open_many(home: &Home) -> Result<Vec<TcpStream>> {
    let to = home.neighbour.at(8080);
    home.granted(to)?;
    let connect = || (0..MANY).map(|_| TcpStream::connect(to)).collect();
    let streams: io::Result<Vec<_>> = home.world.caller.run(connect)?;
    let mut streams = streams?;
    for stream in &mut streams {
        stream.set_read_timeout(Some(wait::PATIENCE))?;
        exchange(stream, b"before")?;
    }
    let open = "interceptor_same_node_connections_open";
    let many = f64::from(u16::try_from(MANY)?);
    home.world.near.metric_reaches(open, &[], many)?;
    Ok(streams)
}

#[test]
fn a_certificate_that_expires_cuts_what_is_open() -> Result<()> {
    let Some(home) = Home::with(|_| ())? else {
        return Ok(());
    };
    let (mut stream, _server) = home.open(8080)?;
    let_certificates_end(&home)?;

    let error = stream.read(&mut [0]).expect_err("cut, not closed");
    let kinds = [ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted];
    assert!(kinds.contains(&error.kind()), "{error}");
    let (near, far) = home.lines("the cut", |it| !it.is_allowed())?;
    for line in [&near, &far] {
        assert_eq!(line.decision.as_deref(), Some("cut"), "{line:?}");
        assert_eq!(line.reason.as_deref(), Some("no_identity"), "{line:?}");
        // Both times by the agent's own clock: how soon a test comes to look is chance.
        let error = line.error.as_deref().unwrap_or_default();
        let (_, end) = error
            .rsplit_once("its last one ended at ")
            .context("when")?;
        let late = line
            .at()
            .context("no time")?
            .duration_since(parse_rfc3339(end)?)?;
        assert!(late < SOON, "{late:?}: {line:?}");
    }
    for reporter in ["source", "destination"] {
        let labels = [("reporter", reporter), ("reason", "no_identity")];
        let metric = "interceptor_connections_cut_total";
        home.world.near.metric_reaches(metric, &labels, 1.0)?;
    }

    // Nothing goes past the agent any more, and the agent has no certificate to go with.
    let passed = home.passed();
    assert!(
        home.world
            .caller
            .call(home.neighbour.at(8080), "x")
            .is_err()
    );
    assert_eq!(home.passed(), passed);
    Ok(())
}

/// Has all certificates of the agent end soon.
fn let_certificates_end(home: &Home) -> Result<()> {
    let mut life = LIFE;
    loop {
        let end = authority(&home.world.fabric, life)?;
        let named = Value::from(format_rfc3339_seconds(end).to_string());
        let in_force = wait::until("the authority to be in force, or over", || {
            let ends = home.world.near.status().ok()?;
            let ends = ends.get("certificates")?.as_array()?;
            let is_in_force = ends.iter().all(|it| it.get("notAfter") == Some(&named));
            (is_in_force || SystemTime::now() > end).then_some(is_in_force)
        })?;
        if in_force {
            return Ok(());
        }
        // Whoever needs longer gets longer.
        life *= 2;
    }
}

/// Puts an authority that ends so soon in the place of the one in use, and tells when.
fn authority(fabric: &Fabric, life: Duration) -> Result<SystemTime> {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)? + life;
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.as_secs());
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (end - Duration::from_hours(1)).into();
    params.not_after = end.into();
    let uri = "spiffe://cluster.local".try_into()?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    let certificate = params.self_signed(&key)?;
    fabric.replace_authority(&key.serialize_pem(), &certificate.pem())?;
    Ok(end)
}
