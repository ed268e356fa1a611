//! UDP of workloads: left alone, counted or refused, as the workload's owner says. Never captured,
//! because a datagram has no connection to carry it in.
//!
//! What leaves is asked about where an application names a destination: `sendmsg(2)` with an
//! address, and `connect(2)`. What arrives is asked about where the kernel looks for a socket that
//! is not connected, in the lookup program of a namespace whose owner wants to know; the sender is
//! told by ICMP that nobody listens. A socket that is connected has named its peer and was asked
//! then; one that was connected before the owner said so is not asked again.
//!
//! Two kinds of datagrams arrive rightly where everything else is refused: answers to questions
//! to port 53, if those may leave, and what the workload sends to itself. Neither is known by what
//! the datagram says of itself, which anybody can write, but by what this workload was seen to
//! send.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use interceptor_common::{
    Address, Counter, EXPECTED_EACH, ExpectedKey, ExpectedPlace, FAMILY_IPV4, FAMILY_IPV6, FlowKey,
    Udp,
};

use crate::connect::is_own_address;
use crate::field::low_half;
use crate::lent::borrower;
use crate::maps::{EXPECTED, EXPECTED_PLACES, EXPECTED_TURNS, INBOUND, count};
use crate::sock_addr::{bound_to, endpoint};
use crate::who::{namespace, workload_of};

/// The call goes on.
const PROCEED: i32 = 1;
/// The call fails with `EPERM`, as under a packet filter.
const REFUSE: i32 = 0;

/// `IPPROTO_UDP`.
const PROTOCOL_UDP: u32 = 17;
/// `IPPROTO_UDPLITE`.
pub(crate) const PROTOCOL_UDP_LITE: u32 = 136;

const PORT_DNS: u16 = 53_u16.to_be();
const PORT_QUIC: u16 = 443_u16.to_be();

#[cgroup_sock_addr(sendmsg4)]
fn ic_sendmsg4(ctx: SockAddrContext) -> i32 {
    decide::<FAMILY_IPV4>(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
fn ic_sendmsg6(ctx: SockAddrContext) -> i32 {
    decide::<FAMILY_IPV6>(&ctx)
}

/// Whether sockets of this protocol are asked about.
#[inline]
pub(crate) const fn is_asked_about(protocol: u32) -> bool {
    protocol == PROTOCOL_UDP || protocol == PROTOCOL_UDP_LITE
}

/// What becomes of datagrams to the destination that the call names.
#[inline]
pub(crate) fn decide<const FAMILY: u8>(ctx: &SockAddrContext) -> i32 {
    let Some(source) = workload_of(ctx.as_ptr()) else {
        return decide_lent::<FAMILY>(ctx);
    };
    let udp = source.entry.udp;
    if udp == 0 {
        return PROCEED;
    }
    let to = endpoint::<FAMILY>(ctx);
    if to.address.is_loopback() {
        return PROCEED;
    }
    if is_own_address(&source, to.address) {
        if udp != Udp::OBSERVED {
            expect(source.key, Address::NONE, to.port_be);
        }
        return PROCEED;
    }
    let (kind, seen, refused) = kind(to.port_be);
    if udp & kind != 0 {
        count(refused);
        return REFUSE;
    }
    if kind == Udp::DNS && udp & Udp::OTHER != 0 {
        let (_, port) = bound_to::<FAMILY>(ctx);
        expect(source.key, to.address, low_half(port).to_be());
    }
    count(seen);
    PROCEED
}

/// The same for a socket that is not a workload's, but may be used in one: what its owner refuses does
/// not leave by way of somebody else's namespace.
#[inline]
fn decide_lent<const FAMILY: u8>(ctx: &SockAddrContext) -> i32 {
    let udp = borrower(namespace(ctx.as_ptr())).map_or(0, |workload| workload.udp);
    if udp & Udp::ALL == 0 {
        return PROCEED;
    }
    let (kind, _, refused) = kind(endpoint::<FAMILY>(ctx).port_be);
    if udp & kind == 0 {
        return PROCEED;
    }
    count(refused);
    REFUSE
}

/// The kind of datagrams to this port, and how they are counted when they leave and when they do not.
#[inline]
const fn kind(port_be: u16) -> (u32, Counter, Counter) {
    match port_be {
        PORT_QUIC => (Udp::QUIC, Counter::UdpQuicObserved, Counter::RefusedQuic),
        PORT_DNS => (Udp::DNS, Counter::UdpObserved, Counter::RefusedUdp),
        _ => (Udp::OTHER, Counter::UdpObserved, Counter::RefusedUdp),
    }
}

/// Remembers that a datagram from there may arrive at this port.
///
/// A workload that asks and asks displaces what it has asked itself, or it could have the answers
/// to all others refused. What is asked again gets a new place before its old one is another's, and its
/// old one gives up nothing but itself: so the answer to a question arrives until the workload has
/// asked half as many others as there are places.
#[inline]
fn expect(workload: u64, from: Address, port_be: u16) {
    let key = expected(workload, from, port_be);
    // SAFETY: the number is copied at once.
    let known = unsafe { EXPECTED.get(key) }.copied();
    if known.is_some_and(|turn| turns(workload).wrapping_sub(turn) <= EXPECTED_EACH / 2) {
        return;
    }
    let turn = take_turn(workload);
    let place = ExpectedPlace {
        workload,
        place: turn % EXPECTED_EACH,
        reserved: 0,
    };
    // SAFETY: the key is the workload's own whenever it is read, and is looked at each time.
    if let Some(oldest) = unsafe { EXPECTED_PLACES.get(place) } {
        give_up(oldest, place.place);
    }
    // What cannot be remembered is refused when it arrives.
    let _forgotten = EXPECTED_PLACES.insert(place, key, 0);
    let _forgotten = EXPECTED.insert(key, turn, 0);
}

/// Forgets a datagram, if this is its place still.
#[inline]
fn give_up(oldest: &ExpectedKey, place: u32) {
    // SAFETY: the number is copied at once.
    let turn = unsafe { EXPECTED.get(oldest) }.copied();
    if turn.is_some_and(|turn| turn % EXPECTED_EACH == place) {
        let _gone_already = EXPECTED.remove(oldest);
    }
}

/// How often the workload has asked.
#[inline]
fn turns(workload: u64) -> u32 {
    // SAFETY: the number is copied at once.
    unsafe { EXPECTED_TURNS.get(workload) }
        .copied()
        .unwrap_or(0)
}

/// The same before this question. Two processors may get the same turn; then one of the
/// two questions is forgotten when the map is full, and not when its turn comes again.
#[inline]
fn take_turn(workload: u64) -> u32 {
    let Some(turn) = EXPECTED_TURNS.get_ptr_mut(workload) else {
        let _forgotten = EXPECTED_TURNS.insert(workload, 1, 0);
        return 0;
    };
    // SAFETY: the number lives as long as the program runs.
    let before = unsafe { *turn };
    // SAFETY: the same.
    unsafe { *turn = before.wrapping_add(1) };
    before
}

/// The key of an expected datagram.
#[inline]
const fn expected(workload: u64, from: Address, port_be: u16) -> ExpectedKey {
    ExpectedKey {
        workload,
        from,
        port_be,
        reserved: [0; 6],
    }
}

/// Whether a datagram may reach a socket that is not connected, in a namespace with this rule.
/// Counts it.
#[inline]
pub(crate) fn may_arrive<const UDP: u32>(key: &FlowKey) -> bool {
    if key.destination.is_loopback() && key.source.is_loopback() {
        return true;
    }
    let workload = owner(key.destination);
    let is_own = workload.is_some() && owner(key.source) == workload;
    if is_own && (UDP == Udp::OBSERVED || is_expected(workload, Address::NONE, key)) {
        return true;
    }
    let (kind, seen, refused) =
        if key.source_port_be == PORT_QUIC || key.destination_port_be == PORT_QUIC {
            let seen = Counter::UdpQuicInboundObserved;
            (Udp::QUIC, seen, Counter::RefusedQuicInbound)
        } else {
            let is_answer = key.source_port_be == PORT_DNS
                && UDP & Udp::ALL == Udp::ALL_BUT_DNS
                && is_expected(workload, key.source, key);
            let kind = if is_answer { Udp::DNS } else { Udp::OTHER };
            (
                kind,
                Counter::UdpInboundObserved,
                Counter::RefusedUdpInbound,
            )
        };
    let arrives = UDP & kind == 0;
    count(if arrives { seen } else { refused });
    arrives
}

/// Whether the workload expects a datagram from there at this port.
#[inline]
fn is_expected(workload: Option<u64>, from: Address, key: &FlowKey) -> bool {
    let Some(workload) = workload else {
        return false;
    };
    // SAFETY: the entry is only asked for.
    unsafe { EXPECTED.get(expected(workload, from, key.destination_port_be)) }.is_some()
}

/// The workload at this address.
#[inline]
fn owner(address: Address) -> Option<u64> {
    // SAFETY: one field is read at once.
    unsafe { INBOUND.get(address) }.map(|inbound| inbound.workload)
}
