//! `socket(2)` of every process under the cgroup root: what could carry a connection past the
//! connect hook is not created in a workload.
//!
//! Raw sockets can send a hand-made SYN, and SCTP and DCCP have connections of their own that
//! nothing here remembers. Raw ICMP stays, for `ping`; it can still be told to send whole packets
//! of its own making, and packet sockets are not seen here at all, so what leaves is looked at
//! once more on the other side of the workload's interface.
//!
//! UDP-Lite has its own tables of sockets, where no lookup program sees what arrives. Where UDP is
//! refused, so is it.
//!
//! Multipath TCP is not refused here but at `connect(2)`: a server that listens with it does no
//! harm, and the errno is one that runtimes answer with plain TCP.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use interceptor_common::{Counter, Udp};

use crate::datagram::PROTOCOL_UDP_LITE;
use crate::field::get;
use crate::maps::count;
use crate::who::workload_of;

/// The socket is created.
const PROCEED: i32 = 1;
/// The call fails with `EPERM`.
const REFUSE: i32 = 0;

/// `SOCK_RAW`.
const RAW: u32 = 3;
/// `IPPROTO_ICMP`.
const PROTOCOL_ICMP: u32 = 1;
/// `IPPROTO_DCCP`.
const PROTOCOL_DCCP: u32 = 33;
/// `IPPROTO_ICMPV6`.
const PROTOCOL_ICMP6: u32 = 58;
/// `IPPROTO_SCTP`.
const PROTOCOL_SCTP: u32 = 132;

#[cgroup_sock(sock_create)]
fn ic_sock_create(ctx: SockContext) -> i32 {
    let Some(outcome) = objection(fields(&ctx)) else {
        return PROCEED;
    };
    match workload_of(ctx.as_ptr()) {
        Some(source) if outcome != Counter::RefusedUdp || source.entry.udp & Udp::OTHER != 0 => {
            count(outcome);
            REFUSE
        }
        _ => PROCEED,
    }
}

/// What speaks against such a socket in a workload; against UDP-Lite, only if it refuses UDP.
#[inline]
fn objection(socket: &bpf_sock) -> Option<Counter> {
    let protocol = get(&socket.protocol);
    if matches!(protocol, PROTOCOL_SCTP | PROTOCOL_DCCP) {
        return Some(Counter::RefusedProtocol);
    }
    if protocol == PROTOCOL_UDP_LITE {
        return Some(Counter::RefusedUdp);
    }
    let is_icmp = matches!(protocol, PROTOCOL_ICMP | PROTOCOL_ICMP6);
    (get(&socket.type_) == RAW && !is_icmp).then_some(Counter::RefusedRawSocket)
}

/// The context's fields.
#[inline]
fn fields(ctx: &SockContext) -> &bpf_sock {
    // SAFETY: the context is valid for the length of the program.
    unsafe { &*ctx.sock }
}
