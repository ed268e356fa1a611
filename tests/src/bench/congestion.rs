//! Pins the congestion control algorithm of the benchmark's namespaces.
//!
//! By their routes: the kernel refuses a namespace the setting itself for every algorithm that the
//! machine does not offer to unprivileged programs, and the machine's own settings are not ours.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::netns::NetNs;

/// What the peers' published figures were measured with.
const ALGORITHM: &str = "cubic";

/// Pins it in all of them, and tells whether that was possible: the machine's default may pace.
pub(super) fn pin(namespaces: &[&NetNs]) -> String {
    let pinned = namespaces.iter().try_for_each(|it| pin_one(it));
    match pinned {
        Ok(()) => format!("congestion control: {ALGORITHM}"),
        Err(error) => format!("congestion control: the machine's default ({error:#})"),
    }
}

fn pin_one(namespace: &NetNs) -> Result<()> {
    let mut ip = Command::new("ip");
    ip.args(["-n", namespace.name(), "-4", "-o"]);
    let output = ip.args(["route", "show", "table", "all"]).output()?;
    ensure!(output.status.success(), "list routes");
    let changed = changes(&String::from_utf8(output.stdout)?);
    namespace.ip(&changed).context(ALGORITHM)
}

/// The same routes, with the algorithm.
///
/// Not those to a prefix that several have, such as the address that a node has on the interface of
/// every pod: a change takes the place of the first of them, whichever interface it names. One that
/// has swallowed the others is gone with its pod, and then nobody answers for the address any more.
fn changes(routes: &str) -> String {
    let mut changes = String::new();
    let alone = |line: &&str| routes.lines().filter(|it| to(it) == to(line)).count() == 1;
    let lines = routes.lines().filter(|line| !line.starts_with("broadcast"));
    for line in lines.filter(alone) {
        // Writing to a String cannot fail.
        writeln!(changes, "route change {} congctl {ALGORITHM}", line.trim()).unwrap_or_default();
    }
    changes
}

/// What a route leads to: its prefix, behind its type if it says that.
fn to(route: &str) -> (bool, Option<&str>) {
    let mut words = route.split_whitespace();
    match words.next() {
        Some("local") => (true, words.next()),
        prefix => (false, prefix),
    }
}

#[cfg(test)]
mod tests {
    use super::changes;

    #[test]
    fn routes_that_have_a_prefix_in_common_are_left_alone() {
        let routes = "10.64.1.10 dev p1 scope link src 10.64.0.10 \n\
                      local 10.64.1.10 dev p1 table local scope host src 10.64.0.10 \n\
                      local 169.254.1.1 dev p1 table local proto kernel scope host src 169.254.1.1 \n\
                      local 169.254.1.1 dev p2 table local proto kernel scope host src 169.254.1.1 \n";
        let expected = "route change 10.64.1.10 dev p1 scope link src 10.64.0.10 congctl cubic\n\
                        route change local 10.64.1.10 dev p1 table local scope host src 10.64.0.10 congctl cubic\n";
        assert_eq!(changes(routes), expected);
    }

    #[test]
    fn every_route_but_broadcasts_gets_the_algorithm() {
        let routes = "default via 169.254.1.1 dev eth0 src 10.64.1.10 \n\
                      local 10.64.1.10 dev eth0 table local proto kernel scope host src 10.64.1.10 \n\
                      broadcast 127.255.255.255 dev lo table local proto kernel scope link src 127.0.0.1 \n";
        let expected = "route change default via 169.254.1.1 dev eth0 src 10.64.1.10 congctl cubic\n\
                        route change local 10.64.1.10 dev eth0 table local proto kernel scope host src 10.64.1.10 congctl cubic\n";
        assert_eq!(changes(routes), expected);
    }
}
