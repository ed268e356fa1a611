//! Connections between workloads of one node: from socket to socket, with the kernel holding the
//! verdict, and everything about them still told.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use interceptor_tests::access::Line;
use interceptor_tests::apps::{self, Server};
use interceptor_tests::manifests::{
    AuthorizationPolicy, PeerAuthentication, Rule, Service, identity,
};
use interceptor_tests::pod::Pod;
use interceptor_tests::wait;
use interceptor_tests::world::{Ground, Objects, World};
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

    /// Replaces the manifests by the usual ones as altered.
    fn change(&self, alter: impl FnOnce(&mut Objects)) -> Result<()> {
        let manifest = self.neighbour.manifest();
        self.world.change(|it| {
            it.add(manifest);
            alter(it);
        })
    }

    /// Waits until connections of the caller to this address go past the agent.
    fn granted(&self, to: SocketAddr) -> Result<()> {
        wait::until("a connection to go past the agent", || {
            let before = self.direct();
            self.world.caller.ask(to, "first").ok()?;
            wait::within(Duration::from_millis(500), "its line", || {
                (self.direct() > before).then_some(())
            })
            .ok()
        })
    }

    /// How many connections went past the agent and are over.
    fn direct(&self) -> usize {
        let lines = self.world.near.access();
        lines
            .iter()
            .filter(|line| line.is_direct() && line.is_outbound())
            .count()
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
    let captured = home
        .world
        .near
        .metrics()?
        .sum("interceptor_kernel_events_total", &[("event", "captured")]);
    for _ in 0..50 {
        home.world.caller.ask(home.neighbour.at(8080), "again")?;
    }
    let metrics = home.world.near.metrics()?;
    let now = metrics.sum("interceptor_kernel_events_total", &[("event", "captured")]);
    assert!(
        (now - captured).abs() < f64::EPSILON,
        "none was handed to the agent"
    );
    Ok(())
}
