//! What sealing and opening a record costs: by the AEAD alone, by our record layer around it, and by
//! rustls' buffered one: `cargo bench -p interceptor --bench records`.
//!
//! The figure to keep: ours stays within a few per cent of the AEAD for full records. Results are in
//! `docs/decisions/transport.md`.
#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up must fail loudly"
)]

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use interceptor::transport::record::{Content, Direction, HEADER, OVERHEAD, Session, Suite};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
};
use rustls_pki_types::PrivatePkcs8KeyDer;

fn main() {
    divan::main();
}

/// Payloads: of a small request, and of a full record.
const PAYLOADS: [usize; 2] = [64, 16 << 10];
const TAG: usize = 16;

// === the AEAD alone ===

struct Aead(LessSafeKey, u64);

impl Aead {
    fn new() -> Self {
        let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).expect("a key");
        Self(LessSafeKey::new(key), 0)
    }

    fn nonce(&mut self) -> Nonce {
        self.1 += 1;
        let mut nonce = [0; NONCE_LEN];
        nonce[4..].copy_from_slice(&self.1.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&mut self, text: &mut [u8]) {
        let nonce = self.nonce();
        let (text, room) = text.split_at_mut(text.len() - TAG);
        let aad = Aad::from([0; HEADER]);
        let tag = self.0.seal_in_place_separate_tag(nonce, aad, text);
        room.copy_from_slice(tag.expect("sealed").as_ref());
    }
}

#[divan::bench(args = PAYLOADS)]
fn seal_aead(bencher: Bencher<'_, '_>, payload: usize) {
    let mut aead = Aead::new();
    let mut text = vec![1; payload + TAG];
    bencher
        .counter(BytesCount::new(payload))
        .bench_local(|| aead.seal(black_box(&mut text)));
}

#[divan::bench(args = PAYLOADS)]
fn open_aead(bencher: Bencher<'_, '_>, payload: usize) {
    let (mut sealer, mut opener) = (Aead::new(), Aead::new());
    bencher
        .counter(BytesCount::new(payload))
        .with_inputs(|| {
            let mut text = vec![1; payload + TAG];
            sealer.seal(&mut text);
            text
        })
        .bench_local_refs(|text| {
            let nonce = opener.nonce();
            let text = opener.0.open_in_place(nonce, Aad::from([0; HEADER]), text);
            text.expect("opened").len()
        });
}

// === our records ===

fn sessions() -> (Session, Session) {
    let direction = |fill| Direction::of_secret(Suite::Aes128, &[fill; 32]).expect("keys");
    (
        Session::new(direction(1), direction(2)),
        Session::new(direction(2), direction(1)),
    )
}

#[divan::bench(args = PAYLOADS)]
fn seal_ours(bencher: Bencher<'_, '_>, payload: usize) {
    let (mut session, _) = sessions();
    let mut slot = vec![1; payload + OVERHEAD];
    bencher.counter(BytesCount::new(payload)).bench_local(|| {
        let due = session.due().expect("a session");
        let length = session.sealer.seal(black_box(&mut slot), payload);
        (due, length.expect("sealed"))
    });
}

#[divan::bench(args = PAYLOADS)]
fn open_ours(bencher: Bencher<'_, '_>, payload: usize) {
    let (mut sealing, mut opening) = sessions();
    bencher
        .counter(BytesCount::new(payload))
        .with_inputs(|| {
            let mut slot = vec![1; payload + OVERHEAD];
            assert!(sealing.due().expect("a session").is_none());
            let length = sealing.sealer.seal(&mut slot, payload);
            assert_eq!(length.expect("sealed"), slot.len());
            slot
        })
        .bench_local_refs(|slot| {
            let record = opening.opener.open(slot, 0).expect("opened");
            match record.expect("complete").content {
                Content::Data(range) => range.len(),
                Content::Nothing | Content::Closed => 0,
            }
        });
}

// === rustls' records ===

fn connections() -> (Connection, Connection) {
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256],
        ..provider::default_provider()
    });
    let own = rcgen::generate_simple_self_signed(vec!["bench.test".to_owned()]);
    let own = own.expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).expect("a root");
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a version")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key.into())
        .expect("a certificate");
    server.send_tls13_tickets = 0;
    let name = "bench.test".try_into().expect("a name");
    let client = ClientConnection::new(Arc::new(client), name);
    let server = ServerConnection::new(Arc::new(server));
    let mut client = Connection::Client(client.expect("a client"));
    let mut server = Connection::Server(server.expect("a server"));
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        written(&mut client, &mut wire);
        read(&mut server, &wire);
        wire.clear();
        written(&mut server, &mut wire);
        read(&mut client, &wire);
    }
    (client, server)
}

fn written(connection: &mut Connection, wire: &mut Vec<u8>) {
    while connection.wants_write() {
        connection.write_tls(wire).expect("written");
    }
}

fn read(connection: &mut Connection, mut wire: &[u8]) -> usize {
    let mut state = connection.process_new_packets().expect("accepted");
    while !wire.is_empty() {
        connection.read_tls(&mut wire).expect("read");
        state = connection.process_new_packets().expect("accepted");
    }
    state.plaintext_bytes_to_read()
}

#[divan::bench(args = PAYLOADS)]
fn seal_rustls(bencher: Bencher<'_, '_>, payload: usize) {
    let (mut client, _server) = connections();
    let text = vec![1; payload];
    let mut wire = Vec::with_capacity(2 * payload + OVERHEAD);
    bencher.counter(BytesCount::new(payload)).bench_local(|| {
        wire.clear();
        client.writer().write_all(black_box(&text)).expect("room");
        written(&mut client, &mut wire);
        wire.len()
    });
}

#[divan::bench(args = PAYLOADS)]
fn open_rustls(bencher: Bencher<'_, '_>, payload: usize) {
    let (mut client, mut server) = connections();
    let text = vec![1; payload];
    let mut room = vec![0; payload];
    bencher
        .counter(BytesCount::new(payload))
        .with_inputs(|| {
            let mut wire = Vec::new();
            client.writer().write_all(&text).expect("room");
            written(&mut client, &mut wire);
            wire
        })
        .bench_local_refs(|wire| {
            let length = read(&mut server, wire);
            server.reader().read_exact(&mut room).expect("data");
            length
        });
}
