//! Rules that never match, that another rule makes pointless, that L4 cannot decide, and that
//! callers without mutual TLS pass.

use std::collections::HashMap;

use interceptor_policy::{
    Action, Dead, Enforcement, Fidelity, Liveness, Policy, PolicyName, ShadowEffect, shadows,
};

use super::super::catalogue::{
    ALLOW_DROPPED, ALLOWS_ANYBODY, ALLOWS_PLAINTEXT, DENY_DEAD, DENY_EVADED, DENY_WIDENED,
    ENTRY_DEAD, NOT_COMPARED, OVERRULED, REDUNDANT, RULE_DEAD,
};
use super::super::finding::Findings;
use super::super::model::{Known, Model, several};
use super::in_policy;
use crate::workload::objects::AuthorizationPolicy;

pub(super) fn check(model: &Model<'_>, findings: &mut Findings) {
    for (object, policy) in &model.policies {
        let open = open_to_plaintext(model, policy.name());
        for rule in 0..policy.rule_count() {
            liveness(object, policy, rule, findings);
            beyond_l4(object, policy, rule, findings);
            if let Some((known, port)) = open {
                plaintext((object, policy, rule), known, port, findings);
            }
        }
    }
    shadowed(model, findings);
}

fn path(rule: usize) -> String {
    format!("spec.rules[{rule}]")
}

fn liveness(object: &AuthorizationPolicy, policy: &Policy, rule: usize, findings: &mut Findings) {
    let place = in_policy(object, &path(rule));
    if let Some(Liveness::Dead(why @ Dead::Conflict(_))) = policy.liveness(rule) {
        let (check, effect) = match policy.action() {
            Action::Deny => (&DENY_DEAD, "refuses nobody"),
            Action::Allow => (&RULE_DEAD, "allows nobody"),
            Action::Audit => (&RULE_DEAD, "records nothing"),
        };
        let effect = format!("rule {rule} never matches and {effect}: {why}");
        findings.add(
            check,
            &place,
            effect,
            "correct the fields, or delete the rule",
        );
        return;
    }
    for conflict in policy.dead_entries(rule) {
        let entry = conflict
            .entry
            .map(|entry| entry.to_string())
            .unwrap_or_default();
        let at = match entry.split_once(']') {
            Some((list, _)) => in_policy(object, &format!("{}.{list}]", path(rule))),
            None => place.clone(),
        };
        findings.add(
            &ENTRY_DEAD,
            &at,
            format!("{entry} of rule {rule} never matches: {conflict}"),
            "correct the fields, or delete the entry",
        );
    }
}

fn beyond_l4(object: &AuthorizationPolicy, policy: &Policy, rule: usize, findings: &mut Findings) {
    let Some((fidelity, fields)) = policy.unsupported(rule).filter(|(_, f)| !f.is_empty()) else {
        return;
    };
    for field in fields {
        // `when[0] (request.headers[x])` is written at `when[0].key`.
        let key = match field.split_once(" (") {
            Some((entry, _)) => format!("{}.{entry}.key", path(rule)),
            None => format!("{}.{field}", path(rule)),
        };
        findings.cover(&in_policy(object, &key));
    }
    let what = several(fields);
    let (check, effect) = match (policy.action(), fidelity) {
        (Action::Allow, _) => (
            &ALLOW_DROPPED,
            format!("rule {rule} allows nothing, because {what} cannot be decided at L4"),
        ),
        (Action::Deny, Fidelity::Widened) => (
            &DENY_WIDENED,
            format!("rule {rule} denies more than written, because {what} cannot be decided at L4"),
        ),
        _ => (
            &DENY_WIDENED,
            format!(
                "rule {rule} records more than written, because {what} cannot be decided at L4"
            ),
        ),
    };
    findings.add(
        check,
        &in_policy(object, &path(rule)),
        effect,
        "attach the policy to a waypoint, or write the rule with L4 conditions",
    );
}

/// Who comes in, or gets away, by not using mutual TLS.
fn plaintext(
    (object, policy, rule): (&AuthorizationPolicy, &Policy, usize),
    known: &Known<'_>,
    port: u16,
    findings: &mut Findings,
) {
    let live = matches!(policy.liveness(rule), Some(Liveness::Live(_)));
    if policy.enforcement() != Enforcement::Enforced || !live {
        return;
    }
    let place = in_policy(object, &path(rule));
    let id = &known.workload.id;
    let mode = known.effective.mtls(port);
    let open = format!("port {port} of {id} is {} ({})", mode.mode, mode.origin);
    match (policy.action(), policy.plaintext(rule)) {
        (Action::Allow, Some(how)) if !how.only_excluding.is_empty() => findings.add(
            &ALLOWS_PLAINTEXT,
            &place,
            format!(
                "rule {rule} admits every caller without mutual TLS: {} excludes only identities, \
                 and {open}",
                several(&how.only_excluding)
            ),
            "say who may call (principals or namespaces), or make the port STRICT",
        ),
        // `{}` says "everybody" as plainly as can be.
        (Action::Allow, Some(_)) if !says_everybody(object, rule) => findings.add(
            &ALLOWS_ANYBODY,
            &place,
            format!("rule {rule} asks for no identity, and {open}: plaintext may call"),
            "add from.source with principals or namespaces if that is not meant",
        ),
        (Action::Deny, None) => findings.add(
            &DENY_EVADED,
            &place,
            format!("whom rule {rule} denies comes in without mutual TLS: {open}"),
            "make the port STRICT, or add an ALLOW policy that asks for identities",
        ),
        _ => {}
    }
}

fn says_everybody(object: &AuthorizationPolicy, rule: usize) -> bool {
    let rule = object.spec.rules.get(rule);
    rule.is_some_and(|rule| rule.from.is_none() && rule.to.is_none() && rule.when.is_empty())
}

/// A workload and port of a policy at which plaintext may come through.
fn open_to_plaintext<'m>(
    model: &'m Model<'_>,
    policy: &PolicyName,
) -> Option<(&'m Known<'m>, u16)> {
    let mut held = model
        .held_by(policy)
        .filter(|known| model.may_enforce(known));
    held.find_map(|known| Some((known, known.open?)))
}

fn shadowed(model: &Model<'_>, findings: &mut Findings) {
    let found = shadows(model.policies.iter().map(|(_, policy)| policy));
    let by_name: HashMap<&PolicyName, &AuthorizationPolicy> = (model.policies.iter())
        .map(|(object, policy)| (policy.name(), *object))
        .collect();
    for shadow in &found.list {
        let of = |name: &PolicyName| by_name.get(name).copied();
        let (Some(object), Some(by)) = (of(&shadow.rule.policy), of(&shadow.by.policy)) else {
            continue;
        };
        let rule = shadow.rule.rule;
        let other = format!(
            "rule {} of {} ({})",
            shadow.by.rule,
            shadow.by.policy,
            in_policy(by, &path(shadow.by.rule)).short()
        );
        let place = in_policy(object, &path(rule));
        match shadow.effect {
            ShadowEffect::Overruled => findings.add(
                &OVERRULED,
                &place,
                format!("rule {rule} never allows anything: {other} denies all of it"),
                "delete the rule, or narrow the DENY",
            ),
            ShadowEffect::Redundant => findings.add(
                &REDUNDANT,
                &place,
                format!("rule {rule} changes nothing: {other} matches all of it"),
                "delete the rule, or narrow the other one",
            ),
        }
    }
    let what = "pairs of rules were not compared with each other";
    not_compared(model, found.skipped, what, findings);
}

/// What was left out, so that silence about it is not taken for an answer. To be called last.
pub(super) fn left_out(model: &Model<'_>, findings: &mut Findings) {
    let what = "workloads were not looked at: too many policies hold for the others";
    not_compared(model, model.left_out, what, findings);
    let what = "ports of workloads were not looked at for callers without mutual TLS: too many policies \
                hold for them";
    not_compared(model, model.not_asked(), what, findings);
}

fn not_compared(model: &Model<'_>, count: usize, what: &str, findings: &mut Findings) {
    if let (1.., Some((object, _))) = (count, model.policies.first()) {
        findings.add(
            &NOT_COMPARED,
            &in_policy(object, "spec"),
            format!("{count} {what}"),
            "analyze one namespace at a time",
        );
    }
}
