//! Buffers that move between sockets and carriers, taken when there is something to read and given
//! back when it has been written: an idle connection holds none.
//!
//! Sizes are classes, so that a flow starts small and grows ([`Sizer`]), and so that a buffer that
//! one flow gives back fits the next one. Free buffers wait in a small list per thread; a buffer is
//! often dropped on another thread than it was taken on (the carrier's), so surplus goes through a
//! shared list before memory is really freed.
//!
//! Buffers of the smallest class are for everybody; larger ones are out of the agent's [stock](super::stock),
//! and when that has no more, a flow gets a smaller one than it asked for.
//!
//! A [`Chunk`] is a buffer that something is done in place in; it has room beyond its class for what
//! surrounds payload in TLS records. A [`Segment`] is one whose bytes are consumed from the front.
//!
//! Not here: what becomes of the bytes.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use bytes::Buf;
use parking_lot::Mutex;

use super::flight::Aloft;
use super::stock::Loan;

/// Capacities of buffers. 256 KiB reads cost half the CPU per byte of 16 KiB ones; the largest are
/// for flows that gain by them ([`Sizer::of_bulk`]), and still larger ones are slower: what is read
/// is no longer in a core's second-level cache when it is written.
const CLASSES: [usize; 4] = [16 << 10, 64 << 10, 256 << 10, 512 << 10];
/// The largest class of most flows.
const LARGEST: usize = 2;
/// The largest class there is.
const LARGEST_OF_BULK: usize = 3;
/// Bytes that a buffer has beyond its class: the largest class is 32 TLS records with all that
/// surrounds their payload, the smallest one holds any record and some short ones.
const SURROUNDINGS: usize = 2 << 10;
/// Free buffers that a thread keeps of one class.
const PER_THREAD: usize = 4;
/// Free buffers that all threads together keep of a class: at most 19 MiB in all.
const SHARED: [usize; CLASSES.len()] = [32, 32, 32, 16];

thread_local! {
    static FREE: RefCell<[Vec<Block>; CLASSES.len()]> = const { RefCell::new([const { Vec::new() }; CLASSES.len()]) };
}

static SHARED_FREE: [Mutex<Vec<Block>>; CLASSES.len()] =
    [const { Mutex::new(Vec::new()) }; CLASSES.len()];

/// Memory of one class, or none. It is counted as long as it exists, in use or not.
#[derive(Debug, Default)]
struct Block {
    bytes: Box<[u8]>,
    _loan: Loan,
}

impl Block {
    /// A free one of this class, or a new one; a smaller one if there is not enough for it.
    fn take(class: usize) -> Self {
        take_free(class).unwrap_or_else(|| Self::new(class))
    }

    fn new(class: usize) -> Self {
        let length = capacity(class) + SURROUNDINGS;
        let mut loan = Loan::default();
        match class.checked_sub(1) {
            None => loan = Loan::least(length),
            Some(smaller) if !loan.grow(length) => return Self::take(smaller),
            Some(_) => {}
        }
        Self {
            bytes: vec![0; length].into_boxed_slice(),
            _loan: loan,
        }
    }
}

/// A pooled buffer, or none.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    block: Block,
}

impl Chunk {
    /// A buffer for reads of [`Sizer::wanted`] bytes, with [`SURROUNDINGS`]; a smaller one if the
    /// agent has no more. What is in it is somebody else's past.
    pub(super) fn take(sizer: &Sizer) -> Self {
        Self {
            block: Block::take(sizer.class),
        }
    }

    /// No buffer.
    pub(super) fn none() -> Self {
        Self::default()
    }

    /// Gives the buffer back.
    pub(super) fn release(&mut self) {
        give_back(std::mem::take(&mut self.block));
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.block.bytes
    }
}

impl DerefMut for Chunk {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.block.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.release();
    }
}

/// Some bytes in a pooled buffer, consumed from the front.
#[derive(Debug, Default)]
pub(super) struct Segment {
    chunk: Chunk,
    start: usize,
    end: usize,
    /// Who wants to know when it has been written.
    aloft: Option<Aloft>,
}

impl Segment {
    /// An empty segment with room for [`Sizer::wanted`] bytes.
    pub(super) fn take(sizer: &Sizer) -> Self {
        Self {
            chunk: Chunk::take(sizer),
            start: 0,
            end: 0,
            aloft: None,
        }
    }

    /// A segment that holds nothing and owns nothing.
    pub(super) fn empty() -> Self {
        Self {
            chunk: Chunk::none(),
            start: 0,
            end: 0,
            aloft: None,
        }
    }

    /// It counts as `aloft` until it is dropped.
    pub(super) fn launch(&mut self, aloft: Aloft) {
        self.aloft = Some(aloft);
    }

    /// Memory that it takes, whatever is in it.
    pub(super) fn footprint(&self) -> usize {
        self.chunk.len()
    }

    /// Where the next bytes may be written, at most `most` of them.
    pub(super) fn room(&mut self, most: usize) -> &mut [u8] {
        let end = self.end.saturating_add(most).min(self.capacity());
        self.chunk.get_mut(self.end..end).unwrap_or_default()
    }

    /// Declares `count` bytes of the room as written.
    pub(super) fn wrote(&mut self, count: usize) {
        self.end = self.end.saturating_add(count).min(self.capacity());
    }

    /// Frames that are a little longer than a class would be cut in two by many peers.
    fn capacity(&self) -> usize {
        self.chunk.len().saturating_sub(SURROUNDINGS)
    }
}

impl Buf for Segment {
    fn remaining(&self) -> usize {
        self.end.saturating_sub(self.start)
    }

    fn chunk(&self) -> &[u8] {
        self.chunk.get(self.start..self.end).unwrap_or_default()
    }

    fn advance(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
    }
}

fn capacity(class: usize) -> usize {
    CLASSES.get(class).copied().unwrap_or(CLASSES[0])
}

fn take_free(class: usize) -> Option<Block> {
    let own = FREE.try_with(|free| free.borrow_mut().get_mut(class).and_then(Vec::pop));
    own.ok()
        .flatten()
        .or_else(|| SHARED_FREE.get(class)?.lock().pop())
}

fn give_back(block: Block) {
    let length = block.bytes.len();
    let class = (CLASSES.iter()).position(|capacity| capacity + SURROUNDINGS == length);
    let Some(class) = class else {
        return;
    };
    let mut surplus = Some(block);
    // While a thread ends its list is gone; the shared one remains.
    let _ended = FREE.try_with(|free| {
        if let Some(own) = free.borrow_mut().get_mut(class)
            && own.len() < PER_THREAD
        {
            own.extend(surplus.take());
        }
    });
    if surplus.is_some()
        && let Some((shared, most)) = SHARED_FREE.get(class).zip(SHARED.get(class))
    {
        let mut shared = shared.lock();
        if shared.len() < *most {
            shared.extend(surplus.take());
        }
    }
}

/// Frees the buffers that this thread keeps for what comes next, and those that all threads share.
pub fn let_go_of_buffers() {
    // While a thread ends its list is gone already.
    let _ended = FREE.try_with(|free| std::mem::take(&mut *free.borrow_mut()));
    for shared in &SHARED_FREE {
        let freed = std::mem::take(&mut *shared.lock());
        drop(freed);
    }
}

/// How much one direction of a connection should read at once: more while reads fill the buffer,
/// less when they have become small.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizer {
    class: usize,
    largest: usize,
    small_reads: u8,
}

impl Default for Sizer {
    fn default() -> Self {
        Self {
            class: 0,
            largest: LARGEST,
            small_reads: 0,
        }
    }
}

/// Small reads in a row after which a flow is taken for interactive again.
const SHRINK_AFTER: u8 = 8;

impl Sizer {
    /// For a flow that has its carrier to itself, where a read is a system call and a write
    /// whatever its size.
    pub(super) fn of_bulk() -> Self {
        Self {
            largest: LARGEST_OF_BULK,
            ..Self::default()
        }
    }

    /// Bytes to ask for.
    pub(super) fn wanted(&self) -> usize {
        capacity(self.class)
    }

    /// Learns from a read of `count` bytes.
    pub(super) fn read(&mut self, count: usize) {
        let wanted = self.wanted();
        // What surrounds payload in records takes a little of the room.
        if count >= wanted - wanted / 8 {
            self.class = (self.class + 1).min(self.largest);
            self.small_reads = 0;
        } else if count <= wanted / 8 {
            self.small_reads += 1;
            if self.small_reads >= SHRINK_AFTER {
                self.class = self.class.saturating_sub(1);
                self.small_reads = 0;
            }
        } else {
            self.small_reads = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_flow_that_has_its_carrier_to_itself_grows_to_the_largest_buffers() {
        let mut sizer = Sizer::of_bulk();
        assert_eq!(sizer.wanted(), Sizer::default().wanted());
        for _ in 0..5 {
            sizer.read(sizer.wanted());
        }
        assert_eq!(sizer.wanted(), 512 << 10);
    }

    #[test]
    fn a_flow_grows_while_it_fills_its_buffers_and_shrinks_when_it_no_longer_does() {
        let mut sizer = Sizer::default();
        assert_eq!(sizer.wanted(), 16 << 10);
        for _ in 0..5 {
            sizer.read(sizer.wanted());
        }
        assert_eq!(sizer.wanted(), 256 << 10);
        for _ in 0..100 {
            sizer.read(64);
        }
        assert_eq!(sizer.wanted(), 16 << 10);
    }

    #[test]
    fn a_segment_holds_what_was_written_and_forgets_what_was_consumed() {
        let mut segment = Segment::take(&Sizer::default());
        segment.room(usize::MAX)[..5].copy_from_slice(b"hello");
        segment.wrote(5);
        assert_eq!(segment.chunk(), b"hello");
        segment.advance(2);
        assert_eq!(segment.chunk(), b"llo");
        segment.advance(99);
        assert!(!segment.has_remaining());
        assert_eq!(Segment::empty().room(10).len(), 0);
    }

    #[test]
    fn a_buffer_that_is_given_back_is_taken_again() {
        let first = Segment::take(&Sizer::default());
        let address = first.chunk.as_ptr();
        drop(first);
        assert_eq!(Segment::take(&Sizer::default()).chunk.as_ptr(), address);
    }
}
