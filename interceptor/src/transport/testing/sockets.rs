//! Sockets of applications and of the network in between, of which it is known what the kernel keeps.
//!
//! On its own it finds some kilobytes enough or tens of megabytes worth it, as it is set up and as
//! fast as they are read: nothing that a test could know. Those that an agent dials tune themselves
//! as ever.
//!
//! Tests that are programs of their own include this file, too.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// What the kernel keeps of what is said and not yet taken, and of what is not read, at most twice.
const KEPT: u32 = 256 << 10;

fn socket() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(KEPT).unwrap();
    socket.set_send_buffer_size(KEPT).unwrap();
    socket
}

/// A port where nobody listens, and nobody else will as long as the socket lives.
pub(crate) fn closed() -> (TcpSocket, SocketAddr) {
    let socket = socket();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// An application's listener.
pub(crate) fn app() -> (TcpListener, SocketAddr) {
    let (socket, address) = closed();
    (socket.listen(1024).unwrap(), address)
}

pub(crate) async fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    socket().connect(to).await
}

/// Two sockets that are connected to each other.
pub(crate) async fn sockets() -> (TcpStream, TcpStream) {
    let (listener, address) = app();
    let (one, other) = tokio::join!(dial(address), listener.accept());
    (one.unwrap(), other.unwrap().0)
}
