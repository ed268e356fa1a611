//! What has been received and not been given out yet, in one pooled buffer.

use std::io::{self, ErrorKind, IoSliceMut};
use std::ops::Range;
use std::task::{Context, Poll};

use tokio::net::TcpStream;

use super::super::super::buffer::{Chunk, Sizer};
use super::super::super::codec::{Event, Reader};
use super::super::super::record::{Content, Opener};
use super::super::copy;
use super::super::socket::read_once;
use super::failure::SessionFailure;

/// Received and not yet given out.
pub(in crate::transport) struct Inbox {
    pub(in crate::transport) chunk: Chunk,
    sizer: Sizer,
    /// Sealed.
    sealed: Range<usize>,
    /// Open, and not yet read as frames.
    open: Range<usize>,
}

impl Inbox {
    /// With what was received early, and how much to receive at once.
    pub(in crate::transport) fn new(early: &[u8], sizer: Sizer) -> Self {
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

    fn release(&mut self) {
        self.chunk.release();
        (self.sealed, self.open) = (0..0, 0..0);
    }

    /// Where more can be received, behind what is not complete.
    fn room(&mut self) -> &mut [u8] {
        let length = self.sealed.len();
        // None yet, or the flow has grown.
        let larger = (self.chunk.len() < self.sizer.wanted())
            .then(|| Chunk::take(&self.sizer))
            .filter(|chunk| chunk.len() > self.chunk.len());
        if let Some(mut chunk) = larger {
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
    fn shrink(&mut self) {
        let smallest = Sizer::default();
        if self.chunk.len() > 2 * smallest.wanted() && !self.sealed.is_empty() {
            let mut chunk = Chunk::take(&smallest);
            let kept = self.chunk.get(self.sealed.clone()).unwrap_or_default();
            self.sealed = 0..copy(&mut chunk, 0, kept);
            self.chunk = chunk;
        }
    }

    /// What the peer has said next, as far as it has been received. Ranges in it are of the chunk, until
    /// more is received.
    ///
    /// # Errors
    ///
    /// Why the session is over.
    pub(in crate::transport) fn next(
        &mut self,
        reader: &mut Reader,
        opener: &mut Opener,
    ) -> Result<Option<Event>, SessionFailure> {
        loop {
            if let Some(event) = reader.next(&self.chunk, &mut self.open)? {
                return Ok(Some(event));
            }
            let Range { start, end } = self.sealed;
            let filled = self.chunk.get_mut(..end).unwrap_or_default();
            let Some(record) = opener.open(filled, start)? else {
                return Ok(None);
            };
            self.sealed.start = record.end;
            match record.content {
                Content::Data(open) => self.open = open,
                Content::Nothing => {}
                Content::Closed => return Err(SessionFailure::Closed),
            }
        }
    }

    /// Waits until something has been received. What was given out as ranges before is gone.
    pub(in crate::transport) fn poll_receive(
        &mut self,
        socket: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SessionFailure>> {
        loop {
            if self.sealed.is_empty() {
                self.release();
            }
            let Poll::Ready(ready) = socket.poll_read_ready(cx) else {
                self.shrink();
                return Poll::Pending;
            };
            ready?;
            match self.receive(socket) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error.into())),
                Ok(0) => return Poll::Ready(Err(SessionFailure::Closed)),
                Ok(_) => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Receives what there is, once. 0 at the end of the connection.
    fn receive(&mut self, socket: &TcpStream) -> io::Result<usize> {
        let room = self.room();
        let wanted = room.len();
        let count = read_once(socket, &mut [IoSliceMut::new(room)], wanted)?;
        self.sealed.end += count;
        self.sizer.read(count);
        Ok(count)
    }
}
