//! Connections between workloads of one node: from socket to socket, with the kernel holding the
//! verdict, and everything about them still told.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use interceptor_tests::access::Line;
use interceptor_tests::agent::Setup;
use interceptor_tests::apps::{self, Server};
use interceptor_tests::host::HostWorkload;
use interceptor_tests::manifests::{
    AuthorizationPolicy, PeerAuthentication, Rule, Service, identity,
};
use interceptor_tests::pod::Pod;
use interceptor_tests::wait;
use interceptor_tests::world::{Ground, Objects, World};
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    SanType,
};
use rstest::rstest;

/// A change must have cut what it forbids within this time. The manifests' own watch included.
const SOON: Duration = Duration::from_secs(1);

/// A world with a third pod on the caller's node.
struct Home {
    // Field order is drop order: agents before what they run in.
    world: World,
    neighbour: Pod,
}

impl Home {
    /// With these manifests besides the pods', as altered; nothing where the machine does not
    /// allow it.
    fn with(alter: impl FnOnce(&mut Objects)) -> Result<Option<Self>> {
        let Some(ground) = Ground::new()? else {
            return Ok(None);
        };
        let neighbour = ground.a.pod("neighbour")?;
        let manifest = neighbour.manifest();
        let world = ground.start_with(|it| {
            it.add(manifest);
            alter(it);
        })?;
        Ok(Some(Self { world, neighbour }))
    }

    /// Waits until connections of the caller to this address go past the agent.
    fn granted(&self, to: SocketAddr) -> Result<()> {
        wait::until("a connection to go past the agent", || {
            let before = self.passed();
            self.world.caller.ask(to, "first").ok()?;
            (self.passed() > before).then_some(())
        })
    }

    /// How many connections the kernel has let past the agent.
    fn passed(&self) -> u64 {
        let status = self.world.near.status().ok();
        let counters = status
            .as_ref()
            .and_then(|it| it.get("counters")?.as_array());
        let mut counters = counters.into_iter().flatten();
        let passed = counters.find(|it| it["name"] == "direct");
        passed.and_then(|it| it["value"].as_u64()).unwrap_or(0)
    }

    /// How many connections were handed to an agent.
    fn captured(&self) -> Result<f64> {
        let metrics = self.world.near.metrics()?;
        let labels = [("event", "captured")];
        Ok(metrics.sum("interceptor_kernel_events_total", &labels))
    }

    /// The number of the configuration in force.
    fn version(&self) -> Option<u64> {
        let status = self.world.near.status().ok()?;
        status.get("configuration")?.get("version")?.as_u64()
    }

    /// Calls, and asserts that the kernel had no part in it.
    fn assert_through_the_agent(&self, to: SocketAddr) -> Result<()> {
        let before = self.passed();
        for _ in 0..3 {
            assert_eq!(self.world.caller.ask(to, "hello")?, "hello");
        }
        assert_eq!(self.passed(), before);
        let (near, _) = self.lines("a call through the agent", |it| !it.is_direct())?;
        assert!(near.tls_cipher.is_some(), "{near:?}");
        Ok(())
    }

    /// The two lines of a connection, both written by the agent of the one node.
    fn lines(&self, what: &str, wanted: impl Fn(&Line) -> bool) -> Result<(Line, Line)> {
        let agent = &self.world.near;
        let near = agent.access_line(what, |line| line.is_outbound() && wanted(line))?;
        let far = agent.access_line(&format!("the other end of {what}"), |line| {
            !line.is_outbound() && line.conn_id == near.conn_id
        })?;
        Ok((near, far))
    }

    /// A connection past the agent that is open, and the application behind it.
    fn open(&self, port: u16) -> Result<(TcpStream, Server)> {
        let server = self.neighbour.serve(port, apps::echo)?;
        self.granted(self.neighbour.at(port))?;
        let mut stream = self.world.caller.connect(self.neighbour.at(port))?;
        exchange(&mut stream, b"before")?;
        let labels: [(&str, &str); 0] = [];
        let open = "interceptor_same_node_connections_open";
        self.world.near.metric_reaches(open, &labels, 1.0)?;
        Ok((stream, server))
    }
}

fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes)?;
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer)?;
    ensure!(answer == bytes, "another answer");
    Ok(())
}

/// Asserts that a line of a call with 100,000 bytes each way says all that there is to say.
fn assert_complete(line: &Line) {
    assert!(line.is_allowed() && line.is_direct(), "{line:?}");
    assert_eq!(line.src_identity, Some(identity("caller")));
    assert_eq!(line.dst_identity, Some(identity("neighbour")));
    assert_eq!(
        (line.policy.as_deref(), line.rule),
        (Some("demo/callers"), Some(0))
    );
    assert_eq!(
        (line.bytes_sent, line.bytes_recv),
        (Some(100_000), Some(100_000))
    );
    assert!(line.tcp_srtt_us.is_some_and(|it| it > 0), "{line:?}");
    assert!(
        line.tls_cipher.is_none() && line.dst_hbone_addr.is_none(),
        "{line:?}"
    );
}

/// Asserts that such a call is in the metrics of both ends.
fn assert_counted(home: &Home) -> Result<()> {
    for reporter in ["source", "destination"] {
        let labels = [
            ("reporter", reporter),
            ("connection_security_policy", "kernel"),
            ("source_principal", &identity("caller")),
            ("destination_workload", "neighbour"),
        ];
        for (metric, least) in [
            ("istio_tcp_connections_opened_total", 1.0),
            ("istio_tcp_connections_closed_total", 1.0),
            ("istio_tcp_sent_bytes_total", 100_000.0),
            ("istio_tcp_received_bytes_total", 100_000.0),
        ] {
            home.world.near.metric_reaches(metric, &labels, least)?;
        }
    }
    Ok(())
}

#[test]
fn after_its_first_connection_a_pair_talks_from_socket_to_socket_and_all_of_it_is_told()
-> Result<()> {
    let Some(home) = Home::with(|it| {
        it.add(PeerAuthentication::strict());
        it.add(
            AuthorizationPolicy::allow("callers")
                .selecting("neighbour")
                .rule(&Rule::from("caller")),
        );
    })?
    else {
        return Ok(());
    };
    let server = home.neighbour.serve(8080, apps::echo)?;
    for to in [home.neighbour.at(8080), home.neighbour.at6(8080)] {
        home.granted(to)?;
    }
    let seen = server.seen().len();
    let message = "m".repeat(100_000);
    assert_eq!(
        home.world.caller.ask(home.neighbour.at(8080), &message)?,
        message
    );

    let (near, far) = home.lines("the direct call", |it| {
        it.is_direct() && it.is_of(100_000, 100_000)
    })?;
    let seen = server
        .seen()
        .get(seen)
        .copied()
        .context("it was not seen")?;
    assert_eq!(
        near.src_addr,
        Some(seen.peer.to_string()),
        "the application sees the caller"
    );
    assert_eq!(seen.accepted_from, seen.peer);
    assert_eq!(near.dst_addr, Some(home.neighbour.at(8080).to_string()));
    for line in [&near, &far] {
        assert_complete(line);
    }
    assert_counted(&home)?;
    let captured = home.captured()?;
    for _ in 0..50 {
        home.world.caller.ask(home.neighbour.at(8080), "again")?;
    }
    let now = home.captured()?;
    assert!(
        (now - captured).abs() < f64::EPSILON,
        "none was handed to the agent"
    );
    Ok(())
}

#[test]
fn a_pair_that_is_denied_is_refused_by_the_agent_with_policy_and_reason() -> Result<()> {
    let others = AuthorizationPolicy::allow("others")
        .selecting("neighbour")
        .rule(&Rule::from("other"));
    let Some(home) = Home::with(|it| it.add(others))? else {
        return Ok(());
    };
    let server = home.neighbour.serve(8080, apps::echo)?;
    for _ in 0..3 {
        let error = home.world.caller.call(home.neighbour.at(8080), "x");
        assert_eq!(
            error.expect_err("refused").kind(),
            ErrorKind::ConnectionReset
        );
    }
    assert_eq!(server.seen(), []);
    assert_eq!(home.passed(), 0);
    let (near, far) = home.lines("the refusal", |it| !it.is_allowed())?;
    for line in [near, far] {
        assert_eq!(line.decision.as_deref(), Some("denied"), "{line:?}");
        assert_eq!(
            (line.policy.as_deref(), line.rule),
            (Some("demo/others"), Some(0))
        );
    }
    Ok(())
}

/// Where somebody says that connections inside of the node are encrypted, too.
#[derive(Clone, Copy, Debug)]
enum Level {
    Mesh,
    Namespace,
    Caller,
    Server,
}

#[rstest]
#[case::of_the_mesh(Level::Mesh)]
#[case::of_the_namespace(Level::Namespace)]
#[case::of_the_caller(Level::Caller)]
#[case::of_the_server(Level::Server)]
fn who_wants_mutual_tls_inside_of_the_node_gets_it(#[case] level: Level) -> Result<()> {
    const KEY: &str = "interceptor.dev/same-node";
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let neighbour = ground.a.pod("neighbour")?;
    let mut manifest = neighbour.manifest();
    if matches!(level, Level::Server) {
        manifest = manifest.annotation(KEY, "mtls");
    }
    let mut setup = Setup {
        manifests: ground.manifests_as(|it| {
            match level {
                Level::Namespace => it.namespace = it.namespace.clone().annotation(KEY, "mtls"),
                Level::Caller => it.caller = it.caller.clone().annotation(KEY, "mtls"),
                Level::Mesh | Level::Server => {}
            }
            it.add(manifest);
        }),
        ..Setup::default()
    };
    if matches!(level, Level::Mesh) {
        "sameNode: mtls".clone_into(&mut setup.extra);
    }
    let world = ground.start(&setup)?;
    let home = Home { world, neighbour };
    let _server = home.neighbour.serve(8080, apps::echo)?;
    home.assert_through_the_agent(home.neighbour.at(8080))?;
    let (from, to) = ("demo/caller", format!("{}", home.neighbour.at(8080)));
    let answer = home.world.near.explain(&["--from", from, "--to", &to])?;
    let told = answer.to_string();
    assert!(told.contains("HBONE"), "{told}");
    if !matches!(level, Level::Mesh) {
        assert!(told.contains("wants mutual TLS on its node"), "{told}");
    }
    Ok(())
}

#[test]
fn what_has_to_be_counted_per_connection_stays_on_the_agents_path() -> Result<()> {
    let audit = AuthorizationPolicy::audit("watch").rule(&Rule::default().ports(&["8080"]));
    let Some(home) = Home::with(|it| it.add(audit))? else {
        return Ok(());
    };
    let _watched = home.neighbour.serve(8080, apps::echo)?;
    let _other = home.neighbour.serve(9090, apps::echo)?;
    home.assert_through_the_agent(home.neighbour.at(8080))?;
    home.granted(home.neighbour.at(9090))?;
    let to = home.neighbour.at(8080).to_string();
    let answer = home
        .world
        .near
        .explain(&["--from", "demo/caller", "--to", &to])?;
    assert!(
        answer
            .to_string()
            .contains("demo/watch reports each connection"),
        "{answer}"
    );
    let to = home.neighbour.at(9090).to_string();
    let answer = home
        .world
        .near
        .explain(&["--from", "demo/caller", "--to", &to])?;
    assert!(
        answer.to_string().contains("kernel: from socket to socket"),
        "{answer}"
    );
    Ok(())
}

#[test]
fn a_service_with_endpoints_here_and_elsewhere_shares_its_connections_fairly() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let vip = ground.fabric.vip(1);
    let neighbour = ground.a.pod("neighbour")?;
    let manifest = neighbour.manifest().label("app", "server");
    let world = ground.start_with(|it| {
        it.add(manifest);
        it.add(Service::new("server", &[vip]).port("echo", 80, 8080));
    })?;
    let home = Home { world, neighbour };
    let here = home.neighbour.serve(8080, apps::echo)?;
    let elsewhere = home.world.server.serve(8080, apps::echo)?;
    home.granted((vip, 80).into())?;

    let (here_before, elsewhere_before) = (here.seen().len(), elsewhere.seen().len());
    let passed = home.passed();
    for _ in 0..200 {
        assert_eq!(home.world.caller.ask((vip, 80).into(), "x")?, "x");
    }
    let near = here.seen().len() - here_before;
    let far = elsewhere.seen().len() - elsewhere_before;
    assert_eq!(near + far, 200);
    // Less than one in a billion that a fair coin falls so.
    assert!((58..=142).contains(&near), "{near} here, {far} elsewhere");
    let direct = usize::try_from(home.passed() - passed)?;
    assert_eq!(
        direct, near,
        "all that stayed on the node went past the agent"
    );
    let (line, _) = home.lines("a call of the Service", Line::is_direct)?;
    assert_eq!(
        line.dst_service.as_deref(),
        Some("server.demo.svc.cluster.local")
    );

    let mut stream = home.world.caller.connect((vip, 80).into())?;
    exchange(&mut stream, b"peer")?;
    assert_eq!(
        stream.peer_addr()?,
        (vip, 80).into(),
        "the caller sees what it dialled"
    );
    Ok(())
}

/// A change that forbids what is open.
#[derive(Clone, Copy, Debug)]
enum Change {
    Policy,
    Label,
    Account,
    SameNode,
}

impl Change {
    /// What it makes of the manifests.
    fn apply(self, home: &Home) -> Result<()> {
        let neighbour = home.neighbour.manifest();
        let neighbour = match self {
            Self::Policy => neighbour,
            Self::Label => neighbour.label("app", "closed"),
            Self::Account => neighbour.service_account("somebody-else"),
            Self::SameNode => neighbour.annotation("interceptor.dev/same-node", "mtls"),
        };
        let closed = AuthorizationPolicy::deny("closed").rule(&Rule::from("caller"));
        home.world.change(|it| {
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
#[case::the_owners_wish(Change::SameNode, "same_node_mtls", None)]
fn a_change_that_forbids_an_open_connection_cuts_it_and_both_ends_say_why(
    #[case] change: Change,
    #[case] reason: &str,
    #[case] policy: Option<&str>,
) -> Result<()> {
    let Some(home) = Home::with(|it| {
        it.add(
            AuthorizationPolicy::deny("closed")
                .selecting("closed")
                .rule(&Rule::from("caller")),
        );
    })?
    else {
        return Ok(());
    };
    let (mut stream, server) = home.open(8080)?;

    let before = home.version().context("a version")?;
    change.apply(&home)?;
    let in_force = wait::until("the change to be in force", || {
        (home.version()? > before).then(Instant::now)
    })?;
    let error = stream.read(&mut [0]).expect_err("cut, not closed");
    let took = in_force.elapsed();
    let kinds = [ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted];
    assert!(kinds.contains(&error.kind()), "{error}");
    assert!(took < SOON, "cut after {took:?}");
    // Those before it ended well; the application sees a reset, too.
    while server.outcome()?.is_ok() {}

    let (near, far) = home.lines("the cut", |it| !it.is_allowed())?;
    for line in [&near, &far] {
        assert_eq!(line.decision.as_deref(), Some("cut"), "{line:?}");
        assert_eq!(line.reason.as_deref(), Some(reason), "{line:?}");
        assert_eq!(line.policy.as_deref(), policy, "{line:?}");
        assert!(line.is_direct() && line.error.is_some(), "{line:?}");
    }
    assert!(near.is_of(6, 6) && far.is_of(6, 6), "{near:?} {far:?}");
    for reporter in ["source", "destination"] {
        let labels = [("reporter", reporter), ("reason", reason)];
        let metric = "interceptor_connections_cut_total";
        home.world.near.metric_reaches(metric, &labels, 1.0)?;
    }
    Ok(())
}

#[test]
fn a_certificate_that_expires_cuts_what_is_open() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    // An authority that soon ends, and with it what it issues.
    let end = authority(&ground.fabric.folder().join("ca"), Duration::from_secs(12))?;
    let neighbour = ground.a.pod("neighbour")?;
    let manifest = neighbour.manifest();
    let world = ground.start_with(|it| it.add(manifest))?;
    let home = Home { world, neighbour };
    let (mut stream, _server) = home.open(8080)?;
    assert!(
        SystemTime::now() < end,
        "the machine is too slow for this test"
    );

    let error = stream.read(&mut [0]).expect_err("cut, not closed");
    let kinds = [ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted];
    assert!(kinds.contains(&error.kind()), "{error}");
    let late = SystemTime::now().duration_since(end).ok();
    assert!(
        late.is_some_and(|late| late < SOON),
        "cut at its end: {late:?}"
    );
    let (near, _) = home.lines("the cut", |it| !it.is_allowed())?;
    assert_eq!(near.decision.as_deref(), Some("cut"), "{near:?}");
    assert_eq!(near.reason.as_deref(), Some("no_identity"), "{near:?}");

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

/// Makes an authority that ends so soon, and tells when.
fn authority(folder: &Path, life: Duration) -> Result<SystemTime> {
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
    fs::create_dir_all(folder)?;
    fs::write(folder.join("ca.crt"), certificate.pem())?;
    fs::write(folder.join("ca.key"), key.serialize_pem())?;
    fs::set_permissions(folder.join("ca.key"), fs::Permissions::from_mode(0o600))?;
    Ok(end)
}

#[test]
fn a_killed_agent_leaves_direct_connections_alone_and_the_next_one_knows_them() -> Result<()> {
    let Some(mut home) = Home::with(|_| ())? else {
        return Ok(());
    };
    let (mut goes_on, server) = home.open(8080)?;
    let mut ends = home.world.caller.connect(home.neighbour.at(8080))?;
    exchange(&mut ends, b"seven--")?;

    home.world.near.kill()?;
    exchange(&mut goes_on, b"meanwhile")?;
    assert_eq!(
        home.world
            .caller
            .ask(home.neighbour.at(8080), "while it is down")?,
        "while it is down"
    );
    exchange(&mut ends, b"last")?;
    drop(ends);
    let outcome = server.outcome()?;
    assert!(outcome.is_ok(), "{outcome:?}");
    home.world.near.restart()?;

    home.lines("what ended meanwhile", |it| {
        it.is_direct() && it.is_of(11, 11)
    })?;
    home.lines("what began and ended meanwhile", |it| it.is_of(16, 16))?;
    let open = wait::until("the open one to be known", || {
        let answer = home.world.near.connections().ok()?;
        let open = answer["live"].as_array()?;
        let mine = |it: &&serde_json::Value| {
            it["security"] == "kernel" && it["bytesSent"] == 15 && it["reporter"] == "source"
        };
        open.iter().find(mine).cloned()
    })?;
    assert_eq!(open["source"]["workload"], "demo/caller", "{open}");
    exchange(&mut goes_on, b"after")?;
    drop(goes_on);
    let (near, _) = home.lines("what went on", |it| it.is_direct() && it.is_of(20, 20))?;
    assert!(near.is_allowed());
    Ok(())
}

#[test]
fn the_bytes_of_a_long_connection_are_in_the_metrics_while_it_is_open() -> Result<()> {
    let Some(home) = Home::with(|_| ())? else {
        return Ok(());
    };
    let (mut stream, _server) = home.open(8080)?;
    let labels = [
        ("connection_security_policy", "kernel"),
        ("reporter", "destination"),
    ];
    let sent = "istio_tcp_sent_bytes_total";
    home.world.near.metric_reaches(sent, &labels, 6.0)?;
    let before = home.world.near.metrics()?.sum(sent, &labels);
    exchange(&mut stream, &[7; 5000])?;
    home.world
        .near
        .metric_reaches(sent, &labels, before + 5000.0)?;
    drop(stream);
    let (near, far) = home.lines("the long call", |it| it.is_direct() && it.is_of(5006, 5006))?;
    assert!(near.is_allowed() && far.is_allowed());
    let now = home.world.near.metrics()?.sum(sent, &labels);
    assert!((now - before - 5000.0).abs() < f64::EPSILON, "counted once");
    Ok(())
}

#[test]
fn an_application_that_does_not_listen_is_told_as_such() -> Result<()> {
    let Some(home) = Home::with(|_| ())? else {
        return Ok(());
    };
    let server = home.neighbour.serve(8080, apps::echo)?;
    home.granted(home.neighbour.at(8080))?;
    drop(server);
    let error = home
        .world
        .caller
        .connect(home.neighbour.at(8080))
        .expect_err("nobody listens");
    assert_eq!(
        error.kind(),
        ErrorKind::ConnectionRefused,
        "at once, as without a mesh"
    );
    let (near, far) = home.lines("the failure", |it| !it.is_allowed())?;
    for line in [near, far] {
        assert_eq!(line.decision.as_deref(), Some("failed"), "{line:?}");
        assert_eq!(line.reason.as_deref(), Some("app_unreachable"), "{line:?}");
        assert!(line.is_direct(), "{line:?}");
    }
    Ok(())
}

#[test]
fn a_workload_of_the_hosts_network_goes_past_the_agent_as_itself() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let program = Path::new(env!("CARGO_BIN_EXE_host-app"));
    let host = HostWorkload::new(&ground.a, "host-app")?;
    let stranger = HostWorkload::new(&ground.a, "stranger")?;
    let neighbour = ground.a.pod("neighbour")?;
    let manifests = [host.manifest()?, neighbour.manifest()];
    let world = ground.start_with(|it| {
        for manifest in manifests {
            it.add(manifest);
        }
        it.add(AuthorizationPolicy::allow("host-app-only").rule(&Rule::from("host-app")));
    })?;
    let home = Home { world, neighbour };
    let server = home.neighbour.serve(8080, apps::echo)?;
    let to = home.neighbour.at(8080);
    let answers = |who: &HostWorkload| {
        let output = who.run(program, to, "hello");
        output.is_ok_and(|it| String::from_utf8_lossy(&it.stdout).contains("hello"))
    };
    wait::so("it to go past the agent", || {
        assert!(answers(&host), "{}", home.world.near.log());
        home.passed() > 0
    })?;
    let (near, far) = home.lines("the direct call", Line::is_direct)?;
    for line in [&near, &far] {
        assert_eq!(line.src_identity, Some(identity("host-app")));
        assert_eq!(line.policy.as_deref(), Some("demo/host-app-only"));
    }
    // The same address, another process: nobody, also while the way past the agent is open.
    let seen = server.seen().len();
    assert!(!answers(&stranger));
    assert_eq!(server.seen().len(), seen);
    Ok(())
}
