//! Taking back what was enrolled: a workload that goes, one that failed half-way, those of an
//! earlier agent that nobody claims, and the host's own entry, which follows the workloads.

use std::collections::HashMap;

use interceptor_common::{CGROUP_BIT, HOST_NAMESPACE, WorkloadEntry};

use super::{nobody, publish, step, write_failed};
use crate::capture::error::EnrolError;
use crate::capture::listeners::all_keys;
use crate::capture::loader::HOST_PROGRAM;
use crate::capture::maps::Entries;
use crate::capture::site::Site;
use crate::capture::{Capture, guard};
use crate::workload::WorkloadId;

/// Removes what an earlier agent enrolled and this one did not.
pub(in crate::capture) fn retire_unclaimed(capture: &mut Capture) -> Result<usize, EnrolError> {
    let host = capture.host.cookie();
    // The host's own entry follows the workloads that are left.
    capture.adopted.remove(&host);
    let closed = &capture.closed;
    let unclaimed = |key: &u64, _: &mut Entries| !closed.values().any(|site| site.key() == *key);
    let mut adopted: HashMap<_, _> = capture.adopted.extract_if(unclaimed).collect();
    let count = adopted.len();
    let nobody = nobody("an earlier agent's workload");
    let keys: Vec<_> = adopted.keys().copied().collect();
    for key in keys {
        let entries = adopted.remove(&key).unwrap_or_default();
        if let Err(error) = release(capture, &nobody, key, &entries) {
            // It and those after it are tried again.
            capture.adopted.insert(key, entries);
            capture.adopted.extend(adopted);
            publish(capture);
            return Err(error);
        }
    }
    publish(capture);
    refresh_host(capture, &nobody)?;
    capture.inherited.close();
    Ok(count)
}

/// Brings the host's namespace in line with the host-network workloads and the prober: its entry
/// says at which depths their cgroups are, and its `sk_lookup` hands workloads their connections.
pub(in crate::capture) fn refresh_host(
    capture: &mut Capture,
    id: &WorkloadId,
) -> Result<(), EnrolError> {
    let cookie = capture.host.cookie();
    let adopted = capture.adopted.get(&cookie).and_then(|it| it.workload);
    let mut levels = adopted.map_or(0, |entry| entry.levels);
    let enrolled = capture.enrolled.values().map(|it| &it.site);
    for site in enrolled.chain(capture.closed.values()) {
        if let Site::Cgroup { level, .. } = site {
            levels |= 1 << level;
        }
    }
    let has_workloads = levels != 0;
    levels |= capture.probers.levels();
    let entry = (levels != 0).then_some(WorkloadEntry {
        flags: HOST_NAMESPACE,
        levels,
        ..WorkloadEntry::default()
    });
    let loaded = &mut capture.loaded;
    let pin = loaded.pins.link(HOST_PROGRAM);
    if has_workloads {
        (loaded.hooks)
            .attach_to_namespace(HOST_PROGRAM, &capture.host, &pin)
            .map_err(|error| step(id, "steer the host's connections", error))?;
    }
    let new = Entries {
        workload: entry,
        ..Entries::default()
    };
    loaded
        .maps
        .replace_outbound(cookie, &Entries::default(), &new)
        .map_err(|error| write_failed(id, error))?;
    if !has_workloads {
        (loaded.hooks)
            .remove(&pin)
            .map_err(|error| step(id, "release the host's connections", error))?;
    }
    Ok(())
}

/// Takes back what a failed enrolment did. A workload that was captured before is left as the
/// agent's absence left it: captured, without listeners, and so refused.
pub(super) fn undo(capture: &mut Capture, id: &WorkloadId, old: Entries) {
    let Some(enrolment) = capture.enrolled.remove(id) else {
        return;
    };
    let key = enrolment.key();
    let mut entries = old.clone();
    entries.absorb(&enrolment.entries);
    if old.workload.is_some() {
        let maps = &mut capture.loaded.maps;
        // The room that it took in vain is others'.
        let restored = (maps.replace_outbound(key, &entries, &old))
            .and_then(|()| maps.replace_inbound(&entries, &old));
        let left = restored.map_or(entries, |()| old);
        capture.adopted.insert(key, left);
        return;
    }
    if let Err(error) = release(capture, id, key, &entries) {
        tracing::error!(workload = %id, %error, "a failed enrolment could not be undone");
    }
}

/// Removes everything of the workload with this `key`: the guards, then the entry that captures.
pub(super) fn release(
    capture: &mut Capture,
    id: &WorkloadId,
    key: u64,
    entries: &Entries,
) -> Result<(), EnrolError> {
    let nothing = Entries::default();
    guard::remove(&mut capture.loaded, key)
        .map_err(|error| step(id, "remove the guards", error))?;
    let maps = &mut capture.loaded.maps;
    maps.replace_outbound(key, entries, &nothing)
        .map_err(|error| write_failed(id, error))?;
    capture.direct.forget(key);
    if key & CGROUP_BIT == 0 {
        let pin = capture.loaded.pins.namespace_link(key);
        (capture.loaded.hooks)
            .remove(&pin)
            .map_err(|error| step(id, "release the connections", error))?;
    } else {
        refresh_host(capture, id)?;
    }
    let maps = &mut capture.loaded.maps;
    maps.replace_inbound(entries, &nothing)
        .map_err(|error| write_failed(id, error))?;
    for listener in all_keys(key) {
        let removed = maps.remove_listener(listener);
        removed.map_err(|error| write_failed(id, error))?;
    }
    Ok(())
}
