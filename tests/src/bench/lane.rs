//! One variant with its pods, its server and whatever carries the bytes.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::figure::Variant;
use super::peer::{Kind, Pair, Process, Site, local};
use super::server::LoadServer;
use super::side::Side;
use crate::pod::Pod;

/// Where the load's server listens.
pub(super) const PORT: u16 = 9000;

/// A variant, ready to be measured.
#[derive(Debug)]
pub(super) struct Lane {
    // Field order is drop order.
    pub(super) variant: Variant,
    pair: Option<Pair>,
    pub(super) load: LoadServer,
    _web: Option<Process>,
    pub(super) client: Pod,
    pub(super) server: Pod,
    /// The agents that carry it, the client's first.
    agents: Vec<u32>,
    kind: Option<Kind>,
    folder: PathBuf,
    ca: PathBuf,
    /// What the kernel gives its pods by itself.
    defaults: Ports,
}

/// Where the client is, and where the server is.
const fn sides(variant: &Variant) -> [Side; 2] {
    match variant {
        Variant::Raw | Variant::RawSameNode | Variant::Control => [Side::Nobody; 2],
        Variant::Unmeshed | Variant::SameNode => [Side::Near; 2],
        Variant::CrossNode | Variant::Peer(_) => [Side::Near, Side::Far],
    }
}

/// What a lane is made of.
pub(super) struct Parts {
    pub(super) variant: Variant,
    /// The client's and the server's.
    pub(super) pods: [Pod; 2],
    pub(super) kind: Option<Kind>,
}

impl Lane {
    /// Starts its server, and nginx if that is to be measured, and the peer if it is one.
    pub(super) fn start(parts: Parts, fabric: &Path, http: bool) -> Result<Self> {
        let Parts {
            variant,
            pods: [client, server],
            kind,
        } = parts;
        let folder = fabric.join(format!("bench-{variant}"));
        fs::create_dir_all(&folder)?;
        let defaults = read(&client)?;
        for pod in [&client, &server] {
            easy_ports(pod)?;
        }
        let [near, far] = sides(&variant);
        far.enter()?;
        let load = LoadServer::start(server.namespace(), PORT)?;
        let web = http.then(|| super::http::serve(&server, &folder.join("nginx")));
        let web = web.transpose()?;
        near.enter()?;
        let mut lane = Self {
            variant,
            pair: None,
            load,
            _web: web,
            client,
            server,
            agents: Vec::new(),
            kind,
            folder,
            ca: fabric.join("ca"),
            defaults,
        };
        lane.pair = lane.carry(PORT)?;
        Ok(lane)
    }

    /// What this process makes from now on is where the client is.
    pub(super) fn enter(&self) -> Result<()> {
        let [near, _] = sides(&self.variant);
        near.enter()
    }

    /// Takes note of the agents' processes, the first node's first, if it is they who carry it.
    pub(super) fn is_carried_by(&mut self, agents: &[u32]) {
        let count = match self.variant {
            Variant::SameNode => 1,
            Variant::CrossNode => agents.len(),
            _ => 0,
        };
        self.agents = agents.iter().copied().take(count).collect();
    }

    /// Where the client connects to.
    pub(super) fn target(&self, port: u16) -> SocketAddr {
        if self.kind.is_some() {
            return local(port);
        }
        self.server.at(port)
    }

    /// A peer's pair for one more port; nothing if this is none.
    pub(super) fn carry(&self, port: u16) -> Result<Option<Pair>> {
        let Some(kind) = &self.kind else {
            return Ok(None);
        };
        let site = Site {
            client: &self.client,
            server: &self.server,
            folder: &self.folder,
            ca: &self.ca,
        };
        let pair = Pair::start(kind, site, port);
        pair.map(Some)
            .with_context(|| format!("start {}", self.variant))
    }

    /// Starts a peer's pair anew, after one that may have ended or hang.
    pub(super) fn revive(&mut self) -> Result<()> {
        if self.kind.is_some() {
            // Its addresses must be free first.
            drop(self.pair.take());
            self.pair = self.carry(PORT)?;
        }
        Ok(())
    }

    /// The processes that carry, by end: of a pair, or the agents.
    pub(super) fn ends(&self, pair: Option<&Pair>) -> Vec<Vec<u32>> {
        if let Some(pair) = pair {
            return pair.processes().into();
        }
        self.agents.iter().map(|id| vec![*id]).collect()
    }

    /// The processes that carry the load.
    pub(super) fn carriers(&self) -> Vec<u32> {
        self.ends(self.pair.as_ref()).concat()
    }

    /// Does something with the kernel's defaults for ports and `TIME_WAIT`.
    pub(super) fn with_default_ports<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        for pod in [&self.client, &self.server] {
            write(pod, self.defaults)?;
        }
        let done = work();
        for pod in [&self.client, &self.server] {
            write(pod, EASY)?;
        }
        done
    }
}

/// What settings of a pod have to do with finding a port: the range, and how many sockets may be in
/// `TIME_WAIT`.
#[derive(Clone, Copy, Debug)]
struct Ports {
    first_and_last: [u32; 2],
    most_waiting: u32,
    /// `tcp_tw_reuse`.
    reuse: u32,
}

/// More connections per minute than the default range allows, which raw TCP would exhaust first;
/// above the ports on which anything listens. With so few in `TIME_WAIT` a port is found at once:
/// with the default, looking for one takes half of raw TCP's time and says nothing of anybody.
const EASY: Ports = Ports {
    first_and_last: [20_000, 65_535],
    most_waiting: 2048,
    reuse: 1,
};

const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const REUSE: &str = "/proc/sys/net/ipv4/tcp_tw_reuse";
const WAITING: &str = "/proc/sys/net/ipv4/tcp_max_tw_buckets";

/// Lets a pod connect as often as anybody measures.
pub(super) fn easy_ports(pod: &Pod) -> Result<()> {
    write(pod, EASY)
}

fn write(pod: &Pod, ports: Ports) -> Result<()> {
    let [first, last] = ports.first_and_last;
    pod.run(|| {
        fs::write(RANGE, format!("{first} {last}"))?;
        fs::write(WAITING, ports.most_waiting.to_string())?;
        Ok(fs::write(REUSE, ports.reuse.to_string())?)
    })?
}

/// A pod's settings before [`write()`].
fn read(pod: &Pod) -> Result<Ports> {
    let number = |file: &'static str| {
        let text = pod.run(|| fs::read_to_string(file))??;
        text.trim().parse().context(file)
    };
    Ok(Ports {
        first_and_last: super::churn::DEFAULT_PORTS,
        most_waiting: number(WAITING)?,
        reuse: number(REUSE)?,
    })
}
