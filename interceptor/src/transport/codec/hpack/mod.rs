//! Header lists as bytes (RFC 7541).
//!
//! Writing uses literals only: two agents that exchange one header list per connection would gain
//! nothing from a table that both ends have to keep. Reading understands everything, because other
//! implementations begin to use their table before they have seen that ours is empty.
//!
//! # Invariants
//!
//! * The table of a peer holds at most [`TABLE`] bytes, counted as RFC 7541 4.1 counts.
//! * Decoding stops as soon as the list exceeds its bound, counted the same way.

mod huffman;
mod names;

use std::borrow::Cow;
use std::collections::VecDeque;

use self::names::NAMES;
use super::CodecError;

/// The size that every peer may assume until it has seen our settings.
const TABLE: usize = 4096;
/// What an entry costs beyond its bytes (RFC 7541 4.1).
const ENTRY: usize = 32;
/// Longest string that is decoded.
const MAX_STRING: usize = 64 << 10;

/// Reads header lists. One per session: lists may refer to earlier ones.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The latest entry first.
    entries: VecDeque<Entry>,
    size: usize,
    limit: usize,
}

/// A field that later lists may refer to.
#[derive(Debug)]
struct Entry {
    name: Box<[u8]>,
    value: Box<[u8]>,
}

impl Entry {
    /// What it counts for (RFC 7541 4.1).
    fn size(&self) -> usize {
        self.name.len() + self.value.len() + ENTRY
    }
}

/// A field as it was read.
struct Field<'a> {
    name: Cow<'a, [u8]>,
    value: Cow<'a, [u8]>,
    /// Whether it joins the table.
    kept: bool,
}

impl Decoder {
    pub(super) const fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            limit: TABLE,
        }
    }

    /// Gives each field of a list to `each`, up to a list of `most` bytes.
    pub(super) fn decode(
        &mut self,
        block: &[u8],
        most: usize,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), CodecError>,
    ) -> Result<(), CodecError> {
        let mut from = 0;
        let mut left = most;
        let mut fields = false;
        while let Some(mut rest) = block.get(from..)
            && let Some(&first) = rest.first()
        {
            if first & 0xe0 == 0x20 {
                // The size of the table changes only before the first field (RFC 7541 4.2).
                if fields {
                    return Err(CodecError::Compression);
                }
                self.resize(integer(&mut rest, 5)?)?;
                from = block.len() - rest.len();
                continue;
            }
            fields = true;
            let Field { name, value, kept } = self.field(&mut rest, first)?;
            from = block.len() - rest.len();
            left = left
                .checked_sub(name.len() + value.len() + ENTRY)
                .ok_or(CodecError::TooLarge)?;
            each(&name, &value)?;
            if kept {
                let entry = Entry {
                    name: Box::from(&*name),
                    value: Box::from(&*value),
                };
                self.insert(entry);
            }
        }
        Ok(())
    }

    fn field<'a>(&'a self, rest: &mut &'a [u8], first: u8) -> Result<Field<'a>, CodecError> {
        if first & 0x80 != 0 {
            let (name, value) = self.entry(integer(rest, 7)?)?;
            return Ok(Field {
                name: name.into(),
                value: value.into(),
                kept: false,
            });
        }
        let kept = first & 0x40 != 0;
        let name = match integer(rest, if kept { 6 } else { 4 })? {
            0 => string(rest)?,
            index => self.entry(index)?.0.into(),
        };
        let value = string(rest)?;
        Ok(Field { name, value, kept })
    }

    fn entry(&self, index: usize) -> Result<(&[u8], &[u8]), CodecError> {
        let index = index.checked_sub(1).ok_or(CodecError::Compression)?;
        if let Some((name, value)) = NAMES.get(index) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let entry = self.entries.get(index - NAMES.len());
        let entry = entry.ok_or(CodecError::Compression)?;
        Ok((&entry.name, &entry.value))
    }

    fn insert(&mut self, entry: Entry) {
        let size = entry.size();
        self.shrink(self.limit.saturating_sub(size));
        // One that is larger than the table empties it, and is not an error (RFC 7541 4.4).
        if size <= self.limit {
            self.size += size;
            self.entries.push_front(entry);
        }
    }

    fn resize(&mut self, limit: usize) -> Result<(), CodecError> {
        if limit > TABLE {
            return Err(CodecError::Compression);
        }
        self.limit = limit;
        self.shrink(limit);
        Ok(())
    }

    fn shrink(&mut self, to: usize) {
        while self.size > to {
            let Some(entry) = self.entries.pop_back() else {
                return;
            };
            self.size -= entry.size();
        }
    }
}

/// An integer whose first `prefix` bits share a byte with something else (RFC 7541 5.1).
fn integer(rest: &mut &[u8], prefix: u32) -> Result<usize, CodecError> {
    let full = (1_usize << prefix) - 1;
    let (&first, after) = rest.split_first().ok_or(CodecError::Compression)?;
    *rest = after;
    let mut value = usize::from(first) & full;
    if value < full {
        return Ok(value);
    }
    // Three bytes more reach beyond every bound that we have.
    for shift in [0, 7, 14] {
        let (&byte, after) = rest.split_first().ok_or(CodecError::Compression)?;
        *rest = after;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(CodecError::Compression)
}

/// A string, as it is or Huffman-coded (RFC 7541 5.2).
fn string<'a>(rest: &mut &'a [u8]) -> Result<Cow<'a, [u8]>, CodecError> {
    let coded = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(rest, 7)?;
    if length > MAX_STRING {
        return Err(CodecError::TooLarge);
    }
    let (bytes, after) = rest
        .split_at_checked(length)
        .ok_or(CodecError::Compression)?;
    *rest = after;
    if coded {
        return huffman::decode(bytes, MAX_STRING).map(Cow::Owned);
    }
    Ok(bytes.into())
}

/// Appends a field whose name and value stand in the static table.
pub(super) fn push_indexed(out: &mut Vec<u8>, index: u8) {
    out.push(0x80 | index);
}

/// Appends a field whose name stands in the static table.
pub(super) fn push_named(out: &mut Vec<u8>, index: u8, value: &[u8]) {
    // Without indexing; names that we use have an index below 15.
    out.push(index & 0x0f);
    push_string(out, value);
}

/// Appends a field.
pub(super) fn push_literal(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    push_string(out, name);
    push_string(out, value);
}

fn push_string(out: &mut Vec<u8>, string: &[u8]) {
    push_integer(out, string.len());
    out.extend_from_slice(string);
}

/// A length with a prefix of seven bits.
fn push_integer(out: &mut Vec<u8>, value: usize) {
    const FULL: usize = 0x7f;
    let byte = |value: usize| u8::try_from(value & 0x7f).unwrap_or_default();
    if value < FULL {
        return out.push(byte(value));
    }
    out.push(0x7f);
    let mut left = value - FULL;
    while left > 0x7f {
        out.push(0x80 | byte(left));
        left >>= 7;
    }
    out.push(byte(left));
}

#[cfg(test)]
mod tests;
