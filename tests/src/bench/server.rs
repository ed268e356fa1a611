//! The load's server: does what the first byte of a connection says.
//!
//! It has threads for the longest-lived load, 64 connections at a time; of those that come and go,
//! more wait in its backlog.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::load::{BLOCK, PING};
use crate::netns::NetNs;

/// How many connections the server serves at a time.
const THREADS: usize = 2 * 64 + 2;

/// The server of one pod.
#[derive(Debug)]
pub(super) struct LoadServer {
    listener: Arc<TcpListener>,
    pub(super) received: Arc<AtomicU64>,
}

impl LoadServer {
    /// Starts it at every address of the namespace.
    pub(super) fn start(namespace: &NetNs, port: u16) -> Result<Self> {
        let received = Arc::new(AtomicU64::new(0));
        let listener = Arc::new(namespace.run(|| listen(port))?.context("listen")?);
        for _ in 0..THREADS {
            let (listener, received) = (Arc::clone(&listener), Arc::clone(&received));
            let worker = thread::Builder::new().stack_size(512 * 1024);
            worker.spawn(move || serve(&listener, &received))?;
        }
        Ok(Self { listener, received })
    }
}

impl Drop for LoadServer {
    fn drop(&mut self) {
        drop(SockRef::from(&*self.listener).shutdown(Shutdown::Both));
    }
}

/// Listens at every address of this thread's namespace.
pub(super) fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

fn serve(listener: &TcpListener, received: &AtomicU64) {
    let mut block = vec![0; BLOCK];
    while let Ok((stream, _)) = listener.accept() {
        // A client that goes away in the middle is how throughput samples end.
        drop(serve_one(stream, &mut block, received));
    }
}

fn serve_one(mut stream: TcpStream, block: &mut [u8], received: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut mode = [0];
    stream.read_exact(&mut mode)?;
    match mode {
        [b'u'] => loop {
            let count = stream.read(block)?;
            if count == 0 {
                return Ok(());
            }
            received.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
        },
        [b'd'] => loop {
            stream.write_all(block)?;
        },
        [b'p'] => {
            let mut ping = [0; PING];
            loop {
                stream.read_exact(&mut ping)?;
                stream.write_all(&ping)?;
            }
        }
        _ => {
            stream.write_all(&mode)?;
            stream.read(&mut mode).map(drop)
        }
    }
}
