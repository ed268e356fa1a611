//! Envoy as the other end of HBONE, both ways: the wire is compatible because a peer that we did
//! not write says so.

use std::net::SocketAddr;

use anyhow::Result;
use interceptor_tests::access::Line;
use interceptor_tests::apps;
use interceptor_tests::envoy::{Envoy, Party, Place, Tunnel};
use interceptor_tests::manifests::{AuthorizationPolicy, Rule, identity};
use interceptor_tests::node::Node;
use interceptor_tests::pod::Pod;
use interceptor_tests::settings;
use interceptor_tests::wire::HBONE_PORT;
use interceptor_tests::world::{Ground, World};
use serde_json::Value;

const MARKER: &str = "carried between strangers";
/// What Envoy speaks, and everybody.
const H2: &str = "h2";
/// What two agents of ours agree upon: HTTP/2 with one stream at a time, in records that they seal
/// themselves. Envoy has no idea, which makes it a judge of both.
const OURS: &str = "interceptor-hbone/1";
/// Where Envoy takes plain connections from applications of its own pod.
const LOCAL: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9000);

/// The usual world, and a pod on a node without an agent, where Envoy is going to run.
struct Abroad {
    world: World,
    foreign: Pod,
    _node: Node,
}

impl Abroad {
    fn with(policies: &[AuthorizationPolicy]) -> Result<Option<Self>> {
        let Some(ground) = Ground::new()? else {
            return Ok(None);
        };
        if !settings::may_run_envoy()? {
            return Ok(None);
        }
        let node = ground.fabric.node("c")?;
        let foreign = node.pod("foreign")?;
        let manifest = foreign.manifest();
        let world = ground.start_with(|objects| {
            objects.add(manifest);
            for policy in policies {
                objects.add(policy.clone());
            }
        })?;
        Ok(Some(Self {
            world,
            foreign,
            _node: node,
        }))
    }

    /// Envoy at the foreign pod's door for HBONE.
    fn server(&self, party: Party<'_>) -> Result<Envoy> {
        self.envoy(|place| {
            Envoy::server(
                place,
                party,
                self.foreign.at(HBONE_PORT),
                self.foreign.at(8080),
            )
        })
    }

    /// Envoy as the foreign pod's way to the server's port 8080.
    fn client(&self, party: Party<'_>) -> Result<Envoy> {
        let tunnel = Tunnel {
            gateway: self.world.server.at(HBONE_PORT),
            authority: self.world.server.at(8080),
        };
        self.envoy(|place| Envoy::client(place, party, LOCAL, tunnel))
    }

    fn envoy(&self, start: impl FnOnce(Place<'_>) -> Result<Envoy>) -> Result<Envoy> {
        let folder = self.world.fabric.folder();
        start(Place {
            namespace: self.foreign.namespace(),
            folder: &folder.join("envoy"),
            ca: &folder.join("ca"),
        })
    }

    /// The caller's agent's line about what became of the call.
    fn outbound(&self, what: &str, wanted: impl Fn(&Line) -> bool) -> Result<Line> {
        let near = &self.world.near;
        near.access_line(what, |line| line.is_outbound() && wanted(line))
    }
}

fn text<'a>(line: &'a Value, key: &str) -> &'a str {
    line.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[test]
fn our_agent_dials_envoy() -> Result<()> {
    our_agent_dials_envoy_in(H2)
}

#[test]
fn our_agent_dials_an_envoy_that_agrees_to_speak_our_protocol() -> Result<()> {
    our_agent_dials_envoy_in(OURS)
}

fn our_agent_dials_envoy_in(protocol: &str) -> Result<()> {
    let Some(abroad) = Abroad::with(&[])? else {
        return Ok(());
    };
    let (caller, foreign) = (identity("caller"), identity("foreign"));
    let envoy = abroad.server(Party {
        identity: &foreign,
        peer: &caller,
        protocol,
    })?;
    let _server = abroad.foreign.serve(8080, apps::echo)?;
    let wire = abroad.world.fabric.wire()?;
    let to = abroad.foreign.at(8080);

    assert_eq!(abroad.world.caller.ask(to, MARKER)?, MARKER);
    let large = MARKER.repeat(100_000);
    assert_eq!(abroad.world.caller.ask(to, &large)?, large);

    wire.assert_protected(MARKER.as_bytes())?;
    let ours = abroad.outbound("the call", Line::is_allowed)?;
    assert_eq!(ours.dst_identity, Some(foreign));
    assert_eq!(ours.dst_hbone_addr, Some(to.to_string()));
    let theirs = envoy.access_line("the tunnel", |line| text(line, "peer") == caller)?;
    assert_eq!(text(&theirs, "authority"), to.to_string());
    assert_eq!(text(&theirs, "tls"), "TLSv1.3");
    let from = abroad.world.caller.v4();
    let forwarded = text(&theirs, "forwarded");
    assert!(
        forwarded.starts_with(&format!("for=\"{from}:")),
        "{forwarded}"
    );
    let trace = text(&theirs, "traceparent");
    assert!(trace.contains(&ours.conn_id.unwrap_or_default()), "{trace}");
    Ok(())
}

#[test]
fn an_envoy_that_does_not_accept_us_is_an_explained_refusal() -> Result<()> {
    let Some(abroad) = Abroad::with(&[])? else {
        return Ok(());
    };
    let _envoy = abroad.server(Party {
        identity: &identity("foreign"),
        peer: &identity("somebody-else"),
        protocol: H2,
    })?;
    let server = abroad.foreign.serve(8080, apps::echo)?;
    assert!(
        abroad
            .world
            .caller
            .call(abroad.foreign.at(8080), MARKER)
            .is_err()
    );
    let ours = abroad.outbound("the refusal", |line| !line.is_allowed())?;
    assert_eq!(
        ours.reason.as_deref(),
        Some("refused_by_peer_tls"),
        "{ours:#?}"
    );
    assert_eq!(server.seen(), []);
    Ok(())
}

#[test]
fn an_envoy_that_is_somebody_else_gets_nothing() -> Result<()> {
    let Some(abroad) = Abroad::with(&[])? else {
        return Ok(());
    };
    let _envoy = abroad.server(Party {
        identity: &identity("impostor"),
        peer: &identity("caller"),
        protocol: H2,
    })?;
    let server = abroad.foreign.serve(8080, apps::echo)?;
    assert!(
        abroad
            .world
            .caller
            .call(abroad.foreign.at(8080), MARKER)
            .is_err()
    );
    let ours = abroad.outbound("the refusal", |line| !line.is_allowed())?;
    assert_eq!(ours.reason.as_deref(), Some("wrong_identity"), "{ours:#?}");
    let error = ours.error.unwrap_or_default();
    assert!(
        error.contains("sa/impostor") && error.contains("sa/foreign"),
        "{error}"
    );
    assert_eq!(server.seen(), []);
    Ok(())
}

#[test]
fn envoy_dials_our_agent() -> Result<()> {
    envoy_dials_our_agent_in(H2)
}

#[test]
fn an_envoy_that_offers_our_protocol_dials_our_agent() -> Result<()> {
    envoy_dials_our_agent_in(OURS)
}

fn envoy_dials_our_agent_in(protocol: &str) -> Result<()> {
    let Some(abroad) = Abroad::with(&[])? else {
        return Ok(());
    };
    let (foreign, server) = (identity("foreign"), identity("server"));
    let envoy = abroad.client(Party {
        identity: &foreign,
        peer: &server,
        protocol,
    })?;
    let application = abroad.world.server.serve(8080, apps::echo)?;
    let wire = abroad.world.fabric.wire()?;

    assert_eq!(abroad.foreign.ask(LOCAL, MARKER)?, MARKER);
    let large = MARKER.repeat(100_000);
    assert_eq!(abroad.foreign.ask(LOCAL, &large)?, large);

    wire.assert_protected(MARKER.as_bytes())?;
    assert_eq!(application.first()?.peer.ip(), abroad.foreign.v4());
    let far = &abroad.world.far;
    let ours = far.access_line("the call", |line| !line.is_outbound() && line.is_allowed())?;
    assert_eq!(ours.src_identity, Some(foreign));
    assert_eq!(ours.src_workload.as_deref(), Some("foreign"));
    let theirs = envoy.access_line("the connection", |_| true)?;
    assert_eq!(text(&theirs, "peer"), server);
    Ok(())
}

#[test]
fn envoy_is_told_by_which_policy_it_was_refused() -> Result<()> {
    let allow = AuthorizationPolicy::allow("callers")
        .selecting("server")
        .rule(&Rule::from("caller"));
    let Some(abroad) = Abroad::with(&[allow])? else {
        return Ok(());
    };
    let envoy = abroad.client(Party {
        identity: &identity("foreign"),
        peer: &identity("server"),
        protocol: H2,
    })?;
    let application = abroad.world.server.serve(8080, apps::echo)?;
    assert_ne!(
        abroad.foreign.call(LOCAL, MARKER).unwrap_or_default(),
        MARKER.as_bytes()
    );
    let far = &abroad.world.far;
    let ours = far.access_line("the refusal", |line| !line.is_allowed())?;
    assert_eq!(ours.src_identity, Some(identity("foreign")));
    assert_eq!(ours.policy.as_deref(), Some("demo/callers"));
    assert_eq!(application.seen(), []);
    let theirs = envoy.access_line("the refusal", |line| line.to_string().contains("401"))?;
    assert!(theirs.to_string().contains("demo/callers"), "{theirs:#}");
    Ok(())
}
