//! The load: a server that does what the first byte of a connection says, and clients that drive
//! it from inside a pod. Blocking sockets and threads, the same for every variant.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::plan::Work;
use crate::netns::NetNs;
use crate::pod::Pod;

/// Several ports, so that a run does not exhaust the ephemeral ports towards one of them.
const PORTS: std::ops::Range<u16> = 9000..9008;
const BLOCK: usize = 256 * 1024;
const PING: usize = 64;
const TIMEOUT: Duration = Duration::from_secs(10);

/// What one sample found.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    /// In the work's unit.
    pub(super) value: f64,
    /// Bytes that arrived while measuring.
    pub(super) bytes: u64,
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
    listeners: Vec<Arc<TcpListener>>,
    received: Arc<AtomicU64>,
}

impl LoadServer {
    /// Starts with enough threads for this many connections at a time.
    pub(super) fn start(namespace: &NetNs, connections: usize) -> Result<Self> {
        let received = Arc::new(AtomicU64::new(0));
        let mut listeners = Vec::new();
        for port in PORTS {
            let listener = Arc::new(namespace.run(|| listen(port))?.context("listen")?);
            for _ in 0..=connections.div_ceil(PORTS.len()) * 2 {
                let (listener, received) = (Arc::clone(&listener), Arc::clone(&received));
                let worker = thread::Builder::new().stack_size(512 * 1024);
                worker.spawn(move || serve(&listener, &received))?;
            }
            listeners.push(listener);
        }
        Ok(Self {
            listeners,
            received,
        })
    }
}

impl Drop for LoadServer {
    fn drop(&mut self) {
        for listener in &self.listeners {
            drop(SockRef::from(&**listener).shutdown(Shutdown::Both));
        }
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
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

/// What the client's threads share.
struct Run<'a> {
    server: IpAddr,
    stop: AtomicBool,
    measuring: AtomicBool,
    received: &'a AtomicU64,
    latencies: Mutex<Vec<u64>>,
}

/// Takes one sample.
pub(super) fn measure(
    client: &Pod,
    server: IpAddr,
    load: &LoadServer,
    work: Work,
    length: Duration,
) -> Result<Sample> {
    let own = AtomicU64::new(0);
    let received = if matches!(work, Work::Down(_)) {
        &own
    } else {
        &*load.received
    };
    let run = Run {
        server,
        stop: AtomicBool::new(false),
        measuring: AtomicBool::new(false),
        received,
        latencies: Mutex::default(),
    };
    let (bytes, took) = client.run(|| drive(&run, work, length))??;
    let mut latencies = run.latencies.into_inner();
    latencies.sort_unstable();
    let seconds = took.as_secs_f64();
    let value = match work {
        Work::Up(_) | Work::Down(_) => to_float(bytes) * 8.0 / 1e9 / seconds,
        Work::PingPong(_) | Work::Connect(_) => {
            ensure!(
                !latencies.is_empty(),
                "{work}: not one operation was finished"
            );
            to_float(u64::try_from(latencies.len())?) / seconds
        }
    };
    Ok(Sample {
        value,
        bytes,
        latencies,
    })
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "counts far below 2^53"
)]
pub(super) const fn to_float(count: u64) -> f64 {
    count as f64
}

/// Runs the client's threads (which inherit this thread's namespace) and measures in the middle.
fn drive(run: &Run<'_>, work: Work, length: Duration) -> Result<(u64, Duration)> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..work.concurrency())
            .map(|index| scope.spawn(move || client(run, work, index)))
            .collect();
        thread::sleep(length / 4);
        let (start, before) = (Instant::now(), run.received.load(Ordering::Relaxed));
        run.measuring.store(true, Ordering::Relaxed);
        thread::sleep(length);
        run.measuring.store(false, Ordering::Relaxed);
        let (took, bytes) = (
            start.elapsed(),
            run.received.load(Ordering::Relaxed) - before,
        );
        run.stop.store(true, Ordering::Relaxed);
        for thread in threads {
            crate::netns::join(thread.join()).with_context(|| format!("a client of {work}"))?;
        }
        Ok((bytes, took))
    })
}

fn client(run: &Run<'_>, work: Work, index: usize) -> io::Result<()> {
    let port = PORTS.start + u16::try_from(index % PORTS.len()).unwrap_or(0);
    let mut latencies = Vec::new();
    match work {
        Work::Up(_) => up(run, port)?,
        Work::Down(_) => down(run, port)?,
        Work::PingPong(_) => ping_pong(run, port, &mut latencies)?,
        Work::Connect(_) => connects(run, port, &mut latencies)?,
    }
    run.latencies.lock().append(&mut latencies);
    Ok(())
}

fn open(run: &Run<'_>, port: u16, mode: u8) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&(run.server, port).into(), TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(&[mode])?;
    Ok(stream)
}

fn up(run: &Run<'_>, port: u16) -> io::Result<()> {
    let mut stream = open(run, port, b'u')?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let block = vec![7; BLOCK];
    while !run.stop.load(Ordering::Relaxed) {
        stream.write_all(&block)?;
    }
    Ok(())
}

fn down(run: &Run<'_>, port: u16) -> io::Result<()> {
    let mut stream = open(run, port, b'd')?;
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

fn ping_pong(run: &Run<'_>, port: u16, latencies: &mut Vec<u64>) -> io::Result<()> {
    let mut stream = open(run, port, b'p')?;
    let mut ping = [7; PING];
    while !run.stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        stream.write_all(&ping)?;
        stream.read_exact(&mut ping)?;
        keep(run, start, latencies);
    }
    Ok(())
}

fn connects(run: &Run<'_>, port: u16, latencies: &mut Vec<u64>) -> io::Result<()> {
    while !run.stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let mut stream = open(run, port, b'c')?;
        stream.read_exact(&mut [0])?;
        drop(stream);
        keep(run, start, latencies);
    }
    Ok(())
}

fn keep(run: &Run<'_>, start: Instant, latencies: &mut Vec<u64>) {
    if run.measuring.load(Ordering::Relaxed) {
        latencies.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
}
