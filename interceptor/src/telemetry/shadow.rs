//! What policies that only report say of connections: AUDIT, and those in dry-run.
//!
//! ```text
//!  Verdict ──of──▶ Shadow ─┬─▶ access line: audit=, dry_run=
//!                          └─▶ metrics: policy, effect, caller ──▶ Report (`policy shadow`)
//! ```
//!
//! What counts for whoever wants to enforce a policy is the difference that it would make. So the
//! effect is judged against what really became of the connection: a dry-run DENY that matches what
//! was refused anyway changes nothing.
//!
//! Not here: evaluating them (`interceptor-policy`).

use std::fmt;

use interceptor_policy::{Action, Cause, DryRun, Effective, Enforcement, PolicyName, Verdict};
use serde::{Deserialize, Serialize};

/// What one policy that only reports says of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// The policy.
    pub policy: PolicyName,
    /// The rule that matched; `None` if it is the lack of a match that is reported.
    pub rule: Option<usize>,
    /// The difference that it would make.
    pub effect: Effect,
}

/// The difference that enforcing a policy would have made to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It went through and would have been refused.
    WouldRefuse,
    /// It was refused and would have gone through.
    WouldAllow,
    /// A policy in dry-run matched, and the outcome would have been the same.
    NoChange,
    /// An AUDIT policy matched.
    Audited,
}

impl Effect {
    /// The value of the label `effect`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::WouldRefuse => "would_refuse",
            Self::WouldAllow => "would_allow",
            Self::NoChange => "no_change",
            Self::Audited => "audited",
        }
    }

    /// The same for people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::WouldRefuse => "would refuse",
            Self::WouldAllow => "would allow",
            Self::NoChange => "no change",
            Self::Audited => "audited",
        }
    }
}

impl Shadow {
    /// Everything that policies which only report say of the connection with this verdict.
    pub fn of(verdict: &Verdict) -> Vec<Self> {
        let audited = verdict.audited.iter().map(|rule| Self {
            policy: rule.policy.clone(),
            rule: Some(rule.rule),
            effect: Effect::Audited,
        });
        let dry_run = verdict.dry_run.iter().map(|dry_run| match dry_run {
            DryRun::WouldDeny(rule) => Self {
                policy: rule.policy.clone(),
                rule: Some(rule.rule),
                effect: refused_now(verdict),
            },
            DryRun::WouldAllow(rule) => Self {
                policy: rule.policy.clone(),
                rule: Some(rule.rule),
                effect: match verdict.cause {
                    Cause::NoAllowMatched(_) => Effect::WouldAllow,
                    _ => Effect::NoChange,
                },
            },
            DryRun::WouldNotAllow { policy } => Self {
                policy: policy.clone(),
                rule: None,
                effect: refused_now(verdict),
            },
        });
        audited.chain(dry_run).collect()
    }
}

const fn refused_now(verdict: &Verdict) -> Effect {
    match verdict.decision {
        interceptor_policy::Decision::Allow => Effect::WouldRefuse,
        interceptor_policy::Decision::Deny => Effect::NoChange,
    }
}

impl fmt::Display for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.policy.fmt(f)?;
        if let Some(rule) = self.rule {
            write!(f, " rule {rule}")?;
        }
        match self.effect {
            Effect::Audited => Ok(()),
            effect => write!(f, ": {}", effect.text()),
        }
    }
}

/// The document at `/shadow`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The policies that only report, and hold for a workload of this node.
    pub policies: Vec<Reporting>,
    /// What they said since the agent started.
    pub counts: Vec<Count>,
    /// How many reports had no room of their own.
    pub overflowed: u64,
}

/// A policy that only reports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reporting {
    /// `namespace/name`.
    pub policy: String,
    /// `ALLOW`, `DENY` or `AUDIT`.
    pub action: String,
    /// Whether it is in dry-run.
    pub dry_run: bool,
}

/// What a policy that only reports said of all callers together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The policy.
    #[serde(flatten)]
    pub policy: Reporting,
    /// Connections that it would have refused.
    pub would_refuse: u64,
    /// Connections that it would have let through.
    pub would_allow: u64,
    /// Connections that it was to report.
    pub audited: u64,
}

/// How often one policy had one effect on one caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    /// `namespace/name` of the policy.
    pub policy: String,
    /// The effect.
    pub effect: Effect,
    /// The identity that the caller proved; `unknown` for plaintext.
    pub caller: String,
    /// How many connections.
    pub connections: u64,
}

impl Report {
    /// What each of the policies that hold here said, in numbers.
    pub fn summaries(self) -> Vec<Summary> {
        let Self {
            policies, counts, ..
        } = self;
        let sum = |policy: &str, effect: Effect| {
            let own = counts
                .iter()
                .filter(|c| c.policy == policy && c.effect == effect);
            own.map(|count| count.connections).sum()
        };
        let summary = |policy: Reporting| Summary {
            would_refuse: sum(&policy.policy, Effect::WouldRefuse),
            would_allow: sum(&policy.policy, Effect::WouldAllow),
            audited: sum(&policy.policy, Effect::Audited),
            policy,
        };
        policies.into_iter().map(summary).collect()
    }
}

impl Reporting {
    /// Its action, and whether it is tried only: `DENY (dry-run)`.
    pub fn kind(&self) -> String {
        let suffix = if self.dry_run { " (dry-run)" } else { "" };
        format!("{}{suffix}", self.action)
    }

    /// Those of the policies that hold for a workload.
    pub fn of(effective: &Effective) -> impl Iterator<Item = Self> {
        let policies = effective.policies().filter(|policy| policy.only_reports());
        policies.map(|policy| Self {
            policy: policy.name().to_string(),
            action: policy.action().to_string(),
            dry_run: policy.action() != Action::Audit
                && policy.enforcement() == Enforcement::DryRun,
        })
    }
}

#[cfg(test)]
mod tests {
    use interceptor_policy::{Decision, RuleRef};
    use rstest::rstest;

    use super::*;

    fn rule() -> RuleRef {
        RuleRef {
            policy: PolicyName::new("demo", "try"),
            rule: 1,
        }
    }

    fn allowed(dry_run: DryRun) -> Verdict {
        Verdict {
            decision: Decision::Allow,
            cause: Cause::NoPolicies,
            audited: Vec::new(),
            dry_run: vec![dry_run],
        }
    }

    fn refused(dry_run: DryRun) -> Verdict {
        Verdict {
            decision: Decision::Deny,
            cause: Cause::DeniedBy {
                rule: rule(),
                hits: Vec::new(),
                widened: Vec::new(),
            },
            ..allowed(dry_run)
        }
    }

    fn not_allowed(dry_run: DryRun) -> Verdict {
        let nearest = interceptor_policy::Nearest {
            policy: PolicyName::new("demo", "allow"),
            rule: None,
            failing: 0,
            failure: None,
            dropped: Vec::new(),
        };
        Verdict {
            cause: Cause::NoAllowMatched(Box::new(nearest)),
            ..refused(dry_run)
        }
    }

    #[rstest]
    #[case::a_deny_of_what_passes(allowed(DryRun::WouldDeny(rule())), Effect::WouldRefuse)]
    #[case::a_deny_of_what_is_refused(refused(DryRun::WouldDeny(rule())), Effect::NoChange)]
    #[case::an_allow_of_what_passes(allowed(DryRun::WouldAllow(rule())), Effect::NoChange)]
    #[case::an_allow_of_what_is_denied(refused(DryRun::WouldAllow(rule())), Effect::NoChange)]
    #[case::an_allow_of_what_nothing_allows(
        not_allowed(DryRun::WouldAllow(rule())),
        Effect::WouldAllow
    )]
    #[case::the_lack_of_an_allow(
        allowed(DryRun::WouldNotAllow { policy: PolicyName::new("demo", "try") }),
        Effect::WouldRefuse
    )]
    fn the_effect_is_the_difference_that_enforcing_makes(
        #[case] verdict: Verdict,
        #[case] effect: Effect,
    ) {
        let shadows = Shadow::of(&verdict);
        assert_eq!(
            shadows.iter().map(|s| s.effect).collect::<Vec<_>>(),
            [effect]
        );
    }

    #[test]
    fn an_audit_is_named_without_an_effect() {
        let verdict = Verdict {
            audited: vec![rule()],
            dry_run: Vec::new(),
            ..allowed(DryRun::WouldAllow(rule()))
        };
        let said: Vec<_> = Shadow::of(&verdict)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(said, ["demo/try rule 1"]);
    }
}
