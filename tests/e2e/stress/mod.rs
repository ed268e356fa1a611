//! Many short connections of every kind while policies, labels and workloads come and go; at the
//! end every single one must be accounted for, exactly once, by everybody who counts.
//!
//! Every connection has a source address and port that no other one of the test has, so the
//! client's own list, the access lines and the metrics can be compared one by one ([`books`]).
//! What becomes of a connection depends on the moment; that it is told, and told alike, does not.
//! Where the moment does not matter, or nothing changed while it was made, it is known beforehand
//! what must become of it, and by which policy ([`Outlook`]).
//!
//! `INTERCEPTOR_STRESS_SECONDS` says how long it goes on (two minutes), `INTERCEPTOR_STRESS_SEED`
//! what is done in which order.

mod books;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use interceptor_tests::agent::Agent;
use interceptor_tests::apps::{self, Server};
use interceptor_tests::manifests::{AuthorizationPolicy, Rule};
use interceptor_tests::pod::Pod;
use interceptor_tests::world::{Ground, Objects, World};
use interceptor_tests::{settings, wait};
use socket2::{Domain, Protocol, Socket, Type};

use books::{Attempt, Books, Expected, Fate, Party};

/// A port that everybody may call, one that a policy closes and opens, one that is closed, and one
/// that everybody may call and where nobody listens.
const OPEN: u16 = 8080;
const GATE: u16 = 8081;
const CLOSED: u16 = 8082;
const DESERTED: u16 = 8083;

/// Source ports that the test hands out; the kernel picks others for everybody else.
const FIRST_PORT: u16 = 10_000;
const LAST_PORT: u16 = 32_000;

/// Between two connections of a client: as many as ports last for two minutes.
const PACE: Duration = Duration::from_millis(10);

/// So many changes, one after the other, then a calm.
const FLURRY: usize = 20;

/// A change must be in force everywhere after this time, and so long is it calm then.
const CALM: Duration = Duration::from_secs(1);

/// Numbers that follow from a seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        // Knuth's generator; its upper bits are the good ones.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % limit
    }
}

/// What comes and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// A policy that closes a port.
    Gate,
    /// A workload that is called.
    Guest,
    /// A workload that calls.
    Visitor,
    /// An annotation: over mutual TLS inside of the node, too.
    Mtls,
    /// A label.
    Label,
}

const PARTS: [Part; 5] = [
    Part::Gate,
    Part::Guest,
    Part::Visitor,
    Part::Mtls,
    Part::Label,
];

/// What is there now.
#[derive(Clone, Debug, Default)]
struct State(Vec<Part>);

impl State {
    fn has(&self, part: Part) -> bool {
        self.0.contains(&part)
    }

    /// Changes one thing.
    fn change(&mut self, numbers: &mut Numbers) {
        let Some(part) = PARTS.get(numbers.below(PARTS.len())) else {
            return;
        };
        if self.has(*part) {
            self.0.retain(|it| it != part);
        } else {
            self.0.push(*part);
        }
    }
}

/// What can be said beforehand of connections that are made now.
#[derive(Debug, Default)]
struct Outlook {
    /// Odd while it is calm; another number for each calm.
    calm: AtomicUsize,
    /// Whether the gate is closed in this calm.
    gate: AtomicBool,
}

/// One look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    calm: usize,
    gate: bool,
}

impl Outlook {
    fn begin(&self, state: &State) {
        self.gate.store(state.has(Part::Gate), Ordering::SeqCst);
        self.calm.fetch_add(1, Ordering::SeqCst);
    }

    fn end(&self) {
        self.calm.fetch_add(1, Ordering::SeqCst);
    }

    fn look(&self) -> Look {
        Look {
            calm: self.calm.load(Ordering::SeqCst),
            gate: self.gate.load(Ordering::SeqCst),
        }
    }
}

impl Look {
    /// What must become of a connection that was made between this look and `after`.
    ///
    /// Who calls or is called in comings and goings is at times a stranger, and their last
    /// connection may meet either.
    fn expect(self, after: Self, party: Party, (to, port): (&Pod, u16)) -> Expected {
        let is_calm = self == after && self.calm % 2 == 1;
        match (party, to.name(), port) {
            (Party::Visitor, ..) | (_, "guest", _) => Expected::Either,
            (.., CLOSED) => Expected::Denied("demo/closed"),
            (.., GATE) if is_calm && self.gate => Expected::Denied("demo/gate"),
            (.., DESERTED) => Expected::Failed,
            (_, "server" | "neighbour", OPEN) => Expected::Allowed,
            _ if is_calm => Expected::Allowed,
            _ => Expected::Either,
        }
    }
}

/// The pods besides the world's two, all on the caller's node.
struct Town {
    world: World,
    /// Reached past the agent.
    neighbour: Pod,
    /// Reached past the agent or over mutual TLS, as it says at the moment.
    private: Pod,
    /// Called, and enrolled or not.
    guest: Pod,
    /// Calls, and is enrolled or not.
    visitor: Pod,
    /// Never enrolled.
    outside: Pod,
}

impl Town {
    fn new() -> Result<Option<Self>> {
        let Some(ground) = Ground::new()? else {
            return Ok(None);
        };
        let pod = |name| ground.a.pod(name);
        let (neighbour, private) = (pod("neighbour")?, pod("private")?);
        let (guest, visitor, outside) = (pod("guest")?, pod("visitor")?, pod("outside")?);
        let pods = [&neighbour, &private, &guest, &visitor].map(Pod::manifest);
        let world = ground.start_with(|it| fill(it, &State::default(), pods))?;
        Ok(Some(Self {
            world,
            neighbour,
            private,
            guest,
            visitor,
            outside,
        }))
    }

    /// Has both agents follow to `state`.
    fn change(&self, state: &State) -> Result<()> {
        let versions = [version(&self.world.near)?, version(&self.world.far)?];
        let pods = [&self.neighbour, &self.private, &self.guest, &self.visitor];
        let pods = pods.map(Pod::manifest);
        self.world.change(|it| fill(it, state, pods))?;
        let agents = [&self.world.near, &self.world.far];
        wait::so("the change to be in force", || {
            let changed = |(agent, before)| version(agent).is_ok_and(|now| now > before);
            agents.into_iter().zip(versions).all(changed)
        })
    }

    /// The applications.
    fn serve(&self) -> Result<Vec<Server>> {
        let mut servers = Vec::new();
        for pod in [&self.world.server, &self.neighbour] {
            for port in [OPEN, GATE, CLOSED] {
                servers.push(pod.serve(port, apps::echo)?);
            }
        }
        for pod in [&self.private, &self.guest] {
            servers.push(pod.serve(OPEN, apps::echo)?);
        }
        Ok(servers)
    }

    /// Where the caller goes: another node; this node, with and without the agent; somebody who
    /// comes and goes; where it is refused always or at times, or nobody listens.
    fn for_the_caller(&self) -> Vec<(&Pod, u16)> {
        let (server, neighbour) = (&self.world.server, &self.neighbour);
        vec![
            (server, OPEN),
            (server, GATE),
            (server, CLOSED),
            (server, DESERTED),
            (neighbour, OPEN),
            (neighbour, GATE),
            (neighbour, CLOSED),
            (neighbour, DESERTED),
            (&self.private, OPEN),
            (&self.guest, OPEN),
        ]
    }

    /// Where somebody goes who is not in the mesh, or not always.
    fn for_the_outside(&self) -> Vec<(&Pod, u16)> {
        let (server, neighbour) = (&self.world.server, &self.neighbour);
        vec![
            (server, OPEN),
            (server, GATE),
            (server, CLOSED),
            (server, DESERTED),
            (neighbour, OPEN),
            (neighbour, CLOSED),
            (neighbour, DESERTED),
        ]
    }
}

/// The manifests of a state.
fn fill(
    objects: &mut Objects,
    state: &State,
    [neighbour, private, guest, visitor]: [interceptor_tests::manifests::Pod; 4],
) {
    let label = if state.has(Part::Label) { "v2" } else { "v1" };
    objects.add(neighbour.label("version", label));
    let way = if state.has(Part::Mtls) {
        "mtls"
    } else {
        "kernel"
    };
    objects.add(private.annotation("interceptor.dev/same-node", way));
    if state.has(Part::Guest) {
        objects.add(guest);
    }
    if state.has(Part::Visitor) {
        objects.add(visitor);
    }
    let closed = Rule::default().ports(&[&CLOSED.to_string()]);
    objects.add(AuthorizationPolicy::deny("closed").rule(&closed));
    if state.has(Part::Gate) {
        let gate = Rule::default().ports(&[&GATE.to_string()]);
        objects.add(AuthorizationPolicy::deny("gate").rule(&gate));
    }
}

/// The number of the configuration that an agent has in force.
fn version(agent: &Agent) -> Result<u64> {
    let version = agent.metrics()?.sum("interceptor_config_version", &[]);
    Ok(format!("{version}").parse()?)
}

/// One client: who, from which of its addresses and ports, to whom.
struct Client<'a> {
    pod: &'a Pod,
    party: Party,
    address: IpAddr,
    ports: std::ops::Range<u16>,
    to: Vec<(&'a Pod, u16)>,
    numbers: Numbers,
    outlook: &'a Outlook,
}

impl Client<'_> {
    /// Connects until time or ports are up.
    fn run(mut self, over: &AtomicBool) -> Result<Vec<Attempt>> {
        let mut attempts = Vec::new();
        for port in self.ports.clone() {
            if over.load(Ordering::Relaxed) {
                break;
            }
            let chosen = self.to.get(self.numbers.below(self.to.len()));
            let (pod, to_port) = *chosen.context("nobody to call")?;
            let before = self.outlook.look();
            let to = if self.address.is_ipv4() {
                pod.at(to_port)
            } else {
                pod.at6(to_port)
            };
            let from = SocketAddr::new(self.address, port);
            let fate = call(from, to).with_context(|| format!("{from} calls {to}"))?;
            let party = self.party;
            let after = self.outlook.look();
            attempts.push(Attempt {
                party,
                from,
                to,
                fate,
                expected: before.expect(after, party, (pod, to_port)),
            });
            thread::sleep(PACE);
        }
        Ok(attempts)
    }
}

/// Connects, sends, and reads the answer. Being refused is a fate; anything else that fails is a
/// failure of the test.
fn call(from: SocketAddr, to: SocketAddr) -> Result<Fate> {
    let socket = Socket::new(Domain::for_address(from), Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&from.into()).context("bind")?;
    let message = from.to_string();
    let answer = socket
        .connect_timeout(&to.into(), wait::PATIENCE)
        .and_then(|()| {
            let mut stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(wait::PATIENCE))?;
            stream.write_all(message.as_bytes())?;
            stream.shutdown(Shutdown::Write)?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        });
    match answer {
        Ok(answer) if answer == message.as_bytes() => Ok(Fate::Answered),
        Ok(answer) => anyhow::bail!("an answer of {} bytes", answer.len()),
        Err(error) if is_refusal(error.kind()) => Ok(Fate::Refused),
        Err(error) => Err(error.into()),
    }
}

/// What an application sees that is refused before, while or after it writes.
const fn is_refusal(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected
    )
}

fn number(variable: &str, default: u64) -> Result<u64> {
    settings::variable(variable).map_or(Ok(default), |it| {
        it.parse().with_context(|| format!("{variable}={it}"))
    })
}

#[test]
fn every_connection_is_accounted_for_exactly_once_under_stress() -> Result<()> {
    let seed = number("INTERCEPTOR_STRESS_SEED", 1)?;
    let time = Duration::from_secs(number("INTERCEPTOR_STRESS_SECONDS", 120)?);
    let Some(town) = Town::new()? else {
        return Ok(());
    };
    let _servers = town.serve()?;
    let outlook = Outlook::default();
    let half = u16::midpoint(FIRST_PORT, LAST_PORT);
    let client = |(index, (pod, party, address, ports))| Client {
        pod,
        party,
        address,
        ports,
        to: match party {
            Party::Member => town.for_the_caller(),
            Party::Stranger | Party::Visitor => town.for_the_outside(),
        },
        numbers: Numbers(seed.wrapping_mul(31).wrapping_add(index)),
        outlook: &outlook,
    };
    let of = |pod, party, address| {
        let ports = [FIRST_PORT..half, half..LAST_PORT];
        ports.map(|ports| (pod, party, address, ports))
    };
    let (caller, visitor, outside) = (&town.world.caller, &town.visitor, &town.outside);
    let clients = [
        of(caller, Party::Member, caller.v4()),
        of(caller, Party::Member, caller.v6()),
        of(visitor, Party::Visitor, visitor.v4()),
        of(outside, Party::Stranger, outside.v6()),
    ]
    .concat();
    let clients: Vec<_> = (0..).zip(clients).map(client).collect();

    let over = AtomicBool::new(false);
    let attempts = thread::scope(|scope| {
        let clients: Vec<_> = clients
            .into_iter()
            .map(|client| scope.spawn(|| client.pod.run(|| client.run(&over))))
            .collect();
        let changed = unrest(&town, &outlook, (seed, time));
        over.store(true, Ordering::Relaxed);
        let mut attempts = Vec::new();
        for client in clients {
            attempts.extend(interceptor_tests::netns::join(client.join())??);
        }
        changed.map(|()| attempts)
    });
    let attempts = attempts.with_context(|| format!("seed {seed}"))?;
    let agents = [&town.world.near, &town.world.far];
    let books = Books::close(&attempts, agents).with_context(|| format!("seed {seed}"))?;
    books.assert_balanced();
    Ok(())
}

/// Changes one thing after the other for as long as it is to go on, with a calm now and then.
fn unrest(town: &Town, outlook: &Outlook, (seed, time): (u64, Duration)) -> Result<()> {
    let (mut numbers, mut state) = (Numbers(seed), State::default());
    let start = Instant::now();
    while start.elapsed() < time {
        for _ in 0..FLURRY {
            state.change(&mut numbers);
            town.change(&state)?;
        }
        thread::sleep(CALM);
        outlook.begin(&state);
        thread::sleep(CALM);
        outlook.end();
    }
    Ok(())
}
