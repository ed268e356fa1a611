//! What an authenticated peer may say in HTTP/2: frames that are whole, cut, nested and nonsense.
//!
//! The input is a list of frames, with lengths that are right unless it says otherwise. Whatever it
//! is, our reader gives events or an error, the same ones however the bytes are cut; and a request
//! that both our reader and the `h2` crate accept is the same request.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use interceptor::transport::codec::{CodecError, Event, Reader};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::engine::{Features, Random, Target, feature};

pub(crate) const TARGET: Target = Target {
    name: "frames",
    run,
    words: &[],
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const MOST: usize = 4096;

/// Kind, flags, stream and payload of a frame, as the input writes them.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[kind, flags, stream, length], payload].concat()
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // `:method: CONNECT` and `:authority: a:80`, as literals, Huffman-coded, and from the table.
    let plain = b"\x02\x07CONNECT\x01\x04a:80\x00\x04name\x05value";
    let huffman = b"\x02\x87\xbd\xab\x4e\x9c\x17\xb7\xff\x01\x04a:80";
    let tabled = b"\x42\x07CONNECT\x41\x04a:80";
    let settings = frame(4, 0, 0, &[0, 3, 0, 0, 0, 9]);
    let request = frame(1, 4, 1, plain);
    let data = frame(0, 0, 1, b"hello");
    let end = frame(0, 1, 1, b"");
    let with = |rest: &[Vec<u8>]| [vec![0], settings.clone(), rest.concat()].concat();
    vec![
        with(&[request.clone(), data.clone(), end]),
        with(&[frame(1, 5, 1, huffman), frame(6, 0, 0, &[1; 8])]),
        with(&[frame(1, 4, 1, tabled), frame(1, 4, 3, &[0xbf, 0xbe])]),
        with(&[frame(1, 0, 1, &plain[..9]), frame(9, 4, 1, &plain[9..])]),
        with(&[frame(
            1,
            0x2c,
            1,
            &[&[2, 0, 0, 0, 0, 9], &plain[..], &[0, 0]].concat(),
        )]),
        with(&[
            request,
            frame(0, 8, 1, &[2, b'x', 0, 0]),
            frame(3, 0, 1, &[0, 0, 0, 8]),
        ]),
        with(&[
            frame(8, 0, 0, &[0, 0, 1, 0]),
            frame(7, 0, 0, &[0; 8]),
            frame(4, 1, 0, b""),
        ]),
        [
            &[1][..],
            &frame(4, 0, 0, b""),
            &frame(1, 5, 1, &[0x88]),
            &data,
        ]
        .concat(),
    ]
}

fn run(input: &[u8]) -> Features {
    let (server, wire) = wire(input);
    let whole = Heard::of(server, &wire, || usize::MAX);
    let mut random = Random::new(u64::try_from(input.len()).unwrap_or_default());
    let cut = Heard::of(server, &wire, || 1 + random.below(20));
    assert_eq!(whole, cut, "it matters how the bytes are cut");
    assert!(
        whole.requests.len() <= wire.len() / 9,
        "events out of nothing"
    );
    let mut features = whole.features();
    if !server {
        let theirs = h2_hears(&wire);
        for (stream, request) in &whole.requests {
            if let Some(their) = theirs.get(stream) {
                assert_eq!(request, their, "not what h2 understands");
                features.insert(feature(("agreed", request.headers.len())));
            }
        }
    }
    features
}

/// The bytes of an input, and whether it is a server that says them.
fn wire(input: &[u8]) -> (bool, Vec<u8>) {
    let mut input: VecDeque<u8> = input.iter().copied().collect();
    let mode = input.pop_front().unwrap_or_default();
    let server = mode & 1 == 1;
    let mut wire = if server || mode & 2 == 2 {
        Vec::new()
    } else {
        PREFACE.to_vec()
    };
    while !input.is_empty() {
        let mut next = || input.pop_front().unwrap_or_default();
        let (kind, flags, stream, length) = (next(), next(), next(), next());
        let mut payload: Vec<u8> = (0..length).map(|_| next()).collect();
        // Long ones, without long inputs; and some whose length is a lie.
        if kind & 0x40 != 0 {
            payload = payload.repeat(64);
        }
        let mut length = u32::try_from(payload.len()).unwrap_or_default();
        if kind & 0x80 != 0 {
            length ^= 1 << (flags % 24);
        }
        wire.extend(&length.to_be_bytes()[1..]);
        wire.extend([kind & 0x1f, flags, 0, 0, 0, stream]);
        wire.extend(payload);
    }
    (server, wire)
}

/// A request, as far as a tunnel is concerned.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    authority: String,
    headers: HeaderMap,
}

/// What our reader makes of some bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    said: Vec<String>,
    data: BTreeMap<u32, Vec<u8>>,
    /// The first CONNECT of each stream.
    requests: BTreeMap<u32, Asked>,
    error: Option<CodecError>,
}

impl Heard {
    fn of(server: bool, wire: &[u8], mut piece: impl FnMut() -> usize) -> Self {
        let mut reader = if server {
            Reader::of_server(MOST)
        } else {
            Reader::of_client(MOST)
        };
        let mut heard = Self::default();
        let mut start = 0;
        while start < wire.len() {
            let end = start.saturating_add(piece()).min(wire.len());
            let mut at = start..end;
            loop {
                match reader.next(wire, &mut at) {
                    Ok(Some(event)) => heard.on(event, wire, start..end),
                    Ok(None) => break,
                    Err(error) => {
                        heard.error = Some(error);
                        return heard;
                    }
                }
            }
            assert!(at.is_empty(), "all of a piece is taken");
            start = end;
        }
        heard
    }

    fn on(&mut self, event: Event, wire: &[u8], piece: std::ops::Range<usize>) {
        match event {
            Event::Data { stream, at } => {
                assert!(!at.is_empty() && at.start >= piece.start && at.end <= piece.end);
                let data = self.data.entry(stream).or_default();
                data.extend_from_slice(&wire[at]);
            }
            Event::Headers { stream, fields } => {
                self.said.push(format!("{stream} {fields:?}"));
                let connect = fields.method == Some(http::Method::CONNECT);
                if let Some(authority) = fields.authority.filter(|_| connect) {
                    let headers = fields.headers;
                    let asked = Asked { authority, headers };
                    self.requests.entry(stream).or_insert(asked);
                }
            }
            event => self.said.push(format!("{event:?}")),
        }
    }

    fn features(&self) -> Features {
        let said = self.said.iter();
        let mut features: Features = said
            .map(|said| {
                feature(
                    said.chars()
                        .filter(char::is_ascii_alphabetic)
                        .take(24)
                        .collect::<String>(),
                )
            })
            .collect();
        features.insert(feature((
            self.error.map(|error| error.to_string()),
            self.said.len() % 4,
        )));
        features
    }
}

/// The CONNECTs that an `h2` server accepts.
fn h2_hears(wire: &[u8]) -> BTreeMap<u32, Asked> {
    let mut heard = BTreeMap::new();
    let mut cx = Context::from_waker(Waker::noop());
    let mut builder = h2::server::Builder::new();
    builder.max_header_list_size(u32::try_from(MOST).unwrap());
    let shaken = builder.handshake::<_, Bytes>(Said(wire.to_vec().into()));
    let Poll::Ready(Ok(mut connection)) = pin!(shaken).poll(&mut cx) else {
        return heard;
    };
    let mut streams = Vec::new();
    while let Poll::Ready(Some(Ok((request, answer)))) = connection.poll_accept(&mut cx) {
        let stream = request.body().stream_id().as_u32();
        let (head, body) = request.into_parts();
        if head.method == http::Method::CONNECT
            && let Some(authority) = head.uri.authority()
        {
            let authority = authority.to_string();
            let headers = head.headers;
            heard.insert(stream, Asked { authority, headers });
        }
        // Kept, so that nothing is reset.
        streams.push((answer, body));
    }
    heard
}

/// A connection on which something has been said, and nothing more is.
struct Said(VecDeque<u8>);

impl AsyncRead for Said {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.is_empty() {
            return Poll::Pending;
        }
        let count = buffer.remaining().min(self.0.len());
        let said: Vec<u8> = self.0.drain(..count).collect();
        buffer.put_slice(&said);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Said {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Or the comparison would be one of nothing with nothing.
#[test]
fn a_request_of_the_seeds_is_one_to_both() {
    for seed in &seeds()[..6] {
        let (server, wire) = wire(seed);
        let ours = Heard::of(server, &wire, || usize::MAX);
        assert_eq!(ours.error, None);
        assert_eq!(
            ours.requests.get(&1).map(|asked| &*asked.authority),
            Some("a:80"),
            "{ours:?}"
        );
        assert_eq!(h2_hears(&wire).get(&1), ours.requests.get(&1));
    }
}
