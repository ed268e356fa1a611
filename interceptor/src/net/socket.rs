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

/// Takes back [`reset_on_close`]: closing `stream` sends what is left to send, and a FIN.
///
/// # Errors
///
/// If the option cannot be set; the stream then resets.
pub fn close_in_order(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(None)
}

/// Lets this process open as many files as it is allowed to: two for each connection, and the
/// usual soft limit of 1,024 is for programs that use `select(2)`. Failing changes nothing, so it
/// is not an error; `doctor` shows the limit.
pub fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _unchanged = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// How many files this process may have open.
pub fn file_limit() -> usize {
    use nix::sys::resource::{Resource, getrlimit};
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _hard)| soft);
    usize::try_from(soft).unwrap_or(usize::MAX)
}
