//! The fields of `bpf_sock_addr` contexts and their sockets, the same for both families.
//!
//! The family is a constant of each program and not a value: the verifier refuses a context
//! pointer that was chosen at run time, which is what the compiler makes of a branch.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::programs::SockAddrContext;
use interceptor_common::{Address, FAMILY_IPV4, FlowKey};

use crate::field::{get, low_half, set, words};

/// An address and a port.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: Address,
    pub(crate) port_be: u16,
}

/// The socket that the system call is about.
#[inline]
pub(crate) fn socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: the pointer is the union's only arm.
    unsafe { fields(ctx).__bindgen_anon_1.sk }
}

/// The cookie of that socket: a number that no other ever has.
#[inline]
pub(crate) fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes the context that the running program was given.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// The key of the connection that the socket initiated, if it did and is connected.
#[inline]
pub(crate) fn initiated<const FAMILY: u8>(ctx: &SockAddrContext) -> FlowKey {
    // SAFETY: the socket is the context's, and as valid as that.
    let socket = unsafe { &*socket(ctx) };
    let (source, destination) = if FAMILY == FAMILY_IPV4 {
        (
            Address::v4(get(&socket.src_ip4)),
            Address::v4(get(&socket.dst_ip4)),
        )
    } else {
        (words(&socket.src_ip6), words(&socket.dst_ip6))
    };
    FlowKey {
        source,
        destination,
        source_port_be: low_half(get(&socket.src_port)).to_be(),
        destination_port_be: get(&socket.dst_port),
    }
}

/// The socket's protocol.
#[inline]
pub(crate) fn protocol(ctx: &SockAddrContext) -> u32 {
    fields(ctx).protocol
}

/// The address and port that the system call was given.
#[inline]
pub(crate) fn endpoint<const FAMILY: u8>(ctx: &SockAddrContext) -> Endpoint {
    let fields = fields(ctx);
    let address = if FAMILY == FAMILY_IPV4 {
        Address::v4(fields.user_ip4)
    } else {
        words(&fields.user_ip6)
    };
    Endpoint {
        address,
        port_be: low_half(fields.user_port),
    }
}

/// Replaces the address and port of the system call.
#[inline]
pub(crate) fn rewrite<const FAMILY: u8>(ctx: &SockAddrContext, to: Endpoint) {
    // SAFETY: the context is valid for the length of the program, and nobody else writes it.
    let fields = unsafe { &mut *ctx.sock_addr };
    let Address([first, second, third, fourth]) = to.address;
    if FAMILY == FAMILY_IPV4 {
        fields.user_ip4 = fourth;
    } else {
        let [to_first, to_second, to_third, to_fourth] = &mut fields.user_ip6;
        set(to_first, first);
        set(to_second, second);
        set(to_third, third);
        set(to_fourth, fourth);
    }
    fields.user_port = u32::from(to.port_be);
}

/// The source that the socket is bound to: unspecified and port zero, in host order, if it is not.
#[inline]
pub(crate) fn bound_to<const FAMILY: u8>(ctx: &SockAddrContext) -> (Address, u32) {
    // SAFETY: the socket is the context's, and as valid as that.
    let socket = unsafe { &*socket(ctx) };
    let address = if FAMILY == FAMILY_IPV4 {
        Address::v4(socket.src_ip4)
    } else {
        words(&socket.src_ip6)
    };
    (address, socket.src_port)
}

/// The context's fields.
#[inline]
fn fields(ctx: &SockAddrContext) -> &bpf_sock_addr {
    // SAFETY: the context is valid for the length of the program.
    unsafe { &*ctx.sock_addr }
}
