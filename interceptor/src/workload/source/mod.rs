//! Where objects come from, and how what they make is published.
//!
//! A source loads, builds and publishes; the rest of the agent only ever sees a finished
//! [`Mesh`](super::Mesh).
//!
//! # Invariants
//!
//! * A load with an error publishes nothing: the last good mesh stays in force, and the mistakes
//!   are published beside it.
//! * Before the first good load the mesh is empty: no workload is enrolled. Ports that an earlier
//!   agent had captured stay closed, because their kernel programs are pinned.
//!
//! Not here: what follows from a change (enrolling, cutting connections), which is `app`'s.

pub mod directory;
mod folder;
mod publish;
mod reading;
mod watch;

pub use publish::{LoadState, Published, Publisher, SharedMesh};
pub use watch::DirectorySource;
