//! Reading and writing so that the runtime knows when a socket has nothing more.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read as _, Write as _};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Reads once, and remembers that nothing is left if less came than there was room for: the next
/// look then waits for the kernel instead of asking it in vain.
pub(in crate::transport) fn read_once(
    socket: &TcpStream,
    room: &mut [IoSliceMut<'_>],
    most: usize,
) -> io::Result<usize> {
    let mut read = None;
    // The notice belongs to the same call, or it could undo a later wake-up.
    let tried = socket.try_io(Interest::READABLE, || {
        let mut socket = &*SockRef::from(socket);
        // A message is small as a rule, and `recv` costs less than `recvmsg`.
        let count = match room {
            [room] => socket.read(room)?,
            several => socket.read_vectored(several)?,
        };
        read = Some(count);
        if count > 0 && count < most {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(())
    });
    read.map_or_else(|| tried.map(|()| 0), Ok)
}

/// Writes pieces as if they were one, as far as the socket takes them now.
pub(in crate::transport) fn write_pieces(
    socket: &TcpStream,
    pieces: &[IoSlice<'_>],
) -> io::Result<usize> {
    match pieces {
        [one] => socket.try_write(one),
        several => socket.try_write_vectored(several),
    }
}

/// Writes once, and remembers that nothing more fits if less was taken than was there.
pub(in crate::transport) fn write_once(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = None;
    let tried = socket.try_io(Interest::WRITABLE, || {
        let count = (&*SockRef::from(socket)).write(bytes)?;
        written = Some(count);
        if count < bytes.len() {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(())
    });
    written.map_or_else(|| tried.map(|()| 0), Ok)
}
