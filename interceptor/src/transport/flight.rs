//! What one stream of the `h2` crate's has said and its carrier has not written yet.
//!
//! The crate counts what is in the buffers that it is given, and not the buffers: an application that
//! says a byte at a time to a peer that takes nothing would fill one of 18 KiB with each of them. So
//! the buffers are counted here, and the application is not read while there are enough.
//!
//! # Invariants
//!
//! * Whoever has nothing under way may say something: nobody waits for others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::stock;

/// One stream's buffers that are under way. It costs nothing before the first one.
#[derive(Debug, Default)]
pub(super) struct Flight(Option<Arc<Counted>>);

#[derive(Debug, Default)]
struct Counted {
    bytes: AtomicUsize,
    waiting: Mutex<Option<Waker>>,
}

/// One buffer that is under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Aloft {
    counted: Arc<Counted>,
    bytes: usize,
}

impl Flight {
    /// One more, of so many bytes.
    pub(super) fn launch(&mut self, bytes: usize) -> Aloft {
        let counted = Arc::clone(self.0.get_or_insert_default());
        counted.bytes.fetch_add(bytes, Ordering::Relaxed);
        Aloft { counted, bytes }
    }

    /// Whether there may be one more: as long as they are less than `most`, and one at a time when
    /// the agent is short of memory.
    pub(super) fn has_room(&self, most: usize) -> bool {
        self.0.as_ref().is_none_or(|it| it.has_room(most))
    }

    /// Waits until there may be one more.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>, most: usize) -> Poll<()> {
        if let Some(counted) = &self.0
            && !counted.has_room(most)
        {
            // Before the second look: what lands behind it wakes.
            *counted.waiting.lock() = Some(cx.waker().clone());
            if !counted.has_room(most) {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }
}

impl Counted {
    fn has_room(&self, most: usize) -> bool {
        let bytes = self.bytes.load(Ordering::Acquire);
        bytes == 0 || (bytes < most && !stock::is_short())
    }
}

impl Drop for Aloft {
    fn drop(&mut self) {
        self.counted.bytes.fetch_sub(self.bytes, Ordering::Release);
        let waiting = self.counted.waiting.lock().take();
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::Flight;

    #[test]
    fn there_is_room_again_when_something_has_been_written() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut flight = Flight::default();
        let first = flight.launch(60);
        assert!(flight.poll_room(&mut cx, 100).is_ready());
        let second = flight.launch(60);
        assert!(flight.poll_room(&mut cx, 100).is_pending());
        drop(first);
        assert!(flight.poll_room(&mut cx, 100).is_ready());
        drop(second);
        assert!(flight.has_room(0), "nothing is under way");
    }
}
