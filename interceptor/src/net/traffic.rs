//! Byte counts of one connection, shared between the task that copies and whoever looks.
//!
//! Plain relaxed atomics: the copy loop adds to them, the metrics scrape and `interceptor
//! connections` read them, nobody waits for anybody. What lies beside them in memory belongs to the
//! same connection for the most part, so a cache line of their own would cost more than it saves.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that one connection has carried so far, seen from the local application.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Traffic {
    /// Counts `bytes` that the application sent and that were handed on.
    pub fn add_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts `bytes` that were delivered to the application.
    pub fn add_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes sent by the local application.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes delivered to the local application.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}
