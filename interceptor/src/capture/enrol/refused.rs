//! Workloads that belong here and cannot be enrolled: each is refused where it is until it can be, or is
//! no longer configured.
//!
//! One that an earlier agent had captured is left as that agent's absence left it; any other is shut.
//! Several may fail at one place: it is closed until the last of them has gone, or one is enrolled there.
//!
//! Not here: how one is shut (`shut`).

use super::release::release;
use super::{publish, shut};
use crate::capture::Capture;
use crate::capture::error::EnrolError;
use crate::capture::site::{Site, locate};
use crate::workload::{Workload, WorkloadId};

/// Keeps a workload refused that cannot be enrolled.
pub(in crate::capture) fn keep_closed(capture: &mut Capture, workload: &Workload) -> bool {
    let id = &workload.id;
    if let Ok(site) = locate(capture, workload) {
        leave(capture, id, &site);
        refuse(capture, workload, &site);
        publish(capture);
    }
    capture.closed.contains_key(id)
}

/// Sees to it that a workload which could not be enrolled at `site` is refused there: as an earlier
/// agent left it, or shut. Not where another one is enrolled, which is captured.
pub(super) fn refuse(capture: &mut Capture, workload: &Workload, site: &Site) {
    let mut enrolled = capture.enrolled.values();
    if enrolled.any(|it| it.key() == site.key()) {
        return;
    }
    close(capture, &workload.id, site.clone());
    if !capture.closed.contains_key(&workload.id) {
        shut::shut(capture, workload, site);
    }
}

/// Notes that a workload is to stay as an earlier agent's absence left it: captured, without
/// listeners, and so refused.
fn close(capture: &mut Capture, id: &WorkloadId, site: Site) {
    let left = capture.adopted.get(&site.key());
    if left.is_some_and(|entries| entries.workload.is_some()) {
        capture.closed.insert(id.clone(), site);
    }
}

/// Lets go what was kept closed for the workload elsewhere: it was recreated since, and is at `site`
/// now. What holds there is not what held for its predecessor.
pub(super) fn leave(capture: &mut Capture, id: &WorkloadId, site: &Site) {
    let closed = capture.closed.get(id);
    if closed.is_some_and(|closed| closed.key() != site.key())
        && let Err(error) = open_closed(capture, id)
    {
        tracing::error!(workload = %id, %error, "cannot release what its predecessor had");
    }
}

/// Lets a workload go that was kept closed, unless another one is kept closed there.
pub(in crate::capture) fn open_closed(
    capture: &mut Capture,
    id: &WorkloadId,
) -> Result<(), EnrolError> {
    let Some(site) = capture.closed.remove(id) else {
        return Ok(());
    };
    if capture.closed.values().any(|it| it.key() == site.key()) {
        return Ok(());
    }
    let entries = capture.adopted.remove(&site.key()).unwrap_or_default();
    publish(capture);
    release(capture, id, site.key(), &entries)
}
