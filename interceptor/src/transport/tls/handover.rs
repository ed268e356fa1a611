//! Taking over a session from rustls when its handshake has ended.
//!
//! rustls hands out keys, vectors and sequence numbers (`dangerous_extract_secrets`), but the
//! traffic secrets, from which later keys are derived, only to a key log; so each handshake has one
//! of its own that keeps those two in memory until they are taken or dropped, zeroised.
//! `KernelConnection` would derive keys for us, but exists only for rustls' unbuffered
//! connections, which cannot go on as an `h2` stream when the peer chooses that, and it keeps the
//! peer's certificates and our configuration alive as long as the session.

use bytes::BytesMut;
use parking_lot::Mutex;
use rustls::{Connection, ConnectionTrafficSecrets, KeyLog};
use std::fmt;
use tokio_rustls::TlsStream;
use zeroize::Zeroizing;

use super::super::error::HandshakeError;
use super::super::record::{Direction, Session, Suite};
use super::turnstile::Turnstile;
use super::{FAST, MUX, Proven, Secured};

/// What two ends have agreed to speak.
#[derive(Debug)]
pub(in crate::transport) enum Agreed<S> {
    /// HTTP/2, as everybody speaks it.
    Http2(Box<TlsStream<Turnstile<S>>>),
    /// One CONNECT stream at a time, in records of our own.
    Fast(Box<Fast<S>>),
    /// Many of them, in the same records.
    Mux(Box<Fast<S>>),
}

/// A session whose records are ours to seal and open.
#[derive(Debug)]
pub(in crate::transport) struct Fast<S> {
    pub(in crate::transport) socket: S,
    pub(in crate::transport) session: Session,
    /// What the peer has sent since the handshake, still sealed: to be opened before anything
    /// that is received from now on. At most 4 KiB.
    pub(in crate::transport) early: BytesMut,
}

/// The first traffic secrets of one session, until somebody takes them.
#[derive(Default)]
pub(in crate::transport) struct TrafficSecrets {
    client: Mutex<Secret>,
    server: Mutex<Secret>,
}

type Secret = Zeroizing<Vec<u8>>;

impl TrafficSecrets {
    /// The client's and the server's. Nothing is left here.
    fn take(&self) -> (Secret, Secret) {
        let client = std::mem::take(&mut *self.client.lock());
        let server = std::mem::take(&mut *self.server.lock());
        (client, server)
    }

    fn of(&self, label: &str) -> Option<&Mutex<Secret>> {
        match label {
            "CLIENT_TRAFFIC_SECRET_0" => Some(&self.client),
            "SERVER_TRAFFIC_SECRET_0" => Some(&self.server),
            _ => None,
        }
    }
}

impl fmt::Debug for TrafficSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrafficSecrets")
    }
}

impl KeyLog for TrafficSecrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        if let Some(kept) = self.of(label) {
            *kept.lock() = Zeroizing::new(secret.to_vec());
        }
    }

    fn will_log(&self, label: &str) -> bool {
        self.of(label).is_some()
    }
}

/// Takes the session over if the ends agreed to speak a protocol of ours.
pub(super) fn agreed<S>(
    proven: Proven<Turnstile<S>>,
    secrets: &TrafficSecrets,
) -> Result<Secured<Agreed<S>>, HandshakeError> {
    let Secured {
        mut stream,
        peer,
        facts,
        until,
    } = proven.secured;
    let stream = if proven.protocol == FAST {
        Agreed::Fast(Box::new(fast(stream, secrets)?))
    } else if proven.protocol == MUX {
        Agreed::Mux(Box::new(fast(stream, secrets)?))
    } else {
        // rustls keeps the key log as long as the session.
        drop(secrets.take());
        match &mut stream {
            TlsStream::Client(stream) => stream.get_mut().0.open(),
            TlsStream::Server(stream) => stream.get_mut().0.open(),
        }
        Agreed::Http2(Box::new(stream))
    };
    Ok(Secured {
        stream,
        peer,
        facts,
        until,
    })
}

fn fast<S>(
    stream: TlsStream<Turnstile<S>>,
    secrets: &TrafficSecrets,
) -> Result<Fast<S>, HandshakeError> {
    let (turnstile, connection) = match stream {
        TlsStream::Client(stream) => {
            let (turnstile, connection) = stream.into_inner();
            (turnstile, Connection::Client(connection))
        }
        TlsStream::Server(stream) => {
            let (turnstile, connection) = stream.into_inner();
            (turnstile, Connection::Server(connection))
        }
    };
    let parts = turnstile.into_parts();
    let (socket, early) = parts.ok_or_else(|| unusable("ended inside a record"))?;
    Ok(Fast {
        socket,
        session: hand_over(connection, secrets)?,
        early,
    })
}

/// The session of a connection whose handshake has ended. It must have read nothing beyond, and
/// have written everything.
pub(in crate::transport) fn hand_over(
    mut connection: Connection,
    secrets: &TrafficSecrets,
) -> Result<Session, HandshakeError> {
    let state = connection.process_new_packets();
    let state = state.map_err(|error| super::tls_error(&error))?;
    if state.plaintext_bytes_to_read() > 0 || state.peer_has_closed() {
        // Cannot be, with a turnstile; what has been opened here would be lost.
        return Err(unusable("read beyond the handshake"));
    }
    // A secret that is missing has the wrong length for any suite.
    let (client, server) = secrets.take();
    let (ours, theirs) = match &connection {
        Connection::Client(_) => (client, server),
        Connection::Server(_) => (server, client),
    };
    let keys = connection.dangerous_extract_secrets();
    let keys = keys.map_err(HandshakeError::Tls)?;
    Ok(Session::new(
        direction(&ours, &keys.tx.1, keys.tx.0)?,
        direction(&theirs, &keys.rx.1, keys.rx.0)?,
    ))
}

fn direction(
    secret: &[u8],
    keys: &ConnectionTrafficSecrets,
    sequence: u64,
) -> Result<Direction, HandshakeError> {
    use ConnectionTrafficSecrets as Keys;

    let (suite, key, iv) = match keys {
        Keys::Aes128Gcm { key, iv } => (Suite::Aes128, key, iv),
        Keys::Aes256Gcm { key, iv } => (Suite::Aes256, key, iv),
        Keys::Chacha20Poly1305 { key, iv } => (Suite::ChaCha20, key, iv),
        _ => return Err(unusable("unknown cipher suite")),
    };
    Direction::new(suite, secret, (key.as_ref(), iv.as_ref()), sequence)
        .map_err(|_key| unusable("unusable keys"))
}

fn unusable(why: &str) -> HandshakeError {
    HandshakeError::Tls(rustls::Error::General(why.to_owned()))
}
