//! Which protocol two ends agree on, and that not a byte is lost when a session changes hands.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rstest::rstest;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf,
};

use super::super::record::{Content, HEADER, OVERHEAD, Session};
use super::super::testing::{World, id, soon};
use super::handover::{Agreed, Fast};
use super::{HandshakeError, Secured, Tls};
use crate::identity::Svid;

/// What an end offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offer {
    Http2,
    Fast,
}

struct Ends {
    tls: Tls,
    client: Arc<Svid>,
    server: Arc<Svid>,
}

impl Ends {
    async fn new() -> Self {
        let world = World::new();
        Self {
            tls: Tls::new(world.identities.verifier()),
            client: world.svid("client").await,
            server: world.svid("server").await,
        }
    }

    async fn fast(&self, wire: usize, bite: usize) -> (Box<Fast<Bites>>, Box<Fast<Bites>>) {
        let (near, far) = tokio::io::duplex(wire);
        let (near, far) = (Bites(near, bite), Bites(far, bite));
        let server = id("server");
        let (client, server) = soon(async {
            tokio::join!(
                self.tls
                    .connect_fast(&self.client, (&server, super::FAST), near),
                self.tls.accept_fast(&self.server, far)
            )
        })
        .await;
        (taken(client), taken(server))
    }
}

fn taken<S: std::fmt::Debug>(secured: Result<Secured<Agreed<S>>, HandshakeError>) -> Box<Fast<S>> {
    match secured.unwrap().stream {
        Agreed::Fast(fast) | Agreed::Mux(fast) => fast,
        Agreed::Http2(stream) => panic!("agreed on HTTP/2: {stream:?}"),
    }
}

fn record(session: &mut Session, data: &[u8]) -> Vec<u8> {
    let mut slot = vec![0; data.len() + OVERHEAD];
    slot[HEADER..HEADER + data.len()].copy_from_slice(data);
    let length = session.sealer.seal(&mut slot, data.len()).unwrap();
    assert_eq!(length, slot.len());
    slot
}

/// The next data that arrives.
async fn hear<S: AsyncRead + Unpin>(end: &mut Fast<S>) -> Vec<u8> {
    let mut buffer = end.early.to_vec();
    loop {
        if let Some(record) = end.session.opener.open(&mut buffer, 0).unwrap() {
            let Content::Data(range) = record.content else {
                panic!("no data");
            };
            let data = buffer[range].to_vec();
            end.early = buffer[record.end..].into();
            return data;
        }
        assert_ne!(soon(end.socket.read_buf(&mut buffer)).await.unwrap(), 0);
    }
}

#[rstest]
#[case::a_whole_flight_at_once(64 << 10, usize::MAX)]
#[case::some_bytes_at_once(100, usize::MAX)]
#[case::byte_by_byte(64 << 10, 1)]
#[tokio::test]
async fn two_of_us_agree_on_the_fast_protocol(#[case] wire: usize, #[case] bite: usize) {
    let ends = Ends::new().await;
    let (mut client, mut server) = ends.fast(wire, bite).await;
    for round in 0..3 {
        let said = format!("hello {round}");
        let sealed = record(&mut client.session, said.as_bytes());
        let (written, heard) = tokio::join!(client.socket.write_all(&sealed), hear(&mut server));
        written.unwrap();
        assert_eq!(heard, said.as_bytes());
        let sealed = record(&mut server.session, said.as_bytes());
        let (written, heard) = tokio::join!(server.socket.write_all(&sealed), hear(&mut client));
        written.unwrap();
        assert_eq!(heard, said.as_bytes());
    }
}

#[tokio::test]
async fn a_session_knows_who_is_at_its_other_end_whatever_is_spoken() {
    let ends = Ends::new().await;
    let (near, far) = tokio::io::duplex(64 << 10);
    let name = id("server");
    let (client, server) = tokio::join!(
        ends.tls
            .connect_fast(&ends.client, (&name, super::FAST), near),
        ends.tls.accept_fast(&ends.server, far)
    );
    let (client, server) = (client.unwrap(), server.unwrap());
    assert_eq!((client.peer, server.peer), (id("server"), id("client")));
    assert_eq!(client.facts.cipher, "TLS13_AES_128_GCM_SHA256");
    assert_eq!(server.facts.key_exchange, "X25519MLKEM768");
}

#[tokio::test]
async fn nobody_but_the_expected_server_gets_a_fast_session() {
    let ends = Ends::new().await;
    let (near, far) = tokio::io::duplex(64 << 10);
    let other = id("somebody-else");
    let (client, server) = tokio::join!(
        ends.tls
            .connect_fast(&ends.client, (&other, super::FAST), near),
        ends.tls.accept_fast(&ends.server, far)
    );
    assert_eq!(client.unwrap_err().reason(), "wrong_identity");
    assert_eq!(server.unwrap_err().reason(), "refused_by_peer_tls");
}

/// Data may come in the packet that ends the handshake. rustls must not swallow it.
#[tokio::test]
async fn data_right_behind_the_handshake_is_not_lost() {
    let ends = Ends::new().await;
    let (near, far) = tokio::io::duplex(64 << 10);
    let name = id("server");
    // The first future runs until it waits: the client's last flight and its data are in the wire
    // together before the server reads any of it.
    let (client, server) = soon(async {
        tokio::join!(
            async {
                let mut client = taken(
                    ends.tls
                        .connect_fast(&ends.client, (&name, super::FAST), near)
                        .await,
                );
                for said in ["one", "two", "three"] {
                    let sealed = record(&mut client.session, said.as_bytes());
                    client.socket.write_all(&sealed).await.unwrap();
                }
                client
            },
            ends.tls.accept_fast(&ends.server, far)
        )
    })
    .await;
    let mut server = taken(server);
    assert_eq!(
        server.early.len(),
        3 * OVERHEAD + 11,
        "received, still sealed"
    );
    for said in ["one", "two", "three"] {
        assert_eq!(hear(&mut server).await, said.as_bytes());
    }
    drop(client);
}

#[rstest]
#[case::the_server_knows_only_http2(Offer::Fast, Offer::Http2)]
#[case::the_client_knows_only_http2(Offer::Http2, Offer::Fast)]
#[tokio::test]
async fn a_peer_that_speaks_only_http2_gets_http2(#[case] client: Offer, #[case] server: Offer) {
    let ends = Ends::new().await;
    // So narrow that the end of the handshake and what follows are read in pieces.
    let (near, far) = tokio::io::duplex(1000);
    let name = id("server");
    let client = async {
        let mut stream: Box<dyn Stream> = match client {
            Offer::Http2 => Box::new(ends.tls.connect(&ends.client, &name, near).await?.stream),
            Offer::Fast => http2(
                ends.tls
                    .connect_fast(&ends.client, (&name, super::FAST), near)
                    .await?,
            ),
        };
        stream.write_all(&vec![7; 50_000]).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        Ok::<_, HandshakeError>(heard)
    };
    let server = async {
        let mut stream: Box<dyn Stream> = match server {
            Offer::Http2 => Box::new(ends.tls.accept(&ends.server, far).await?.stream),
            Offer::Fast => http2(ends.tls.accept_fast(&ends.server, far).await?),
        };
        let mut heard = vec![0; 50_000];
        stream.read_exact(&mut heard).await.unwrap();
        stream.write_all(&heard).await.unwrap();
        stream.shutdown().await.unwrap();
        Ok::<_, HandshakeError>(())
    };
    let (heard, served) = soon(async { tokio::join!(client, server) }).await;
    served.unwrap();
    assert_eq!(heard.unwrap(), vec![7; 50_000]);
}

/// A socket that gives no more than some bytes at once.
#[derive(Debug)]
struct Bites(DuplexStream, usize);

impl AsyncRead for Bites {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let most = self.1.min(buffer.remaining()).min(4096);
        let mut bite = [0; 4096];
        let mut bite = ReadBuf::new(&mut bite[..most]);
        let read = Pin::new(&mut self.0).poll_read(cx, &mut bite);
        buffer.put_slice(bite.filled());
        read
    }
}

impl AsyncWrite for Bites {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

fn http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    secured: Secured<Agreed<S>>,
) -> Box<dyn Stream> {
    match secured.stream {
        Agreed::Http2(stream) => stream,
        Agreed::Fast(_) | Agreed::Mux(_) => panic!("agreed on the fast protocol"),
    }
}
