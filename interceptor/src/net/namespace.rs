//! An open network namespace, and stepping into it for the length of a few system calls.
//!
//! `setns(2)` moves one thread. A worker thread that stayed in a workload's namespace would open
//! every later socket there, under another workload's identity, so [`Namespace::enter`] either
//! comes back or ends the process. There is no await point inside.
//!
//! An open namespace lives as long as its file descriptor: whoever holds a [`Namespace`] keeps
//! the workload's interfaces alive and must let go when the workload is gone.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};

/// Where the calling thread's own namespace is found.
const OWN: &str = "/proc/thread-self/ns/net";

thread_local! {
    /// The namespace to come back to, opened once per thread.
    static HOME: io::Result<(OwnedFd, FileId)> = open(Path::new(OWN));
}

/// Device and inode of a namespace file: the same for every path that names the namespace.
type FileId = (u64, u64);

/// An open network namespace. Clones share the file descriptor.
#[derive(Clone, Debug)]
pub struct Namespace {
    fd: Arc<OwnedFd>,
    id: FileId,
    cookie: u64,
}

impl Namespace {
    /// Opens the namespace that `path` names, such as `/run/netns/web` or `/proc/1/ns/net`.
    ///
    /// # Errors
    ///
    /// If the path cannot be opened, is no network namespace, or may not be entered.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (fd, id) = open(path)?;
        let mut namespace = Self {
            fd: Arc::new(fd),
            id,
            cookie: 0,
        };
        namespace.cookie = namespace.enter(read_cookie)?;
        Ok(namespace)
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// If `/proc` is not mounted.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new(OWN))
    }

    /// The kernel's number for it: unique from boot to shutdown, never reused.
    pub const fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Its inode number, by which the kernel reports what a link is attached to.
    pub(crate) const fn inode(&self) -> u64 {
        self.id.1
    }

    /// Whether `path` still names this namespace. False once it was deleted, or deleted and made
    /// again.
    pub fn is_named_by(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == self.id)
    }

    /// Runs `work` inside of the namespace on the calling thread.
    ///
    /// Ends the process if the thread cannot return, because every socket it opened from then on
    /// would belong to the wrong workload.
    ///
    /// # Errors
    ///
    /// If the namespace cannot be entered, and whatever `work` returns.
    pub fn enter<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        HOME.with(|home| {
            let (home, id) = match home {
                Ok((fd, id)) => (fd, *id),
                Err(error) => return Err(io::Error::new(error.kind(), error.to_string())),
            };
            if id == self.id {
                return work();
            }
            setns(self.fd.as_fd(), CloneFlags::CLONE_NEWNET)?;
            let _back = Return(home.as_fd());
            work()
        })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Takes the thread home when dropped, also when `work` panics.
struct Return<'a>(BorrowedFd<'a>);

impl Drop for Return<'_> {
    fn drop(&mut self) {
        if setns(self.0, CloneFlags::CLONE_NEWNET).is_err() {
            std::process::abort();
        }
    }
}

/// Opens a namespace file and notes which one it is.
fn open(path: &Path) -> io::Result<(OwnedFd, FileId)> {
    let file = File::open(path)?;
    let found = file.metadata()?;
    Ok((OwnedFd::from(file), (found.dev(), found.ino())))
}

/// Reads the cookie of the namespace that the calling thread is in.
fn read_cookie() -> io::Result<u64> {
    // Any socket tells; a UDP socket is the cheapest that every kernel has.
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut cookie = 0_u64;
    let mut length: libc::socklen_t = 8;
    // SAFETY: the descriptor is open, and value and length describe eight writable bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_namespace_is_entered_without_leaving_it() {
        let here = Namespace::current().unwrap();
        assert_ne!(here.cookie(), 0);
        assert_eq!(here.enter(read_cookie).unwrap(), here.cookie());
        assert!(here.is_named_by(Path::new(OWN)));
    }

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Namespace::open(file.path()).is_err());
    }

    #[test]
    fn errors_of_the_work_come_through() {
        let here = Namespace::current().unwrap();
        let error = here
            .enter(|| Err::<(), _>(io::Error::from(io::ErrorKind::AddrInUse)))
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
