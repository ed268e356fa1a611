//! The smallest change that would turn a verdict into its opposite.
//!
//! ```text
//!  verdict ──candidates──▶ changes of one rule, of a mode, of the caller ──▶ compiled and decided again
//! ```
//!
//! A change is made to what was *written*, compiled as if somebody had written it so, and the
//! whole set is decided again; only a change after which the verdict really is the other one is
//! returned. So whatever is named here would be accepted, and works.
//!
//! "Smallest" is how much else would change: a value added for one caller comes before a rule, a
//! rule before a mode, and what affects everybody last. Where no single change is enough (several
//! DENY rules match), changes are added up one after another, and those that turn out not to be
//! needed are taken back.
//!
//! For people and tools: the data plane never comes here.
//!
//! Not here: changes outside of policies (enrolment, capture, Services).

mod candidates;
mod change;
mod rule;
mod search;

use std::fmt;

use serde::Serialize;

use crate::set::PolicySet;
use crate::{Attempt, SpiffeId, Target, Verdict};

pub use change::{Change, Edit, ModeChange};

/// How many alternatives are returned.
const MAX_FLIPS: usize = 4;

/// Changes that together turn a verdict into its opposite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flip {
    /// What to change, in this order. Mostly one.
    pub changes: Vec<Change>,
    /// The verdict after that.
    pub verdict: Verdict,
}

impl PolicySet {
    /// The changes that would turn the verdict on `attempt` into its opposite, the smallest first.
    ///
    /// `identity` is what a caller that comes in plaintext would prove if it came through the mesh,
    /// where that is known. Empty only if nothing was found within a bounded number of trials.
    pub fn flips(
        &self,
        target: &Target<'_>,
        attempt: &Attempt<'_>,
        identity: Option<&SpiffeId>,
    ) -> Vec<Flip> {
        search::flips(self, target, attempt, identity)
    }
}

impl fmt::Display for Flip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, change) in self.changes.iter().enumerate() {
            let separator = if position > 0 { "; and " } else { "" };
            write!(f, "{separator}{change}")?;
        }
        Ok(())
    }
}
