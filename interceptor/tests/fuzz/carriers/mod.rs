//! Carriers whose other end does what it likes: a peer with a good certificate that speaks a protocol
//! of ours over real TLS, and then says frames, and bytes that are none, in any order.
//!
//! What is true of what the peer said is found by a second, simple reader ([`Spoken`]). Whatever it
//! was:
//!
//! * an application hears the beginning of what was said on its own stream, and nothing else;
//! * it hears an end of file only if that stream was ended in order, and then it has heard all;
//! * what the agent answers is bounded by what it was told;
//! * when the peer is gone, everything ends.

pub(crate) mod client;
mod route;
pub(crate) mod server;

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use interceptor::drain::Tasks;
use interceptor::identity::{Ca, Identities, Svid};
use interceptor::net::{Dialer, reset_on_close};
use interceptor::transport::{Client, Config, Server};
use interceptor_policy::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};

/// Our own protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// One stream at a time.
    Exclusive,
    /// Many.
    Shared,
}

impl Protocol {
    /// How it is called in the handshake.
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Exclusive => b"interceptor-hbone/1",
            Self::Shared => b"interceptor-hbone/2",
        }
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What may end takes milliseconds; what has not ended by then never will.
const SOON: Duration = Duration::from_secs(10);
/// Until there may be a free port again.
const PORTS: Duration = Duration::from_millis(100);
/// All that a peer says in one run: less than sockets hold, so that nobody waits for who does not
/// read.
const MOST: usize = 192 << 10;

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RESET: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GO_AWAY: u8 = 7;
}

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// Our end, which lives for all runs of a target.
struct World {
    runtime: Runtime,
    identities: Arc<Identities>,
    config: Arc<Config>,
    tasks: Tasks,
    caller: Arc<Svid>,
    server: Arc<Svid>,
    protocol: Protocol,
}

fn id(name: &str) -> SpiffeId {
    let id = format!("spiffe://mesh.test/ns/demo/sa/{name}");
    id.parse().unwrap()
}

impl World {
    fn new(protocol: Protocol) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let ca = Ca::generate(&"mesh.test".parse().unwrap(), SystemTime::now()).unwrap();
        let identities = Identities::new(Arc::new(ca), Duration::from_hours(1));
        let runtime = runtime.unwrap();
        let svid = |name| runtime.block_on(identities.ensure(&id(name))).unwrap();
        let (caller, server) = (svid("caller"), svid("server"));
        Self {
            runtime,
            identities: Arc::new(identities),
            config: Arc::new(Config {
                max_exclusive: 2,
                // With none to itself, every connection has to share.
                max_carriers: match protocol {
                    Protocol::Exclusive => 2,
                    Protocol::Shared => 0,
                },
                ..Config::default()
            }),
            tasks: Tasks::new(),
            caller,
            server,
            protocol,
        }
    }

    fn client(&self) -> Client {
        Client::new(
            Arc::clone(&self.config),
            Arc::clone(&self.identities),
            Dialer::host(),
            self.tasks.child(),
        )
    }

    fn gateway(&self) -> Server {
        Server::new(Arc::clone(&self.config), &self.identities)
    }
}

/// Resolves to what `future` gives, or fails the run.
async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    let given = timeout(SOON, future).await;
    given.unwrap_or_else(|_| panic!("{what} does not end"))
}

/// A listener. Connections that ended in order keep their ports for a minute, and several targets use
/// them up together: then there is none for a while.
async fn listen() -> TcpListener {
    loop {
        match TcpListener::bind("127.0.0.1:0").await {
            Ok(listener) => return listener,
            Err(error) if error.kind() == ErrorKind::AddrInUse => sleep(PORTS).await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Two ends of a connection. The first one resets when it is dropped, so that no port is kept.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    let (one, other) = tokio::join!(TcpStream::connect(address), listener.accept());
    (one.unwrap(), other.unwrap().0)
}

/// Lets everybody do what can be done now.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

// === what the peer says ===

/// A frame as it is written.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let [_, length @ ..] = length;
    let head = [&length[..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// A literal field without indexing, whose name is entry `name` of the static table.
fn literal(name: u8, value: &str) -> Vec<u8> {
    let length = u8::try_from(value.len()).unwrap();
    [&[name, length], value.as_bytes()].concat()
}

/// The choices that an input makes; 0 when it has no more.
struct Choices(VecDeque<u8>);

impl Choices {
    fn of(input: &[u8]) -> Self {
        Self(input.iter().copied().collect())
    }

    fn more(&self) -> bool {
        !self.0.is_empty()
    }

    fn next(&mut self) -> u8 {
        self.0.pop_front().unwrap_or_default()
    }

    /// So many bytes that do not repeat soon: what is missing or doubled shows.
    fn payload(&mut self, stream: u32) -> Vec<u8> {
        let (length, times) = (usize::from(self.next()), self.next());
        let length = length * usize::from(times.saturating_sub(230).max(1));
        let seed = stream.wrapping_mul(41).wrapping_add(u32::from(times));
        (0..length)
            .map(|at| {
                u32::try_from(at)
                    .unwrap()
                    .wrapping_mul(7)
                    .wrapping_add(seed)
                    .to_le_bytes()[0]
            })
            .collect()
    }

    /// One of the streams that there may be, around the `current` one.
    fn stream(&mut self, current: u32) -> u32 {
        match self.next() % 8 {
            0 => current.saturating_sub(2),
            1 => current + 2,
            2 => 0,
            3 => current + 1,
            4 => u32::from(self.next()),
            _ => current,
        }
    }
}

/// What a peer said on a connection, frame by frame.
#[derive(Debug, Default)]
struct Spoken {
    streams: BTreeMap<u32, Said>,
}

#[derive(Debug, Default)]
struct Said {
    data: Vec<u8>,
    /// How much of it there was when the stream ended in order.
    ended_at: Option<usize>,
}

impl Spoken {
    /// What these bytes say. What follows bytes that are no frames does not matter: nobody may
    /// have heard it.
    fn of(mut wire: &[u8]) -> Self {
        let mut spoken = Self::default();
        wire = wire.strip_prefix(PREFACE).unwrap_or(wire);
        while let Some((head, rest)) = wire.split_first_chunk::<9>() {
            let [a, b, c, kind, flags, stream @ ..] = *head;
            let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap();
            let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
            // Of a frame that is cut, the beginning may have been handed on.
            let payload = rest.get(..length).unwrap_or(rest);
            let whole = payload.len() == length;
            let said = spoken.streams.entry(stream).or_default();
            if kind == kind::DATA {
                let pad = if flags & PADDED == 0 {
                    None
                } else {
                    payload.first()
                };
                let payload = pad.map_or(payload, |pad| {
                    let end = length.saturating_sub(usize::from(*pad)).min(payload.len());
                    payload.get(1..end).unwrap_or_default()
                });
                said.data.extend_from_slice(payload);
            }
            if whole && kind <= kind::HEADERS && flags & END_STREAM != 0 {
                said.ended_at.get_or_insert(said.data.len());
            }
            wire = rest.get(length..).unwrap_or_default();
        }
        spoken
    }
}

// === applications ===

/// What an application has heard, and how that ended.
#[derive(Debug)]
struct Heard {
    data: Vec<u8>,
    in_order: bool,
}

/// How an application behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Reads to the end and closes then.
    Listens,
    /// Says so many bytes, and that there is no more to come, and reads to the end.
    Answers(u16),
    /// Says so many bytes, reads so much and leaves.
    Leaves(u8),
}

impl Manner {
    fn of(choice: u8) -> Self {
        match choice % 8 {
            0..=3 => Self::Listens,
            4 | 5 => Self::Answers(u16::from(choice) * 16),
            _ => Self::Leaves(choice / 8),
        }
    }
}

/// Uses a connection in some manner. Nothing if it left before the end.
async fn converse(mut socket: TcpStream, manner: Manner) -> Heard {
    let mut heard = Heard {
        data: Vec::new(),
        in_order: false,
    };
    match manner {
        Manner::Listens => {}
        Manner::Answers(count) => {
            let said = socket.write_all(&vec![3; usize::from(count)]).await;
            // Of a reset the kernel tells once: what is read after that looks like an end of file.
            if said.is_err() || socket.shutdown().await.is_err() {
                return heard;
            }
        }
        Manner::Leaves(count) => {
            drop(socket.write_all(&vec![4; usize::from(count)]).await);
            let mut piece = [0; 64];
            let count = socket.read(&mut piece).await.unwrap_or_default();
            heard.data.extend_from_slice(&piece[..count]);
            if count % 2 == 1 {
                reset_on_close(&socket).unwrap();
            }
            return heard;
        }
    }
    let mut piece = [0; 4096];
    loop {
        match socket.read(&mut piece).await {
            Ok(0) => {
                heard.in_order = true;
                return heard;
            }
            Ok(count) => heard.data.extend_from_slice(&piece[..count]),
            Err(_) => return heard,
        }
    }
}

/// Fails the run if this is not what was said on one stream.
fn agree(heard: &Heard, said: &Said) {
    assert!(
        said.data.starts_with(&heard.data),
        "{} bytes were heard that were not said",
        heard.data.len()
    );
    if heard.in_order {
        assert_eq!(
            said.ended_at,
            Some(heard.data.len()),
            "an end of file although not all was said"
        );
    }
}

// === TLS of the peer: anybody's certificate will do ===

fn own(svid: &Svid) -> Arc<SingleCertAndKey> {
    Arc::new(SingleCertAndKey::from(CertifiedKey::clone(&svid.signing())))
}

fn name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into())
}

fn algorithms() -> rustls::crypto::WebPkiSupportedAlgorithms {
    rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("not with TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}
