//! One wanted identity's schedule: when it is due, and how long to pause after failures.

use std::time::{Duration, SystemTime};

use crate::identity::svid::Svid;

/// Pause after the first failure; doubled by each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause after failures: short against half of an hour's lifetime.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// Largest part of the time until half-life by which a renewal is early, so that identities that
/// were issued together are not renewed together for ever.
const JITTER: f64 = 0.1;

/// How far one wanted identity is.
pub(super) struct Entry {
    /// When to ask the issuer next.
    pub(super) due: SystemTime,
    pub(super) phase: Phase,
    /// Why the last attempt failed, if it did.
    pub(super) last_error: Option<String>,
    failures: u32,
    /// The answer that is under way is of an issuer that has changed since.
    outdated: bool,
}

/// Whether a request is under way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Idle,
    UnderWay,
}

impl Entry {
    /// A new one, to be asked for at once.
    pub(super) const fn due(now: SystemTime) -> Self {
        Self {
            due: now,
            phase: Phase::Idle,
            last_error: None,
            failures: 0,
            outdated: false,
        }
    }

    /// To be asked for at once, also if it has just been.
    pub(super) fn again(&mut self, now: SystemTime) {
        self.due = now;
        self.outdated = self.is_under_way();
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.phase == Phase::UnderWay
    }

    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        !self.is_under_way() && self.due <= now
    }

    pub(super) fn succeeded(&mut self, svid: &Svid) {
        let half = svid
            .renew_at()
            .duration_since(svid.issued_at)
            .unwrap_or_default();
        let pause = half.mul_f64(1.0 - rand::random_range(0.0..JITTER));
        self.due = if std::mem::take(&mut self.outdated) {
            svid.issued_at
        } else {
            svid.issued_at + pause
        };
        self.phase = Phase::Idle;
        self.failures = 0;
        self.last_error = None;
    }

    pub(super) fn failed(&mut self, error: String, now: SystemTime) {
        self.due = now + pause(self.failures);
        self.phase = Phase::Idle;
        self.failures = self.failures.saturating_add(1);
        self.last_error = Some(error);
    }
}

/// Pause after `failures` earlier ones.
fn pause(failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<u64> = (0..8).map(|failures| pause(failures).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }
}
