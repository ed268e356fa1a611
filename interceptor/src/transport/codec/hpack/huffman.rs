//! The Huffman code of header strings (RFC 7541 5.2 and appendix B), for reading.
//!
//! The code is a canonical one: among codes of the same length the values are consecutive, in the
//! order of the symbols. Two small tables therefore say everything. It is read bit by bit: strings
//! are short, and only foreign peers send them like this.

use super::super::CodecError;

/// How many codes have which length, in bits. The last one of the longest is the end of string.
const COUNTS: [u32; 31] = [
    0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19,
    29, 0, 4,
];

/// The symbols in the order of their codes, without the end of string.
#[rustfmt::skip]
const SYMBOLS: [u8; 256] = [
    48, 49, 50, 97, 99, 101, 105, 111, 115, 116, 32, 37, 45, 46, 47, 51,
    52, 53, 54, 55, 56, 57, 61, 65, 95, 98, 100, 102, 103, 104, 108, 109,
    110, 112, 114, 117, 58, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76,
    77, 78, 79, 80, 81, 82, 83, 84, 85, 86, 87, 89, 106, 107, 113, 118,
    119, 120, 121, 122, 38, 42, 44, 59, 88, 90, 33, 34, 40, 41, 63, 39,
    43, 124, 35, 62, 0, 36, 64, 91, 93, 126, 94, 125, 60, 96, 123, 92,
    195, 208, 128, 130, 131, 162, 184, 194, 224, 226, 153, 161, 167, 172, 176, 177,
    179, 209, 216, 217, 227, 229, 230, 129, 132, 133, 134, 136, 146, 154, 156, 160,
    163, 164, 169, 170, 173, 178, 181, 185, 186, 187, 189, 190, 196, 198, 228, 232,
    233, 1, 135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152, 155, 157,
    158, 165, 166, 168, 174, 175, 180, 182, 183, 188, 191, 197, 231, 239, 9, 142,
    144, 145, 148, 159, 171, 206, 215, 225, 236, 237, 199, 207, 234, 235, 192, 193,
    200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242, 243, 255, 203, 204, 211,
    212, 214, 221, 222, 223, 241, 244, 245, 246, 247, 248, 250, 251, 252, 253, 254,
    2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 19, 20,
    21, 23, 24, 25, 26, 27, 28, 29, 30, 31, 127, 220, 249, 10, 13, 22,
];

/// Decodes a string, up to `most` bytes.
pub(super) fn decode(coded: &[u8], most: usize) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::with_capacity((coded.len() * 2).min(most));
    let mut code = Code::default();
    for byte in coded {
        for shift in (0..8).rev() {
            let Some(symbol) = code.bit(u32::from(byte >> shift) & 1)? else {
                continue;
            };
            if out.len() >= most {
                return Err(CodecError::TooLarge);
            }
            out.push(symbol);
        }
    }
    // What is left is padding: less than a byte of the end of string, which is all ones.
    let padding = code.length < 8 && code.value == (1 << code.length) - 1;
    padding.then_some(out).ok_or(CodecError::Compression)
}

/// The bits of a code that is not complete.
#[derive(Default)]
struct Code {
    value: u32,
    length: usize,
    /// The first code of this length.
    first: u32,
    /// Its place among the symbols.
    place: u32,
}

impl Code {
    /// Takes one bit more; returns the symbol if that completes it.
    fn bit(&mut self, bit: u32) -> Result<Option<u8>, CodecError> {
        let shorter = COUNTS.get(self.length).copied().unwrap_or_default();
        self.first = (self.first + shorter) << 1;
        self.place += shorter;
        self.value = (self.value << 1) | bit;
        self.length += 1;
        let count = COUNTS.get(self.length).ok_or(CodecError::Compression)?;
        let at = self.value.wrapping_sub(self.first);
        if at >= *count {
            return Ok(None);
        }
        let symbol = usize::try_from(self.place + at).ok();
        let symbol = symbol.and_then(|place| SYMBOLS.get(place)).copied();
        *self = Self::default();
        // The end of string is no symbol (RFC 7541 5.2).
        symbol.map(Some).ok_or(CodecError::Compression)
    }
}
