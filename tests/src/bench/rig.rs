//! The machine that the benchmark runs on: two nodes, two agents, an enrolled pair of pods and a
//! raw pair.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::load::{LoadServer, Sample, measure, to_float};
use super::plan::{Plan, Work};
use crate::agent::Setup;
use crate::pod::Pod;
use crate::world::{Ground, World};

/// How the bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    /// TCP between pods that the mesh does not know.
    Raw,
    /// Captured, carried over mTLS between the nodes.
    CrossNode,
}

impl Variant {
    /// All of them, in the order in which they alternate.
    pub const ALL: [Self; 2] = [Self::Raw, Self::CrossNode];
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::CrossNode => "cross_node",
        })
    }
}

/// One measured number with its name in the report.
#[derive(Clone, Debug)]
pub struct Figure {
    /// The name of the work, such as `pingpong_p99_us_64`.
    pub work: String,
    /// Its unit.
    pub unit: &'static str,
    /// The number.
    pub value: f64,
}

impl Figure {
    const fn new(work: String, unit: &'static str, value: f64) -> Self {
        Self { work, unit, value }
    }
}

/// Nodes, agents and load, ready to be measured.
#[derive(Debug)]
pub struct Rig {
    // Field order is drop order.
    enrolled_load: LoadServer,
    raw_load: LoadServer,
    raw_caller: Pod,
    raw_server: Pod,
    world: World,
}

impl Rig {
    /// Builds it.
    ///
    /// # Errors
    ///
    /// Fails where this machine does not allow it, or if an agent does not become ready.
    pub fn new(plan: &Plan) -> Result<Self> {
        let ground = Ground::new()?.context("the benchmark needs root and iproute2")?;
        let (raw_caller, raw_server) = (ground.a.pod("raw-caller")?, ground.b.pod("raw-server")?);
        let setup = Setup {
            manifests: ground.manifests(&[]),
            ..Setup::default()
        };
        let world = ground.start(&setup)?;
        for pod in [&world.caller, &world.server, &raw_caller, &raw_server] {
            pod.run(ease_ports)??;
        }
        let most = plan
            .works
            .iter()
            .map(|work| work.concurrency())
            .max()
            .unwrap_or(1);
        let enrolled_load = LoadServer::start(world.server.namespace(), most)?;
        let raw_load = LoadServer::start(raw_server.namespace(), most)?;
        Ok(Self {
            enrolled_load,
            raw_load,
            raw_caller,
            raw_server,
            world,
        })
    }

    /// Figures of the agents at rest.
    ///
    /// # Errors
    ///
    /// Fails if an agent has ended.
    pub fn idle(&self) -> Result<Vec<Figure>> {
        let bytes = self.world.near.resident_bytes()?;
        Ok(vec![Figure::new(
            "rss_mb_idle".to_owned(),
            "MiB",
            to_float(bytes) / 1024.0 / 1024.0,
        )])
    }

    /// Measures one work over one variant once.
    ///
    /// # Errors
    ///
    /// Fails if a connection does: a benchmark with errors measures something else.
    pub fn sample(&self, work: Work, variant: Variant, plan: &Plan) -> Result<Vec<Figure>> {
        let (client, server, load) = match variant {
            Variant::Raw => (&self.raw_caller, &self.raw_server, &self.raw_load),
            Variant::CrossNode => (&self.world.caller, &self.world.server, &self.enrolled_load),
        };
        let before = self.agents_cpu_seconds()?;
        let sample = measure(client, server.v4(), load, work, plan.sample)
            .with_context(|| format!("{work} over {variant}"))?;
        let cpu = self.agents_cpu_seconds()? - before;
        Ok(figures(work, variant, &sample, cpu))
    }

    fn agents_cpu_seconds(&self) -> Result<f64> {
        let mut ticks = 0;
        for agent in [&self.world.near, &self.world.far] {
            let id = agent.process().context("an agent ended")?;
            ticks += cpu_ticks(&fs::read_to_string(format!("/proc/{id}/stat"))?)
                .context("read the agent's CPU time")?;
        }
        // USER_HZ is 100 on every architecture that we build for.
        Ok(to_float(ticks) / 100.0)
    }
}

fn figures(work: Work, variant: Variant, sample: &Sample, cpu: f64) -> Vec<Figure> {
    let mut figures = vec![Figure::new(work.to_string(), work.unit(), sample.value)];
    let n = work.concurrency();
    let kind = match work {
        Work::PingPong(_) => "pingpong",
        Work::Connect(_) => "connect",
        Work::Up(4) if variant == Variant::CrossNode && sample.bytes > 0 => {
            // The warm-up's bytes are not counted but its CPU time is: a fifth of the whole.
            let per_gb = cpu * 0.8 / (to_float(sample.bytes) / 1e9);
            figures.push(Figure::new("cpu_s_per_gb".to_owned(), "s", per_gb));
            return figures;
        }
        Work::Up(_) | Work::Down(_) => return figures,
    };
    for quantile in [50, 99] {
        if let Some(value) = sample.quantile_us(quantile) {
            figures.push(Figure::new(
                format!("{kind}_p{quantile}_us_{n}"),
                "µs",
                value,
            ));
        }
    }
    figures
}

/// User and system time out of `/proc/PID/stat`.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The name in parentheses may hold spaces; what follows it does not.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Lets a pod open more connections per minute than the default range of ports allows, which
/// raw TCP would exhaust first.
fn ease_ports() -> Result<()> {
    for (key, value) in [("ip_local_port_range", "1024 65535"), ("tcp_tw_reuse", "1")] {
        fs::write(Path::new("/proc/sys/net/ipv4").join(key), value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::cpu_ticks;

    #[test]
    fn cpu_time_is_read_past_a_name_with_spaces() {
        let stat = "7 (tokio rt (w)) S 1 7 7 0 -1 4194304 1 2 3 4 250 50 0 0 20 0 9 0";
        assert_eq!(cpu_ticks(stat), Some(300));
    }
}
