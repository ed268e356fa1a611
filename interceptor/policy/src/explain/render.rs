//! An explanation as text: the answer in the first line, then what it rests on.
//!
//! Plain and aligned; colour is the command line's business.

use std::fmt;

use super::{ClauseTrace, Connection, Explanation, FieldTrace, PolicyTrace, RuleTrace, Standing};
use crate::policy::{Enforcement, Fidelity};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            verdict,
            connection,
            mtls,
            policies,
            unknown_port_names,
        } = self;
        writeln!(
            f,
            "{}: {verdict}",
            verdict.decision.to_string().to_uppercase()
        )?;
        writeln!(f, "{connection}")?;
        writeln!(f, "  mTLS      {} ({})", mtls.mode, mtls.origin)?;
        if policies.is_empty() {
            writeln!(f, "  policies  none holds for this workload")?;
        }
        for policy in policies {
            policy.fmt(f)?;
        }
        for outcome in &verdict.dry_run {
            writeln!(f, "  dry run   {outcome}")?;
        }
        for rule in &verdict.audited {
            writeln!(f, "  audit     recorded by {rule}")?;
        }
        for unknown in unknown_port_names {
            writeln!(f, "  warning   {unknown}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source_identity {
            Some(id) => writeln!(f, "  from      {id} at {}", self.source_ip)?,
            None => writeln!(f, "  from      plaintext at {}", self.source_ip)?,
        }
        let destination = std::net::SocketAddr::new(self.destination_ip, self.destination_port);
        write!(f, "  to        {destination}")
    }
}

impl fmt::Display for PolicyTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = self.action.to_string();
        let dry_run = match self.enforcement {
            Enforcement::Enforced => "",
            Enforcement::DryRun => ", dry run",
        };
        let Self {
            policy,
            holds_for,
            standing,
            ..
        } = self;
        writeln!(
            f,
            "  {action:<9} {policy} ({holds_for}{dry_run}): {standing}"
        )?;
        if self.rules.is_empty() && *standing == Standing::NotMatched {
            writeln!(f, "            it has no rules")?;
        }
        self.rules.iter().try_for_each(|rule| rule.fmt(f))
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Decided => "decided",
            Self::Preceded => "matched, after the decision",
            Self::Reported => "matched, only reports",
            Self::NotMatched => "no rule matched",
            Self::OtherPort => "not for this port",
        })
    }
}

impl fmt::Display for RuleTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match (self.matched, self.fidelity) {
            (_, Fidelity::Dropped) => "never matches",
            (true, Fidelity::Exact) => "matched",
            (true, Fidelity::Widened) => "matched, widened",
            (false, _) => "did not match",
        };
        write!(f, "            rule {} {outcome}", self.rule)?;
        match self.unsupported.as_slice() {
            [] => writeln!(f)?,
            unsupported => writeln!(f, ": L4 cannot see {}", unsupported.join(", "))?,
        }
        self.clauses.iter().try_for_each(|clause| clause.fmt(f))
    }
}

impl fmt::Display for ClauseTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Where one entry matched, the others no longer matter.
        let relevant = self
            .entries
            .iter()
            .filter(|entry| entry.matched == self.matched);
        let shown = if self.matched { 1 } else { usize::MAX };
        for field in relevant.take(shown).flat_map(|entry| &entry.fields) {
            writeln!(f, "              {field}")?;
        }
        Ok(())
    }
}

impl fmt::Display for FieldTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matched(hit) => write!(f, "ok    {hit}"),
            Self::Failed(failure) => write!(f, "FAIL  {failure}"),
        }
    }
}
