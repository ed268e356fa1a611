//! `connect(2)` of every process under the cgroup root: recognise the workload, remember where
//! the connection was headed, point it at the agent.
//!
//! Runs in the task that connects, before a packet exists. Whether the connection is allowed is
//! decided in user space; here it is only decided whether it is captured.
//!
//! A captured connection goes to the workload's own address, so that `getsockname(2)` and
//! `SO_BINDTODEVICE` stay right, and to a random port below 1024, because a fixed one would leave
//! a workload 28,000 source ports per minute of `TIME_WAIT` for all its destinations together.
//!
//! The storage of a socket always describes its latest `connect(2)`: it is overwritten or removed
//! here, so that a socket that is disconnected and used again never carries an old destination. What
//! `call.rs` keeps of a call holds for a socket without storage, and one endpoint.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_prandom_u32, bpf_ktime_get_ns,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use interceptor_common::{
    Action, Address, Call, Counter, FAMILY_IPV4, FAMILY_IPV6, Flow, FlowKind, ListenerKey,
    OpenFlow, PLAINTEXT_WITHOUT_AGENT, Role, RuleKey, TCP,
};

use crate::call;
use crate::datagram;
use crate::direct::{self, Granted, Share};
use crate::field::low_half;
use crate::flow::{forget, recall, remember};
use crate::lent;
use crate::log;
use crate::maps::{INBOUND, RULES, count, full_key};
use crate::settings::{
    CONNECTION_REFUSED, INVALID, NETWORK_UNREACHABLE, NOT_PERMITTED, PROTOCOL_NOT_SUPPORTED,
    fail_with,
};
use crate::sock_addr::{Endpoint, bound_to, cookie, endpoint, protocol, rewrite, socket};
use crate::tcp::leaves_at_once;
use crate::unserved::{Direction, is_served, may_pass};
use crate::who::{Source, Stranger, source};

/// The call goes on, rewritten or not.
const PROCEED: i32 = 1;
/// The call fails.
const REFUSE: i32 = 0;

/// `IPPROTO_TCP`.
const PROTOCOL_TCP: u32 = 6;
/// `IPPROTO_MPTCP`.
const PROTOCOL_MPTCP: u32 = 262;

/// Ports that captured connections are rewritten to: 1 to this. Below every sensible
/// `ip_local_port_range`, because a port that the kernel also picks as source makes TCP connect
/// to itself (2 in 144,000).
const LAST_LOW_PORT: u32 = 1023;

#[cgroup_sock_addr(connect4)]
fn ic_connect4(ctx: SockAddrContext) -> i32 {
    connect::<FAMILY_IPV4>(&ctx)
}

#[cgroup_sock_addr(connect6)]
fn ic_connect6(ctx: SockAddrContext) -> i32 {
    connect::<FAMILY_IPV6>(&ctx)
}

/// What becomes of one `connect(2)`.
#[inline]
fn connect<const FAMILY: u8>(ctx: &SockAddrContext) -> i32 {
    let protocol = protocol(ctx);
    if datagram::is_asked_about(protocol) {
        return datagram::decide::<FAMILY>(ctx);
    }
    if protocol != PROTOCOL_TCP && protocol != PROTOCOL_MPTCP {
        return PROCEED;
    }
    connect_stream::<FAMILY>(ctx, protocol)
}

/// The same for TCP. A function with a stack of its own: the one for datagrams needs the rest of the
/// room that there is for all.
#[inline(never)]
fn connect_stream<const FAMILY: u8>(ctx: &SockAddrContext, protocol: u32) -> i32 {
    let socket = socket(ctx);
    // SAFETY: the socket is the context's.
    let known = unsafe { recall(socket) };
    if known.is_some_and(|flow| flow.is(FlowKind::Agent) || flow.is(FlowKind::AgentInbound)) {
        count(Counter::AgentOwn);
        return PROCEED;
    }
    let source = match source(ctx.as_ptr()) {
        Ok(source) => source,
        Err(stranger) => return nobodys(socket, stranger, known),
    };
    let to = endpoint::<FAMILY>(ctx);
    if source.is_prober() {
        return probe(socket, &source, to, protocol);
    }
    if to.address.is_loopback() {
        let (own_address, _) = bound_to::<FAMILY>(ctx);
        if own_address.is_loopback() {
            return leave_alone(socket, Counter::Loopback);
        }
        // From another address than loopback's it looks as if it came from outside.
        return proceed_openly(socket, &fresh(&source, FlowKind::Own), Counter::Loopback);
    }
    if protocol == PROTOCOL_MPTCP {
        return refuse(socket, Counter::RefusedProtocol, PROTOCOL_NOT_SUPPORTED);
    }
    // Asked first: whoever has a grant pays for no other question.
    let generation = match direct::share(&source, to) {
        Share::Direct(granted) => {
            let remembers = known.is_some();
            return go_directly::<FAMILY>(ctx, &source, (to, &granted), remembers);
        }
        Share::Agents { generation } => generation,
    };
    if is_own_address(&source, to.address) {
        return proceed_openly(socket, &fresh(&source, FlowKind::Own), Counter::OwnAddress);
    }
    if action(&source, to) == Action::Pass.code() {
        return proceed_openly(
            socket,
            &fresh(&source, FlowKind::Passed),
            Counter::PassedByRule,
        );
    }
    if passes_unserved(&source, to) {
        let flow = fresh(&source, FlowKind::Passed);
        return proceed_openly(socket, &flow, Counter::PassedAgentDown);
    }
    capture::<FAMILY>(ctx, &source, to, generation)
}

/// A socket that belongs to no workload goes as it is, unless it came from one or is used in one.
#[inline]
fn nobodys(socket: *mut bpf_sock, stranger: Stranger, known: Option<&Flow>) -> i32 {
    if lent::borrower(stranger.namespace).is_some() || lent::is_from_workload(stranger, socket) {
        return refuse(socket, Counter::RefusedLentSocket, NOT_PERMITTED);
    }
    if known.is_none() {
        count(Counter::NotEnrolled);
        return PROCEED;
    }
    leave_alone(socket, Counter::NotEnrolled)
}

/// Whether the connection may go as it is because no agent listens for it.
#[inline]
fn passes_unserved(source: &Source, to: Endpoint) -> bool {
    if source.entry.flags & PLAINTEXT_WITHOUT_AGENT == 0 {
        return false;
    }
    let listener = ListenerKey {
        workload: source.key,
        role: Role::Outbound.code(),
        family: u32::from(to.address.family()),
    };
    !is_served(&listener) && may_pass(source.key, Direction::Outbound)
}

/// A connection of the node's prober: to a workload of this node it opens the door, for its own
/// 4-tuple, until it is accepted. To anybody else the prober is a process like others.
#[inline]
fn probe(socket: *mut bpf_sock, source: &Source, to: Endpoint, protocol: u32) -> i32 {
    // SAFETY: one field is read at once.
    let enrolled = unsafe { INBOUND.get(to.address) }.map(|inbound| inbound.workload);
    match enrolled {
        Some(destination) if protocol == PROTOCOL_TCP => {
            let flow = Flow {
                destination,
                ..fresh(source, FlowKind::Host)
            };
            proceed_openly(socket, &flow, Counter::Probe)
        }
        _ => leave_alone(socket, Counter::NotEnrolled),
    }
}

/// Sends the connection straight to the endpoint that the kernel drew. A socket that `remembers` an
/// earlier connection is made to remember this one.
#[inline]
fn go_directly<const FAMILY: u8>(
    ctx: &SockAddrContext,
    source: &Source,
    (to, granted): (Endpoint, &Granted),
    remembers: bool,
) -> i32 {
    let socket = socket(ctx);
    let Endpoint { address, port_be } = granted.endpoint;
    let call = Call {
        open: OpenFlow {
            flow: Flow {
                destination: granted.workload,
                generation: granted.generation,
                tag: granted.tag,
                address: to.address,
                port_be: to.port_be,
                ..fresh(source, FlowKind::Direct)
            },
            socket: cookie(ctx),
        },
        address,
        port_be,
        reserved: [0; 6],
    };
    // SAFETY: the socket is the context's.
    let is_left = !remembers && unsafe { leaves_at_once(socket) } && call::leave(&call);
    if !is_left {
        count(Counter::DirectBySocket);
        // SAFETY: the socket is the context's.
        if !unsafe { remember(socket, &call.open.flow) } {
            return refuse(socket, Counter::RefusedNotStored, CONNECTION_REFUSED);
        }
    }
    if granted.endpoint != to {
        rewrite::<FAMILY>(ctx, granted.endpoint);
    }
    log::direct(&granted.endpoint);
    count(Counter::Direct);
    PROCEED
}

/// Remembers where the connection was headed and points it at the agent. `generation` is that of
/// the grant that left the connection to it, or zero.
#[inline]
fn capture<const FAMILY: u8>(
    ctx: &SockAddrContext,
    source: &Source,
    to: Endpoint,
    generation: u64,
) -> i32 {
    let socket = socket(ctx);
    let target = if to.address.is_v4() {
        source.entry.address4
    } else {
        source.entry.address6
    };
    if target.is_none() {
        return refuse(socket, Counter::RefusedNoAddress, NETWORK_UNREACHABLE);
    }
    let (own_address, own_port) = bound_to::<FAMILY>(ctx);
    if is_loopback_source(own_address) {
        return refuse(socket, Counter::RefusedLoopbackSource, INVALID);
    }
    let flow = Flow {
        address: to.address,
        port_be: to.port_be,
        generation,
        ..fresh(source, FlowKind::Redirected)
    };
    // SAFETY: the socket is the context's.
    if !unsafe { remember(socket, &flow) } {
        return refuse(socket, Counter::RefusedNotStored, CONNECTION_REFUSED);
    }
    let listener = Endpoint {
        address: target,
        port_be: low_port_except(own_port),
    };
    rewrite::<FAMILY>(ctx, listener);
    log::captured(&to);
    count(Counter::Captured);
    PROCEED
}

/// Lets the connection go where it is headed, as this flow: a workload that talks to
/// itself opens its own door; what a rule leaves alone may pass the guard of the interface.
#[inline]
fn proceed_openly(socket: *mut bpf_sock, flow: &Flow, outcome: Counter) -> i32 {
    // SAFETY: the socket is the context's.
    if !unsafe { remember(socket, flow) } {
        return refuse(socket, Counter::RefusedNotStored, CONNECTION_REFUSED);
    }
    count(outcome);
    PROCEED
}

/// Lets the connection go as it is and makes sure that nothing is remembered of it.
#[inline]
fn leave_alone(socket: *mut bpf_sock, outcome: Counter) -> i32 {
    // SAFETY: the socket is the context's.
    unsafe { forget(socket) };
    count(outcome);
    PROCEED
}

/// Fails the system call with `errno`.
#[inline]
fn refuse(socket: *mut bpf_sock, outcome: Counter, errno: i32) -> i32 {
    // SAFETY: the socket is the context's.
    unsafe { forget(socket) };
    log::refused(errno);
    count(outcome);
    fail_with(errno);
    REFUSE
}

/// Whether `address` is one of the workload's own.
#[inline]
pub(crate) fn is_own_address(source: &Source, address: Address) -> bool {
    if address == source.entry.address4 || address == source.entry.address6 {
        return true;
    }
    // SAFETY: one field is read at once.
    unsafe { INBOUND.get(address) }.is_some_and(|inbound| inbound.workload == source.key)
}

/// What the rules say about `to`: those for its port, those for any port, the default.
#[inline]
fn action(source: &Source, to: Endpoint) -> u32 {
    let mut key = full_key(RuleKey {
        workload: RuleKey::halves(source.key),
        port_be: to.port_be,
        protocol: TCP,
        family: to.address.family(),
        address: to.address,
    });
    if let Some(action) = RULES.get(&key) {
        return *action;
    }
    key.data.port_be = 0;
    RULES.get(&key).copied().unwrap_or(source.entry.outbound)
}

/// A flow of the current task that starts now.
#[inline]
fn fresh(source: &Source, kind: FlowKind) -> Flow {
    // SAFETY: the helper takes nothing.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: the helper takes nothing.
    let since_ns = unsafe { bpf_ktime_get_ns() };
    Flow {
        workload: source.key,
        cgroup,
        since_ns,
        kind: kind.code(),
        ..Flow::default()
    }
}

/// A random port below 1024, network order, that is not the socket's `own`.
#[inline]
fn low_port_except(own: u32) -> u16 {
    // SAFETY: the helper takes nothing.
    let mut port = 1 + unsafe { bpf_get_prandom_u32() } % LAST_LOW_PORT;
    if port == own {
        port = 1 + port % LAST_LOW_PORT;
    }
    low_half(port).to_be()
}

/// `0.0.0.0`, mapped.
const UNSPECIFIED_V4: Address = Address::v4(0);

/// Whether a socket with this source is bound to loopback; unbound sockets have none.
#[inline]
fn is_loopback_source(bound: Address) -> bool {
    let unbound = bound.is_none() || bound == UNSPECIFIED_V4;
    !unbound && bound.is_loopback()
}
