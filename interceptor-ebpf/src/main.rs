//! The kernel programs: recognise, remember, redirect.
//!
//! ```text
//!  application                         agent
//!  connect(V:p) ─ connect.rs: storage := {redirected, V:p}; destination := own address, low port
//!        │        sockops.rs CONNECT_CB: FLOWS[4-tuple] := storage
//!       SYN ───── sk_lookup.rs: FLOWS says redirected ──▶ outbound listener
//!                 sockops.rs PASSIVE_ESTABLISHED: accepted socket's storage := V:p
//!                 getname.rs: getsockname() = V:p, so accept() tells the original destination
//!  getpeername() = V:p ── getname.rs
//! ```
//!
//! Between workloads of one node, where the agent has granted it, there is no agent on the path:
//!
//! ```text
//!  application                                          application of another workload
//!  connect(V:p) ─ direct.rs: GRANTS says so; call.rs: {direct, V:p}; destination := endpoint
//!        │        sockops.rs CONNECT_CB: OPEN[4-tuple] := {direct, V:p}
//!       SYN ───── guard.rs: a flow of this workload ─── sk_lookup.rs: OPEN says direct ──▶ accept
//!                 sockops.rs: closed ─ event.rs ─▶ the agent's record
//! ```
//!
//! Where that does not fit (no room in OPEN, a SYN that leaves later), the socket's storage and FLOWS
//! serve as for captured connections.
//!
//! What sockets cannot tell (raw and packet sockets), guard.rs stops at the workload's interface.
//!
//! They know no policy. IPv4 and IPv6 share every path: addresses are 16 bytes wide from the first
//! line on. What cannot be remembered is refused and counted; every outcome has a counter.
//!
//! Several agents may run on one machine, each with its own copy of these programs on the same
//! cgroup: a copy acts on the workloads in its own maps and on nothing else.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the entry macros of aya hand contexts over by value"
)]

mod call;
mod connect;
mod datagram;
mod direct;
mod event;
mod exchange;
mod field;
mod flow;
mod getname;
mod guard;
mod lent;
mod log;
mod maps;
mod settings;
mod sk_lookup;
mod sock_addr;
mod sock_create;
mod sockops;
mod tcp;
mod unserved;
mod who;

/// Unreachable: the programs do not panic, and the verifier would refuse one that could.
#[panic_handler]
#[expect(
    clippy::missing_const_for_fn,
    reason = "the language wants a plain function"
)]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers that the programs call are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
