//! What goes out on a shared carrier: frames of all streams, laid out as the records that carry them.
//!
//! ```text
//!  filling:  │ sealed records │ open record: frame · frame · frame ·   room   │
//!  sending:  │ sealed records, as far as the socket has not taken them        │
//! ```
//!
//! Bytes of an application are read straight to where they are sealed, behind a frame's header.
//! Whatever is put here in one turn of the runtime goes in as few records as it fits into, and in
//! one system call.
//!
//! # Invariants
//!
//! * There are at most two buffers: one that the socket is taking and one that is being filled. With
//!   both of them full, there is room for nobody.
//! * Frames go out in the order in which they were put here.
//!
//! Not here: who may say how much (`window.rs`), whose turn it is (`hub.rs`).

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;

use super::super::buffer::{Chunk, Sizer};
use super::super::codec::frame;
use super::super::exclusive::socket::write_once;
use super::super::record::{self, Control, RecordError, Sealer};

/// Payload of a frame below which it is not worth beginning one in a record that is nearly full.
const LEAST: usize = 512;
/// The longest record of the record layer's own.
const CONTROL: usize = record::OVERHEAD + 5;

/// What goes out on one carrier.
pub(super) struct Out {
    sealer: Sealer,
    /// Frames that are not laid out yet.
    frames: Vec<u8>,
    filling: Chunk,
    /// Where the sealed records in it end.
    sealed: usize,
    /// Plaintext behind them, in a record that is not sealed.
    open: usize,
    sizer: Sizer,
    sending: Chunk,
    /// What the socket has not taken of it.
    unsent: Range<usize>,
    /// The peer wants new keys of ours.
    update_wanted: bool,
}

impl Out {
    pub(super) fn new(sealer: Sealer) -> Self {
        Self {
            sealer,
            frames: Vec::new(),
            filling: Chunk::none(),
            sealed: 0,
            open: 0,
            sizer: Sizer::default(),
            sending: Chunk::none(),
            unsent: 0..0,
            update_wanted: false,
        }
    }

    /// Frames that are not data, behind all that was put here before.
    pub(super) const fn frames(&mut self) -> &mut Vec<u8> {
        &mut self.frames
    }

    /// Whether the socket has taken all that it was given.
    const fn has_sent(&self) -> bool {
        self.unsent.start >= self.unsent.end
    }

    /// Where the payload of the next DATA frame belongs; nothing if there is no room now.
    ///
    /// # Errors
    ///
    /// If no record can be sealed any more.
    pub(super) fn payload(&mut self) -> Result<Option<&mut [u8]>, RecordError> {
        if !self.lay_out_frames()? {
            return Ok(None);
        }
        let Some(Range { start, end }) = self.room(frame::HEADER + LEAST)? else {
            return Ok(None);
        };
        Ok(self.filling.get_mut(start + frame::HEADER..end))
    }

    /// So many bytes of [`Self::payload`] are data of `stream`.
    pub(super) fn commit(&mut self, stream: u32, count: usize) {
        let start = self.sealed + record::HEADER + self.open;
        let head = self.filling.get_mut(start..start + frame::HEADER);
        if let Some(head) = head {
            head.copy_from_slice(&frame::data(stream, count));
            self.open += frame::HEADER + count;
        }
    }

    /// The peer has asked for new keys: what is said from now on is said with them.
    pub(super) fn update(&mut self) -> Result<(), RecordError> {
        self.update_wanted = true;
        self.seal()
    }

    /// Sends all there is. Returns whether the socket took something.
    pub(super) fn poll_flush(
        &mut self,
        socket: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), FlushError>> {
        loop {
            if self.has_sent() && !self.next()? {
                return Poll::Ready(Ok(()));
            }
            let unsent = self.sending.get(self.unsent.clone()).unwrap_or_default();
            match write_once(socket, unsent) {
                Ok(count) => self.unsent.start += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ready!(socket.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// A last record behind all others, as far as there is room for it: an alert, or a goodbye.
    pub(super) fn end_with(
        &mut self,
        last: impl FnOnce(&mut Sealer) -> Result<Control, RecordError>,
    ) -> Result<(), RecordError> {
        let _laid_out = self.lay_out_frames()?;
        self.seal()?;
        let control = last(&mut self.sealer)?;
        self.append(&control);
        Ok(())
    }

    /// Makes what was filled what is being sent. Whether there is anything.
    fn next(&mut self) -> Result<bool, RecordError> {
        self.sending.release();
        self.unsent = 0..0;
        let _laid_out = self.lay_out_frames()?;
        self.seal()?;
        if self.sealed == 0 {
            self.filling.release();
            return Ok(false);
        }
        self.sizer.read(self.sealed);
        self.sending = std::mem::take(&mut self.filling);
        self.unsent = 0..std::mem::take(&mut self.sealed);
        Ok(true)
    }

    /// Lays out the frames that wait. Whether there was room for all of them.
    fn lay_out_frames(&mut self) -> Result<bool, RecordError> {
        let mut done = 0;
        while done < self.frames.len() {
            let Some(room) = self.room(1)? else {
                break;
            };
            let rest = self.frames.get(done..).unwrap_or_default();
            let room = self.filling.get_mut(room).unwrap_or_default();
            let count = rest.len().min(room.len());
            if let (Some(room), Some(rest)) = (room.get_mut(..count), rest.get(..count)) {
                room.copy_from_slice(rest);
            }
            self.open += count;
            done += count;
        }
        let all = done == self.frames.len();
        if all && self.frames.capacity() > 1024 {
            self.frames = Vec::new();
        } else {
            self.frames.drain(..done);
        }
        Ok(all)
    }

    /// Room for at least so much plaintext in the record that is open, or in the next one.
    fn room(&mut self, least: usize) -> Result<Option<Range<usize>>, RecordError> {
        loop {
            if self.filling.is_empty() {
                self.filling = Chunk::take(&self.sizer);
            }
            let start = self.sealed + record::HEADER + self.open;
            let longest = self.sealed + record::HEADER + record::PAYLOAD;
            let usable = self.filling.len().saturating_sub(record::TRAILER + CONTROL);
            let end = longest.min(usable);
            if start + least <= end {
                return Ok(Some(start..end));
            }
            if self.open == 0 {
                return Ok(None);
            }
            self.seal()?;
        }
    }

    /// Seals the record that is open, and changes keys if that is due.
    fn seal(&mut self) -> Result<(), RecordError> {
        if self.open > 0 {
            let slot = self.filling.get_mut(self.sealed..).unwrap_or_default();
            self.sealed += self.sealer.seal(slot, self.open)?;
            self.open = 0;
        }
        let due = self.update_wanted || self.sealer.nearly_exhausted();
        if due && self.sealer.is_open() {
            if self.filling.is_empty() {
                self.filling = Chunk::take(&self.sizer);
            }
            if self.sealed + CONTROL <= self.filling.len() {
                let control = self.sealer.update()?;
                self.append(&control);
                self.update_wanted = false;
            }
        }
        Ok(())
    }

    fn append(&mut self, control: &Control) {
        if self.filling.is_empty() {
            self.filling = Chunk::take(&self.sizer);
        }
        let bytes = control.bytes();
        let room = self.filling.get_mut(self.sealed..self.sealed + bytes.len());
        if let Some(room) = room {
            room.copy_from_slice(bytes);
            self.sealed += bytes.len();
        }
    }
}

/// Why nothing more can be sent.
#[derive(Debug)]
pub(super) enum FlushError {
    /// The socket.
    Io(io::Error),
    /// The session.
    Seal(RecordError),
}

impl From<io::Error> for FlushError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<RecordError> for FlushError {
    fn from(error: RecordError) -> Self {
        Self::Seal(error)
    }
}
