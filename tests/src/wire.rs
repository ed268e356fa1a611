//! What really left a node: a packet capture in the switch's namespace.
//!
//! A packet socket without an interface sees every interface of its namespace, and the switch has
//! none but the nodes' cables. TCP payloads are kept as they were on the wire; a test asks whether
//! a marker was ever among them, and whether HBONE's port carried TLS records only.
//!
//! Every question first reads what the kernel still holds: what has passed before it was asked is
//! always part of the answer.

use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::{Mutex, MutexGuard};
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
/// How often the kernel's buffer is emptied.
const PERIOD: Duration = Duration::from_millis(5);
/// Beyond this a capture stops to keep payloads: tests that move gigabytes do not read them.
const KEPT: usize = 256 * 1024 * 1024;

/// A running capture; it ends when this value is dropped.
#[derive(Debug)]
pub struct Wire {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
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

#[derive(Debug)]
struct Seen {
    socket: Socket,
    packet: Vec<u8>,
    segments: Vec<Segment>,
    bytes: usize,
    overflowed: bool,
    failed: Option<ErrorKind>,
}

impl Wire {
    /// Starts to record in a namespace.
    ///
    /// # Errors
    ///
    /// Fails if the packet socket cannot be made.
    pub fn start(namespace: &NetNs) -> Result<Self> {
        let socket = namespace.run(open)?.context("open a packet socket")?;
        let seen = Arc::new(Mutex::new(Seen::new(socket)));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    seen.lock().drain();
                    std::thread::sleep(PERIOD);
                }
            }
        });
        Ok(Self {
            seen,
            stop,
            thread: Some(thread),
        })
    }

    /// All segments so far.
    pub fn segments(&self) -> Vec<Segment> {
        self.seen().segments.clone()
    }

    /// All that has passed until now.
    fn seen(&self) -> MutexGuard<'_, Seen> {
        let mut seen = self.seen.lock();
        seen.drain();
        seen
    }

    /// Whether these bytes were in any segment so far.
    pub fn carried(&self, marker: &[u8]) -> bool {
        let seen = self.seen();
        seen.segments
            .iter()
            .any(|segment| contains(&segment.payload, marker))
    }

    /// Segments to or from a port.
    pub fn on_port(&self, port: u16) -> Vec<Segment> {
        let seen = self.seen();
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
        let seen = self.seen();
        ensure!(
            !seen.overflowed && seen.failed.is_none(),
            "the capture is not complete and proves nothing: {:?}",
            seen.failed
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
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl Seen {
    fn new(socket: Socket) -> Self {
        Self {
            socket,
            packet: vec![0; LONGEST_PACKET],
            segments: Vec::new(),
            bytes: 0,
            overflowed: false,
            failed: None,
        }
    }

    /// Takes what the kernel has recorded.
    fn drain(&mut self) {
        loop {
            match self.socket.read(&mut self.packet) {
                Ok(length) => self.keep(length),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = Some(error.kind());
                    return;
                }
            }
        }
    }

    /// Keeps the packet of this length if it is a segment with a payload.
    fn keep(&mut self, length: usize) {
        let Some(segment) = self.packet.get(..length).and_then(parse) else {
            return;
        };
        if segment.payload.is_empty() {
            return;
        }
        if self.bytes + segment.payload.len() > KEPT {
            self.overflowed = true;
            return;
        }
        // A packet passes the switch twice, in and out.
        let again = |it: &Segment| {
            it.sequence == segment.sequence
                && it.from == segment.from
                && it.payload.len() == segment.payload.len()
        };
        if !self.segments.iter().rev().take(64).any(again) {
            self.bytes += segment.payload.len();
            self.segments.push(segment);
        }
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
