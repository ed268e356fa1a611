//! The demonstration: two simulated nodes, an agent on each, and what happens between a caller, a
//! server, an intruder and a client outside the mesh, told in a minute of reading.
//!
//! Nothing in it is staged: the manifests are those of `deploy/examples/`, the traffic is real, and
//! every sentence with a tick was checked before it was printed.

mod scenes;
mod show;
mod stage;
mod stay;

use anyhow::Result;

pub use show::Show;

use crate::interruption::Interruption;
use stage::{Lock, Stage};

/// What follows the scenes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// Stay up for people to try things, until Ctrl-C.
    Stay,
    /// End.
    Leave,
}

/// Plays the demonstration: whether all of its claims were so.
///
/// # Errors
///
/// Fails if the stage cannot be built or a scene cannot be played, or on Ctrl-C.
pub fn play(show: &mut Show, afterwards: Afterwards) -> Result<bool> {
    let interruption = Interruption::watch()?;
    crate::settings::privileges()?;
    let lock = Lock::take()?;
    show.title("interceptor: every TCP port under identity, policy and telemetry, no sidecar")?;
    let mut stage = Stage::build(show)?;
    for scene in scenes::ALL {
        interruption.check()?;
        scene(&mut stage, show)?;
    }
    if afterwards == Afterwards::Stay {
        stay::until(&interruption, &stage, show)?;
    }
    stage.strike(show)?;
    drop(lock);
    show.summary()
}
