//! Packets made by hand, and sockets that send them.

use std::net::{Ipv4Addr, Ipv6Addr};

use libc::{AF_PACKET, ETH_P_ALL, sockaddr_ll, sockaddr_storage};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::support::Netns;

/// What Ethernet calls IPv4.
pub(crate) const IPV4: u16 = 0x0800;
/// TCP's protocol number.
pub(crate) const TCP: u8 = 6;

/// TCP's flag that begins a connection.
pub(crate) const SYN: u8 = 0x02;
/// TCP's flag of data that is to be read at once.
pub(crate) const PUSH: u8 = 0x08;
/// TCP's flag of everything that follows.
pub(crate) const ACK: u8 = 0x10;

/// A TCP header with these ports and flags, without a checksum: nobody gets to see it.
pub(crate) fn tcp(ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut header = vec![];
    header.extend(ports.0.to_be_bytes());
    header.extend(ports.1.to_be_bytes());
    header.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

/// The same in an IPv4 packet, with a checksum, for those who do look.
pub(crate) fn tcp_for(ends: (&str, &str), ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut header = tcp(ports, flags);
    let mut summed = vec![];
    for end in [ends.0, ends.1] {
        summed.extend(end.parse::<Ipv4Addr>().unwrap().octets());
    }
    summed.extend([0, 6, 0, 20]);
    summed.extend(&header);
    let sum = checksum(&summed);
    header[16..18].copy_from_slice(&sum.to_be_bytes());
    header
}

/// The same in an IPv6 packet.
pub(crate) fn tcp6_for(ends: (&str, &str), ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut header = tcp(ports, flags);
    let mut summed = vec![];
    for end in [ends.0, ends.1] {
        summed.extend(end.parse::<Ipv6Addr>().unwrap().octets());
    }
    summed.extend([0, 0, 0, 20, 0, 0, 0, 6]);
    summed.extend(&header);
    let sum = checksum(&summed);
    header[16..18].copy_from_slice(&sum.to_be_bytes());
    header
}

/// A UDP datagram for an IPv6 packet, with its checksum.
pub(crate) fn udp6_for(ends: (&str, &str), ports: (u16, u16)) -> Vec<u8> {
    let mut datagram = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    datagram.extend([0, 9, 0, 0, b'x']);
    let mut summed = vec![];
    for end in [ends.0, ends.1] {
        summed.extend(end.parse::<Ipv6Addr>().unwrap().octets());
    }
    summed.extend([0, 0, 0, 9, 0, 0, 0, 17]);
    summed.extend(&datagram);
    let sum = checksum(&summed);
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

/// The Internet's checksum.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2);
    let sum: u32 = words
        .map(|it| u32::from(u16::from_be_bytes([it[0], *it.get(1).unwrap_or(&0)])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
}

/// An IPv4 packet. The fragment field says which part of a larger one it is; options are as long
/// as they are given.
pub(crate) fn v4(ends: (&str, &str), protocol: u8, fragment: u16, options: &[u8]) -> Vec<u8> {
    let words = u8::try_from(5 + options.len() / 4).unwrap();
    let mut header = vec![0x40 | words, 0];
    let length = 20 + options.len() + 20;
    header.extend(u16::try_from(length).unwrap().to_be_bytes());
    header.extend([0, 1]);
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0]);
    for end in [ends.0, ends.1] {
        header.extend(end.parse::<Ipv4Addr>().unwrap().octets());
    }
    header.extend(options);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

/// An IPv6 header before something of this kind.
pub(crate) fn v6(ends: (&str, &str), next: u8, length: usize) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(u16::try_from(length).unwrap().to_be_bytes());
    header.extend([next, 64]);
    for end in [ends.0, ends.1] {
        header.extend(end.parse::<Ipv6Addr>().unwrap().octets());
    }
    header
}

/// A packet socket on the interface of `from`, ready to send frames to `to`'s.
pub(crate) struct Wire {
    socket: Socket,
    addresses: Vec<u8>,
}

impl Wire {
    pub(crate) fn new(from: &Netns, to: &Netns) -> Self {
        Self::open(from, from.hardware(), to.hardware())
    }

    /// The same between the interfaces that the two got last.
    pub(crate) fn newest(from: &Netns, to: &Netns) -> Self {
        Self::open(from, from.newest_hardware(), to.newest_hardware())
    }

    fn open(
        from: &Netns,
        (index, source): (u32, [u8; 6]),
        (_, destination): (u32, [u8; 6]),
    ) -> Self {
        let open = || {
            // Protocol zero: it sends and does not listen.
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
            socket.bind(&interface(index))?;
            Ok(socket)
        };
        let socket = from.namespace.enter(open).unwrap();
        let addresses = [destination, source].concat();
        Self { socket, addresses }
    }

    /// The packet socket.
    pub(crate) const fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Sends one frame of this type.
    pub(crate) fn send(&self, ethertype: u16, packet: &[&[u8]]) {
        let mut frame = self.addresses.clone();
        frame.extend(ethertype.to_be_bytes());
        frame.extend(packet.concat());
        self.socket.send(&frame).unwrap();
    }
}

/// The address of an interface to packet sockets.
fn interface(index: u32) -> SockAddr {
    let address = sockaddr_ll {
        sll_family: u16::try_from(AF_PACKET).unwrap(),
        sll_protocol: u16::try_from(ETH_P_ALL).unwrap().to_be(),
        sll_ifindex: i32::try_from(index).unwrap(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = u32::try_from(size_of::<sockaddr_ll>()).unwrap();
    let fill = |storage: *mut socket2::SockAddrStorage, filled: *mut libc::socklen_t| {
        const { assert!(size_of::<sockaddr_ll>() <= size_of::<sockaddr_storage>()) };
        // SAFETY: the storage is large enough for any address and aligned for it.
        unsafe { storage.cast::<sockaddr_ll>().write(address) };
        // SAFETY: the pointer is to a writable number.
        unsafe { *filled = length };
        Ok(())
    };
    // SAFETY: the storage is filled with an address of the length that is returned.
    unsafe { SockAddr::try_init(fill) }.unwrap().1
}

/// A third namespace whose packets reach another by a way that has no guard, and a socket that
/// makes them by hand.
pub(crate) struct Forger {
    wire: Wire,
    _netns: Netns,
}

impl Forger {
    /// One whose packets reach `to`, whatever address they bear.
    pub(crate) fn new(to: &Netns) -> Self {
        let netns = Netns::new("third");
        to.accept_any_source();
        netns.connect(&["10.77.3.2/24"], to, &["10.77.3.1/24"]);
        let wire = Wire::newest(&netns, to);
        Self {
            wire,
            _netns: netns,
        }
    }

    /// Sends a SYN between these addresses, from this port to port 9000.
    pub(crate) fn forge(&self, ends: (&str, &str), port: u16) {
        self.forge_as(ends, port, SYN);
    }

    /// The same of a packet with other flags.
    pub(crate) fn forge_as(&self, ends: (&str, &str), port: u16, flags: u8) {
        let packet = tcp_for(ends, (port, 9000), flags);
        self.wire.send(IPV4, &[&v4(ends, TCP, 0, &[]), &packet]);
    }
}
