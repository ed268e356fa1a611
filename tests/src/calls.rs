//! Clients that call without a pause while something happens to the agents, and what became of
//! every call.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use parking_lot::Mutex;

use crate::pod::Pod;
use crate::wait;

/// Calls under way.
#[derive(Debug, Default)]
pub struct Calls {
    made: AtomicUsize,
    phase: AtomicUsize,
    done: AtomicBool,
    outcomes: Mutex<Vec<Outcome>>,
}

/// What became of one call.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The phase that it began and ended in; `None` if these were two.
    pub phase: Option<usize>,
    /// Who called whom.
    pub who: String,
    /// Why it failed.
    pub error: Option<String>,
}

impl Calls {
    /// Has every pair call while `work` runs. The servers must echo: an answer that is not the
    /// question is a failure.
    ///
    /// # Errors
    ///
    /// Fails if `work` does.
    pub fn during(
        pairs: &[(&Pod, SocketAddr)],
        work: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<Vec<Outcome>> {
        let calls = Self::default();
        thread::scope(|scope| {
            for (from, to) in pairs {
                let calls = &calls;
                scope.spawn(move || {
                    while !calls.done.load(Ordering::Relaxed) {
                        calls.make(from, *to);
                    }
                });
            }
            let worked = work(&calls);
            calls.done.store(true, Ordering::Relaxed);
            worked
        })?;
        Ok(calls.outcomes.into_inner())
    }

    /// Calls that begin from here on belong to the next phase.
    pub fn next_phase(&self) {
        self.phase.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until so many more calls were made.
    ///
    /// # Errors
    ///
    /// Fails if they were not.
    pub fn more(&self, more: usize) -> Result<()> {
        let goal = self.made.load(Ordering::Relaxed) + more;
        wait::so("more calls", || self.made.load(Ordering::Relaxed) >= goal)
    }

    fn make(&self, from: &Pod, to: SocketAddr) {
        let began = self.phase.load(Ordering::SeqCst);
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let error = echo(from, to, number).err();
        let ended = self.phase.load(Ordering::SeqCst);
        self.outcomes.lock().push(Outcome {
            phase: (began == ended).then_some(began),
            who: format!("{} to {to}", from.name()),
            error: error.map(|error| format!("{error:#}")),
        });
    }
}

/// One call whose answer shows that it is the right one.
///
/// # Errors
///
/// Fails if the call does, or the answer is another one's.
pub fn echo(from: &Pod, to: SocketAddr, number: usize) -> Result<()> {
    let message = format!("call {number}");
    let answer = from.ask(to, &message)?;
    ensure!(answer == message, "asked {message:?}, got {answer:?}");
    Ok(())
}
