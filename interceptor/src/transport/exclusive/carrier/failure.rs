//! Why a session on an exclusive carrier is over, and how that is told to whoever has the stream.

use std::io::{self, ErrorKind};

use super::super::super::codec::{CodecError, name_of};
use super::super::super::error::{SessionError, StreamError};
use super::super::super::hbone::stream::Abort;
use super::super::super::record::RecordError;

/// Why a session is over.
#[derive(Debug)]
pub(in crate::transport) enum SessionFailure {
    /// The connection ended.
    Closed,
    /// The peer said that it is going.
    GoneAway {
        /// Why.
        code: u32,
        /// And that it has not looked at our stream.
        unserved: bool,
    },
    /// The socket failed.
    Io(io::Error),
    /// Records.
    Record(RecordError),
    /// Frames.
    Codec(CodecError),
    /// No sign of life.
    Silent,
}

impl From<io::Error> for SessionFailure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<RecordError> for SessionFailure {
    fn from(error: RecordError) -> Self {
        Self::Record(error)
    }
}

impl From<CodecError> for SessionFailure {
    fn from(error: CodecError) -> Self {
        Self::Codec(error)
    }
}

impl From<LoadError> for SessionFailure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Read(error) => Self::Io(error),
            LoadError::Seal(error) => Self::Record(error),
        }
    }
}

impl From<SessionFailure> for SessionError {
    fn from(failure: SessionFailure) -> Self {
        match failure {
            SessionFailure::Closed => Self::Io(io::Error::from(ErrorKind::UnexpectedEof).into()),
            SessionFailure::GoneAway { code, .. } => Self::GoAway {
                code: name_of(code),
            },
            SessionFailure::Io(error) => Self::Io(error.into()),
            SessionFailure::Record(error) => Self::Protocol {
                detail: error.to_string(),
            },
            SessionFailure::Codec(error) => error.into(),
            SessionFailure::Silent => Self::Silent,
        }
    }
}

impl From<SessionFailure> for StreamError {
    /// A carrier that is reset resets its stream: an end that finds the other one not reading has
    /// no other way to say so.
    fn from(failure: SessionFailure) -> Self {
        match failure {
            SessionFailure::Io(error) if error.kind() == ErrorKind::ConnectionReset => {
                Self::Reset {
                    code: name_of(Abort::Reset.code().into()),
                }
            }
            failure => Self::Session(failure.into()),
        }
    }
}

/// Why nothing was loaded.
#[derive(Debug)]
pub(in crate::transport) enum LoadError {
    /// The application's socket.
    Read(io::Error),
    /// The session.
    Seal(RecordError),
}

impl From<RecordError> for LoadError {
    fn from(error: RecordError) -> Self {
        Self::Seal(error)
    }
}
