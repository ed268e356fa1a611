//! The load's server: does what the first byte of a connection says.
//!
//! Threads serve up to 64 connections at a time; more wait in their backlog. Beyond that event loops
//! do, like at the client ([`crowd`]), each with a socket of its own: threads that wait for one
//! connection each would answer an eighth of a thousand at a time, and what the rest waits for would
//! be them.
//!
//! ```text
//!  up to 64 at a time    one socket listens    130 threads take turns
//!  beyond                one for each loop     as many loops as there are cores
//! ```
//!
//! The sockets have one port and are bound from the start; those of one [`Style`] listen.

mod crowd;

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZero;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context as _, Result};
use parking_lot::{Condvar, Mutex};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::load::{BLOCK, PING};
use crate::netns::NetNs;

/// How many connections are served at a time by threads.
const THREADS: usize = 2 * 64 + 2;

/// How many wait to be accepted.
const BACKLOG: i32 = 4096;

/// By whom connections are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// A thread each.
    Threads,
    /// Event loops, which connect-and-close is all they know.
    Loops,
}

/// The server of one pod.
#[derive(Debug)]
pub(super) struct LoadServer {
    port: Port,
    gate: Arc<Gate>,
    pub(super) received: Arc<AtomicU64>,
}

/// All sockets of the server's port.
#[derive(Debug)]
struct Port {
    threads: Arc<TcpListener>,
    loops: Vec<Arc<TcpListener>>,
}

/// Where those wait whose style does not serve.
#[derive(Debug)]
struct Gate {
    /// Nothing if the server has ended.
    style: Mutex<Option<Style>>,
    changed: Condvar,
}

impl LoadServer {
    /// Starts it at every address of the namespace.
    pub(super) fn start(namespace: &NetNs, port: u16) -> Result<Self> {
        let server = Self {
            port: namespace.run(|| Port::bind(port))?.context("bind")?,
            gate: Arc::new(Gate {
                style: Mutex::new(Some(Style::Threads)),
                changed: Condvar::new(),
            }),
            received: Arc::default(),
        };
        server.port.listen(Style::Threads).context("listen")?;
        for _ in 0..THREADS {
            let (gate, listener) = (Arc::clone(&server.gate), Arc::clone(&server.port.threads));
            let received = Arc::clone(&server.received);
            let worker = thread::Builder::new().stack_size(512 * 1024);
            worker.spawn(move || {
                while gate.opens_for(Style::Threads) {
                    serve(&listener, &received);
                }
            })?;
        }
        for listener in &server.port.loops {
            let (gate, listener) = (Arc::clone(&server.gate), Arc::clone(listener));
            thread::Builder::new().spawn(move || {
                while gate.opens_for(Style::Loops) {
                    // Whoever connects meanwhile is refused, and says so.
                    drop(crowd::serve(&listener));
                }
            })?;
        }
        Ok(server)
    }

    /// Has connections served like that from now on. Between two samples: nobody is served meanwhile.
    pub(super) fn serve_by(&self, style: Style) -> io::Result<()> {
        let mut now = self.gate.style.lock();
        if *now == Some(style) {
            return Ok(());
        }
        if let Some(before) = now.replace(style) {
            self.port.close(before);
        }
        self.port.listen(style)?;
        self.gate.changed.notify_all();
        Ok(())
    }
}

impl Drop for LoadServer {
    fn drop(&mut self) {
        let style = self.gate.style.lock().take();
        if let Some(style) = style {
            self.port.close(style);
        }
        self.gate.changed.notify_all();
    }
}

impl Port {
    fn bind(port: u16) -> io::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let loops = (0..cores).map(|_| shared(port).map(Arc::new));
        Ok(Self {
            threads: Arc::new(shared(port)?),
            loops: loops.collect::<io::Result<_>>()?,
        })
    }

    fn listen(&self, style: Style) -> io::Result<()> {
        let mut sockets = self.of(style).iter();
        sockets.try_for_each(|it| SockRef::from(&**it).listen(BACKLOG))
    }

    /// Those who wait for connections are told. A socket that does not listen any longer is still
    /// bound, and can listen again; one that has not listened yet could never be used.
    fn close(&self, style: Style) {
        for socket in self.of(style) {
            drop(SockRef::from(&**socket).shutdown(Shutdown::Both));
        }
    }

    fn of(&self, style: Style) -> &[Arc<TcpListener>] {
        match style {
            Style::Threads => slice::from_ref(&self.threads),
            Style::Loops => &self.loops,
        }
    }
}

impl Gate {
    /// Waits until it is a style's turn; whether it will ever be.
    fn opens_for(&self, style: Style) -> bool {
        let mut now = self.style.lock();
        while now.is_some_and(|it| it != style) {
            self.changed.wait(&mut now);
        }
        now.is_some()
    }
}

/// Listens at every address of this thread's namespace.
pub(super) fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = bound(port, false)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// One of several sockets of a port, which does not listen yet.
fn shared(port: u16) -> io::Result<TcpListener> {
    Ok(bound(port, true)?.into())
}

fn bound(port: u16, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    Ok(socket)
}

/// Serves one connection after the other, until the socket does not listen.
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
