//! Reading and writing what is remembered of a socket.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::helpers::generated::{bpf_sk_storage_delete, bpf_sk_storage_get};
use interceptor_common::Flow;

use crate::maps::SOCKETS;

/// The storage map as the helpers take it. aya's own accessors know `sock_addr` contexts only.
#[inline]
const fn storage() -> *mut c_void {
    (&raw const SOCKETS).cast_mut().cast()
}

/// What is remembered of `socket`.
///
/// # Safety
///
/// `socket` must come from the context of the running program.
#[inline]
pub(crate) unsafe fn recall<'a>(socket: *mut bpf_sock) -> Option<&'a Flow> {
    // SAFETY: the caller vouches for the socket.
    let found = unsafe { find(socket) };
    // SAFETY: null or storage of the size of a Flow, alive until the program ends.
    unsafe { found.as_ref() }
}

/// The same, to be changed. Only while the socket is locked, as when it connects.
///
/// # Safety
///
/// As for [`recall`].
#[inline]
pub(crate) unsafe fn recall_mut<'a>(socket: *mut bpf_sock) -> Option<&'a mut Flow> {
    // SAFETY: the caller vouches for the socket.
    let found = unsafe { find(socket) };
    // SAFETY: null or storage of the size of a Flow, alive until the program ends.
    unsafe { found.as_mut() }
}

/// Where it is; null if there is nothing.
///
/// # Safety
///
/// As for [`recall`].
#[inline]
unsafe fn find(socket: *mut bpf_sock) -> *mut Flow {
    // SAFETY: the caller vouches for the socket; a null value means that nothing is created.
    unsafe { bpf_sk_storage_get(storage(), socket.cast(), ptr::null_mut(), 0) }.cast()
}

/// Remembers `flow` for `socket`, replacing what was there. False if there is no memory for it.
///
/// # Safety
///
/// `socket` must come from the context of the running program.
#[inline]
#[must_use]
pub(crate) unsafe fn remember(socket: *mut bpf_sock, flow: &Flow) -> bool {
    let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    // SAFETY: the caller vouches for the socket; fresh storage is zeroed.
    let slot = unsafe { bpf_sk_storage_get(storage(), socket.cast(), ptr::null_mut(), create) };
    if slot.is_null() {
        return false;
    }
    // SAFETY: not null, so it is storage of the size of a Flow.
    unsafe { *slot.cast::<Flow>() = *flow };
    true
}

/// Forgets what is remembered of `socket`, if anything.
///
/// # Safety
///
/// `socket` must come from the context of the running program.
#[inline]
pub(crate) unsafe fn forget(socket: *mut bpf_sock) {
    // SAFETY: the caller vouches for the socket. Nothing to delete is the usual result.
    let _nothing_there = unsafe { bpf_sk_storage_delete(storage(), socket.cast()) };
}
