//! What the report is made of: numbers with a name, each of one variant.

use std::fmt;

/// Envoy with two threads instead of its default.
pub const ENVOY_2: &str = "envoy_2";

/// nginx, which is measured for the latency of messages only.
pub const NGINX: &str = "nginx";

/// How the bytes travel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    /// TCP between two nodes without us: no program of ours sees it.
    Raw,
    /// The same between pods of one node.
    RawSameNode,
    /// The same once more, between two other pods: what it is to the first is the measurement's own
    /// error.
    Control,
    /// TCP between pods of one node that the mesh does not know: our programs see it and let it be.
    Unmeshed,
    /// Two enrolled pods of one node.
    SameNode,
    /// Two enrolled pods of two nodes: captured, carried over mTLS.
    CrossNode,
    /// Something else that carries TCP over mTLS between the nodes.
    Peer(String),
}

impl Variant {
    /// The variant of this name.
    pub(super) fn named(name: &str) -> Self {
        let own = [
            Self::Raw,
            Self::RawSameNode,
            Self::Control,
            Self::Unmeshed,
            Self::SameNode,
            Self::CrossNode,
        ];
        let mut own = own.into_iter();
        own.find(|it| it.to_string() == name)
            .unwrap_or_else(|| Self::Peer(name.to_owned()))
    }

    /// What it is compared with: the same work without anything in between.
    #[must_use]
    pub const fn baseline(&self) -> Self {
        match self {
            Self::SameNode | Self::Unmeshed | Self::Control => Self::RawSameNode,
            _ => Self::Raw,
        }
    }

    /// Whether it has nothing in between.
    pub const fn is_raw(&self) -> bool {
        matches!(self, Self::Raw | Self::RawSameNode)
    }

    /// Whether something else than this project carries it.
    pub const fn is_peer(&self) -> bool {
        matches!(self, Self::Peer(_))
    }

    /// Whether it is measured for what it may be the best at, and not in everything: Envoy once more
    /// with another number of threads, and nginx; or for what the others are seen by.
    pub fn is_partial(&self) -> bool {
        let is_envoy_2 = matches!(self, Self::Peer(name) if name == ENVOY_2);
        is_envoy_2 || self.is_nginx() || self.is_beside()
    }

    /// Whether it only tells how much of what is found inside of a node is something else: the
    /// measurement, or what pods pay that are none of ours.
    pub const fn is_beside(&self) -> bool {
        matches!(self, Self::Control | Self::Unmeshed)
    }

    /// Whether it is nginx, of which the latency of messages is of interest.
    pub(super) fn is_nginx(&self) -> bool {
        matches!(self, Self::Peer(name) if name == NGINX)
    }

    /// Whether it stays inside of a node.
    pub const fn is_within(&self) -> bool {
        matches!(self, Self::RawSameNode | Self::SameNode) || self.is_beside()
    }

    /// Whether this project carries it.
    pub const fn is_own(&self) -> bool {
        matches!(self, Self::SameNode | Self::CrossNode)
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::RawSameNode => "raw_same_node",
            Self::Control => "control_same_node",
            Self::Unmeshed => "unmeshed_same_node",
            Self::SameNode => "same_node",
            Self::CrossNode => "cross_node",
            Self::Peer(name) => name,
        })
    }
}

/// One measured number with its name in the report.
#[derive(Clone, Debug)]
pub struct Figure {
    /// The name of the work, such as `pingpong_p99_us_64`.
    pub work: String,
    /// Its unit.
    pub unit: &'static str,
    /// The number.
    pub value: f64,
}

impl Figure {
    pub(super) fn new(work: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self {
            work: work.into(),
            unit,
            value,
        }
    }
}

/// When a figure was taken: in which round, and for works that are measured often in a round, as which
/// sample of it, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Take {
    /// Counted from 1.
    pub round: usize,
    /// 0 if the round has one sample.
    pub turn: usize,
}

impl From<usize> for Take {
    fn from(round: usize) -> Self {
        Self { round, turn: 0 }
    }
}

/// Whether more of a unit is better.
pub(super) fn more_is_better(unit: &str) -> bool {
    ["Gbit/s", "1/s", "last/first", "large/small"].contains(&unit)
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "counts far below 2^53"
)]
pub(super) const fn to_float(count: u64) -> f64 {
    count as f64
}

/// The median, or nothing of nothing.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        return values.get(middle).copied();
    }
    Some(f64::midpoint(
        *values.get(middle.checked_sub(1)?)?,
        *values.get(middle)?,
    ))
}

/// The standard error of the median, from the median absolute deviation: a disturbed sample does not
/// make it larger than it is. Nothing if there are too few values to tell.
pub(super) fn error_of_median(values: &[f64]) -> Option<f64> {
    /// What makes the median absolute deviation of a normal distribution its standard deviation.
    const TO_SIGMA: f64 = 1.4826;
    const FEWEST: usize = 3;
    let middle = median(values).filter(|_| values.len() >= FEWEST)?;
    let deviations: Vec<f64> = values.iter().map(|it| (it - middle).abs()).collect();
    Some(median(&deviations)? * TO_SIGMA * of_median(values.len())?)
}

/// What part of the standard deviation of so many values the standard error of their median is.
/// Nothing of nothing.
pub(super) fn of_median(count: usize) -> Option<f64> {
    /// How much more a median scatters than a mean.
    const OF_MEDIANS: f64 = 1.2533;
    match u64::try_from(count).ok()? {
        0 => None,
        // It is the value itself.
        1 => Some(1.0),
        count => Some(OF_MEDIANS / to_float(count).sqrt()),
    }
}

#[cfg(test)]
mod tests {
    use super::{error_of_median, median};

    #[test]
    fn an_outlier_is_no_error() {
        let even = [0.98, 0.99, 1.0, 1.01, 1.02];
        let disturbed = [0.98, 0.99, 1.0, 1.01, 7.0];
        assert_eq!(error_of_median(&even), error_of_median(&disturbed));
        let error = error_of_median(&even).unwrap_or_default();
        assert!((0.008..0.0085).contains(&error), "{error}");
        assert_eq!(error_of_median(&[1.0, 2.0]), None);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
