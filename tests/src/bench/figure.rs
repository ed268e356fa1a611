//! What the report is made of: numbers with a name, each of one variant.

use std::fmt;

/// How the bytes travel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    /// TCP between pods that the mesh does not know.
    Raw,
    /// The same between pods of one node.
    RawSameNode,
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
            Self::SameNode => Self::RawSameNode,
            _ => Self::Raw,
        }
    }

    /// Whether it has nothing in between.
    pub const fn is_raw(&self) -> bool {
        matches!(self, Self::Raw | Self::RawSameNode)
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

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
