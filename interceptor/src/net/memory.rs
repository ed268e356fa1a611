//! Giving memory back to the kernel.
//!
//! Here, because it is a call into the C library, which only this module makes.

/// Returns to the kernel what the allocator holds and nobody uses. Takes a millisecond per ten
/// MiB: for after something large, such as the first reading of a folder.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
