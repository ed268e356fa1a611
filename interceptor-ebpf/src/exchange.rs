//! Comparing and exchanging a number as one step, which nobody else comes between.
//!
//! The kernel has had the instruction since 5.12. Stable Rust does not have it for the kernel's target,
//! whose first machines could not do it, so it is written out here.

use core::arch::asm;

/// Replaces the number by `new` if it is `expected`, and returns what it was. Nothing that stands
/// before this is seen to happen after it, and the other way round.
///
/// # Safety
///
/// `number` must be in the value of a map, and its address a multiple of eight.
#[inline]
pub(crate) unsafe fn compare_exchange(number: *mut u64, expected: u64, new: u64) -> u64 {
    let mut found = expected;
    // SAFETY: the caller vouches for the number; the instruction touches nothing else.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({number} + 0, r0, {new})",
            number = in(reg) number,
            new = in(reg) new,
            inout("r0") found,
        );
    }
    found
}
