//! One sample of the harness' own load over a variant, and the figures that it gives.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::figure::Figure;
use super::lane::{Lane, PORT};
use super::load::{Load, Sample, measure};
use super::plan::Work;

/// How long a sample is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Length {
    /// How many windows, and how long each.
    pub(super) windows: (usize, Duration),
    /// How long a single one may become if operations are slow.
    pub(super) patience: Duration,
}

impl Length {
    /// One window that long.
    pub(super) const fn of(length: Duration) -> Self {
        Self {
            windows: (1, length),
            patience: length,
        }
    }
}

/// Takes one.
pub(super) fn load(lane: &Lane, work: Work, length: Length) -> Result<Sample> {
    let carriers = lane.carriers();
    let load = Load {
        work,
        target: lane.target(PORT),
        windows: length.windows,
        patience: length.patience,
        carriers: &carriers,
    };
    measure(&lane.client, &lane.load, &load)
}

/// Operations per second in one window.
pub(super) fn rate(lane: &Lane, work: Work, length: Duration) -> Result<f64> {
    let sample = load(lane, work, Length::of(length))?;
    Ok(sample.windows.first().context("no window")?.rate())
}

/// The figures of one; what CPU time it took only if something has `carried` it.
pub(super) fn figures(work: Work, sample: &Sample, carried: bool) -> Result<Vec<Figure>> {
    let window = sample.windows.first().context("no window")?;
    let (n, name) = (work.concurrency(), work.to_string());
    let cost = match work {
        Work::Up(4) => Some(("cpu_s_per_gb".to_owned(), window.cpu_per_gb())),
        Work::Down(4) => Some(("cpu_s_per_gb_down".to_owned(), window.cpu_per_gb())),
        Work::PingPong(64) => Some(("cpu_s_per_10k_requests".to_owned(), window.cpu_per_10k())),
        Work::Connect(64) => Some(("cpu_s_per_10k_connections".to_owned(), window.cpu_per_10k())),
        _ => None,
    };
    let (kind, main) = match work {
        Work::Up(_) | Work::Down(_) => (None, Figure::new(name, "Gbit/s", window.throughput())),
        Work::PingPong(_) => (Some("pingpong"), Figure::new(name, "1/s", window.rate())),
        Work::Connect(_) => (Some("connect"), Figure::new(name, "1/s", window.rate())),
    };
    let mut figures = vec![main];
    for (kind, quantile) in kind.into_iter().flat_map(|kind| [(kind, 50), (kind, 99)]) {
        let value = sample.quantile_us(quantile).context("no latencies")?;
        figures.push(Figure::new(
            format!("{kind}_p{quantile}_us_{n}"),
            "µs",
            value,
        ));
    }
    figures.extend(
        cost.filter(|_| carried)
            .map(|(name, value)| Figure::new(name, "s", value)),
    );
    Ok(figures)
}
