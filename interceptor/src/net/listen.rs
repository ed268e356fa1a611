//! Listening sockets on loopback, where nothing outside of the namespace can reach them.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait for `accept(2)`; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Opens a non-blocking listener at `address` in the calling thread's namespace.
///
/// `SO_REUSEADDR`, so that a restarted agent is not kept waiting by old connections; an IPv6
/// listener takes IPv6 only, because each family has its own.
///
/// # Errors
///
/// If the address is taken or does not exist.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
