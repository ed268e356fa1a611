//! The bytes of RFC 8448, section 3: what a session with known secrets looks like.

use super::*;

const CLIENT: &str = "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
const SERVER: &str = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
const CLIENT_DATA: &str = "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8\
    a5b46b395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4";
const CLIENT_CLOSE: &str = "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3";
const SERVER_DATA: &str = "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf9\
    7d90e6dffc602dcb501a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    let byte = |pair: &[u32]| u8::try_from(pair[0] * 16 + pair[1]).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn direction(secret: &str) -> Direction {
    Direction::of_secret(Suite::Aes128, &bytes(secret)).unwrap()
}

#[test]
fn the_client_of_rfc_8448_seals_what_the_rfc_shows() {
    let mut session = Session::new(direction(CLIENT), direction(SERVER));
    let data: Vec<u8> = (0..50).collect();
    assert_eq!(sealed(&mut session.sealer, &data), bytes(CLIENT_DATA));
    assert_eq!(session.sealer.close().unwrap().bytes(), bytes(CLIENT_CLOSE));
}

#[test]
fn the_client_of_rfc_8448_opens_what_the_rfc_shows() {
    let mut session = Session::new(direction(CLIENT), direction(SERVER));
    // The server's first record there is a ticket.
    session.opener.skip_to(1);
    let data: Vec<u8> = (0..50).collect();
    assert_eq!(data_of(&mut session.opener, bytes(SERVER_DATA)), Ok(data));
}

#[test]
fn a_secret_of_another_length_makes_no_key() {
    let error = Direction::of_secret(Suite::Aes256, &[0; 32]).unwrap_err();
    assert_eq!(error, RecordError::Key);
    let error = Direction::of_secret(Suite::Aes128, &[0; 48]).unwrap_err();
    assert_eq!(error, RecordError::Key);
}

#[test]
fn secrets_do_not_show_in_what_is_logged() {
    let session = Session::new(direction(CLIENT), direction(SERVER));
    insta::assert_snapshot!(format!("{:?}", session.sealer), @"Sealer { keys: Some(Direction { suite: Aes128, sequence: 0, .. }) }");
}
