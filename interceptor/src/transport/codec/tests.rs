//! Frames: what is written is read, however it is cut; what is not allowed ends the session.

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use proptest::prelude::*;
use rstest::rstest;

use super::frame::{self, End};
use super::{CodecError, Event, Fields, Reader, fields};

/// What a peer said, with data gathered.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    events: Vec<Event>,
    data: Vec<u8>,
}

/// Reads `bytes` in pieces of these lengths.
fn read(reader: &mut Reader, bytes: &[u8], pieces: &[usize]) -> Result<Heard, CodecError> {
    let mut heard = Heard::default();
    let mut start = 0;
    let mut pieces = pieces.iter().copied();
    while start < bytes.len() {
        let end = pieces.next().unwrap_or(bytes.len()).max(1) + start;
        let mut at = start..end.min(bytes.len());
        start = at.end;
        while let Some(event) = reader.next(bytes, &mut at)? {
            match event {
                Event::Data { at, .. } => heard.data.extend_from_slice(&bytes[at]),
                // Of all streams together, with the settings.
                Event::Window { stream: 0, .. } => {}
                event => heard.events.push(event),
            }
        }
        assert!(at.is_empty(), "all of a piece is taken");
    }
    Ok(heard)
}

fn headers(value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("baggage", HeaderValue::from_str(value).unwrap());
    headers
}

/// All that a client of ours says on a stream.
fn conversation(baggage: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = frame::PREFACE.to_vec();
    frame::push_settings(&mut out, frame::Streams::One, 4096);
    let block = fields::connect("10.0.0.1:80", &headers(baggage));
    frame::push_headers(&mut out, 1, &block, End::Open);
    out.extend(frame::data(1, payload.len()));
    out.extend(payload);
    frame::push_pong(&mut out, [7; 8]);
    frame::push_ping(&mut out);
    frame::push_settings_ack(&mut out);
    frame::push_end(&mut out, 1);
    frame::push_reset(&mut out, 1, frame::CANCEL);
    frame::push_go_away(&mut out, 1, frame::NO_ERROR);
    out
}

fn request(baggage: &str) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in [
        (":method", "CONNECT"),
        (":authority", "10.0.0.1:80"),
        ("baggage", baggage),
    ] {
        fields.push(name.as_bytes(), value.as_bytes()).unwrap();
    }
    fields
}

#[test]
fn everything_that_is_written_is_read() {
    let bytes = conversation("k=v", b"hello");
    let heard = read(&mut Reader::of_client(4096), &bytes, &[]).unwrap();
    assert_eq!(heard.data, b"hello");
    let expected = [
        Event::Settings,
        Event::Headers {
            stream: 1,
            fields: Box::new(request("k=v")),
        },
        Event::Ping([0; 8]),
        Event::End { stream: 1 },
        Event::Reset {
            stream: 1,
            code: frame::CANCEL,
        },
        Event::GoAway {
            last: 1,
            code: frame::NO_ERROR,
        },
    ];
    assert_eq!(heard.events, expected);
}

#[test]
fn an_answer_is_read_by_its_status() {
    let mut out = Vec::new();
    for status in [StatusCode::OK, StatusCode::UNAUTHORIZED] {
        let block = fields::answer(status, &headers("x"));
        frame::push_headers(&mut out, 3, &block, End::Stream);
    }
    let heard = read(&mut Reader::of_server(4096), &out, &[]).unwrap();
    let statuses: Vec<_> = heard
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Headers { fields, .. } => fields.status,
            _ => None,
        })
        .collect();
    assert_eq!(statuses, [StatusCode::OK, StatusCode::UNAUTHORIZED]);
    assert_eq!(heard.events.last(), Some(&Event::End { stream: 3 }));
}

/// One frame of a kind, as it may not be.
fn raw(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [
        length[1], length[2], length[3], kind, flags, 0, 0, 0, stream,
    ];
    [&head, payload].concat()
}

#[rstest]
#[case::data_on_no_stream(raw(0, 0, 0, b"x"), CodecError::Unexpected)]
#[case::headers_on_no_stream(raw(1, 4, 0, b""), CodecError::Unexpected)]
#[case::settings_on_a_stream(raw(4, 0, 1, b""), CodecError::Unexpected)]
#[case::settings_cut_short(raw(4, 0, 0, &[0; 5]), CodecError::FrameSize)]
#[case::acknowledged_with_settings(raw(4, 1, 0, &[0; 6]), CodecError::FrameSize)]
#[case::ping_of_seven_bytes(raw(6, 0, 0, &[0; 7]), CodecError::FrameSize)]
#[case::reset_of_three_bytes(raw(3, 0, 1, &[0; 3]), CodecError::FrameSize)]
#[case::go_away_without_code(raw(7, 0, 0, &[0; 7]), CodecError::FrameSize)]
#[case::push(raw(5, 4, 1, &[0; 8]), CodecError::Unexpected)]
#[case::continuation_of_nothing(raw(9, 4, 1, b""), CodecError::Unexpected)]
#[case::data_inside_headers([raw(1, 0, 1, b""), raw(0, 0, 1, b"x")].concat(), CodecError::Unexpected)]
#[case::continuation_of_another([raw(1, 0, 1, b""), raw(9, 4, 3, b"")].concat(), CodecError::Unexpected)]
#[case::too_many_pieces([raw(1, 0, 1, b""), raw(9, 0, 1, b"").repeat(20)].concat(), CodecError::TooLarge)]
#[case::too_long_a_list([raw(1, 0, 1, &[0x82; 3000]), raw(9, 0, 1, &[0x82; 3000])].concat(), CodecError::TooLarge)]
#[case::too_long_a_frame(raw(0, 0, 1, &vec![0; 16_385]), CodecError::FrameSize)]
#[case::too_long_settings(raw(4, 0, 0, &[0; 1026]), CodecError::FrameSize)]
#[case::padding_without_length(raw(0, 8, 1, b""), CodecError::FrameSize)]
#[case::padding_beyond_the_frame(raw(0, 8, 1, &[4, 0, 0, 0]), CodecError::Unexpected)]
#[case::padded_headers_beyond(raw(1, 12, 1, &[4, 0x82]), CodecError::Unexpected)]
#[case::upper_case(raw(1, 4, 1, b"\0\x01A\0"), CodecError::Malformed)]
#[case::pseudo_behind_others(raw(1, 4, 1, b"\0\x01a\0\x88"), CodecError::Malformed)]
#[case::two_statuses(raw(1, 4, 1, b"\x88\x88"), CodecError::Malformed)]
#[case::unknown_pseudo(raw(1, 4, 1, b"\0\x02:x\0"), CodecError::Malformed)]
#[case::too_many_fields(raw(1, 4, 1, &b"\0\x01a\0".repeat(129)), CodecError::TooLarge)]
fn what_is_not_allowed_ends_the_session(#[case] bytes: Vec<u8>, #[case] error: CodecError) {
    let mut reader = Reader::of_server(5000);
    assert_eq!(read(&mut reader, &bytes, &[]), Err(error), "{bytes:02x?}");
    let later = raw(6, 0, 0, &[0; 8]);
    assert_eq!(read(&mut reader, &later, &[]), Err(error), "for good");
    assert!(reader.in_frame(), "nothing can begin behind it");
}

#[test]
fn a_client_that_speaks_something_else_is_noticed_at_its_first_wrong_byte() {
    let read = read(&mut Reader::of_client(4096), b"GET / HTTP/1.1\r\n", &[1, 1]);
    assert_eq!(read, Err(CodecError::Preface));
}

#[test]
fn padding_priorities_and_unknown_frames_are_understood() {
    let frames = [
        raw(2, 0, 1, &[0; 5]),
        raw(200, 0xff, 9, b"whatever"),
        raw(8, 0, 0, &[0, 0, 0, 1]),
        raw(1, 0x2c, 1, &[2, 0, 0, 0, 0, 16, 0x88, 0, 0]),
        raw(0, 8, 1, &[3, b'h', b'i', 0, 0, 0]),
        raw(0, 8, 1, &[0]),
        raw(0, 9, 1, &[2, b'!', 0, 0]),
    ];
    let heard = read(&mut Reader::of_server(4096), &frames.concat(), &[]).unwrap();
    assert_eq!(heard.data, b"hi!");
    assert!(matches!(
        heard.events.as_slice(),
        [Event::Headers { stream: 1, .. }, Event::End { stream: 1 }]
    ));
}

#[test]
fn a_request_in_several_frames_is_one_request() {
    let baggage = "x".repeat(40_000);
    let bytes = conversation(&baggage, b"");
    let heard = read(&mut Reader::of_client(64 << 10), &bytes, &[]).unwrap();
    let Event::Headers { fields, .. } = &heard.events[1] else {
        panic!("{heard:?}");
    };
    assert_eq!(**fields, request(&baggage));
    assert_eq!(fields.method, Some(Method::CONNECT));
}

proptest! {
    #[test]
    fn it_does_not_matter_how_the_bytes_are_cut(
        pieces in prop::collection::vec(1_usize..60, 0..200),
        payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = conversation("a=b", &payload);
        let whole = read(&mut Reader::of_client(4096), &bytes, &[]);
        let cut = read(&mut Reader::of_client(4096), &bytes, &pieces);
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn a_byte_that_is_wrong_ends_the_session_or_means_something_else(
        at in 0_usize..200,
        byte in any::<u8>(),
        pieces in prop::collection::vec(1_usize..60, 0..20),
    ) {
        let mut bytes = conversation("a=b", b"payload");
        let at = at % bytes.len();
        bytes[at] = byte;
        let whole = read(&mut Reader::of_client(4096), &bytes, &[]);
        let cut = read(&mut Reader::of_client(4096), &bytes, &pieces);
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn any_bytes_are_events_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        drop(read(&mut Reader::of_server(4096), &bytes, &[3, 50]));
    }
}
