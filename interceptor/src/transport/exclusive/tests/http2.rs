//! Two ends of which one does not know the protocol: HTTP/2 as everybody speaks it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rstest::rstest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::super::Client;
use super::super::super::testing::{Carriers, Path, World, soon};
use super::super::super::tls::FAST;
use super::interop::{Foreign, HTTP2 as H2, echo, speak, spliced};

#[rstest]
#[case::the_server(Carriers::Exclusive, Carriers::Shared)]
#[case::the_client(Carriers::Shared, Carriers::Exclusive)]
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_does_not_know_the_protocol_is_spoken_to_in_http2(
    #[case] client: Carriers,
    #[case] server: Carriers,
) {
    let near = World::on(client);
    let far = World {
        identities: Arc::clone(&near.identities),
        ..World::on(server)
    };
    let (gateway, _ends) = far.node().await;
    let client = near.client().await;
    for _ in 0..3 {
        let mut path = Path::open(&near, &client, &gateway).await;
        path.client.write_all(b"hello").await.unwrap();
        path.client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        soon(path.server.read_to_end(&mut heard)).await.unwrap();
        assert_eq!(heard, b"hello");
        drop(path.server);
        assert_eq!(soon(path.outbound).await.unwrap().reason(), "app_closed");
        assert_eq!(client.carriers(), 1, "and it is used again");
    }
}

/// How long one agent serves at an address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reign {
    /// For good.
    Lasting,
    /// One stream.
    Brief,
}

/// Agents that serve at one address, one after the other, and what was agreed upon with them.
async fn reigning(
    world: &World,
    agents: &'static [(&[u8], Reign)],
) -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let mut foreign = Foreign::speaking(world, H2).await;
    let address = foreign.address;
    let mut successors = Vec::new();
    for (protocol, reign) in agents {
        let agent = Foreign::speaking_any(world, &[protocol, H2]).await;
        successors.push((agent.tls, *reign));
    }
    let (tasks, agreed) = (world.tasks.clone(), Arc::default());
    let telling: Arc<Mutex<Vec<_>>> = Arc::clone(&agreed);
    world.tasks.spawn("foreign agents", async move {
        for (tls, reign) in successors {
            foreign.tls = tls;
            let stream = foreign.accept().await;
            let protocol = stream.get_ref().1.alpn_protocol().unwrap_or_default();
            telling.lock().push(protocol.to_vec());
            let mut connection = speak(stream).await;
            while let Some(Ok((request, respond))) = connection.accept().await {
                tasks.spawn("echo", echo(request.into_body(), respond));
                if reign == Reign::Brief {
                    connection.graceful_shutdown();
                }
            }
        }
    });
    (address, agreed)
}

/// Carries a byte there and back.
async fn once(world: &World, client: &Client, address: SocketAddr) {
    let (mut near, end, _) = spliced(world, client, address).await;
    near.write_all(b"?").await.unwrap();
    soon(near.read_exact(&mut [0])).await.unwrap();
    near.shutdown().await.unwrap();
    assert_eq!(soon(end).await.unwrap().reason(), "app_closed");
}

/// Lets idle carriers be looked at.
async fn some_seconds() {
    tokio::time::pause();
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    tokio::time::resume();
}

/// A handshake is not on the path of a connection to a peer to which there is a carrier.
#[tokio::test]
async fn a_peer_that_speaks_http2_is_not_asked_again_as_long_as_it_has_a_carrier() {
    let world = World::new();
    let (address, agreed) = reigning(&world, &[(H2, Reign::Lasting), (FAST, Reign::Lasting)]).await;
    let client = world.client().await;
    for _ in 0..3 {
        once(&world, &client, address).await;
        some_seconds().await;
    }
    assert_eq!(*agreed.lock(), [H2]);
    assert_eq!(client.carriers(), 1);
}

/// And whoever follows a peer is asked as if nobody had been there.
#[tokio::test]
async fn a_peer_that_is_followed_by_an_agent_of_ours_is_found_out_when_its_carriers_are_gone() {
    let world = World::new();
    let (address, agreed) = reigning(&world, &[(H2, Reign::Brief), (FAST, Reign::Lasting)]).await;
    let client = world.client().await;
    once(&world, &client, address).await;
    soon(async {
        while client.carriers() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for _ in 0..3 {
        once(&world, &client, address).await;
        some_seconds().await;
    }
    assert_eq!(*agreed.lock(), [H2, FAST]);
    assert_eq!(client.idle_carriers(), 1);
}
