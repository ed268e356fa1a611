//! What open connections cost: memory of the process at one end.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::figure::Figure;
use super::lane::Lane;
use super::plan::{Step, Work};
use super::processes::resident_mib;
use super::{hold, sample, scale};

/// How long memory may take to come to rest. What a program needed to start, or to open connections,
/// it may give back when it has time.
const REST: Duration = Duration::from_secs(4);

/// Memory of one program, the larger of the two ends, with this many idle connections.
pub(super) fn measure(lane: &Lane, step: Step, count: usize) -> Result<Vec<Figure>> {
    let _keeper = hold::Keeper::start(&lane.server)?;
    let pair = lane.carry(hold::PORT)?;
    let open = hold::open_all(&lane.client, lane.target(hold::PORT), count)?;
    ensure!(open.len() == count, "{} of {count} opened", open.len());
    thread::sleep(REST);
    let ends = lane.ends(pair.as_ref());
    let sizes = ends.iter().map(|end| resident_mib(end));
    let sizes = sizes.collect::<Result<Vec<_>>>()?;
    let most = sizes.into_iter().fold(0.0, f64::max);
    Ok(vec![Figure::new(step.to_string(), "MiB", most)])
}

/// Memory of both ends' agents while so many connections are open, and how one more fares.
pub(super) fn held(lane: &Lane, count: usize, length: Duration) -> Result<Vec<Figure>> {
    let _keeper = hold::Keeper::start(&lane.server)?;
    let open = hold::open_all(&lane.client, lane.target(hold::PORT), count)?;
    let sizes = lane.ends(None);
    let [near, far] = sizes.as_slice() else {
        anyhow::bail!("an agent at each end is wanted");
    };
    let sample = sample::load(lane, Work::PingPong(1), sample::Length::of(length))?;
    let latencies = [50, 99].map(|quantile| sample.quantile_us(quantile));
    // At rest: a few connections do not disturb it.
    thread::sleep(REST);
    let sizes = [resident_mib(near)?, resident_mib(far)?];
    drop(open);
    Ok(scale::held(count, sizes, latencies))
}
