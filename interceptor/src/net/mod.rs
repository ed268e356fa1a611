//! Sockets and network namespaces: the only `unsafe` of user space.
//!
//! A socket belongs to the network namespace in which it was created, for ever. The agent
//! therefore enters a workload's namespace for the two system calls that create a socket and
//! leaves it at once; everything else happens on the file descriptor.
//!
//! Not here: which socket to open and why (`capture`, `transport`, `connection`).

pub(crate) mod bpf;
pub(crate) mod diag;
pub mod dial;
mod gate;
mod listen;
mod memory;
mod namespace;
pub(crate) mod netlink;
mod number;
pub(crate) mod pass;
mod ports;
mod socket;
pub mod traffic;

pub(crate) use dial::Mark;
pub use dial::{Dialer, Purpose};
pub(crate) use gate::Gate;
pub use listen::{accept_waiting, listen};
pub use memory::{give_back_memory, let_go_of_code, let_go_of_stack};
pub use namespace::Namespace;
pub(crate) use number::SharedNumber;
pub use socket::{close_in_order, file_limit, raise_file_limit, reset_on_close};
pub use traffic::Traffic;

/// Whether something failed because this process, or the machine, has nothing left for it.
pub(crate) fn is_out_of_resources(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

/// `address` as the kernel programs write it: 16 bytes, IPv4 mapped.
pub(crate) const fn mapped(address: std::net::IpAddr) -> interceptor_common::Address {
    let v6 = match address {
        std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        std::net::IpAddr::V6(v6) => v6,
    };
    interceptor_common::Address::from_octets(v6.octets())
}

/// The address that [`mapped`] stored.
pub(crate) fn unmapped(address: interceptor_common::Address) -> std::net::IpAddr {
    std::net::IpAddr::from(address.octets()).to_canonical()
}
