//! What is measured: the works and how long each takes.

use std::fmt;
use std::time::Duration;

/// One kind of work with its degree of concurrency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Streams from client to server.
    Up(usize),
    /// Streams from server to client.
    Down(usize),
    /// Connections that exchange 64 bytes each way, over and over.
    PingPong(usize),
    /// Connect, a byte each way, close; this many at a time.
    Connect(usize),
}

impl Work {
    /// How many threads, and connections at a time, the client has.
    pub const fn concurrency(self) -> usize {
        match self {
            Self::Up(n) | Self::Down(n) | Self::PingPong(n) | Self::Connect(n) => n,
        }
    }

    /// The unit of its result.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Up(_) | Self::Down(_) => "Gbit/s",
            Self::PingPong(_) | Self::Connect(_) => "1/s",
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up(n) => write!(f, "throughput_up_{n}"),
            Self::Down(n) => write!(f, "throughput_down_{n}"),
            Self::PingPong(n) => write!(f, "pingpong_{n}"),
            Self::Connect(n) => write!(f, "connect_{n}"),
        }
    }
}

/// What to measure, how long, how often.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The works in order.
    pub works: Vec<Work>,
    /// How long one sample is measured, after a warm-up of a quarter of it.
    pub sample: Duration,
    /// How many samples make a median.
    pub rounds: usize,
}

impl Plan {
    /// About five minutes.
    pub fn full() -> Self {
        Self {
            works: works(),
            sample: Duration::from_secs(2),
            rounds: 5,
        }
    }

    /// Under two minutes.
    pub fn quick() -> Self {
        Self {
            works: works(),
            sample: Duration::from_millis(700),
            rounds: 3,
        }
    }
}

fn works() -> Vec<Work> {
    let streams = [1, 4, 16];
    let connections = [1, 16, 64];
    let up = streams.map(Work::Up).into_iter();
    let down = streams.map(Work::Down);
    up.chain(down)
        .chain(connections.map(Work::PingPong))
        .chain(connections.map(Work::Connect))
        .collect()
}
