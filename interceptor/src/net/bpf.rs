//! The few `bpf(2)` commands that aya does not offer: marking a socket by its descriptor, and
//! swapping the program behind a pinned link.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use interceptor_common::Flow;

/// `BPF_MAP_UPDATE_ELEM`.
const MAP_UPDATE_ELEM: libc::c_int = 2;
/// `BPF_OBJ_GET`.
const OBJ_GET: libc::c_int = 7;
/// `BPF_LINK_UPDATE`.
const LINK_UPDATE: libc::c_int = 29;

/// `union bpf_attr` of the map element commands.
#[repr(C)]
struct MapElement {
    map: RawFd,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr` of `BPF_OBJ_GET`.
#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// `union bpf_attr` of `BPF_LINK_UPDATE`.
#[repr(C)]
struct LinkUpdate {
    link: RawFd,
    program: RawFd,
    flags: u32,
    old_program: u32,
}

/// Stores `flow` in the storage that `map` gives `socket`, replacing what was there.
pub(crate) fn set_socket_storage(
    map: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
    flow: &Flow,
) -> io::Result<()> {
    let key = socket.as_raw_fd();
    let attributes = MapElement {
        map: map.as_raw_fd(),
        padding: 0,
        key: address(&raw const key),
        value: address(std::ptr::from_ref(flow)),
        flags: 0,
    };
    // SAFETY: key and value outlive the call and have the sizes of a socket storage map's key
    // (an int) and of its value (a Flow, checked when the map was opened).
    unsafe { bpf(MAP_UPDATE_ELEM, &attributes) }.map(|_zero| ())
}

/// Opens the link that is pinned at `path`.
pub(crate) fn open_pinned_link(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Object {
        path: address(path.as_ptr()),
        fd: 0,
        flags: 0,
    };
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    let fd = unsafe { bpf(OBJ_GET, &attributes) }?;
    // SAFETY: the kernel just gave this descriptor to us and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts `program` in the place of whatever `link` runs now. No connection sees neither.
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = LinkUpdate {
        link: link.as_raw_fd(),
        program: program.as_raw_fd(),
        flags: 0,
        old_program: 0,
    };
    // SAFETY: the attributes hold two open descriptors and no pointer.
    unsafe { bpf(LINK_UPDATE, &attributes) }.map(|_zero| ())
}

/// `pointer` as `bpf(2)` wants it: 64 bits on every architecture.
#[expect(
    clippy::as_conversions,
    reason = "the kernel takes pointers as integers; usize fits u64"
)]
fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

/// Calls `bpf(2)`.
///
/// # Safety
///
/// `attributes` must be laid out as `command` demands, and every pointer in it valid for the
/// length of the call.
#[expect(
    clippy::cast_possible_truncation,
    clippy::as_conversions,
    reason = "the result of bpf(2) is an int; the attributes are a few dozen bytes"
)]
unsafe fn bpf<A>(command: libc::c_int, attributes: &A) -> io::Result<RawFd> {
    let size = size_of::<A>() as libc::c_uint;
    // SAFETY: the caller vouches for the attributes.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as RawFd)
    }
}
