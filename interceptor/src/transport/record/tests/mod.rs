//! The record layer against RFC 8448's bytes, against rustls, and against everything that a peer
//! may send by mistake or on purpose.

mod hostile;
mod interop;
mod limits;
mod vectors;

use super::*;

/// Some traffic secret of the right length.
fn secret(suite: Suite, fill: u8) -> Vec<u8> {
    vec![fill; if suite == Suite::Aes256 { 48 } else { 32 }]
}

/// Both ends of a session.
fn sessions(suite: Suite) -> (Session, Session) {
    let direction = |fill| Direction::of_secret(suite, &secret(suite, fill)).unwrap();
    (
        Session::new(direction(1), direction(2)),
        Session::new(direction(2), direction(1)),
    )
}

/// A record of `data`.
fn sealed(sealer: &mut Sealer, data: &[u8]) -> Vec<u8> {
    let mut slot = vec![0; data.len() + OVERHEAD];
    slot[HEADER..HEADER + data.len()].copy_from_slice(data);
    assert_eq!(sealer.seal(&mut slot, data.len()), Ok(slot.len()));
    slot
}

/// What [`received`] has seen.
#[derive(Debug, Default, PartialEq, Eq)]
struct Received {
    data: Vec<u8>,
    closed: bool,
}

/// Opens every complete record of `buffer` and drops it from there.
fn received(
    opener: &mut Opener,
    buffer: &mut Vec<u8>,
    into: &mut Received,
) -> Result<(), RecordError> {
    let mut at = 0;
    while let Some(record) = opener.open(buffer, at)? {
        match record.content {
            Content::Data(range) => {
                assert!(!into.closed, "data after a goodbye");
                into.data.extend_from_slice(&buffer[range]);
            }
            Content::Nothing => {}
            Content::Closed => into.closed = true,
        }
        at = record.end;
    }
    buffer.drain(..at);
    Ok(())
}

/// The data of `buffer`, all of which are complete records.
fn data_of(opener: &mut Opener, mut buffer: Vec<u8>) -> Result<Vec<u8>, RecordError> {
    let mut seen = Received::default();
    received(opener, &mut buffer, &mut seen)?;
    assert!(buffer.is_empty());
    Ok(seen.data)
}
