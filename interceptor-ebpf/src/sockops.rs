//! The life of a TCP connection: its flow is published before the SYN leaves, handed over to the
//! socket that accepts it, and taken back at close.
//!
//! The kernel looks a flow up once per SYN, and again for the last packet of a handshake under
//! SYN cookies, which is why it stays until close.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, BPF_TCP_ESTABLISHED, BPF_TCP_LISTEN,
    BPF_TCP_SYN_RECV, bpf_sock, bpf_sock_ops,
};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_ktime_get_ns};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use interceptor_common::{Address, Call, Counter, Flow, FlowKey, FlowKind, is_cgroup_key};

use crate::call;
use crate::event::{Change, report};
use crate::field::{INET, get, low_half, set, words};
use crate::flow::{recall, recall_mut, remember};
use crate::maps::{FLOWS, OPEN, count, is_current};
use crate::tcp::next_sequence;

/// The only answer there is: the callbacks that matter here ignore it.
const CONTINUE: u32 = 1;

/// A call to connect(2) takes microseconds, and this long if its task is preempted within.
const SAME_CALL_NS: u64 = 10_000_000;

/// Both ends of a socket's connection.
struct Ends {
    local: Address,
    remote: Address,
    local_port_be: u16,
    remote_port_be: u16,
}

#[sock_ops]
fn ic_sock_ops(ctx: SockOpsContext) -> u32 {
    // SAFETY: the pointer is one of the union's arms, and the kernel fills no other.
    let socket = unsafe { fields(&ctx).__bindgen_anon_2.sk };
    if socket.is_null() {
        return CONTINUE;
    }
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => publish(&ctx, socket),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => hand_over(&ctx, socket),
        BPF_SOCK_OPS_STATE_CB => {
            let change = Change {
                from: ctx.arg(0),
                to: ctx.arg(1),
            };
            if change.to == BPF_TCP_ESTABLISHED || change.to == BPF_TCP_CLOSE {
                changed(&ctx, socket, change);
            }
        }
        _ => {}
    }
    CONTINUE
}

/// The source port is chosen, the SYN is not sent: the 4-tuple is known in time.
#[inline]
fn publish(ctx: &SockOpsContext, socket: *mut bpf_sock) {
    // SAFETY: the socket is the context's.
    let Some(flow) = (unsafe { recall_mut(socket) }) else {
        return call::collect(cookie(ctx), |call| publish_call(ctx, socket, call));
    };
    // SAFETY: the socket is the context's.
    set(&mut flow.sequence, unsafe { next_sequence(socket) });
    if ctx.set_cb_flags(close_callback(ctx)).is_err() {
        return count(Counter::FlowNotPublished);
    }
    if is_revoked(flow) {
        return count(Counter::DirectRevoked);
    }
    if FLOWS.insert(ends(ctx).active(), flow, 0).is_err() {
        count(Counter::FlowNotPublished);
    }
}

/// The same for what `connect(2)` has left to its SYN, if this is the one.
#[inline]
fn publish_call(ctx: &SockOpsContext, socket: *mut bpf_sock, call: &mut Call) {
    let key = ends(ctx).active();
    // The socket may have been left alone since.
    if key.destination != call.address || key.destination_port_be != call.port_be {
        return;
    }
    if ctx.set_cb_flags(close_callback(ctx)).is_err() {
        return count(Counter::FlowNotPublished);
    }
    // SAFETY: the socket is the context's.
    set(&mut call.open.flow.sequence, unsafe {
        next_sequence(socket)
    });
    let open = &call.open;
    let flow = &open.flow;
    if is_revoked(flow) {
        return count(Counter::DirectRevoked);
    }
    if OPEN.insert(key, open, 0).is_ok() {
        // After it is there: whoever has seen this number finds it.
        return count(Counter::DirectEntered);
    }
    count(Counter::DirectBySocket);
    // SAFETY: the socket is the context's.
    if !unsafe { remember(socket, flow) } || FLOWS.insert(key, flow, 0).is_err() {
        count(Counter::FlowNotPublished);
    }
}

/// Whether the grant of a direct connection does not hold any more. With TCP Fast Open the SYN may
/// leave long after connect(2).
#[inline]
fn is_revoked(flow: &Flow) -> bool {
    flow.is(FlowKind::Direct) && !is_current(flow.generation) && !is_of_the_same_call(flow)
}

/// Whether the SYN leaves in the call that asked for the grant. If the grant was revoked in between,
/// the connection is like one that was made just before: the agent hears of it and judges it. To
/// drop its SYN would have it hang.
#[inline]
fn is_of_the_same_call(flow: &Flow) -> bool {
    // SAFETY: the helper takes nothing.
    let now = unsafe { bpf_ktime_get_ns() };
    now.saturating_sub(flow.since_ns) < SAME_CALL_NS
}

/// The flags of this socket with the one that reports its close.
#[inline]
fn close_callback(ctx: &SockOpsContext) -> i32 {
    (ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG).cast_signed()
}

/// The handshake of an accepted connection is complete: its socket learns what the flow knows.
#[inline]
fn hand_over(ctx: &SockOpsContext, socket: *mut bpf_sock) {
    let key = ends(ctx).passive();
    if let Some(open) = OPEN.get_ptr_mut(key) {
        // SAFETY: as for flows below.
        return settle_open(ctx, unsafe { &mut (*open).flow });
    }
    let Some(flow) = FLOWS.get_ptr_mut(key) else {
        return;
    };
    // SAFETY: the entry lives until the program ends; one that gives way meanwhile is a flow of
    // another key, of which nothing is told to this socket's workload.
    let flow = unsafe { &mut *flow };
    if !is_begun_by(ctx, flow) {
        return;
    }
    if flow.is(FlowKind::Direct) || flow.is(FlowKind::Host) {
        return settle_at(ctx, flow);
    }
    let (kind, outcome) = if flow.is(FlowKind::Redirected) {
        (FlowKind::AcceptedOutbound, Counter::DestinationHandedOver)
    } else if flow.is(FlowKind::AgentInbound) {
        (FlowKind::AcceptedInbound, Counter::ClientHandedOver)
    } else {
        return settle_own(ctx, flow);
    };
    if !is_of_this_namespace(ctx, flow) {
        return;
    }
    let accepted = Flow {
        kind: kind.code(),
        ..*flow
    };
    if kind.code() == FlowKind::AcceptedInbound.code() {
        settle(flow);
    }
    // SAFETY: the socket is the context's.
    if unsafe { remember(socket, &accepted) } {
        count(outcome);
    } else {
        count(Counter::HandOverFailed);
    }
}

/// A direct connection of the table was accepted, which is when the table says that it is established.
#[inline]
fn settle_open(ctx: &SockOpsContext, flow: &mut Flow) {
    if flow.is(FlowKind::Direct) && is_begun_by(ctx, flow) {
        settle_at(ctx, flow);
        if flow.is(FlowKind::Settled) {
            count(Counter::DirectEstablished);
        }
    }
}

/// Whether the connection that was accepted began with the SYN of this flow. Another one may have got the
/// 4-tuple, or the entry another 4-tuple, while its packets were on their way. True where nobody knows.
#[inline]
fn is_begun_by(ctx: &SockOpsContext, flow: &Flow) -> bool {
    let sequence = get(&flow.sequence);
    sequence == 0 || get(&fields(ctx).rcv_nxt) == sequence.wrapping_add(1)
}

/// A direct connection or a probe was accepted, if by the workload that was meant.
#[inline]
fn settle_at(ctx: &SockOpsContext, flow: &mut Flow) {
    // SAFETY: `sock_ops` is one of the contexts that the helper takes.
    if flow.destination == unsafe { bpf_get_netns_cookie(ctx.as_ptr()) } {
        settle(flow);
    }
}

/// A connection of a workload to itself was accepted.
#[inline]
fn settle_own(ctx: &SockOpsContext, flow: &mut Flow) {
    if flow.is(FlowKind::Own) && is_of_this_namespace(ctx, flow) {
        settle(flow);
    }
}

/// The flow opens its door no more. From here on packets find the socket; a SYN that finds none,
/// after the acceptor has closed, is somebody else's.
#[inline]
fn settle(flow: &mut Flow) {
    set(&mut flow.kind, FlowKind::Settled.code());
}

/// Both ends of such a flow are in the workload's namespace. Another namespace on this machine
/// may use the same addresses, when several nodes share it.
#[inline]
fn is_of_this_namespace(ctx: &SockOpsContext, flow: &Flow) -> bool {
    if is_cgroup_key(flow.workload) {
        return true;
    }
    // SAFETY: `sock_ops` is one of the contexts that the helper takes.
    flow.workload == unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// A connection that this socket initiated was established, or is over. (For the first there is a
/// callback of its own, which the kernel does not make when both ends have initiated it.)
///
/// The port is released after this, so nobody can have taken the 4-tuple over yet.
#[inline]
fn changed(ctx: &SockOpsContext, socket: *mut bpf_sock, change: Change) {
    // SAFETY: the socket is the context's.
    let Some(flow) = (unsafe { recall(socket) }) else {
        return changed_in_table(ctx, socket, change);
    };
    let key = ends(ctx).active();
    let is_over = change.to == BPF_TCP_CLOSE;
    if is_over && FLOWS.remove(key).is_ok() {
        count(Counter::FlowClosed);
    }
    // What is closed already may be told so again; and what listens was disconnected before, and is
    // told so when it closes.
    let was_open = change.from != BPF_TCP_CLOSE && change.from != BPF_TCP_LISTEN;
    if flow.is(FlowKind::Direct) && was_open {
        count(if is_over {
            Counter::DirectClosed
        } else {
            Counter::DirectEstablished
        });
        report(ctx, socket, (flow, &key), change, || {});
    }
}

/// The same for a direct connection that its socket does not remember.
#[inline]
fn changed_in_table(ctx: &SockOpsContext, socket: *mut bpf_sock, change: Change) {
    let is_over = change.to == BPF_TCP_CLOSE;
    // What is established was accepted, which the table was told then, unless both ends began.
    if !is_over && change.from != BPF_TCP_SYN_RECV {
        return;
    }
    let key = ends(ctx).active();
    let Some(open) = OPEN.get_ptr_mut(key) else {
        return;
    };
    // SAFETY: the entry is this connection's until it is removed below.
    let open = unsafe { &mut *open };
    if open.socket != cookie(ctx) {
        return;
    }
    if !is_over {
        settle(&mut open.flow);
        return count(Counter::DirectEstablished);
    }
    count(Counter::FlowClosed);
    count(Counter::DirectClosed);
    // Its end is told when it is not in the table any more: whoever has heard of it and then looks,
    // does not find it.
    report(ctx, socket, (&open.flow, &key), change, || {
        if OPEN.remove(key).is_err() {
            count(Counter::FlowNotPublished);
        }
    });
}

/// The cookie of the socket: a number that no other ever has.
#[inline]
fn cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the helper takes the context that the running program was given.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

impl Ends {
    /// The key of a flow that this socket initiated.
    #[inline]
    const fn active(&self) -> FlowKey {
        FlowKey {
            source: self.local,
            destination: self.remote,
            source_port_be: self.local_port_be,
            destination_port_be: self.remote_port_be,
        }
    }

    /// The key of a flow that this socket accepted.
    #[inline]
    const fn passive(&self) -> FlowKey {
        FlowKey {
            source: self.remote,
            destination: self.local,
            source_port_be: self.remote_port_be,
            destination_port_be: self.local_port_be,
        }
    }
}

/// Reads both ends. Every field is read before any is chosen: the verifier refuses a context
/// pointer that depends on a branch.
#[inline]
fn ends(ctx: &SockOpsContext) -> Ends {
    let fields = fields(ctx);
    let family = get(&fields.family);
    let (local4, remote4) = (get(&fields.local_ip4), get(&fields.remote_ip4));
    let (local6, remote6) = (words(&fields.local_ip6), words(&fields.remote_ip6));
    let (local, remote) = if family == INET {
        (Address::v4(local4), Address::v4(remote4))
    } else {
        (local6, remote6)
    };
    Ends {
        local,
        remote,
        local_port_be: low_half(get(&fields.local_port)).to_be(),
        remote_port_be: remote_port(get(&fields.remote_port)),
    }
}

/// The context's fields.
#[inline]
fn fields(ctx: &SockOpsContext) -> &bpf_sock_ops {
    // SAFETY: the context is valid for the length of the program.
    unsafe { &*ctx.ops }
}

/// The kernel keeps this port in network order in the last two bytes of a 32-bit field.
#[inline]
const fn remote_port(field: u32) -> u16 {
    let [_, _, high, low] = field.to_ne_bytes();
    u16::from_ne_bytes([high, low])
}
