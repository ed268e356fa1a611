//! Connections between workloads of one node: from socket to socket, with the kernel holding the
//! verdict, and everything about them still told.

mod choice;
mod cut;
mod lost;
mod told;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, ensure};
use interceptor_tests::access::Line;
use interceptor_tests::agent::{Agent, Setup};
use interceptor_tests::apps::{self, Server};
use interceptor_tests::pod::Pod;
use interceptor_tests::wait;
use interceptor_tests::world::{Ground, Objects, World};
use serde_json::Value;

/// A world with a third pod on the caller's node.
pub(crate) struct Home {
    // Field order is drop order: agents before what they run in.
    pub(crate) world: World,
    pub(crate) neighbour: Pod,
}

impl Home {
    /// What is asked until a connection goes past the agent.
    pub(crate) const FIRST: &str = "first";

    /// With these manifests besides the pods', as altered; nothing where the machine does not
    /// allow it.
    pub(crate) fn with(alter: impl FnOnce(&mut Objects)) -> Result<Option<Self>> {
        Self::set_up(Setup::default(), alter)
    }

    /// With another setup of the agents.
    pub(crate) fn set_up(setup: Setup, alter: impl FnOnce(&mut Objects)) -> Result<Option<Self>> {
        let Some(ground) = Ground::new()? else {
            return Ok(None);
        };
        let neighbour = ground.a.pod("neighbour")?;
        let manifest = neighbour.manifest();
        let manifests = ground.manifests_as(|it| {
            it.add(manifest);
            alter(it);
        });
        let world = ground.start(&Setup { manifests, ..setup })?;
        Ok(Some(Self { world, neighbour }))
    }

    /// Waits until connections of the caller to this address go past the agent.
    pub(crate) fn granted(&self, to: SocketAddr) -> Result<()> {
        self.granted_to(&self.world.caller, to)
    }

    /// The same for connections of any pod of the node.
    pub(crate) fn granted_to(&self, from: &Pod, to: SocketAddr) -> Result<()> {
        wait::until("a connection to go past the agent", || {
            let before = self.passed();
            from.ask(to, Self::FIRST).ok()?;
            (self.passed() > before).then_some(())
        })
    }

    /// How many connections the kernel has let past the agent.
    pub(crate) fn passed(&self) -> u64 {
        Self::passed_at(&self.world.near)
    }

    /// The same of any agent.
    pub(crate) fn passed_at(agent: &Agent) -> u64 {
        let status = agent.status().ok();
        let counters = status
            .as_ref()
            .and_then(|it| it.get("counters")?.as_array());
        let mut counters = counters.into_iter().flatten();
        let passed = counters.find(|it| it["name"] == "direct");
        passed.and_then(|it| it["value"].as_u64()).unwrap_or(0)
    }

    /// How many connections of this node were captured, and how many went past the agent.
    pub(crate) fn seen(&self) -> Result<[u64; 2]> {
        let status = self.world.near.status()?;
        let counters = status.get("counters").and_then(Value::as_array);
        let counters = counters.context("no counters")?;
        let of = |name: &'static str| {
            let is_it = |it: &&Value| it.get("name").is_some_and(|it| it == name);
            let value = counters.iter().find(is_it).and_then(|it| it.get("value"));
            value.and_then(Value::as_u64).context(name)
        };
        Ok([of("captured")?, of("direct")?])
    }

    /// How many connections were handed to an agent.
    pub(crate) fn captured(&self) -> Result<f64> {
        let metrics = self.world.near.metrics()?;
        let labels = [("event", "captured")];
        Ok(metrics.sum("interceptor_kernel_events_total", &labels))
    }

    /// Calls, and asserts that the kernel had no part in it.
    pub(crate) fn assert_through_the_agent(&self, to: SocketAddr) -> Result<()> {
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
    pub(crate) fn lines(&self, what: &str, wanted: impl Fn(&Line) -> bool) -> Result<(Line, Line)> {
        let agent = &self.world.near;
        let near = agent.access_line(what, |line| line.is_outbound() && wanted(line))?;
        let far = agent.access_line(&format!("the other end of {what}"), |line| {
            !line.is_outbound() && line.conn_id == near.conn_id
        })?;
        Ok((near, far))
    }

    /// A connection past the agent that is open, and the application behind it.
    pub(crate) fn open(&self, port: u16) -> Result<(TcpStream, Server)> {
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

/// Sends and expects the same back.
pub(crate) fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes)?;
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer)?;
    ensure!(answer == bytes, "another answer");
    Ok(())
}
