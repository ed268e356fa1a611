//! The guard on the host's side of a workload's interfaces.
//!
//! A workload's interface is one end of a pair; the other is in the host's namespace, out of the
//! workload's reach. There a program drops the SYNs that no captured connection sent
//! (`interceptor-ebpf/src/guard.rs`). An interface without such an other side (hardware, macvlan,
//! ipvlan, a pair that ends elsewhere) cannot be guarded, and `status` says so.
//!
//! The guard comes last at enrolment and goes first at un-enrolment: while it is there, every
//! connection of the workload has to be known.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::config::Pins;
use super::loader::{GUARD_PROGRAM, Loaded, Source};
use crate::net::Namespace;
use crate::net::netlink::{self, Link};

/// An interface of a workload at which nothing stops hand-made packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unguarded {
    /// The interface's name in the workload.
    pub interface: String,
    /// Why.
    pub why: &'static str,
}

/// Whether a guard is any good whose workload there is no room to name. It lets no SYN through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// It would cut the workload off.
    Needed,
    /// That is what it is for.
    IfThereIsRoom,
}

/// Guards every interface of the workload with this `key` that can be guarded, and tells which
/// cannot. A workload without a guard is still captured, so nothing here fails an enrolment.
pub(super) fn attach(
    loaded: &mut Loaded,
    host: &Namespace,
    (workload, key): (&Namespace, u64),
    naming: Naming,
) -> Vec<Unguarded> {
    let look = || {
        let inside = workload.enter(netlink::links)?;
        // Listing the links is what makes the kernel number the namespaces behind them.
        let outside = || Ok((netlink::links()?, netlink::id_of(workload)?));
        let (outside, id) = host.enter(outside)?;
        Ok((inside, outside, id))
    };
    let (inside, outside, id) = match look() {
        Ok(found) => found,
        Err(error) => {
            let error: io::Error = error;
            tracing::warn!(workload = key, %error, "cannot list the interfaces of a workload");
            return vec![Unguarded::new("any", "its interfaces could not be listed")];
        }
    };
    let (guardable, mut unguarded) = judge(&inside, &outside, id);
    for (index, pin) in known(loaded, key) {
        if !guardable.iter().any(|(_, outer)| outer.index == index) {
            forget(loaded, key, index, &pin);
        }
    }
    for (inner, outer) in guardable {
        let guarded = host.enter(|| Ok(guard(loaded, key, outer, naming)));
        if let Err(error) = guarded.map_err(Source::from).flatten() {
            let interface = &outer.name;
            tracing::warn!(workload = key, interface, %error, "cannot guard an interface");
            unguarded.push(Unguarded::new(&inner.name, REFUSED));
        }
    }
    unguarded
}

/// Why a workload of the host's network has no guard.
pub(super) fn of_the_host() -> Vec<Unguarded> {
    vec![Unguarded::new("any", "it shares the host's interfaces")]
}

/// Removes the guards of the workload with this key.
pub(super) fn remove(loaded: &mut Loaded, key: u64) -> Result<(), Source> {
    for (index, pin) in known(loaded, key) {
        loaded.hooks.remove(&pin)?;
        loaded.maps.forget_interface(index, key)?;
    }
    Ok(())
}

const REFUSED: &str = "the kernel refused the guard; Linux 6.6 has it, see `interceptor doctor`";
const ELSEWHERE: &str = "its other side is not in the agent's network namespace";
const HARDWARE: &str = "it is no virtual interface, so it has no other side";
const OTHER_KIND: &str = "it leaves by an interface of the host's that is not its own";

impl Unguarded {
    fn new(interface: &str, why: &'static str) -> Self {
        Self {
            interface: interface.to_owned(),
            why,
        }
    }
}

/// Pairs the interfaces of a workload with their other sides, as far as those are here, and says
/// of the rest why they are not. What never leaves the workload's namespace needs no guard.
///
/// The other side is known by both numbers and by the namespace that it points back to: numbers
/// alone coincide between namespaces.
fn judge<'a>(
    inside: &'a [Link],
    outside: &'a [Link],
    workload: Option<i32>,
) -> (Vec<(&'a Link, &'a Link)>, Vec<Unguarded>) {
    let (mut guardable, mut unguarded) = (Vec::new(), Vec::new());
    for link in inside.iter().filter(|link| !link.loopback) {
        let is_veth = |link: &Link| link.kind.as_deref() == Some("veth");
        let other = outside.iter().find(|outer| {
            is_veth(outer)
                && Some(outer.index) == link.other
                && Some(link.index) == outer.other
                && outer.other_namespace.is_some()
                && outer.other_namespace == workload
        });
        match (&link.kind, other) {
            (None, _) => unguarded.push(Unguarded::new(&link.name, HARDWARE)),
            (Some(_), _) if link.other_namespace.is_none() => {}
            (Some(_), Some(outer)) if is_veth(link) => guardable.push((link, outer)),
            (Some(_), _) => {
                let why = if is_veth(link) { ELSEWHERE } else { OTHER_KIND };
                unguarded.push(Unguarded::new(&link.name, why));
            }
        }
    }
    (guardable, unguarded)
}

/// Guards one interface of the calling thread's namespace.
fn guard(loaded: &mut Loaded, key: u64, outer: &Link, naming: Naming) -> Result<(), Source> {
    // Without its owner's name the guard lets no SYN through, so that comes first.
    let named = loaded.maps.name_interface(outer.index, key);
    if naming == Naming::Needed {
        named?;
    }
    let pin = loaded.pins.guard(key, outer.index);
    let at = (&*outer.name, outer.index);
    let attached = loaded.hooks.attach_to_interface(GUARD_PROGRAM, at, &pin);
    if attached.is_err() {
        loaded.maps.forget_interface(outer.index, key)?;
    }
    attached
}

/// Removes a guard whose interface is gone or is another's now.
fn forget(loaded: &mut Loaded, key: u64, index: u32, pin: &Path) {
    let removed = loaded.hooks.remove(pin).map_err(Source::from);
    let removed = removed.and_then(|()| Ok(loaded.maps.forget_interface(index, key)?));
    if let Err(error) = removed {
        tracing::warn!(workload = key, index, %error, "cannot remove a guard");
    }
}

/// The guards of the workload with this key, by their interface: those that are pinned, and those
/// that were and are still held.
fn known(loaded: &Loaded, key: u64) -> Vec<(u32, PathBuf)> {
    let prefix = Pins::guards_of(key);
    let entries = fs::read_dir(loaded.pins.links()).into_iter().flatten();
    let pinned = entries.flatten().map(|entry| entry.path());
    let held = loaded.hooks.held.pins().map(Path::to_path_buf);
    let all: BTreeSet<PathBuf> = pinned.chain(held).collect();
    let guards = all.into_iter().filter_map(|pin| {
        let name = pin.file_name()?.to_str()?;
        Some((name.strip_prefix(&prefix)?.parse().ok()?, pin))
    });
    guards.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// A workload's end of a pair, and the host's.
    fn pair() -> (Link, Link) {
        let inner = Link {
            index: 2,
            name: "eth0".to_owned(),
            kind: Some("veth".to_owned()),
            other: Some(7),
            other_namespace: Some(0),
            loopback: false,
        };
        let outer = Link {
            index: 7,
            name: "veth1234".to_owned(),
            other: Some(2),
            other_namespace: Some(3),
            ..inner.clone()
        };
        (inner, outer)
    }

    fn reasons(inside: Link, outside: Link, id: Option<i32>) -> (usize, Vec<&'static str>) {
        let (inside, outside) = ([inside], [outside]);
        let (guardable, unguarded) = judge(&inside, &outside, id);
        let reasons = unguarded.iter().map(|it| it.why).collect();
        (guardable.len(), reasons)
    }

    #[test]
    fn a_pair_is_known_by_both_numbers_and_the_namespace() {
        let (inner, outer) = pair();
        assert_eq!(reasons(inner, outer, Some(3)), (1, vec![]));
    }

    #[rstest]
    #[case::of_another_namespace(pair().1, Some(4))]
    #[case::of_a_namespace_without_number(pair().1, None)]
    #[case::another_number(Link { index: 8, ..pair().1 }, Some(3))]
    #[case::that_points_elsewhere(Link { other: Some(9), ..pair().1 }, Some(3))]
    #[case::in_its_own_namespace(Link { other_namespace: None, ..pair().1 }, None)]
    fn the_other_side_of_somebody_else_is_not_taken(#[case] outer: Link, #[case] id: Option<i32>) {
        assert_eq!(reasons(pair().0, outer, id), (0, vec![ELSEWHERE]));
    }

    #[rstest]
    #[case::hardware(Link { kind: None, other: None, other_namespace: None, ..pair().0 }, vec![HARDWARE])]
    #[case::macvlan(Link { kind: Some("macvlan".to_owned()), ..pair().0 }, vec![OTHER_KIND])]
    #[case::a_pair_within(Link { other_namespace: None, ..pair().0 }, vec![])]
    #[case::dummy(Link { kind: Some("dummy".to_owned()), other: None, other_namespace: None, ..pair().0 }, vec![])]
    #[case::loopback(Link { loopback: true, kind: None, ..pair().0 }, vec![])]
    fn what_cannot_be_guarded_has_a_reason(#[case] inner: Link, #[case] why: Vec<&'static str>) {
        assert_eq!(reasons(inner, pair().1, Some(3)), (0, why));
    }
}
