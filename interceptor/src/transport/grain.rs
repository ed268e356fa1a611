//! How large the messages are that the connections of a pair carry: small ones are better off
//! together, large ones apart.
//!
//! A message that travels alone costs a system call and the whole way through the kernel's network
//! stack at both ends, whatever its size. On a shared carrier the messages of all streams that have
//! something to say at the same moment go in one record and one packet. For bulk it is the other way
//! round: a TLS connection is the ceiling that streams would share, and whoever has a short message
//! waits behind it (docs/decisions/transport.md).
//!
//! What a connection will carry is not known when it begins; what those before it carried is. So
//! each stream reports what it moved, and large messages are remembered for longer than small ones:
//! a pair that does both is taken for bulk. A pair of which nothing is known is not: most connections
//! say little, and bulk that is together with others is noticed within 32 reads.
//!
//! Not here: what follows from it (`exclusive/warm.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Messages are large if they have more than this many bytes on average: beyond, a record is not
/// filled with those of many streams any more (docs/decisions/transport.md).
const SMALL: u32 = 4096;
/// No average is taken for more than this, so that bulk can be forgotten.
const LARGEST: u32 = 64 << 10;
/// Messages of one stream that are reported together.
const BATCH: u32 = 32;
/// One in so many parts of what was known gives way to what is reported.
const MEMORY: u32 = 16;
/// Nothing has been reported.
const UNKNOWN: u32 = u32::MAX;

/// The size of messages between a pair, as far as it is known.
#[derive(Debug)]
pub(in crate::transport) struct Grain(AtomicU32);

impl Default for Grain {
    fn default() -> Self {
        Self(AtomicU32::new(UNKNOWN))
    }
}

impl Grain {
    /// Whether messages are known to be large.
    pub(in crate::transport) fn is_large(&self) -> bool {
        let known = self.0.load(Ordering::Relaxed);
        known != UNKNOWN && known > SMALL
    }

    /// Takes in what a stream reports. Reports that meet may be lost: there are more to come.
    fn learn(&self, mean: u32) {
        let mean = mean.min(LARGEST);
        let known = self.0.load(Ordering::Relaxed);
        let known = if known == UNKNOWN || mean > known {
            mean
        } else {
            known - (known - mean).div_ceil(MEMORY)
        };
        self.0.store(known, Ordering::Relaxed);
    }
}

/// What one stream has moved and not reported yet.
#[derive(Debug, Default)]
pub(in crate::transport) struct Tally {
    /// Nobody wants to know if there is none.
    grain: Option<Arc<Grain>>,
    messages: u32,
    bytes: u64,
}

impl Tally {
    pub(in crate::transport) const fn new(grain: Option<Arc<Grain>>) -> Self {
        Self {
            grain,
            messages: 0,
            bytes: 0,
        }
    }

    /// Counts a message of so many bytes, in either direction.
    pub(in crate::transport) fn count(&mut self, bytes: u64) {
        self.messages += 1;
        self.bytes += bytes;
        if self.messages >= BATCH {
            self.report();
        }
    }

    fn report(&mut self) {
        let mean = self.bytes.checked_div(u64::from(self.messages));
        if let (Some(grain), Some(mean)) = (&self.grain, mean) {
            grain.learn(u32::try_from(mean).unwrap_or(LARGEST));
        }
        (self.messages, self.bytes) = (0, 0);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.report();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Grain, LARGEST, SMALL, Tally};

    fn carried(grain: &Arc<Grain>, messages: &[u64]) {
        let mut tally = Tally::new(Some(Arc::clone(grain)));
        for bytes in messages {
            tally.count(*bytes);
        }
    }

    #[test]
    fn nothing_is_large_before_anything_was_carried() {
        let grain = Arc::new(Grain::default());
        assert!(!grain.is_large());
        carried(&grain, &[]);
        assert!(!grain.is_large());
    }

    #[test]
    fn one_stream_is_enough_to_know() {
        let grain = Arc::new(Grain::default());
        carried(&grain, &[u64::from(SMALL) + 1]);
        assert!(grain.is_large());
    }

    #[test]
    fn large_messages_are_noticed_at_once_and_remembered_for_longer() {
        let grain = Arc::new(Grain::default());
        carried(&grain, &[100; 1000]);
        carried(&grain, &[u64::from(LARGEST); 32]);
        assert!(grain.is_large());
        carried(&grain, &[100; 32]);
        assert!(grain.is_large());
        for _ in 0..100 {
            carried(&grain, &[100; 32]);
        }
        assert!(!grain.is_large());
    }

    #[test]
    fn a_stream_that_goes_on_reports_before_it_ends() {
        let grain = Arc::new(Grain::default());
        let mut tally = Tally::new(Some(Arc::clone(&grain)));
        for _ in 0..32 {
            tally.count(u64::from(SMALL));
        }
        assert!(!grain.is_large());
        for _ in 0..32 {
            tally.count(u64::from(SMALL) + 1);
        }
        assert!(grain.is_large());
    }

    #[test]
    fn a_stream_that_nobody_asks_counts_for_itself() {
        let mut tally = Tally::default();
        for _ in 0..100 {
            tally.count(1);
        }
        assert!(tally.messages < 32);
    }
}
