//! Reading and writing fields of a program's context.
//!
//! The kernel translates each access to a context field by itself. The compiler must not merge
//! two of them into a wider one, nor turn "this field or that" into one access through a chosen
//! pointer: the verifier refuses both. Volatile accesses stay as they are written.

use core::ptr;

use interceptor_common::Address;

/// `AF_INET`.
pub(crate) const INET: u32 = 2;

/// Reads a field exactly here.
#[inline]
pub(crate) fn get<T: Copy>(field: &T) -> T {
    // SAFETY: a reference is valid to read from.
    unsafe { ptr::from_ref(field).read_volatile() }
}

/// Writes a field exactly here.
#[inline]
pub(crate) fn set<T: Copy>(field: &mut T, value: T) {
    // SAFETY: an exclusive reference is valid to write to.
    unsafe { ptr::from_mut(field).write_volatile(value) };
}

/// Reads an address word by word.
#[inline]
pub(crate) fn words(address: &[u32; 4]) -> Address {
    let [first, second, third, fourth] = address;
    Address([get(first), get(second), get(third), get(fourth)])
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
