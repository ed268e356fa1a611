//! The seam between sources and the rest: the current mesh, the state of the last load, and a
//! signal that either has changed.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, Guard};
use serde::Serialize;
use tokio::sync::watch;

use crate::workload::{Mesh, MeshSettings};
use crate::yaml::Mistake;

/// The mesh that decisions read, swapped whole.
pub type SharedMesh = Arc<ArcSwap<Mesh>>;

/// What the last load came to.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadState {
    /// The version of the mesh in force; 0 while there is none.
    pub version: u64,
    /// When the mesh in force was loaded.
    pub loaded_at: Option<SystemTime>,
    /// When loads began to fail; `None` if the last one succeeded.
    pub failing_since: Option<SystemTime>,
    /// What the last load, good or not, had to say.
    pub mistakes: Vec<Mistake>,
}

impl LoadState {
    /// Whether a mesh has ever been loaded.
    pub const fn is_ready(&self) -> bool {
        self.version > 0
    }

    /// How many of the mistakes are errors.
    pub fn errors(&self) -> usize {
        self.mistakes
            .iter()
            .filter(|mistake| mistake.is_error())
            .count()
    }
}

/// The source's end.
#[derive(Debug)]
pub struct Publisher {
    shared: Published,
    changed: watch::Sender<u64>,
}

/// The readers' end; clones share it.
#[derive(Clone, Debug)]
pub struct Published {
    mesh: SharedMesh,
    state: Arc<ArcSwap<LoadState>>,
    changed: watch::Receiver<u64>,
}

impl Publisher {
    /// Publishes an empty mesh, version 0, with `settings`.
    pub fn new(settings: MeshSettings) -> Self {
        let (changed, receiver) = watch::channel(0);
        Self {
            shared: Published {
                mesh: Arc::new(ArcSwap::from_pointee(Mesh::empty(settings))),
                state: Arc::default(),
                changed: receiver,
            },
            changed,
        }
    }

    /// A readers' end.
    pub fn published(&self) -> Published {
        self.shared.clone()
    }

    /// Puts `mesh` in force. Returns its version.
    pub fn publish(&self, mesh: Mesh, mistakes: Vec<Mistake>, now: SystemTime) -> u64 {
        let version = self.shared.state.load().version.saturating_add(1);
        self.shared.mesh.store(Arc::new(mesh.with_version(version)));
        self.set_state(LoadState {
            version,
            loaded_at: Some(now),
            failing_since: None,
            mistakes,
        });
        version
    }

    /// Leaves the mesh in force and shows why it was not replaced.
    pub fn fail(&self, mistakes: Vec<Mistake>, now: SystemTime) {
        let before = self.shared.state.load();
        self.set_state(LoadState {
            failing_since: before.failing_since.or(Some(now)),
            mistakes,
            ..LoadState::clone(&before)
        });
    }

    fn set_state(&self, state: LoadState) {
        self.shared.state.store(Arc::new(state));
        // The number of the signal itself: failed loads are signalled, too.
        self.changed
            .send_modify(|signal| *signal = signal.wrapping_add(1));
    }
}

impl Published {
    /// The mesh in force, for the time of one decision.
    pub fn mesh(&self) -> Guard<Arc<Mesh>> {
        self.mesh.load()
    }

    /// The mesh in force, to be kept.
    pub fn snapshot(&self) -> Arc<Mesh> {
        self.mesh.load_full()
    }

    /// The shared pointer itself.
    pub fn shared(&self) -> SharedMesh {
        Arc::clone(&self.mesh)
    }

    /// What the last load came to.
    pub fn state(&self) -> Arc<LoadState> {
        self.state.load_full()
    }

    /// Resolves when a load has been published or has failed since the last call on this clone;
    /// pends for ever once the source is gone.
    ///
    /// # Cancel safety
    ///
    /// Safe: a change that was not returned is returned by the next call.
    pub async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
