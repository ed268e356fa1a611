//! Who receives a connection that arrives in a network namespace: the application only if the
//! flow says so, the agent otherwise, nobody if the agent is down.
//!
//! Attached to the namespace of every workload that has its own; the second program to the
//! host's, where it touches captured connections and nothing else. Interfaces do not matter: a
//! connection over loopback reports the interface that bears the address.
//!
//! A refused connection is answered with a reset by the kernel, so a client never waits.

use aya_ebpf::bindings::{bpf_sk_lookup, sk_action};
use aya_ebpf::macros::sk_lookup;
use aya_ebpf::programs::SkLookupContext;
use interceptor_common::{
    Action, Address, Counter, Flow, FlowKey, FlowKind, Inbound, InboundPortKey, ListenerKey, Role,
    Udp,
};

use crate::datagram::may_arrive;
use crate::direct::is_at;
use crate::field::{INET, get, low_half, words};
use crate::log;
use crate::maps::{FLOWS, INBOUND, INBOUND_PORTS, LISTENERS, OPEN, count};
use crate::settings::{hbone_port, tells_interface};
use crate::unserved::{Direction, may_pass};

const PASS: u32 = sk_action::SK_PASS;
const DROP: u32 = sk_action::SK_DROP;

const DIRECT: u32 = FlowKind::Direct.code();
const OWN: u32 = FlowKind::Own.code();
const AGENT_INBOUND: u32 = FlowKind::AgentInbound.code();

/// `IPPROTO_TCP`.
const PROTOCOL_TCP: u32 = 6;

/// For the namespaces of workloads whose owners ask nothing about UDP.
#[sk_lookup]
fn ic_sk_lookup(ctx: SkLookupContext) -> u32 {
    look_up::<0>(&ctx)
}

/// For those whose UDP is counted.
#[sk_lookup]
fn ic_udp_observe(ctx: SkLookupContext) -> u32 {
    look_up::<{ Udp::OBSERVED }>(&ctx)
}

/// For those that want no QUIC.
#[sk_lookup]
fn ic_udp_no_quic(ctx: SkLookupContext) -> u32 {
    look_up::<{ Udp::QUIC }>(&ctx)
}

/// For those that want DNS and nothing else.
#[sk_lookup]
fn ic_udp_dns_only(ctx: SkLookupContext) -> u32 {
    look_up::<{ Udp::ALL_BUT_DNS }>(&ctx)
}

/// For those that want no UDP.
#[sk_lookup]
fn ic_udp_deny(ctx: SkLookupContext) -> u32 {
    look_up::<{ Udp::ALL }>(&ctx)
}

/// Who receives it in a namespace with this rule for datagrams. The rule is part of the program,
/// so that nobody pays for what others ask about.
#[inline]
fn look_up<const UDP: u32>(ctx: &SkLookupContext) -> u32 {
    if !is_tcp(ctx) {
        return if UDP == 0 || may_arrive::<UDP>(&flow_key(ctx)) {
            PASS
        } else {
            DROP
        };
    }
    if is_question(ctx) {
        return DROP;
    }
    let key = flow_key(ctx);
    if key.destination.is_loopback() {
        return over_loopback(ctx, &key);
    }
    // SAFETY: the flow is used before the program ends and never written.
    if let Some(open) = unsafe { OPEN.get(key) } {
        return if opens_the_door(&key, &open.flow) {
            pass(Counter::DirectPass)
        } else {
            steer(ctx, &key)
        };
    }
    // SAFETY: the flow is used before the program ends and never written.
    match unsafe { FLOWS.get(key) } {
        Some(flow) if flow.is(FlowKind::Redirected) => assign_outbound(ctx, &key, flow),
        Some(flow) if opens_the_door(&key, flow) => pass(Counter::DirectPass),
        Some(flow) if is_probe(&key, flow) => pass(Counter::ProbePass),
        None if is_lost(&key) => refuse(Counter::RefusedLostFlow),
        _ => steer(ctx, &key),
    }
}

/// For the host's namespace, which belongs to everybody.
#[sk_lookup]
fn ic_host_lookup(ctx: SkLookupContext) -> u32 {
    if !is_tcp(&ctx) {
        return PASS;
    }
    let key = flow_key(&ctx);
    // SAFETY: the flow is used before the program ends and never written.
    match unsafe { FLOWS.get(key) } {
        Some(flow) if flow.is(FlowKind::Redirected) => assign_outbound(&ctx, &key, flow),
        _ => PASS,
    }
}

/// Kinds that may go straight to the application, besides probes.
#[inline]
fn opens_the_door(key: &FlowKey, flow: &Flow) -> bool {
    match flow.kind {
        // Another workload may have got the address between connect(2) and a SYN that is sent again.
        DIRECT => is_at(key.destination, flow.destination),
        kind => kind == OWN || kind == AGENT_INBOUND,
    }
}

/// What is headed to loopback comes from within, unless the namespace routes loopback addresses or
/// translates destinations: then it may come from anywhere. Flows are known by addresses, and those
/// of loopback are everybody's: that of another workload to its own loopback must open nothing here.
#[inline]
fn over_loopback(ctx: &SkLookupContext, key: &FlowKey) -> u32 {
    if key.source.is_loopback() {
        return PASS;
    }
    // SAFETY: the flow is used before the program ends and never written.
    match unsafe { FLOWS.get(key) } {
        Some(flow) if flow.is(FlowKind::Own) && came_over_loopback(ctx) => PASS,
        _ => refuse(Counter::RefusedUnknownAddress),
    }
}

/// Whether nothing has arrived: somebody asks `sock_diag(7)` for a connection that is not there, as the
/// agent does for one that it ends. Who listens instead is nobody's answer, and nothing to be counted.
/// False where the kernel does not tell.
#[inline]
fn is_question(ctx: &SkLookupContext) -> bool {
    tells_interface() && get(&fields(ctx).ingress_ifindex) == 0
}

/// Whether it came in over the loopback interface; true where the kernel does not tell.
#[inline]
fn came_over_loopback(ctx: &SkLookupContext) -> bool {
    /// The same in every namespace.
    const LOOPBACK: u32 = 1;
    !tells_interface() || get(&fields(ctx).ingress_ifindex) == LOOPBACK
}

/// Whether the prober connects to the workload that has the address.
#[inline]
fn is_probe(key: &FlowKey, flow: &Flow) -> bool {
    flow.is(FlowKind::Host) && is_at(key.destination, flow.destination)
}

/// A workload talks to itself in flows only. Without one, this is a captured connection whose
/// flow could not be kept, and its low port means nothing.
#[inline]
fn is_lost(key: &FlowKey) -> bool {
    let Some(source) = inbound(key.source) else {
        return false;
    };
    inbound(key.destination).is_some_and(|destination| destination.workload == source.workload)
}

/// Gives a captured connection to the agent's outbound listener.
#[inline]
fn assign_outbound(ctx: &SkLookupContext, key: &FlowKey, flow: &Flow) -> u32 {
    let listener = listener(flow.workload, Role::Outbound, key);
    assign(ctx, listener, Counter::AssignedOutbound)
}

/// Gives everything else to the agent's inbound listeners, except for ports that a rule excludes.
#[inline]
fn steer(ctx: &SkLookupContext, key: &FlowKey) -> u32 {
    log::steered(key);
    let Some(inbound) = inbound(key.destination) else {
        return refuse(Counter::RefusedUnknownAddress);
    };
    if u32::from(u16::from_be(key.destination_port_be)) == hbone_port() {
        let listener = listener(inbound.workload, Role::Hbone, key);
        return assign(ctx, listener, Counter::SteeredHbone);
    }
    if action(key, &inbound) == Action::Pass.code() {
        return pass(Counter::InboundPassedByRule);
    }
    let listener = listener(inbound.workload, Role::Inbound, key);
    if give(ctx, listener) {
        return pass(Counter::SteeredInbound);
    }
    if may_pass(inbound.workload, Direction::Inbound) {
        return pass(Counter::InboundPassedAgentDown);
    }
    refuse(Counter::RefusedAgentDown)
}

/// What the rules say about the port.
#[inline]
fn action(key: &FlowKey, inbound: &Inbound) -> u32 {
    let port = InboundPortKey {
        address: key.destination,
        port_be: key.destination_port_be,
        reserved: 0,
    };
    // SAFETY: the number is copied at once.
    unsafe { INBOUND_PORTS.get(port) }.map_or(inbound.action, |action| *action)
}

/// The workload at this address.
#[inline]
fn inbound(address: Address) -> Option<Inbound> {
    // SAFETY: the entry is copied at once.
    unsafe { INBOUND.get(address) }.copied()
}

/// The key of the agent's listener for the connection's family.
#[inline]
fn listener(workload: u64, role: Role, key: &FlowKey) -> ListenerKey {
    ListenerKey {
        workload,
        role: role.code(),
        family: u32::from(key.destination.family()),
    }
}

/// Hands the connection to `listener`, or refuses it.
#[inline]
fn assign(ctx: &SkLookupContext, listener: ListenerKey, outcome: Counter) -> u32 {
    if give(ctx, listener) {
        pass(outcome)
    } else {
        refuse(Counter::RefusedAgentDown)
    }
}

/// Hands the connection to `listener`. Its absence means that the agent is down.
#[inline]
fn give(ctx: &SkLookupContext, listener: ListenerKey) -> bool {
    let ctx = SkLookupContext::new(ctx.lookup);
    LISTENERS.redirect_sk_lookup(ctx, listener, 0).is_ok()
}

/// Counts and lets the lookup go on, with the assigned socket if there is one.
#[inline]
fn pass(outcome: Counter) -> u32 {
    count(outcome);
    PASS
}

/// Counts and ends the lookup without a socket.
#[inline]
fn refuse(outcome: Counter) -> u32 {
    count(outcome);
    DROP
}

/// Whether this is about TCP.
#[inline]
fn is_tcp(ctx: &SkLookupContext) -> bool {
    fields(ctx).protocol == PROTOCOL_TCP
}

/// The context's fields.
#[inline]
fn fields(ctx: &SkLookupContext) -> &bpf_sk_lookup {
    // SAFETY: the context is valid for the length of the program.
    unsafe { &*ctx.lookup }
}

/// The connection's 4-tuple as its initiator sees it. Every field is read before any is chosen:
/// the verifier refuses a context pointer that depends on a branch.
#[inline]
fn flow_key(ctx: &SkLookupContext) -> FlowKey {
    let fields = fields(ctx);
    let family = get(&fields.family);
    let (local4, remote4) = (get(&fields.local_ip4), get(&fields.remote_ip4));
    let (local6, remote6) = (words(&fields.local_ip6), words(&fields.remote_ip6));
    let (source, destination) = if family == INET {
        (Address::v4(remote4), Address::v4(local4))
    } else {
        (remote6, local6)
    };
    FlowKey {
        source,
        destination,
        source_port_be: get(&fields.remote_port),
        destination_port_be: low_half(get(&fields.local_port)).to_be(),
    }
}
