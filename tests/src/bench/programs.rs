//! What the agents' kernel programs cost connections that are none of theirs: they pass them, and are
//! let be.

use anyhow::Result;

use super::figure::{Figure, median};
use super::lane::Lane;
use super::plan::Work;
use super::sample::{self, Length};

/// What is measured: what the programs run for most often, what waits for every message, and what
/// they should not touch at all.
const WORKS: [Work; 3] = [Work::Connect(16), Work::PingPong(1), Work::Up(1)];

/// Samples of each.
const SAMPLES: usize = 5;

/// How fast each of them is.
pub(super) fn rates(lane: &Lane, length: Length) -> Result<[f64; 3]> {
    let mut rates = [0.0; 3];
    for (work, rate) in WORKS.into_iter().zip(&mut rates) {
        let samples = (0..SAMPLES).map(|_| {
            let sample = sample::load(lane, work, length)?;
            let figures = sample::figures(work, &sample, false)?;
            Ok(figures.first().map_or(0.0, |it| it.value))
        });
        let samples = samples.collect::<Result<Vec<f64>>>()?;
        *rate = median(&samples).unwrap_or_default();
    }
    Ok(rates)
}

/// What is left of each with the programs.
pub(super) fn figures(without: &[f64; 3], with: &[f64; 3]) -> Vec<Figure> {
    let each = WORKS.iter().zip(without.iter().zip(with));
    each.map(|(work, (without, with))| {
        let name = format!("programs_{work}");
        Figure::new(name, "with/without", with / without.max(f64::MIN_POSITIVE))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::figures;

    #[test]
    fn what_is_left_with_the_programs_is_told_for_each_work() {
        let told = figures(&[100.0, 50.0, 10.0], &[98.0, 50.0, 10.0]);
        let told: Vec<_> = told.iter().map(|it| (it.work.as_str(), it.value)).collect();
        let expected = [
            ("programs_connect_16", 0.98),
            ("programs_pingpong_1", 1.0),
            ("programs_throughput_up_1", 1.0),
        ];
        assert_eq!(told, expected);
    }
}
