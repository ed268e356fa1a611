//! What could be changed, and how much else each change would affect.
//!
//! Two primitives do most of it: making a rule match the connection, and keeping a rule from
//! matching it. A candidate is a proposal only; `search` tries it.

use std::sync::Arc;

use super::change::{Change, Edit, ModeChange};
use super::rule::{Edits, RuleAt};
use super::search::Situation;
use crate::peer_authentication::{MtlsMode, PeerScope};
use crate::policy::{Action, Clause, Enforcement, Fidelity, Policy};
use crate::spec::{
    AuthorizationPolicySpec, FromSpec, OperationSpec, RuleSpec, SelectorSpec, SourceSpec, ToSpec,
};
use crate::{Attribute, Cause, Decision, Effective, PolicyName, SpiffeId, Verdict};

/// So many rules that nearly match are considered.
const MAX_RULES: usize = 12;

/// Changes that may turn the verdict, and how much else they would affect.
pub(super) struct Candidate {
    pub(super) changes: Vec<Change>,
    pub(super) cost: u32,
}

pub(super) fn candidates(
    now: &Situation<'_>,
    effective: &Effective,
    verdict: &Verdict,
    identity: Option<&SpiffeId>,
) -> Vec<Candidate> {
    let mut found = Found {
        now,
        effective,
        list: Vec::new(),
    };
    if let (Decision::Deny, Some(identity), None) = (verdict.decision, identity, &now.source) {
        let identity = identity.clone();
        found.add(1, Change::UseMtls { identity });
    }
    match &verdict.cause {
        Cause::PlaintextToStrict { port, .. } => found.modes(*port, MtlsMode::Permissive),
        Cause::DeniedBy { rule, .. } => {
            found.unmatch(&rule.policy, Action::Deny, rule.rule);
            found.remove_labels(&rule.policy);
        }
        Cause::NoAllowMatched(nearest) => {
            found.match_some(Action::Allow);
            found.add_rules();
            found.remove_labels(&nearest.policy);
        }
        Cause::AllowedBy(rule) => {
            found.unmatch(&rule.policy, Action::Allow, rule.rule);
            found.match_some(Action::Deny);
            found.add_deny();
        }
        Cause::NoPolicies | Cause::NoDenyMatched => {
            found.match_some(Action::Deny);
            found.add_deny();
        }
    }
    if verdict.is_allowed() && now.source.is_none() {
        found.modes(now.attempt.destination_port, MtlsMode::Strict);
    }
    found.list
}

struct Found<'a> {
    now: &'a Situation<'a>,
    effective: &'a Effective,
    list: Vec<Candidate>,
}

impl Found<'_> {
    fn add(&mut self, cost: u32, change: Change) {
        let changes = vec![change];
        self.list.push(Candidate { changes, cost });
    }

    fn add_edits(&mut self, policy: &Policy, (edits, cost): Edits) {
        // A policy of the root namespace is everybody's.
        let everywhere = *policy.name.namespace == *self.now.settings.root_namespace;
        let edit = |edit| Change::Policy {
            policy: policy.name.clone(),
            edit,
        };
        self.list.push(Candidate {
            changes: edits.into_iter().map(edit).collect(),
            cost: cost.saturating_add(u32::from(everywhere)),
        });
    }

    /// The enforced policies with this effect that say something about the port.
    fn policies(&self, action: Action) -> Vec<Arc<Policy>> {
        let attempt = self.now.attempt();
        let bound = self.effective.0.all().filter(|bound| {
            let policy = &bound.policy;
            policy.action == action
                && policy.enforcement == Enforcement::Enforced
                && bound.concerns(&attempt)
        });
        bound.map(|bound| Arc::clone(&bound.policy)).collect()
    }

    // === rules ===

    /// Ways to make one of the rules match that are nearest to it.
    fn match_some(&mut self, action: Action) {
        let attempt = self.now.attempt();
        let mut near: Vec<(usize, Arc<Policy>, usize)> = Vec::new();
        for policy in self.policies(action) {
            for (index, rule) in policy.rules.iter().enumerate() {
                if rule.fidelity != Fidelity::Dropped {
                    let failing = |clause: &&Clause| !clause.matches(&attempt);
                    let distance = rule.clauses.iter().filter(failing).count();
                    near.push((distance, Arc::clone(&policy), index));
                }
            }
        }
        near.sort_by_key(|(distance, ..)| *distance);
        for (_, policy, index) in near.into_iter().take(MAX_RULES) {
            let at = RuleAt::new(self.now, &policy, index);
            for edits in at.iter().flat_map(RuleAt::matching) {
                self.add_edits(&policy, edits);
            }
        }
    }

    /// Ways to keep a rule from matching.
    fn unmatch(&mut self, name: &PolicyName, action: Action, index: usize) {
        let policies = self.policies(action);
        let Some(policy) = policies.iter().find(|policy| policy.name == *name) else {
            return;
        };
        let at = RuleAt::new(self.now, policy, index);
        for edits in at.iter().flat_map(RuleAt::unmatching) {
            self.add_edits(policy, edits);
        }
        if policy.rules.len() > 1 || action == Action::Allow {
            self.add_edits(policy, (vec![Edit::RemoveRule { rule: index }], 7));
        }
        if action == Action::Deny {
            let policy = name.clone();
            self.add(9, Change::DeletePolicy { policy });
        }
    }

    /// A rule of its own for this caller, in each of the ALLOW policies.
    fn add_rules(&mut self) {
        let rule = self.own_rule();
        for policy in self.policies(Action::Allow).iter().take(MAX_RULES) {
            let rule = Box::new(rule.clone());
            let cost = if rule.from.is_some() { 4 } else { 8 };
            self.add_edits(policy, (vec![Edit::AddRule { rule }], cost));
        }
    }

    /// A DENY policy for this caller and port.
    fn add_deny(&mut self) {
        let rule = self.own_rule();
        let labels = &self.now.labels;
        let spec = AuthorizationPolicySpec {
            selector: (!labels.is_empty()).then(|| SelectorSpec {
                match_labels: labels.clone(),
            }),
            rules: vec![rule],
            action: Some(Action::Deny.to_string()),
            ..AuthorizationPolicySpec::default()
        };
        let policy = self.new_name("deny");
        let spec = Box::new(spec);
        self.add(4, Change::AddPolicy { policy, spec });
    }

    /// A rule for this caller and this port; for everybody and this port if nothing is known of
    /// the caller.
    fn own_rule(&self) -> RuleSpec {
        let attempt = self.now.attempt();
        let mut source = SourceSpec::default();
        if attempt.source.is_some() {
            source
                .principals
                .extend(self.now.own_value(Attribute::Principal));
        } else if !attempt.source_ip.is_unspecified() {
            source
                .ip_blocks
                .extend(self.now.own_value(Attribute::SourceIp));
        }
        let known = source != SourceSpec::default();
        let operation = OperationSpec {
            ports: vec![attempt.destination_port.to_string()],
            ..OperationSpec::default()
        };
        RuleSpec {
            from: known.then(|| {
                vec![FromSpec {
                    source: Some(source),
                }]
            }),
            to: Some(vec![ToSpec {
                operation: Some(operation),
            }]),
            when: Vec::new(),
        }
    }

    /// A name in the workload's namespace that no object has yet.
    fn new_name(&self, what: &str) -> PolicyName {
        let port = self.now.attempt.destination_port;
        let caller = self.now.source.as_ref();
        let caller = caller.map_or("plaintext", |id| id.service_account());
        let policies = self.now.policies.iter().map(|policy| &policy.name);
        let modes = self.now.modes.iter().map(|object| &object.name);
        let taken: Vec<&PolicyName> = policies.chain(modes).collect();
        let mut name =
            PolicyName::new(self.now.target.namespace, format!("{what}-{caller}-{port}"));
        while taken.contains(&&name) {
            name = PolicyName::new(name.namespace, format!("{}-x", name.name));
        }
        name
    }

    // === modes and labels ===

    /// Ways to set the mode of a port.
    fn modes(&mut self, port: u16, mode: MtlsMode) {
        let mut on_workload = false;
        for object in &self.now.modes {
            let (whole, is_its_own) = match &object.scope {
                PeerScope::Labels(_, selector) if selector.selects(&self.now.labels) => (7, true),
                PeerScope::Labels(..) => continue,
                PeerScope::Namespace(_) => (8, false),
                PeerScope::Mesh => (9, false),
            };
            let change = |port| {
                Change::Mode(ModeChange {
                    object: object.name.clone(),
                    port,
                    mode,
                    new: None,
                })
            };
            if is_its_own && !on_workload {
                on_workload = true;
                self.list.push(Candidate {
                    changes: vec![change(Some(port))],
                    cost: 4,
                });
            }
            self.list.push(Candidate {
                changes: vec![change(None)],
                cost: whole,
            });
        }
        if !on_workload {
            let labels = &self.now.labels;
            let object = self.new_name("mtls");
            let selects = !labels.is_empty();
            let new = ModeChange {
                object,
                port: selects.then_some(port),
                mode,
                new: selects.then(|| labels.clone()),
            };
            self.add(if selects { 6 } else { 8 }, Change::Mode(new));
        }
    }

    /// Labels by which a policy selects the workload.
    fn remove_labels(&mut self, name: &PolicyName) {
        let policy = self.now.policies.iter().find(|policy| policy.name == *name);
        let selector = policy.and_then(|policy| policy.source.spec.selector.as_ref());
        let labels = selector.into_iter().flat_map(|s| s.match_labels.clone());
        for (key, value) in labels.collect::<Vec<_>>() {
            self.add(10, Change::RemoveLabel { key, value });
        }
    }
}
