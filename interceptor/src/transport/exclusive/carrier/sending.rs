//! What goes out: frames, and bytes of an application in the records into which they were read.

use std::io::{self, ErrorKind, IoSliceMut};
use std::task::{Context, Poll, ready};

use super::super::super::buffer::{Chunk, Sizer};
use super::super::super::codec::frame;
use super::super::super::record::{self, RecordError};
use super::super::copy;
use super::super::socket::write_once;
use super::{Carrier, FRONT, LoadError, PAYLOAD, SLOTS, SessionFailure};

impl Carrier {
    /// Whether records wait for the socket.
    pub(in crate::transport) fn has_pending(&self) -> bool {
        !self.unsent_at.is_empty()
    }

    /// Sends what is waiting.
    pub(in crate::transport) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SessionFailure>> {
        loop {
            if self.unsent_at.is_empty() {
                if self.outbox.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                self.load(&Sizer::default(), |_slots, _room| Ok(0))?;
            }
            if self.try_send()? {
                continue;
            }
            ready!(self.socket.poll_write_ready(cx))?;
        }
    }

    /// Makes records of the frames that are waiting and of what `read` puts into the slots that it
    /// is given, which is counted in bytes and at most the second argument. Only if nothing is
    /// unsent. Returns the count.
    ///
    /// # Errors
    ///
    /// Of `read`, or because no record can be sealed any more.
    pub(in crate::transport) fn load(
        &mut self,
        sizer: &Sizer,
        read: impl FnOnce(&mut [IoSliceMut<'_>], usize) -> io::Result<usize>,
    ) -> Result<usize, LoadError> {
        let mut chunk = Chunk::take(sizer);
        let mut end = 0;
        if let Some(control) = self.session.due()? {
            end = copy(&mut chunk, 0, control.bytes());
        }
        end += self.seal_outbox(chunk.get_mut(end..).unwrap_or_default())?;
        let count = if self.outbox.is_empty() {
            let slots = chunk.get_mut(end..).unwrap_or_default();
            let read = read_into(slots, read);
            let count = match &read {
                Ok(count) => *count,
                Err(_) => 0,
            };
            end += self.seal_slots(chunk.get_mut(end..).unwrap_or_default(), count)?;
            read.map_err(LoadError::Read)
        } else {
            // More frames than one buffer holds: data has to wait.
            Ok(0)
        };
        if end > 0 {
            self.unsent = chunk;
            self.unsent_at = 0..end;
        }
        count
    }

    /// Seals as many of the waiting frames as there is room for. Returns the bytes used.
    fn seal_outbox(&mut self, mut room: &mut [u8]) -> Result<usize, RecordError> {
        let mut used = 0;
        while !self.outbox.is_empty() && room.len() > record::OVERHEAD {
            let most = (room.len() - record::OVERHEAD).min(record::PAYLOAD);
            let length = self.outbox.len().min(most);
            copy(
                room,
                record::HEADER,
                self.outbox.get(..length).unwrap_or_default(),
            );
            let sealed = self.session.sealer.seal(room, length)?;
            self.outbox.drain(..length);
            used += sealed;
            room = room.get_mut(sealed..).unwrap_or_default();
        }
        if self.outbox.is_empty() && self.outbox.capacity() > 256 {
            self.outbox = Vec::new();
        }
        Ok(used)
    }

    /// Seals `count` bytes that were read into slots. Returns the bytes used.
    fn seal_slots(&mut self, room: &mut [u8], count: usize) -> Result<usize, RecordError> {
        let mut used = 0;
        let mut left = count;
        for slot in room.chunks_mut(record::SLOT) {
            let length = left.min(PAYLOAD);
            if length == 0 {
                break;
            }
            copy(slot, record::HEADER, &frame::data(self.stream, length));
            used += self.session.sealer.seal(slot, frame::HEADER + length)?;
            left -= length;
        }
        Ok(used)
    }

    /// Sends what the socket takes now. `true` if that is all.
    pub(in crate::transport) fn try_send(&mut self) -> io::Result<bool> {
        let waiting = self.unsent.get(self.unsent_at.clone()).unwrap_or_default();
        match write_once(&self.socket, waiting) {
            Ok(count) => self.unsent_at.start += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        let done = self.unsent_at.is_empty();
        if done {
            self.unsent.release();
            self.unsent_at = 0..0;
        }
        Ok(done)
    }

    /// Sends what is waiting, as far as the socket takes it now.
    pub(in crate::transport::exclusive) fn send_now(&mut self) {
        let mut no_wake = Context::from_waker(std::task::Waker::noop());
        // A failure shows again to whoever reads next.
        let _later = self.poll_flush(&mut no_wake);
    }
}

/// Lets `read` fill the payloads of as many slots as there are.
fn read_into(
    room: &mut [u8],
    read: impl FnOnce(&mut [IoSliceMut<'_>], usize) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut slots: [IoSliceMut<'_>; SLOTS] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
    let mut count = 0;
    let mut most = 0;
    // The last slot is used as far as it goes, if it is worth it.
    let usable = room
        .chunks_mut(record::SLOT)
        .filter(|slot| slot.len() >= record::SLOT);
    for (slice, slot) in slots.iter_mut().zip(usable) {
        let payload = slot.get_mut(FRONT..FRONT + PAYLOAD).unwrap_or_default();
        most += payload.len();
        *slice = IoSliceMut::new(payload);
        count += 1;
    }
    // Nothing that is read into no room would look like the end.
    if count == 0 {
        return Ok(0);
    }
    read(slots.get_mut(..count).unwrap_or_default(), most)
}
