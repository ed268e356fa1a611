//! Workloads that come and go by the thousand leave nothing behind.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use interceptor_tests::agent::Agent;
use interceptor_tests::apps;
use interceptor_tests::host::HostWorkload;
use interceptor_tests::manifests;
use interceptor_tests::netns;
use interceptor_tests::pod::Pod;
use interceptor_tests::wait;
use interceptor_tests::world::World;
use serde_json::Value;

use crate::same_node::{Home, exchange};

/// Workloads at a time.
const AT_ONCE: u8 = 200;

/// So many of them have an interface, are guarded at it, and talk.
const TALKING: u8 = 20;

/// How often so many come and go.
const ROUNDS: u8 = 5;

/// The port on which the caller, which stays, is called.
const PORT: u16 = 8080;

/// What the agent and the kernel hold, each counted: open files by what they are, attached
/// programs, entries of each map, what is pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) files: BTreeMap<String, usize>,
    programs: usize,
    pub(crate) maps: Vec<(String, u64)>,
    pins: usize,
}

pub(crate) fn held(world: &World) -> Result<Held> {
    let agent = &world.near;
    let status = agent.status()?;
    let list = |key: &str| status.get(key)?.as_array().cloned();
    let fill = |map: &Value| {
        let name = map.get("name")?.as_str()?.to_owned();
        Some((name, map.get("entries")?.as_u64()?))
    };
    let maps = list("maps").context("maps")?;
    Ok(Held {
        files: files(world)?,
        programs: list("programs").context("programs")?.len(),
        maps: maps.iter().filter_map(fill).collect(),
        pins: count(&agent.pins()),
    })
}

/// The agent's open files by what they are. Each thread that has entered a workload's network
/// namespace holds its own one, to come back to; which threads have done so by now is chance, so
/// those do not count.
fn files(world: &World) -> Result<BTreeMap<String, usize>> {
    let id = world.near.process().context("no agent")?;
    let home = fs::metadata(world.a.namespace().path())?.ino();
    let home = format!("net:[{home}]");
    let mut files = BTreeMap::new();
    for file in fs::read_dir(format!("/proc/{id}/fd"))? {
        // One that was closed meanwhile is not held.
        let Ok(target) = fs::read_link(file?.path()) else {
            continue;
        };
        let target = target.display().to_string();
        if target != home {
            let kind = target.split_once(":[").map_or(&*target, |(kind, _)| kind);
            *files.entry(kind.to_owned()).or_default() += 1;
        }
    }
    Ok(files)
}

/// The files in a folder and those below.
fn count(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let counts = entries.map(|it| match it.file_type() {
        Ok(kind) if kind.is_dir() => count(&it.path()),
        _ => 1,
    });
    counts.sum()
}

/// Waits until it holds what it held before.
fn assert_released(world: &World, before: &Held) -> Result<()> {
    wait::so("what they held to be released", || {
        held(world).is_ok_and(|now| now == *before)
    })
    .with_context(|| format!("{before:#?}, then {:#?}", held(world)))
}

fn enrolled(agent: &Agent) -> Option<usize> {
    let status = agent.status().ok()?;
    let workloads = status.get("workloads")?.as_array()?;
    let enrolled = workloads
        .iter()
        .filter(|it| it.get("error").is_none_or(Value::is_null));
    Some(enrolled.count())
}

/// Workloads that come and go together, and what some of them have open.
struct Crowd {
    open: Vec<TcpStream>,
    talking: Vec<Pod>,
    _silent: Namespaces,
    manifests: Vec<manifests::Pod>,
}

impl Crowd {
    fn new(world: &World, round: u8, (silent, talking): (u8, u8)) -> Result<Self> {
        let talking = (0..talking).map(|number| world.a.pod(&format!("talks-{round}-{number}")));
        let talking: Vec<_> = talking.collect::<Result<_>>()?;
        let mut manifests: Vec<_> = talking.iter().map(Pod::manifest).collect();
        let node = world.a.mesh_name();
        let name = |number| format!("{node}-churn-{round}-{number}");
        let namespaces = Namespaces::new((0..silent).map(name))?;
        for number in 0..silent {
            let address = IpAddr::from(Ipv4Addr::new(10, 99, round, number));
            let pod = manifests::Pod::new(&name(number), node, &[address]);
            let path = Path::new(netns::FOLDER).join(name(number));
            manifests.push(pod.network_namespace(&path));
        }
        let manifests = manifests.into_iter();
        Ok(Self {
            open: Vec::new(),
            talking,
            _silent: namespaces,
            manifests: manifests.map(|it| it.service_account("churn")).collect(),
        })
    }

    fn enrol(&self, world: &World, others: usize) -> Result<()> {
        world.change(|it| {
            for pod in &self.manifests {
                it.add(pod.clone());
            }
        })?;
        let all = others + self.manifests.len();
        wait::reached("all of them to be enrolled", all, || enrolled(&world.near))
    }

    /// Each of those that talk calls, until all go past the agent, and keeps that open.
    fn talk(&mut self, world: &World) -> Result<()> {
        let to = world.caller.at(PORT);
        self.open = wait::until("connections past the agent", || {
            let before = Home::passed_at(&world.near);
            let open = self.talking.iter().map(|pod| {
                let mut stream = pod.connect(to).ok()?;
                exchange(&mut stream, b"hello").ok()?;
                Some(stream)
            });
            let open: Vec<_> = open.collect::<Option<_>>()?;
            let passed = Home::passed_at(&world.near) - before;
            (usize::try_from(passed) == Ok(open.len())).then_some(open)
        })?;
        Ok(())
    }
}

/// Network namespaces with nothing but loopback, made and removed together.
struct Namespaces(Vec<String>);

impl Namespaces {
    fn new(names: impl Iterator<Item = String>) -> Result<Self> {
        let made = Self(names.collect());
        let lines = made
            .0
            .iter()
            .map(|name| format!("netns add {name}\nnetns exec {name} ip link set lo up\n"));
        netns::batch(None, &lines.collect::<String>())?;
        Ok(made)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        let names: Vec<_> = self.0.iter().map(String::as_str).collect();
        netns::remove(&names);
    }
}

#[test]
fn a_thousand_workloads_leave_maps_files_and_programs_where_they_were() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.caller.serve(PORT, apps::echo)?;
    let others = enrolled(&world.near).context("no status")?;
    // One makes what is made once.
    let mut first = Crowd::new(&world, ROUNDS, (0, 1))?;
    first.enrol(&world, others)?;
    first.talk(&world)?;
    drop(first);
    world.change(|_| ())?;
    wait::so("the first to be released", || {
        let maps = held(&world).map(|it| it.maps).unwrap_or_default();
        let flows = ["FLOWS", "OPEN", "GRANTS"].map(|name| (name.to_owned(), 0));
        enrolled(&world.near) == Some(others) && flows.iter().all(|it| maps.contains(it))
    })?;
    let before = held(&world)?;
    for round in 0..ROUNDS {
        let mut crowd = Crowd::new(&world, round, (AT_ONCE - TALKING, TALKING))?;
        crowd.enrol(&world, others)?;
        crowd.talk(&world)?;
        // Every other round the namespaces go first, else the manifests.
        if round % 2 == 0 {
            drop(crowd);
            let now = || enrolled(&world.near);
            wait::reached("their absence to be noticed", others, now)?;
            world.change(|_| ())?;
        } else {
            world.change(|_| ())?;
            let now = || enrolled(&world.near);
            wait::reached("them to be released", others, now)?;
            drop(crowd);
        }
        assert_released(&world, &before)?;
    }
    Ok(())
}

#[test]
fn a_cgroup_that_is_removed_takes_everything_of_its_workload_with_it() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.caller.serve(PORT, apps::echo)?;
    let program = Path::new(env!("CARGO_BIN_EXE_host-app"));
    let others = enrolled(&world.near).context("no status")?;
    let mut before = None;
    // The first makes what is made once.
    for round in 0..3_u8 {
        let host = HostWorkload::new(&world.a, &format!("daemon-{round}"))?;
        let manifest = host.manifest()?;
        world.change(|it| it.add(manifest))?;
        wait::so("it to be enrolled", || {
            enrolled(&world.near) == Some(others + 1)
        })?;
        wait::so("it to go past the agent", || {
            let passed = Home::passed_at(&world.near);
            let said = host.run(program, world.caller.at(PORT), "hello");
            let said = said.map(|it| it.stdout).unwrap_or_default();
            assert!(String::from_utf8_lossy(&said).contains("hello"));
            Home::passed_at(&world.near) > passed
        })?;
        // Its manifest stays: the agent has to see that the cgroup is gone.
        drop(host);
        wait::so("its absence to be noticed", || {
            enrolled(&world.near) == Some(others)
        })?;
        match &before {
            None => {
                wait::so("its last flow to be over", || {
                    let flows = ("FLOWS".to_owned(), 0);
                    held(&world).is_ok_and(|it| it.maps.contains(&flows))
                })?;
                before = Some(held(&world)?);
            }
            Some(before) => assert_released(&world, before)?,
        }
        world.change(|_| ())?;
    }
    Ok(())
}
