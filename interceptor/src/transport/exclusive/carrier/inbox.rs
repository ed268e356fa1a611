//! What has been received and not been given out yet, in one pooled buffer.

use std::ops::Range;

use super::super::super::buffer::{Chunk, Sizer};
use super::super::copy;

/// Received and not yet given out.
pub(in crate::transport) struct Inbox {
    pub(in crate::transport) chunk: Chunk,
    sizer: Sizer,
    /// Sealed.
    pub(in crate::transport) sealed: Range<usize>,
    /// Open, and not yet read as frames.
    pub(in crate::transport) open: Range<usize>,
}

impl Inbox {
    pub(in crate::transport) fn new(early: &[u8]) -> Self {
        let sizer = Sizer::default();
        let mut inbox = Self {
            chunk: Chunk::none(),
            sizer,
            sealed: 0..0,
            open: 0..0,
        };
        if !early.is_empty() {
            copy(inbox.room(), 0, early);
            inbox.sealed.end = early.len();
        }
        inbox
    }

    pub(in crate::transport) fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.open.is_empty()
    }

    pub(in crate::transport) fn release(&mut self) {
        self.chunk.release();
        (self.sealed, self.open) = (0..0, 0..0);
    }

    /// Where more can be received, behind what is not complete.
    pub(in crate::transport) fn room(&mut self) -> &mut [u8] {
        let length = self.sealed.len();
        if self.chunk.len() < self.sizer.wanted() {
            // None yet, or the flow has grown.
            let mut chunk = Chunk::take(&self.sizer);
            let kept = self.chunk.get(self.sealed.clone()).unwrap_or_default();
            copy(&mut chunk, 0, kept);
            self.chunk = chunk;
        } else if self.sealed.start > 0 {
            self.chunk.copy_within(self.sealed.clone(), 0);
        }
        (self.sealed, self.open) = (0..length, 0..0);
        self.chunk.get_mut(length..).unwrap_or_default()
    }

    /// Keeps no more than it takes for a record that is not complete: the rest of it may never come.
    pub(in crate::transport) fn shrink(&mut self) {
        let smallest = Sizer::default();
        if self.chunk.len() > 2 * smallest.wanted() && !self.sealed.is_empty() {
            let mut chunk = Chunk::take(&smallest);
            let kept = self.chunk.get(self.sealed.clone()).unwrap_or_default();
            self.sealed = 0..copy(&mut chunk, 0, kept);
            self.chunk = chunk;
        }
    }

    pub(in crate::transport) fn received(&mut self, count: usize) {
        self.sealed.end += count;
        self.sizer.read(count);
    }
}
