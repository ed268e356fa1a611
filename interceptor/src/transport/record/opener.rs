//! Records from the peer.

use std::ops::Range;

use rustls::AlertDescription;

use super::error::RecordError;
use super::keys::Direction;
use super::{HEADER, PAYLOAD, TRAILER, kind};

/// Longest sealed content: room for padding and another AEAD's expansion (RFC 8446 5.2).
const LONGEST: usize = PAYLOAD + 256;
/// Records in a row that may come without data: the bound that `BoringSSL` and rustls have for
/// `KeyUpdate` and empty records.
const PATIENCE: u8 = 32;
/// Longest message of a handshake that is skipped: a `NewSessionTicket` is at most 131 KiB.
const LONGEST_MESSAGE: u32 = 1 << 18;
/// A message's type and length.
const MESSAGE_HEADER: usize = 4;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// A record that has been opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where the next record begins.
    pub end: usize,
    /// What was in it.
    pub content: Content,
}

/// What was in a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Data, at this place of the buffer. Never empty.
    Data(Range<usize>),
    /// Nothing for the caller.
    Nothing,
    /// The peer has said goodbye: whatever follows is ignored (RFC 8446 6.1).
    Closed,
}

/// Opens records in place. After an error there is no key any more.
#[derive(Debug)]
pub struct Opener {
    keys: Option<Direction>,
    messages: Messages,
    /// Records without data that may still come.
    patience: u8,
    update_requested: bool,
    closed: bool,
}

impl Opener {
    pub(super) const fn new(keys: Direction) -> Self {
        Self {
            keys: Some(keys),
            messages: Messages::new(),
            patience: PATIENCE,
            update_requested: false,
            closed: false,
        }
    }

    /// Opens the record that begins at `from`. `None` if it is not complete: it never needs more
    /// than [`HEADER`] and 16,640 bytes, so a buffer of that size always gets on.
    ///
    /// # Errors
    ///
    /// Why the session is over; [`RecordError::alert`] says what the peer should be told.
    #[inline]
    pub fn open(&mut self, buffer: &mut [u8], from: usize) -> Result<Option<Record>, RecordError> {
        if self.closed {
            let (end, content) = (buffer.len(), Content::Closed);
            return Ok((from < end).then_some(Record { end, content }));
        }
        if self.keys.is_none() {
            return Err(RecordError::Ended);
        }
        let record = self.opened(buffer, from);
        if record.is_err() {
            self.keys = None;
        }
        record
    }

    /// Whether the peer has said goodbye. If a connection ends without, data may be missing.
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the peer wants new keys from us since this was asked last.
    #[inline]
    pub(in crate::transport) const fn take_update_request(&mut self) -> bool {
        std::mem::replace(&mut self.update_requested, false)
    }

    #[inline]
    fn opened(&mut self, buffer: &mut [u8], from: usize) -> Result<Option<Record>, RecordError> {
        let rest = buffer.get_mut(from..).unwrap_or_default();
        let Some((&mut header, body)) = rest.split_first_chunk_mut::<HEADER>() else {
            return Ok(None);
        };
        let length = sealed_length(header)?;
        let Some(sealed) = body.get_mut(..length) else {
            return Ok(None);
        };
        let keys = self.keys.as_mut().ok_or(RecordError::Ended)?;
        let text = keys.open(header, sealed)?;
        let text = sealed.get(..text).unwrap_or_default();
        let (kind, text) = without_padding(text)?;
        let start = from + HEADER;
        let content = if kind == kind::APPLICATION_DATA && !text.is_empty() && self.messages.whole()
        {
            self.patience = PATIENCE;
            Content::Data(start..start + text.len())
        } else {
            self.other(kind, text)?
        };
        Ok(Some(Record {
            end: start + length,
            content,
        }))
    }

    /// A record without data.
    #[cold]
    fn other(&mut self, kind: u8, text: &[u8]) -> Result<Content, RecordError> {
        self.patience = self.patience.checked_sub(1).ok_or(RecordError::Flood)?;
        match kind {
            kind::HANDSHAKE => self.handshake(text),
            // Messages must not be interleaved with other records (RFC 8446 5.1).
            _ if !self.messages.whole() => Err(RecordError::Unexpected("record inside a message")),
            // Empty ones are allowed, to hide how much is said (RFC 8446 5.1).
            kind::APPLICATION_DATA => Ok(Content::Nothing),
            kind::ALERT => self.alert(text),
            kind::CHANGE_CIPHER_SPEC => Err(RecordError::Unexpected("change of cipher")),
            _ => Err(RecordError::Unexpected("type of record")),
        }
    }

    /// Two of them are none (RFC 8446 6.1); all others are fatal, known or not, whatever level they
    /// claim to have (RFC 8446 6).
    fn alert(&mut self, text: &[u8]) -> Result<Content, RecordError> {
        let [_level, description] = text else {
            return Err(RecordError::Malformed("alert"));
        };
        match AlertDescription::from(*description) {
            AlertDescription::CloseNotify => {
                self.closed = true;
                Ok(Content::Closed)
            }
            AlertDescription::UserCanceled => Ok(Content::Nothing),
            description => Err(RecordError::Alert(description)),
        }
    }

    fn handshake(&mut self, mut text: &[u8]) -> Result<Content, RecordError> {
        if text.is_empty() {
            // Not allowed for handshakes (RFC 8446 5.1).
            return Err(RecordError::Unexpected("empty handshake record"));
        }
        while !text.is_empty() {
            let (message, rest) = self.messages.read(text)?;
            text = rest;
            if let Some(request) = message {
                // The keys change at a record's border, or somebody could have inserted what
                // follows (RFC 8446 5.1).
                if !text.is_empty() {
                    return Err(RecordError::Unexpected("message behind a change of keys"));
                }
                self.keys
                    .as_mut()
                    .map_or(Err(RecordError::Ended), Direction::update)?;
                self.update_requested |= request == Request::Update;
            }
        }
        Ok(Content::Nothing)
    }

    /// Pretends that `sequence` records have been opened.
    #[cfg(test)]
    pub(super) const fn skip_to(&mut self, sequence: u64) {
        self.keys.as_mut().unwrap().skip_to(sequence);
    }
}

/// Length of the sealed content, if the header may be one.
#[inline]
fn sealed_length([kind, _, _, high, low]: [u8; HEADER]) -> Result<usize, RecordError> {
    // After the handshake all records look like data (RFC 8446 5.2); a change of cipher, too, is
    // allowed only before the peer's Finished (5). The version is ignored (5.1).
    if kind != kind::APPLICATION_DATA {
        return Err(RecordError::Unexpected("record in plaintext"));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST {
        return Err(RecordError::TooLong);
    }
    if length < TRAILER {
        return Err(RecordError::TooShort);
    }
    Ok(length)
}

/// The true type is the last byte that is not zero (RFC 8446 5.4).
#[inline]
fn without_padding(text: &[u8]) -> Result<(u8, &[u8]), RecordError> {
    if text.len() > PAYLOAD + 1 {
        return Err(RecordError::TooLong);
    }
    let end = text.iter().rposition(|byte| *byte != 0);
    let record = end.and_then(|end| text.get(..=end)?.split_last());
    let (kind, text) = record.ok_or(RecordError::Unexpected("record without a type"))?;
    Ok((*kind, text))
}

/// What a `KeyUpdate` says besides that the peer's own keys change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    None,
    Update,
}

/// Messages of the handshake type, which may share records or span them. Tickets are skipped, since
/// sessions are never resumed.
#[derive(Debug)]
struct Messages {
    header: [u8; MESSAGE_HEADER],
    have: usize,
    /// Bytes of the body that have yet to come.
    left: usize,
}

impl Messages {
    const fn new() -> Self {
        Self {
            header: [0; MESSAGE_HEADER],
            have: 0,
            left: 0,
        }
    }

    /// Whether no message has begun and not ended.
    #[inline]
    const fn whole(&self) -> bool {
        self.have == 0
    }

    /// Goes on in the message that has begun, or in the next one.
    fn read<'a>(&mut self, text: &'a [u8]) -> Result<(Option<Request>, &'a [u8]), RecordError> {
        if let Some(room) = self
            .header
            .get_mut(self.have..)
            .filter(|room| !room.is_empty())
        {
            let count = room.len().min(text.len());
            let (header, rest) = text.split_at(count);
            for (room, byte) in room.iter_mut().zip(header) {
                *room = *byte;
            }
            self.have += count;
            if self.have == MESSAGE_HEADER {
                self.left = body_length(self.header)?;
            }
            return Ok((None, rest));
        }
        let (body, rest) = text.split_at(self.left.min(text.len()));
        self.left -= body.len();
        if self.left > 0 {
            return Ok((None, rest));
        }
        self.have = 0;
        if self.header.first() != Some(&KEY_UPDATE) {
            return Ok((None, rest));
        }
        match body {
            [0] => Ok((Some(Request::None), rest)),
            [1] => Ok((Some(Request::Update), rest)),
            _ => Err(RecordError::Malformed("KeyUpdate")),
        }
    }
}

/// Length of the body of a message that may come after a handshake (RFC 8446 4.6).
fn body_length([kind, a, b, c]: [u8; MESSAGE_HEADER]) -> Result<usize, RecordError> {
    let length = u32::from_be_bytes([0, a, b, c]);
    match (kind, length) {
        (KEY_UPDATE, 1) | (NEW_SESSION_TICKET, 1..=LONGEST_MESSAGE) => {
            usize::try_from(length).map_err(|_wide| RecordError::Malformed("message"))
        }
        (KEY_UPDATE | NEW_SESSION_TICKET, _) => Err(RecordError::Malformed("message")),
        _ => Err(RecordError::Unexpected("message after the handshake")),
    }
}
