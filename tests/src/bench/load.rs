//! The load: a server that does what the first byte of a connection says, and clients that drive
//! it from inside a pod. Blocking sockets and threads, the same for every variant.
//!
//! The server has threads for the longest-lived load, 64 connections at a time; of those that come
//! and go, more wait in its backlog.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::figure::to_float;
use super::plan::Work;
use super::processes::cpu_seconds;
use crate::netns::NetNs;
use crate::pod::Pod;

/// How many connections the server serves at a time.
const THREADS: usize = 2 * 64 + 2;
const BLOCK: usize = 256 * 1024;
const PING: usize = 64;
const TIMEOUT: Duration = Duration::from_secs(10);

/// What one window of time saw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    seconds: f64,
    /// Bytes that arrived.
    bytes: u64,
    /// Operations that ended.
    operations: u64,
    /// What the carriers' processes used.
    cpu_seconds: f64,
}

impl Window {
    /// In Gbit/s.
    pub(super) fn throughput(&self) -> f64 {
        to_float(self.bytes) * 8.0 / 1e9 / self.seconds
    }

    /// Per second.
    pub(super) fn rate(&self) -> f64 {
        to_float(self.operations) / self.seconds
    }

    /// CPU seconds per 10,000 operations.
    pub(super) fn cpu_per_10k(&self) -> f64 {
        self.cpu_seconds / to_float(self.operations.max(1)) * 1e4
    }

    /// CPU seconds per 10^9 bytes.
    pub(super) fn cpu_per_gb(&self) -> f64 {
        self.cpu_seconds / to_float(self.bytes.max(1)) * 1e9
    }
}

/// What one sample found.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// One after the other.
    pub(super) windows: Vec<Window>,
    /// Latency of single operations in nanoseconds, sorted; empty for throughput.
    pub(super) latencies: Vec<u64>,
}

impl Sample {
    /// A quantile of the latencies, in microseconds.
    pub(super) fn quantile_us(&self, hundredths: usize) -> Option<f64> {
        let last = self.latencies.len().checked_sub(1)?;
        let nanoseconds = *self.latencies.get(last * hundredths / 100)?;
        Some(Duration::from_nanos(nanoseconds).as_secs_f64() * 1e6)
    }
}

/// The server of one pod.
#[derive(Debug)]
pub(super) struct LoadServer {
    listener: Arc<TcpListener>,
    received: Arc<AtomicU64>,
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

/// A load with its length and who is watched meanwhile.
pub(super) struct Load<'a> {
    /// What the clients do.
    pub(super) work: Work,
    /// Where they connect to.
    pub(super) target: SocketAddr,
    /// How many windows of which length, after a warm-up of a quarter of one.
    pub(super) windows: (usize, Duration),
    /// The processes whose CPU time counts.
    pub(super) carriers: &'a [u32],
}

/// What the client's threads share.
struct Run<'a> {
    target: SocketAddr,
    stop: AtomicBool,
    measuring: AtomicBool,
    received: &'a AtomicU64,
    finished: AtomicU64,
    latencies: Mutex<Vec<u64>>,
}

/// Takes one sample.
pub(super) fn measure(client: &Pod, server: &LoadServer, load: &Load<'_>) -> Result<Sample> {
    let own = AtomicU64::new(0);
    let run = Run {
        target: load.target,
        stop: AtomicBool::new(false),
        measuring: AtomicBool::new(false),
        received: if matches!(load.work, Work::Down(_)) {
            &own
        } else {
            &server.received
        },
        finished: AtomicU64::new(0),
        latencies: Mutex::default(),
    };
    let windows = client.run(|| drive(&run, load))??;
    let mut latencies = run.latencies.into_inner();
    latencies.sort_unstable();
    for window in &windows {
        ensure!(
            window.bytes > 0 || window.operations > 0,
            "nothing was carried"
        );
    }
    Ok(Sample { windows, latencies })
}

/// Runs the client's threads (which inherit this thread's namespace) and measures meanwhile.
fn drive(run: &Run<'_>, load: &Load<'_>) -> Result<Vec<Window>> {
    let (count, length) = load.windows;
    // The first connection of a pair inside of a node takes the agent's path: it is not measured.
    once(run.target)?;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..load.work.concurrency())
            .map(|_| {
                let small = thread::Builder::new().stack_size(128 * 1024);
                small.spawn_scoped(scope, move || client(run, load.work))
            })
            .collect();
        thread::sleep(length / 4);
        run.measuring.store(true, Ordering::Relaxed);
        let windows = (0..count).map(|_| run.window(length, load.carriers));
        let windows: Result<Vec<Window>> = windows.collect();
        run.measuring.store(false, Ordering::Relaxed);
        run.stop.store(true, Ordering::Relaxed);
        for thread in threads {
            crate::netns::join(thread?.join()).context("a client")?;
        }
        windows
    })
}

impl Run<'_> {
    /// Waits for the length of a window and tells what happened in it.
    fn window(&self, length: Duration, carriers: &[u32]) -> Result<Window> {
        let cpu = cpu_seconds(carriers)?;
        let (start, bytes) = (Instant::now(), self.received.load(Ordering::Relaxed));
        let operations = self.finished.load(Ordering::Relaxed);
        thread::sleep(length);
        Ok(Window {
            seconds: start.elapsed().as_secs_f64(),
            bytes: self.received.load(Ordering::Relaxed) - bytes,
            operations: self.finished.load(Ordering::Relaxed) - operations,
            cpu_seconds: cpu_seconds(carriers)? - cpu,
        })
    }
}

fn client(run: &Run<'_>, work: Work) -> io::Result<()> {
    let mut latencies = Vec::new();
    match work {
        Work::Up(_) => up(run)?,
        Work::Down(_) => down(run)?,
        Work::PingPong(_) => ping_pong(run, &mut latencies)?,
        Work::Connect(_) => connects(run, &mut latencies)?,
    }
    run.latencies.lock().append(&mut latencies);
    Ok(())
}

/// Connects and says what the server shall do.
pub(super) fn open(target: SocketAddr, mode: u8) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&target, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(&[mode])?;
    Ok(stream)
}

fn up(run: &Run<'_>) -> io::Result<()> {
    let mut stream = open(run.target, b'u')?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let block = vec![7; BLOCK];
    while !run.stop.load(Ordering::Relaxed) {
        stream.write_all(&block)?;
    }
    Ok(())
}

fn down(run: &Run<'_>) -> io::Result<()> {
    let mut stream = open(run.target, b'd')?;
    let mut block = vec![0; BLOCK];
    while !run.stop.load(Ordering::Relaxed) {
        let count = stream.read(&mut block)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        run.received
            .fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
    }
    Ok(())
}

fn ping_pong(run: &Run<'_>, latencies: &mut Vec<u64>) -> io::Result<()> {
    let mut stream = open(run.target, b'p')?;
    let mut ping = [7; PING];
    while !run.stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        stream.write_all(&ping)?;
        stream.read_exact(&mut ping)?;
        keep(run, start, latencies);
    }
    Ok(())
}

fn connects(run: &Run<'_>, latencies: &mut Vec<u64>) -> io::Result<()> {
    while !run.stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let mut stream = open(run.target, b'c')?;
        stream.read_exact(&mut [0])?;
        drop(stream);
        keep(run, start, latencies);
    }
    Ok(())
}

/// One connection and its answer.
pub(super) fn once(target: SocketAddr) -> io::Result<()> {
    open(target, b'c')?.read_exact(&mut [0])
}

fn keep(run: &Run<'_>, start: Instant, latencies: &mut Vec<u64>) {
    if run.measuring.load(Ordering::Relaxed) {
        run.finished.fetch_add(1, Ordering::Relaxed);
        latencies.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
}
