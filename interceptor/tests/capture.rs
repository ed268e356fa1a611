//! What the kernel programs do to real connections. Needs root; each test has namespaces and a
//! node of its own, so they run beside each other and beside agents.

mod support;

use std::io;
use std::net::SocketAddr;

use interceptor::capture::{Counter, Enrolled};
use interceptor::net::Purpose;
use rstest::rstest;
use support::{Netns, Node, may_run, ping, workload};
use tokio::net::{TcpListener, TcpStream};

const V4: &str = "10.77.0.2";
const V6: &str = "fd77::2";
const PEER_V4: &str = "10.77.0.1";

/// A workload's namespace, connected to a peer's.
fn connected() -> (Netns, Netns) {
    let (pod, peer) = (Netns::new("pod"), Netns::new("peer"));
    pod.connect(
        &["10.77.0.2/24", "fd77::2/64"],
        &peer,
        &["10.77.0.1/24", "fd77::1/64"],
    );
    (pod, peer)
}

/// Accepts from whichever of the listeners has a connection.
async fn accept(listeners: &[TcpListener]) -> (TcpStream, SocketAddr) {
    let accepts = listeners.iter().map(|it| Box::pin(it.accept()));
    let accept = futures_race(accepts.collect());
    let limit = std::time::Duration::from_secs(10);
    tokio::time::timeout(limit, accept)
        .await
        .expect("no connection arrived")
        .unwrap()
}

/// The first of several futures to be ready.
async fn futures_race<F: Future + Unpin>(mut futures: Vec<F>) -> F::Output {
    std::future::poll_fn(move |context| {
        for future in &mut futures {
            if let std::task::Poll::Ready(output) = std::pin::Pin::new(future).poll(context) {
                return std::task::Poll::Ready(output);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

/// True if no listener has a connection waiting.
async fn is_idle(enrolled: &Enrolled) -> bool {
    let listeners = &enrolled.listeners;
    let all = [&listeners.outbound, &listeners.inbound, &listeners.hbone];
    for listener in all.into_iter().flatten() {
        let waiting = std::future::poll_fn(|context| {
            std::task::Poll::Ready(listener.poll_accept(context).is_ready())
        });
        if waiting.await {
            return false;
        }
    }
    true
}

fn refused(result: io::Result<std::net::TcpStream>) -> bool {
    result.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[rstest]
#[case::ipv4("192.0.2.1:443", V4)]
#[case::ipv6("[2001:db8::1]:443", V6)]
#[case::ipv4_mapped("[::ffff:192.0.2.1]:8443", V4)]
#[tokio::test]
async fn an_outbound_connection_reaches_the_agent_with_its_destination(
    #[case] to: &str,
    #[case] own: &str,
) {
    if !may_run() {
        return;
    }
    let (pod, _peer) = connected();
    let node = Node::new();
    let mut capture = node.start();
    let enrolled = capture.enrol(&workload(&pod, &[V4, V6])).unwrap();

    let app = pod.dial(to).unwrap();
    assert_eq!(app.peer_addr().unwrap(), to.parse().unwrap());
    let local = app.local_addr().unwrap().ip().to_canonical();
    assert_eq!(local.to_string(), own);

    let (stream, from) = accept(&enrolled.listeners.outbound).await;
    let destination = enrolled.origin.outbound(&stream).unwrap();
    let expected: SocketAddr = to.parse().unwrap();
    assert_eq!(destination.port(), expected.port());
    assert_eq!(destination.ip(), expected.ip().to_canonical());
    assert_eq!(from.ip().to_canonical().to_string(), own);
    let stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    ping(&app, &stream);
    ping(&stream, &app);
    assert!(capture.counters().of(Counter::Captured) == 1);
}
