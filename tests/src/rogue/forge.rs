//! Certificates that an honest authority would not issue.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate chain with its key.
pub struct Credentials {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Credentials {
    /// The chain as PEM, leaf first.
    pub fn chain_pem(&self) -> String {
        let blocks = self.chain.iter().map(|it| pem_block("CERTIFICATE", it));
        blocks.collect()
    }

    /// The key as PEM.
    pub fn key_pem(&self) -> String {
        pem_block("PRIVATE KEY", self.key.secret_der())
    }
}

fn pem_block(label: &str, der: &[u8]) -> String {
    pem::encode(&pem::Pem::new(label, der))
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// When a forged certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// Now.
    Now,
    /// It ended years ago.
    Past,
    /// It begins in years.
    Future,
}

/// Something that signs whatever it is asked to.
#[derive(Debug)]
pub struct Forge {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Forge {
    /// The mesh's own certificate authority, in the wrong hands.
    ///
    /// # Errors
    ///
    /// Fails if the folder holds no authority.
    pub fn of(ca: &Path) -> Result<Self> {
        let pem = fs::read_to_string(ca.join("ca.crt")).context("read the CA's certificate")?;
        let key = KeyPair::from_pem(&fs::read_to_string(ca.join("ca.key"))?)?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key)?;
        let certificate = rustls_pki_types::pem::PemObject::from_pem_slice(pem.as_bytes())
            .map_err(|error| anyhow::anyhow!("{error:?}"))?;
        Ok(Self {
            issuer,
            certificate,
        })
    }

    /// An authority that the mesh does not know.
    ///
    /// # Errors
    ///
    /// Fails if no key can be made.
    pub fn stranger() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "stranger");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    /// Issues a certificate with these URI names.
    ///
    /// # Errors
    ///
    /// Fails if a name cannot be encoded.
    pub fn issue(&self, uris: &[&str], validity: Validity) -> Result<Credentials> {
        let mut params = CertificateParams::default();
        for uri in uris {
            params
                .subject_alt_names
                .push(SanType::URI((*uri).try_into()?));
        }
        self.sign(params, validity)
    }

    /// Issues a certificate with a DNS name and no identity.
    ///
    /// # Errors
    ///
    /// Fails if the name cannot be encoded.
    pub fn issue_dns(&self, name: &str) -> Result<Credentials> {
        self.sign(
            CertificateParams::new(vec![name.to_owned()])?,
            Validity::Now,
        )
    }

    fn sign(&self, mut params: CertificateParams, validity: Validity) -> Result<Credentials> {
        let (from, to) = match validity {
            Validity::Now => (2020, 2090),
            Validity::Past => (2018, 2020),
            Validity::Future => (2080, 2090),
        };
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.is_ca = IsCa::ExplicitNoCa;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Credentials {
            chain: vec![certificate.der().clone(), self.certificate.clone()],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        })
    }
}
