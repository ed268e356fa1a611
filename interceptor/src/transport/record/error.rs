//! Why the record layer ended a session, and which alert tells the peer so.

use rustls::AlertDescription;

/// Why no further record can be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The AEAD did not accept the record: it was changed on the way, or sealed by somebody else.
    #[error("a record was not authentic")]
    NotAuthentic,
    /// The record is longer than allowed, sealed or open.
    #[error("a record was too long")]
    TooLong,
    /// The record is too short to have been sealed.
    #[error("a record was too short")]
    TooShort,
    /// A record or message that may not come after a handshake, or not here.
    #[error("unexpected {0}")]
    Unexpected(&'static str),
    /// A message that does not parse.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// More records without data in a row than make sense.
    #[error("too many records without data")]
    Flood,
    /// The peer has ended the session with an error.
    #[error("the peer ended the session with alert {0:?}")]
    Alert(AlertDescription),
    /// The key has been used as often as it may be.
    #[error("a key was used up")]
    Exhausted,
    /// The session ended earlier.
    #[error("the session has ended")]
    Ended,
    /// The slot does not hold the record: a mistake of the caller.
    #[error("no room for the record")]
    Room,
    /// The cryptographic library failed.
    #[error("a key could not be made")]
    Key,
}

impl RecordError {
    /// The alert that tells the peer, if there is anything to tell (RFC 8446 6.2).
    pub const fn alert(self) -> Option<AlertDescription> {
        match self {
            Self::NotAuthentic => Some(AlertDescription::BadRecordMac),
            Self::TooLong => Some(AlertDescription::RecordOverflow),
            Self::TooShort | Self::Malformed(_) => Some(AlertDescription::DecodeError),
            Self::Unexpected(_) | Self::Flood => Some(AlertDescription::UnexpectedMessage),
            Self::Exhausted | Self::Room | Self::Key => Some(AlertDescription::InternalError),
            Self::Alert(_) | Self::Ended => None,
        }
    }
}
