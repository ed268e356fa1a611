//! UDP of workloads: left alone, counted or refused, as the workload's owner says. Never captured,
//! because a datagram has no connection to carry it in.
//!
//! Asked where an application names a destination: `sendmsg(2)` with an address, and `connect(2)`.
//! A socket that was connected before the owner said so is not asked again.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use interceptor_common::{Counter, FAMILY_IPV4, FAMILY_IPV6, Udp};

use crate::connect::is_own_address;
use crate::maps::count;
use crate::sock_addr::endpoint;
use crate::who::workload_of;

/// The call goes on.
const PROCEED: i32 = 1;
/// The call fails with `EPERM`, as under a packet filter.
const REFUSE: i32 = 0;

/// `IPPROTO_UDP`.
const PROTOCOL_UDP: u32 = 17;
/// `IPPROTO_UDPLITE`.
const PROTOCOL_UDP_LITE: u32 = 136;

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
        return PROCEED;
    };
    if source.entry.udp == 0 {
        return PROCEED;
    }
    let to = endpoint::<FAMILY>(ctx);
    if to.address.is_loopback() || is_own_address(&source, to.address) {
        return PROCEED;
    }
    let (kind, seen, refused) = match to.port_be {
        PORT_QUIC => (Udp::QUIC, Counter::UdpQuicObserved, Counter::RefusedQuic),
        PORT_DNS => (Udp::DNS, Counter::UdpObserved, Counter::RefusedUdp),
        _ => (Udp::OTHER, Counter::UdpObserved, Counter::RefusedUdp),
    };
    if source.entry.udp & kind == 0 {
        count(seen);
        PROCEED
    } else {
        count(refused);
        REFUSE
    }
}
