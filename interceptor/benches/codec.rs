//! What it costs to read and write the frames of a carrier: bulk data, small messages, requests as
//! ours and as others write them: `cargo bench -p interceptor --bench codec`.
//!
//! The figure to keep: a frame of data costs nanoseconds however long it is, since payload is not
//! touched.
#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up must fail loudly"
)]

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use http::HeaderMap;
use interceptor::transport::codec::{End, Event, Reader, connect, data, push_headers};

fn main() {
    divan::main();
}

/// Payloads: of a small request, and of a full record.
const PAYLOADS: [usize; 2] = [64, 16_375];
/// Frames of one sample.
const FRAMES: usize = 16;
const MOST: usize = 16 << 10;

/// The headers of a request of ours.
fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    let forwarded = "for=\"10.244.1.17:48122\";host=10.96.0.80:80".parse();
    headers.insert("forwarded", forwarded.expect("a value"));
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse();
    headers.insert("traceparent", trace.expect("a value"));
    headers
}

/// What an agent of ours sends for one connection.
fn request() -> Vec<u8> {
    let mut frame = Vec::new();
    push_headers(
        &mut frame,
        1,
        &connect("10.244.2.9:9090", &headers()),
        End::Open,
    );
    frame
}

/// The same as others write it: Huffman-coded, names out of the table.
fn foreign_request() -> Vec<u8> {
    // `:method: CONNECT`, `:authority: a:80`.
    let block = b"\x02\x87\xbd\xab\x4e\x9c\x17\xb7\xff\x01\x04a:80";
    let mut frame = Vec::new();
    push_headers(&mut frame, 1, block, End::Open);
    frame
}

/// Reads all of it; returns how many events that were.
fn read(reader: &mut Reader, wire: &[u8]) -> usize {
    let mut at = 0..wire.len();
    let mut events = 0;
    while let Some(event) = reader.next(wire, &mut at).expect("frames") {
        drop(black_box::<Event>(event));
        events += 1;
    }
    events
}

/// A reader that has been greeted.
fn reader() -> Reader {
    let mut reader = Reader::of_server(MOST);
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    assert_eq!(read(&mut reader, &settings), 1);
    reader
}

/// Frames of data, as they lie in what was opened.
#[divan::bench(args = PAYLOADS)]
fn read_data(bencher: Bencher<'_, '_>, payload: usize) {
    let frame = [&data(1, payload)[..], &vec![7; payload]].concat();
    let wire = frame.repeat(FRAMES);
    let mut reader = reader();
    bencher
        .counter(ItemsCount::new(FRAMES))
        .counter(BytesCount::new(wire.len()))
        .bench_local(|| assert_eq!(read(&mut reader, black_box(&wire)), FRAMES));
}

/// Headers of frames of data.
#[divan::bench(args = PAYLOADS)]
fn write_data(bencher: Bencher<'_, '_>, payload: usize) {
    bencher.bench(|| data(black_box(1), black_box(payload)));
}

/// A CONNECT of ours.
#[divan::bench]
fn read_request(bencher: Bencher<'_, '_>) {
    let (wire, mut reader) = (request(), reader());
    bencher.bench_local(|| read(&mut reader, black_box(&wire)));
}

/// A CONNECT of somebody else's.
#[divan::bench]
fn read_foreign_request(bencher: Bencher<'_, '_>) {
    let (wire, mut reader) = (foreign_request(), reader());
    bencher.bench_local(|| read(&mut reader, black_box(&wire)));
}

/// A CONNECT of ours, from its headers to its frame.
#[divan::bench]
fn write_request(bencher: Bencher<'_, '_>) {
    let (headers, mut out) = (headers(), Vec::with_capacity(1024));
    bencher.bench_local(|| {
        out.clear();
        let block = connect(black_box("10.244.2.9:9090"), &headers);
        push_headers(&mut out, 1, &block, End::Open);
        out.len()
    });
}
