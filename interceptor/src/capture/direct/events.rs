//! What happens to direct connections, read from the kernel's ring buffer.
//!
//! The kernel wakes nobody before another quarter of the buffer is full: a wake-up for each event
//! would cost more than the connection. So the reader looks by itself, ten times a second.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aya::maps::{Map, MapData, RingBuf};
use interceptor_common::DirectEvent;
use parking_lot::Mutex;
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
    /// It was established. Told only of connections that are not in the kernel's table.
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

/// Whose turn it is to read. Two readers would each go on from where they last were, whatever the
/// other had read meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Ours.
    Ours,
    /// Ours again: another process may have read, so where to go on has to be asked.
    OursAgain,
    /// Another process's.
    Theirs,
}

/// The events of one node, in the order in which they happened on each CPU. An opening always
/// comes before its end.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
    pin: PathBuf,
    turn: Arc<Mutex<Turn>>,
}

impl Events {
    /// Reads the buffer that is pinned here, from where the last reader stopped, when it is our
    /// turn.
    pub(super) fn new(pin: PathBuf, turn: Arc<Mutex<Turn>>) -> io::Result<Self> {
        let ring = open(&pin)?;
        Ok(Self { ring, pin, turn })
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
        // Held while reading: whoever gives the turn away knows that nothing is read after that.
        let mut turn = self.turn.lock();
        match *turn {
            Turn::Ours => {}
            Turn::Theirs => return None,
            Turn::OursAgain => match open(&self.pin) {
                Ok(ring) => {
                    self.ring = ring;
                    *turn = Turn::Ours;
                }
                Err(error) => {
                    tracing::error!(%error, "cannot read the events of same-node connections");
                    return None;
                }
            },
        }
        loop {
            let item = self.ring.get_mut().next()?;
            if let Some(event) = bpf::value(&item) {
                return Some(Event::new(&event));
            }
            tracing::error!(bytes = item.len(), "an event of another version");
        }
    }
}

/// Opens a buffer where its last reader stopped.
fn open(pin: &Path) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    let ring = MapData::from_pin(pin).map(Map::RingBuf);
    let ring = ring.and_then(RingBuf::try_from).map_err(io::Error::other)?;
    bpf::watch(ring)
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
