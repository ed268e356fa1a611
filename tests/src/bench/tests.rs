//! The load itself, over raw TCP, and a report for the tests of what is made from one.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::figure::{Figure, Variant};
use super::hold;
use super::load::{Load, measure};
use super::plan::Work;
use super::report::Report;
use super::server::{LoadServer, listen};
use crate::world::Ground;

/// Three rounds of one work, and memory that was measured once.
pub(super) fn report() -> Report {
    let peer = |name: &str| Variant::Peer(name.to_owned());
    let (envoy, haproxy) = (peer("envoy"), peer("haproxy"));
    let variants = [Variant::Raw, Variant::CrossNode, envoy, haproxy];
    let mut report = Report::new(variants.to_vec());
    let rounds = [
        [30.0, 9.0, 9.0, 5.0],
        [36.0, 12.0, 12.0, 6.0],
        [33.0, 10.0, 11.0, 5.0],
    ];
    for (round, values) in rounds.into_iter().enumerate() {
        for (variant, value) in variants.iter().zip(values) {
            let figure = Figure::new("throughput_up_4", "Gbit/s", value);
            report.add(round + 1, variant, &[figure]);
        }
    }
    for (variant, value) in variants.iter().skip(1).zip([14.0, 60.0, 15.0]) {
        report.add(1, variant, &[Figure::new("rss_mb_idle", "MiB", value)]);
    }
    report
}

#[test]
fn every_kind_of_work_is_measured() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let server = LoadServer::start(ground.server.namespace(), 9000)?;
    for work in [
        Work::Up(2),
        Work::Down(2),
        Work::PingPong(4),
        Work::Connect(4),
        Work::Connect(80),
        Work::Up(1),
    ] {
        let load = Load {
            work,
            target: ground.server.at(9000),
            windows: (2, Duration::from_millis(50)),
            patience: Duration::from_millis(50),
            carriers: &[std::process::id()],
        };
        let sample = measure(&ground.caller, &server, &load)?;
        assert_eq!(sample.windows.len(), 2, "{work}");
        let timed = matches!(work, Work::PingPong(_) | Work::Connect(_));
        assert_eq!(sample.quantile_us(50).is_some(), timed, "{work}");
        assert!(sample.quantile_us(99) >= sample.quantile_us(50), "{work}");
    }
    Ok(())
}

#[test]
fn idle_connections_stay_open() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let listener = ground.server.run(|| listen(hold::PORT))??;
    thread::spawn(move || hold::keep(&listener));
    let open = hold::open_all(&ground.caller, ground.server.at(hold::PORT), 20)?;
    assert_eq!(open.len(), 20);
    Ok(())
}
