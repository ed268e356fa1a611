//! The local ports that a network namespace hands out to connections.
//!
//! Not here: which socket gets one (`dial`).

use std::fs;
use std::ops::RangeInclusive;

/// Where a namespace says which local ports it hands out, for both families.
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Where it says which of them it does not.
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The kernel's own range, for where that cannot be read.
const USUAL: RangeInclusive<u16> = 32_768..=60_999;

/// How often a port is drawn until it is not a reserved one.
const DRAWS: usize = 64;

/// The local ports of a namespace, without the reserved ones.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LocalPorts {
    range: RangeInclusive<u16>,
    reserved: Vec<RangeInclusive<u16>>,
}

impl Default for LocalPorts {
    fn default() -> Self {
        Self::parse("", "")
    }
}

impl LocalPorts {
    /// Those of the calling thread's namespace.
    pub(super) fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        Self::parse(&text(RANGE), &text(RESERVED))
    }

    fn parse(range: &str, reserved: &str) -> Self {
        Self {
            range: first_and_last(range.split_whitespace()).unwrap_or(USUAL),
            reserved: reserved
                .trim()
                .split(',')
                .filter_map(|part| first_and_last(part.split('-')))
                .collect(),
        }
    }

    /// One of them, at random; `None` if nearly all are reserved.
    pub(super) fn draw(&self) -> Option<u16> {
        (0..DRAWS)
            .map(|_| rand::random_range(self.range.clone()))
            .find(|port| !self.reserved.iter().any(|range| range.contains(port)))
    }
}

/// A range out of its first and last port, or out of its only one.
fn first_and_last<'a, I: Iterator<Item = &'a str>>(mut numbers: I) -> Option<RangeInclusive<u16>> {
    let first = numbers.next()?.parse().ok()?;
    let last = numbers.next().map_or(Some(first), |it| it.parse().ok())?;
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::usual("32768\t60999\n", "\n", 32_768..=60_999, &[])]
    #[case::reserved("1024\t2000\n", "1100,1200-1300\n", 1_024..=2_000, &[1_100..=1_100, 1_200..=1_300])]
    #[case::unreadable("", "", USUAL, &[])]
    #[case::backwards("60999 32768", "9-1,x", USUAL, &[])]
    #[case::out_of_range("1 70000", "70000", USUAL, &[])]
    fn the_kernels_lists_are_read(
        #[case] range: &str,
        #[case] reserved: &str,
        #[case] expected: RangeInclusive<u16>,
        #[case] without: &[RangeInclusive<u16>],
    ) {
        let ports = LocalPorts::parse(range, reserved);
        assert_eq!((ports.range, &*ports.reserved), (expected, without));
    }

    #[test]
    fn a_reserved_port_is_never_drawn() {
        let ports = LocalPorts::parse("1000 1003", "1000-1001,1003");
        for _ in 0..100 {
            assert!(matches!(ports.draw(), None | Some(1002)));
        }
        assert_eq!(LocalPorts::parse("1000 1000", "1000").draw(), None);
    }
}
