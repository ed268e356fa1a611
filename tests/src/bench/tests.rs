//! The load itself, over raw TCP.

use std::time::Duration;

use anyhow::Result;

use super::load::{LoadServer, measure};
use super::plan::Work;
use crate::world::Ground;

#[test]
fn every_kind_of_work_is_measured() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let load = LoadServer::start(ground.server.namespace(), 4)?;
    for work in [
        Work::Up(2),
        Work::Down(2),
        Work::PingPong(4),
        Work::Connect(4),
    ] {
        let length = Duration::from_millis(50);
        let sample = measure(&ground.caller, ground.server.v4(), &load, work, length)?;
        assert!(sample.value > 0.0, "{work}: {sample:?}");
        let timed = matches!(work, Work::PingPong(_) | Work::Connect(_));
        assert_eq!(sample.quantile_us(50).is_some(), timed, "{work}");
        assert!(sample.quantile_us(99) >= sample.quantile_us(50), "{work}");
    }
    Ok(())
}
