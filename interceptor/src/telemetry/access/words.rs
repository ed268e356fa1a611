//! What is put into the holes of a line: the numbers of a connection, as they are written.
//!
//! The lines of both its ends have the same, so they become text once.

use std::io::Write as _;
use std::net::SocketAddr;

use jiff::Timestamp;

use super::Format;
use super::clock::Clock;
use super::template::Template;
use crate::telemetry::record::{ConnectionId, Numbers, Reporter};

/// A number of a connection's own.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Time,
    Source,
    Sent,
    Received,
    Milliseconds,
    Id,
    Tcp,
}

/// The numbers of one connection after the other.
#[derive(Debug, Default)]
pub(super) struct Words {
    time: Vec<u8>,
    source: Vec<u8>,
    /// Bytes that the client sent.
    sent: Vec<u8>,
    /// Bytes that the client received.
    received: Vec<u8>,
    milliseconds: Vec<u8>,
    id: Vec<u8>,
    tcp: Vec<u8>,
}

impl Words {
    /// Takes the numbers of the next connection, whose lines are written `at` this time. `template` is
    /// that of any of its lines.
    pub(super) fn set(
        &mut self,
        template: &Template,
        clock: &mut Clock,
        at: Timestamp,
        numbers: &Numbers,
    ) {
        clock.write(cleared(&mut self.time), at);
        template.source(cleared(&mut self.source), numbers.source);
        digits(cleared(&mut self.sent), numbers.bytes_sent);
        digits(cleared(&mut self.received), numbers.bytes_received);
        let milliseconds = saturated(numbers.duration.as_millis());
        digits(cleared(&mut self.milliseconds), milliseconds);
        hexadecimal(cleared(&mut self.id), numbers.id);
        template.tcp(cleared(&mut self.tcp), numbers);
    }

    /// What is put in for `what` at this end.
    pub(super) fn word(&self, what: What, reporter: Reporter) -> &[u8] {
        match (what, reporter) {
            (What::Time, _) => &self.time,
            (What::Source, _) => &self.source,
            (What::Sent, Reporter::Source) | (What::Received, Reporter::Destination) => &self.sent,
            (What::Sent, Reporter::Destination) | (What::Received, Reporter::Source) => {
                &self.received
            }
            (What::Milliseconds, _) => &self.milliseconds,
            (What::Id, _) => &self.id,
            (What::Tcp, _) => &self.tcp,
        }
    }
}

fn cleared(word: &mut Vec<u8>) -> &mut Vec<u8> {
    word.clear();
    word
}

impl Template {
    fn source(&self, out: &mut Vec<u8>, source: Option<SocketAddr>) {
        match (source, &self.client) {
            (Some(source), Some((ip, text))) if source.ip() == *ip && !is_scoped(source) => {
                out.extend_from_slice(text.as_bytes());
                digits(out, source.port());
            }
            (Some(source), _) => write!(out, "{source}").unwrap_or_default(),
            (None, _) => {}
        }
    }

    /// What the kernel measured, if it did.
    fn tcp(&self, out: &mut Vec<u8>, numbers: &Numbers) {
        let Some(tcp) = numbers.tcp else { return };
        let (round_trip, retransmits): (&[u8], &[u8]) = match self.format {
            Format::Text => (b" tcp.srtt_us=", b" tcp.retransmits="),
            Format::Json => (b",\"tcp.srtt_us\":", b",\"tcp.retransmits\":"),
        };
        out.extend_from_slice(round_trip);
        digits(out, saturated(tcp.round_trip.as_micros()));
        out.extend_from_slice(retransmits);
        digits(out, tcp.retransmits);
    }
}

/// Whether an address of IPv6 is written with the interface that it is on.
const fn is_scoped(address: SocketAddr) -> bool {
    match address {
        SocketAddr::V4(_) => false,
        SocketAddr::V6(address) => address.scope_id() != 0,
    }
}

fn saturated(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn digits(out: &mut Vec<u8>, number: impl itoa::Integer) {
    let mut buffer = itoa::Buffer::new();
    out.extend_from_slice(buffer.format(number).as_bytes());
}

/// The number of a connection, as it is displayed.
fn hexadecimal(out: &mut Vec<u8>, ConnectionId(id): ConnectionId) {
    let mut rest = id;
    let digits: [u8; 16] = std::array::from_fn(|_| {
        rest = rest.rotate_left(4);
        let [digit, ..] = rest.to_le_bytes();
        match digit & 0xf {
            digit @ 0..10 => b'0' + digit,
            digit => b'a' - 10 + digit,
        }
    });
    out.extend_from_slice(&digits);
}
