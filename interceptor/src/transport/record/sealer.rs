//! Records towards the peer.

use rustls::AlertDescription;

use super::error::RecordError;
use super::keys::Direction;
use super::{HEADER, OVERHEAD, PAYLOAD, TAG, TRAILER, kind};

/// `KeyUpdate` with `update_not_requested` (RFC 8446 4.6.3). The peer's keys are its own business:
/// asking for them could make two agents ask each other for ever.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
/// Level of every alert but two (RFC 8446 6).
const FATAL: u8 = 2;
const WARNING: u8 = 1;

/// A short record that the record layer itself has to send.
#[derive(Debug)]
#[must_use = "what is sealed afterwards cannot be opened without it"]
pub struct Control {
    bytes: [u8; OVERHEAD + KEY_UPDATE.len()],
    length: usize,
}

impl Control {
    /// As it goes to the socket.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Seals records in place. After an error, a close or an alert there is no key any more.
#[derive(Debug)]
pub struct Sealer {
    keys: Option<Direction>,
}

impl Sealer {
    pub(super) const fn new(keys: Direction) -> Self {
        Self { keys: Some(keys) }
    }

    /// Makes a record of the `payload` bytes that begin at [`HEADER`] in `slot`, which has room for
    /// [`OVERHEAD`] more. Returns the length of the record, which begins where the slot does.
    ///
    /// # Errors
    ///
    /// If the session has ended, the key is used up, or the record does not fit. The session has
    /// ended then in any case.
    #[inline]
    pub fn seal(&mut self, slot: &mut [u8], payload: usize) -> Result<usize, RecordError> {
        self.record(slot, payload, kind::APPLICATION_DATA)
    }

    /// Whether new keys are due.
    #[inline]
    pub(in crate::transport) fn nearly_exhausted(&self) -> bool {
        self.keys.as_ref().is_some_and(Direction::half_used)
    }

    /// Whether records can still be sealed.
    pub const fn is_open(&self) -> bool {
        self.keys.is_some()
    }

    /// Announces new keys and goes on with them.
    pub(in crate::transport) fn update(&mut self) -> Result<Control, RecordError> {
        let control = self.control(&KEY_UPDATE, kind::HANDSHAKE)?;
        let updated = self
            .keys
            .as_mut()
            .map_or(Err(RecordError::Ended), Direction::update);
        if updated.is_err() {
            self.keys = None;
        }
        updated.map(|()| control)
    }

    /// Says goodbye: no more data from here (RFC 8446 6.1). The other direction goes on.
    ///
    /// # Errors
    ///
    /// If that cannot be said any more.
    pub fn close(&mut self) -> Result<Control, RecordError> {
        let alert = [WARNING, AlertDescription::CloseNotify.into()];
        let control = self.control(&alert, kind::ALERT);
        self.keys = None;
        control
    }

    /// Tells the peer why the session ends here.
    ///
    /// # Errors
    ///
    /// If that cannot be said any more.
    pub fn alert(&mut self, description: AlertDescription) -> Result<Control, RecordError> {
        let control = self.control(&[FATAL, description.into()], kind::ALERT);
        self.keys = None;
        control
    }

    fn control(&mut self, message: &[u8], kind: u8) -> Result<Control, RecordError> {
        let mut bytes = [0; OVERHEAD + KEY_UPDATE.len()];
        let room = bytes.get_mut(HEADER..).unwrap_or_default();
        for (room, byte) in room.iter_mut().zip(message) {
            *room = *byte;
        }
        let length = self.record(&mut bytes, message.len(), kind)?;
        Ok(Control { bytes, length })
    }

    #[inline]
    fn record(&mut self, slot: &mut [u8], payload: usize, kind: u8) -> Result<usize, RecordError> {
        let keys = self.keys.as_mut().ok_or(RecordError::Ended)?;
        let length = sealed(keys, slot, payload, kind);
        if length.is_err() {
            self.keys = None;
        }
        length
    }

    /// The keys themselves, to seal what must not be.
    #[cfg(test)]
    pub(super) const fn keys(&mut self) -> Option<&mut Direction> {
        self.keys.as_mut()
    }

    /// Pretends that `sequence` records have been sealed.
    #[cfg(test)]
    pub(super) const fn skip_to(&mut self, sequence: u64) {
        self.keys.as_mut().unwrap().skip_to(sequence);
    }
}

#[inline]
fn sealed(
    keys: &mut Direction,
    slot: &mut [u8],
    payload: usize,
    kind: u8,
) -> Result<usize, RecordError> {
    if payload > PAYLOAD {
        return Err(RecordError::TooLong);
    }
    let total = payload + OVERHEAD;
    let record = slot.get_mut(..total).ok_or(RecordError::Room)?;
    let length = u16::try_from(payload + TRAILER).map_err(|_wide| RecordError::TooLong)?;
    let [high, low] = length.to_be_bytes();
    // To the outside every record is application data of TLS 1.2 (RFC 8446 5.2).
    let header = [kind::APPLICATION_DATA, 3, 3, high, low];
    let (head, body) = record
        .split_first_chunk_mut::<HEADER>()
        .ok_or(RecordError::Room)?;
    *head = header;
    let (text, tag) = body
        .split_last_chunk_mut::<TAG>()
        .ok_or(RecordError::Room)?;
    *text.last_mut().ok_or(RecordError::Room)? = kind;
    *tag = keys.seal(header, text)?;
    Ok(total)
}
