//! Giving memory back to the kernel.
//!
//! Here, because these are calls into the C library, which only this module makes.

/// Returns to the kernel what the allocator holds and nobody uses. Takes a millisecond per ten
/// MiB: for after something large, such as the first reading of a folder, and for when nobody is in
/// a hurry.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets go of all program code that was used so far, the C library's included. Most of an agent's is
/// for starting: reading manifests, loading programs, making certificates. It stays in the page
/// cache; what is used again is mapped again, 64 KiB at a time, which costs a microsecond.
pub fn let_go_of_code() {
    // SAFETY: the callback has the signature that is asked for, and keeps nothing.
    unsafe {
        libc::dl_iterate_phdr(Some(let_go_of_object), std::ptr::null_mut());
    }
}

/// Lets go of what is mapped of one program or library.
unsafe extern "C" fn let_go_of_object(
    object: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: valid for the length of this call.
    let object = unsafe { &*object };
    if object.dlpi_phdr.is_null() {
        return 0;
    }
    let count = usize::from(object.dlpi_phnum);
    // SAFETY: that many headers are there, for as long as the object is loaded.
    let headers = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, count) };
    for header in headers {
        // What was never writable is as it is in the file: relocations and data are elsewhere.
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
            let_go_of(
                object.dlpi_addr.wrapping_add(header.p_vaddr),
                header.p_memsz,
            );
        }
    }
    0
}

/// Lets go of the pages of a mapping that is not writable and was not changed.
fn let_go_of(address: u64, length: u64) {
    /// Of everything that we run on; where pages are larger the kernel refuses, and nothing is lost.
    const PAGE: u64 = 4096;
    let first = address & !(PAGE - 1);
    let past = address.saturating_add(length).next_multiple_of(PAGE);
    let (Ok(first), Ok(length)) = (usize::try_from(first), usize::try_from(past - first)) else {
        return;
    };
    let pages = std::ptr::with_exposed_provenance_mut(first);
    // SAFETY: the range belongs to a private mapping of a file that nobody has written to, so that
    // what is dropped comes back as it was. An error changes nothing.
    unsafe {
        libc::madvise(pages, length, libc::MADV_DONTNEED);
    }
}

/// Lets go of what this thread's stack has held below where it stands now: handshakes and manifests
/// need a lot of it, idle connections none. For threads whose stack is their own, which `main`'s is
/// not: it grows.
pub fn let_go_of_stack() {
    /// What this function and those that it calls stand on, with much room to spare.
    const KEPT: usize = 16 << 10;
    /// As above.
    const PAGE: usize = 4096;
    let mark = 0_u8;
    let here = (&raw const mark).addr();
    let Some((lowest, _)) = own_stack() else {
        return;
    };
    let end = here.saturating_sub(KEPT) & !(PAGE - 1);
    let Some(length) = end.checked_sub(lowest.addr()) else {
        return;
    };
    // SAFETY: the range is of this thread's own stack and below all of its frames, so that nothing in
    // it is alive; and nobody but this thread, which is here, writes there. Its pages come back
    // when they are needed, as zeros. An error changes nothing.
    unsafe {
        libc::madvise(lowest, length, libc::MADV_DONTNEED);
    }
}

/// Where this thread's stack begins, and how long it is.
fn own_stack() -> Option<(*mut libc::c_void, usize)> {
    let mut attributes = std::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: always valid.
    let this = unsafe { libc::pthread_self() };
    // SAFETY: `this` is a thread that runs, and the attributes are written to only.
    let error = unsafe { libc::pthread_getattr_np(this, attributes.as_mut_ptr()) };
    if error != 0 {
        return None;
    }
    let (mut lowest, mut length) = (std::ptr::null_mut(), 0);
    // SAFETY: without an error the attributes are initialised.
    let error = unsafe {
        libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut lowest, &raw mut length)
    };
    // SAFETY: the same, and nobody uses them from here on.
    unsafe {
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
    }
    (error == 0 && !lowest.is_null()).then_some((lowest, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resident memory of mappings that can be executed, in KiB.
    fn resident_code() -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut executable = false;
        let mut sum = 0;
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("Rss:"), Some(size)) if executable => sum += size.parse::<u64>().unwrap(),
                (Some(range), Some(permissions)) if !range.ends_with(':') => {
                    executable = permissions.contains('x');
                }
                _ => {}
            }
        }
        sum
    }

    /// Uses so many times 8 KiB of the stack.
    #[inline(never)]
    fn go_deep(times: usize) -> usize {
        let deep = [1_u8; 8 << 10];
        let here = usize::from(std::hint::black_box(&deep)[1]);
        if times == 1 {
            here
        } else {
            here + go_deep(times - 1)
        }
    }

    #[test]
    fn what_a_stack_has_held_is_let_go_of_and_what_it_holds_is_not() {
        let thread = std::thread::spawn(|| {
            let kept = std::hint::black_box([7_u8; 4096]);
            let resident = || {
                let (lowest, length) = own_stack().unwrap();
                let mut pages = vec![0_u8; length.div_ceil(4096)];
                // SAFETY: the range is mapped, and there is a byte for each page of it.
                let error = unsafe { libc::mincore(lowest, length, pages.as_mut_ptr()) };
                assert_eq!(error, 0);
                pages.iter().filter(|page| **page & 1 == 1).count()
            };
            assert_eq!(go_deep(64), 64);
            let before = resident();
            let_go_of_stack();
            let after = resident();
            assert!(before >= 128 && after + 96 <= before, "{before} {after}");
            assert_eq!(go_deep(64), 64);
            assert_eq!(kept, [7; 4096]);
        });
        thread.join().unwrap();
    }

    #[test]
    fn code_is_let_go_of_and_still_runs() {
        let text = format!("{:?}", std::env::args_os());
        let before = resident_code();
        let_go_of_code();
        assert!(resident_code() < before);
        assert_eq!(format!("{:?}", std::env::args_os()), text);
    }
}
