//! Ctrl-C, as a value to look at: an interrupted demonstration or benchmark must still remove its
//! traces.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// Whether a signal came that ends this process.
#[derive(Clone, Debug)]
pub struct Interruption(Arc<AtomicBool>);

impl Interruption {
    /// Takes the signals that would end this process. They are handled, not blocked: children
    /// would inherit what is blocked, and an agent that cannot be asked to stop is of no use.
    ///
    /// # Errors
    ///
    /// Fails if the kernel refuses a handler.
    pub fn watch() -> Result<Self> {
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
    pub fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Ends whoever asks, if it came.
    ///
    /// # Errors
    ///
    /// Fails if it came.
    pub fn check(&self) -> Result<()> {
        if self.came() {
            bail!("interrupted; everything is removed");
        }
        Ok(())
    }
}
