//! A peer that does not behave: speaks HBONE with whatever certificate and authority a test wants,
//! and reports what the agent under test did about it.

mod forge;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::pod::Pod;

pub use forge::{Credentials, Forge, Validity};

const TIMEOUT: Duration = Duration::from_secs(20);

/// What the agent did with a rogue's CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It ended the connection before there was an answer: in TLS or in HTTP/2.
    Closed(String),
    /// It answered.
    Status {
        /// The status code.
        status: u16,
        /// The `proxy-status` header, if there was one.
        proxy_status: Option<String>,
    },
}

impl Answer {
    /// The status code, if there was an answer.
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Closed(_) => None,
            Self::Status { status, .. } => Some(*status),
        }
    }
}

/// A request as a rogue sends it.
#[derive(Clone, Debug)]
pub struct Rogue {
    /// What it shows in the handshake; nothing if `None`.
    pub credentials: Option<Credentials>,
    /// The protocols it offers.
    pub alpn: Vec<Vec<u8>>,
    /// The method.
    pub method: http::Method,
    /// The authority.
    pub authority: String,
    /// Headers besides.
    pub headers: http::HeaderMap,
}

impl Rogue {
    /// A well-behaved CONNECT to start from.
    pub fn connect(credentials: Option<Credentials>, authority: SocketAddr) -> Self {
        Self {
            credentials,
            alpn: vec![b"h2".to_vec()],
            method: http::Method::CONNECT,
            authority: authority.to_string(),
            headers: http::HeaderMap::new(),
        }
    }

    /// Sends it from inside a pod.
    ///
    /// # Errors
    ///
    /// Fails if the rogue itself cannot be built, or if there was no reaction in time.
    pub fn send(&self, from: &Pod, to: SocketAddr) -> Result<Answer> {
        from.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let answer = tokio::time::timeout(TIMEOUT, self.talk(to)).await;
                answer.context("the agent did not react")
            })
        })?
    }

    async fn talk(&self, to: SocketAddr) -> Answer {
        match self.exchange(to).await {
            Ok(answer) => answer,
            Err(error) => Answer::Closed(format!("{error:#}")),
        }
    }

    async fn exchange(&self, to: SocketAddr) -> Result<Answer> {
        let tls = self.handshake(to).await?;
        let (client, connection) = h2::client::handshake(tls).await?;
        let exchange = async {
            let mut client = client.ready().await?;
            let uri = if self.method == http::Method::CONNECT {
                self.authority.clone()
            } else {
                format!("https://{}/", self.authority)
            };
            let mut request = http::Request::builder()
                .method(self.method.clone())
                .uri(uri)
                .body(())?;
            request.headers_mut().extend(self.headers.clone());
            let (response, _stream) = client.send_request(request, false)?;
            let response = response.await?;
            let proxy_status = response.headers().get("proxy-status");
            Ok(Answer::Status {
                status: response.status().as_u16(),
                proxy_status: proxy_status
                    .and_then(|it| it.to_str().ok())
                    .map(str::to_owned),
            })
        };
        tokio::select! {
            answer = exchange => answer,
            ended = connection => {
                ended?;
                anyhow::bail!("the connection ended")
            }
        }
    }

    async fn handshake(&self, to: SocketAddr) -> Result<TlsStream<TcpStream>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible(provider)));
        let mut config = match &self.credentials {
            Some(it) => builder.with_client_auth_cert(it.chain.clone(), it.key.clone_key())?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config.enable_sni = false;
        let tcp = TcpStream::connect(to).await?;
        let name = ServerName::IpAddress(to.ip().into());
        Ok(TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await?)
    }
}

/// Believes any server: it is the agent's judgement that is under test.
#[derive(Debug)]
struct Gullible(Arc<CryptoProvider>);

impl ServerCertVerifier for Gullible {
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
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The first flight of a client that speaks TLS 1.2 at most: a well-formed `ClientHello` without
/// the `supported_versions` extension.
pub fn tls12_client_hello() -> Vec<u8> {
    let mut hello = vec![0x03, 0x03];
    hello.extend([7; 32]); // random
    hello.push(0); // no session
    hello.extend([0, 2, 0xc0, 0x2b]); // TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
    hello.extend([1, 0]); // no compression
    let groups = [0x00, 0x0a, 0, 4, 0, 2, 0x00, 0x17]; // supported_groups: secp256r1
    let signatures = [0x00, 0x0d, 0, 4, 0, 2, 0x04, 0x03]; // ecdsa_secp256r1_sha256
    hello.extend([0, 16]);
    hello.extend(groups);
    hello.extend(signatures);
    let body = u8::try_from(hello.len()).unwrap_or(u8::MAX);
    let mut record = vec![
        0x16,
        0x03,
        0x01,
        0,
        body.saturating_add(4),
        0x01,
        0,
        0,
        body,
    ];
    record.append(&mut hello);
    record
}
