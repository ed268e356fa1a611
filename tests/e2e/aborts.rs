//! Connections that end badly: reset by either end, closed at once, half closed, given up before they
//! are made. Each is told of exactly once, and nothing of it is left.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use interceptor_tests::access::Line;
use interceptor_tests::agent::{Agent, Setup};
use interceptor_tests::manifests::PeerAuthentication;
use interceptor_tests::pod::Pod;
use interceptor_tests::world::World;
use interceptor_tests::{apps, settings, wait};
use socket2::{Domain, Protocol, Socket, Type};

use crate::churn::held;
use crate::same_node::Home;

/// Clients at a time.
const CLIENTS: usize = 4;

/// Connections of each of them, unless `INTERCEPTOR_ABORTS` says otherwise.
const EACH: usize = 300;

/// Resets whoever says something.
const RESETTING: u16 = 8081;

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum Manner {
    ResetAfterSpeaking,
    CloseAtOnce,
    ResetAtOnce,
    BeReset,
    HalfClose,
    DoNotWait,
}

const MANNERS: [Manner; 6] = [
    Manner::ResetAfterSpeaking,
    Manner::CloseAtOnce,
    Manner::ResetAtOnce,
    Manner::BeReset,
    Manner::HalfClose,
    Manner::DoNotWait,
];

impl Manner {
    /// Makes one connection. How that fails is the client's affair.
    fn try_on(self, to: SocketAddr) -> io::Result<()> {
        if matches!(self, Self::DoNotWait) {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_nonblocking(true)?;
            return socket.connect(&to.into());
        }
        let to = match self {
            Self::BeReset => SocketAddr::new(to.ip(), RESETTING),
            _ => to,
        };
        let mut stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(wait::PATIENCE))?;
        match self {
            Self::ResetAfterSpeaking => {
                stream.write_all(b"x")?;
                apps::reset_on_close(&stream)
            }
            Self::ResetAtOnce => apps::reset_on_close(&stream),
            Self::BeReset => {
                stream.write_all(b"x")?;
                stream.read(&mut [0]).map(drop)
            }
            Self::HalfClose => {
                stream.write_all(b"x")?;
                stream.shutdown(Shutdown::Write)?;
                stream.read_to_end(&mut Vec::new()).map(drop)
            }
            Self::CloseAtOnce | Self::DoNotWait => Ok(()),
        }
    }
}

/// Has all clients connect to these in all manners, `each` times or until `done`.
fn abort(pod: &Pod, to: &[SocketAddr], each: usize, done: &AtomicBool) -> Result<()> {
    thread::scope(|scope| {
        let client = |number: usize| {
            pod.run(move || {
                for turn in (number..).step_by(CLIENTS).take(each) {
                    let manner = MANNERS.iter().cycle().nth(turn % MANNERS.len());
                    let to = to.iter().cycle().nth(turn / MANNERS.len() % to.len());
                    if let (Some(manner), Some(to)) = (manner, to) {
                        drop(manner.try_on(*to));
                    }
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                }
            })
        };
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| scope.spawn(move || client(number)))
            .collect();
        for client in clients {
            let outcome = client.join();
            outcome.map_err(|_panic| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(())
    })
}

/// Connection numbers of which more than one line of a direction tells.
fn told_twice(lines: &[Line]) -> Vec<&Line> {
    let mut told: HashMap<_, Vec<&Line>> = HashMap::new();
    for line in lines {
        let ends = told.entry((line.is_outbound(), &line.conn_id)).or_default();
        ends.push(line);
    }
    told.into_values()
        .filter(|it| it.len() > 1)
        .flatten()
        .collect()
}

/// Whether the agent's metrics and lines agree, and nothing is open any more.
fn is_settled(agent: &Agent, lines: &[Line]) -> Result<()> {
    let metrics = agent.metrics()?;
    let outbound = lines.iter().filter(|it| it.is_outbound()).count();
    let inbound = lines.len() - outbound;
    for (reporter, lines) in [("source", outbound), ("destination", inbound)] {
        for name in ["opened", "closed"] {
            let name = format!("istio_tcp_connections_{name}_total");
            let counted = metrics.sum(&name, &[("reporter", reporter)]).abs();
            ensure!(
                format!("{counted}") == format!("{lines}"),
                "{name} of {reporter}: {counted}, and {lines} lines"
            );
        }
    }
    for nothing in [
        "interceptor_connections_open",
        "interceptor_access_lines_lost_total",
    ] {
        let some = metrics.sum(nothing, &[]).abs();
        ensure!(some == 0.0, "{nothing}: {some}");
    }
    Ok(())
}

/// How often something happened in the kernel.
fn events(agent: &Agent, names: &[&str]) -> Result<f64> {
    let metrics = agent.metrics()?;
    let of = |name: &&str| metrics.sum("interceptor_kernel_events_total", &[("event", name)]);
    Ok(names.iter().map(of).sum::<f64>().abs())
}

/// Whether each connection that the kernel has seen is told of, or counted as lost.
fn all_is_told(agent: &Agent) -> Result<()> {
    let lines = agent.access();
    is_settled(agent, &lines)?;
    let outbound = lines.iter().filter(|it| it.is_outbound()).count();
    let seen = events(agent, &["captured", "direct"])?;
    let lost = events(agent, &["direct_event_lost"])?;
    ensure!(
        format!("{}", seen - lost) == format!("{outbound}"),
        "the kernel saw {seen} and lost {lost}, {outbound} are told"
    );
    Ok(())
}

fn assert_told_once(home: &Home) {
    for agent in [&home.world.near, &home.world.far] {
        let lines = agent.access();
        let twice = told_twice(&lines);
        assert!(twice.is_empty(), "{twice:#?}");
    }
}

/// Whether no connection is open, in the kernel's maps and among the agent's sockets.
fn nothing_is_left(home: &Home, sockets_before: Option<usize>) -> Result<()> {
    let open = home.world.near.metrics()?;
    let open = open.sum("interceptor_connections_open", &[]).abs();
    ensure!(open == 0.0, "{open} open");
    let mut maps = held(&home.world)?.maps;
    maps.retain(|(name, entries)| ["FLOWS", "OPEN"].contains(&&**name) && *entries > 0);
    ensure!(maps.is_empty(), "{maps:?}");
    if let Some(before) = sockets_before {
        let now = sockets(home)?;
        // Of who asks right now.
        ensure!(now <= before + 4, "{now} sockets, {before} before");
    }
    Ok(())
}

/// How many sockets the agent has.
fn sockets(home: &Home) -> Result<usize> {
    let files = held(&home.world)?.files;
    Ok(files.get("socket").copied().unwrap_or_default())
}

fn each() -> Result<usize> {
    let number = settings::variable("INTERCEPTOR_ABORTS");
    number.map_or(Ok(EACH), |it| it.parse().context("INTERCEPTOR_ABORTS"))
}

#[test]
fn connections_that_are_broken_off_are_told_once_and_leave_nothing() -> Result<()> {
    // Tunnels that nobody uses are connections, too.
    let setup = Setup {
        extra: "transport:\n  idleTimeout: 1s\n".to_owned(),
        ..Setup::default()
    };
    let Some(mut home) = Home::set_up(setup, |it| it.add(PeerAuthentication::strict()))? else {
        return Ok(());
    };
    let _there = home.world.server.serve(8080, apps::echo)?;
    let _beside = home.neighbour.serve(8080, apps::echo)?;
    let _resets = home.world.server.serve(RESETTING, apps::reset)?;
    let _resets_beside = home.neighbour.serve(RESETTING, apps::reset)?;
    let to = [
        home.world.server.at(8080),
        home.world.server.at6(8080),
        home.neighbour.at(8080),
        home.neighbour.at6(8080),
    ];
    home.granted(home.neighbour.at(8080))?;
    home.granted(home.neighbour.at6(8080))?;
    wait::settled("the first to be over", || nothing_is_left(&home, None))?;
    let sockets = sockets(&home)?;
    let never = AtomicBool::new(false);
    abort(&home.world.caller, &to, each()?, &never)?;
    wait::settled("everything to be told", || all_is_told(&home.world.near))?;
    let far = &home.world.far;
    wait::settled("the other end to have told", || {
        is_settled(far, &far.access())
    })?;
    assert_told_once(&home);
    wait::settled("everything to be released", || {
        nothing_is_left(&home, Some(sockets))
    })?;

    // The same, and the agent dies and comes back meanwhile.
    let done = AtomicBool::new(false);
    let World { near, caller, .. } = &mut home.world;
    thread::scope(|scope| -> Result<()> {
        let (caller, to, done) = (&*caller, &to, &done);
        let clients = scope.spawn(move || abort(caller, to, usize::MAX, done));
        let more = |agent: &Agent| {
            let before = agent.access().len();
            wait::so("more to be told", || agent.access().len() > before + 50)
        };
        let mut dies = || -> Result<()> {
            more(near)?;
            near.kill()?;
            near.restart()?;
            more(near)
        };
        let died = dies();
        done.store(true, Ordering::Relaxed);
        let ended = clients.join();
        ended.map_err(|_panic| anyhow::anyhow!("the clients panicked"))??;
        died
    })?;
    wait::settled("everything to be released", || {
        nothing_is_left(&home, Some(sockets))
    })?;
    assert_told_once(&home);
    Ok(())
}
