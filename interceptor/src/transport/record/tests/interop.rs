//! rustls at the other end, in memory: every suite, both roles, keys changing either way.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use rstest::rstest;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig,
    ServerConnection, SupportedCipherSuite,
};

use super::super::super::hbone::tests::handshake::Trusting;
use super::super::super::testing::id;
use super::super::super::tls::handover::{TrafficSecrets, hand_over};
use super::*;
use crate::identity::Ca;

/// Which end is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

const SUITES: [SupportedCipherSuite; 3] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
];

/// A session of ours, and rustls at the other end of it, which has sent `tickets` already.
fn shaken(suite: SupportedCipherSuite, role: Role, tickets: usize) -> (Session, Peer) {
    let secrets = Arc::new(TrafficSecrets::default());
    let (client, server) = configs(suite, &secrets, tickets);
    let name = "server.test".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name)
        .unwrap()
        .into();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap().into();
    while is_handshaking(&client) || is_handshaking(&server) {
        pass(&mut client, &mut server);
        // Tickets follow the end of the handshake and are not for the client's rustls.
        if is_handshaking(&server) || role == Role::Server {
            pass(&mut server, &mut client);
        }
    }
    let (ours, theirs) = match role {
        Role::Client => (client, server),
        Role::Server => (server, client),
    };
    (hand_over(ours, &secrets).unwrap(), Peer { rustls: theirs })
}

fn is_handshaking(connection: &Connection) -> bool {
    connection.is_handshaking()
}

fn pass(from: &mut Connection, to: &mut Connection) {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut wire = wire.as_slice();
    while !wire.is_empty() {
        to.read_tls(&mut wire).unwrap();
        to.process_new_packets().unwrap();
    }
}

fn configs(
    suite: SupportedCipherSuite,
    secrets: &Arc<TrafficSecrets>,
    tickets: usize,
) -> (ClientConfig, ServerConfig) {
    let provider = Arc::new(rustls::crypto::CryptoProvider {
        cipher_suites: vec![suite],
        ..aws_lc_rs::default_provider()
    });
    let now = SystemTime::now();
    let ca = Ca::generate(&"mesh.test".parse().unwrap(), now).unwrap();
    let svid = ca.issue_now(&id("server"), Duration::from_hours(1), now);
    let key = rustls::sign::CertifiedKey::clone(&svid.unwrap().signing());
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    client
        .dangerous()
        .set_certificate_verifier(Arc::new(Trusting));
    client.key_log = Arc::<TrafficSecrets>::clone(secrets);
    client.enable_secret_extraction = true;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)));
    server.key_log = Arc::<TrafficSecrets>::clone(secrets);
    server.enable_secret_extraction = true;
    server.send_tls13_tickets = tickets;
    (client, server)
}

/// rustls, with its records as bytes.
struct Peer {
    rustls: Connection,
}

impl Peer {
    fn write(&mut self, data: &[u8]) -> Vec<u8> {
        self.rustls.set_buffer_limit(None);
        self.rustls.writer().write_all(data).unwrap();
        self.records()
    }

    fn records(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        while self.rustls.wants_write() {
            self.rustls.write_tls(&mut wire).unwrap();
        }
        wire
    }

    fn read(&mut self, mut wire: &[u8]) -> Result<Received, rustls::Error> {
        let mut seen = Received::default();
        while !wire.is_empty() {
            self.rustls.read_tls(&mut wire).unwrap();
            let state = self.rustls.process_new_packets()?;
            let mut data = vec![0; state.plaintext_bytes_to_read()];
            self.rustls.reader().read_exact(&mut data).unwrap();
            seen.data.extend(data);
            seen.closed |= state.peer_has_closed();
            if seen.closed {
                break;
            }
        }
        Ok(seen)
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect()
}

#[rstest]
fn data_goes_both_ways(
    #[values(0, 1, 2)] suite: usize,
    #[values(Role::Client, Role::Server)] role: Role,
) {
    let (mut ours, mut peer) = shaken(SUITES[suite], role, 0);
    for length in [1, 2, 15, 16, 17, 64, 1000, PAYLOAD - 1, PAYLOAD] {
        let data = pattern(length);
        let wire = sealed(&mut ours.sealer, &data);
        assert_eq!(peer.read(&wire).unwrap().data, data);
        let wire = peer.write(&data);
        assert_eq!(data_of(&mut ours.opener, wire), Ok(data));
    }
    // More than a record at once, as rustls cuts it.
    let data = pattern(100_000);
    let wire = peer.write(&data);
    assert_eq!(data_of(&mut ours.opener, wire), Ok(data));
}

#[rstest]
fn keys_change_when_the_peer_wants_it(
    #[values(0, 1, 2)] suite: usize,
    #[values(Role::Client, Role::Server)] role: Role,
) {
    let (mut ours, mut peer) = shaken(SUITES[suite], role, 0);
    for round in 0..100_usize {
        peer.rustls.refresh_traffic_keys().unwrap();
        let data = pattern(1 + round);
        let wire = peer.write(&data);
        assert_eq!(data_of(&mut ours.opener, wire).as_ref(), Ok(&data));
        // rustls asks for ours in return, and gets them before anything else.
        let mut wire = ours.due().unwrap().expect("an answer").bytes().to_vec();
        assert!(ours.due().unwrap().is_none(), "one answer");
        wire.extend(sealed(&mut ours.sealer, &data));
        assert_eq!(peer.read(&wire).unwrap().data, data);
    }
}

#[rstest]
fn keys_change_when_we_want_it(
    #[values(0, 1)] suite: usize,
    #[values(Role::Client, Role::Server)] role: Role,
) {
    let (mut ours, mut peer) = shaken(SUITES[suite], role, 0);
    let wire = sealed(&mut ours.sealer, b"before");
    assert_eq!(peer.read(&wire).unwrap().data, b"before");
    let mut wire = ours.sealer.update().unwrap().bytes().to_vec();
    wire.extend(sealed(&mut ours.sealer, b"after"));
    assert_eq!(peer.read(&wire).unwrap().data, b"after");
    // The other direction keeps its keys.
    let wire = peer.write(b"back");
    assert_eq!(data_of(&mut ours.opener, wire), Ok(b"back".to_vec()));
}

#[rstest]
#[case::none(0)]
#[case::two_as_most_servers_send(2)]
#[case::many(9)]
fn tickets_are_skipped(#[case] tickets: usize) {
    let (mut ours, mut peer) = shaken(SUITES[0], Role::Client, tickets);
    let wire = peer.write(b"hello");
    assert_eq!(data_of(&mut ours.opener, wire), Ok(b"hello".to_vec()));
}

#[rstest]
fn both_ends_say_goodbye(#[values(Role::Client, Role::Server)] role: Role) {
    let (mut ours, mut peer) = shaken(SUITES[0], role, 0);
    let wire = ours.sealer.close().unwrap();
    assert!(peer.read(wire.bytes()).unwrap().closed);
    // The other direction is still open.
    let mut wire = peer.write(b"last words");
    peer.rustls.send_close_notify();
    wire.extend(peer.records());
    wire.extend(b"whatever follows is ignored");
    let mut seen = Received::default();
    received(&mut ours.opener, &mut wire, &mut seen).unwrap();
    assert_eq!(
        (seen.data.as_slice(), seen.closed),
        (&b"last words"[..], true)
    );
    assert!(ours.opener.is_closed());
}

#[test]
fn an_alert_of_ours_ends_the_peer_and_names_the_cause() {
    let (mut ours, mut peer) = shaken(SUITES[0], Role::Client, 0);
    let wire = ours.sealer.alert(AlertDescription::BadRecordMac).unwrap();
    assert_eq!(
        peer.read(wire.bytes()),
        Err(rustls::Error::AlertReceived(AlertDescription::BadRecordMac))
    );
}

#[test]
fn an_alert_of_the_peer_ends_us_and_names_the_cause() {
    let (mut ours, mut peer) = shaken(SUITES[0], Role::Server, 0);
    let mut wire = sealed(&mut ours.sealer, b"hello");
    wire[7] ^= 1;
    peer.read(&wire).unwrap_err();
    let wire = peer.records();
    let error = data_of(&mut ours.opener, wire).unwrap_err();
    assert_eq!(error, RecordError::Alert(AlertDescription::BadRecordMac));
    assert_eq!(error.alert(), None, "nothing is answered");
}

/// What one end does.
#[derive(Clone, Debug)]
enum Step {
    WeSay(usize),
    TheySay(usize),
    WeChangeKeys,
    TheyChangeKeys,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..=PAYLOAD).prop_map(Step::WeSay),
        4 => (1..50_000_usize).prop_map(Step::TheySay),
        1 => Just(Step::WeChangeKeys),
        1 => Just(Step::TheyChangeKeys),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_said_arrives_however_it_is_cut(
        suite in 0..3_usize,
        client in any::<bool>(),
        steps in prop::collection::vec(step(), 1..30),
        cuts in prop::collection::vec(1..5000_usize, 1..20),
    ) {
        let role = if client { Role::Client } else { Role::Server };
        let (mut ours, mut peer) = shaken(SUITES[suite], role, 0);
        let (mut towards_us, mut towards_them) = (Vec::new(), Vec::new());
        let (mut we_hear, mut they_hear) = (Received::default(), Received::default());
        let (mut we_should, mut they_should) = (Vec::new(), Vec::new());
        let (mut wire, mut cuts) = (Vec::new(), cuts.iter().cycle());
        for (turn, step) in steps.into_iter().enumerate() {
            match step {
                Step::WeSay(length) => {
                    let data = vec![u8::try_from(turn).unwrap(); length];
                    if let Some(control) = ours.due().unwrap() {
                        towards_them.extend_from_slice(control.bytes());
                    }
                    towards_them.extend(sealed(&mut ours.sealer, &data));
                    they_should.extend(data);
                }
                Step::TheySay(length) => {
                    let data = vec![u8::try_from(turn).unwrap(); length];
                    towards_us.extend(peer.write(&data));
                    we_should.extend(data);
                }
                Step::WeChangeKeys => {
                    towards_them.extend_from_slice(ours.sealer.update().unwrap().bytes());
                }
                Step::TheyChangeKeys => {
                    peer.rustls.refresh_traffic_keys().unwrap();
                    towards_us.extend(peer.records());
                }
            }
            let count = (*cuts.next().unwrap()).min(towards_us.len());
            wire.extend(towards_us.drain(..count));
            received(&mut ours.opener, &mut wire, &mut we_hear).unwrap();
            let count = (*cuts.next().unwrap()).min(towards_them.len());
            let part: Vec<u8> = towards_them.drain(..count).collect();
            they_hear.data.extend(peer.read(&part).unwrap().data);
        }
        wire.extend(towards_us);
        received(&mut ours.opener, &mut wire, &mut we_hear).unwrap();
        they_hear.data.extend(peer.read(&towards_them).unwrap().data);
        prop_assert!(we_hear.data == we_should);
        prop_assert!(they_hear.data == they_should);
    }
}
