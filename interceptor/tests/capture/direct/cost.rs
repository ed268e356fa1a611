//! What the programs cost a direct connection, by the kernel's own accounting. A measurement, and
//! so run by hand and on a quiet machine:
//!
//! ```text
//! cargo test --release -p interceptor --test capture -- --ignored --nocapture cost
//! ```
//!
//! Beside it stands what `connect(2)` takes with and without the programs, in turns and on one
//! processor: on several, whether the other end is woken elsewhere makes ten microseconds.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::{APP, Cell, tcp};
use crate::support::{Netns, may_run};

const CONNECTIONS: u32 = 4_000;
const TURNS: usize = 12;
/// Fewer than a listener keeps waiting.
const BATCH: u32 = 100;

/// Connects so often, and returns how long each `connect(2)` took, the quickest first. Whoever
/// accepts does so between the batches, so that nobody is woken within a call.
fn connect(from: &Netns, to: &str, app: &TcpListener) -> Vec<Duration> {
    let address: SocketAddr = to.parse().unwrap();
    let address = address.into();
    let mut took = Vec::new();
    for _ in 0..CONNECTIONS / BATCH {
        let sockets = (0..BATCH).map(|_| {
            let socket = tcp(from, to);
            // Closed with a reset, so that no port stays in TIME_WAIT.
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            let begun = Instant::now();
            socket.connect(&address).unwrap();
            took.push(begun.elapsed());
            socket
        });
        let sockets: Vec<_> = sockets.collect();
        drop(
            sockets
                .iter()
                .map(|_| app.accept().unwrap())
                .collect::<Vec<_>>(),
        );
    }
    took.sort_unstable();
    took
}

/// How often each program has run, and for how long.
fn runs(cell: &Cell) -> BTreeMap<String, (u64, Duration)> {
    let ours: Vec<_> = cell
        .capture
        .status()
        .programs
        .iter()
        .map(|it| it.id)
        .collect();
    let mut all: BTreeMap<String, (u64, Duration)> = BTreeMap::new();
    for program in loaded_programs().flatten() {
        if ours.contains(&program.id()) {
            let sum = all
                .entry(program.name_as_str().unwrap().to_owned())
                .or_default();
            sum.0 += program.run_count();
            sum.1 += program.run_time();
        }
    }
    all
}

/// A cell whose source may connect to the application.
fn granted() -> Cell {
    let cell = Cell::new();
    cell.allow();
    cell
}

/// How long `connect(2)` takes on the same path while nothing of ours is attached.
fn without_us() -> Duration {
    let (a, b, host) = (Netns::new("a"), Netns::new("b"), Netns::new("host"));
    host.route_between();
    a.connect(&["10.81.0.2/24"], &host, &["10.81.0.1/24"]);
    b.connect(&["10.82.0.2/24"], &host, &["10.82.0.1/24"]);
    a.default_route("10.81.0.1");
    b.default_route("10.82.0.1");
    let app = b.listen("[::]:9000");
    median(&connect(&a, "10.82.0.2:9000", &app))
}

/// The one in the middle.
fn median(took: &[Duration]) -> Duration {
    took[took.len() / 2]
}

/// Shows one line.
#[expect(clippy::print_stderr, reason = "a measurement is for reading")]
fn show(line: &str) {
    eprintln!("{line}");
}

#[tokio::test]
#[ignore = "a measurement"]
async fn cost_of_a_direct_connection() {
    if !may_run() {
        return;
    }
    let mut here = CpuSet::new();
    here.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &here).unwrap();
    let mut medians = [Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        let [plain, direct] = &mut medians;
        plain.push(without_us());
        let mut cell = granted();
        direct.push(median(&connect(&cell.a, APP, &cell.app)));
        while cell.events.try_next().is_some() {}
    }
    for (name, all) in ["without us", "direct"].into_iter().zip(&mut medians) {
        all.sort_unstable();
        show(&format!(
            "connect(2), {name}: medians of {TURNS} turns {all:?}"
        ));
    }

    let cell = granted();
    let counting = enable_stats(Stats::RunTime).unwrap();
    let before = runs(&cell);
    connect(&cell.a, APP, &cell.app);
    let after = runs(&cell);
    drop(counting);
    let mut total = 0.0;
    for (name, (count, time)) in after {
        let (count_before, time_before) = before.get(&name).copied().unwrap_or_default();
        let (count, time) = (count - count_before, time.saturating_sub(time_before));
        if count == 0 {
            continue;
        }
        let each = time.as_secs_f64() * 1e9 / f64::from(u32::try_from(count).unwrap());
        let runs = f64::from(u32::try_from(count).unwrap()) / f64::from(CONNECTIONS);
        total += each * runs;
        show(&format!(
            "{name}: {each:.0} ns, {runs:.1} runs per connection"
        ));
    }
    show(&format!("all programs: {total:.0} ns per connection"));
    assert_eq!(cell.direct.lost(), 0);
}
