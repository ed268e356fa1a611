//! TLS 1.3 records, sealed and opened in place: what rustls' record layer does, without its copies.
//!
//! ```text
//!  seal:  │ header 5 │ payload ≤ 16384, read into by the socket │ type 1 │ tag 16 │  → send(2)
//!  open:  │ header 5 │ ciphertext, received by recv(2)           → plaintext, where it was │
//! ```
//!
//! rustls shakes hands ([`super::tls`]) and hands over the traffic keys with their sequence
//! numbers; from then on this module is the record protocol of RFC 8446 section 5, with the three
//! messages that may come after a handshake: alert, `KeyUpdate`, `NewSessionTicket`. rustls'
//! buffered layer decrypts at 2.3 GB/s what the AEAD under it opens at 11 (one record per read,
//! copied twice); in place, many records share one system call and none is copied.
//!
//! It knows no sockets and keeps no bytes. A caller lays out up to 32 slots of [`SLOT`] bytes in
//! one buffer, reads into their payloads, seals them and writes the buffer at once; or receives
//! into a buffer, opens record after record, and writes the plaintext slices at once.
//!
//! # Invariants
//!
//! * No nonce is ever used twice: the sequence number moves before the AEAD is called, it starts
//!   where rustls left off, and after any error, close or alert there is no key any more.
//! * Keys change before the AEAD's limit, whether or not the peer asks for it.
//! * Nothing of a record is seen before it is authenticated, except the five bytes of its header.
//! * A peer cannot make us work for nothing: records without data are counted, and bounded.
//! * Secrets are zeroised when they are replaced or dropped.
//!
//! Not here: handshakes, certificates (`tls`), what is carried (`hbone`).

mod error;
mod keys;
mod opener;
mod sealer;

pub use error::RecordError;
pub use keys::{Direction, Suite};
pub use opener::{Content, Opener, Record};
pub use sealer::{Control, Sealer};

#[cfg(test)]
mod tests;

/// Bytes before the payload: type, version, length.
pub const HEADER: usize = 5;
/// Bytes after it: the true type, and the AEAD's tag.
pub const TRAILER: usize = 1 + TAG;
/// What a record needs besides its payload.
pub const OVERHEAD: usize = HEADER + TRAILER;
/// Most that one record carries (RFC 8446 5.1).
pub const PAYLOAD: usize = 1 << 14;
/// A record with the largest payload.
pub const SLOT: usize = OVERHEAD + PAYLOAD;

const TAG: usize = 16;

/// What a record is (RFC 8446 B.1).
mod kind {
    pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
    pub(super) const ALERT: u8 = 21;
    pub(super) const HANDSHAKE: u8 = 22;
    pub(super) const APPLICATION_DATA: u8 = 23;
}

/// Both directions of an established session.
#[derive(Debug)]
pub struct Session {
    /// Towards the peer.
    pub sealer: Sealer,
    /// From the peer.
    pub opener: Opener,
}

impl Session {
    /// A session that goes on where the handshake has ended.
    pub const fn new(transmit: Direction, receive: Direction) -> Self {
        Self {
            sealer: Sealer::new(transmit),
            opener: Opener::new(receive),
        }
    }

    /// A record that has to be sent before the next one is sealed: the answer to the peer's wish
    /// for new keys, or new keys because ours have nearly been used up. To be asked before every
    /// batch of records; costs two comparisons if there is nothing.
    ///
    /// # Errors
    ///
    /// If the key is used up all the same. Nothing is due once the sealer has ended.
    #[inline]
    pub fn due(&mut self) -> Result<Option<Control>, RecordError> {
        // Before more data of ours, and once, however often the peer has asked (RFC 8446 4.6.3).
        let wanted = self.opener.take_update_request();
        if self.sealer.is_open() && (wanted || self.sealer.nearly_exhausted()) {
            return self.sealer.update().map(Some);
        }
        Ok(None)
    }
}
