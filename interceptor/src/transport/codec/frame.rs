//! Frame headers (RFC 9113 4.1), and the frames that we write.

/// Bytes before a frame's payload.
pub(in crate::transport) const HEADER: usize = 9;
/// Largest payload that we accept, and send: the default, which nobody has to agree to.
pub(in crate::transport) const MAX_PAYLOAD: usize = 16_384;
/// Largest payload of a frame that is neither data nor headers. SETTINGS with all that is defined
/// has 42 bytes; GOAWAY may bring some text along.
pub(in crate::transport) const MAX_CONTROL: usize = 1024;

/// What an HTTP/2 client says first (RFC 9113 3.4).
pub(in crate::transport) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(in crate::transport) const NO_ERROR: u32 = 0;
pub(super) const PROTOCOL_ERROR: u32 = 1;
pub(super) const FLOW_CONTROL_ERROR: u32 = 3;
pub(super) const FRAME_SIZE_ERROR: u32 = 6;
pub(in crate::transport) const REFUSED_STREAM: u32 = 7;
pub(in crate::transport) const CANCEL: u32 = 8;
pub(super) const COMPRESSION_ERROR: u32 = 9;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const PRIORITY: u8 = 0x20;

/// Largest window there is.
const MAX_WINDOW: u32 = (1 << 31) - 1;
/// The connection's window before anybody has said anything.
const FIRST_WINDOW: u32 = 65_535;
/// Stream identifiers and window increments have 31 bits.
const MASK: u32 = (1 << 31) - 1;

/// The kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    /// To be ignored.
    Other,
}

impl Kind {
    const fn of(number: u8) -> Self {
        match number {
            0 => Self::Data,
            1 => Self::Headers,
            2 => Self::Priority,
            3 => Self::Reset,
            4 => Self::Settings,
            5 => Self::PushPromise,
            6 => Self::Ping,
            7 => Self::GoAway,
            8 => Self::WindowUpdate,
            9 => Self::Continuation,
            _ => Self::Other,
        }
    }

    /// Only for kinds that we write.
    const fn number(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Headers => 1,
            Self::Priority => 2,
            Self::Reset => 3,
            Self::Settings => 4,
            Self::PushPromise => 5,
            Self::Ping => 6,
            Self::GoAway => 7,
            Self::WindowUpdate => 8,
            Self::Continuation => 9,
            Self::Other => u8::MAX,
        }
    }
}

/// The nine bytes before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) length: usize,
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Head {
    pub(super) fn parse(bytes: [u8; HEADER]) -> Self {
        let [a, b, c, kind, flags, s0, s1, s2, s3] = bytes;
        let length = u32::from_be_bytes([0, a, b, c]);
        Self {
            length: usize::try_from(length).unwrap_or(usize::MAX),
            kind: Kind::of(kind),
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & MASK,
        }
    }

    pub(super) const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn bytes(self) -> [u8; HEADER] {
        // Longer ones are never made: the callers' payloads are bounded.
        let length = u32::try_from(self.length)
            .unwrap_or(u32::MAX)
            .min(0xff_ffff);
        let [_, a, b, c] = length.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [a, b, c, self.kind.number(), self.flags, s0, s1, s2, s3]
    }
}

/// The header of a DATA frame, to be put before `length` bytes of payload.
pub fn data(stream: u32, length: usize) -> [u8; HEADER] {
    let head = Head {
        length,
        kind: Kind::Data,
        flags: 0,
        stream,
    };
    head.bytes()
}

/// An empty DATA frame that ends the stream.
pub(in crate::transport) fn push_end(out: &mut Vec<u8>, stream: u32) {
    push(out, Kind::Data, END_STREAM, stream, &[]);
}

/// A header list, in as many frames as it takes; `end` if nothing follows it.
pub fn push_headers(out: &mut Vec<u8>, stream: u32, block: &[u8], end: End) {
    let mut pieces = block.chunks(MAX_PAYLOAD).peekable();
    let mut kind = Kind::Headers;
    let mut flags = match end {
        End::Stream => END_STREAM,
        End::Open => 0,
    };
    loop {
        let piece = pieces.next().unwrap_or_default();
        let last = pieces.peek().is_none();
        if last {
            flags |= END_HEADERS;
        }
        push(out, kind, flags, stream, piece);
        if last {
            return;
        }
        (kind, flags) = (Kind::Continuation, 0);
    }
}

/// Whether a header list is all there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Data may follow.
    Open,
    /// Nothing follows.
    Stream,
}

/// Ends a stream in both directions.
pub(in crate::transport) fn push_reset(out: &mut Vec<u8>, stream: u32, code: u32) {
    push(out, Kind::Reset, 0, stream, &code.to_be_bytes());
}

/// How many streams a carrier has at a time, and what each of them may say unheard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum Streams {
    /// One, as much as it likes.
    One,
    /// This many, each so many bytes at first.
    Many {
        /// At most.
        most: u32,
        /// In the beginning.
        window: u32,
    },
}

/// More may be said on a stream.
pub(in crate::transport) fn push_window(out: &mut Vec<u8>, stream: u32, more: u32) {
    push(out, Kind::WindowUpdate, 0, stream, &more.to_be_bytes());
}

/// Our settings, and a window for the whole connection: as large as there are, see the module.
pub(in crate::transport) fn push_settings(out: &mut Vec<u8>, streams: Streams, max_headers: u32) {
    const HEADER_TABLE_SIZE: u16 = 1;
    const ENABLE_PUSH: u16 = 2;
    const MAX_CONCURRENT_STREAMS: u16 = 3;
    const INITIAL_WINDOW_SIZE: u16 = 4;
    const MAX_HEADER_LIST_SIZE: u16 = 6;
    let (most, window) = match streams {
        Streams::One => (1, MAX_WINDOW),
        Streams::Many { most, window } => (most, window),
    };
    let settings = [
        (HEADER_TABLE_SIZE, 0),
        (ENABLE_PUSH, 0),
        (MAX_CONCURRENT_STREAMS, most),
        (INITIAL_WINDOW_SIZE, window),
        (MAX_HEADER_LIST_SIZE, max_headers),
    ];
    let mut payload = Vec::with_capacity(6 * settings.len());
    for (name, value) in settings {
        payload.extend(name.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    push(out, Kind::Settings, 0, 0, &payload);
    let more = (MAX_WINDOW - FIRST_WINDOW).to_be_bytes();
    push(out, Kind::WindowUpdate, 0, 0, &more);
}

/// The peer's settings are in force.
pub(in crate::transport) fn push_settings_ack(out: &mut Vec<u8>) {
    push(out, Kind::Settings, ACK, 0, &[]);
}

/// Asks for a sign of life.
pub(in crate::transport) fn push_ping(out: &mut Vec<u8>) {
    push(out, Kind::Ping, 0, 0, &[0; 8]);
}

/// Gives one.
pub(in crate::transport) fn push_pong(out: &mut Vec<u8>, payload: [u8; 8]) {
    push(out, Kind::Ping, ACK, 0, &payload);
}

/// No stream above `last` was or will be served.
pub(in crate::transport) fn push_go_away(out: &mut Vec<u8>, last: u32, code: u32) {
    let mut payload = [0; 8];
    let (low, high) = payload.split_at_mut(4);
    low.copy_from_slice(&last.to_be_bytes());
    high.copy_from_slice(&code.to_be_bytes());
    push(out, Kind::GoAway, 0, 0, &payload);
}

fn push(out: &mut Vec<u8>, kind: Kind, flags: u8, stream: u32, payload: &[u8]) {
    let head = Head {
        length: payload.len(),
        kind,
        flags,
        stream,
    };
    out.extend(head.bytes());
    out.extend_from_slice(payload);
}

/// A 31-bit number at the front of a payload.
pub(super) fn number(payload: &[u8]) -> Option<u32> {
    payload
        .first_chunk()
        .map(|bytes| u32::from_be_bytes(*bytes) & MASK)
}
