//! How a report was made: without that its figures cannot be judged, or be made again.

use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::figure::Variant;
use super::plan::{CHURN, KNOWN_TO, Plan};
use crate::settings;

/// The plan of a run, what it was a run of, and how long it took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    plan: String,
    rounds: usize,
    sample_ms: u64,
    sample_most_ms: u64,
    pairs: usize,
    pair_ms: u64,
    /// How long those were measured more often that were not known well enough.
    #[serde(default)]
    further_s: u64,
    churn_windows: usize,
    churn_window_ms: u64,
    /// Works and variants that were asked for, if not all were.
    only: Vec<String>,
    commit: String,
    elapsed_s: u64,
}

impl Made {
    /// What is known before anything is measured.
    pub fn new(plan: &Plan, variants: &[Variant], only: &[String]) -> Self {
        let has_churn = (1..=plan.rounds).any(|round| plan.has_churn(round));
        let (windows, window) = plan.churn;
        Self {
            plan: plan.name.to_owned(),
            rounds: plan.rounds,
            sample_ms: milliseconds(plan.sample(variants)),
            sample_most_ms: milliseconds(plan.patience),
            pairs: plan.pairs * plan.rounds,
            pair_ms: milliseconds(Plan::short_sample()),
            further_s: plan.further().as_secs(),
            churn_windows: if has_churn { windows } else { 0 },
            churn_window_ms: milliseconds(window),
            only: only.to_vec(),
            commit: commit(),
            elapsed_s: 0,
        }
    }

    /// How long it has taken.
    pub const fn took(&mut self, elapsed: Duration) {
        self.elapsed_s = elapsed.as_secs();
    }

    /// Of two runs that each measured a part: what neither says of both is not said.
    pub(super) fn and(self, other: Self) -> Self {
        let both = |one: String, other: String| {
            if one == other {
                one
            } else {
                format!("{one} and {other}")
            }
        };
        let mut only = self.only;
        only.extend(other.only);
        Self {
            plan: both(self.plan, other.plan),
            commit: both(self.commit, other.commit),
            only,
            rounds: self.rounds.min(other.rounds),
            sample_ms: self.sample_ms.min(other.sample_ms),
            sample_most_ms: self.sample_most_ms.min(other.sample_most_ms),
            pairs: self.pairs.min(other.pairs),
            pair_ms: self.pair_ms.min(other.pair_ms),
            further_s: self.further_s.min(other.further_s),
            churn_windows: self.churn_windows.max(other.churn_windows),
            churn_window_ms: self.churn_window_ms.min(other.churn_window_ms),
            elapsed_s: self.elapsed_s + other.elapsed_s,
        }
    }

    /// Whether its churn is the one that is to be judged.
    pub(super) fn has_long_churn(&self) -> bool {
        let (windows, window) = CHURN;
        self.churn_windows >= windows && self.churn_window_ms >= milliseconds(window)
    }

    /// What a reader must know before anything else: that this is not what the project is judged by.
    pub(super) fn warning(&self) -> Option<String> {
        let missing = match (self.plan.as_str(), self.only.is_empty()) {
            ("full", true) => return None,
            ("quick", true) => {
                "made with `--quick`: samples of a fraction of a second, few of them, \
                                no churn"
            }
            _ => "of some works or variants only",
        };
        Some(format!(
            "**This run is a look, not a proof**: {missing}. What it says of 5 % is noise."
        ))
    }

    /// How it was made, a line for each subject.
    pub(super) fn lines(&self) -> Vec<String> {
        let only = match self.only.as_slice() {
            [] => String::new(),
            only => format!(", only {}", only.join(", ")),
        };
        let more = match self.further_s {
            0 => String::new(),
            most => format!(
                "; then more of those with an error above {:.0} %, for at most {most} s",
                KNOWN_TO * 100.0
            ),
        };
        let churn = match self.churn_windows {
            0 => "churn: not measured".to_owned(),
            windows => format!(
                "churn: {windows} windows of {} each",
                seconds(self.churn_window_ms)
            ),
        };
        vec![
            format!(
                "plan: {}{only}; commit {}; {}:{:02} minutes in all",
                self.plan,
                self.commit,
                self.elapsed_s / 60,
                self.elapsed_s % 60
            ),
            format!(
                "between nodes: {} rounds, samples of {} after a quarter of that to warm up; \
                 connections longer, until a sample is five times their p99, at most {}",
                self.rounds,
                seconds(self.sample_ms),
                seconds(self.sample_most_ms)
            ),
            format!(
                "inside of a node: {} pairs of samples of {} for each work (connect(2): half as many, \
                 a thousand calls each; HTTP: a quarter, a second each; 1,000 connections at a time: \
                 about an eighth){more}",
                self.pairs,
                seconds(self.pair_ms)
            ),
            churn,
        ]
    }

    pub(super) fn json(&self) -> Value {
        json!(self)
    }

    pub(super) fn from_json(json: &Value) -> Option<Self> {
        serde_json::from_value(json.clone()).ok()
    }

    /// One that the tests of others can count on.
    #[cfg(test)]
    pub(super) fn example(plan: &Plan, elapsed: Duration) -> Self {
        let mut made = Self::new(plan, &[Variant::Raw, Variant::CrossNode], &[]);
        made.commit = "0c0725a".to_owned();
        made.took(elapsed);
        made
    }
}

fn milliseconds(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

fn seconds(milliseconds: u64) -> String {
    format!("{} s", Duration::from_millis(milliseconds).as_secs_f64())
}

/// What was measured, as version control calls it. Pages and results do not count as changes.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        let output = git.current_dir(settings::repository()).args(arguments);
        let output = output.output().ok().filter(|it| it.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let changed = git(&["status", "--porcelain", "-uno", "--", ".", ":!docs"]);
    match changed {
        Some(changed) if changed.is_empty() => commit,
        _ => format!("{commit} with changes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_run_says_so_and_has_no_churn_to_judge() {
        let made = Made::example(&Plan::quick(), Duration::from_secs(125));
        let warning = made.warning().unwrap_or_default();
        assert!(warning.contains("`--quick`"), "{warning}");
        assert!(!made.has_long_churn());
        let lines = made.lines().join("\n");
        for said in [
            "plan: quick; commit 0c0725a; 2:05 minutes",
            "churn: not measured",
        ] {
            assert!(lines.contains(said), "{said} in {lines}");
        }
    }

    #[test]
    fn a_full_run_is_told_as_it_was() {
        let made = Made::example(&Plan::full(), Duration::from_secs(1263));
        assert_eq!(made.warning(), None);
        assert!(made.has_long_churn());
        let expected = "plan: full; commit 0c0725a; 21:03 minutes in all\n\
             between nodes: 5 rounds, samples of 0.8 s after a quarter of that to warm up; \
             connections longer, until a sample is five times their p99, at most 2 s\n\
             inside of a node: 100 pairs of samples of 0.04 s for each work (connect(2): half as many, a \
             thousand calls each; HTTP: a quarter, a second each; 1,000 connections at a time: about an eighth); \
             then more of those with an error above 2 %, for at most 240 s\n\
             churn: 15 windows of 2 s each";
        assert_eq!(made.lines().join("\n"), expected);
        assert_eq!(Made::from_json(&made.json()), Some(made));
    }

    #[test]
    fn shorter_windows_are_no_churn() {
        let mut plan = Plan::full();
        plan.churn = (15, Duration::from_millis(500));
        assert!(!Made::example(&plan, Duration::ZERO).has_long_churn());
    }
}
