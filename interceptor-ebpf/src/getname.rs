//! `getpeername(2)` and `getsockname(2)`: both ends see the addresses that they would see without
//! us. The kernel asks here for `accept4(2)`'s address as well.
//!
//! | socket | call | shows |
//! |---|---|---|
//! | captured, of the application | getpeername | the original destination |
//! | direct, of the application | getpeername | what it connected to: a Service's address stays |
//! | accepted by the application from the agent | getpeername, accept4 | the true client |
//! | accepted by the agent's outbound listener | getsockname | the original destination |
//!
//! The last one is how the agent learns where a connection was headed: without a lookup that
//! could miss it.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use interceptor_common::{FAMILY_IPV4, FAMILY_IPV6, Flow, FlowKind};

use crate::flow::recall;
use crate::maps::OPEN;
use crate::sock_addr::{Endpoint, initiated, rewrite, socket};
use crate::tcp::may_have_flow;

/// These programs change what is shown and never refuse.
const PROCEED: i32 = 1;

#[cgroup_sock_addr(getpeername4)]
fn ic_getpeername4(ctx: SockAddrContext) -> i32 {
    peer_name::<FAMILY_IPV4>(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
fn ic_getpeername6(ctx: SockAddrContext) -> i32 {
    peer_name::<FAMILY_IPV6>(&ctx)
}

#[cgroup_sock_addr(getsockname4)]
fn ic_getsockname4(ctx: SockAddrContext) -> i32 {
    socket_name::<FAMILY_IPV4>(&ctx)
}

#[cgroup_sock_addr(getsockname6)]
fn ic_getsockname6(ctx: SockAddrContext) -> i32 {
    socket_name::<FAMILY_IPV6>(&ctx)
}

/// Shows an application its true peer.
#[inline]
fn peer_name<const FAMILY: u8>(ctx: &SockAddrContext) -> i32 {
    let socket = socket(ctx);
    // SAFETY: the socket is the context's.
    if let Some(flow) = unsafe { recall(socket) } {
        if flow.is(FlowKind::Redirected)
            || flow.is(FlowKind::Direct)
            || flow.is(FlowKind::AcceptedInbound)
        {
            show::<FAMILY>(ctx, flow);
        }
        return PROCEED;
    }
    // SAFETY: the socket is the context's.
    if unsafe { may_have_flow(socket) }
        // SAFETY: two fields are read at once.
        && let Some(open) = unsafe { OPEN.get(initiated::<FAMILY>(ctx)) }
    {
        show::<FAMILY>(ctx, &open.flow);
    }
    PROCEED
}

/// Shows the agent where an accepted connection was headed.
#[inline]
fn socket_name<const FAMILY: u8>(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the socket is the context's.
    if let Some(flow) = unsafe { recall(socket(ctx)) }
        && flow.is(FlowKind::AcceptedOutbound)
    {
        show::<FAMILY>(ctx, flow);
    }
    PROCEED
}

/// Puts the remembered address into the answer, if the socket's family can say it.
#[inline]
fn show<const FAMILY: u8>(ctx: &SockAddrContext, flow: &Flow) {
    let sayable = FAMILY == FAMILY_IPV6 || flow.address.is_v4();
    if sayable && flow.port_be != 0 {
        let endpoint = Endpoint {
            address: flow.address,
            port_be: flow.port_be,
        };
        rewrite::<FAMILY>(ctx, endpoint);
    }
}
