//! The key of one direction: from a traffic secret to a nonce for each record (RFC 8446 5.3, 7.2,
//! 7.3).
//!
//! rustls gives the first key, initialisation vector and sequence number; the traffic secret is
//! needed only for the next generation of keys. Secrets and vectors are zeroised on drop, and the
//! key schedule inside `LessSafeKey` is cleansed by aws-lc when it is freed.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce,
    UnboundKey,
};
use aws_lc_rs::hkdf::{self, HKDF_SHA256, HKDF_SHA384, KeyType, Prk};
use zeroize::{Zeroize as _, Zeroizing};

use super::error::RecordError;
use super::{HEADER, TAG};

/// Length of the longest traffic secret: that of SHA-384.
const LONGEST_SECRET: usize = 48;

/// The cipher suites of TLS 1.3 that rustls may agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// `TLS13_AES_128_GCM_SHA256`
    Aes128,
    /// `TLS13_AES_256_GCM_SHA384`
    Aes256,
    /// `TLS13_CHACHA20_POLY1305_SHA256`
    ChaCha20,
}

impl Suite {
    const fn aead(self) -> &'static Algorithm {
        match self {
            Self::Aes128 => &AES_128_GCM,
            Self::Aes256 => &AES_256_GCM,
            Self::ChaCha20 => &CHACHA20_POLY1305,
        }
    }

    const fn hkdf(self) -> hkdf::Algorithm {
        match self {
            Self::Aes128 | Self::ChaCha20 => HKDF_SHA256,
            Self::Aes256 => HKDF_SHA384,
        }
    }

    const fn hash_length(self) -> usize {
        match self {
            Self::Aes128 | Self::ChaCha20 => 32,
            Self::Aes256 => 48,
        }
    }

    /// Records that one key may seal. For AES-GCM 2^24 full ones keep an attacker's advantage
    /// under 2^-60 (draft-irtf-cfrg-aead-limits, as rustls has it; RFC 8446 5.5 allows 2^24.5);
    /// `ChaCha20` ends with the sequence number.
    const fn limit(self) -> u64 {
        match self {
            Self::Aes128 | Self::Aes256 => 1 << 24,
            Self::ChaCha20 => u64::MAX,
        }
    }
}

/// A traffic secret, from which keys are derived and the next secret.
struct Secret(Zeroizing<[u8; LONGEST_SECRET]>);

impl Secret {
    fn new(suite: Suite, secret: &[u8]) -> Result<Self, RecordError> {
        let mut own = Self(Zeroizing::new([0; LONGEST_SECRET]));
        let room = own.0.get_mut(..suite.hash_length());
        let room = room.filter(|room| room.len() == secret.len());
        room.ok_or(RecordError::Key)?.copy_from_slice(secret);
        Ok(own)
    }

    /// `HKDF-Expand-Label(secret, label, "", length)` (RFC 8446 7.1).
    fn expand(&self, suite: Suite, label: &[u8], out: &mut [u8]) -> Result<(), RecordError> {
        let secret = self.0.get(..suite.hash_length());
        let secret = secret.ok_or(RecordError::Key)?;
        let length = u16::try_from(out.len()).map_err(|_wide| RecordError::Key)?;
        let labelled =
            u8::try_from(PREFIX.len() + label.len()).map_err(|_wide| RecordError::Key)?;
        let (length_be, context_length) = (length.to_be_bytes(), [0]);
        let labelled = [labelled];
        let text = [&length_be[..], &labelled, PREFIX, label, &context_length];
        Prk::new_less_safe(suite.hkdf(), secret)
            .expand(&text, Length(out.len()))
            .and_then(|okm| okm.fill(out))
            .map_err(|_unspecified| RecordError::Key)
    }
}

const PREFIX: &[u8] = b"tls13 ";

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// The keys of one direction, in use.
pub struct Direction {
    suite: Suite,
    secret: Secret,
    key: LessSafeKey,
    iv: Zeroizing<[u8; NONCE_LEN]>,
    /// Of the next record.
    sequence: u64,
}

impl std::fmt::Debug for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Direction")
            .field("suite", &self.suite)
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl Direction {
    /// A direction whose `key` and `iv`, made from `secret`, have been used for `sequence` records.
    ///
    /// # Errors
    ///
    /// If a length is not the suite's.
    pub fn new(
        suite: Suite,
        secret: &[u8],
        (key, iv): (&[u8], &[u8]),
        sequence: u64,
    ) -> Result<Self, RecordError> {
        Ok(Self {
            suite,
            secret: Secret::new(suite, secret)?,
            key: aead(suite, key)?,
            iv: Zeroizing::new(iv.try_into().map_err(|_length| RecordError::Key)?),
            sequence,
        })
    }

    /// The first generation of a traffic `secret`, not used yet.
    ///
    /// # Errors
    ///
    /// If the secret does not have the length of the suite's hash.
    pub fn of_secret(suite: Suite, secret: &[u8]) -> Result<Self, RecordError> {
        let (key, iv) = derive(suite, &Secret::new(suite, secret)?)?;
        let key = key.get(..suite.aead().key_len());
        Self::new(suite, secret, (key.ok_or(RecordError::Key)?, &*iv), 0)
    }

    /// Goes on to the next generation of keys (RFC 8446 7.2).
    pub(super) fn update(&mut self) -> Result<(), RecordError> {
        let mut next = Zeroizing::new([0; LONGEST_SECRET]);
        let room = next.get_mut(..self.suite.hash_length());
        let room = room.ok_or(RecordError::Key)?;
        self.secret.expand(self.suite, b"traffic upd", room)?;
        self.secret = Secret::new(self.suite, room)?;
        let (key, iv) = derive(self.suite, &self.secret)?;
        let key = key.get(..self.suite.aead().key_len());
        self.key = aead(self.suite, key.ok_or(RecordError::Key)?)?;
        self.iv.zeroize();
        self.iv = iv;
        self.sequence = 0;
        Ok(())
    }

    /// Whether half of the records that the key may seal have been sealed.
    #[inline]
    pub(super) const fn half_used(&self) -> bool {
        self.sequence >= self.suite.limit() / 2
    }

    /// Seals `text` in place under the record's `header`.
    #[inline]
    pub(super) fn seal(
        &mut self,
        header: [u8; HEADER],
        text: &mut [u8],
    ) -> Result<[u8; TAG], RecordError> {
        if self.sequence >= self.suite.limit() {
            return Err(RecordError::Exhausted);
        }
        let nonce = self.nonce()?;
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(header), text)
            .map_err(|_unspecified| RecordError::Key)?;
        tag.as_ref().try_into().map_err(|_length| RecordError::Key)
    }

    /// Opens `sealed`, which ends with the tag, in place; returns the length of the plaintext.
    #[inline]
    pub(super) fn open(
        &mut self,
        header: [u8; HEADER],
        sealed: &mut [u8],
    ) -> Result<usize, RecordError> {
        let nonce = self.nonce()?;
        self.key
            .open_in_place(nonce, Aad::from(header), sealed)
            .map(|text| text.len())
            .map_err(|_unspecified| RecordError::NotAuthentic)
    }

    /// The nonce of the next record: never the same twice for one key (RFC 8446 5.3).
    #[inline]
    fn nonce(&mut self) -> Result<Nonce, RecordError> {
        let sequence = self.sequence;
        self.sequence = sequence.checked_add(1).ok_or(RecordError::Exhausted)?;
        let mut nonce = *self.iv;
        let (_, low) = nonce.split_last_chunk_mut::<8>().ok_or(RecordError::Key)?;
        *low = (u64::from_be_bytes(*low) ^ sequence).to_be_bytes();
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    /// Pretends that `sequence` records have gone by.
    #[cfg(test)]
    pub(super) const fn skip_to(&mut self, sequence: u64) {
        self.sequence = sequence;
    }
}

fn aead(suite: Suite, key: &[u8]) -> Result<LessSafeKey, RecordError> {
    UnboundKey::new(suite.aead(), key)
        .map(LessSafeKey::new)
        .map_err(|_unspecified| RecordError::Key)
}

type Derived = (Zeroizing<[u8; 32]>, Zeroizing<[u8; NONCE_LEN]>);

/// Key and initialisation vector (RFC 8446 7.3). The key is as long as the suite wants.
fn derive(suite: Suite, secret: &Secret) -> Result<Derived, RecordError> {
    let (mut key, mut iv) = (Zeroizing::new([0; 32]), Zeroizing::new([0; NONCE_LEN]));
    let room = key.get_mut(..suite.aead().key_len());
    secret.expand(suite, b"key", room.ok_or(RecordError::Key)?)?;
    secret.expand(suite, b"iv", &mut *iv)?;
    Ok((key, iv))
}
