//! Our client, and a server that does what it likes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use interceptor::net::reset_on_close;
use interceptor::transport::codec::{Event, Reader};
use interceptor::transport::{ConnectHeaders, splice};
use interceptor::workload::Route;
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::route::route;
use super::{
    Anybody, Choices, END_HEADERS, END_STREAM, Heard, MOST, Manner, Protocol, Said, Spoken, World,
    agree, converse, frame, id, kind, own, pair, settle, soon,
};
use crate::engine::{Features, Target, feature, skeleton};

thread_local! {
    static EXCLUSIVE: World = World::new(Protocol::Exclusive);
    static SHARED: World = World::new(Protocol::Shared);
}

pub(crate) const TARGET: Target = Target {
    name: "carriers-of-servers",
    run: |input| EXCLUSIVE.with(|world| world.runtime.block_on(run(world, input))),
    words: &[],
};

/// The same with carriers that streams share.
pub(crate) const SHARED_TARGET: Target = Target {
    name: "shared-carriers-of-servers",
    run: |input| SHARED.with(|world| world.runtime.block_on(run(world, input))),
    words: &[],
};

/// Connections of one run. Their ports name them.
const CONNECTIONS: u16 = 3;
const FIRST_PORT: u16 = 1000;

/// Nobody says anything for as long as this: nobody will.
const QUIET: Duration = Duration::from_millis(1);

/// Something of everything, so that mutations have something to start from.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // Listen, answer, say, end.
    let (hear, yes, data, end) = ([9], [0, 0], [2, 5, 20, 0, 0], [2, 5, 9, 0, 1]);
    let turn = [&hear[..], &yes, &data, &end].concat();
    vec![
        [&[0, 0, 10][..], &turn, &turn, &turn].concat(),
        [&[1, 4, 0][..], &turn, &[9, 9], &turn].concat(),
        [&[0, 0, 200][..], &hear, &[1, 3], &turn, &hear, &[1, 0]].concat(),
        [&[0, 6, 3][..], &hear, &yes, &data, &[3, 5, 8], &turn].concat(),
        [&[0, 0, 3][..], &hear, &data, &yes, &turn].concat(),
        [&[2, 0, 3][..], &hear, &[7, 0], &turn, &[7, 1], &turn].concat(),
        [&[0, 0, 3][..], &hear, &yes, &[5, 200], &[6, 3], &end, &turn].concat(),
        [&[3, 0, 3][..], &hear, &[3, 5, 7], &turn, &[12], &turn].concat(),
        [&[0, 0, 3][..], &hear, &yes, &end, &data, &turn].concat(),
        [
            &[0, 4, 3][..],
            &hear,
            &yes,
            &[4, 8, 0, 5, 3, 1, 2, 3],
            &turn,
        ]
        .concat(),
    ]
}

async fn run(world: &World, input: &[u8]) -> Features {
    let mut choices = Choices::of(input);
    let (at_once, manner) = (choices.next() & 1 == 1, Manner::of(choices.next()));
    let early = usize::from(choices.next());
    let listener = super::listen().await;
    let gateway = listener.local_addr().unwrap();
    let peer = Arc::new(Peer {
        choices: Mutex::new(choices),
        ..Peer::default()
    });
    let mut serving = JoinSet::new();
    serving.spawn(accept(listener, acceptor(world), Arc::clone(&peer)));
    let client = world.client();
    let mut results = Vec::new();
    let connection = |number: u16| {
        let authority = ([127, 0, 0, 1], FIRST_PORT + number).into();
        let route = route(gateway, authority, id("server"));
        connect(client.clone(), route, manner, early)
    };
    if at_once {
        let [one, two, three] = [0, 1, 2].map(connection);
        let (one, two, three) = tokio::join!(one, two, three);
        results.extend([one, two, three]);
    } else {
        for number in 0..CONNECTIONS {
            results.push(connection(number).await);
        }
    }
    // With it everything that it has accepted.
    serving.shutdown().await;
    peer.judge(&results, early)
}

/// What became of one connection of ours: what its application heard, if it was opened.
#[derive(Debug)]
struct Outcome {
    opened: Result<String, String>,
    heard: Option<Heard>,
}

/// Opens a connection for an application that has something to say, and carries it to its end.
async fn connect(
    client: interceptor::transport::Client,
    route: Route,
    manner: Manner,
    early: usize,
) -> Outcome {
    let (mut far, app) = pair().await;
    let app = Arc::new(app);
    far.write_all(&words(route.authority.port(), early))
        .await
        .unwrap();
    let (caller, headers) = (id("caller"), ConnectHeaders::default());
    let opening = client.open(&caller, &route, &headers, Some(&app));
    let tunnel = match soon("an attempt to connect", opening).await {
        Ok(tunnel) => tunnel,
        Err(error) => {
            return Outcome {
                opened: Err(error.to_string()),
                heard: None,
            };
        }
    };
    let carried = async {
        let closed = splice::tunnel(&app, tunnel.stream, Arc::default()).await;
        drop(app);
        closed.reason().to_owned()
    };
    let conversation = async { tokio::join!(carried, converse(far, manner)) };
    let (how, heard) = soon("a connection", conversation).await;
    Outcome {
        opened: Ok(how),
        heard: Some(heard),
    }
}

/// What an application says before it is connected.
fn words(port: u16, count: usize) -> Vec<u8> {
    let [_, first] = port.to_be_bytes();
    vec![first; count]
}

// === the server that does what it likes ===

#[derive(Default)]
struct Peer {
    choices: Mutex<Choices>,
    carriers: Mutex<Vec<Carrier>>,
}

impl Default for Choices {
    fn default() -> Self {
        Self::of(&[])
    }
}

/// What was said and heard on one carrier.
#[derive(Debug, Default)]
struct Carrier {
    said: Vec<u8>,
    /// The ports that were asked for, by stream.
    asked: BTreeMap<u32, u16>,
    heard: BTreeMap<u32, Vec<u8>>,
}

impl Peer {
    fn judge(&self, outcomes: &[Outcome], early: usize) -> Features {
        let carriers = self.carriers.lock();
        let spoken: Vec<(Spoken, &Carrier)> = carriers
            .iter()
            .map(|carrier| (Spoken::of(&carrier.said), carrier))
            .collect();
        let mut features = Features::new();
        for (port, outcome) in (FIRST_PORT..).zip(outcomes) {
            features.insert(feature(outcome.opened.clone().map_err(|it| skeleton(&it))));
            let Some(heard) = &outcome.heard else {
                continue;
            };
            features.insert(feature((heard.in_order, heard.data.len().min(3))));
            // One of the streams on which it was asked for, or of which the peer has not heard.
            let nothing = Said::default();
            let streams = spoken.iter().flat_map(|(spoken, carrier)| {
                let all = spoken.streams.iter();
                let of_it = |stream| carrier.asked.get(stream).is_none_or(|it| *it == port);
                all.filter(move |said| of_it(said.0)).map(|said| said.1)
            });
            let streams = streams.chain([&nothing]);
            let candidates: Vec<&Said> = streams
                .filter(|said| said.data.starts_with(&heard.data))
                .filter(|said| !heard.in_order || said.ended_at == Some(heard.data.len()))
                .collect();
            assert!(
                !candidates.is_empty(),
                "heard what was not said to {port}: {outcome:?} of {spoken:?}"
            );
            agree(heard, candidates[0]);
        }
        for carrier in carriers.iter() {
            for (stream, heard) in &carrier.heard {
                let port = carrier.asked.get(stream).unwrap();
                let early = words(*port, early);
                let both = early.len().min(heard.len());
                assert_eq!(
                    heard[..both],
                    early[..both],
                    "not what the application said"
                );
            }
        }
        features.insert(feature(("carriers", carriers.len().min(5))));
        features
    }
}

fn acceptor(world: &World) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(Anybody))
        .with_cert_resolver(own(&world.server));
    config.alpn_protocols = vec![world.protocol.name().to_vec()];
    config.send_tls13_tickets = 0;
    TlsAcceptor::from(Arc::new(config))
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, peer: Arc<Peer>) {
    let mut carriers = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        reset_on_close(&socket).unwrap();
        let (acceptor, peer) = (acceptor.clone(), Arc::clone(&peer));
        carriers.spawn(async move {
            if let Ok(tls) = acceptor.accept(socket).await {
                Speaker::new(tls, peer).serve().await;
            }
        });
    }
}

/// One carrier of the peer's.
struct Speaker {
    tls: TlsStream<TcpStream>,
    peer: Arc<Peer>,
    /// Which of the carriers.
    index: usize,
    reader: Reader,
    waiting: Vec<u8>,
    /// The stream of the last request.
    current: u32,
    asked: usize,
}

impl Speaker {
    fn new(tls: TlsStream<TcpStream>, peer: Arc<Peer>) -> Self {
        let mut carriers = peer.carriers.lock();
        carriers.push(Carrier::default());
        let index = carriers.len() - 1;
        drop(carriers);
        Self {
            tls,
            peer,
            index,
            reader: Reader::of_client(4096),
            waiting: frame(kind::SETTINGS, 0, 0, &[]),
            current: 1,
            asked: 0,
        }
    }

    /// Does as the input says, with what is left of it; then it is gone.
    async fn serve(mut self) {
        let mut said = 0;
        while said < MOST {
            let Some(step) = self.step() else { break };
            self.waiting.extend(step.say);
            if step.hear || step.flush {
                said += self.waiting.len();
                if !self.say().await {
                    return;
                }
            }
            if step.hear && !self.hear().await {
                return;
            }
            if step.leave {
                return drop(self.tls.shutdown().await);
            }
        }
        self.say().await;
        settle().await;
    }

    /// Says what waits. `false` if nobody hears it.
    async fn say(&mut self) -> bool {
        let waiting = std::mem::take(&mut self.waiting);
        {
            let mut carriers = self.peer.carriers.lock();
            carriers[self.index].said.extend_from_slice(&waiting);
        }
        self.tls.write_all(&waiting).await.is_ok() && self.tls.flush().await.is_ok()
    }

    /// Listens until there is a new request, or for a moment. `false` if the other one has left.
    async fn hear(&mut self) -> bool {
        let before = self.asked;
        let mut piece = vec![0; 20_000];
        for _ in 0..8 {
            let heard = timeout(QUIET, self.tls.read(&mut piece)).await;
            match heard {
                Err(_quiet) => return true,
                Ok(Ok(count @ 1..)) => self.understand(&piece[..count]),
                Ok(_) => return false,
            }
            if self.asked > before {
                return true;
            }
        }
        true
    }

    fn understand(&mut self, bytes: &[u8]) {
        let mut at = 0..bytes.len();
        let mut carriers = self.peer.carriers.lock();
        let carrier = &mut carriers[self.index];
        // Ours says nothing that its own reader does not accept.
        while let Some(event) = self.reader.next(bytes, &mut at).unwrap() {
            match event {
                Event::Headers { stream, fields } => {
                    let authority = fields.authority.unwrap();
                    let authority: SocketAddr = authority.parse().unwrap();
                    let known = carrier.asked.insert(stream, authority.port());
                    assert_eq!(known, None, "a stream is used twice");
                    (self.current, self.asked) = (stream, self.asked + 1);
                }
                Event::Data { stream, at } => {
                    let heard = carrier.heard.entry(stream).or_default();
                    heard.extend_from_slice(&bytes[at]);
                }
                _ => {}
            }
        }
    }

    fn step(&mut self) -> Option<Step> {
        let mut choices = self.peer.choices.lock();
        let choices = &mut *choices;
        if !choices.more() {
            return None;
        }
        let current = self.current;
        let step = choices.next() % 16;
        let say = match step {
            0 | 13 => {
                let flags = choices.next() & END_STREAM;
                frame(kind::HEADERS, flags | END_HEADERS, current, &[0x88])
            }
            1 => {
                // 204 to 500, from the static table.
                let status = 0x89 + choices.next() % 6;
                frame(kind::HEADERS, END_STREAM | END_HEADERS, current, &[status])
            }
            2 | 10 | 11 => {
                let stream = choices.stream(current);
                let payload = choices.payload(stream);
                let flags = choices.next() & END_STREAM;
                frame(
                    kind::DATA,
                    flags,
                    stream,
                    &payload[..payload.len().min(16_000)],
                )
            }
            3 => {
                let stream = choices.stream(current);
                frame(kind::RESET, 0, stream, &[0, 0, 0, choices.next()])
            }
            4 => {
                let (kind, flags) = (choices.next(), choices.next());
                let stream = choices.stream(current);
                let length = choices.next();
                let payload: Vec<u8> = (0..length).map(|_| choices.next()).collect();
                frame(kind, flags, stream, &payload)
            }
            5 => frame(kind::DATA, 0, current, &[]).repeat(usize::from(choices.next())),
            6 => frame(kind::PING, 0, 0, &[1; 8]).repeat(usize::from(choices.next())),
            7 => {
                let last = current
                    .saturating_sub(u32::from(choices.next()) * 2)
                    .to_be_bytes();
                frame(kind::GO_AWAY, 0, 0, &[&last[..], &[0; 4]].concat())
            }
            8 => {
                let length = choices.next();
                (0..length).map(|_| choices.next()).collect()
            }
            _ => Vec::new(),
        };
        Some(Step {
            say,
            hear: step == 9,
            flush: step >= 10,
            leave: step == 12,
        })
    }
}

/// What is done next.
struct Step {
    say: Vec<u8>,
    hear: bool,
    flush: bool,
    leave: bool,
}
