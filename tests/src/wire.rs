//! What really left a node: a packet capture in the switch's namespace.
//!
//! A packet socket without an interface sees every interface of its namespace, and the switch has
//! none but the nodes' cables. TCP payloads are kept as they were on the wire; a test asks whether
//! a marker was ever among them, and whether HBONE's port carried TLS records only.

use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::NetNs;

/// The port on which agents take HBONE.
pub const HBONE_PORT: u16 = 15008;

const ETHERNET_HEADER: usize = 14;
const ETH_P_ALL: i32 = 0x0003;
const ETH_P_IP: [u8; 2] = [0x08, 0x00];
const ETH_P_IPV6: [u8; 2] = [0x86, 0xdd];
const IPPROTO_TCP: u8 = 6;
const KERNEL_BUFFER: usize = 64 * 1024 * 1024;
const LONGEST_PACKET: usize = 512 * 1024;
/// Beyond this a capture stops to keep payloads: tests that move gigabytes do not read them.
const KEPT: usize = 256 * 1024 * 1024;

/// A running capture; it ends when this value is dropped.
#[derive(Debug)]
pub struct Wire {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// One TCP segment with a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Who sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// Its place in the stream.
    pub sequence: u32,
    /// What it carried.
    pub payload: Vec<u8>,
}

#[derive(Debug, Default)]
struct Seen {
    segments: Vec<Segment>,
    bytes: usize,
    overflowed: bool,
}

impl Wire {
    /// Starts to record in a namespace.
    ///
    /// # Errors
    ///
    /// Fails if the packet socket cannot be made.
    pub fn start(namespace: &NetNs) -> Result<Self> {
        let socket = namespace.run(open)?.context("open a packet socket")?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = namespace.spawn({
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            move || record(socket, &seen, &stop)
        })?;
        Ok(Self {
            seen,
            stop,
            thread: Some(thread),
        })
    }

    /// All segments so far.
    pub fn segments(&self) -> Vec<Segment> {
        self.seen.lock().segments.clone()
    }

    /// Whether these bytes were in any segment so far.
    pub fn carried(&self, marker: &[u8]) -> bool {
        let seen = self.seen.lock();
        seen.segments
            .iter()
            .any(|segment| contains(&segment.payload, marker))
    }

    /// Segments to or from a port.
    pub fn on_port(&self, port: u16) -> Vec<Segment> {
        let seen = self.seen.lock();
        seen.segments
            .iter()
            .filter(|it| it.from.port() == port || it.to.port() == port)
            .cloned()
            .collect()
    }

    /// Asserts that a marker was never on the wire, that something was, and that it was TLS.
    ///
    /// # Errors
    ///
    /// Fails with the segment that gave it away.
    pub fn assert_protected(&self, marker: &[u8]) -> Result<()> {
        let seen = self.seen.lock();
        ensure!(
            !seen.overflowed,
            "the capture overflowed: it proves nothing"
        );
        for segment in &seen.segments {
            ensure!(
                !contains(&segment.payload, marker),
                "{:?} was on the wire in plaintext from {} to {}",
                String::from_utf8_lossy(marker),
                segment.from,
                segment.to
            );
        }
        drop(seen);
        self.assert_tls()
    }

    /// Asserts that HBONE's port carried traffic, and TLS records only.
    ///
    /// # Errors
    ///
    /// Fails if there was none, or with the first segment of a stream that was not a record.
    pub fn assert_tls(&self) -> Result<()> {
        let segments = self.on_port(HBONE_PORT);
        ensure!(!segments.is_empty(), "nothing passed port {HBONE_PORT}");
        let firsts = firsts(&segments);
        for first in firsts {
            ensure!(
                is_tls_record(&first.payload),
                "the stream from {} to {} does not begin with a TLS record but with {:02x?}",
                first.from,
                first.to,
                first.payload.get(..5)
            );
        }
        Ok(())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// The first segment of each direction of each stream.
fn firsts(segments: &[Segment]) -> Vec<&Segment> {
    let mut firsts: Vec<&Segment> = Vec::new();
    for segment in segments {
        if !firsts
            .iter()
            .any(|first| first.from == segment.from && first.to == segment.to)
        {
            firsts.push(segment);
        }
    }
    firsts
}

/// Whether bytes begin with the header of a TLS record: change cipher spec, alert, handshake or
/// application data.
fn is_tls_record(bytes: &[u8]) -> bool {
    matches!(bytes, [0x14..=0x17, 0x03, 0x01 | 0x03, ..])
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

fn open() -> Result<Socket> {
    let protocol = i32::from(u16::try_from(ETH_P_ALL)?.to_be());
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(protocol)))?;
    setsockopt(&socket, sockopt::RcvBufForce, &KERNEL_BUFFER)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    Ok(socket)
}

fn record(mut socket: Socket, seen: &Mutex<Seen>, stop: &AtomicBool) -> Result<()> {
    let mut packet = vec![0; LONGEST_PACKET];
    while !stop.load(Ordering::Relaxed) {
        match socket.read(&mut packet) {
            Ok(length) => keep(seen, packet.get(..length).unwrap_or_default()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn keep(seen: &Mutex<Seen>, packet: &[u8]) {
    let Some(segment) = parse(packet) else { return };
    if segment.payload.is_empty() {
        return;
    }
    let mut seen = seen.lock();
    if seen.bytes + segment.payload.len() > KEPT {
        seen.overflowed = true;
        return;
    }
    // A packet passes the switch twice, in and out.
    let again = |it: &Segment| {
        it.sequence == segment.sequence
            && it.from == segment.from
            && it.payload.len() == segment.payload.len()
    };
    if !seen.segments.iter().rev().take(64).any(again) {
        seen.bytes += segment.payload.len();
        seen.segments.push(segment);
    }
}

/// Ethernet, IPv4 or IPv6, TCP: or nothing of interest.
fn parse(packet: &[u8]) -> Option<Segment> {
    let kind: [u8; 2] = packet.get(12..14)?.try_into().ok()?;
    let network = packet.get(ETHERNET_HEADER..)?;
    let (from, to, transport) = match kind {
        ETH_P_IP => ipv4(network)?,
        ETH_P_IPV6 => ipv6(network)?,
        _ => return None,
    };
    let port = |at: usize| {
        Some(u16::from_be_bytes(
            transport.get(at..at + 2)?.try_into().ok()?,
        ))
    };
    let sequence = u32::from_be_bytes(transport.get(4..8)?.try_into().ok()?);
    let header = usize::from(transport.get(12)? >> 4) * 4;
    let payload = transport.get(header..)?.to_vec();
    Some(Segment {
        from: (from, port(0)?).into(),
        to: (to, port(2)?).into(),
        sequence,
        payload,
    })
}

fn ipv4(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
    if *packet.get(9)? != IPPROTO_TCP {
        return None;
    }
    let address = |at: usize| {
        Some(Ipv4Addr::from(
            <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?,
        ))
    };
    // Segmentation offload may leave the length at zero: then the packet is what was captured.
    let end = if total == 0 {
        packet.len()
    } else {
        total.min(packet.len())
    };
    Some((
        address(12)?.into(),
        address(16)?.into(),
        packet.get(header..end)?,
    ))
}

fn ipv6(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let length = usize::from(u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?));
    if *packet.get(6)? != IPPROTO_TCP {
        return None;
    }
    let address = |at: usize| {
        Some(Ipv6Addr::from(
            <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?,
        ))
    };
    let end = if length == 0 {
        packet.len()
    } else {
        (40 + length).min(packet.len())
    };
    Some((
        address(8)?.into(),
        address(24)?.into(),
        packet.get(40..end)?,
    ))
}
