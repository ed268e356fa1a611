//! Shutting a workload that cannot be enrolled.
//!
//! It was never captured, so leaving it alone would leave it open: in plaintext, while its owner
//! believes it in the mesh. Whatever the reason, no certificate, no room in the maps, no loopback
//! interface, an address that is another's: it is refused until it can be enrolled or is no longer
//! configured.
//!
//! Refusing takes almost no room. One entry, of which there are as many again as workloads fit, has its
//! connections redirected to listeners that are not there; a program in its namespace that knows none
//! of its addresses refuses what arrives; and a guard that finds no flow of its lets no SYN leave. The
//! last two need no entry at all, so a workload in a namespace of its own is shut even when nothing has
//! any room left. Connections that it has already go on: they are settled when it is enrolled.
//!
//! From then on it is like one that an earlier agent has left.
//!
//! Not here: workloads of which it is not known where they are. There is nothing to be shut; they are
//! listed as not protected.

use interceptor_common::{Action, WorkloadEntry};

use super::{place, refresh_host, steer};
use crate::capture::guard::{self, Naming};
use crate::capture::loader::Source;
use crate::capture::maps::Entries;
use crate::capture::plan::Place;
use crate::capture::site::Site;
use crate::capture::{Capture, WorkloadId};
use crate::workload::{OnAgentDown, Workload};

/// Shuts `workload`, unless its owner prefers plaintext to refusal.
pub(super) fn shut(capture: &mut Capture, workload: &Workload, site: &Site) {
    let id = &workload.id;
    if workload.capture.on_agent_down == OnAgentDown::AllowPlaintext {
        return;
    }
    // Without addresses to redirect to, connections are refused for the want of them.
    let place = place(capture, workload, site).unwrap_or_else(|_unreadable| Place {
        key: site.key(),
        local: Vec::new(),
        left: Vec::new(),
        steered: false,
    });
    let entry = place.entries(workload).workload.unwrap_or_default();
    let entries = Entries {
        workload: Some(WorkloadEntry {
            // The rules that say what passes are not there, and may be what is wrong.
            outbound: Action::Capture.code(),
            ..entry
        }),
        ..Entries::default()
    };
    let key = site.key();
    capture.adopted.insert(key, entries.clone());
    capture.closed.insert(id.clone(), site.clone());
    if let Err(error) = close(capture, id, site, &entries) {
        tracing::error!(workload = %id, %error, "cannot be enrolled and could not be shut entirely");
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
