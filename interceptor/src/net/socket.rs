//! Options of a connected socket.

use std::io;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

/// Makes closing `stream` send a reset instead of a FIN, so that a failure on one leg looks like
/// a failure on the other and not like the orderly end of the data.
///
/// # Errors
///
/// If the option cannot be set; the stream then closes as usual.
pub fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}
