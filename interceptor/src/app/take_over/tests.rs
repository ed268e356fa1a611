//! Handing over, played by two ends of one socket.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rstest::rstest;
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Notify;

use super::*;
use crate::capture::Estate;
use crate::config::Config;
use crate::drain::Tasks;

const KEY: ListenerKey = ListenerKey {
    workload: u64::MAX,
    role: 2,
    family: 4,
};

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// So many listeners, and a file that stands for the lock.
async fn estate(listeners: usize) -> Estate {
    let mut estate = Estate {
        lock: OwnedFd::from(tempfile::tempfile().unwrap()),
        listeners: Vec::new(),
    };
    for _ in 0..listeners {
        estate.listeners.push((KEY, Arc::new(listener().await.0)));
    }
    estate
}

/// An agent's run folder and the configuration that names it.
fn node() -> (TempDir, Config) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::for_node("here");
    config.run_folder = folder.path().to_owned();
    (folder, config)
}

#[tokio::test]
async fn everything_is_handed_over_and_then_it_is_the_successors() {
    let (_folder, config) = node();
    let (giver, mut petitions) = Giver::new("here".into());
    let tasks = Tasks::new();
    giver.serve(&config.run_folder, &tasks);
    // More than fit into one message.
    let estate = estate(150).await;
    let (port, address) = listener().await;
    let ports = [(address, OwnedFd::from(port.into_std().unwrap()))];
    let old = async {
        let mut petition = petitions.recv().await.unwrap();
        assert_eq!(petition.version, env!("CARGO_PKG_VERSION"));
        petition.conduct(&estate, &ports, || ()).await.unwrap();
    };
    let new = async {
        let (taking, handed) = Taking::begin(&config).await.unwrap().unwrap();
        let addresses = handed.heritage.listeners.iter();
        let addresses: Vec<_> = addresses
            .map(|(key, socket)| {
                assert_eq!(*key, KEY);
                let socket = std::net::TcpListener::from(socket.try_clone().unwrap());
                socket.local_addr().unwrap()
            })
            .collect();
        let expected = estate.listeners.iter();
        let expected: Vec<_> = expected.map(|(_, it)| it.local_addr().unwrap()).collect();
        assert_eq!(addresses, expected);
        let ports = handed.ports.iter().map(|it| it.local_addr().unwrap());
        assert_eq!(ports.collect::<Vec<_>>(), [address]);
        taking.finish().await.unwrap();
    };
    tokio::join!(old, new);
    tasks.finish(ANSWER).await;
}

#[tokio::test]
async fn nobody_to_take_over_from_is_no_error() {
    let (_folder, config) = node();
    assert!(Taking::begin(&config).await.unwrap().is_none());
    // What a killed agent leaves.
    drop(UnixListener::bind(socket(&config.run_folder)).unwrap());
    assert!(Taking::begin(&config).await.unwrap().is_none());
}

#[rstest]
#[case::another_node(
    LAYOUT_OF_OURS,
    PROTOCOL,
    "there",
    "it is the agent of node here, not there"
)]
#[case::another_layout(99, PROTOCOL, "here", "have layout v")]
#[case::another_protocol(LAYOUT_OF_OURS, 99, "here", "hands over by protocol 1")]
#[tokio::test]
async fn who_means_something_else_is_refused_before_anything_is_touched(
    #[case] layout: u32,
    #[case] protocol: u32,
    #[case] node_name: &str,
    #[case] why: &str,
) {
    let (_folder, config) = node();
    let (giver, mut petitions) = Giver::new("here".into());
    let tasks = Tasks::new();
    giver.serve(&config.run_folder, &tasks);
    let stream = UnixStream::connect(socket(&config.run_folder)).await;
    let mut channel = Channel::new(stream.unwrap());
    let hello = Message::Hello {
        protocol,
        layout,
        version: "9".to_owned(),
        node: node_name.to_owned(),
    };
    say(&channel, &hello, &[]).await.unwrap();
    let (answer, _) = hear(&mut channel, ANSWER).await.unwrap();
    let error = unexpected(&answer).to_string();
    assert!(error.contains(why), "{error}");
    assert!(petitions.try_recv().is_err());
    tasks.finish(ANSWER).await;
}

const LAYOUT_OF_OURS: u32 = interceptor_common::LAYOUT;

#[rstest]
#[case::says_so(true)]
#[case::vanishes(false)]
#[tokio::test]
async fn a_successor_that_gives_up_leaves_a_predecessor_that_knows(#[case] says_so: bool) {
    let (_folder, config) = node();
    let (giver, mut petitions) = Giver::new("here".into());
    let tasks = Tasks::new();
    giver.serve(&config.run_folder, &tasks);
    let estate = estate(3).await;
    let new = async {
        let (taking, _handed) = Taking::begin(&config).await.unwrap().unwrap();
        if says_so {
            taking.give_up("no room".to_owned()).await;
        }
    };
    let old = async {
        let mut petition = petitions.recv().await.unwrap();
        petition.conduct(&estate, &[], || ()).await.unwrap_err()
    };
    let (error, ()) = tokio::join!(old, new);
    match (says_so, error) {
        (true, TakeOverError::GaveUp(why)) => assert_eq!(why, "no room"),
        (false, TakeOverError::Gone | TakeOverError::Broken(_)) => {}
        (_, other) => panic!("{other}"),
    }
    tasks.finish(ANSWER).await;
}

#[tokio::test(start_paused = true)]
async fn a_predecessor_that_gives_up_waiting_keeps_everything() {
    let (_folder, config) = node();
    let (giver, mut petitions) = Giver::new("here".into());
    let tasks = Tasks::new();
    giver.serve(&config.run_folder, &tasks);
    let estate = estate(1).await;
    let new = async {
        let (taking, _handed) = Taking::begin(&config).await.unwrap().unwrap();
        // It hangs for longer than the predecessor waits.
        tokio::time::sleep(2 * HAND_OVER).await;
        taking.finish().await.unwrap_err()
    };
    let old = async {
        let mut petition = petitions.recv().await.unwrap();
        petition.conduct(&estate, &[], || ()).await.unwrap_err()
    };
    let (new, old) = tokio::join!(new, old);
    assert!(matches!(old, TakeOverError::Silent(_)), "{old}");
    assert!(matches!(new, TakeOverError::GaveUp(_)), "{new}");
    tasks.finish(ANSWER).await;
}

/// It was stopped, say, and nobody knows what it does when it goes on.
#[tokio::test(start_paused = true)]
async fn a_successor_that_does_not_read_holds_nobody_up_and_is_waited_for() {
    let (_folder, config) = node();
    let (giver, mut petitions) = Giver::new("here".into());
    let tasks = Tasks::new();
    giver.serve(&config.run_folder, &tasks);
    let mut estate = estate(1).await;
    let one = estate.listeners[0].clone();
    // More than the socket takes.
    estate.listeners.resize(5_000, one);
    let stream = UnixStream::connect(socket(&config.run_folder)).await;
    let channel = Channel::new(stream.unwrap());
    let hello = Message::Hello {
        protocol: PROTOCOL,
        layout: LAYOUT_OF_OURS,
        version: "9".to_owned(),
        node: "here".to_owned(),
    };
    say(&channel, &hello, &[]).await.unwrap();
    let mut petition = petitions.recv().await.unwrap();
    let conducting = petition.conduct(&estate, &[], || ());
    let outcome = tokio::time::timeout(3 * HAND_OVER, conducting).await;
    let error = outcome.expect("it goes on").unwrap_err();
    assert!(matches!(error, TakeOverError::Silent(_)), "{error}");
    let waiting = tokio::time::timeout(HAND_OVER, petition.gone()).await;
    assert!(waiting.is_err(), "it is still there");
    drop(channel);
    petition.gone().await;
    tasks.finish(ANSWER).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_cannot_make_its_socket_tries_again() {
    let (_folder, config) = node();
    let (giver, _petitions) = Giver::new("here".into());
    let tasks = Tasks::new();
    // Something is in the way.
    let path = socket(&config.run_folder);
    std::fs::create_dir_all(path.join("taken")).unwrap();
    giver.serve(&config.run_folder, &tasks);
    tokio::time::sleep(ANSWER).await;
    std::fs::remove_dir_all(&path).unwrap();
    tokio::time::sleep(2 * ANSWER).await;
    UnixStream::connect(&path).await.unwrap();
    tasks.finish(ANSWER).await;
}

#[tokio::test]
async fn a_predecessor_that_dies_leaves_it_to_the_successor() {
    let (_folder, config) = node();
    let (giver, mut petitions) = Giver::new("here".into());
    let tasks = Tasks::new();
    giver.serve(&config.run_folder, &tasks);
    let (estate, offered) = (estate(1).await, Notify::new());
    let old = async {
        let mut petition = petitions.recv().await.unwrap();
        tokio::select! {
            _ = petition.conduct(&estate, &[], || ()) => panic!("nobody has finished"),
            () = offered.notified() => {}
        }
    };
    let new = async {
        let begun = Taking::begin(&config).await.unwrap().unwrap();
        offered.notify_one();
        begun
    };
    let ((), (taking, _handed)) = tokio::join!(old, new);
    taking.finish().await.unwrap();
    tasks.finish(ANSWER).await;
}

#[tokio::test]
async fn sockets_without_names_are_not_taken() {
    let (_folder, config) = node();
    let listener = UnixListener::bind(socket(&config.run_folder)).unwrap();
    let old = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut channel = Channel::new(stream);
        hear(&mut channel, ANSWER).await.unwrap();
        let offer = Message::Offer {
            version: "9".to_owned(),
            pid: 1,
            sockets: 1,
        };
        say(&channel, &offer, &[]).await.unwrap();
        let names = vec![Name::Lock];
        say(&channel, &Message::Sockets { names }, &[])
            .await
            .unwrap();
        channel
    };
    let (taken, _channel) = tokio::join!(Taking::begin(&config), old);
    let error = taken.unwrap_err();
    assert!(matches!(error, TakeOverError::Unexpected(_)), "{error}");
}
