//! The fields of `bpf_sock_addr` contexts and their sockets, the same for both families.
//!
//! The family is a constant of each program and not a value: the verifier refuses a context
//! pointer that was chosen at run time, which is what the compiler makes of a branch.

use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::programs::SockAddrContext;
use interceptor_common::{Address, FAMILY_IPV4};

/// An address and a port.
#[derive(Clone, Copy)]
pub(crate) struct Endpoint {
    pub(crate) address: Address,
    pub(crate) port_be: u16,
}

/// The socket that the system call is about.
#[inline]
pub(crate) fn socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: the context is valid for the length of the program.
    let socket = unsafe { &raw const (*ctx.sock_addr).__bindgen_anon_1.sk };
    // SAFETY: as above; the field is a pointer in every arm of the union.
    unsafe { *socket }
}

/// The address and port that the system call was given.
#[inline]
pub(crate) fn endpoint<const FAMILY: u8>(ctx: &SockAddrContext) -> Endpoint {
    let sock_addr: *const bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the context is valid for the length of the program.
    let port = unsafe { (*sock_addr).user_port };
    let address = if FAMILY == FAMILY_IPV4 {
        // SAFETY: the context is valid for the length of the program.
        Address::v4(unsafe { (*sock_addr).user_ip4 })
    } else {
        // SAFETY: the context is valid for the length of the program.
        words(unsafe { &raw const (*sock_addr).user_ip6 })
    };
    Endpoint {
        address,
        port_be: low_half(port),
    }
}

/// Replaces the address and port of the system call.
#[inline]
pub(crate) fn rewrite<const FAMILY: u8>(ctx: &SockAddrContext, to: Endpoint) {
    let sock_addr: *mut bpf_sock_addr = ctx.sock_addr;
    let Address([first, second, third, fourth]) = to.address;
    if FAMILY == FAMILY_IPV4 {
        // SAFETY: the context is valid for the length of the program.
        unsafe { (*sock_addr).user_ip4 = fourth };
    } else {
        // SAFETY: the context is valid for the length of the program.
        let ip6 = unsafe { &raw mut (*sock_addr).user_ip6 }.cast::<u32>();
        // SAFETY: the first of four words.
        unsafe { ip6.write_volatile(first) };
        // SAFETY: the second of four words.
        unsafe { ip6.wrapping_add(1).write_volatile(second) };
        // SAFETY: the third of four words.
        unsafe { ip6.wrapping_add(2).write_volatile(third) };
        // SAFETY: the fourth of four words.
        unsafe { ip6.wrapping_add(3).write_volatile(fourth) };
    }
    // SAFETY: the context is valid for the length of the program.
    unsafe { (*sock_addr).user_port = u32::from(to.port_be) };
}

/// The source address that `socket` is bound to, unspecified if it is not.
#[inline]
pub(crate) fn bound_address<const FAMILY: u8>(socket: *const bpf_sock) -> Address {
    if FAMILY == FAMILY_IPV4 {
        // SAFETY: the socket is the context's.
        return Address::v4(unsafe { (*socket).src_ip4 });
    }
    // SAFETY: the socket is the context's.
    words(unsafe { &raw const (*socket).src_ip6 })
}

/// Reads four words one by one: the kernel translates each access to a context field by itself
/// and knows no wider ones everywhere.
#[inline]
pub(crate) fn words(address: *const [u32; 4]) -> Address {
    let word = address.cast::<u32>();
    // SAFETY: the first of four words.
    let first = unsafe { word.read_volatile() };
    // SAFETY: the second of four words.
    let second = unsafe { word.wrapping_add(1).read_volatile() };
    // SAFETY: the third of four words.
    let third = unsafe { word.wrapping_add(2).read_volatile() };
    // SAFETY: the fourth of four words.
    let fourth = unsafe { word.wrapping_add(3).read_volatile() };
    Address([first, second, third, fourth])
}

/// The lower half of a field that holds 16 bits.
#[inline]
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "the upper half is not wanted"
)]
pub(crate) const fn low_half(field: u32) -> u16 {
    field as u16
}
