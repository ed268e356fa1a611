//! Applications for pods: small servers whose behaviour a test chooses, and what they saw of
//! their clients.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::netns::NetNs;
use crate::wait;

/// What an application does with one connection.
pub trait App: Fn(&mut TcpStream, Seen) -> io::Result<()> + Send + Sync + 'static {}

impl<F: Fn(&mut TcpStream, Seen) -> io::Result<()> + Send + Sync + 'static> App for F {}

/// The addresses of a connection as the application sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// From `accept`.
    pub accepted_from: SocketAddr,
    /// From `getpeername`.
    pub peer: SocketAddr,
    /// From `getsockname`.
    pub local: SocketAddr,
}

/// A listening application; it ends, with its connections, when this value is dropped.
#[derive(Debug)]
pub struct Server {
    port: u16,
    listener: Arc<TcpListener>,
    state: Arc<State>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct State {
    seen: Mutex<Vec<Seen>>,
    open: Mutex<Vec<TcpStream>>,
    outcomes: Mutex<Vec<io::Result<()>>>,
}

impl Server {
    pub(crate) fn start(namespace: &NetNs, port: u16, app: impl App) -> Result<Self> {
        let listener = Arc::new(
            namespace
                .run(|| listen(port))?
                .with_context(|| format!("listen on port {port}"))?,
        );
        let state = Arc::new(State::default());
        let thread = namespace.spawn({
            let (listener, state) = (Arc::clone(&listener), Arc::clone(&state));
            move || accept_all(&listener, &state, &Arc::new(app))
        })?;
        let port = listener.local_addr()?.port();
        Ok(Self {
            port,
            listener,
            state,
            thread: Some(thread),
        })
    }

    /// The port on which it listens.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// What it saw of its clients, in order of arrival.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().clone()
    }

    /// Waits until it has seen its first client.
    ///
    /// # Errors
    ///
    /// Fails if none arrives.
    pub fn first(&self) -> Result<Seen> {
        wait::until("the application to see a client", || {
            self.state.seen.lock().first().copied()
        })
    }

    /// Waits for the end of its first connection and tells how the application fared.
    ///
    /// # Errors
    ///
    /// Fails if no connection ends.
    pub fn outcome(&self) -> Result<io::Result<()>> {
        wait::until("the application's connection to end", || {
            let mut outcomes = self.state.outcomes.lock();
            if outcomes.is_empty() {
                None
            } else {
                Some(outcomes.remove(0))
            }
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes accept() with an error: Linux ends a listener on shutdown.
        drop(SockRef::from(&*self.listener).shutdown(Shutdown::Both));
        for stream in self.state.open.lock().drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// IPv4 and IPv6 on one socket where the namespace has IPv6.
fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

fn accept_all(listener: &TcpListener, state: &Arc<State>, app: &Arc<impl App>) -> Result<()> {
    loop {
        let Ok((stream, from)) = listener.accept() else {
            return Ok(());
        };
        let (state, app) = (Arc::clone(state), Arc::clone(app));
        // Not joined: a connection ends when its stream is shut down, at the latest on drop.
        thread::Builder::new()
            .name("app".to_owned())
            .spawn(move || {
                let outcome = serve(stream, from, &state, &*app);
                state.outcomes.lock().push(outcome);
            })?;
    }
}

/// Has no patience of its own to lose: what a client leaves alone for long stays open until the
/// client ends it, or the server is dropped.
fn serve(mut stream: TcpStream, from: SocketAddr, state: &State, app: &impl App) -> io::Result<()> {
    state.open.lock().push(stream.try_clone()?);
    let seen = Seen {
        accepted_from: canonical(from),
        peer: canonical(stream.peer_addr()?),
        local: canonical(stream.local_addr()?),
    };
    state.seen.lock().push(seen);
    let outcome = app(&mut stream, seen);
    let peer = stream.as_socket_id();
    state
        .open
        .lock()
        .retain(|other| other.as_socket_id() != peer);
    outcome
}

/// Tells clones of one socket from other sockets.
trait SocketId {
    fn as_socket_id(&self) -> Option<u64>;
}

impl SocketId for TcpStream {
    fn as_socket_id(&self) -> Option<u64> {
        SockRef::from(self).cookie().ok()
    }
}

/// Whether an error is what an application may see of a refused connection.
pub fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
    )
}

/// An IPv4-mapped address as IPv4.
pub const fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Sends back what it receives, as it arrives, and ends when the client ends.
///
/// # Errors
///
/// Returns the socket's errors.
pub fn echo(stream: &mut TcpStream, _: Seen) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        stream.write_all(buffer.get(..count).unwrap_or_default())?;
    }
}

/// Answers with `peer local`, as `getpeername` and `getsockname` have it, once the client ended
/// its direction.
///
/// # Errors
///
/// Returns the socket's errors.
pub fn who_am_i(stream: &mut TcpStream, seen: Seen) -> io::Result<()> {
    io::copy(stream, &mut io::sink())?;
    write!(stream, "{} {}", seen.peer, seen.local)
}

/// Answers everything it received, but only after the client ended its direction.
///
/// # Errors
///
/// Returns the socket's errors.
pub fn half_close(stream: &mut TcpStream, _: Seen) -> io::Result<()> {
    let mut received = Vec::new();
    stream.read_to_end(&mut received)?;
    write!(stream, "{} bytes: ", received.len())?;
    stream.write_all(&received)
}

/// Says `bye` and ends its own direction first, then reads what the client still sends and fails
/// if that is not text ending in `done`.
///
/// # Errors
///
/// Returns the socket's errors.
pub fn speak_first(stream: &mut TcpStream, _: Seen) -> io::Result<()> {
    stream.write_all(b"bye")?;
    stream.shutdown(Shutdown::Write)?;
    let mut rest = String::new();
    stream.read_to_string(&mut rest)?;
    if rest.ends_with("done") {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "the client's last words: {rest:?}"
        )))
    }
}

/// Resets the connection after the first byte.
///
/// # Errors
///
/// Returns the socket's errors.
pub fn reset(stream: &mut TcpStream, _: Seen) -> io::Result<()> {
    stream.read_exact(&mut [0])?;
    reset_on_close(stream)
}

/// Accepts and never reads; ends with the server.
///
/// # Errors
///
/// Returns the socket's errors.
pub fn never_read(stream: &mut TcpStream, _: Seen) -> io::Result<()> {
    // Peeking waits for data or the end without taking anything from the socket's buffer.
    while stream.peek(&mut [0])? > 0 {
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Takes everything and answers nothing.
///
/// # Errors
///
/// Returns the socket's errors.
pub fn sink(stream: &mut TcpStream, _: Seen) -> io::Result<()> {
    io::copy(stream, &mut io::sink()).map(drop)
}

/// Makes the next close of the socket a reset.
///
/// # Errors
///
/// Returns the socket's error.
pub fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}
