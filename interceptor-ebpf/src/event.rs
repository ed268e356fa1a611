//! What the agent is told of direct connections: how one ended, and, of those that only their sockets
//! remember, that one was established. What is in the table the agent sees there.
//!
//! Both come from the initiator's socket; what it sent the other end received, so one end suffices
//! for the records of both.
//!
//! The agent is not woken for each of them, which would cost more than the connection: it looks by
//! itself several times a second, and is woken each time that another quarter of the buffer is
//! full. Without room an event is lost and counted.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_RB_RING_SIZE, BPF_TCP_CLOSE,
    BPF_TCP_CLOSING, BPF_TCP_FIN_WAIT1, BPF_TCP_FIN_WAIT2, BPF_TCP_LAST_ACK, bpf_sock,
    bpf_sock_ops,
};
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_ringbuf_query};
use aya_ebpf::programs::SockOpsContext;
use interceptor_common::{
    Address, Counter, DirectEvent, FIN_ACKNOWLEDGED, FIN_RECEIVED, Flow, FlowKey, UNKNOWN_ERROR,
};

use crate::field::{get, low_half, words};
use crate::maps::{EVENTS, count};
use crate::settings::offsets;
use crate::tcp::{read, tcp_socket};

/// The agent is woken this often while the buffer fills.
const WAKE_UPS: u64 = 4;

/// What an event takes in the buffer: itself and the kernel's header.
const EVENT: u64 = 168;

const _: () = assert!(size_of::<DirectEvent>() + 8 == 168);

/// `SOCK_DONE`, bit 1: a FIN was received.
const DONE: u64 = 1 << 1;

/// A change of a TCP socket's state.
#[derive(Clone, Copy)]
pub(crate) struct Change {
    pub(crate) from: u32,
    pub(crate) to: u32,
}

/// What only the kernel's own structures tell.
struct Inside {
    error: u32,
    fins: u32,
}

/// Tells the agent of a direct connection whose state changes. Does what is to be done `before` it can
/// hear of it, when the flow has been read.
#[inline]
pub(crate) fn report(
    ctx: &SockOpsContext,
    socket: *mut bpf_sock,
    (flow, key): (&Flow, &FlowKey),
    change: Change,
    before: impl FnOnce(),
) {
    let Some(mut entry) = EVENTS.reserve(0) else {
        count(Counter::DirectEventLost);
        return before();
    };
    let fields = fields(ctx);
    let Inside { error, fins } = if change.to == BPF_TCP_CLOSE {
        inside(socket, change.from, get(&fields.snd_una))
    } else {
        Inside { error: 0, fins: 0 }
    };
    // SAFETY: the helper takes the context that the running program was given.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: the helper takes nothing.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    entry.write(DirectEvent {
        flow: copied(flow),
        key: *key,
        old_state: low_half(change.from),
        state: low_half(change.to),
        socket: cookie,
        at_ns,
        bytes_acked: get(&fields.bytes_acked),
        bytes_received: get(&fields.bytes_received),
        srtt_us: get(&fields.srtt_us),
        retransmits: get(&fields.total_retrans),
        error,
        fins,
    });
    before();
    entry.submit(wake_up());
}

/// A copy, word by word. Of a plain one the compiler makes a call that copies bytes in a loop, for
/// the two may overlap as far as it knows: that takes longer than all the rest of an event.
#[inline]
fn copied(flow: &Flow) -> Flow {
    let Address(address) = &flow.address;
    Flow {
        workload: get(&flow.workload),
        cgroup: get(&flow.cgroup),
        since_ns: get(&flow.since_ns),
        destination: get(&flow.destination),
        generation: get(&flow.generation),
        address: words(address),
        port_be: get(&flow.port_be),
        reserved: [0; 2],
        kind: get(&flow.kind),
        tag: get(&flow.tag),
        sequence: get(&flow.sequence),
    }
}

/// Reads what no field of the context tells, where this kernel's structures are known.
#[inline]
fn inside(socket: *mut bpf_sock, state: u32, acknowledged: u32) -> Inside {
    let unknown = Inside {
        error: UNKNOWN_ERROR,
        fins: 0,
    };
    let Some(offsets) = offsets() else {
        return unknown;
    };
    // SAFETY: the socket is the context's.
    let Some(tcp) = (unsafe { tcp_socket(socket) }) else {
        return unknown;
    };
    let mut fins = 0;
    let sends_fin = matches!(
        state,
        BPF_TCP_FIN_WAIT1 | BPF_TCP_FIN_WAIT2 | BPF_TCP_CLOSING | BPF_TCP_LAST_ACK
    );
    if sends_fin && read::<_, u32>(tcp, offsets.write_sequence) == acknowledged {
        fins |= FIN_ACKNOWLEDGED;
    }
    if read::<_, u64>(tcp, offsets.flags) & DONE != 0 {
        fins |= FIN_RECEIVED;
    }
    Inside {
        error: read(tcp, offsets.error),
        fins,
    }
}

/// How an event is submitted: silently, unless it is the first of another quarter. Each wake-up
/// interrupts a processor, which on a virtual machine takes five times as long as all the rest.
#[inline]
fn wake_up() -> u64 {
    let ring: *mut c_void = (&raw const EVENTS).cast_mut().cast();
    // SAFETY: the map is a ring buffer.
    let waiting = unsafe { bpf_ringbuf_query(ring, u64::from(BPF_RB_AVAIL_DATA)) };
    // SAFETY: the map is a ring buffer.
    let size = unsafe { bpf_ringbuf_query(ring, u64::from(BPF_RB_RING_SIZE)) };
    // The size is a power of two.
    let quarter = size / WAKE_UPS;
    u64::from(if waiting >= quarter && waiting & (quarter - 1) < EVENT {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    })
}

/// The context's fields.
#[inline]
fn fields(ctx: &SockOpsContext) -> &bpf_sock_ops {
    // SAFETY: the context is valid for the length of the program.
    unsafe { &*ctx.ops }
}
