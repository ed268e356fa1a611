//! Records that are cut, changed, or say what they must not: each is refused with its own reason,
//! and nothing of it is seen.

use proptest::prelude::*;
use rstest::rstest;
use rustls::AlertDescription;

use super::*;

/// A record of any true type, with padding, sealed as the peer would.
pub(super) fn forged(from: &mut Session, text: &[u8], kind: u8, padding: usize) -> Vec<u8> {
    let mut inner = [text, &[kind], &vec![0; padding]].concat();
    let length = u16::try_from(inner.len() + TAG).unwrap().to_be_bytes();
    let header = [23, 3, 3, length[0], length[1]];
    let keys = from.sealer.keys().unwrap();
    let tag = keys.seal(header, &mut inner).unwrap();
    [&header[..], &inner, &tag].concat()
}

fn refusal(wire: Vec<u8>) -> RecordError {
    let (_, mut theirs) = sessions(Suite::Aes128);
    let mut wire = wire;
    let error = theirs.opener.open(&mut wire, 0).unwrap_err();
    assert_eq!(theirs.opener.open(&mut wire, 0), Err(RecordError::Ended));
    error
}

#[rstest]
#[case::change_of_cipher_spec(&[20, 3, 3, 0, 1, 1], RecordError::Unexpected("record in plaintext"))]
#[case::alert_in_plaintext(&[21, 3, 3, 0, 2, 2, 40], RecordError::Unexpected("record in plaintext"))]
#[case::handshake_in_plaintext(&[22, 3, 3, 0, 1, 1], RecordError::Unexpected("record in plaintext"))]
#[case::unknown_type(&[24, 3, 3, 0, 20], RecordError::Unexpected("record in plaintext"))]
#[case::http(
    b"HTTP/1.1 400 Bad Request\r\n",
    RecordError::Unexpected("record in plaintext")
)]
#[case::sealed_too_long(&[23, 3, 3, 0x41, 0x01], RecordError::TooLong)]
#[case::far_too_long(&[23, 3, 3, 0xff, 0xff], RecordError::TooLong)]
#[case::empty(&[23, 3, 3, 0, 0], RecordError::TooShort)]
#[case::shorter_than_a_tag(&[23, 3, 3, 0, 15], RecordError::TooShort)]
#[case::no_room_for_a_type(&[23, 3, 3, 0, 16], RecordError::TooShort)]
fn a_header_that_cannot_be_is_refused_before_its_content_arrives(
    #[case] wire: &[u8],
    #[case] error: RecordError,
) {
    assert_eq!(refusal(wire.to_vec()), error);
}

#[rstest]
#[case::no_type_at_all(&[], 0, 3, RecordError::Unexpected("record without a type"))]
#[case::change_of_cipher_spec(&[1], 20, 0, RecordError::Unexpected("change of cipher"))]
#[case::heartbeat(&[1, 0, 0], 24, 0, RecordError::Unexpected("type of record"))]
#[case::unknown_type(&[1], 99, 0, RecordError::Unexpected("type of record"))]
#[case::empty_alert(&[], 21, 0, RecordError::Malformed("alert"))]
#[case::half_an_alert(&[2], 21, 0, RecordError::Malformed("alert"))]
#[case::two_alerts(&[1, 0, 1, 0], 21, 0, RecordError::Malformed("alert"))]
#[case::fatal_alert(&[2, 80], 21, 0, RecordError::Alert(AlertDescription::InternalError))]
#[case::fatal_alert_as_a_warning(&[1, 80], 21, 0, RecordError::Alert(AlertDescription::InternalError))]
#[case::unknown_alert(&[1, 200], 21, 0, RecordError::Alert(AlertDescription::Unknown(200)))]
#[case::empty_handshake(&[], 22, 0, RecordError::Unexpected("empty handshake record"))]
#[case::client_hello(&[1, 0, 0, 0], 22, 0, RecordError::Unexpected("message after the handshake"))]
#[case::certificate_request(&[13, 0, 0, 3, 0, 0, 0], 22, 0, RecordError::Unexpected("message after the handshake"))]
#[case::key_update_without_body(&[24, 0, 0, 0], 22, 0, RecordError::Malformed("message"))]
#[case::key_update_too_long(&[24, 0, 0, 2, 0, 0], 22, 0, RecordError::Malformed("message"))]
#[case::key_update_with_an_unknown_wish(&[24, 0, 0, 1, 2], 22, 0, RecordError::Malformed("KeyUpdate"))]
#[case::something_behind_a_key_update(&[24, 0, 0, 1, 0, 4], 22, 0, RecordError::Unexpected("message behind a change of keys"))]
#[case::endless_ticket(&[4, 0xff, 0xff, 0xff], 22, 0, RecordError::Malformed("message"))]
#[case::empty_ticket(&[4, 0, 0, 0], 22, 0, RecordError::Malformed("message"))]
fn a_record_that_says_what_it_must_not_is_refused(
    #[case] text: &[u8],
    #[case] kind: u8,
    #[case] padding: usize,
    #[case] error: RecordError,
) {
    let (mut ours, _) = sessions(Suite::Aes128);
    assert_eq!(refusal(forged(&mut ours, text, kind, padding)), error);
}

#[rstest]
#[case::data(PAYLOAD + 1, 0)]
#[case::data_and_padding(PAYLOAD, 1)]
#[case::padding(0, PAYLOAD + 1)]
fn plaintext_that_is_too_long_is_refused(#[case] data: usize, #[case] padding: usize) {
    let (mut ours, _) = sessions(Suite::Aes128);
    let wire = forged(&mut ours, &vec![1; data], kind::APPLICATION_DATA, padding);
    assert_eq!(refusal(wire), RecordError::TooLong);
}

#[rstest]
#[case(RecordError::NotAuthentic, Some(20))]
#[case(RecordError::TooLong, Some(22))]
#[case(RecordError::TooShort, Some(50))]
#[case(RecordError::Malformed("x"), Some(50))]
#[case(RecordError::Unexpected("x"), Some(10))]
#[case(RecordError::Flood, Some(10))]
#[case(RecordError::Key, Some(80))]
#[case(RecordError::Alert(AlertDescription::InternalError), None)]
#[case(RecordError::Ended, None)]
fn each_refusal_has_its_alert(#[case] error: RecordError, #[case] alert: Option<u8>) {
    assert_eq!(error.alert().map(u8::from), alert);
}

#[test]
fn padding_is_removed_and_the_largest_record_is_opened() {
    let (mut ours, mut theirs) = sessions(Suite::Aes128);
    let mut wire = forged(&mut ours, b"padded\0", kind::APPLICATION_DATA, 500);
    let largest = vec![0; PAYLOAD];
    wire.extend(forged(&mut ours, &largest, kind::APPLICATION_DATA, 0));
    let data = data_of(&mut theirs.opener, wire).unwrap();
    assert_eq!(data, [b"padded\0".to_vec(), largest].concat());
}

#[test]
fn the_version_in_a_header_is_ignored_but_authenticated() {
    let (mut ours, _) = sessions(Suite::Aes128);
    let mut wire = sealed(&mut ours.sealer, b"hello");
    wire[2] = 1;
    assert_eq!(refusal(wire), RecordError::NotAuthentic);
}

#[test]
fn every_changed_bit_is_an_error_and_every_cut_is_a_wait() {
    let (mut ours, _) = sessions(Suite::Aes128);
    let whole = sealed(&mut ours.sealer, b"hello");
    for at in 0..whole.len() {
        for bit in 0..8 {
            let (_, mut theirs) = sessions(Suite::Aes128);
            let mut wire = whole.clone();
            wire[at] ^= 1 << bit;
            match theirs.opener.open(&mut wire, 0) {
                // A length that promises more.
                Ok(None) => assert!((3..5).contains(&at)),
                Ok(Some(record)) => panic!("opened {record:?}"),
                Err(_) => {}
            }
        }
        let (_, mut theirs) = sessions(Suite::Aes128);
        let mut wire = whole[..at].to_vec();
        assert_eq!(theirs.opener.open(&mut wire, 0), Ok(None));
        assert_eq!(wire, whole[..at], "what waits is untouched");
        assert_eq!(
            data_of(&mut theirs.opener, whole.clone()).unwrap(),
            b"hello"
        );
    }
}

#[rstest]
#[case::replayed(|wire: Vec<Vec<u8>>| [&wire[0][..], &wire[0]].concat())]
#[case::out_of_order(|wire: Vec<Vec<u8>>| [&wire[1][..], &wire[0]].concat())]
#[case::one_left_out(|wire: Vec<Vec<u8>>| wire[1].clone())]
fn records_have_an_order(#[case] tamper: fn(Vec<Vec<u8>>) -> Vec<u8>) {
    let (mut ours, mut theirs) = sessions(Suite::Aes128);
    let records = vec![
        sealed(&mut ours.sealer, b"one"),
        sealed(&mut ours.sealer, b"two"),
    ];
    let error = data_of(&mut theirs.opener, tamper(records)).unwrap_err();
    assert_eq!(error, RecordError::NotAuthentic);
}

#[rstest]
#[case::empty_data(&[], kind::APPLICATION_DATA)]
#[case::cancelled_by_the_user(&[1, 90], kind::ALERT)]
#[case::tickets(&[4, 0, 0, 1, 0], kind::HANDSHAKE)]
#[case::parts_of_a_ticket(&[4], kind::HANDSHAKE)]
fn records_without_data_are_bounded(#[case] text: &[u8], #[case] kind: u8) {
    let (mut ours, mut theirs) = sessions(Suite::Aes128);
    let ticket = text == [4];
    for round in 0..32 {
        // A ticket that never ends.
        let text = match (ticket, round) {
            (true, 0) => &[4, 1, 0, 0][..],
            (true, _) => &[0],
            (false, _) => text,
        };
        let wire = forged(&mut ours, text, kind, 0);
        assert_eq!(data_of(&mut theirs.opener, wire), Ok(Vec::new()));
    }
    if !ticket {
        // Data gives the peer its credit back.
        let wire = sealed(&mut ours.sealer, b"data");
        assert_eq!(data_of(&mut theirs.opener, wire), Ok(b"data".to_vec()));
        for _ in 0..32 {
            let wire = forged(&mut ours, text, kind, 0);
            assert_eq!(data_of(&mut theirs.opener, wire), Ok(Vec::new()));
        }
    }
    let wire = forged(&mut ours, text, kind, 0);
    assert_eq!(data_of(&mut theirs.opener, wire), Err(RecordError::Flood));
}

#[test]
fn key_updates_are_bounded() {
    let (mut ours, mut theirs) = sessions(Suite::Aes128);
    for _ in 0..32 {
        let wire = ours.sealer.update().unwrap().bytes().to_vec();
        assert_eq!(data_of(&mut theirs.opener, wire), Ok(Vec::new()));
    }
    let wire = ours.sealer.update().unwrap().bytes().to_vec();
    assert_eq!(data_of(&mut theirs.opener, wire), Err(RecordError::Flood));
}

#[rstest]
#[case::data(b"data", kind::APPLICATION_DATA)]
#[case::nothing(b"", kind::APPLICATION_DATA)]
#[case::goodbye(&[1, 0], kind::ALERT)]
fn nothing_comes_between_the_parts_of_a_message(#[case] text: &[u8], #[case] kind: u8) {
    let (mut ours, mut theirs) = sessions(Suite::Aes128);
    let wire = forged(&mut ours, &[4, 0, 0, 9], kind::HANDSHAKE, 0);
    assert_eq!(data_of(&mut theirs.opener, wire), Ok(Vec::new()));
    let wire = forged(&mut ours, text, kind, 0);
    assert_eq!(
        data_of(&mut theirs.opener, wire),
        Err(RecordError::Unexpected("record inside a message"))
    );
}

proptest! {
    /// However messages are spread over records, they mean the same.
    #[test]
    fn messages_may_share_records_and_span_them(
        tickets in prop::collection::vec(1..300_usize, 1..5),
        cuts in prop::collection::vec(1..400_usize, 24),
    ) {
        let (mut ours, mut theirs) = sessions(Suite::Aes128);
        let mut messages = Vec::new();
        for length in tickets {
            let [high, low] = u16::try_from(length).unwrap().to_be_bytes();
            messages.extend([4, 0, high, low]);
            messages.extend(vec![7; length]);
        }
        messages.extend([24, 0, 0, 1, 1]);
        let mut cuts = cuts.into_iter();
        while !messages.is_empty() {
            let count = cuts.next().unwrap_or(usize::MAX).min(messages.len());
            let part: Vec<u8> = messages.drain(..count).collect();
            let wire = forged(&mut ours, &part, kind::HANDSHAKE, 0);
            prop_assert_eq!(data_of(&mut theirs.opener, wire), Ok(Vec::new()));
        }
        ours.sealer.keys().unwrap().update().unwrap();
        prop_assert!(theirs.due().unwrap().is_some());
        let wire = sealed(&mut ours.sealer, b"with new keys");
        prop_assert_eq!(data_of(&mut theirs.opener, wire), Ok(b"with new keys".to_vec()));
    }

    /// Nothing that is not sealed by the peer is ever opened.
    #[test]
    fn random_bytes_are_never_data(mut wire in prop::collection::vec(any::<u8>(), 0..2000)) {
        let (_, mut theirs) = sessions(Suite::Aes128);
        if let Ok(Some(record)) = theirs.opener.open(&mut wire, 0) {
            return Err(TestCaseError::fail(format!("opened {record:?}")));
        }
    }
}
