//! What operators see: metrics, live connections, admin pages.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result};
use interceptor_tests::apps;
use interceptor_tests::manifests::{Service, identity};
use interceptor_tests::wait;
use interceptor_tests::world::{Ground, World};

#[test]
fn metrics_bear_istios_names_and_labels() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let vip = ground.fabric.vip(1);
    let world = ground.start_with(|it| {
        it.server = it.server.clone().label("version", "v2");
        it.add(Service::new("server", &[vip]).port("web", 80, 8080));
    })?;
    let _server = world.server.serve(8080, apps::half_close)?;
    assert_eq!(
        world.caller.ask((vip, 80).into(), "hello")?,
        "5 bytes: hello"
    );

    let (source, destination) = (identity("caller"), identity("server"));
    for (agent, reporter) in [(&world.near, "source"), (&world.far, "destination")] {
        let labels = [
            ("reporter", reporter),
            ("source_workload", "caller"),
            ("source_canonical_service", "caller"),
            ("source_workload_namespace", "demo"),
            ("source_principal", source.as_str()),
            ("source_app", "caller"),
            ("destination_service", "server.demo.svc.cluster.local"),
            ("destination_service_name", "server"),
            ("destination_service_namespace", "demo"),
            ("destination_workload", "server"),
            ("destination_version", "v2"),
            ("destination_principal", destination.as_str()),
            ("request_protocol", "tcp"),
            ("response_flags", "-"),
            ("connection_security_policy", "mutual_tls"),
        ];
        agent.metric_reaches("istio_tcp_connections_closed_total", &labels, 1.0)?;
        let metrics = agent.metrics()?;
        // Sent is what the server sent, whoever reports.
        assert!((metrics.sum("istio_tcp_sent_bytes_total", &labels) - 14.0).abs() < 0.5);
        assert!((metrics.sum("istio_tcp_received_bytes_total", &labels) - 5.0).abs() < 0.5);
        assert!(metrics.sum("interceptor_kernel_events_total", &[]) > 0.0);
        assert!((metrics.sum("interceptor_ready", &[]) - 1.0).abs() < f64::EPSILON);
    }
    Ok(())
}

#[test]
fn open_connections_and_refusals_are_shown_live() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let mut stream = world.caller.connect(world.server.at(8080))?;
    stream.write_all(b"12345")?;
    stream.read_exact(&mut [0; 5])?;
    assert!(world.caller.call(world.server.at(9999), "x").is_err());

    for agent in [&world.near, &world.far] {
        wait::so("the open connection with its bytes so far", || {
            let Ok(shown) = agent.connections() else {
                return false;
            };
            let live = shown["live"].as_array().cloned().unwrap_or_default();
            live.iter().any(|it| {
                it["state"] == "open"
                    && it["source"]["workload"] == "demo/caller"
                    && it["destination"]["workload"] == "demo/server"
                    && it["security"] == "mutual_tls"
                    && (&it["bytesSent"], &it["bytesReceived"]) == (&5.into(), &5.into())
            })
        })
        .with_context(|| format!("{:#}", agent.connections().unwrap_or_default()))?;
    }
    let shown = world.near.connections()?;
    let recent = shown["recent"].as_array().context("no recent")?;
    assert!(
        recent.iter().any(|it| it["decision"] == "failed"),
        "{shown:#}"
    );
    Ok(())
}

#[test]
fn connections_can_be_followed_as_they_come() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let mut follower = world.near.follow()?;
    let lines = BufReader::new(follower.stdout.take().context("no pipe")?).lines();
    let seen = Arc::new(AtomicBool::new(false));
    let reader = thread::spawn({
        let seen = Arc::clone(&seen);
        move || {
            for line in lines.map_while(Result::ok) {
                let shown: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                if shown.to_string().contains("demo/server") {
                    seen.store(true, Ordering::Relaxed);
                }
            }
        }
    });
    // The follower may not be there for the first of them.
    wait::so("a connection to be followed", || {
        world.caller.ask(world.server.at(8080), "x").is_ok() && seen.load(Ordering::Relaxed)
    })?;
    follower.kill()?;
    follower.wait()?;
    reader.join().expect("no panic");
    Ok(())
}

#[test]
fn status_tells_what_is_attached_enrolled_issued_and_unprotected() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let batch = ground.a.pod("batch")?;
    let manifest = batch.manifest().label("istio.io/dataplane-mode", "none");
    let world = ground.start_with(|it| it.add(manifest))?;

    let status = world.near.status()?;
    assert_eq!(status["node"], world.a.mesh_name());
    assert_eq!(status["readiness"]["missing"], serde_json::json!([]));
    let programs = status["programs"].as_array().context("no programs")?;
    for name in [
        "connect4",
        "connect6",
        "sk_lookup",
        "getpeername4",
        "getsockname4",
    ] {
        let program = programs
            .iter()
            .find(|it| it["name"].as_str().is_some_and(|n| n.contains(name)));
        assert!(
            program.is_some_and(|it| it["pinned"] == true),
            "{name}: {programs:#?}"
        );
    }
    let workloads = status["workloads"].as_array().context("no workloads")?;
    assert_eq!(workloads.len(), 1, "{workloads:#?}");
    assert_eq!(workloads[0]["name"], "caller");
    assert_eq!(workloads[0]["identity"], identity("caller"));
    let certificates = status["certificates"]
        .as_array()
        .context("no certificates")?;
    assert!(
        certificates
            .iter()
            .any(|it| it["identity"] == identity("caller"))
    );
    let unprotected = status["unprotected"].as_array().context("no ledger")?;
    assert!(
        unprotected.iter().any(|it| it["subject"] == "demo/batch"),
        "{unprotected:#?}"
    );
    Ok(())
}

#[test]
fn admin_pages_answer_and_hold_no_private_key() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    for path in [
        "/config_dump",
        "/status",
        "/connections",
        "/certificates",
        "/logging",
    ] {
        let page = world.near.admin(path)?;
        assert_eq!(page.status, 200, "{path}: {}", page.body);
        assert!(!page.body.contains("PRIVATE KEY"), "{path}");
    }
    assert!(world.near.admin("/config_dump")?.body.contains("demo"));
    assert_eq!(world.near.admin("/nothing-here")?.status, 404);
    Ok(())
}
