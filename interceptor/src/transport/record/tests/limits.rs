//! What one key may be used for, and that there is none when a session has ended.

use rstest::rstest;
use rustls::AlertDescription;

use super::*;

#[test]
fn new_keys_are_due_when_half_of_the_limit_is_used() {
    let (mut ours, mut theirs) = sessions(Suite::Aes128);
    ours.sealer.skip_to((1 << 23) - 1);
    theirs.opener.skip_to((1 << 23) - 1);
    assert!(ours.due().unwrap().is_none());
    let mut wire = sealed(&mut ours.sealer, b"one");
    let update = ours.due().unwrap().expect("due");
    assert!(ours.due().unwrap().is_none(), "no longer due");
    wire.extend_from_slice(update.bytes());
    wire.extend(sealed(&mut ours.sealer, b"two"));
    assert_eq!(data_of(&mut theirs.opener, wire), Ok(b"onetwo".to_vec()));
    assert!(
        theirs.due().unwrap().is_none(),
        "nothing is asked for in return"
    );
}

#[rstest]
#[case(Suite::Aes128, 1 << 24)]
#[case(Suite::Aes256, 1 << 24)]
#[case(Suite::ChaCha20, u64::MAX)]
fn a_key_that_is_used_up_seals_nothing_more(#[case] suite: Suite, #[case] limit: u64) {
    let (mut ours, _) = sessions(suite);
    ours.sealer.skip_to(limit - 1);
    sealed(&mut ours.sealer, b"the last one");
    let mut slot = [0; 100];
    assert_eq!(ours.sealer.seal(&mut slot, 1), Err(RecordError::Exhausted));
    assert_eq!(ours.sealer.seal(&mut slot, 1), Err(RecordError::Ended));
}

#[test]
fn a_sequence_number_does_not_wrap() {
    let (_, mut theirs) = sessions(Suite::ChaCha20);
    theirs.opener.skip_to(u64::MAX);
    let mut record = [23, 3, 3, 0, 17].to_vec();
    record.extend([0; 17]);
    assert_eq!(
        theirs.opener.open(&mut record, 0),
        Err(RecordError::Exhausted)
    );
    assert_eq!(theirs.opener.open(&mut record, 0), Err(RecordError::Ended));
}

#[test]
fn equal_data_never_looks_equal() {
    let (mut ours, _) = sessions(Suite::Aes128);
    let mut seen = std::collections::HashSet::new();
    for round in 0..100 {
        if round % 10 == 9 {
            let _unsent = ours.sealer.update().unwrap();
        }
        assert!(seen.insert(sealed(&mut ours.sealer, b"the same")));
    }
}

#[rstest]
#[case::goodbye(|sealer: &mut Sealer| assert!(sealer.close().is_ok()))]
#[case::alert(|sealer: &mut Sealer| assert!(sealer.alert(AlertDescription::InternalError).is_ok()))]
#[case::payload_too_long(|sealer: &mut Sealer| {
    let error = sealer.seal(&mut vec![0; 2 * SLOT], PAYLOAD + 1);
    assert_eq!(error, Err(RecordError::TooLong));
})]
#[case::no_room(|sealer: &mut Sealer| {
    let error = sealer.seal(&mut [0; OVERHEAD + 9], 10);
    assert_eq!(error, Err(RecordError::Room));
})]
fn after_the_end_nothing_is_sealed(#[case] end: fn(&mut Sealer)) {
    let (mut ours, _) = sessions(Suite::Aes128);
    end(&mut ours.sealer);
    assert!(!ours.sealer.is_open());
    assert_eq!(ours.sealer.seal(&mut [0; 100], 1), Err(RecordError::Ended));
    assert_eq!(ours.sealer.update().unwrap_err(), RecordError::Ended);
    assert_eq!(ours.sealer.close().unwrap_err(), RecordError::Ended);
    let description = AlertDescription::InternalError;
    assert_eq!(
        ours.sealer.alert(description).unwrap_err(),
        RecordError::Ended
    );
    assert!(ours.due().unwrap().is_none());
}

#[test]
fn a_wish_for_new_keys_after_our_goodbye_is_no_error() {
    let (mut ours, mut theirs) = sessions(Suite::Aes128);
    let _unsent = theirs.sealer.close().unwrap();
    let mut wire = hostile::forged(&mut ours, &[24, 0, 0, 1, 1], kind::HANDSHAKE, 0);
    assert_eq!(
        theirs.opener.open(&mut wire, 0).unwrap().unwrap().content,
        Content::Nothing
    );
    assert!(theirs.due().unwrap().is_none());
}
