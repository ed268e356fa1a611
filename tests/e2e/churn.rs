//! Workloads that come and go by the thousand leave nothing behind.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};
use interceptor_tests::agent::Agent;
use interceptor_tests::manifests;
use interceptor_tests::netns::NetNs;
use interceptor_tests::wait;
use interceptor_tests::world::World;
use serde_json::Value;

/// Workloads at a time.
const AT_ONCE: u8 = 200;

/// How often so many come and go.
const ROUNDS: u8 = 5;

/// Files that a thread of the agent opens once and keeps: its own network namespace, to come back
/// to. Which threads have entered another by now is chance.
const HOMES: usize = 8;

/// What the agent holds: open files, attached programs, entries of each map that it writes.
type Held = (usize, usize, Vec<(String, u64)>);

fn is_as((files, programs, maps): &Held, (files_then, programs_then, maps_then): &Held) -> bool {
    *files <= *files_then + HOMES && programs == programs_then && maps == maps_then
}

fn held(agent: &Agent) -> Result<Held> {
    let status = agent.status()?;
    let list = |key: &str| status.get(key)?.as_array().cloned();
    let fill = |map: &Value| {
        let name = map.get("name")?.as_str()?.to_owned();
        // The kernel's own, which change with every connection.
        let ours = !["FLOWS", "EXPECTED"].contains(&name.as_str());
        ours.then_some((name, map.get("entries")?.as_u64()?))
    };
    let maps = list("maps")
        .context("maps")?
        .iter()
        .filter_map(fill)
        .collect();
    Ok((
        agent.open_files()?,
        list("programs").context("programs")?.len(),
        maps,
    ))
}

fn enrolled(agent: &Agent) -> Option<usize> {
    let status = agent.status().ok()?;
    let workloads = status.get("workloads")?.as_array()?;
    let enrolled = workloads
        .iter()
        .filter(|it| it.get("error").is_none_or(Value::is_null));
    Some(enrolled.count())
}

#[test]
fn a_thousand_workloads_leave_maps_files_and_programs_where_they_were() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let others = enrolled(&world.near).context("no status")?;
    let mut before = None;
    for round in 0..ROUNDS {
        let made = (0..AT_ONCE).map(|number| {
            let name = format!("{}-churn-{round}-{number}", world.a.mesh_name());
            let netns = NetNs::create(&name)?;
            let address = IpAddr::from(Ipv4Addr::new(10, 99, round, number));
            let pod = manifests::Pod::new(&name, world.a.mesh_name(), &[address]);
            let pod = pod
                .service_account("churn")
                .network_namespace(&netns.path());
            Ok((netns, pod))
        });
        let made: Vec<(NetNs, manifests::Pod)> = made.collect::<Result<_>>()?;
        world.change(|it| {
            for (_, pod) in &made {
                it.add(pod.clone());
            }
        })?;
        let all = others + usize::from(AT_ONCE);
        wait::so("all of them to be enrolled", || {
            enrolled(&world.near) == Some(all)
        })?;
        // Every other round the namespaces go first, else the manifests.
        if round % 2 == 0 {
            drop(made);
            wait::so("their absence to be noticed", || {
                enrolled(&world.near) == Some(others)
            })?;
            world.change(|_| ())?;
        } else {
            world.change(|_| ())?;
            wait::so("them to be released", || {
                enrolled(&world.near) == Some(others)
            })?;
            drop(made);
        }
        match &before {
            None => before = Some(held(&world.near)?),
            Some(before) => wait::so("what they held to be released", || {
                held(&world.near).is_ok_and(|now| is_as(&now, before))
            })
            .with_context(|| format!("{before:?}, then {:?}", held(&world.near)))?,
        }
    }
    Ok(())
}
