//! Who else uses our hooks.

use std::collections::BTreeSet;

use aya::programs::{ProgramInfo, loaded_programs};

use super::{Check, Health, OURS};

/// Names by which others' programs are known, and what living beside them means.
const KNOWN: [(&str, &str, Health, &str); 4] = [
    (
        "cil_sock",
        "Cilium's socket load balancer",
        Health::Degraded,
        "it may rewrite Service addresses before us: set bpf-lb-sock-hostns-only=true in Cilium's \
         configuration",
    ),
    (
        "mb_",
        "merbridge",
        Health::Degraded,
        "it redirects the same connections: remove it from this node",
    ),
    (
        "cgroup_connect",
        "Kmesh",
        Health::Degraded,
        "it redirects the same connections: remove it from this node",
    ),
    ("sd_", "systemd", Health::Ok, ""),
];

pub(super) fn checks() -> Vec<Check> {
    let mut names = BTreeSet::new();
    for program in loaded_programs().flatten() {
        let name = program.name_as_str().unwrap_or("?");
        if is_on_our_hooks(&program) && !name.starts_with(OURS) {
            names.insert(name.to_owned());
        }
    }
    vec![check(&names)]
}

#[expect(
    clippy::as_conversions,
    reason = "aya does not name the type of this enumeration; its numbers are the kernel's"
)]
fn is_on_our_hooks(program: &ProgramInfo) -> bool {
    const SOCK_OPS: u32 = 13;
    const CGROUP_SOCK_ADDR: u32 = 18;
    const SK_LOOKUP: u32 = 30;
    let kind = program.program_type() as u32;
    matches!(kind, SOCK_OPS | CGROUP_SOCK_ADDR | SK_LOOKUP)
}

fn check(names: &BTreeSet<String>) -> Check {
    let check = Check::ok("other users of the hooks", "none", "living beside them");
    let found: Vec<_> = KNOWN
        .iter()
        .filter(|(prefix, ..)| names.iter().any(|name| name.starts_with(prefix)))
        .collect();
    if let Some((_, who, state, remedy)) = found.iter().find(|known| known.2 != Health::Ok) {
        return check.but(*state, *who, *remedy);
    }
    if names.is_empty() {
        return check;
    }
    // Somebody who attaches beside others, as we do.
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    Check {
        found: names.join(", "),
        ..check
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cilium_is_recognised_and_strangers_are_not_held_against_us() {
        assert_eq!(check(&BTreeSet::new()).found, "none");
        let stranger = BTreeSet::from(["restrict_connect".to_owned()]);
        assert_eq!(check(&stranger).state, Health::Ok);
        assert_eq!(check(&stranger).found, "restrict_connect");
        let cilium = BTreeSet::from(["cil_sock4_connect".to_owned()]);
        let found = check(&cilium);
        assert_eq!(found.state, Health::Degraded);
        assert!(found.remedy.unwrap().contains("bpf-lb-sock-hostns-only"));
    }
}
