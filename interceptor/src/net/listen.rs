//! Listening sockets on loopback, where nothing outside of the namespace can reach them.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;

/// Connections that may wait for `accept(2)`; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Opens a non-blocking listener at `address` in the calling thread's namespace.
///
/// `SO_REUSEADDR`, so that a restarted agent is not kept waiting by old connections; an IPv6
/// listener takes IPv6 only, because each family has its own. Accepted sockets inherit
/// `TCP_NODELAY`: what an application or a peer waits for is never held back.
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
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The connections that wait in the queue of a listener, for one that is about to close it. Asks
/// the kernel and not the runtime, which may not have heard of the latest yet. What was aborted
/// meanwhile is left out.
///
/// # Panics
///
/// Outside of a tokio runtime, whose streams it makes.
pub fn accept_waiting(
    listener: &tokio::net::TcpListener,
) -> impl Iterator<Item = (TcpStream, SocketAddr)> {
    let queue = SockRef::from(listener);
    let accepted = std::iter::from_fn(move || queue.accept().ok());
    accepted.filter_map(|(socket, peer)| {
        socket.set_nonblocking(true).ok()?;
        Some((TcpStream::from_std(socket.into()).ok()?, peer.as_socket()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_that_waits_is_accepted_whatever_the_runtime_knows() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let to = listener.local_addr().unwrap();
        let clients: Vec<_> = (0..3)
            .map(|_| std::net::TcpStream::connect(to).unwrap())
            .collect();
        let accepted: Vec<_> = accept_waiting(&listener).map(|(_, peer)| peer).collect();
        let expected: Vec<_> = clients.iter().map(|it| it.local_addr().unwrap()).collect();
        assert_eq!(accepted, expected);
        assert_eq!(accept_waiting(&listener).count(), 0);
    }
}
