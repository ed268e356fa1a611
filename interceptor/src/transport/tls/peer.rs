//! The verifier of one handshake: asks `identity` whether the peer is acceptable, and remembers who
//! it was.
//!
//! One is made for each handshake, so that the identity it remembers cannot be another
//! connection's.

use std::sync::{Arc, OnceLock};

use interceptor_policy::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::identity::Verifier;

/// Verifies one peer and remembers who it was.
#[derive(Debug)]
pub(super) struct Peer {
    verifier: Verifier,
    /// On the client's end: whom the verdict named.
    expected: Option<SpiffeId>,
    proven: OnceLock<SpiffeId>,
    provider: Arc<CryptoProvider>,
}

impl Peer {
    pub(super) fn new(
        verifier: &Verifier,
        expected: Option<SpiffeId>,
        provider: &Arc<CryptoProvider>,
    ) -> Self {
        Self {
            verifier: verifier.clone(),
            expected,
            proven: OnceLock::new(),
            provider: Arc::clone(provider),
        }
    }

    /// Who the peer is, once it has proven it.
    pub(super) fn proven(&self) -> Option<&SpiffeId> {
        self.proven.get()
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let verified = match &self.expected {
            Some(expected) => self
                .verifier
                .verify_server(leaf, intermediates, expected, now),
            None => self.verifier.verify_client(leaf, intermediates, now),
        };
        let peer = verified.map_err(|error| {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
        })?;
        // rustls asks once per handshake; a second, different answer must not pass.
        if self.proven.get_or_init(|| peer.clone()) == &peer {
            Ok(())
        } else {
            Err(rustls::Error::General(
                "two identities in one handshake".to_owned(),
            ))
        }
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// TLS 1.2 is not offered, so its signatures are never asked for.
const fn no_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::PeerIncompatible(
        PeerIncompatible::Tls12NotOffered,
    ))
}

impl ServerCertVerifier for Peer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // A client that expects nobody in particular must not exist.
        if self.expected.is_none() {
            return Err(rustls::Error::General("no expected identity".to_owned()));
        }
        self.verify(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Peer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hint: clients have one certificate, and the roots are nobody's business.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
