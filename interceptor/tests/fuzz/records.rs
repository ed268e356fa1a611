//! A TLS session whose peer holds the keys and does what it likes with them.
//!
//! The input is what the peer does: it seals data, alerts, parts of messages and nonsense, changes
//! its keys, and something on the way changes bits and inserts bytes. Whatever that is, what is
//! opened is the beginning of what was sealed as data, an error is the last that is heard, and work
//! without data is bounded. The peer's cryptography is written anew here, from RFC 8446.

use std::collections::VecDeque;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use interceptor::transport::record::{
    Content, Direction, HEADER, OVERHEAD, Opener, PAYLOAD, RecordError, Session, Suite,
};

use crate::engine::{Features, Target, feature};

pub(crate) const TARGET: Target = Target {
    name: "records",
    run,
    words: &[],
};

/// Records without data that may come in a row.
const PATIENCE: usize = 32;

/// Enough for one input.
const LARGE: usize = 1 << 20;

/// Something of everything, so that mutations have something to start from.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let data = [0, 5, 0, 3];
    let alert = |description: u8| vec![1, 21, 2, 1, description];
    let deliver = [6, 255];
    vec![
        [&data[..], &[2, 1], &data, &[2, 0], &data, &deliver].concat(),
        [&data[..], &alert(0), &data, &deliver, &data, &deliver].concat(),
        [&alert(90)[..], &[3, 200], &data, &deliver].concat(),
        [&[7, 3][..], &data, &[6, 100], &deliver, &deliver].concat(),
        [&data[..], &[5, 9, 1], &deliver].concat(),
        [&[4, 5, 23, 3, 3, 0, 40], &deliver[..]].concat(),
        [
            &[1, 22, 5, 4, 0, 0, 9, 1, 1, 22, 7, 0, 0, 0, 0, 0, 0, 0],
            &data[..],
            &deliver,
        ]
        .concat(),
        [[1, 23, 0].repeat(40), deliver.to_vec()].concat(),
        [[2, 1, 6, 255].repeat(40), deliver.to_vec()].concat(),
    ]
}

fn run(input: &[u8]) -> Features {
    let mut steps: VecDeque<u8> = input.iter().copied().collect();
    let mut peer = Peer::new(vec![7; 32]);
    let mut end = End::new();
    while let Some(step) = steps.pop_front() {
        let mut next = || steps.pop_front().unwrap_or_default();
        match step % 8 {
            0 => {
                let (length, fill, padding) = (next(), next(), next());
                let length = usize::from(length) * usize::from(step / 8 + 1);
                let data = vec![fill; length];
                peer.seal(&data, 23, usize::from(padding));
            }
            1 => {
                let (kind, length) = (next(), next() % 64);
                let text: Vec<u8> = (0..length).map(|_| next()).collect();
                peer.seal(&text, kind, 0);
            }
            2 => {
                peer.seal(&[24, 0, 0, 1, next() % 2], 22, 0);
                peer.change_keys();
            }
            3 => {
                let length = next();
                let text = [vec![4, 0, 0, length], vec![1; usize::from(length)]].concat();
                let (begin, rest) = text.split_at(usize::from(step / 8).min(text.len()));
                for part in [begin, rest] {
                    if !part.is_empty() {
                        peer.seal(part, 22, 0);
                    }
                }
            }
            4 => {
                let length = next();
                let bytes: Vec<u8> = (0..length).map(|_| next()).collect();
                peer.wire.extend(bytes);
            }
            5 => {
                let (at, bit) = (usize::from(next()), next() % 8);
                if let Some(byte) = peer.wire.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            6 => {
                let length = usize::from(next()) * usize::from(step / 8 + 1);
                let length = length.min(peer.wire.len());
                end.receive(peer.wire.drain(..length), &peer.said);
            }
            _ if peer.said.len() < LARGE => peer.seal(&vec![next(); PAYLOAD], 23, 0),
            _ => {}
        }
    }
    end.receive(peer.wire.drain(..), &peer.said);
    end.features
}

/// The end that holds the sealing keys.
struct Peer {
    secret: Vec<u8>,
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    wire: Vec<u8>,
    /// Everything that was sealed as data.
    said: Vec<u8>,
}

impl Peer {
    fn new(secret: Vec<u8>) -> Self {
        let (key, iv) = (expand(&secret, "key", 16), expand(&secret, "iv", 12));
        Self {
            key: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key).unwrap()),
            iv: iv.try_into().unwrap(),
            secret,
            sequence: 0,
            wire: Vec::new(),
            said: Vec::new(),
        }
    }

    fn change_keys(&mut self) {
        let next = Self::new(expand(&self.secret, "traffic upd", 32));
        (self.secret, self.key, self.iv) = (next.secret, next.key, next.iv);
        self.sequence = 0;
    }

    fn seal(&mut self, text: &[u8], kind: u8, padding: usize) {
        let mut inner = [text, &[kind], &vec![0; padding]].concat();
        // A type of zero makes padding of itself, and a type of what is before it.
        let end = inner.iter().rposition(|byte| *byte != 0);
        if let Some((23, data)) = end.and_then(|end| inner[..=end].split_last()) {
            self.said.extend(data);
        }
        let length = u16::try_from(inner.len() + 16).unwrap().to_be_bytes();
        let header = [23, 3, 3, length[0], length[1]];
        let mut nonce = self.iv;
        for (byte, sequence) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        self.sequence += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let aad = Aad::from(header);
        self.key
            .seal_in_place_append_tag(nonce, aad, &mut inner)
            .unwrap();
        self.wire.extend(header);
        self.wire.extend(inner);
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// `HKDF-Expand-Label` with an empty context.
fn expand(secret: &[u8], label: &str, length: usize) -> Vec<u8> {
    let label = format!("tls13 {label}");
    let short = |length: usize| u8::try_from(length).unwrap();
    let text = [
        &[0, short(length), short(label.len())],
        label.as_bytes(),
        &[0],
    ];
    let mut out = vec![0; length];
    let prk = Prk::new_less_safe(HKDF_SHA256, secret);
    let okm = prk.expand(&text, Length(length)).unwrap();
    okm.fill(&mut out).unwrap();
    out
}

/// The end that opens.
struct End {
    session: Session,
    buffer: Vec<u8>,
    heard: Vec<u8>,
    quiet: usize,
    over: Option<RecordError>,
    features: Features,
}

impl End {
    fn new() -> Self {
        let direction = |fill| Direction::of_secret(Suite::Aes128, &[fill; 32]).unwrap();
        Self {
            session: Session::new(direction(8), direction(7)),
            buffer: Vec::new(),
            heard: Vec::new(),
            quiet: 0,
            over: None,
            features: Features::new(),
        }
    }

    fn receive(&mut self, wire: impl Iterator<Item = u8>, said: &[u8]) {
        self.buffer.extend(wire);
        let mut at = 0;
        loop {
            match self.session.opener.open(&mut self.buffer, at) {
                Ok(Some(record)) => {
                    assert_eq!(self.over, None, "a record after an error");
                    assert!(record.end > at && record.end <= self.buffer.len());
                    self.saw(&record.content, at, record.end, said);
                    at = record.end;
                }
                Ok(None) => {
                    assert_eq!(self.over, None, "waiting after an error");
                    assert!(
                        self.buffer.len() - at < HEADER + PAYLOAD + 256,
                        "never gets on"
                    );
                    break;
                }
                Err(error) => {
                    self.fail(error);
                    break;
                }
            }
        }
        self.buffer.drain(..at);
        match self.session.due() {
            Ok(Some(control)) => {
                assert!((OVERHEAD..=OVERHEAD + 5).contains(&control.bytes().len()));
                self.features.insert(feature("answer"));
            }
            Ok(None) => {}
            Err(error) => panic!("our own keys are unharmed: {error}"),
        }
    }

    fn saw(&mut self, content: &Content, at: usize, end: usize, said: &[u8]) {
        let opener: &Opener = &self.session.opener;
        assert_eq!(opener.is_closed(), *content == Content::Closed);
        self.quiet += 1;
        match content {
            Content::Data(range) => {
                assert!(range.start == at + HEADER && range.end + 17 <= end);
                assert!(!range.is_empty());
                let data = &self.buffer[range.clone()];
                let said = &said[self.heard.len()..];
                assert!(said.starts_with(data), "heard what was not said");
                self.heard.extend_from_slice(data);
                self.quiet = 0;
                let padded = range.end + 17 < end;
                self.features
                    .insert(feature(("data", padded, range.len() == PAYLOAD)));
            }
            Content::Nothing => {
                self.features.insert(feature(("nothing", self.quiet)));
            }
            Content::Closed => {
                self.quiet = 0;
                self.features
                    .insert(feature(("closed", self.heard.is_empty())));
            }
        }
        assert!(self.quiet <= PATIENCE, "endless work without data");
    }

    fn fail(&mut self, error: RecordError) {
        if self.over.replace(error).is_some() {
            assert_eq!(error, RecordError::Ended);
            return;
        }
        assert_ne!(error, RecordError::Ended);
        assert!(matches!(error, RecordError::Alert(_)) == error.alert().is_none());
        let so_far = self.heard.len() % 8;
        self.features.insert(feature((error.to_string(), so_far)));
    }
}
