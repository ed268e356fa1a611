//! What all connections of the agent keep for ends that do not take it, together.
//!
//! ```text
//!  a little that every connection may always have ─┐
//!                                                  ├─▶ one count, one bound
//!  more, as long as there is some ─────────────────┘
//! ```
//!
//! Each connection is bounded by itself, and ten thousand of them that stand still would be
//! gigabytes all the same. So what makes a flow fast beyond the least that it can do with (larger
//! buffers, larger windows, more than one buffer on its way to a carrier) is out of one stock. When
//! there is none left, flows go on with the least: who is short of memory because others stand still
//! is slower, and not cut.
//!
//! Counted is what is allocated or promised, not what is in it, so that nothing is counted per read:
//! buffers are used again without coming by here.
//!
//! # Invariants
//!
//! * What was asked for with [`Loan::grow`] is never more than the bound, whatever else is counted.
//! * The least is never refused; how much that is in all follows from the number of connections.
//!
//! Not here: what the least is (`buffer.rs`, `mux/window.rs`, `hbone/windows.rs`).

use std::sync::atomic::{AtomicUsize, Ordering};

/// The agent's own. As long as nobody bounds it, there is enough.
static AGENT: Stock = Stock::new(usize::MAX);

/// A count with a bound.
#[derive(Debug)]
struct Stock {
    most: AtomicUsize,
    taken: AtomicUsize,
}

impl Stock {
    const fn new(most: usize) -> Self {
        Self {
            most: AtomicUsize::new(most),
            taken: AtomicUsize::new(0),
        }
    }

    /// Takes what nobody may be refused.
    fn add(&self, bytes: usize) {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes what there may be enough of. Whether there was.
    fn take(&self, bytes: usize) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        let more = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= most);
        (self.taken)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn is_short(&self) -> bool {
        self.taken.load(Ordering::Relaxed) >= self.most.load(Ordering::Relaxed)
    }
}

/// What somebody has of the stock. It goes back when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Loan(usize);

impl Loan {
    /// What nobody may be refused.
    pub(super) fn least(bytes: usize) -> Self {
        AGENT.add(bytes);
        Self(bytes)
    }

    /// So much more, if there is as much. Whether there was.
    #[must_use]
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let granted = AGENT.take(bytes);
        if granted {
            self.0 += bytes;
        }
        granted
    }

    /// Both in one.
    pub(super) fn join(&mut self, mut other: Self) {
        self.0 += std::mem::take(&mut other.0);
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if self.0 > 0 {
            AGENT.give_back(self.0);
        }
    }
}

/// Whether there is none left.
pub(super) fn is_short() -> bool {
    AGENT.is_short()
}

/// Bounds what all connections of this process keep beyond the least that each of them needs.
pub fn bound_buffers(most: usize) {
    AGENT.most.store(most, Ordering::Relaxed);
}

/// What all connections of this process keep and have promised to keep, in bytes.
pub fn buffered() -> usize {
    AGENT.taken.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::Stock;

    #[test]
    fn what_may_be_refused_is_never_more_than_the_bound() {
        let stock = Stock::new(100);
        assert!(stock.take(60));
        assert!(!stock.take(41));
        assert!(!stock.is_short());
        assert!(stock.take(40));
        assert!(stock.is_short());
        stock.give_back(60);
        assert!(stock.take(60));
        assert!(!stock.take(usize::MAX));
    }

    #[test]
    fn the_least_is_granted_and_counted_even_if_there_is_none_left() {
        let stock = Stock::new(100);
        stock.add(150);
        assert!(stock.is_short());
        assert!(!stock.take(1));
        stock.give_back(100);
        assert!(stock.take(50));
    }
}
