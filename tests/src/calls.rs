//! Clients that call without a pause while something happens to the agents, and what became of
//! every call.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
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
    /// The phase that it ended in.
    pub ended: usize,
    /// Who called whom.
    pub who: String,
    /// The address that it was made from, once there was one.
    pub from: Option<SocketAddr>,
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
            // Also if `work` panics, or the callers would call for ever.
            let _end = End(&calls);
            work(&calls)
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

    /// What became of those that are over.
    pub fn so_far(&self) -> Vec<Outcome> {
        self.outcomes.lock().clone()
    }

    fn make(&self, from: &Pod, to: SocketAddr) {
        let began = self.phase.load(Ordering::SeqCst);
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let mut local = None;
        let error = call(from, to, number, &mut local).err();
        let ended = self.phase.load(Ordering::SeqCst);
        self.outcomes.lock().push(Outcome {
            phase: (began == ended).then_some(began),
            ended,
            from: local,
            who: format!("{} to {to}", from.name()),
            error: error.map(|error| format!("{error:#}")),
        });
    }
}

/// How often each address is among these. A port may be used again for another destination, as which
/// an agent counts.
#[must_use]
pub fn often(addresses: impl Iterator<Item = SocketAddr>) -> HashMap<SocketAddr, usize> {
    let mut often = HashMap::new();
    for address in addresses {
        *often.entry(address).or_default() += 1;
    }
    often
}

/// Ends the calls when dropped.
struct End<'a>(&'a Calls);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Relaxed);
    }
}

/// One call whose answer shows that it is the right one.
///
/// # Errors
///
/// Fails if the call does, or the answer is another one's.
pub fn echo(from: &Pod, to: SocketAddr, number: usize) -> Result<()> {
    call(from, to, number, &mut None)
}

/// One call, and from where it was made.
fn call(from: &Pod, to: SocketAddr, number: usize, local: &mut Option<SocketAddr>) -> Result<()> {
    let message = format!("call {number}");
    let mut stream = from.connect(to)?;
    *local = stream.local_addr().ok();
    stream.write_all(message.as_bytes())?;
    if let Err(error) = stream.shutdown(Shutdown::Write)
        && error.kind() != ErrorKind::NotConnected
    {
        return Err(error.into());
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer == message, "asked {message:?}, got {answer:?}");
    Ok(())
}
