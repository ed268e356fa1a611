//! Two more nodes, beside those on which everything else is measured.
//!
//! They are for what cannot be measured on those: a large mesh against a small one in short turns
//! (loading one takes longer than a turn), and a pod with many addresses, each of which is a peer of
//! its own to whoever dials it. Their agents run only meanwhile: every agent of a machine has hooks
//! that each connection passes.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::figure::{Figure, error_of_median, median};
use super::lane::{Lane, PORT, easy_ports};
use super::load::{Load, measure, once};
use super::mesh::Loaded;
use super::plan::Work;
use super::processes::{cpu_seconds, resident_mib};
use super::server::LoadServer;
use crate::agent::{Agent, Setup};
use crate::fabric::Fabric;
use crate::manifests::{self, NAMESPACE, Namespace};
use crate::node::Node;
use crate::pod::Pod;

/// The nodes and their pods.
#[derive(Debug)]
pub(super) struct Place {
    // Field order is drop order.
    client: Pod,
    server: Pod,
    near: Node,
    far: Node,
}

/// The same with agents, while something is measured.
#[derive(Debug)]
pub(super) struct Twin<'p> {
    near: Agent,
    far: Agent,
    load: LoadServer,
    place: &'p Place,
}

impl Place {
    /// Makes them; the server's pod has that many addresses.
    pub(super) fn new(fabric: &Fabric, addresses: usize) -> Result<Self> {
        let (near, far) = (fabric.node("twin-a")?, fabric.node("twin-b")?);
        let client = near.pod("twin-caller")?;
        let server = match addresses {
            0 | 1 => far.pod("twin-server")?,
            many => far.pod_at("twin-server", &beyond_all_others(many))?,
        };
        for pod in [&client, &server] {
            easy_ports(pod)?;
        }
        Ok(Self {
            client,
            server,
            near,
            far,
        })
    }
}

/// Addresses that nothing else in a benchmark has.
fn beyond_all_others(count: usize) -> Vec<IpAddr> {
    let first = u32::from(Ipv4Addr::new(100, 127, 0, 1));
    (first..)
        .take(count)
        .map(|address| Ipv4Addr::from_bits(address).into())
        .collect()
}

impl<'p> Twin<'p> {
    /// Starts the agents.
    pub(super) fn start(place: &'p Place) -> Result<Self> {
        let namespace = Namespace::enrolled(NAMESPACE);
        let (client, server) = (place.client.manifest(), place.server.manifest());
        let setup = Setup {
            manifests: manifests::yaml(&[&namespace, &client, &server]),
            ..Setup::default()
        };
        let mut agents = [
            place.near.agent_unready(&setup)?,
            place.far.agent_unready(&setup)?,
        ];
        agents.iter_mut().try_for_each(Agent::wait_ready)?;
        let [near, far] = agents;
        Ok(Self {
            near,
            far,
            load: LoadServer::start(place.server.namespace(), PORT)?,
            place,
        })
    }

    pub(super) const fn agents(&self) -> [&Agent; 2] {
        [&self.near, &self.far]
    }

    /// Operations per second.
    fn rate(&self, work: Work, length: Duration) -> Result<f64> {
        let load = Load {
            work,
            target: self.place.server.at(PORT),
            windows: (1, length),
            patience: length,
            carriers: &[],
        };
        let sample = measure(&self.place.client, &self.load, &load)?;
        Ok(sample.windows.first().context("no window")?.rate())
    }

    /// What it costs to have carried something to that many peers: memory of both agents, and CPU
    /// time of both together while all of that is idle.
    pub(super) fn peers(&self, count: usize) -> Result<Vec<Figure>> {
        /// Memory comes to rest.
        const REST: Duration = Duration::from_secs(4);
        const WATCHED: Duration = Duration::from_secs(10);
        let addresses = self.place.server.addresses();
        let chosen = addresses.get(..count).context("fewer addresses")?;
        self.place.client.run(|| {
            chosen
                .iter()
                .try_for_each(|address| once((*address, PORT).into()))
        })??;
        thread::sleep(REST);
        let ids = self.agents().map(Agent::process);
        let ids: Vec<u32> = ids.into_iter().flatten().collect();
        let before = cpu_seconds(&ids)?;
        thread::sleep(WATCHED);
        let used = cpu_seconds(&ids)? - before;
        let [near, far] = self.agents();
        let memory = |agent: &Agent| resident_mib(&[agent.process().context("an agent ended")?]);
        let per_minute = used * 60.0 / WATCHED.as_secs_f64();
        Ok(vec![
            Figure::new(format!("peers_near_mb_{count}"), "MiB", memory(near)?),
            Figure::new(format!("peers_far_mb_{count}"), "MiB", memory(far)?),
            Figure::new(format!("peers_cpu_s_{count}"), "s", per_minute),
        ])
    }
}

/// Connections per second with a large mesh, and with it to without it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub(super) rate: f64,
    pub(super) ratio: f64,
    /// By how much of it the ratio may be wrong by chance, as a standard error.
    pub(super) error: f64,
}

/// Measures two pairs of agents in short turns, of which one has a large mesh, and then the other;
/// so that neither the machine's other work nor a difference between the pairs is in the ratio. They
/// take that many `turns` of that length each time. `meanwhile` is done while the lane has the mesh.
pub(super) fn kept(
    twin: &Twin<'_>,
    (lane, agents): (&Lane, [&Agent; 2]),
    workloads: usize,
    (turns, length): (usize, Duration),
    mut meanwhile: impl FnMut() -> Result<()>,
) -> Result<Kept> {
    let work = Work::Connect(64);
    let own = || super::sample::rate(lane, work, length);
    let other = || twin.rate(work, length);
    // Nobody has carriers yet, or all that it needs.
    own()?;
    other()?;
    let (mut rates, mut ratios) = (Vec::new(), [Vec::new(), Vec::new()]);
    for (at_lane, ratios) in [true, false].into_iter().zip(&mut ratios) {
        let with = if at_lane { agents } else { twin.agents() };
        let loaded = Loaded::into(&with, workloads)?;
        for turn in 0..turns {
            // Nobody always comes after the other.
            let (own, other) = if turn % 2 == 0 {
                let own = own()?;
                (own, other()?)
            } else {
                let other = other()?;
                (own()?, other)
            };
            let (large, small) = if at_lane { (own, other) } else { (other, own) };
            rates.push(large);
            // Nothing in one of them is a result, nothing in both of them is none.
            ratios.extend(Some(large / small).filter(|it| !it.is_nan()));
        }
        if at_lane {
            meanwhile()?;
        }
        loaded.remove()?;
    }
    let [first, second] = &ratios;
    let (ratio, error) = without_bias(first, second).context("too few turns")?;
    Ok(Kept {
        rate: median(&rates).context("no turns")?,
        ratio,
        error,
    })
}

/// One ratio of those with the mesh at the one pair and of those with it at the other, and its
/// standard error: what one pair does better than the other is in one of them as much as in the
/// other's inverse.
fn without_bias(first: &[f64], second: &[f64]) -> Option<(f64, f64)> {
    let (first, one) = center(first)?;
    let (second, other) = center(second)?;
    let ratio = (first * second).sqrt();
    Some((ratio, one.hypot(other) / 2.0))
}

/// The median and its relative standard error, by the median deviation: a sample that something has
/// disturbed is in neither.
fn center(ratios: &[f64]) -> Option<(f64, f64)> {
    let center = median(ratios)?;
    Some((center, error_of_median(ratios)? / center))
}

#[cfg(test)]
mod tests {
    use super::without_bias;

    #[test]
    fn a_difference_between_the_pairs_is_not_in_the_ratio() {
        // One pair is a quarter faster, and the mesh costs a tenth.
        let with_mesh_at = |bias: f64| [0.9 * bias; 5];
        let (ratio, error) = without_bias(&with_mesh_at(1.25), &with_mesh_at(0.8)).unwrap();
        assert!(
            (ratio - 0.9).abs() < 1e-9 && error < 1e-9,
            "{ratio} {error}"
        );
    }

    #[test]
    fn more_turns_make_the_error_smaller_and_one_disturbed_turn_does_not_make_it_larger() {
        let few = [0.9, 1.0, 1.1];
        let many = few.repeat(25);
        let (_, error) = without_bias(&few, &few).unwrap();
        let (_, less) = without_bias(&many, &many).unwrap();
        assert!((error / less - 5.0).abs() < 1e-9, "{error} {less}");
        let disturbed = [many.as_slice(), &[9.0]].concat();
        let (ratio, same) = without_bias(&disturbed, &many).unwrap();
        assert!((ratio - 1.0).abs() < 1e-9 && same < less, "{same} {less}");
    }
}
