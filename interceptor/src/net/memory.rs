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

    #[test]
    fn code_is_let_go_of_and_still_runs() {
        let text = format!("{:?}", std::env::args_os());
        let before = resident_code();
        let_go_of_code();
        assert!(resident_code() < before);
        assert_eq!(format!("{:?}", std::env::args_os()), text);
    }
}
