//! Waiting for something to become so, with a deadline: the only way in which tests wait.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Long enough for a loaded machine with two cores; a test that passes never waits this long.
pub const PATIENCE: Duration = Duration::from_secs(30);

const INTERVAL: Duration = Duration::from_millis(10);

/// Asks until there is an answer.
///
/// # Errors
///
/// Fails with `what` when there was none within [`PATIENCE`].
pub fn until<T>(what: &str, ask: impl FnMut() -> Option<T>) -> Result<T> {
    within(PATIENCE, what, ask)
}

/// Asks until there is an answer, for at most `limit`.
///
/// # Errors
///
/// Fails with `what` when there was none within `limit`.
pub fn within<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if start.elapsed() > limit {
            bail!("waited {limit:?} for {what}");
        }
        thread::sleep(INTERVAL);
    }
}

/// Looks until there is nothing to object.
///
/// # Errors
///
/// Fails with the last objection when there was one for all of [`PATIENCE`], in the context of `what`.
pub fn settled<T>(what: &str, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let mut objection = None;
    let settled = until(what, || {
        look().map_err(|error| objection = Some(error)).ok()
    });
    settled.map_err(|late| match objection {
        Some(error) => error.context(late),
        None => late,
    })
}

/// Asks until a number is reached, for as long as it comes nearer: for what takes a slow machine long
/// because it is much.
///
/// # Errors
///
/// Fails with `what` and the last number when it stood still for all of [`PATIENCE`].
pub fn reached(what: &str, goal: usize, mut ask: impl FnMut() -> Option<usize>) -> Result<()> {
    let mut nearest = usize::MAX;
    loop {
        let nearer = until(what, || {
            let left = ask()?.abs_diff(goal);
            (left < nearest).then_some(left)
        });
        nearest = nearer.with_context(|| format!("{nearest} from {goal}"))?;
        if nearest == 0 {
            return Ok(());
        }
    }
}

/// Asks until the answer is yes.
///
/// # Errors
///
/// Fails with `what` when it was not so within [`PATIENCE`].
pub fn so(what: &str, mut ask: impl FnMut() -> bool) -> Result<()> {
    until(what, || ask().then_some(()))
}
