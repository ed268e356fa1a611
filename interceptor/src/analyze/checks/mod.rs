//! The checks, by subject. Each looks at the model and adds findings.

mod callers;
mod capture;
mod external;
mod network;
mod policies;
mod policy_ports;
mod selectors;
mod services;
mod strict;

use super::catalogue;
use super::finding::{Findings, Place};
use super::model::Model;
use crate::workload::MeshSettings;

/// Runs all of them.
pub(super) fn all(model: &Model<'_>, settings: &MeshSettings, findings: &mut Findings) {
    policies::check(model, findings);
    callers::check(model, settings, findings);
    selectors::check(model, settings, findings);
    services::check(model, findings);
    policy_ports::check(model, findings);
    strict::check(model, findings);
    capture::check(model, findings);
    network::check(model, settings, findings);
    external::check(model, findings);
    misplaced(model, findings);
    policies::left_out(model, findings);
}

fn misplaced(model: &Model<'_>, findings: &mut Findings) {
    for (place, key) in &model.extra.misplaced {
        findings.add(
            &catalogue::MISPLACED_ANNOTATION,
            place,
            format!("{key} has no effect here: it is read on Pods"),
            "move it to spec.template.metadata",
        );
    }
}

/// The place of a key path in a policy.
fn in_policy(object: &crate::workload::objects::AuthorizationPolicy, path: &str) -> Place {
    Place::of("AuthorizationPolicy", &object.meta, &object.written, path)
}

/// The same in a `PeerAuthentication`.
fn in_modes(object: &crate::workload::objects::PeerAuthentication, path: &str) -> Place {
    Place::of("PeerAuthentication", &object.meta, &object.written, path)
}
