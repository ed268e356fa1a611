//! The latest refusals and failures, kept for whoever asks later, and the feed of everything for
//! whoever follows. Both bounded: the ring forgets the oldest, the feed skips what a slow follower
//! did not take and tells it how many.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::record::{Outcome, Record};
use super::view::{ConnectionView, State};

/// How many refusals are remembered: about 1 MB.
const REMEMBERED: usize = 1000;

/// How far a follower may fall behind before it misses connections.
const FEED: usize = 1024;

/// The ring and the feed. Clones share both.
#[derive(Clone, Debug)]
pub struct Recent {
    ring: Arc<Mutex<VecDeque<Arc<ConnectionView>>>>,
    feed: broadcast::Sender<Arc<ConnectionView>>,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            ring: Arc::default(),
            feed: broadcast::Sender::new(FEED),
        }
    }
}

impl Recent {
    /// Whether somebody follows.
    pub(super) fn is_followed(&self) -> bool {
        self.feed.receiver_count() > 0
    }

    /// Tells followers that a connection is now carried. Costs nothing when nobody follows.
    pub(super) fn opened(&self, record: &Record) {
        if self.is_followed() {
            self.publish(Arc::new(ConnectionView::new(record, State::Open)));
        }
    }

    /// Tells followers that a connection ended, and remembers it if it did not end well.
    pub(super) fn ended(&self, record: &Record) {
        let remembered = record.outcome != Outcome::Allowed;
        if !remembered && !self.is_followed() {
            return;
        }
        let view = Arc::new(ConnectionView::from(record));
        if remembered {
            let mut ring = self.ring.lock();
            if ring.len() >= REMEMBERED {
                ring.pop_front();
            }
            ring.push_back(Arc::clone(&view));
        }
        self.publish(view);
    }

    /// The remembered refusals, failures and cuts, oldest first.
    pub fn refusals(&self) -> Vec<Arc<ConnectionView>> {
        self.ring.lock().iter().cloned().collect()
    }

    /// Follows everything that happens from now on.
    pub fn follow(&self) -> broadcast::Receiver<Arc<ConnectionView>> {
        self.feed.subscribe()
    }

    fn publish(&self, view: Arc<ConnectionView>) {
        // An error means that the last follower left in this instant.
        drop(self.feed.send(view));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::record::fixtures;

    #[test]
    fn only_what_did_not_end_well_is_remembered_and_the_oldest_is_forgotten() {
        let recent = Recent::default();
        recent.ended(&fixtures::allowed());
        for _ in 0..REMEMBERED {
            recent.ended(&fixtures::denied());
        }
        let mut last = fixtures::denied();
        last.id.0 = 7;
        recent.ended(&last);
        let refusals = recent.refusals();
        assert_eq!(refusals.len(), REMEMBERED);
        assert!(refusals.iter().all(|r| r.decision == Outcome::Denied));
        assert_eq!(refusals.last().unwrap().conn_id, "0000000000000007");
    }

    #[tokio::test]
    async fn a_slow_follower_learns_how_much_it_missed() {
        let recent = Recent::default();
        let mut follower = recent.follow();
        for _ in 0..FEED + 10 {
            recent.opened(&fixtures::allowed());
        }
        assert!(matches!(
            follower.recv().await,
            Err(broadcast::error::RecvError::Lagged(10))
        ));
        assert_eq!(follower.recv().await.unwrap().state, State::Open);
    }
}
