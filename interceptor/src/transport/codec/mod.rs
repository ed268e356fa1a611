//! The part of HTTP/2 that carries connections: frames and header lists, without I/O.
//!
//! ```text
//!  plaintext of records ──▶ Reader ──▶ Event { Data(range), Headers, Reset, ... }
//!  Fields, codes        ──▶ frame::push_* ──▶ bytes to be sealed
//! ```
//!
//! | file | what |
//! |---|---|
//! | `frame.rs` | frame headers, and the frames that we write |
//! | `reader.rs` | frames out of a stream of bytes that is cut anywhere |
//! | `fields.rs` | the header list of a CONNECT and of its answer |
//! | `hpack/` | how header lists are written (RFC 7541), complete for reading, plain for writing |
//!
//! Between two of our agents an exclusive carrier (`exclusive/`) carries one stream at a time. That
//! needs no windows: TCP is the back-pressure, and a window could only add a deadlock to it
//! (reference/transport.md 8). So both ends announce the largest windows there are and never count.
//! A shared carrier (`mux/`) has many streams, and windows that both ends know beforehand.
//! Everything else is HTTP/2 to the letter, which the tests check against the `h2` crate.
//!
//! # Invariants
//!
//! * Payload is never copied: it is reported as a range of the bytes that were given.
//! * What a peer can make us keep is bounded: one header list, and [`frame::MAX_CONTROL`] bytes of
//!   any other frame.
//! * Whatever the bytes are, the answer is events or a [`CodecError`], never a panic.

pub(super) mod fields;
pub(super) mod frame;
mod hpack;
pub(super) mod reader;

pub use fields::{Fields, connect};
pub use frame::{End, data, push_headers};
pub use reader::{Event, Reader};

use super::error::SessionError;

/// What a peer did that HTTP/2, or our bounds, do not allow. Ends the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The client did not begin as HTTP/2 clients do.
    #[error("no HTTP/2 preface")]
    Preface,
    /// A frame is longer than was agreed, or than its kind may be.
    #[error("a frame of a wrong size")]
    FrameSize,
    /// A header list exceeds the bound, or comes in too many pieces.
    #[error("a header list that is too large")]
    TooLarge,
    /// A header list cannot be decoded.
    #[error("a header list that cannot be decoded")]
    Compression,
    /// A header list that is no request and no answer.
    #[error("a malformed header list")]
    Malformed,
    /// A frame where it may not be.
    #[error("an unexpected frame")]
    Unexpected,
    /// More frames to be answered than the peer reads answers.
    #[error("more questions than answers are read")]
    Flood,
    /// More data than a window allows, or a window beyond all bounds.
    #[error("more than the window allows")]
    Window,
}

impl CodecError {
    /// The HTTP/2 error code that the peer is told.
    pub(super) const fn code(self) -> u32 {
        match self {
            Self::Preface | Self::Malformed | Self::Unexpected => frame::PROTOCOL_ERROR,
            Self::FrameSize => frame::FRAME_SIZE_ERROR,
            Self::Compression => frame::COMPRESSION_ERROR,
            Self::TooLarge | Self::Flood => frame::ENHANCE_YOUR_CALM,
            Self::Window => frame::FLOW_CONTROL_ERROR,
        }
    }
}

impl From<CodecError> for SessionError {
    fn from(error: CodecError) -> Self {
        Self::Protocol {
            detail: error.to_string(),
        }
    }
}

/// The name of an error code (RFC 9113 7), as the `h2` crate writes it, too.
pub(super) fn name_of(code: u32) -> String {
    format!("{:?}", h2::Reason::from(code))
}

#[cfg(test)]
mod tests;
