//! Shutting a workload for which the maps have no room.
//!
//! It was never captured, so leaving it alone would leave it open: in plaintext, while its owner
//! believes it in the mesh. Refusing it takes almost no room. One entry, of which there are as many
//! again as workloads fit, has its connections redirected to listeners that are not there; a
//! program in its namespace that knows none of its addresses refuses what arrives; and a guard that
//! finds no flow of its lets no SYN leave. The last two need no entry at all, so a workload in a
//! namespace of its own is shut even when nothing has any room left.
//!
//! From then on it is like one that an earlier agent has left: refused until it can be enrolled or
//! is no longer configured.
//!
//! Not here: workloads that cannot be enrolled for other reasons. Those may be anybody's doing, and
//! are left as they are and listed.

use interceptor_common::{Action, WorkloadEntry};

use super::{place, refresh_host, steer};
use crate::capture::error::EnrolError;
use crate::capture::guard::{self, Naming};
use crate::capture::loader::Source;
use crate::capture::maps::Entries;
use crate::capture::site::Site;
use crate::capture::{Capture, WorkloadId};
use crate::workload::{OnAgentDown, Workload};

/// Shuts `workload`, unless its owner prefers plaintext to refusal.
pub(super) fn shut(capture: &mut Capture, workload: &Workload, site: &Site) {
    let id = &workload.id;
    if workload.capture.on_agent_down == OnAgentDown::AllowPlaintext {
        return;
    }
    let entry = match place(capture, workload, site) {
        Ok(place) => place.entries(workload).workload.unwrap_or_default(),
        Err(error) => {
            tracing::error!(workload = %id, %error, "does not fit into the maps and cannot be shut; its ports are not captured");
            return;
        }
    };
    let entries = Entries {
        workload: Some(WorkloadEntry {
            // The rules that say what passes are not there.
            outbound: Action::Capture.code(),
            ..entry
        }),
        ..Entries::default()
    };
    let key = site.key();
    capture.adopted.insert(key, entries.clone());
    capture.closed.insert(id.clone(), site.clone());
    if let Err(error) = close(capture, id, site, &entries) {
        tracing::error!(workload = %id, %error, "does not fit into the maps and could not be shut entirely");
    }
}

/// Each step by itself: what one of them leaves open another may close.
fn close(
    capture: &mut Capture,
    id: &WorkloadId,
    site: &Site,
    entries: &Entries,
) -> Result<(), Source> {
    let (loaded, nothing) = (&mut capture.loaded, Entries::default());
    let entered = (loaded.maps).replace_outbound(site.key(), &nothing, entries);
    let Site::Namespace { namespace, .. } = site else {
        entered?;
        return Ok(refresh_host(capture, id)?);
    };
    let steered = steer(loaded, namespace, entries);
    let naming = Naming::IfThereIsRoom;
    let key = site.key();
    let unguarded = guard::attach(loaded, &capture.host, (namespace, key), naming);
    steered?;
    // With guards at all its interfaces it cannot leave, whatever its sockets believe.
    if unguarded.is_empty() {
        Ok(())
    } else {
        Ok(entered?)
    }
}

/// Whether a workload that could not be enrolled was never captured where it is, and has no room. What
/// was kept closed for it elsewhere was let go before.
pub(super) fn is_left_open(capture: &Capture, id: &WorkloadId, error: &EnrolError) -> bool {
    matches!(error, EnrolError::Full { .. }) && !capture.closed.contains_key(id)
}
