//! A number that is shared with the kernel programs: one slot of an array map, mapped into memory.
//!
//! Written through `bpf(2)`, a value is copied, and a program may read it half written. Here it is
//! written as one.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

/// What is mapped. Less than a page cannot be, and every page is at least so large.
const LENGTH: usize = 4096;

/// The only number of a `BPF_F_MMAPABLE` array map of one `u64`.
#[derive(Debug)]
pub(crate) struct SharedNumber(NonNull<AtomicU64>);

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for SharedNumber {}
// SAFETY: it is used as an atomic number and in no other way.
unsafe impl Sync for SharedNumber {}

impl SharedNumber {
    /// Maps the number of `map`.
    pub(crate) fn new(map: BorrowedFd<'_>) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses the place, so nothing that is in use gets replaced.
        let mapped = unsafe {
            libc::mmap(
                ptr::null_mut(),
                LENGTH,
                access,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let number = NonNull::new(mapped.cast());
        number
            .map(Self)
            .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// The number.
    pub(crate) fn get(&self) -> u64 {
        self.number().load(Ordering::Acquire)
    }

    /// Makes it one more, also when another process does the same, and returns what it is then.
    pub(crate) fn increment(&self) -> u64 {
        self.number().fetch_add(1, Ordering::AcqRel).wrapping_add(1)
    }

    const fn number(&self) -> &AtomicU64 {
        // SAFETY: the page is mapped until this is dropped, and begins with the number.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SharedNumber {
    fn drop(&mut self) {
        // SAFETY: the page is this value's, and nobody has it any more.
        let _unmapped = unsafe { libc::munmap(self.0.as_ptr().cast(), LENGTH) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn two_mappings_are_one_number() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let (one, other) = (
            SharedNumber::new(file.as_fd()).unwrap(),
            SharedNumber::new(file.as_fd()).unwrap(),
        );
        assert_eq!((one.increment(), other.increment()), (1, 2));
        assert_eq!((one.get(), other.get()), (2, 2));
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(SharedNumber::new(socket.as_fd()).is_err());
    }
}
