//! Mutual TLS 1.3 between agents: who we are, who the peer must be, and nothing optional.
//!
//! | what | how | why |
//! |---|---|---|
//! | version | 1.3 only | ztunnel's and Envoy's ambient default |
//! | key exchange | X25519MLKEM768, then X25519 | recorded traffic stays secret; 40 µs more |
//! | cipher | AES-128-GCM, AES-256-GCM | 128 is the faster one with AES in hardware |
//! | protocol | ALPN `h2`, checked on both ends | nothing else is spoken on port 15008 |
//! | | or our own before it ([`Agreed`]) | records are then sealed and opened in place |
//! | name | none sent | the identity is in the certificate, not in the address |
//! | resumption | none | carriers are reused instead; each session proves an identity afresh |
//!
//! A configuration is made for each handshake: that takes microseconds beside a handshake's
//! hundreds, keeps no key of a renewed or removed SVID alive, and lets the verifier remember whom
//! it has verified.
//!
//! # Invariants
//!
//! * The peer's identity is the one that the verifier returned for exactly this handshake.
//! * A session is good for new streams only as long as both certificates are valid.
//! * Why a certificate was not accepted survives as [`PeerError`] until somebody logs it.
//!
//! Not here: what makes a certificate acceptable (`identity`).

#[allow(dead_code, reason = "who speaks the fast protocol comes next")]
pub(super) mod handover;
mod peer;
#[allow(dead_code, reason = "who speaks the fast protocol comes next")]
mod turnstile;

#[cfg(test)]
mod openssl;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use interceptor_policy::SpiffeId;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, CommonState, OtherError, PeerIncompatible, ServerConfig,
};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_util::sync::CancellationToken;

pub(super) use self::handover::{Agreed, Fast};
use self::handover::{TrafficSecrets, agreed};
use self::peer::Peer;
pub(super) use self::turnstile::Turnstile;
use super::error::HandshakeError;
use crate::identity::{PeerError, Svid, Verifier, valid_until};

/// HTTP/2 as everybody speaks it.
const H2: &[u8] = b"h2";
/// HTTP/2 as two of our agents speak it: one CONNECT stream at a time, without windows.
pub(super) const FAST: &[u8] = b"interceptor-hbone/1";
/// The same with many streams, each of which has a window that both ends know beforehand.
pub(super) const MUX: &[u8] = b"interceptor-hbone/2";
/// Ciphertext that may wait in one session: 16 records, so that one write carries 256 KiB.
const SEND_BUFFER: usize = 256 << 10;

/// What is known of the TLS session under a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionFacts {
    /// Such as `TLS13_AES_128_GCM_SHA256`.
    pub cipher: &'static str,
    /// Such as `X25519MLKEM768`.
    pub key_exchange: &'static str,
    /// How long the handshake took.
    pub handshake: Duration,
}

/// An established session with a peer that has proven who it is.
#[derive(Debug)]
pub(super) struct Secured<T> {
    pub(super) stream: T,
    pub(super) peer: SpiffeId,
    pub(super) facts: SessionFacts,
    /// When the first of the two certificates ends.
    pub(super) until: Instant,
}

/// Makes TLS sessions. Clones share everything.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    verifier: Verifier,
}

impl Tls {
    pub(super) fn new(verifier: Verifier) -> Self {
        Self {
            provider: Arc::new(provider()),
            verifier,
        }
    }

    /// Cancelled when a root that is trusted now is trusted no more. For sessions that begin after this.
    pub(super) fn withdrawal(&self) -> CancellationToken {
        self.verifier.withdrawal()
    }

    /// The client's end, as `svid`, with nobody but `expected`, in HTTP/2.
    pub(super) async fn connect<S>(
        &self,
        svid: &Svid,
        expected: &SpiffeId,
        socket: S,
    ) -> Result<Secured<TlsStream<S>>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let begin = Instant::now();
        let peer = self.peer(Some(expected.clone()));
        let config = self.client_config(svid, Arc::clone(&peer))?;
        let stream = shake_as_client(config, socket).await?;
        let secured = proven(stream, svid, &peer, begin)?;
        (secured.protocol == H2)
            .then_some(secured.secured)
            .ok_or(HandshakeError::Protocol)
    }

    /// The server's end, as `svid`, with any client of a trusted domain, in HTTP/2.
    pub(super) async fn accept<S>(
        &self,
        svid: &Svid,
        socket: S,
    ) -> Result<Secured<TlsStream<S>>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let begin = Instant::now();
        let peer = self.peer(None);
        let config = self.server_config(svid, Arc::clone(&peer))?;
        let stream = shake_as_server(config, socket).await?;
        let secured = proven(stream, svid, &peer, begin)?;
        (secured.protocol == H2)
            .then_some(secured.secured)
            .ok_or(HandshakeError::Protocol)
    }

    /// As [`Tls::connect`], in the protocol `wanted` of ours if the peer speaks it.
    pub(super) async fn connect_fast<S>(
        &self,
        svid: &Svid,
        (expected, wanted): (&SpiffeId, &[u8]),
        socket: S,
    ) -> Result<Secured<Agreed<S>>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let begin = Instant::now();
        let peer = self.peer(Some(expected.clone()));
        let mut config = self.client_config(svid, Arc::clone(&peer))?;
        let secrets = Arc::new(TrafficSecrets::default());
        config.alpn_protocols = vec![wanted.to_vec(), H2.to_vec()];
        config.enable_secret_extraction = true;
        config.key_log = Arc::<TrafficSecrets>::clone(&secrets);
        let stream = shake_as_client(config, Turnstile::new(socket)).await?;
        agreed(proven(stream, svid, &peer, begin)?, &secrets)
    }

    /// As [`Tls::accept`], in a protocol of ours if the peer speaks one.
    pub(super) async fn accept_fast<S>(
        &self,
        svid: &Svid,
        socket: S,
    ) -> Result<Secured<Agreed<S>>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let begin = Instant::now();
        let peer = self.peer(None);
        let mut config = self.server_config(svid, Arc::clone(&peer))?;
        let secrets = Arc::new(TrafficSecrets::default());
        config.alpn_protocols = vec![FAST.to_vec(), MUX.to_vec(), H2.to_vec()];
        config.enable_secret_extraction = true;
        config.key_log = Arc::<TrafficSecrets>::clone(&secrets);
        let stream = shake_as_server(config, Turnstile::new(socket)).await?;
        agreed(proven(stream, svid, &peer, begin)?, &secrets)
    }

    fn peer(&self, expected: Option<SpiffeId>) -> Arc<Peer> {
        Arc::new(Peer::new(&self.verifier, expected, &self.provider))
    }

    fn client_config(&self, svid: &Svid, peer: Arc<Peer>) -> Result<ClientConfig, HandshakeError> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(HandshakeError::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(peer)
            .with_client_cert_resolver(Arc::new(own(svid)));
        config.alpn_protocols = vec![H2.to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    fn server_config(&self, svid: &Svid, peer: Arc<Peer>) -> Result<ServerConfig, HandshakeError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(HandshakeError::Tls)?
            .with_client_cert_verifier(peer)
            .with_cert_resolver(Arc::new(own(svid)));
        config.alpn_protocols = vec![H2.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

async fn shake_as_client<S>(config: ClientConfig, socket: S) -> Result<TlsStream<S>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Never sent, never looked at.
    let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
    let stream = TlsConnector::from(Arc::new(config)).connect(name, socket);
    let mut stream = stream.await.map_err(|error| handshake_error(&error))?;
    stream.get_mut().1.set_buffer_limit(Some(SEND_BUFFER));
    Ok(stream.into())
}

async fn shake_as_server<S>(config: ServerConfig, socket: S) -> Result<TlsStream<S>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = TlsAcceptor::from(Arc::new(config)).accept(socket);
    let mut stream = stream.await.map_err(|error| handshake_error(&error))?;
    stream.get_mut().1.set_buffer_limit(Some(SEND_BUFFER));
    Ok(stream.into())
}

fn own(svid: &Svid) -> SingleCertAndKey {
    SingleCertAndKey::from(CertifiedKey::clone(&svid.signing()))
}

fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ],
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
        ],
        ..aws_lc_rs::default_provider()
    }
}

/// A session, and what the ends agreed to speak on it.
struct Proven<S> {
    secured: Secured<TlsStream<S>>,
    protocol: &'static [u8],
}

/// Checks what TLS itself leaves open and gathers the facts.
fn proven<S>(
    stream: TlsStream<S>,
    svid: &Svid,
    peer: &Peer,
    begin: Instant,
) -> Result<Proven<S>, HandshakeError> {
    let state: &CommonState = match &stream {
        TlsStream::Client(stream) => stream.get_ref().1,
        TlsStream::Server(stream) => stream.get_ref().1,
    };
    // A peer without ALPN gets this far.
    let protocol = [FAST, MUX, H2]
        .into_iter()
        .find(|protocol| state.alpn_protocol() == Some(protocol))
        .ok_or(HandshakeError::Protocol)?;
    let cipher = state.negotiated_cipher_suite();
    let group = state.negotiated_key_exchange_group();
    let facts = SessionFacts {
        cipher: cipher
            .and_then(|suite| suite.suite().as_str())
            .unwrap_or("unknown"),
        key_exchange: group
            .and_then(|group| group.name().as_str())
            .unwrap_or("unknown"),
        handshake: begin.elapsed(),
    };
    let shown = state.peer_certificates().and_then(<[_]>::first);
    let shown = shown.ok_or(HandshakeError::NoCertificate)?;
    let theirs = valid_until(shown)
        .map_err(|error| HandshakeError::Certificate(Arc::new(PeerError::from(error))))?;
    let left = theirs.min(svid.not_after).duration_since(SystemTime::now());
    let until = Instant::now() + left.unwrap_or_default();
    let peer = peer
        .proven()
        .cloned()
        .ok_or(HandshakeError::NoCertificate)?;
    let secured = Secured {
        stream,
        peer,
        facts,
        until,
    };
    Ok(Proven { secured, protocol })
}

/// Sorts what the TLS library reports by what an operator would do next.
fn handshake_error(error: &io::Error) -> HandshakeError {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    if let Some(error) = tls {
        return tls_error(error);
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => HandshakeError::Closed,
        kind => HandshakeError::Io(Arc::new(io::Error::new(kind, error.to_string()))),
    }
}

/// The same for an error that rustls reported.
pub(super) fn tls_error(error: &rustls::Error) -> HandshakeError {
    use rustls::Error;

    match error {
        // Peers that do not speak TLS at all fail at the first record's header.
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => HandshakeError::NotTls,
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => HandshakeError::Version,
        Error::NoApplicationProtocol => HandshakeError::Protocol,
        Error::NoCertificatesPresented => HandshakeError::NoCertificate,
        Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            match inner.downcast_ref::<PeerError>() {
                Some(error) => HandshakeError::Certificate(Arc::new(error.clone())),
                None => HandshakeError::Tls(error.clone()),
            }
        }
        Error::AlertReceived(alert) => HandshakeError::Alert {
            alert: format!("{alert:?}"),
        },
        _ => HandshakeError::Tls(error.clone()),
    }
}
