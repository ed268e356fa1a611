//! The unix socket of the command line: who may use it, and how it replaces a stale one.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use super::AdminError;
use super::serve::Accept;
use crate::error::chain;

/// Between two attempts to make a socket.
const PAUSE: Duration = Duration::from_secs(5);

/// The open socket. Its file stays when it is dropped: it may be a successor's by then, and to look
/// first and to remove then would be two steps, between which it becomes one. A file that nobody
/// answers on is in nobody's way.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
}

impl Socket {
    /// Opens the socket with mode 0600. A file that nobody answers on is replaced.
    pub(super) fn bind(path: &Path) -> Result<Self, AdminError> {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(AdminError::SocketInUse {
                path: path.to_path_buf(),
            });
        }
        Self::replace(path)
    }

    /// Opens the socket in the place of whatever is there, in one step: whoever connects reaches
    /// the one or the other.
    pub(crate) fn replace(path: &Path) -> Result<Self, AdminError> {
        let listener = open(path).map_err(|source| AdminError::Socket {
            path: path.to_path_buf(),
            source,
        })?;
        Ok(Self { listener })
    }

    /// The same for who serves already and must not end because of it: if it fails, it is tried
    /// again until it does not. The first attempt is made before this returns.
    pub(crate) fn replace_at_last(path: PathBuf) -> impl Future<Output = Self> + Send {
        let mut outcome = Self::replace(&path);
        async move {
            loop {
                match outcome {
                    Ok(socket) => return socket,
                    Err(error) => {
                        tracing::error!(error = %chain(&error), pause = ?PAUSE, "cannot be asked; trying again");
                    }
                }
                tokio::time::sleep(PAUSE).await;
                outcome = Self::replace(&path);
            }
        }
    }

    /// The next connection of somebody who may ask.
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let (stream, _peer) = self.listener.accept().await?;
            if may_ask(&stream) {
                return Ok(stream);
            }
            tracing::warn!("refused a process of another user on the socket");
        }
    }
}

impl Accept for Socket {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, IpAddr)> {
        let stream = Self::accept(self).await?;
        Ok((stream, IpAddr::V4(Ipv4Addr::LOCALHOST)))
    }
}

fn open(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)?;
    }
    // Made under another name and renamed, so that it never exists with wider permissions.
    let fresh = beside(path);
    remove(&fresh)?;
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(&fresh, path)?;
    Ok(listener)
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

/// Removes a socket's file, if there is one. For an agent that has no successor and holds the node's
/// lock still.
///
/// # Errors
///
/// The kernel's.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether the process at the other end is root or runs as the agent's own user. The file's mode
/// says the same; this holds even if somebody widens it.
fn may_ask(stream: &UnixStream) -> bool {
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw())
}
