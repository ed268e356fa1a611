//! Two agents of which one does not know the protocol: HTTP/2 as everybody speaks it.

use std::sync::Arc;

use rstest::rstest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::super::testing::{Carriers, Path, World, soon};

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
        // It is used again, unless it was forgotten meanwhile what the peer speaks (once a second).
        assert!(client.carriers() <= 2);
    }
}
