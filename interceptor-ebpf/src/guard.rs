//! The host's side of a workload's interface: a SYN leaves only if a connection sent it that the
//! other programs know.
//!
//! Sockets are captured at `connect(2)`; raw ICMP sockets and packet sockets can send whole
//! packets of their own making and never call it. Whatever they send comes through here, on an
//! interface that the workload cannot touch. Every connection of a workload is a flow before its
//! SYN leaves, those too that rules leave alone, so a SYN without a flow of this very workload is
//! made by hand, and dropped. A later packet of a connection that never began leads nowhere.
//!
//! What hides TCP from this check is dropped: fragments of it, IPv6 extension headers before it,
//! VLAN tags within tags, and packets in packets: IP in IP, GRE and the like, which whoever has a
//! raw ICMP socket could send, and which hosts unpack that know nothing of it. So are SCTP and
//! DCCP. Everything else passes; tunnels in UDP are for `interceptor.dev/udp` to refuse.
//!
//! Runs for every packet, so packets that begin nothing take a dozen loads and no lookup.

use core::ptr;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use interceptor_common::{Address, Counter, FlowKey};

use crate::field::{get, low_half};
use crate::maps::{FLOWS, GUARDED, OPEN, count};

/// Other programs at this interface have their say.
const NEXT: i32 = -1;
/// The packet is gone.
const DROP: i32 = 2;

/// Bytes of the Ethernet header, which begins the packet. The kernel has taken a VLAN tag out.
const ETHERNET: usize = 14;
/// Bytes of the fixed IPv4 header.
const HEADER_V4: usize = 20;
/// Bytes of the fixed IPv6 header.
const HEADER_V6: usize = 40;

const ETHERTYPE_V4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_V6: u16 = 0x86dd_u16.to_be();
const ETHERTYPE_VLAN: u16 = 0x8100_u16.to_be();
const ETHERTYPE_PROVIDER_VLAN: u16 = 0x88a8_u16.to_be();

const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const ICMP6: u8 = 58;
const SCTP: u8 = 132;

/// Protocols that carry whole packets: IP in IP (old and new), IPv6 in IP, GRE, encapsulations of
/// IP and Ethernet, L2TP, MPLS.
const TUNNELS: [u8; 8] = [4, 41, 47, 94, 97, 98, 115, 137];

/// IPv6 extension headers that end in the number of the next header and their own length:
/// hop-by-hop, routing, destination, mobility, host identity, shim.
const EXTENSIONS: [u8; 6] = [0, 43, 60, 135, 139, 140];
const FRAGMENT: u8 = 44;
/// Extension headers that are looked behind. More than any sender has a use for.
const MOST_EXTENSIONS: usize = 6;

/// The flags of a TCP header that tell what begins a connection.
const SYN_AND_ACK: u8 = 0x12;
const SYN: u8 = 0x02;

#[classifier]
fn ic_guard(ctx: TcContext) -> i32 {
    if begins_nothing(&ctx) {
        return NEXT;
    }
    match objection(&ctx) {
        None => NEXT,
        Some(outcome) => {
            count(outcome);
            DROP
        }
    }
}

/// Whether this is certainly a packet that no question has to be asked about: the quick answer
/// for nearly all of them.
#[inline]
fn begins_nothing(ctx: &TcContext) -> bool {
    match ethertype(ctx) {
        ETHERTYPE_V4 => {
            let Some(packet) = head::<{ ETHERNET + HEADER_V4 }>(ctx) else {
                return false;
            };
            if packet[23] != TCP {
                return packet[23] == UDP;
            }
            let plain = packet[14] == 0x45 && !is_fragment(packet[20], packet[21]);
            plain && head(ctx).is_some_and(|packet: &[u8; 48]| !is_syn(packet[47]))
        }
        ETHERTYPE_V6 => {
            let Some(packet) = head::<{ ETHERNET + HEADER_V6 }>(ctx) else {
                return false;
            };
            match packet[20] {
                TCP => head(ctx).is_some_and(|packet: &[u8; 68]| !is_syn(packet[67])),
                next => next == UDP || next == ICMP6,
            }
        }
        _ => false,
    }
}

/// What speaks against the packet. Reads it by copying, which works wherever its bytes lie.
#[inline]
fn objection(ctx: &TcContext) -> Option<Counter> {
    match ethertype(ctx) {
        ETHERTYPE_V4 => objection_v4(ctx),
        ETHERTYPE_V6 => objection_v6(ctx),
        ETHERTYPE_VLAN | ETHERTYPE_PROVIDER_VLAN => Some(Counter::RefusedHiddenPacket),
        _ => None,
    }
}

#[inline]
fn objection_v4(ctx: &TcContext) -> Option<Counter> {
    let Ok(header) = ctx.load::<[u8; HEADER_V4]>(ETHERNET) else {
        return Some(Counter::RefusedHiddenPacket);
    };
    match header[9] {
        TCP => {}
        other => return objection_to(other),
    }
    if is_fragment(header[6], header[7]) {
        return Some(Counter::RefusedHiddenPacket);
    }
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = header;
    let source = Address::v4(u32::from_ne_bytes([s0, s1, s2, s3]));
    let destination = Address::v4(u32::from_ne_bytes([d0, d1, d2, d3]));
    let length = usize::from(header[0] & 0x0f) * 4;
    objection_to_tcp(ctx, ETHERNET + length, source, destination)
}

#[inline]
fn objection_v6(ctx: &TcContext) -> Option<Counter> {
    let Ok(header) = ctx.load::<[u8; 8]>(ETHERNET) else {
        return Some(Counter::RefusedHiddenPacket);
    };
    let mut next = header[6];
    let mut at = ETHERNET + HEADER_V6;
    if next == TCP {
        let (Ok(source), Ok(destination)) = (ctx.load(ETHERNET + 8), ctx.load(ETHERNET + 24))
        else {
            return Some(Counter::RefusedHiddenPacket);
        };
        return objection_to_tcp(ctx, at, Address(source), Address(destination));
    }
    for _ in 0..MOST_EXTENSIONS {
        if EXTENSIONS.contains(&next) {
            let Ok([following, length]) = ctx.load::<[u8; 2]>(at) else {
                return Some(Counter::RefusedHiddenPacket);
            };
            next = following;
            at += 8 * (usize::from(length) + 1);
        } else if next == FRAGMENT {
            let Ok([following, _, high, low]) = ctx.load::<[u8; 4]>(at) else {
                return Some(Counter::RefusedHiddenPacket);
            };
            next = following;
            at += 8;
            // What a later fragment begins with is nothing that could be looked behind.
            if (high != 0 || low & 0xf8 != 0) && EXTENSIONS.contains(&next) {
                return Some(Counter::RefusedHiddenPacket);
            }
        } else {
            return match next {
                TCP => Some(Counter::RefusedHiddenPacket),
                other => objection_to(other),
            };
        }
    }
    Some(Counter::RefusedHiddenPacket)
}

/// What speaks against a protocol other than TCP.
#[inline]
fn objection_to(protocol: u8) -> Option<Counter> {
    match protocol {
        SCTP | DCCP => Some(Counter::RefusedProtocolPacket),
        other if TUNNELS.contains(&other) => Some(Counter::RefusedHiddenPacket),
        _ => None,
    }
}

/// What speaks against a packet whose TCP header is `at` this place.
#[inline]
fn objection_to_tcp(
    ctx: &TcContext,
    at: usize,
    source: Address,
    destination: Address,
) -> Option<Counter> {
    let Ok(header) = ctx.load::<[u8; 14]>(at) else {
        return Some(Counter::RefusedHiddenPacket);
    };
    if !is_syn(header[13]) {
        return None;
    }
    // A workload's flows to its own loopback are flows, too, and nothing for an interface.
    if destination.is_loopback() {
        return Some(Counter::RefusedUnknownSyn);
    }
    let key = FlowKey {
        source,
        destination,
        source_port_be: u16::from_ne_bytes([header[0], header[1]]),
        destination_port_be: u16::from_ne_bytes([header[2], header[3]]),
    };
    // SAFETY: the number is copied at once.
    let workload = unsafe { GUARDED.get(get(&fields(ctx).ifindex)) }.copied();
    let owner = owner(&key);
    // Neither an interface that nobody knows nor another workload's flow counts.
    if owner.is_some() && owner == workload {
        None
    } else {
        Some(Counter::RefusedUnknownSyn)
    }
}

/// The workload whose connection it is.
#[inline]
fn owner(key: &FlowKey) -> Option<u64> {
    // SAFETY: one field is read at once.
    if let Some(open) = unsafe { OPEN.get(key) } {
        return Some(get(&open.flow.workload));
    }
    // SAFETY: one field is read at once.
    unsafe { FLOWS.get(key) }.map(|flow| flow.workload)
}

/// Whether an IPv4 packet with these two bytes is a part of a larger one: more follows, or this is
/// not where it begins.
#[inline]
const fn is_fragment(high: u8, low: u8) -> bool {
    u16::from_be_bytes([high, low]) & 0x3fff != 0
}

/// Whether a packet with these flags begins a connection.
#[inline]
const fn is_syn(flags: u8) -> bool {
    flags & SYN_AND_ACK == SYN
}

/// The first bytes of the packet, if they lie where they can be read without copying.
#[inline]
fn head<const LENGTH: usize>(ctx: &TcContext) -> Option<&[u8; LENGTH]> {
    if ctx.data() + LENGTH > ctx.data_end() {
        return None;
    }
    // SAFETY: so many bytes of the packet are there, as the verifier sees, too.
    Some(unsafe { &*ptr::with_exposed_provenance(ctx.data()) })
}

/// The protocol of the packet, network order.
#[inline]
fn ethertype(ctx: &TcContext) -> u16 {
    low_half(get(&fields(ctx).protocol))
}

/// The context's fields.
#[inline]
fn fields(ctx: &TcContext) -> &__sk_buff {
    // SAFETY: the context is valid for the length of the program.
    unsafe { &*ctx.skb.skb }
}
