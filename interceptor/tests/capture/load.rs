//! Many connections at once: none gets another one's destination.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;

use interceptor::capture::Counter;
use tokio::io::AsyncWriteExt;

use crate::support::{Netns, Node, V4, V6, connected, may_run, workload};

/// Threads that connect, and connections of each.
const THREADS: u16 = 4;
const CONNECTIONS: u16 = 2_500;

/// Destinations by number: families and ports mixed, so that a mix-up would show.
fn destination(number: u16) -> SocketAddr {
    let port = 1 + number % 60_000;
    let host = number % 250;
    match number % 3 {
        0 => SocketAddr::new([192, 0, 2, u8::try_from(host).unwrap()].into(), port),
        1 => SocketAddr::new([0x2001, 0xdb8, 0, 0, 0, 0, 0, host].into(), port),
        _ => SocketAddr::new([0, 0, 0, 0, 0, 0xffff, 0xc633, 0x6400 + host].into(), port),
    }
}

/// Connects again and again; the agent answers with the destination that it was told.
fn connect_all(pod: &Netns, thread: u16) -> BTreeMap<String, u32> {
    let mut outcomes = BTreeMap::new();
    for number in 0..CONNECTIONS {
        let to = destination(thread * CONNECTIONS + number);
        let outcome = match pod.dial(&to.to_string()) {
            Err(error) => format!("connect: {error}"),
            // One in eight does not wait: the agent then sees an aborted connection.
            Ok(_aborted) if number % 8 == 0 => "aborted".to_owned(),
            Ok(mut app) => {
                let mut answer = String::new();
                let read = app.read_to_string(&mut answer);
                let expected = SocketAddr::new(to.ip().to_canonical(), to.port()).to_string();
                match read {
                    Ok(_) if answer == expected => "right".to_owned(),
                    Ok(_) => format!("wrong: {answer} for {expected}"),
                    Err(error) => format!("read: {error}"),
                }
            }
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    outcomes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_one_of_ten_thousand_connections_keeps_its_destination() {
    if !may_run() {
        return;
    }
    let (pod, _peer) = connected();
    let node = Node::new();
    let mut capture = node.start();
    let enrolled = capture.enrol(&workload(&pod, &[V4, V6])).unwrap();
    let serving = interceptor::drain::Tasks::new();
    for listener in enrolled.listeners.outbound {
        let origin = enrolled.origin.clone();
        serving.spawn("outbound", async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = match origin.outbound(&stream) {
                    Ok(destination) => destination.to_string(),
                    // An aborted client may be gone already; everything else is a miss.
                    Err(error) => error.reason().to_string(),
                };
                let _aborted = stream.write_all(answer.as_bytes()).await.is_err();
            }
        });
    }
    let pod = Arc::new(pod);
    let mut total: BTreeMap<String, u32> = BTreeMap::new();
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let pod = Arc::clone(&pod);
            std::thread::spawn(move || connect_all(&pod, thread))
        })
        .collect();
    let joined = tokio::task::spawn_blocking(|| {
        threads
            .into_iter()
            .map(|it| it.join().unwrap())
            .collect::<Vec<_>>()
    });
    for outcomes in joined.await.unwrap() {
        for (outcome, count) in outcomes {
            *total.entry(outcome).or_default() += count;
        }
    }
    serving.cancel();
    let expected = BTreeMap::from([("aborted".to_owned(), 1_252), ("right".to_owned(), 8_748)]);
    assert_eq!(total, expected);
    let counters = capture.counters();
    assert_eq!(counters.of(Counter::Captured), 10_000);
    assert_eq!(counters.of(Counter::AssignedOutbound), 10_000);
    assert_eq!(counters.of(Counter::FlowNotPublished), 0);
}
