//! What became of an attempt, and why: for the log line, the metric label and the tired operator.
//!
//! An allow costs no allocation. A denial carries text, because somebody will read it; what it
//! carries is bounded however long the policy's lists are.

use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::PolicyName;
use crate::field::FieldRef;
use crate::peer_authentication::Mtls;

/// The answer of the policies to one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the connection may go on.
    pub decision: Decision,
    /// What decided it.
    pub cause: Cause,
    /// The AUDIT rules that matched: one per policy, its first.
    pub audited: Vec<RuleRef>,
    /// What policies in dry-run would have done.
    pub dry_run: Vec<DryRun>,
}

/// Whether a connection may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

/// What decided a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Allowed: no policy holds for the workload.
    NoPolicies,
    /// Allowed: there are DENY policies but none matched, and there is no ALLOW policy.
    NoDenyMatched,
    /// Allowed by this rule.
    AllowedBy(RuleRef),
    /// Denied by this rule.
    DeniedBy {
        /// The rule.
        rule: RuleRef,
        /// What matched, one per field; empty if the rule has no conditions.
        hits: Vec<FieldHit>,
        /// What the rule also says but L4 cannot see, so that it denies more than was written.
        widened: Vec<String>,
    },
    /// Denied: there are ALLOW policies and none matched.
    NoAllowMatched(Box<Nearest>),
    /// Denied: plaintext to a port that requires mutual TLS.
    PlaintextToStrict {
        /// The port.
        port: u16,
        /// The mode and the object that sets it.
        mtls: Mtls,
    },
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RuleRef {
    /// The policy.
    pub policy: PolicyName,
    /// The index of the rule in it, from 0.
    pub rule: usize,
}

/// The ALLOW rule that came closest to matching: the one with the fewest failing clauses, the first of equals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// Its policy.
    pub policy: PolicyName,
    /// Its index; `None` if no ALLOW policy has a rule.
    pub rule: Option<usize>,
    /// How many of its clauses failed; what L4 cannot see counts as one.
    pub failing: usize,
    /// The first field that failed.
    pub failure: Option<FieldFailure>,
    /// What the rule says but L4 cannot see, so that it never matches.
    pub dropped: Vec<String>,
}

/// A field that matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldHit {
    /// The list that decided: the values, or the excluded values if there are no others.
    pub field: FieldRef,
    /// The value that matched, as it is evaluated; `None` if nothing excluded the connection.
    pub value: Option<String>,
    /// What the connection has; `None` if it has no identity.
    pub actual: Option<String>,
}

/// A field that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldFailure {
    /// The list that decided.
    pub field: FieldRef,
    /// What the connection has; `None` if it has no identity.
    pub actual: Option<String>,
    /// How it failed.
    #[serde(flatten)]
    pub mismatch: Mismatch,
}

/// How a field failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "mismatch", rename_all = "snake_case")]
pub enum Mismatch {
    /// No listed value matches.
    NotListed {
        /// The first few values.
        listed: Vec<String>,
        /// How many there are.
        total: usize,
    },
    /// An excluded value matches.
    Excluded {
        /// That value.
        value: String,
    },
}

/// What a policy in dry-run would have done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum DryRun {
    /// This DENY rule would have refused the connection.
    WouldDeny(RuleRef),
    /// This ALLOW rule would have let it through.
    WouldAllow(RuleRef),
    /// If the dry-run ALLOW policies were enforced, nothing would allow the connection.
    WouldNotAllow {
        /// The first of them.
        policy: PolicyName,
    },
}

// === impl Verdict ===

impl Verdict {
    /// Whether the connection may go on.
    pub fn is_allowed(&self) -> bool {
        self.decision == Decision::Allow
    }

    /// The stable, low-cardinality label of the cause.
    pub const fn reason(&self) -> &'static str {
        self.cause.reason()
    }

    /// The object that decided, or that came nearest to allowing.
    pub const fn policy(&self) -> Option<&PolicyName> {
        match &self.cause {
            Cause::NoPolicies | Cause::NoDenyMatched => None,
            Cause::AllowedBy(rule) | Cause::DeniedBy { rule, .. } => Some(&rule.policy),
            Cause::NoAllowMatched(nearest) => Some(&nearest.policy),
            Cause::PlaintextToStrict { mtls, .. } => mtls.origin.policy(),
        }
    }

    /// The index of the rule that decided, or that came nearest to allowing.
    pub const fn rule(&self) -> Option<usize> {
        match &self.cause {
            Cause::AllowedBy(rule) | Cause::DeniedBy { rule, .. } => Some(rule.rule),
            Cause::NoAllowMatched(nearest) => nearest.rule,
            Cause::NoPolicies | Cause::NoDenyMatched | Cause::PlaintextToStrict { .. } => None,
        }
    }

    /// The first field that failed in the rule that came nearest to allowing.
    pub fn failure(&self) -> Option<&FieldFailure> {
        match &self.cause {
            Cause::NoAllowMatched(nearest) => nearest.failure.as_ref(),
            _ => None,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Verdict", 9)?;
        out.serialize_field("decision", &self.decision)?;
        out.serialize_field("reason", self.reason())?;
        out.serialize_field("policy", &self.policy())?;
        out.serialize_field("rule", &self.rule())?;
        out.serialize_field("failure", &self.failure())?;
        let hits: &[FieldHit] = match &self.cause {
            Cause::DeniedBy { hits, .. } => hits,
            _ => &[],
        };
        out.serialize_field("matched", hits)?;
        out.serialize_field("audited", &self.audited)?;
        out.serialize_field("dry_run", &self.dry_run)?;
        out.serialize_field("message", &self.to_string())?;
        out.end()
    }
}

// === impl Cause ===

impl Cause {
    /// The stable, low-cardinality label under which this cause is counted.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoPolicies => "no_policies",
            Self::NoDenyMatched => "no_deny_matched",
            Self::AllowedBy(_) => "allowed",
            Self::DeniedBy { .. } => "denied",
            Self::NoAllowMatched(_) => "no_allow_matched",
            Self::PlaintextToStrict { .. } => "plaintext_to_strict",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPolicies => f.write_str("allowed: no policy holds for this workload"),
            Self::NoDenyMatched => {
                f.write_str("allowed: no DENY policy matched and there is no ALLOW policy")
            }
            Self::AllowedBy(rule) => write!(f, "allowed by policy {rule}"),
            Self::DeniedBy {
                rule,
                hits,
                widened,
            } => write_denied(f, rule, hits, widened),
            Self::NoAllowMatched(nearest) => write!(f, "no ALLOW policy matched; {nearest}"),
            Self::PlaintextToStrict { port, mtls } => write!(
                f,
                "plaintext refused: port {port} requires mutual TLS ({})",
                mtls.origin
            ),
        }
    }
}

fn write_denied(
    f: &mut fmt::Formatter<'_>,
    rule: &RuleRef,
    hits: &[FieldHit],
    widened: &[String],
) -> fmt::Result {
    write!(f, "denied by policy {rule}: ")?;
    if hits.is_empty() {
        f.write_str("it matches every connection")?;
    }
    write_list(f, hits, " and ")?;
    if !widened.is_empty() {
        f.write_str("; widened, because L4 cannot see ")?;
        write_list(f, widened, ", ")?;
    }
    Ok(())
}

/// Writes the items one after another, with `separator` between two.
fn write_list<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    separator: &str,
) -> fmt::Result {
    for (position, item) in items.iter().enumerate() {
        if position > 0 {
            f.write_str(separator)?;
        }
        item.fmt(f)?;
    }
    Ok(())
}

// === Display of the parts ===

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rule {}", self.policy, self.rule)
    }
}

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(rule) = self.rule else {
            return write!(f, "{} has no rules, so it allows nothing", self.policy);
        };
        write!(f, "nearest: {} rule {rule} ", self.policy)?;
        if let Some(failure) = &self.failure {
            write!(f, "failed at {failure}")?;
        }
        if !self.dropped.is_empty() {
            f.write_str(if self.failure.is_some() {
                ", and it "
            } else {
                ""
            })?;
            f.write_str("never matches, because L4 cannot see ")?;
            write_list(f, &self.dropped, ", ")?;
        }
        Ok(())
    }
}

impl fmt::Display for FieldHit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = self.field;
        match (&self.value, &self.actual) {
            (Some(value), Some(actual)) if actual != value => {
                write!(f, "{field} matched {actual:?} by {value:?}")
            }
            (Some(value), _) => write!(f, "{field} matched {value:?}"),
            (None, Some(actual)) => write!(f, "{field} does not exclude {actual:?}"),
            (None, None) => write!(f, "{field} does not exclude a caller without mTLS identity"),
        }
    }
}

impl fmt::Display for FieldFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.field)?;
        match (&self.mismatch, &self.actual) {
            (Mismatch::NotListed { .. }, None) => {
                f.write_str("the caller has no mTLS identity, which must match ")
            }
            (Mismatch::NotListed { .. }, Some(actual)) => write!(f, "{actual} is not in "),
            (Mismatch::Excluded { value }, actual) => {
                return write!(
                    f,
                    "{} is excluded by {value}",
                    actual.as_deref().unwrap_or("nothing")
                );
            }
        }?;
        if let Mismatch::NotListed { listed, total } = &self.mismatch {
            f.write_str("[")?;
            write_list(f, listed, ", ")?;
            match total.saturating_sub(listed.len()) {
                0 => f.write_str("]")?,
                more => write!(f, ", and {more} more]")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldDeny(rule) => write!(f, "would be denied by {rule}"),
            Self::WouldAllow(rule) => write!(f, "would be allowed by {rule}"),
            Self::WouldNotAllow { policy } => {
                write!(
                    f,
                    "would be denied: no dry-run ALLOW policy matches (such as {policy})"
                )
            }
        }
    }
}
