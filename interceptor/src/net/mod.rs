//! Sockets and network namespaces: the only `unsafe` of user space.
//!
//! A socket belongs to the network namespace in which it was created, for ever. The agent
//! therefore enters a workload's namespace for the two system calls that create a socket and
//! leaves it at once; everything else happens on the file descriptor.
//!
//! Not here: which socket to open and why (`capture`, `transport`, `connection`).

pub mod dial;
pub mod traffic;

pub use dial::{Dialer, Purpose};
pub use traffic::Traffic;
