//! How much a peer on a connection of the `h2` crate may say unheard.
//!
//! What streams have received and applications have not taken waits in the crate, bounded by the
//! connection's window. Full windows for each connection from its beginning would be what a peer can
//! make us keep for nothing: so they begin small and grow while bytes really pass, fast enough for a
//! window to be in the way, and out of the agent's stock.
//!
//! # Invariants
//!
//! * What waits on one connection is at most its window, and that is at most [`FIRST_OF_ALL`] and
//!   what is on loan.
//! * A stream has a quarter of its connection's window, if that is so configured: one that is not
//!   read does not stop the others.

use std::time::Duration;

use tokio::time::Instant;

use super::super::config::Config;
use super::super::stock::Loan;

/// What one stream may say at first: HTTP/2's own beginning, which no implementation is surprised by.
const FIRST: u32 = 64 << 10;
/// What all streams of a connection may say at first.
const FIRST_OF_ALL: u32 = 256 << 10;
/// By how much windows grow at once.
const STEP: u32 = 4;
/// What is slower than two windows in this time is not held up by them, but for round trips longer
/// than half of it.
const FAST: Duration = Duration::from_millis(200);

/// The windows of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Of each stream.
    pub(super) stream: u32,
    /// Of all streams together.
    pub(super) connection: u32,
}

/// How the windows of one connection grow.
#[derive(Debug)]
pub(super) struct Windows {
    now: Sizes,
    most: Sizes,
    /// What had arrived when it was looked at last, and when that was.
    seen: (u64, Instant),
    loan: Loan,
}

impl Windows {
    pub(super) fn new(config: &Config) -> Self {
        let most = Sizes {
            stream: config.stream_window,
            connection: config.connection_window,
        };
        let now = Sizes {
            stream: FIRST.min(most.stream),
            connection: FIRST_OF_ALL.min(most.connection),
        };
        Self {
            now,
            most,
            seen: (0, Instant::now()),
            loan: Loan::default(),
        }
    }

    /// What they are now.
    pub(super) const fn sizes(&self) -> Sizes {
        self.now
    }

    /// `arrived` bytes have arrived in all: whether it is time for larger windows, which `set` tells
    /// the peer unless it has not answered the last time yet.
    pub(super) fn look(&mut self, arrived: u64, set: impl FnOnce(Sizes) -> bool) {
        let (before, since) = self.seen;
        if self.now == self.most || arrived - before < 2 * u64::from(self.now.connection) {
            return;
        }
        let now = Instant::now();
        self.seen = (arrived, now);
        if now.duration_since(since) > FAST {
            return;
        }
        let next = Sizes {
            stream: self.now.stream.saturating_mul(STEP).min(self.most.stream),
            connection: (self.now.connection)
                .saturating_mul(STEP)
                .min(self.most.connection),
        };
        let more = usize::try_from(next.connection - self.now.connection).unwrap_or(usize::MAX);
        let mut loan = Loan::default();
        if loan.grow(more) && set(next) {
            self.now = next;
            self.loan.join(loan);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows() -> Windows {
        Windows::new(&Config::default())
    }

    #[tokio::test(start_paused = true)]
    async fn windows_grow_to_their_bounds_while_bytes_pass_fast() {
        let (mut windows, mut arrived, mut told) = (windows(), 0, Vec::new());
        for _ in 0..20 {
            arrived += 2 * u64::from(windows.sizes().connection);
            windows.look(arrived, |sizes| {
                told.push((sizes.stream >> 10, sizes.connection >> 10));
                true
            });
        }
        assert_eq!(told, [(256, 1024), (1024, 4096), (4096, 16384)]);
    }

    #[tokio::test(start_paused = true)]
    async fn windows_stay_as_they_are_while_bytes_pass_slowly() {
        let (mut windows, first) = (windows(), windows().sizes());
        for second in 1..20 {
            tokio::time::advance(Duration::from_secs(1)).await;
            windows.look(second << 20, |_| true);
        }
        assert_eq!(windows.sizes(), first);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_has_not_answered_is_told_later() {
        let (mut windows, first) = (windows(), windows().sizes());
        windows.look(1 << 20, |_| false);
        assert_eq!(windows.sizes(), first);
        windows.look(2 << 20, |_| true);
        assert_eq!(windows.sizes().connection, STEP * first.connection);
    }
}
