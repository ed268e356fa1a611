//! Trying candidates until the verdict is the other one.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::candidates::{Candidate, candidates};
use super::change::{Change, ModeChange};
use super::{Flip, MAX_FLIPS};
use crate::compile::compile_value;
use crate::field::Attribute;
use crate::peer_authentication::PeerAuthentication;
use crate::policy::Policy;
use crate::set::PolicySet;
use crate::settings::Settings;
use crate::spec::PeerAuthenticationSpec;
use crate::{Attempt, Effective, PolicyName, SpiffeId, Target, Verdict};

/// How many changes are added up before the search gives up.
const MAX_STEPS: usize = 64;

/// How many combinations are tried on the way: each costs as much as indexing the policies.
const MAX_TRIALS: usize = 400;

/// A workload, a caller, and everything that decides between them.
#[derive(Clone)]
pub(super) struct Situation<'a> {
    pub(super) settings: &'a Settings,
    pub(super) target: Target<'a>,
    pub(super) labels: BTreeMap<String, String>,
    /// Those that hold for the workload.
    pub(super) policies: Vec<Arc<Policy>>,
    pub(super) modes: Vec<PeerAuthentication>,
    pub(super) source: Option<SpiffeId>,
    pub(super) attempt: Attempt<'a>,
}

pub(super) fn flips(
    set: &PolicySet,
    target: &Target<'_>,
    attempt: &Attempt<'_>,
    identity: Option<&SpiffeId>,
) -> Vec<Flip> {
    let start = Situation {
        settings: set.settings(),
        target: *target,
        labels: target.labels.clone(),
        policies: set.holding(target),
        modes: set.modes_of(target.namespace),
        source: attempt.source.cloned(),
        attempt: *attempt,
    };
    let (effective, verdict) = start.judge();
    let mut candidates = candidates(&start, &effective, &verdict, identity);
    candidates.sort_by_key(|candidate| candidate.cost);
    let mut flips: Vec<Flip> = Vec::new();
    for candidate in candidates {
        let Some((_, after)) = start.after(&candidate.changes) else {
            continue;
        };
        if after.decision != verdict.decision {
            flips.push(Flip {
                changes: candidate.changes,
                verdict: after,
            });
        }
        if flips.len() >= MAX_FLIPS {
            break;
        }
    }
    if flips.is_empty() {
        flips.extend(add_up(&start, &verdict, identity));
    }
    flips
}

/// Adds up changes, each of which gets past what decides now, until the verdict is the other one.
fn add_up(start: &Situation<'_>, verdict: &Verdict, identity: Option<&SpiffeId>) -> Option<Flip> {
    let mut changes: Vec<Change> = Vec::new();
    let mut now = start.clone();
    let mut trials = MAX_TRIALS;
    for _ in 0..MAX_STEPS {
        let (effective, current) = now.judge();
        if current.decision != verdict.decision {
            return Some(without_the_superfluous(start, changes, &current));
        }
        let mut candidates = candidates(&now, &effective, &current, identity);
        candidates.sort_by_key(|candidate| candidate.cost);
        let step = candidates
            .into_iter()
            .find_map(|Candidate { changes, .. }| {
                trials = trials.checked_sub(1)?;
                let (next, after) = now.after(&changes)?;
                (after.cause != current.cause).then_some((next, changes))
            });
        let (next, made) = step?;
        changes.extend(made);
        now = next;
    }
    None
}

/// Takes back every change without which the verdict is the same.
fn without_the_superfluous(
    start: &Situation<'_>,
    mut changes: Vec<Change>,
    verdict: &Verdict,
) -> Flip {
    let mut reached = verdict.clone();
    let mut index = 0;
    while index < changes.len() && changes.len() > 1 {
        let mut fewer = changes.clone();
        fewer.remove(index);
        match start.after(&fewer) {
            Some((_, after)) if after.decision == verdict.decision => {
                changes = fewer;
                reached = after;
            }
            _ => index += 1,
        }
    }
    Flip {
        changes,
        verdict: reached,
    }
}

impl Situation<'_> {
    pub(super) const fn attempt(&self) -> Attempt<'_> {
        Attempt {
            source: self.source.as_ref(),
            ..self.attempt
        }
    }

    pub(super) const fn target(&self) -> Target<'_> {
        Target {
            labels: &self.labels,
            ..self.target
        }
    }

    /// What the connection has for an attribute, in the way that a policy has to write it.
    pub(super) fn own_value(&self, attribute: Attribute) -> Option<String> {
        let attempt = self.attempt();
        let value = attempt.value_of(attribute)?;
        let Some(caller) = attempt.source.filter(|_| attribute == Attribute::Principal) else {
            return Some(value);
        };
        // A name of this mesh's own trust domain stands for what the mesh is called now, which
        // need not be what this caller's certificate says.
        let anywhere = PolicyName::new("", "");
        let meant = compile_value(&value, attribute, &anywhere, self.settings);
        if meant.is_some_and(|test| test.check(&attempt).holds()) {
            return Some(value);
        }
        let (namespace, account) = (caller.namespace(), caller.service_account());
        Some(format!("*/ns/{namespace}/sa/{account}"))
    }

    pub(super) fn judge(&self) -> (Effective, Verdict) {
        let settings = self.settings.clone();
        let set = PolicySet::of(settings, self.policies.clone(), self.modes.clone());
        let effective = set.effective(&self.target());
        let verdict = effective.decide(&self.attempt());
        (effective, verdict)
    }

    /// The situation after `changes` and its verdict; `None` if one of them cannot be made, or
    /// makes an object that would be refused.
    fn after(&self, changes: &[Change]) -> Option<(Self, Verdict)> {
        let mut next = self.clone();
        for change in changes {
            next.make(change)?;
        }
        let (_, verdict) = next.judge();
        Some((next, verdict))
    }

    fn make(&mut self, change: &Change) -> Option<()> {
        match change {
            Change::UseMtls { identity } => self.source = Some(identity.clone()),
            Change::Policy { policy, edit } => {
                let at = self.position(policy)?;
                let old = self.policies.get(at)?;
                let mut spec = old.source.spec.clone();
                edit.apply(&mut spec)?;
                let name = policy.clone();
                let new = Policy::compile(name, &old.source.meta, &spec, self.settings);
                *self.policies.get_mut(at)? = Arc::new(new.ok()?.value);
            }
            Change::AddPolicy { policy, spec } => {
                let meta = crate::PolicyMeta::default();
                let new = Policy::compile(policy.clone(), &meta, spec, self.settings);
                self.policies.push(Arc::new(new.ok()?.value));
            }
            Change::DeletePolicy { policy } => {
                let at = self.position(policy)?;
                self.policies.remove(at);
            }
            Change::Mode(change) => self.set_mode(change)?,
            Change::RemoveLabel { key, .. } => {
                self.labels.remove(key)?;
            }
        }
        Some(())
    }

    fn position(&self, name: &PolicyName) -> Option<usize> {
        self.policies.iter().position(|policy| policy.name == *name)
    }

    fn set_mode(&mut self, change: &ModeChange) -> Option<()> {
        let mut old = None;
        if change.new.is_none() {
            let at = (self.modes.iter()).position(|object| object.name == change.object)?;
            old = Some(self.modes.remove(at));
        }
        let mut spec = match &old {
            Some(object) => (*object.source).clone(),
            None => PeerAuthenticationSpec::default(),
        };
        change.apply(&mut spec);
        let created = old.as_ref().and_then(|object| object.created.as_deref());
        let name = change.object.clone();
        let new = PeerAuthentication::compile(name, created, &spec, self.settings);
        self.modes.push(new.ok()?.value);
        Some(())
    }
}
