//! Reading and writing so that the runtime knows when a socket has nothing more.

use std::io::{self, ErrorKind, IoSliceMut, Read as _, Write as _};

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
        let count = (&*SockRef::from(socket)).read_vectored(room)?;
        read = Some(count);
        if count > 0 && count < most {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(())
    });
    read.map_or_else(|| tried.map(|()| 0), Ok)
}

/// The same for writing.
pub(super) fn write_once(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
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
