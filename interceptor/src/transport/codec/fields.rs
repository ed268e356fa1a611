//! The header list of a CONNECT and of its answer.
//!
//! # Invariants
//!
//! * A list that is no request and no answer (RFC 9113 8.3) does not become one.
//! * Names and values are only what HTTP allows: `http` checks them.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::CodecError;
use super::hpack::{push_indexed, push_literal, push_named};

/// Fields of one list. A CONNECT has one, an answer has as many, foreign ones may have more.
const MAX_FIELDS: usize = 128;

/// A header list, pseudo-headers apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// `:method`.
    pub method: Option<Method>,
    /// `:authority`.
    pub authority: Option<String>,
    /// `:status`.
    pub status: Option<StatusCode>,
    /// `:scheme` or `:path` was there, which a CONNECT does not have.
    pub is_located: bool,
    /// All others.
    pub headers: HeaderMap,
    count: usize,
}

impl Fields {
    /// Adds a field as it was read.
    pub(super) fn push(&mut self, name: &[u8], value: &[u8]) -> Result<(), CodecError> {
        self.count += 1;
        if self.count > MAX_FIELDS {
            return Err(CodecError::TooLarge);
        }
        if name.first() == Some(&b':') {
            return self.push_pseudo(name, value);
        }
        // Names are in lower case in HTTP/2.
        if name.iter().any(u8::is_ascii_uppercase) {
            return Err(CodecError::Malformed);
        }
        let name = HeaderName::from_bytes(name).map_err(|_not_a_name| CodecError::Malformed)?;
        let value = HeaderValue::from_bytes(value).map_err(|_not_a_value| CodecError::Malformed)?;
        self.headers.append(name, value);
        Ok(())
    }

    fn push_pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), CodecError> {
        // They come first, and each one once.
        if !self.headers.is_empty() {
            return Err(CodecError::Malformed);
        }
        let first = match name {
            b":method" => {
                let method = Method::from_bytes(value).map_err(|_not_one| CodecError::Malformed)?;
                self.method.replace(method).is_none()
            }
            b":authority" => {
                let text = std::str::from_utf8(value).map_err(|_not_text| CodecError::Malformed)?;
                self.authority.replace(text.to_owned()).is_none()
            }
            b":status" => {
                let status = StatusCode::from_bytes(value);
                let status = status.map_err(|_not_one| CodecError::Malformed)?;
                self.status.replace(status).is_none()
            }
            b":scheme" | b":path" => {
                self.is_located = true;
                true
            }
            _ => false,
        };
        first.then_some(()).ok_or(CodecError::Malformed)
    }
}

/// The header list of a CONNECT to `authority`.
pub fn connect(authority: &str, headers: &HeaderMap) -> Vec<u8> {
    const AUTHORITY: u8 = 1;
    const METHOD: u8 = 2;
    let mut block = Vec::with_capacity(512);
    push_named(&mut block, METHOD, b"CONNECT");
    push_named(&mut block, AUTHORITY, authority.as_bytes());
    push_all(&mut block, headers);
    block
}

/// The header list of an answer.
pub(in crate::transport) fn answer(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    const OK: u8 = 8;
    let mut block = Vec::with_capacity(128);
    if status == StatusCode::OK {
        push_indexed(&mut block, OK);
    } else {
        push_named(&mut block, OK, status.as_str().as_bytes());
    }
    push_all(&mut block, headers);
    block
}

fn push_all(block: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        push_literal(block, name.as_str().as_bytes(), value.as_bytes());
    }
}
