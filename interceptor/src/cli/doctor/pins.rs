//! Whether what agents of this machine have attached would stay if they ended.

use std::thread::sleep;
use std::time::Duration;

use super::{Check, Health};
use crate::capture::{Config, Leftover, unpinned};

/// A program is pinned a moment after it was attached.
const MOMENT: Duration = Duration::from_millis(100);

pub(super) fn check() -> Check {
    let config = Config::default();
    let mut found = unpinned(&config);
    if !found.is_empty() {
        sleep(MOMENT);
        let again = unpinned(&config);
        found.retain(|it| again.contains(it));
    }
    judge(&found)
}

fn judge(unpinned: &[Leftover]) -> Check {
    let check = Check::ok(
        "pins",
        "every attached program is pinned",
        "closed ports while no agent runs",
    );
    let names = unpinned.iter().filter_map(|it| match it {
        Leftover::Program { name, .. } => Some(name.as_str()),
        Leftover::Pinned(_) | Leftover::Held { .. } => None,
    });
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return check;
    }
    check.but(
        Health::Degraded,
        format!("attached, but not pinned: {}", names.join(", ")),
        "if an agent runs, its log says who is in the way, and it needs a restart; if none does, \
         interceptor uninstall --verify",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_would_not_outlive_their_agent_are_named_once() {
        assert_eq!(judge(&[]).state, Health::Ok);
        let program = |name: &str, id| Leftover::Program {
            name: name.to_owned(),
            id,
        };
        let check = judge(&[program("ic_guard", 1), program("ic_guard", 2)]);
        assert_eq!(check.state, Health::Degraded);
        assert_eq!(check.found, "attached, but not pinned: ic_guard");
    }
}
