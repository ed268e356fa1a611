//! `selector` and `targetRefs`: which workloads a policy holds for.

use std::sync::Arc;

use super::Context;
use crate::problem::{FieldPath, Problems};
use crate::scope::{Scope, Selector};
use crate::settings::OnUnsupported;
use crate::spec::{AuthorizationPolicySpec, SelectorSpec, TargetRefSpec};

/// Istio's limit for `targetRefs`.
const MAX_TARGET_REFS: usize = 16;

pub(super) fn compile(
    spec: &AuthorizationPolicySpec,
    context: &Context<'_>,
    problems: &mut Problems,
) -> Scope {
    let root = FieldPath::root("spec");
    let selector = spec
        .selector
        .as_ref()
        .and_then(|spec| compile_selector(spec, problems));
    let targets = target_refs(spec, problems);
    if !targets.is_empty() {
        if spec.selector.is_some() {
            problems.error(
                root.key("selector"),
                "not together with targetRefs: remove one of them",
            );
        }
        return compile_targets(&targets, context, problems);
    }
    let namespace = Arc::clone(&context.name.namespace);
    let mesh_wide = *namespace == *context.settings.root_namespace;
    match (selector, mesh_wide) {
        (None, true) => Scope::Mesh,
        (None, false) => Scope::Namespace(namespace),
        (Some(selector), true) => Scope::MeshLabels(selector),
        (Some(selector), false) => Scope::NamespaceLabels(namespace, selector),
    }
}

/// The labels of a selector, or `None` for one that selects everything.
pub(crate) fn compile_selector(spec: &SelectorSpec, problems: &mut Problems) -> Option<Selector> {
    let path = FieldPath::root("spec").key("selector");
    if spec.match_labels.is_empty() {
        problems.warn(
            path,
            "without labels it selects every workload of its scope: remove the selector, or add \
             the labels that were meant",
        );
        return None;
    }
    let path = path.key("matchLabels");
    for (key, value) in &spec.match_labels {
        if key.is_empty() {
            problems.error(path.key(key.clone()), "a label cannot have an empty key");
        }
        if key.contains('*') || value.contains('*') {
            problems.error(
                path.key(key.clone()),
                format!("\"*\" is not a wildcard in labels: write the exact label instead of {key}={value}"),
            );
        }
    }
    Some(Selector(spec.match_labels.clone()))
}

/// All references, with the path of each.
fn target_refs<'a>(
    spec: &'a AuthorizationPolicySpec,
    problems: &mut Problems,
) -> Vec<(FieldPath, &'a TargetRefSpec)> {
    let root = FieldPath::root("spec");
    let path = root.key("targetRefs");
    if spec.target_ref.is_some() && !spec.target_refs.is_empty() {
        problems.error(
            root.key("targetRef"),
            "not together with targetRefs: add it to the list",
        );
    }
    if spec.target_refs.len() > MAX_TARGET_REFS {
        problems.error(
            path.clone(),
            format!("at most {MAX_TARGET_REFS} references: split the policy"),
        );
    }
    let single = spec
        .target_ref
        .iter()
        .map(|target| (root.key("targetRef"), target));
    let listed = spec.target_refs.iter().enumerate();
    single
        .chain(listed.map(|(index, target)| (path.index(index), target)))
        .collect()
}

fn compile_targets(
    targets: &[(FieldPath, &TargetRefSpec)],
    context: &Context<'_>,
    problems: &mut Problems,
) -> Scope {
    let mut services = Vec::new();
    for (path, target) in targets {
        if target.name.is_empty() {
            problems.error(
                path.key("name"),
                "name the object that the policy is attached to",
            );
        }
        let own = &*context.name.namespace;
        if target
            .namespace
            .as_deref()
            .is_some_and(|namespace| !namespace.is_empty() && namespace != own)
        {
            problems.error(
                path.key("namespace"),
                "only objects of the policy's own namespace",
            );
        }
        match (target.group.as_str(), target.kind.as_str()) {
            ("" | "core", "Service") => services.push(target.name.as_str().into()),
            ("gateway.networking.k8s.io", "Gateway" | "GatewayClass")
            | ("networking.istio.io", "ServiceEntry") => {
                report_elsewhere(path, target, context, problems);
            }
            (group, kind) => problems.error(
                path.key("kind"),
                format!(
                    "{kind:?} of group {group:?} is not a kind that policies attach to: Service, \
                     Gateway, GatewayClass or ServiceEntry"
                ),
            ),
        }
    }
    if services.is_empty() {
        return Scope::Elsewhere;
    }
    Scope::Services(Arc::clone(&context.name.namespace), services.into())
}

fn report_elsewhere(
    path: &FieldPath,
    target: &TargetRefSpec,
    context: &Context<'_>,
    problems: &mut Problems,
) {
    let message = format!(
        "not enforced by this node: a {} is served by another proxy; use a selector or a Service \
         to decide at the workload",
        target.kind
    );
    match context.settings.on_unsupported {
        OnUnsupported::Widen => problems.warn(path.clone(), message),
        OnUnsupported::Reject => problems.error(path.clone(), message),
    }
}
