//! Messages that carry open sockets from one process to another, over a unix socket
//! (`SCM_RIGHTS`).
//!
//! The receiver needs no privilege over the sender, only its consent, which is why listeners are
//! handed over like this and not fetched (`pidfd_getfd(2)` needs the right to trace the other
//! process, and that both see each other's process ids).
//!
//! A frame is its length, the number of its descriptors, and its bytes; descriptors arrive with the
//! first byte of their frame or before it, in order.
//!
//! # Invariants
//!
//! * A frame has at most [`MOST_BYTES`] and [`MOST_DESCRIPTORS`]; a peer that says otherwise is cut
//!   off. What a peer can make us hold is bounded by that.
//! * Received descriptors are closed with whatever holds them, also when a frame is incomplete, and
//!   are not inherited by children.
//!
//! Not here: what the messages mean (`app::take_over`).

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Bytes of a frame's head: two numbers of four bytes.
const HEAD: usize = 8;

/// The largest message.
pub(crate) const MOST_BYTES: usize = 64 * 1024;

/// Descriptors with one message. The kernel allows 253.
pub(crate) const MOST_DESCRIPTORS: usize = 64;

/// One end of a unix socket over which messages and descriptors pass.
#[derive(Debug)]
pub(crate) struct Channel {
    stream: UnixStream,
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

/// A message and what came with it.
#[derive(Debug)]
pub(crate) struct Frame {
    /// The message.
    pub(crate) bytes: Vec<u8>,
    /// The open files, in the order in which they were sent.
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Channel {
    /// Over this connection.
    pub(crate) const fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            bytes: Vec::new(),
            descriptors: VecDeque::new(),
        }
    }

    /// Sends one message with open files, which stay open here.
    ///
    /// # Errors
    ///
    /// If the peer is gone, or the message exceeds the limits.
    pub(crate) async fn send(
        &self,
        message: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        if message.len() > MOST_BYTES || descriptors.len() > MOST_DESCRIPTORS {
            return Err(too_large());
        }
        let mut frame = Vec::with_capacity(HEAD + message.len());
        frame.extend_from_slice(&number(message.len())?);
        frame.extend_from_slice(&number(descriptors.len())?);
        frame.extend_from_slice(message);
        let mut descriptors: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            let sent = self
                .stream
                .async_io(Interest::WRITABLE, || {
                    send_some(&self.stream, rest, &descriptors)
                })
                .await?;
            // They went with the first byte.
            descriptors.clear();
            rest = rest.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// The next message; `None` if the peer has closed its end.
    ///
    /// # Errors
    ///
    /// If the connection broke, or the peer exceeds the limits.
    ///
    /// # Cancel safety
    ///
    /// Safe: what arrived of a message is kept for the next call.
    pub(crate) async fn receive(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.complete()? {
                return Ok(Some(frame));
            }
            let (stream, descriptors) = (&self.stream, &mut self.descriptors);
            let mut buffer = [0; 4096];
            let received = stream
                .async_io(Interest::READABLE, || {
                    receive_some(stream, &mut buffer, descriptors)
                })
                .await?;
            if received == 0 {
                return if self.bytes.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
            let received = buffer.get(..received).unwrap_or_default();
            self.bytes.extend_from_slice(received);
            // More than one message, and part of the next, never waits to be taken.
            let waiting = self.bytes.len() > 2 * (HEAD + MOST_BYTES);
            if waiting || self.descriptors.len() > 2 * MOST_DESCRIPTORS {
                return Err(too_large());
            }
        }
    }

    /// Takes a frame out of what has arrived, if all of it has.
    fn complete(&mut self) -> io::Result<Option<Frame>> {
        let Some((length, rest)) = self.bytes.split_first_chunk() else {
            return Ok(None);
        };
        let Some((count, rest)) = rest.split_first_chunk() else {
            return Ok(None);
        };
        let length = at_most(MOST_BYTES, *length)?;
        let count = at_most(MOST_DESCRIPTORS, *count)?;
        if rest.len() < length || self.descriptors.len() < count {
            return Ok(None);
        }
        let bytes = rest.get(..length).unwrap_or_default().to_vec();
        self.bytes.drain(..HEAD + length);
        let descriptors = self.descriptors.drain(..count).collect();
        Ok(Some(Frame { bytes, descriptors }))
    }
}

fn send_some(stream: &UnixStream, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<usize> {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let rights = if descriptors.is_empty() {
        [].as_slice()
    } else {
        &rights
    };
    let bytes = [IoSlice::new(bytes)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    Ok(sendmsg::<()>(
        stream.as_raw_fd(),
        &bytes,
        rights,
        flags,
        None,
    )?)
}

fn receive_some(
    stream: &UnixStream,
    buffer: &mut [u8],
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    let mut control = nix::cmsg_space!([RawFd; MOST_DESCRIPTORS]);
    let mut buffer = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut buffer,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut lost = message.flags.contains(MsgFlags::MSG_CTRUNC);
    match message.cmsgs() {
        Ok(controls) => {
            for control in controls {
                if let ControlMessageOwned::ScmRights(received) = control {
                    descriptors.extend(received.into_iter().map(owned));
                }
            }
        }
        Err(_truncated) => lost = true,
    }
    if lost {
        return Err(too_large());
    }
    Ok(message.bytes)
}

/// A descriptor that the kernel has just made for this process.
fn owned(descriptor: RawFd) -> OwnedFd {
    // SAFETY: `recvmsg(2)` gave it to us and to nobody else.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

fn number(length: usize) -> io::Result<[u8; 4]> {
    let number = u32::try_from(length).map_err(|_too_large| too_large())?;
    Ok(number.to_le_bytes())
}

fn at_most(most: usize, number: [u8; 4]) -> io::Result<usize> {
    match usize::try_from(u32::from_le_bytes(number)) {
        Ok(number) if number <= most => Ok(number),
        _ => Err(too_large()),
    }
}

fn too_large() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "a message exceeds what two agents say to each other",
    )
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn pair() -> (Channel, Channel) {
        let (left, right) = UnixStream::pair().unwrap();
        (Channel::new(left), Channel::new(right))
    }

    #[tokio::test]
    async fn messages_and_descriptors_arrive_in_order() {
        let (sender, mut receiver) = pair();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        sender.send(b"first", &[listener.as_fd()]).await.unwrap();
        sender.send(b"none", &[]).await.unwrap();
        let both = [other.as_fd(), listener.as_fd()];
        sender.send(&vec![7; 20_000], &both).await.unwrap();
        drop(sender);

        let first = receiver.receive().await.unwrap().unwrap();
        assert_eq!(first.bytes, b"first");
        let [received] = <[OwnedFd; 1]>::try_from(first.descriptors).unwrap();
        let received = std::net::TcpListener::from(received);
        assert_eq!(
            received.local_addr().unwrap(),
            listener.local_addr().unwrap()
        );
        let none = receiver.receive().await.unwrap().unwrap();
        assert_eq!(
            (none.bytes.as_slice(), none.descriptors.len()),
            (&b"none"[..], 0)
        );
        let last = receiver.receive().await.unwrap().unwrap();
        assert_eq!((last.bytes.len(), last.descriptors.len()), (20_000, 2));
        assert!(receiver.receive().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_message_that_exceeds_the_limits_is_neither_sent_nor_taken() {
        let (sender, _receiver) = pair();
        let error = sender
            .send(&vec![0; MOST_BYTES + 1], &[])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);

        let (left, right) = UnixStream::pair().unwrap();
        let mut receiver = Channel::new(right);
        let head = [u32::MAX.to_le_bytes(), 0_u32.to_le_bytes()].concat();
        assert_eq!(left.try_write(&head).unwrap(), HEAD);
        let error = receiver.receive().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn descriptors_that_never_come_are_not_waited_for_at_any_length() {
        let (left, right) = UnixStream::pair().unwrap();
        let mut receiver = Channel::new(right);
        let sending = async {
            let head = [0_u32.to_le_bytes(), 1_u32.to_le_bytes()].concat();
            loop {
                left.writable().await.unwrap();
                match left.try_write(&head) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => break,
                    _ => {}
                }
            }
        };
        let (error, ()) = tokio::join!(
            async {
                let error = receiver.receive().await.unwrap_err();
                drop(receiver);
                error
            },
            sending
        );
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn half_a_message_is_an_error() {
        let (left, right) = UnixStream::pair().unwrap();
        let mut receiver = Channel::new(right);
        left.try_write(&5_u32.to_le_bytes()).unwrap();
        drop(left);
        let error = receiver.receive().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
