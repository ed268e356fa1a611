//! The kernel programs, embedded: one object for every hook, built by `cargo xtask build-ebpf` and
//! found by `build.rs`.
//!
//! It is in the binary because agent and kernel programs share the layout of their maps: a file
//! beside the agent could be another version's.
//!
//! Not here: loading and attaching.

/// The object, aligned as the ELF parser needs it.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("INTERCEPTOR_EBPF_OBJECT"));
