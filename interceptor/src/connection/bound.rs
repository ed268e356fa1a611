//! How many connections one workload may have open at this agent, so that none can use up what all
//! workloads of the node share: file descriptors, and memory with them.
//!
//! Two bounds. One is the operator's, for each workload alike, and off unless configured. The other
//! is always there and asks nothing of anybody until the agent is short of file descriptors: then
//! whoever has more than its share open gets no more, and all others go on. How many descriptors
//! are in use costs nothing to know: a new one has the lowest number that is free.
//!
//! What is refused has a record that says so. Connections that stay in the kernel (same node) are
//! none of the agent's and not counted.

use std::fmt;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::TcpStream;

use super::Local;
use super::story::because;
use crate::reason::Label;
use crate::telemetry::record::Reason;

/// From this part of all descriptors on the agent is short of them: three quarters.
const SHORT: (usize, usize) = (3, 4);

/// The share of a workload, when they are short. Each connection may need two or three.
const SHARE: usize = 16;

/// How many connections a workload may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// At any time.
    most: usize,
    /// When descriptors are short.
    share: usize,
    /// The number of a descriptor from which on they are.
    short: usize,
}

/// Why a connection is one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooMany {
    /// The operator says so.
    Configured(usize),
    /// The agent is short of descriptors, and the workload has its share.
    Share(usize),
}

impl Bounds {
    /// As configured, 0 for no bound, in a process that may have so many descriptors open.
    pub fn new(configured: usize, descriptors: usize) -> Self {
        let (part, whole) = SHORT;
        Self {
            most: if configured == 0 {
                usize::MAX
            } else {
                configured
            },
            share: (descriptors / SHARE).max(1),
            short: (descriptors / whole).saturating_mul(part),
        }
    }

    /// What speaks against a connection with this `descriptor` for a workload that has so many
    /// `open` already.
    const fn objection(self, open: usize, descriptor: usize) -> Option<TooMany> {
        if open >= self.most {
            Some(TooMany::Configured(self.most))
        } else if descriptor >= self.short && open >= self.share {
            Some(TooMany::Share(self.share))
        } else {
            None
        }
    }
}

impl TooMany {
    /// What is recorded.
    pub(super) fn reason(self) -> Reason {
        because(Label::TooManyConnections, self.to_string())
    }
}

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configured(most) => write!(
                f,
                "the workload has {most} connections open, as many as it may: maxConnectionsPerWorkload"
            ),
            Self::Share(share) => write!(
                f,
                "the agent has few file descriptors left, and the workload has its share of {share} \
                 connections open: raise the agent's limit of open files"
            ),
        }
    }
}

/// One open connection of a workload, counted as long as this lives.
pub(super) struct Guest(Arc<Local>);

impl Guest {
    /// Counts a connection. One that is refused counts, too, until its record is written.
    pub(super) fn enter(local: &Arc<Local>) -> Self {
        local.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(local))
    }

    /// What speaks against it, before it has any socket.
    pub(super) fn objection(&self) -> Option<TooMany> {
        self.objection_from(0)
    }

    /// What speaks against it, now that it has this one.
    pub(super) fn objection_to(&self, socket: &TcpStream) -> Option<TooMany> {
        self.objection_from(usize::try_from(socket.as_raw_fd()).unwrap_or(usize::MAX))
    }

    fn objection_from(&self, descriptor: usize) -> Option<TooMany> {
        let Self(local) = self;
        let others = local.open.load(Ordering::Relaxed).saturating_sub(1);
        local.bounds.objection(others, descriptor)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{Bounds, TooMany};

    #[rstest]
    #[case::as_many_as_it_likes(0, 900, 700, None)]
    #[case::the_last_one(10, 9, 20, None)]
    #[case::one_too_many(10, 10, 20, Some(TooMany::Configured(10)))]
    #[case::short_and_more_than_its_share(0, 62, 750, Some(TooMany::Share(62)))]
    #[case::short_and_less(0, 61, 999, None)]
    fn a_workload_gets_no_more_than_it_may(
        #[case] configured: usize,
        #[case] open: usize,
        #[case] descriptor: usize,
        #[case] expected: Option<TooMany>,
    ) {
        let bounds = Bounds::new(configured, 1000);
        assert_eq!(bounds.objection(open, descriptor), expected);
    }

    #[test]
    fn a_process_with_next_to_no_descriptors_serves_somebody() {
        assert_eq!(Bounds::new(0, 0).objection(0, 3), None);
    }
}
