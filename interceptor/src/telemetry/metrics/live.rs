//! Connections that are being carried: their bytes reach the counters at every scrape, not only
//! when they end.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::traffic::Cells;
use crate::net::Traffic;
use crate::telemetry::record::{ConnectionId, Reporter};

/// Independent locks, so that connections that open and close on many cores seldom meet.
const SHARDS: usize = 16;

/// One connection that is being carried.
#[derive(Debug)]
pub(super) struct Live {
    reporter: Reporter,
    cells: Arc<Cells>,
    traffic: Arc<Traffic>,
    /// How much of `traffic` is in the counters: sent and received by the local application.
    counted: Mutex<(u64, u64)>,
}

impl Live {
    pub(super) fn new(reporter: Reporter, cells: Arc<Cells>, traffic: Arc<Traffic>) -> Self {
        Self {
            reporter,
            cells,
            traffic,
            counted: Mutex::default(),
        }
    }

    pub(super) fn cells(&self) -> &Cells {
        &self.cells
    }

    pub(super) fn shared_cells(&self) -> Arc<Cells> {
        Arc::clone(&self.cells)
    }

    /// Moves what was carried since the last time to the counters.
    ///
    /// Istio's metrics are seen from the server for both reporters: "sent" is the response.
    pub(super) fn flush(&self) {
        let mut counted = self.counted.lock();
        let now = (self.traffic.sent(), self.traffic.received());
        let by_local = now.0.saturating_sub(counted.0);
        let to_local = now.1.saturating_sub(counted.1);
        *counted = now;
        let (by_client, by_server) = self.reporter.turned((by_local, to_local));
        self.cells.sent.fetch_add(by_server, Ordering::Relaxed);
        self.cells.received.fetch_add(by_client, Ordering::Relaxed);
    }
}

/// Both ends of a connection may be reported here, under one number.
type Key = (ConnectionId, Reporter);

/// All connections that are being carried.
#[derive(Debug, Default)]
pub(super) struct LiveSet {
    shards: [Mutex<HashMap<Key, Arc<Live>>>; SHARDS],
}

impl LiveSet {
    pub(super) fn insert(&self, id: ConnectionId, live: Arc<Live>) {
        if let Some(shard) = self.shard(id) {
            shard.lock().insert((id, live.reporter), live);
        }
    }

    pub(super) fn remove(&self, id: ConnectionId, live: &Live) {
        if let Some(shard) = self.shard(id) {
            shard.lock().remove(&(id, live.reporter));
        }
    }

    /// Brings the counters up to date.
    pub(super) fn flush(&self) {
        for shard in &self.shards {
            let live: Vec<_> = shard.lock().values().cloned().collect();
            for connection in live {
                connection.flush();
            }
        }
    }

    /// How many connections are carried as reporter source and as destination.
    pub(super) fn count(&self) -> (u64, u64) {
        let (mut source, mut destination) = (0, 0);
        for shard in &self.shards {
            for live in shard.lock().values() {
                match live.reporter {
                    Reporter::Source => source += 1,
                    Reporter::Destination => destination += 1,
                }
            }
        }
        (source, destination)
    }

    /// Always a shard: the index is below [`SHARDS`].
    fn shard(&self, id: ConnectionId) -> Option<&Mutex<HashMap<Key, Arc<Live>>>> {
        const COUNT: u64 = 16;
        const _: () = assert!(SHARDS == 16);
        usize::try_from(id.0 % COUNT)
            .ok()
            .and_then(|index| self.shards.get(index))
    }
}
