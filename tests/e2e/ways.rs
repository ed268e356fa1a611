//! Ways around that only a whole agent counts: its own listeners dialled from inside of a workload, and
//! datagrams under a rule that an annotation says. The others are tried on the kernel programs alone.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};

use anyhow::{Result, ensure};
use interceptor_tests::apps;
use interceptor_tests::wait;
use interceptor_tests::world::World;
use rstest::rstest;

#[rstest]
#[case::outbound(15_001, "source")]
#[case::inbound(15_006, "destination")]
fn a_listener_that_is_dialled_over_loopback_resets_and_is_counted(
    #[case] port: u16,
    #[case] reporter: &str,
) -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let server = world.server.serve(8080, apps::echo)?;
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    // The reset may be there before connect(2) returns.
    let dialled = world.caller.connect(to);
    let read = dialled.and_then(|mut it| it.read(&mut [0; 1]));
    ensure!(
        (read.as_ref()).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
        "{read:?}"
    );
    let labels = [("reporter", reporter), ("reason", "not_captured")];
    world
        .near
        .metric_reaches("interceptor_connections_failed_total", &labels, 1.0)?;
    let line = world.near.access_line("the listener's", |line| {
        line.reason.as_deref() == Some("not_captured")
    })?;
    assert_eq!(line.decision.as_deref(), Some("failed"));
    let error = line.error.unwrap_or_default();
    ensure!(error.contains(&to.to_string()), "{error}");
    assert!(server.seen().is_empty());
    Ok(())
}

#[test]
fn the_listener_for_peers_that_is_dialled_over_loopback_asks_for_a_certificate() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let mut dialled = world
        .caller
        .connect(SocketAddr::from(([127, 0, 0, 1], 15_008)))?;
    dialled.write_all(b"CONNECT 10.0.0.1:80 HTTP/1.1\r\n\r\n")?;
    let mut answer = Vec::new();
    let _reset_or_not = dialled.read_to_end(&mut answer);
    ensure!(!answer.starts_with(b"HTTP"), "{answer:?}");
    (world.near).metric_reaches("interceptor_handshake_failures_total", &[], 1.0)
}

/// From the annotation to the kernel, and from the kernel to the metrics.
#[test]
fn an_annotation_refuses_datagrams_and_the_metrics_count_them() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let (quic, dns) = (world.server.at(443), world.server.at(53));
    let open = || UdpSocket::bind("0.0.0.0:0");
    let before = world.caller.run(open)??;
    before.connect(quic)?;
    world.change(|it| {
        it.caller = (it.caller.clone()).annotation("interceptor.dev/udp", "deny-except-dns");
    })?;
    let socket = world.caller.run(open)??;
    wait::so("the rule to be in force", || {
        (socket.send_to(b"x", quic)).is_err_and(|it| it.kind() == ErrorKind::PermissionDenied)
    })?;
    ensure!(socket.send_to(b"x", world.server.at(5000)).is_err());
    socket.send_to(b"x", dns)?;
    for event in ["refused_quic", "refused_udp", "udp_observed"] {
        let labels = [("event", event)];
        world
            .near
            .metric_reaches("interceptor_kernel_events_total", &labels, 1.0)?;
    }
    // What named its peer before is not asked again, which the operator is told.
    before.send(b"x")?;
    let status = world.near.status()?;
    ensure!(
        status["unprotected"]
            .to_string()
            .contains("connected before the rule"),
        "{status}"
    );
    Ok(())
}
