//! From what was written to what is meant.
//!
//! All mistakes come back together, each with the path of its field. What Istio's validation
//! refuses is refused here; what Istio accepts and then silently ignores is refused or reported.
//!
//! Every part appends to one [`Problems`] and returns its best effort, so that one mistake does not
//! hide the next; nothing of it is used unless the list is free of errors.

mod alias;
mod condition;
mod fields;
mod list;
mod rule;
mod scope;

use std::sync::Arc;

use crate::policy::{Action, Enforcement, Policy, PolicyName, PolicySource};
use crate::problem::{Compiled, FieldPath, Problem, Problems};
use crate::settings::Settings;
use crate::spec::AuthorizationPolicySpec;

pub(crate) use list::compile_value;
pub(crate) use scope::compile_selector;

/// The annotation that turns a policy into one that only reports.
const DRY_RUN: &str = "istio.io/dry-run";

/// What an `AuthorizationPolicy`'s metadata says about how it is evaluated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyMeta {
    /// The annotation `istio.io/dry-run`, as written.
    pub dry_run: Option<String>,
}

/// What every part of a policy is compiled against.
struct Context<'a> {
    name: &'a PolicyName,
    settings: &'a Settings,
    action: Action,
}

impl Policy {
    /// Reads what was written.
    ///
    /// # Errors
    ///
    /// Every mistake, and every warning found on the way.
    pub fn compile(
        name: PolicyName,
        meta: &PolicyMeta,
        spec: &AuthorizationPolicySpec,
        settings: &Settings,
    ) -> Result<Compiled<Self>, Vec<Problem>> {
        let mut problems = Problems::default();
        let action = compile_action(spec, &mut problems);
        let enforcement = compile_enforcement(meta, action, &mut problems);
        let context = Context {
            name: &name,
            settings,
            action: action.unwrap_or(Action::Deny),
        };
        let scope = scope::compile(spec, &context, &mut problems);
        let path = FieldPath::root("spec").key("rules");
        let rules = (spec.rules.iter().enumerate())
            .map(|(index, rule)| rule::compile(rule, &path.index(index), &context, &mut problems))
            .collect();
        if spec.rules.is_empty() && matches!(action, Some(Action::Deny | Action::Audit)) {
            problems.error(
                path,
                "a policy that is not ALLOW has no effect without rules: add a rule ({} matches \
                 every connection), or delete the policy",
            );
        }
        problems.finish(action.map(|action| Self {
            name,
            action,
            enforcement,
            scope,
            rules,
            source: Arc::new(PolicySource {
                meta: meta.clone(),
                spec: spec.clone(),
            }),
        }))
    }
}

fn compile_action(spec: &AuthorizationPolicySpec, problems: &mut Problems) -> Option<Action> {
    let root = FieldPath::root("spec");
    let action = match spec.action.as_deref() {
        None | Some("ALLOW") => Some(Action::Allow),
        Some("DENY") => Some(Action::Deny),
        Some("AUDIT") => Some(Action::Audit),
        Some("CUSTOM") => {
            problems.error(
                root.key("action"),
                "CUSTOM needs an HTTP proxy that asks an external authorizer, and this node decides \
                 at L4: attach the policy to a waypoint, or write it as ALLOW or DENY",
            );
            return None;
        }
        Some(other) => {
            problems.error(
                root.key("action"),
                format!("{other:?} is not an action: write ALLOW, DENY or AUDIT"),
            );
            None
        }
    };
    if spec.provider.is_some() {
        problems.error(
            root.key("provider"),
            "only allowed with action CUSTOM: remove it",
        );
    }
    action
}

fn compile_enforcement(
    meta: &PolicyMeta,
    action: Option<Action>,
    problems: &mut Problems,
) -> Enforcement {
    let Some(written) = meta.dry_run.as_deref() else {
        return Enforcement::Enforced;
    };
    let path = FieldPath::root("metadata").key("annotations").key(DRY_RUN);
    match written {
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Enforcement::Enforced,
        "1" | "t" | "T" | "TRUE" | "true" | "True" => {
            if action == Some(Action::Audit) {
                problems.error(
                    path,
                    "an AUDIT policy changes nothing anyway: remove the annotation",
                );
            }
            Enforcement::DryRun
        }
        other => {
            problems.error(
                path,
                format!("{other:?} is not a boolean: write \"true\" or \"false\""),
            );
            Enforcement::DryRun
        }
    }
}
