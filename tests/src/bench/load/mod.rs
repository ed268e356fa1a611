//! The load: clients that drive a server from inside a pod. Blocking sockets and threads, event loops
//! where there would be too many of them ([`crowd`]), and the same for every variant.
//!
//! Whoever counts what has ended within a time leaves out what is slow. So a sample of operations
//! lasts as long as several of them, and what is under way at its end is among the latencies with
//! the age that it has: less than it will have, but longer than all that a fast sample would show.

mod crowd;

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use parking_lot::Mutex;

use super::figure::to_float;
use super::plan::Work;
use super::processes::cpu_seconds;
use super::server::{LoadServer, Style};
use crate::pod::Pod;

/// Bytes that are written or read at a time.
pub(super) const BLOCK: usize = 256 * 1024;
/// Bytes of a ping-pong.
pub(super) const PING: usize = 64;
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
        let nanoseconds = quantile(&self.latencies, hundredths)?;
        Some(Duration::from_nanos(nanoseconds).as_secs_f64() * 1e6)
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
    /// How long a single window may become if operations are slow.
    pub(super) patience: Duration,
    /// The processes whose CPU time counts.
    pub(super) carriers: &'a [u32],
}

/// How many times the p99 of its operations a sample lasts.
const WAVES: u32 = 5;

/// What the client's threads share.
struct Run {
    target: SocketAddr,
    stop: AtomicBool,
    /// When that began which is measured, and when it ended, in nanoseconds after `begun`; 0 is not
    /// yet.
    from: AtomicU64,
    to: AtomicU64,
    begun: Instant,
    received: Arc<AtomicU64>,
    /// What had been received when this began.
    before: u64,
    /// Operations before anything was measured.
    warm: AtomicU64,
    finished: AtomicU64,
    /// Of each of those that connect or say something at a time.
    latencies: Vec<Mutex<Vec<u64>>>,
}

/// Takes one sample.
pub(super) fn measure(client: &Pod, server: &LoadServer, load: &Load<'_>) -> Result<Sample> {
    let received = if matches!(load.work, Work::Down(_)) {
        Arc::default()
    } else {
        Arc::clone(&server.received)
    };
    let run = Arc::new(Run {
        target: load.target,
        stop: AtomicBool::new(false),
        from: AtomicU64::new(0),
        to: AtomicU64::new(0),
        begun: Instant::now(),
        before: received.load(Ordering::Relaxed),
        received,
        warm: AtomicU64::new(0),
        finished: AtomicU64::new(0),
        latencies: (0..load.work.concurrency())
            .map(|_| Mutex::default())
            .collect(),
    });
    server.serve_by(load.work.style())?;
    let windows = client.run(|| drive(&run, load))??;
    // A short sample in which nothing moved is a result: a machine may stand still for longer than
    // that. If nothing ever did, the load does not run.
    ensure!(run.has_carried(), "nothing was carried");
    let latencies = run.sorted();
    Ok(Sample { windows, latencies })
}

/// Runs the client's threads (which inherit this thread's namespace) and measures meanwhile.
fn drive(run: &Arc<Run>, load: &Load<'_>) -> Result<Vec<Window>> {
    // The first connection of a pair inside of a node takes the agent's path: it is not measured.
    once(run.target)?;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..load.work.threads())
            .map(|number| {
                let small = thread::Builder::new().stack_size(128 * 1024);
                small.spawn_scoped(scope, move || client(run, load.work, number))
            })
            .collect();
        run.warm_up(load);
        run.from.store(run.now(), Ordering::Relaxed);
        let windows = run.windows(load);
        run.to.store(run.now(), Ordering::Relaxed);
        run.stop.store(true, Ordering::Relaxed);
        for thread in threads {
            crate::netns::join(thread?.join()).context("a client")?;
        }
        windows
    })
}

/// Where a window begins.
struct Begin {
    at: Instant,
    bytes: u64,
    operations: u64,
    cpu_seconds: f64,
}

impl Run {
    /// Nanoseconds since this began, and never 0.
    fn now(&self) -> u64 {
        nanoseconds(self.begun.elapsed()).max(1)
    }

    /// Whether anything has been carried, measured or not.
    fn has_carried(&self) -> bool {
        let operations = [&self.warm, &self.finished].map(|it| it.load(Ordering::Relaxed));
        self.bytes() > 0 || operations.iter().any(|it| *it > 0)
    }

    /// Bytes that have arrived since this began.
    fn bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed) - self.before
    }

    /// Waits a quarter of a window, and until streams run, or everybody has done something once: a
    /// thousand that begin at the same moment are no load that anybody has for long.
    fn warm_up(&self, load: &Load<'_>) {
        const INTERVAL: Duration = Duration::from_millis(5);
        let (_, length) = load.windows;
        thread::sleep(length / 4);
        let wanted = u64::try_from(load.work.concurrency()).unwrap_or(u64::MAX);
        let is_warm = || {
            if load.work.has_operations() {
                return self.warm.load(Ordering::Relaxed) >= wanted;
            }
            self.bytes() > 0
        };
        while !is_warm() && self.begun.elapsed() < load.patience {
            thread::sleep(INTERVAL);
        }
    }

    fn windows(&self, load: &Load<'_>) -> Result<Vec<Window>> {
        let (count, length) = load.windows;
        let adapts = count == 1 && load.work.has_operations();
        let mut windows = Vec::new();
        for _ in 0..count {
            let begin = self.begin(load.carriers)?;
            thread::sleep(length);
            let mut window = self.since(&begin, load.carriers)?;
            while adapts && !self.is_enough(begin.at.elapsed(), load.patience) {
                thread::sleep(length / 2);
                window = self.since(&begin, load.carriers)?;
            }
            windows.push(window);
        }
        Ok(windows)
    }

    /// Whether a sample lasts several times its operations.
    fn is_enough(&self, elapsed: Duration, patience: Duration) -> bool {
        let latencies = self.sorted();
        let slow = quantile(&latencies, 99).map(Duration::from_nanos);
        elapsed >= patience || slow.is_some_and(|slow| elapsed >= slow * WAVES)
    }

    fn begin(&self, carriers: &[u32]) -> Result<Begin> {
        Ok(Begin {
            cpu_seconds: cpu_seconds(carriers)?,
            at: Instant::now(),
            bytes: self.bytes(),
            operations: self.finished.load(Ordering::Relaxed),
        })
    }

    fn since(&self, begin: &Begin, carriers: &[u32]) -> Result<Window> {
        Ok(Window {
            seconds: begin.at.elapsed().as_secs_f64(),
            bytes: self.bytes() - begin.bytes,
            operations: self.finished.load(Ordering::Relaxed) - begin.operations,
            cpu_seconds: cpu_seconds(carriers)? - begin.cpu_seconds,
        })
    }

    /// The latencies of all threads.
    fn sorted(&self) -> Vec<u64> {
        let mut all = Vec::new();
        for latencies in &self.latencies {
            all.extend_from_slice(&latencies.lock());
        }
        all.sort_unstable();
        all
    }

    /// Whether the clients are to end.
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Keeps what an operation took that has ended now, of those that this one does.
    fn keep(&self, start: Instant, number: usize) {
        let start = nanoseconds(start.duration_since(self.begun));
        let [from, to] = [&self.from, &self.to].map(|it| it.load(Ordering::Relaxed));
        match seen(start, self.now(), (from, to)) {
            Seen::Before => drop(self.warm.fetch_add(1, Ordering::Relaxed)),
            Seen::Finished(took) => {
                self.finished.fetch_add(1, Ordering::Relaxed);
                self.push(number, took);
            }
            Seen::UnderWay(age) => self.push(number, age),
            Seen::After => {}
        }
    }

    fn push(&self, number: usize, latency: u64) {
        if let Some(latencies) = self.latencies.get(number) {
            latencies.lock().push(latency);
        }
    }
}

impl Work {
    /// What client and server do it with.
    const fn style(self) -> Style {
        match self {
            Self::Connect(n) if n > crowd::THREADS => Style::Loops,
            _ => Style::Threads,
        }
    }

    /// How many threads the client has, that one included which a crowd begins with.
    const fn threads(self) -> usize {
        match self.style() {
            Style::Loops => 1,
            Style::Threads => self.concurrency(),
        }
    }
}

/// What an operation is to what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Before,
    /// After that long.
    Finished(u64),
    /// When the time was over, at that age.
    UnderWay(u64),
    After,
}

/// Judges an operation from `start` to `end` by when measuring began and ended; 0 is not yet.
const fn seen(start: u64, end: u64, (from, to): (u64, u64)) -> Seen {
    if from == 0 {
        Seen::Before
    } else if to == 0 || end <= to {
        Seen::Finished(end - start)
    } else if start < to {
        Seen::UnderWay(to - start)
    } else {
        Seen::After
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A quantile, in hundredths, of what is sorted.
fn quantile(sorted: &[u64], hundredths: usize) -> Option<u64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get(last * hundredths / 100).copied()
}

fn client(run: &Arc<Run>, work: Work, number: usize) -> io::Result<()> {
    match work {
        Work::Up(_) => up(run),
        Work::Down(_) => down(run),
        Work::PingPong(_) => ping_pong(run, number),
        Work::Connect(count) => match work.style() {
            Style::Loops => crowd::connects(run, count),
            Style::Threads => connects(run, number),
        },
    }
}

/// Connects and says what the server shall do.
pub(super) fn open(target: SocketAddr, mode: u8) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&target, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(&[mode])?;
    Ok(stream)
}

fn up(run: &Run) -> io::Result<()> {
    let mut stream = open(run.target, b'u')?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let block = vec![7; BLOCK];
    while !run.is_over() {
        stream.write_all(&block)?;
    }
    Ok(())
}

fn down(run: &Run) -> io::Result<()> {
    let mut stream = open(run.target, b'd')?;
    let mut block = vec![0; BLOCK];
    while !run.is_over() {
        let count = stream.read(&mut block)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        run.received
            .fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
    }
    Ok(())
}

fn ping_pong(run: &Run, number: usize) -> io::Result<()> {
    let mut stream = open(run.target, b'p')?;
    let mut ping = [7; PING];
    while !run.is_over() {
        let start = Instant::now();
        stream.write_all(&ping)?;
        stream.read_exact(&mut ping)?;
        run.keep(start, number);
    }
    Ok(())
}

fn connects(run: &Run, number: usize) -> io::Result<()> {
    while !run.is_over() {
        let start = Instant::now();
        let mut stream = open(run.target, b'c')?;
        stream.read_exact(&mut [0])?;
        drop(stream);
        run.keep(start, number);
    }
    Ok(())
}

/// One connection and its answer.
pub(super) fn once(target: SocketAddr) -> io::Result<()> {
    open(target, b'c')?.read_exact(&mut [0])
}

#[cfg(test)]
mod tests {
    use super::{Seen, quantile, seen};

    #[test]
    fn what_is_slow_is_not_left_out() {
        let measured = (100, 200);
        assert_eq!(seen(90, 95, (0, 0)), Seen::Before);
        assert_eq!(seen(90, 120, (100, 0)), Seen::Finished(30));
        assert_eq!(seen(150, 200, measured), Seen::Finished(50));
        assert_eq!(seen(110, 900, measured), Seen::UnderWay(90));
        assert_eq!(seen(200, 900, measured), Seen::After);
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<u64> = (0..=100).collect();
        assert_eq!(quantile(&values, 99), Some(99));
        assert_eq!(quantile(&[7], 50), Some(7));
        assert_eq!(quantile(&[], 50), None);
    }
}
