//! What happens to direct connections, read from the kernel's ring buffer.
//!
//! The kernel wakes nobody before another quarter of the buffer is full: a wake-up for each event
//! would cost more than the connection. So the reader looks by itself, ten times a second.

use std::fmt;
use std::io;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use interceptor_common::DirectEvent;
use tokio::io::unix::AsyncFd;
use tokio::task::coop::consume_budget;
use tokio::time::timeout;

use super::DirectFlow;
use super::totals::{self, Closed, End, Totals};
use crate::net::bpf;

/// How long an event may wait in the buffer. Revocation takes at most this longer for a connection
/// that was being opened.
const PERIOD: Duration = Duration::from_millis(100);

/// `TCP_ESTABLISHED`.
const ESTABLISHED: u16 = 1;

/// Something that happened to a direct connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was established.
    Opened(DirectFlow),
    /// It is over. Every connection whose SYN was about to leave ends with exactly one of these,
    /// unless it was lost and counted.
    Closed {
        /// The connection.
        flow: DirectFlow,
        /// What it carried.
        totals: Totals,
        /// Whether it was ever established.
        established: bool,
        /// How it ended.
        end: End,
    },
}

/// The events of one node, in the order in which they happened on each CPU. An opening always
/// comes before its end.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    /// Reads this buffer, from where the last reader stopped.
    pub(super) fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        Ok(Self {
            ring: bpf::watch(ring)?,
        })
    }

    /// The next event.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Event {
        loop {
            consume_budget().await;
            if let Some(event) = self.try_next() {
                return event;
            }
            if let Ok(Ok(mut filling)) = timeout(PERIOD, self.ring.readable()).await {
                filling.clear_ready();
            }
        }
    }

    /// The next event if there is one now.
    pub fn try_next(&mut self) -> Option<Event> {
        loop {
            let item = self.ring.get_mut().next()?;
            if let Some(event) = bpf::value(&item) {
                return Some(Event::new(&event));
            }
            tracing::error!(bytes = item.len(), "an event of another version");
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

impl Event {
    /// What the kernel wrote.
    fn new(event: &DirectEvent) -> Self {
        let flow = DirectFlow::new(event.socket, &event.flow, &event.key);
        if event.state == ESTABLISHED {
            return Self::Opened(flow);
        }
        let Closed {
            totals,
            established,
            end,
        } = totals::closed(event);
        Self::Closed {
            flow,
            totals,
            established,
            end,
        }
    }
}
