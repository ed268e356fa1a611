//! A socket that lets TLS records through one at a time, so that a handshake reads its own records
//! and not a byte of what follows.
//!
//! A peer may send data in the same packet as the end of its handshake. Whoever takes over the keys
//! must also get that data, still sealed. So every record is followed by a pause, in which the
//! handshake can notice that it has ended; what was received beyond it stays here.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of a record before its content.
const HEADER: usize = 5;
/// Bytes received at once: more than a whole flight of a handshake with small certificates.
const CHUNK: usize = 4 << 10;

/// A socket that pauses after each TLS record.
#[derive(Debug)]
pub(in crate::transport) struct Turnstile<S> {
    socket: S,
    /// Received and not let through.
    held: BytesMut,
    /// Bytes of the current record that have not been let through.
    left: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A record may pass.
    Free,
    /// A record has passed: pause.
    Passed,
    /// Everything may pass.
    Open,
}

impl<S> Turnstile<S> {
    pub(super) fn new(socket: S) -> Self {
        Self {
            socket,
            held: BytesMut::new(),
            left: 0,
            state: State::Free,
        }
    }

    /// A socket through which everything passes.
    pub(in crate::transport) fn opened(socket: S) -> Self {
        let mut turnstile = Self::new(socket);
        turnstile.open();
        turnstile
    }

    /// Lets everything pass from now on, beginning with what is held.
    pub(super) const fn open(&mut self) {
        self.state = State::Open;
    }

    /// The socket, and what was received from it and not let through, which begins with a record.
    /// `None` in the middle of one.
    pub(super) fn into_parts(self) -> Option<(S, BytesMut)> {
        (self.left == 0).then_some((self.socket, self.held))
    }

    /// How much of what is held, or will be, belongs to the current record.
    fn current(&mut self) -> usize {
        if self.left == 0
            && let Some(&[_, _, _, high, low]) = self.held.first_chunk::<HEADER>()
        {
            self.left = HEADER + usize::from(u16::from_be_bytes([high, low]));
        }
        self.left
    }
}

impl<S: AsyncRead + Unpin> Turnstile<S> {
    /// Receives more. `false` at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut chunk = [0; CHUNK];
        let mut chunk = ReadBuf::new(&mut chunk);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut chunk))?;
        self.held.extend_from_slice(chunk.filled());
        Poll::Ready(Ok(!chunk.filled().is_empty()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Turnstile<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.state {
            State::Open if this.held.is_empty() => {
                return Pin::new(&mut this.socket).poll_read(cx, buffer);
            }
            State::Passed => {
                this.state = State::Free;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            State::Open | State::Free => {}
        }
        while this.held.is_empty() || (this.state == State::Free && this.current() == 0) {
            if !ready!(this.poll_fill(cx))? {
                // The end, perhaps in the middle of a header: TLS knows what to say about it.
                this.state = State::Open;
                break;
            }
        }
        let allowed = match this.state {
            State::Open => this.held.len(),
            State::Free | State::Passed => this.left,
        };
        let count = allowed.min(this.held.len()).min(buffer.remaining());
        buffer.put_slice(this.held.get(..count).unwrap_or_default());
        this.held.advance(count);
        if this.state == State::Free {
            this.left -= count;
            if this.left == 0 {
                this.state = State::Passed;
            }
        } else if this.held.is_empty() {
            // Given back: nothing will be held any more.
            this.held = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Turnstile<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
