//! One carrier: a mutually authenticated TLS connection with HTTP/2 on it, and what drives it.
//!
//! A carrier counts as established when the peer's first HTTP/2 frame has arrived. In TLS 1.3 the
//! client finishes first, so a peer that does not accept our certificate says so only afterwards;
//! waiting for the frame makes that a handshake failure instead of a mysterious broken tunnel.
//!
//! Not here: which carrier a connection gets (`pool.rs`).

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use h2::client::{Builder, Connection};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsStream;

use super::super::buffer::Segment;
use super::super::config::Config;
use super::super::error::{HandshakeError, SessionError, Stage, TunnelError};
use super::super::tls::{self, Agreed, SessionFacts, Tls, Turnstile, tls_error};
use super::super::{exclusive, mux};
use super::observed::{Activity, Keepalive, Observed};
use super::pool::{Key, Pool, Requests, Slot};
use super::stream::session_error;
use super::windows::{Sizes, Windows};
use crate::drain::Tasks;
use crate::identity::Svid;
use crate::lanes::Lanes;
use crate::net::{Dialer, Purpose};

/// The TLS session that HTTP/2 is spoken on.
pub(super) type Tunnelled = Observed<Box<TlsStream<Turnstile<TcpStream>>>>;
type Session = Connection<Tunnelled, Segment>;

/// What we want to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// Our own protocol, and HTTP/2 if the peer does not know it.
    Exclusive,
    /// The same for a carrier that streams share.
    Mux,
    /// HTTP/2 only.
    Http2,
}

/// What a dial has led to.
pub(super) enum Established {
    /// A carrier that streams share.
    Shared(Box<Carrier>),
    /// A carrier that one stream at a time has to itself.
    Exclusive {
        carrier: Box<exclusive::Carrier>,
        facts: SessionFacts,
        until: Instant,
    },
}

/// An established carrier.
pub(super) struct Carrier {
    pub(super) requests: Requests,
    pub(super) facts: SessionFacts,
    /// Streams that the peer allows.
    pub(super) allowed: usize,
    pub(super) driver: Driver,
}

/// What must be polled for the carrier to live.
pub(super) struct Driver {
    session: Driven,
    until: Instant,
}

/// What is spoken on it.
enum Driven {
    Http2(Box<Session>, Keepalive, Windows),
    Mux(Box<mux::Driver>),
}

/// Dials, authenticates and prefaces, each within its limit.
pub(super) async fn establish(
    dialer: &Dialer,
    tls: &Tls,
    svid: &Svid,
    key: &Key,
    (config, offer): (&Arc<Config>, Offer),
) -> Result<Established, TunnelError> {
    let gateway = key.gateway;
    let late = |stage, limit| TunnelError::TimedOut {
        gateway,
        stage,
        limit,
    };
    let limit = config.connect_timeout;
    let socket = timeout(limit, dialer.connect(gateway, Purpose::Peer))
        .await
        .map_err(|_elapsed| late(Stage::Connect, limit))?
        .map_err(|error| TunnelError::Unreachable {
            gateway,
            source: Arc::new(error),
        })?;
    let limit = config.handshake_timeout;
    let carrier = timeout(
        limit,
        Box::pin(shake_hands(tls, svid, key, (config, offer), socket)),
    );
    let carrier = carrier
        .await
        .map_err(|_elapsed| late(Stage::Handshake, limit))?;
    carrier.map_err(|error| match error {
        HandshakeError::Certificate(error) => wrong_peer(key, &error),
        error => TunnelError::Handshake {
            gateway,
            expected: key.peer.clone(),
            source: error,
        },
    })
}

/// A certificate that is good but somebody else's is a case of its own.
fn wrong_peer(key: &Key, error: &Arc<crate::identity::PeerError>) -> TunnelError {
    match &**error {
        crate::identity::PeerError::WrongIdentity { expected, got } => TunnelError::WrongPeer {
            gateway: key.gateway,
            expected: expected.clone(),
            got: got.clone(),
        },
        _ => TunnelError::Handshake {
            gateway: key.gateway,
            expected: key.peer.clone(),
            source: HandshakeError::Certificate(Arc::clone(error)),
        },
    }
}

async fn shake_hands(
    tls: &Tls,
    svid: &Svid,
    key: &Key,
    (config, offer): (&Arc<Config>, Offer),
    socket: TcpStream,
) -> Result<Established, HandshakeError> {
    let wanted = match offer {
        Offer::Exclusive => tls::FAST,
        Offer::Mux => tls::MUX,
        Offer::Http2 => &[],
    };
    if wanted.is_empty() {
        let socket = Turnstile::opened(socket);
        let secured = tls.connect(svid, &key.peer, socket).await?;
        let stream = Box::new(secured.stream);
        return preface(stream, secured.facts, secured.until, config)
            .await
            .map(|carrier| Established::Shared(Box::new(carrier)));
    }
    let secured = tls.connect_fast(svid, (&key.peer, wanted), socket).await?;
    let (facts, until) = (secured.facts, secured.until);
    match secured.stream {
        Agreed::Fast(fast) => Ok(Established::Exclusive {
            carrier: exclusive::greet(*fast, config).await?,
            facts,
            until,
        }),
        Agreed::Mux(fast) => {
            let driver = mux::greet(*fast, mux::Role::Client, config).await?;
            Ok(Established::Shared(Box::new(Carrier {
                requests: Requests::Mux(Arc::clone(driver.hub())),
                facts,
                allowed: mux::MAX_STREAMS,
                driver: Driver {
                    session: Driven::Mux(Box::new(driver)),
                    until,
                },
            })))
        }
        Agreed::Http2(stream) => preface(stream, facts, until, config)
            .await
            .map(|carrier| Established::Shared(Box::new(carrier))),
    }
}

async fn preface(
    stream: Box<TlsStream<Turnstile<TcpStream>>>,
    facts: SessionFacts,
    until: Instant,
    config: &Config,
) -> Result<Carrier, HandshakeError> {
    let (socket, activity) = Observed::new(stream);
    let windows = Windows::new(config);
    let prefaced = Builder::new()
        .enable_push(false)
        .initial_window_size(windows.sizes().stream)
        .initial_connection_window_size(windows.sizes().connection)
        .max_frame_size(config.max_frame_size)
        .max_header_list_size(config.max_response_headers)
        .max_send_buffer_size(config.send_buffer)
        .handshake(socket)
        .await;
    let failed = |error: &h2::Error| match activity.tls_failure() {
        Some(error) => tls_error(&error),
        None => HandshakeError::NotHttp2(session_error(error)),
    };
    let (requests, mut session) = prefaced.map_err(|error| failed(&error))?;
    first_frame(&mut session, &activity)
        .await
        .map_err(|error| error.map_or(HandshakeError::Closed, |error| failed(&error)))?;
    let keepalive = Keepalive {
        pings: session.ping_pong(),
        activity,
        interval: config.ping_interval,
        timeout: config.ping_timeout,
    };
    Ok(Carrier {
        facts,
        allowed: session.max_concurrent_send_streams(),
        requests: Requests::Http2(requests),
        driver: Driver {
            session: Driven::Http2(Box::new(session), keepalive, windows),
            until,
        },
    })
}

/// Drives the session until something has arrived from the peer.
async fn first_frame(session: &mut Session, activity: &Activity) -> Result<(), Option<h2::Error>> {
    poll_fn(|cx| match Pin::new(&mut *session).poll(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(Err(Some(error))),
        Poll::Ready(Ok(())) => Poll::Ready(Err(None)),
        Poll::Pending if activity.seen() => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await
}

impl Driver {
    /// Drives the carrier until it has ended: by itself, by the peer, for want of a sign of life,
    /// or because nobody needs it any more.
    pub(super) async fn run(self, slot: Arc<Slot>, pool: Arc<Pool>, tasks: Tasks) {
        let mut session = pin!(self.session.run(&slot));
        let mut look = Instant::now() + pool.config.idle_timeout;
        let mut open = true;
        loop {
            tokio::select! {
                biased;
                () = &mut session => break,
                () = slot.retired.cancelled(), if open => {
                    // With the last stream and the last handle gone, the session says goodbye.
                    let requests = slot.requests.lock().take();
                    if let Some(Requests::Mux(hub)) = requests {
                        hub.retire();
                    }
                    open = false;
                }
                () = tasks.stopping(), if open => pool.retire(&slot),
                () = sleep_until(self.until), if open => pool.retire(&slot),
                () = sleep_until(look), if open => look = pool.retire_if_idle(&slot),
            }
        }
        pool.retire(&slot);
        slot.requests.lock().take();
    }
}

impl Driven {
    /// Until the session has ended, or the peer gives no sign of life.
    async fn run(self, slot: &Slot) {
        let gateway = slot.key.gateway;
        let ended = match self {
            Self::Mux(mut driver) => {
                let nobody_asks = |_asked, _stream| {};
                driver.run(&Lanes::default(), nobody_asks).await.map(drop)
            }
            Self::Http2(mut session, keepalive, mut windows) => {
                let activity = keepalive.activity.clone();
                let driven = poll_fn(|cx| {
                    windows.look(activity.bytes(), |sizes| widen(&mut session, sizes));
                    Pin::new(&mut session).poll(cx)
                });
                tokio::select! {
                    ended = driven => ended.map_err(|error| session_error(&error)),
                    () = keepalive.silent() => Err(SessionError::Silent),
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%gateway, %error, "carrier broke");
        }
    }
}

/// Grants larger windows, unless the peer has not answered the last time yet.
fn widen(session: &mut Session, sizes: Sizes) -> bool {
    let told = session.set_initial_window_size(sizes.stream).is_ok();
    if told {
        session.set_target_window_size(sizes.connection);
    }
    told
}
