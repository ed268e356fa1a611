//! Our server, and a client that does what it likes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use interceptor::net::reset_on_close;
use interceptor::transport::hbone::{Incoming, Refusal};
use interceptor::transport::{ConnectHeaders, splice};
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{
    Anybody, Choices, END_HEADERS, END_STREAM, Heard, MOST, Manner, PREFACE, Protocol, Said,
    Spoken, World, agree, converse, frame, kind, literal, name, own, pair, settle, soon,
};
use crate::engine::{Features, Target, feature};

thread_local! {
    static EXCLUSIVE: World = World::new(Protocol::Exclusive);
    static SHARED: World = World::new(Protocol::Shared);
}

pub(crate) const TARGET: Target = Target {
    name: "carriers-of-clients",
    run: |input| EXCLUSIVE.with(|world| world.runtime.block_on(run(world, input))),
    words: &[],
};

/// The same with carriers that streams share.
pub(crate) const SHARED_TARGET: Target = Target {
    name: "shared-carriers-of-clients",
    run: |input| SHARED.with(|world| world.runtime.block_on(run(world, input))),
    words: &[],
};

/// Requests for ports from here on are refused.
const REFUSED: u16 = 30_000;

/// One of everything, so that mutations have something to start from.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let (ask, data, end) = ([0, 0], [1, 5, 20, 0, 0], [1, 5, 9, 0, 1]);
    let say = [9, 0];
    vec![
        [&[0, 0][..], &ask, &data, &end, &say, &ask, &data, &end].concat(),
        [&[0, 4][..], &ask, &say, &data, &end, &say, &ask, &end].concat(),
        [&[0, 0][..], &[0, 2], &data, &say, &ask, &data, &end].concat(),
        [&[0, 6][..], &ask, &data, &[2, 5, 8], &say, &ask, &end].concat(),
        [&[0, 0][..], &ask, &[4, 200], &data, &[5, 5, 3], &end].concat(),
        [
            &[0, 0][..],
            &ask,
            &[3, 6, 0, 2, 8, 1, 2, 3, 4, 5, 6, 7, 8],
            &data,
        ]
        .concat(),
        [&[0, 0][..], &ask, &end, &data, &[6, 0, 7, 1, 2, 3]].concat(),
        [&[1, 0][..], &ask, &[7, 4], &data, &[8, 0], &say, &end].concat(),
    ]
}

async fn run(world: &World, input: &[u8]) -> Features {
    let mut choices = Choices::of(input);
    let (how_it_ends, manner) = (choices.next(), Manner::of(choices.next()));
    let (peer, ours) = pair().await;
    // However it ends, no port is kept.
    reset_on_close(&peer).unwrap();
    let served = Arc::new(Served {
        manner,
        applications: Mutex::default(),
    });
    let (over, mut is_over) = mpsc::channel(1);
    serve(world, ours, Arc::clone(&served), over);
    let mut script = Script {
        choices,
        current: 0,
        said: Vec::new(),
    };
    let tls = soon("the handshake", shake(world, peer)).await;
    let (reading, mut writing) = tokio::io::split(tls);
    let answered = Arc::new(AtomicUsize::new(0));
    let mut answers = JoinSet::new();
    answers.spawn(count(reading, Arc::clone(&answered)));
    script.play(&mut writing).await;
    // In order, without a goodbye of TLS, or at once.
    match how_it_ends % 4 {
        0 | 1 => drop(writing.shutdown().await),
        2 => settle().await,
        _ => {}
    }
    if how_it_ends % 4 > 1 {
        answers.abort_all();
    }
    drop(writing);
    let ended = soon("the session", is_over.recv()).await;
    answers.abort_all();
    let answered = answered.load(Ordering::Relaxed);
    let mut features = served.judge(&script.said, answered).await;
    features.insert(feature(ended.unwrap_or_default()));
    features
}

/// What became of the requests.
#[derive(Debug)]
struct Served {
    manner: Manner,
    /// By stream, in the order in which they were asked for.
    applications: Mutex<Vec<oneshot::Receiver<(u16, Heard)>>>,
}

impl Served {
    async fn judge(&self, wire: &[u8], answered: usize) -> Features {
        let spoken = Spoken::of(wire);
        let mut features = Features::new();
        let applications = std::mem::take(&mut *self.applications.lock());
        let mut seen = BTreeSet::new();
        let from_applications = applications.len() * usize::from(u8::MAX) * 16;
        assert!(
            answered <= 4096 + 4 * wire.len() + 128 * applications.len() + from_applications,
            "{answered} bytes in answer to {}",
            wire.len()
        );
        for application in applications {
            let (port, heard) = soon("an application", application).await.unwrap();
            let stream = u32::from(port - 1000);
            assert!(seen.insert(stream), "asked for twice");
            let nothing = Said::default();
            agree(&heard, spoken.streams.get(&stream).unwrap_or(&nothing));
            features.insert(feature((heard.in_order, heard.data.len().min(3))));
        }
        features.insert(feature(("applications", seen.len())));
        features
    }
}

fn serve(world: &World, socket: TcpStream, served: Arc<Served>, over: mpsc::Sender<String>) {
    let (gateway, svid) = (world.gateway(), Arc::clone(&world.server));
    let tasks = world.tasks.child();
    world.tasks.spawn("gateway", async move {
        let ended = match gateway.accept(socket, &svid).await {
            Ok(inbound) => {
                let handler = move |incoming| answer(incoming, Arc::clone(&served));
                inbound
                    .serve(&tasks, handler)
                    .await
                    .map_err(|it| it.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        drop(over.send(ended.err().unwrap_or_default()).await);
    });
}

async fn answer(incoming: Incoming, served: Arc<Served>) {
    let Incoming::Connect(request) = incoming else {
        return;
    };
    let (destination, answer) = (request.destination, request.answer);
    // A verdict takes a moment, and what is said meanwhile waits.
    settle().await;
    if destination.port() >= REFUSED {
        return answer.refuse(&Refusal::unavailable("refused".to_owned()));
    }
    let (far, app) = pair().await;
    let app = Arc::new(app);
    let (heard, hearing) = oneshot::channel();
    served.applications.lock().push(hearing);
    let conversation = async {
        let said = converse(far, served.manner).await;
        drop(heard.send((destination.port(), said)));
    };
    let carried = async {
        if let Ok(stream) = answer.accept(&ConnectHeaders::default()) {
            splice::tunnel(&app, stream, Arc::default()).await;
        } else {
            reset_on_close(&app).unwrap();
        }
        drop(app);
    };
    tokio::join!(conversation, carried);
}

// === the client that does what it likes ===

type Tls = TlsStream<TcpStream>;

async fn shake(world: &World, socket: TcpStream) -> Tls {
    let mut config = ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_protocol_versions(&[&rustls::version::TLS13])
    .unwrap()
    .dangerous()
    .with_custom_certificate_verifier(Arc::new(Anybody))
    .with_client_cert_resolver(own(&world.caller));
    config.alpn_protocols = vec![world.protocol.name().to_vec()];
    let stream = TlsConnector::from(Arc::new(config)).connect(name(), socket);
    stream.await.unwrap()
}

async fn count(mut reading: ReadHalf<Tls>, answered: Arc<AtomicUsize>) {
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = reading.read(&mut piece).await {
        answered.fetch_add(count, Ordering::Relaxed);
    }
}

struct Script {
    choices: Choices,
    /// The stream of the last request.
    current: u32,
    /// All that was said.
    said: Vec<u8>,
}

impl Script {
    async fn play(&mut self, writing: &mut WriteHalf<Tls>) {
        let greeting = [PREFACE, &frame(kind::SETTINGS, 0, 0, &[])].concat();
        let mut waiting = greeting;
        while self.choices.more() && self.said.len() + waiting.len() < MOST {
            let step = self.choices.next();
            let said = self.step(step);
            waiting.extend(said);
            if step % 16 >= 9 {
                if !self.say(writing, &mut waiting).await {
                    return;
                }
                settle().await;
            }
        }
        self.say(writing, &mut waiting).await;
    }

    /// Says what waits. `false` if nobody hears it.
    async fn say(&mut self, writing: &mut WriteHalf<Tls>, waiting: &mut Vec<u8>) -> bool {
        self.said.extend_from_slice(waiting);
        let said = writing.write_all(waiting).await;
        waiting.clear();
        said.is_ok() && writing.flush().await.is_ok()
    }

    fn step(&mut self, step: u8) -> Vec<u8> {
        let choices = &mut self.choices;
        match step % 16 {
            0 | 10 => {
                let flags = choices.next();
                self.current = if self.current == 0 {
                    1
                } else {
                    self.current + 2
                };
                self.ask(flags)
            }
            1 | 11 | 12 => {
                let stream = choices.stream(self.current);
                let payload = choices.payload(stream);
                let flags = choices.next() & END_STREAM;
                payload_frames(stream, &payload, flags)
            }
            2 => {
                let stream = choices.stream(self.current);
                let code = choices.next();
                frame(kind::RESET, 0, stream, &[0, 0, 0, code])
            }
            3 => {
                let (kind, flags) = (choices.next(), choices.next());
                let stream = choices.stream(self.current);
                let length = choices.next();
                let payload: Vec<u8> = (0..length).map(|_| choices.next()).collect();
                frame(kind, flags, stream, &payload)
            }
            4 => {
                let count = usize::from(choices.next());
                frame(kind::DATA, 0, self.current, &[]).repeat(count)
            }
            5 => {
                let stream = choices.stream(self.current);
                let flags = choices.next();
                frame(
                    kind::HEADERS,
                    flags | END_HEADERS,
                    stream,
                    b"\x00\x01a\x01b",
                )
            }
            6 => {
                let length = choices.next();
                (0..length).map(|_| choices.next()).collect()
            }
            7 => frame(kind::PING, 0, 0, &[1; 8]).repeat(usize::from(choices.next())),
            8 => frame(kind::GO_AWAY, 0, 0, &[0, 0, 0, choices.next(), 0, 0, 0, 0]),
            13 => {
                // The same stream again.
                let flags = choices.next();
                self.ask(flags)
            }
            _ => Vec::new(),
        }
    }

    /// A request for the current stream; its port names the stream, and whether it is refused.
    fn ask(&self, flags: u8) -> Vec<u8> {
        let current = u16::try_from(self.current % 10_000).unwrap();
        let port = if flags & 2 == 0 { 1000 } else { REFUSED } + current;
        // `:method` and `:authority`.
        let method = literal(2, "CONNECT");
        let block = [method, literal(1, &format!("127.0.0.1:{port}"))].concat();
        let flags = flags & END_STREAM | END_HEADERS;
        frame(kind::HEADERS, flags, self.current, &block)
    }
}

/// As many frames as it takes.
fn payload_frames(stream: u32, payload: &[u8], flags: u8) -> Vec<u8> {
    if payload.is_empty() {
        return frame(kind::DATA, flags, stream, &[]);
    }
    let mut frames: Vec<Vec<u8>> = payload
        .chunks(16_000)
        .map(|chunk| frame(kind::DATA, 0, stream, chunk))
        .collect();
    if let Some(last) = frames.last_mut() {
        last[4] = flags;
    }
    frames.concat()
}
