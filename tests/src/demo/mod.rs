//! The demonstration: two simulated nodes, an agent on each, and what happens between a caller, a
//! server, an intruder and a client outside the mesh, told in a minute of reading.
//!
//! Nothing in it is staged: the manifests are those of `deploy/examples/`, the traffic is real, and
//! every sentence with a tick was checked before it was printed.

mod scenes;
mod show;
mod stage;
mod stay;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};

pub use show::Show;

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

/// Ctrl-C, as a value to look at: an interrupted demonstration must still remove its traces.
#[derive(Clone, Debug)]
pub(crate) struct Interruption(Arc<AtomicBool>);

impl Interruption {
    /// Takes the signals that would end this process. They are handled, not blocked: children
    /// would inherit what is blocked, and an agent that cannot be asked to stop is of no use.
    fn watch() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let came = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&came);
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        let guard = runtime.enter();
        let [interrupt, terminate, hangup] = kinds.map(signal);
        drop(guard);
        let (mut interrupt, mut terminate, mut hangup) = (interrupt?, terminate?, hangup?);
        std::thread::spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        _ = hangup.recv() => {}
                    }
                    flag.store(true, Ordering::Relaxed);
                }
            });
        });
        Ok(Self(came))
    }

    /// Whether it came.
    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<()> {
        if self.came() {
            bail!("interrupted; everything is removed");
        }
        Ok(())
    }
}
