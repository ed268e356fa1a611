//! Many connections for a long time, with a little traffic on each: whatever grows, leaks.
//!
//! Every connection sends 64 bytes every ten seconds and waits for them to come back. Memory, open
//! files and latency are sampled; those of the last quarter must be those of the first, after a
//! warm-up, within what two quarters of a quiet agent differ.

use std::collections::VecDeque;
use std::fmt;
use std::net::TcpStream;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;

use super::figure::{median, to_float};
use super::hold::open_all;
use super::server::listen;
use crate::agent::{Agent, Setup};
use crate::manifests::{self, NAMESPACE, Namespace};
use crate::pod::Pod;
use crate::wait;
use crate::world::Ground;

const PORT: u16 = 9300;
const MESSAGE: usize = 64;

/// Each connection sends a message this often.
const EVERY: Duration = Duration::from_secs(10);

/// Whoever waits longer than this for an answer will never get one.
const PATIENCE: Duration = EVERY;

/// One line of the result covers this long.
const SAMPLE: Duration = Duration::from_secs(10);

/// What happened in one [`SAMPLE`], and how the agents stood at its end.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Since the traffic began.
    pub seconds: f64,
    /// Of the caller's and the server's agent.
    pub resident_mib: [f64; 2],
    /// Of the caller's and the server's agent.
    pub open_files: [usize; 2],
    /// Messages that came back.
    pub messages: usize,
    /// Of these messages, there and back.
    pub p50_us: f64,
    /// The same.
    pub p99_us: f64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([near, far], [files, more]) = (self.resident_mib, self.open_files);
        write!(
            f,
            "{:6.0} s  {near:7.1} {far:7.1} MiB  {files:6} {more:6} files  {:6} messages  p50 \
             {:6.0} µs  p99 {:6.0} µs",
            self.seconds, self.messages, self.p50_us, self.p99_us
        )
    }
}

/// Something that has grown.
#[derive(Clone, Debug, PartialEq)]
pub struct Growth {
    /// What.
    pub what: &'static str,
    /// In the first quarter.
    pub from: f64,
    /// In the last.
    pub to: f64,
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} grew from {:.1} to {:.1}",
            self.what, self.from, self.to
        )
    }
}

/// Two nodes with an agent each, and connections between them.
#[derive(Debug)]
pub struct Soak {
    // Field order is drop order: traffic, then agents, then what they run in.
    runtime: Runtime,
    traffic: Arc<Traffic>,
    _server: Server,
    agents: [Agent; 2],
    _ground: Ground,
    begun: Instant,
}

/// What the connections share.
#[derive(Debug, Default)]
struct Traffic {
    latencies: Mutex<Vec<u64>>,
    /// Connections that have ended, or whose message was not answered.
    ended: AtomicU64,
}

impl Soak {
    /// Opens that many connections and begins their traffic.
    ///
    /// # Errors
    ///
    /// Fails where this machine does not allow it, or if a connection cannot be opened.
    pub fn begin(connections: usize) -> Result<Self> {
        let files = crate::settings::raise_open_files();
        let needed = connections + 100;
        ensure!(
            files >= needed,
            "{needed} open files are needed, {files} allowed"
        );
        let ground = Ground::new()?.context("the soak needs root and iproute2")?;
        let namespace = Namespace::enrolled(NAMESPACE);
        let (caller, server) = (ground.caller.manifest(), ground.server.manifest());
        let setup = Setup {
            manifests: manifests::yaml(&[&namespace, &caller, &server]),
            ..Setup::default()
        };
        let mut agents = [
            ground.a.agent_unready(&setup)?,
            ground.b.agent_unready(&setup)?,
        ];
        agents.iter_mut().try_for_each(Agent::wait_ready)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let traffic = Arc::new(Traffic::default());
        let server = Server::start(&ground.server)?;
        let target = ground.server.at(PORT);
        wait::so("the application to answer", || {
            ground.caller.connect(target).is_ok()
        })?;
        let streams = open_all(&ground.caller, target, connections)?;
        let count = u32::try_from(connections).unwrap_or(u32::MAX).max(1);
        for (index, stream) in (0_u32..).zip(streams) {
            // Evenly over the interval.
            let first = EVERY.saturating_mul(index) / count;
            runtime.spawn(converse(stream, first, Arc::clone(&traffic)));
        }
        Ok(Self {
            runtime,
            traffic,
            _server: server,
            agents,
            _ground: ground,
            begun: Instant::now(),
        })
    }

    /// Waits for the time of one sample and takes it.
    ///
    /// # Errors
    ///
    /// Fails if a connection or an agent has ended, or if a message was not answered.
    pub fn sample(&self) -> Result<Sample> {
        std::thread::sleep(SAMPLE);
        let ended = self.traffic.ended.load(Ordering::Relaxed);
        ensure!(ended == 0, "{ended} connections ended or stand still");
        let mut latencies = std::mem::take(&mut *self.traffic.latencies.lock());
        latencies.sort_unstable();
        let quantile = |hundredths: usize| {
            let at = latencies.len().saturating_sub(1) * hundredths / 100;
            latencies.get(at).map_or(0.0, |ns| to_float(*ns) / 1e3)
        };
        let mut sample = Sample {
            seconds: self.begun.elapsed().as_secs_f64(),
            messages: latencies.len(),
            p50_us: quantile(50),
            p99_us: quantile(99),
            ..Sample::default()
        };
        let sides = sample.resident_mib.iter_mut().zip(&mut sample.open_files);
        for ((memory, files), agent) in sides.zip(&self.agents) {
            *memory = to_float(agent.resident_bytes()?) / 1024.0 / 1024.0;
            *files = agent.open_files()?;
        }
        Ok(sample)
    }

    /// Ends all connections, and with them the agents.
    pub fn end(self) {
        self.runtime.shutdown_background();
    }
}

/// How long one sample takes.
pub const fn sample_length() -> Duration {
    SAMPLE
}

/// The application, in a process of its own: a process may not have as many files open as both
/// ends of all connections are.
#[derive(Debug)]
struct Server(Child);

impl Server {
    fn start(pod: &Pod) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([ANSWER, &PORT.to_string()]);
        // A child inherits the namespace of the thread that makes it.
        let child = pod.run(move || command.spawn())?;
        Ok(Self(child.context("start the application")?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// How this program is asked to be the application.
pub const ANSWER: &str = "--answer";

/// Answers every connection to a port with what it says, for ever.
///
/// # Errors
///
/// Fails if nothing can listen there.
pub fn answer(port: u16) -> Result<()> {
    crate::settings::raise_open_files();
    let listener = listen(port)?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            #[expect(
                clippy::disallowed_methods,
                reason = "the agent's tasks are not in this process; these end with it"
            )]
            tokio::spawn(echo(stream));
        }
    })
}

async fn echo(mut stream: tokio::net::TcpStream) -> std::io::Result<()> {
    let mut message = [0; MESSAGE];
    loop {
        let count = stream.read(&mut message).await?;
        if count == 0 {
            return Ok(());
        }
        stream
            .write_all(message.get(..count).unwrap_or_default())
            .await?;
    }
}

async fn converse(stream: TcpStream, first: Duration, traffic: Arc<Traffic>) {
    if exchange(stream, first, &traffic).await.is_err() {
        traffic.ended.fetch_add(1, Ordering::Relaxed);
    }
}

async fn exchange(stream: TcpStream, first: Duration, traffic: &Traffic) -> std::io::Result<()> {
    stream.set_nonblocking(true)?;
    let mut stream = tokio::net::TcpStream::from_std(stream)?;
    let mut turn = tokio::time::interval_at(tokio::time::Instant::now() + first, EVERY);
    let mut message = [7; MESSAGE];
    loop {
        turn.tick().await;
        let begun = Instant::now();
        let there_and_back = async {
            stream.write_all(&message).await?;
            stream.read_exact(&mut message).await
        };
        tokio::time::timeout(PATIENCE, there_and_back).await??;
        let taken = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        traffic.latencies.lock().push(taken);
    }
}

/// What has grown from the first quarter of the samples, after a warm-up of a tenth, to the last.
pub fn growth(samples: &[Sample]) -> Vec<Growth> {
    let mut kept: VecDeque<&Sample> = samples.iter().collect();
    kept.drain(..samples.len() / 10);
    let quarter = kept.len() / 4;
    let of = |part: &[&Sample], value: &dyn Fn(&Sample) -> f64| {
        let values: Vec<f64> = part.iter().map(|sample| value(sample)).collect();
        median(&values).unwrap_or_default()
    };
    let kept = kept.make_contiguous();
    let (Some(first), Some(last)) = (
        kept.get(..quarter),
        kept.get(kept.len().saturating_sub(quarter)..),
    ) else {
        return Vec::new();
    };
    let mut grown = Vec::new();
    let mut check = |what, allowed: fn(f64) -> f64, value: &dyn Fn(&Sample) -> f64| {
        let (from, to) = (of(first, value), of(last, value));
        if to > allowed(from) {
            grown.push(Growth { what, from, to });
        }
    };
    let sum = |[one, other]: [f64; 2]| one + other;
    let files = |sample: &Sample| {
        sample
            .open_files
            .iter()
            .map(|count| to_float(u64::try_from(*count).unwrap_or(0)))
            .sum()
    };
    check("memory (MiB)", |from| from * 1.02 + 1.0, &|it| {
        sum(it.resident_mib)
    });
    check("open files", |from| from + 8.0, &files);
    // The machine has other work, which comes and goes.
    check("the median latency (µs)", |from| from * 1.5 + 50.0, &|it| {
        it.p50_us
    });
    check(
        "the 99th percentile (µs)",
        |from| from * 2.0 + 200.0,
        &|it| it.p99_us,
    );
    grown
}

/// The samples for programs.
pub fn json(samples: &[Sample], connections: usize) -> Value {
    let samples = samples.iter().map(|it| {
        json!({
            "seconds": it.seconds,
            "residentMiB": it.resident_mib,
            "openFiles": it.open_files,
            "messages": it.messages,
            "p50Us": it.p50_us,
            "p99Us": it.p99_us,
        })
    });
    json!({ "connections": connections, "samples": samples.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(memory: impl Fn(usize) -> f64) -> Vec<Sample> {
        let sample = |index| Sample {
            resident_mib: [memory(index), 10.0],
            open_files: [100, 100],
            p50_us: 100.0,
            p99_us: 200.0,
            ..Sample::default()
        };
        (0..60).map(sample).collect()
    }

    #[test]
    fn a_warm_up_is_no_growth_and_a_leak_is() {
        assert_eq!(
            growth(&samples(|index| if index < 5 { 20.0 } else { 60.0 })),
            []
        );
        let leak = growth(&samples(|index| {
            60.0 + to_float(u64::try_from(index).unwrap())
        }));
        let [growth] = &leak[..] else {
            panic!("{leak:?}");
        };
        assert_eq!(growth.what, "memory (MiB)");
    }

    #[test]
    fn one_slow_sample_is_no_growth() {
        let mut all = samples(|_| 60.0);
        all[55].p99_us = 50_000.0;
        assert_eq!(growth(&all), []);
    }
}
