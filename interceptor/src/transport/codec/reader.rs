//! Frames out of a stream of bytes that arrives in pieces, cut anywhere.
//!
//! Between our agents a piece is one TLS record and begins with a frame, but nothing here relies
//! on that: what another implementation cuts differently is understood as well.
//!
//! Not here: what a frame means for the stream that is being carried. Frames of other streams are
//! reported, too: those of an earlier one may still arrive after its end.

use std::ops::Range;

use super::frame::{self, Head, Kind};
use super::hpack::Decoder;
use super::{CodecError, Fields};

/// Pieces that a header list may come in.
const MAX_PIECES: u32 = 16;

/// What has arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes of a stream: where they are among the bytes that were given.
    Data {
        /// The stream.
        stream: u32,
        /// Not empty.
        at: Range<usize>,
    },
    /// Nothing more will come on a stream.
    End {
        /// The stream.
        stream: u32,
    },
    /// A header list. If it ends its stream, [`Event::End`] follows.
    Headers {
        /// The stream.
        stream: u32,
        /// The list.
        fields: Box<Fields>,
    },
    /// A stream was ended in both directions.
    Reset {
        /// The stream.
        stream: u32,
        /// Why.
        code: u32,
    },
    /// The peer's settings, to be acknowledged.
    Settings,
    /// A question for a sign of life, to be answered with its payload.
    Ping([u8; 8]),
    /// So many more bytes may be sent on a stream; on all together if it is 0.
    Window {
        /// The stream.
        stream: u32,
        /// How many, if the peer says so.
        more: u32,
    },
    /// No stream above `last` will be served.
    GoAway {
        /// The last stream that is.
        last: u32,
        /// Why.
        code: u32,
    },
}

/// Where the reader is.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// So many bytes of the client's preface have been seen.
    Preface(usize),
    /// So many bytes of a frame's header have been seen.
    Head(usize),
    /// In the payload of a DATA frame: bytes left of it, and of the padding behind it.
    Data { left: usize, padding: usize },
    /// The padding's length is awaited.
    Padding,
    /// In a payload that is gathered before it is looked at.
    Gather,
    /// In a payload that is of no interest.
    Skip { left: usize },
    /// Behind what the peer did wrong: where the next frame begins is not known any more.
    Broken(CodecError),
}

/// Reads frames. One per session.
#[derive(Debug)]
pub struct Reader {
    place: Place,
    partial: [u8; frame::HEADER],
    head: Head,
    /// The payload being gathered, or the header list so far.
    gathered: Vec<u8>,
    /// The stream whose header list is not complete, its flags, and the pieces so far.
    unfinished: Option<(Head, u32)>,
    /// Reported next: the end of a stream that a frame brought along.
    end: Option<u32>,
    hpack: Decoder,
    max_headers: usize,
}

impl Reader {
    /// Reads what a client says, from its preface on.
    pub const fn of_client(max_headers: usize) -> Self {
        Self::at(Place::Preface(0), max_headers)
    }

    /// Reads what a server says.
    pub const fn of_server(max_headers: usize) -> Self {
        Self::at(Place::Head(0), max_headers)
    }

    const fn at(place: Place, max_headers: usize) -> Self {
        Self {
            place,
            partial: [0; frame::HEADER],
            head: Head {
                length: 0,
                kind: Kind::Other,
                flags: 0,
                stream: 0,
            },
            gathered: Vec::new(),
            unfinished: None,
            end: None,
            hpack: Decoder::new(),
            max_headers,
        }
    }

    /// The next event in the range `at` of `bytes`, from which what was read is taken away. `None`
    /// when more is needed; then `at` is empty.
    ///
    /// # Errors
    ///
    /// What the peer did wrong. The session is over: nothing is read after that, and whoever asks again
    /// hears the same.
    pub fn next(
        &mut self,
        bytes: &[u8],
        at: &mut Range<usize>,
    ) -> Result<Option<Event>, CodecError> {
        if let Place::Broken(error) = self.place {
            return Err(error);
        }
        let read = self.read(bytes, at);
        if let Err(error) = read {
            self.place = Place::Broken(error);
        }
        read
    }

    fn read(&mut self, bytes: &[u8], at: &mut Range<usize>) -> Result<Option<Event>, CodecError> {
        loop {
            if let Some(stream) = self.end.take() {
                return Ok(Some(Event::End { stream }));
            }
            let Some(rest) = bytes.get(at.clone()).filter(|rest| !rest.is_empty()) else {
                return Ok(None);
            };
            let taken = match self.place {
                Place::Preface(seen) => self.preface(seen, rest)?,
                Place::Head(seen) => {
                    let taken = self.partial_head(seen, rest);
                    if matches!(self.place, Place::Head(frame::HEADER)) {
                        self.begin()?;
                    }
                    taken
                }
                Place::Padding => {
                    self.padding(rest.first().copied().unwrap_or_default())?;
                    1
                }
                Place::Data { left: 0, padding } => {
                    self.place = Place::Skip { left: padding };
                    0
                }
                Place::Data { left, padding } => {
                    let taken = left.min(rest.len());
                    self.place = Place::Data {
                        left: left - taken,
                        padding,
                    };
                    let range = at.start..at.start + taken;
                    at.start += taken;
                    self.finish_data();
                    return Ok(Some(Event::Data {
                        stream: self.head.stream,
                        at: range,
                    }));
                }
                Place::Gather => {
                    let taken = self.missing().min(rest.len());
                    self.gathered
                        .extend_from_slice(rest.get(..taken).unwrap_or_default());
                    taken
                }
                Place::Skip { left } => {
                    let taken = left.min(rest.len());
                    self.place = Place::Skip { left: left - taken };
                    taken
                }
                Place::Broken(error) => return Err(error),
            };
            at.start += taken;
            self.finish_data();
            if matches!(self.place, Place::Gather)
                && self.missing() == 0
                && let Some(event) = self.gathered()?
            {
                return Ok(Some(event));
            }
        }
    }

    /// Whether a frame has been begun and not ended.
    pub const fn in_frame(&self) -> bool {
        !matches!(self.place, Place::Head(0)) || self.unfinished.is_some() || self.end.is_some()
    }

    fn preface(&mut self, seen: usize, rest: &[u8]) -> Result<usize, CodecError> {
        let expected = frame::PREFACE.get(seen..).unwrap_or_default();
        let taken = expected.len().min(rest.len());
        if expected.get(..taken) != rest.get(..taken) {
            return Err(CodecError::Preface);
        }
        self.place = if taken == expected.len() {
            Place::Head(0)
        } else {
            Place::Preface(seen + taken)
        };
        Ok(taken)
    }

    fn partial_head(&mut self, seen: usize, rest: &[u8]) -> usize {
        let room = self.partial.get_mut(seen..).unwrap_or_default();
        let taken = room.len().min(rest.len());
        for (to, from) in room.iter_mut().zip(rest) {
            *to = *from;
        }
        self.place = Place::Head(seen + taken);
        taken
    }

    /// Looks at a frame's header.
    fn begin(&mut self) -> Result<(), CodecError> {
        let head = Head::parse(self.partial);
        self.head = head;
        if let Some((list, _)) = self.unfinished
            && (head.kind != Kind::Continuation || head.stream != list.stream)
        {
            return Err(CodecError::Unexpected);
        }
        let most = match head.kind {
            Kind::Data | Kind::Headers | Kind::Continuation | Kind::Other => frame::MAX_PAYLOAD,
            _ => frame::MAX_CONTROL,
        };
        if head.length > most {
            return Err(CodecError::FrameSize);
        }
        let of_stream = matches!(
            head.kind,
            Kind::Data | Kind::Headers | Kind::Priority | Kind::Reset | Kind::Continuation
        );
        let of_session = matches!(head.kind, Kind::Settings | Kind::Ping | Kind::GoAway);
        if (of_stream && head.stream == 0) || (of_session && head.stream != 0) {
            return Err(CodecError::Unexpected);
        }
        self.place = match head.kind {
            Kind::Data if head.has(frame::PADDED) => Place::Padding,
            Kind::Data => Place::Data {
                left: head.length,
                padding: 0,
            },
            // Nobody may push to us, and a list must have begun before it goes on.
            Kind::PushPromise => return Err(CodecError::Unexpected),
            Kind::Continuation if self.unfinished.is_none() => return Err(CodecError::Unexpected),
            Kind::Other | Kind::Priority => Place::Skip { left: head.length },
            Kind::Continuation => Place::Gather,
            _ => {
                self.gathered.clear();
                Place::Gather
            }
        };
        if matches!(self.place, Place::Padding) && head.length == 0 {
            return Err(CodecError::FrameSize);
        }
        Ok(())
    }

    fn padding(&mut self, padding: u8) -> Result<(), CodecError> {
        let padding = usize::from(padding);
        let left = (self.head.length - 1).checked_sub(padding);
        self.place = Place::Data {
            left: left.ok_or(CodecError::Unexpected)?,
            padding,
        };
        Ok(())
    }

    /// Leaves a frame that has nothing more to give.
    fn finish_data(&mut self) {
        match self.place {
            Place::Data {
                left: 0,
                padding: 0,
            }
            | Place::Skip { left: 0 } => {
                self.place = Place::Head(0);
                if self.head.kind == Kind::Data && self.head.has(frame::END_STREAM) {
                    self.end = Some(self.head.stream);
                }
            }
            _ => {}
        }
    }

    /// Bytes that the payload being gathered still lacks.
    const fn missing(&self) -> usize {
        let before = match self.unfinished {
            Some((list, _)) => list.length,
            None => 0,
        };
        (before + self.head.length).saturating_sub(self.gathered.len())
    }

    /// Looks at a payload that is complete.
    fn gathered(&mut self) -> Result<Option<Event>, CodecError> {
        self.place = Place::Head(0);
        let head = self.head;
        let exactly = |length| {
            let right = head.length == length;
            right.then_some(()).ok_or(CodecError::FrameSize)
        };
        let first = |payload: &[u8]| frame::number(payload).ok_or(CodecError::FrameSize);
        let event = match head.kind {
            Kind::Headers | Kind::Continuation => return self.list(),
            Kind::Reset => {
                exactly(4)?;
                Event::Reset {
                    stream: head.stream,
                    code: self.raw(0)?,
                }
            }
            Kind::Settings if head.has(frame::ACK) => {
                exactly(0)?;
                return Ok(self.done());
            }
            Kind::Settings => {
                // What the peer asks for does not concern us: we send nothing that any setting
                // could forbid, and windows are not counted.
                if !head.length.is_multiple_of(6) {
                    return Err(CodecError::FrameSize);
                }
                Event::Settings
            }
            Kind::Ping => {
                exactly(8)?;
                let payload = self.gathered.first_chunk().copied();
                let payload = payload.ok_or(CodecError::FrameSize)?;
                if head.has(frame::ACK) {
                    return Ok(self.done());
                }
                Event::Ping(payload)
            }
            Kind::WindowUpdate => {
                exactly(4)?;
                Event::Window {
                    stream: head.stream,
                    more: first(&self.gathered)?,
                }
            }
            Kind::GoAway => Event::GoAway {
                last: first(&self.gathered)?,
                code: self.raw(4)?,
            },
            _ => return Ok(self.done()),
        };
        self.done();
        Ok(Some(event))
    }

    /// 32 bits of the payload.
    fn raw(&self, at: usize) -> Result<u32, CodecError> {
        let bytes = self.gathered.get(at..).and_then(<[u8]>::first_chunk);
        let bytes = bytes.ok_or(CodecError::FrameSize)?;
        Ok(u32::from_be_bytes(*bytes))
    }

    /// Gives back what a payload took.
    fn done(&mut self) -> Option<Event> {
        self.gathered = Vec::new();
        None
    }

    /// A HEADERS or CONTINUATION frame is complete.
    fn list(&mut self) -> Result<Option<Event>, CodecError> {
        let head = self.head;
        let (list, pieces) = match self.unfinished.take() {
            Some((list, pieces)) => (list, pieces + 1),
            None => (self.unpadded()?, 1),
        };
        let length = self.gathered.len();
        if length > self.max_headers || pieces > MAX_PIECES {
            return Err(CodecError::TooLarge);
        }
        if !head.has(frame::END_HEADERS) {
            self.unfinished = Some((Head { length, ..list }, pieces));
            return Ok(None);
        }
        let mut fields = Box::<Fields>::default();
        self.hpack
            .decode(&self.gathered, self.max_headers, |name, value| {
                fields.push(name, value)
            })?;
        self.done();
        if list.has(frame::END_STREAM) {
            self.end = Some(list.stream);
        }
        Ok(Some(Event::Headers {
            stream: list.stream,
            fields,
        }))
    }

    /// Takes padding and priority away from what a HEADERS frame brought.
    fn unpadded(&mut self) -> Result<Head, CodecError> {
        let head = self.head;
        let mut front = 0;
        let mut back = 0;
        if head.has(frame::PADDED) {
            let padding = self.gathered.first().ok_or(CodecError::FrameSize)?;
            (front, back) = (1, usize::from(*padding));
        }
        if head.has(frame::PRIORITY) {
            front += 5;
        }
        let end = self.gathered.len().checked_sub(back);
        let end = end.filter(|end| *end >= front);
        self.gathered.truncate(end.ok_or(CodecError::Unexpected)?);
        self.gathered.drain(..front);
        Ok(head)
    }
}
