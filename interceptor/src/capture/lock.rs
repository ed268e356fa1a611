//! The lock that keeps a node to one agent: on its folder in the BPF file system.
//!
//! The lock belongs to the open file, not to the process: an agent that hands its node over shares
//! the file with its successor, and the node is never without a lock in between. Once shared, it is
//! released by closing only: unlocking it here would unlock it for the successor, too. Unshared, it
//! is unlocked, because a child that is being forked has a copy of the open file for a moment.

use std::fs::{File, TryLockError};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::bpffs;
use super::config::Config;
use super::error::CaptureError;
use super::folder::prepare;
use super::held::file_id;

/// The right to be this node's agent, for as long as it lives.
#[derive(Debug)]
pub struct NodeLock {
    file: File,
    folder: PathBuf,
    shared: AtomicBool,
}

impl NodeLock {
    /// Locks the node, and makes its folder if there is none.
    ///
    /// # Errors
    ///
    /// If another agent of the node is running, there is no BPF file system, or the folder is another
    /// user's.
    pub fn acquire(config: &Config) -> Result<Self, CaptureError> {
        bpffs::ensure(&config.bpffs)?;
        let folder = folder_of(config)?;
        prepare(config, &folder)?;
        Self::of_folder(&folder, &config.node)
    }

    /// Locks a folder that is there.
    pub(super) fn of_folder(folder: &Path, node: &str) -> Result<Self, CaptureError> {
        let io = |source| CaptureError::Io {
            doing: "lock",
            path: folder.to_path_buf(),
            source,
        };
        let file = File::open(folder).map_err(io)?;
        match file.try_lock() {
            Ok(()) => Ok(Self {
                file,
                folder: folder.to_path_buf(),
                shared: AtomicBool::new(false),
            }),
            Err(TryLockError::WouldBlock) => Err(CaptureError::Running {
                node: node.to_owned(),
            }),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }

    /// The lock that another agent has handed over, if it is this node's.
    pub(super) fn inherit(file: OwnedFd, config: &Config) -> Result<Self, CaptureError> {
        let folder = folder_of(config)?;
        let file = File::from(file);
        let same = || {
            let there = file.metadata()?;
            Ok(file_id(&folder)? == (there.dev(), there.ino()))
        };
        match same() {
            Ok(true) => Ok(Self {
                file,
                folder,
                shared: AtomicBool::new(true),
            }),
            Ok(false) => Err(CaptureError::OtherNode { folder }),
            Err(source) => Err(CaptureError::Io {
                doing: "look at",
                path: folder,
                source,
            }),
        }
    }

    /// The same lock for another process. It is held until both are closed.
    pub(super) fn share(&self) -> std::io::Result<OwnedFd> {
        self.shared.store(true, Ordering::Relaxed);
        Ok(OwnedFd::from(self.file.try_clone()?))
    }

    /// Whether what is locked is still what the node's folder is called. If not, somebody has
    /// removed it or unmounted the file system, and another agent would find nothing locked.
    pub(super) fn is_in_place(&self) -> bool {
        let found = file_id(&self.folder);
        let locked = self.file.metadata().map(|it| (it.dev(), it.ino()));
        matches!((found, locked), (Ok(found), Ok(locked)) if found == locked)
    }

    /// Makes and locks the folder once more.
    ///
    /// # Errors
    ///
    /// As with [`NodeLock::acquire`].
    pub(super) fn take_again(&mut self, config: &Config) -> Result<(), CaptureError> {
        *self = Self::acquire(config)?;
        Ok(())
    }

    /// The node's folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for NodeLock {
    fn drop(&mut self) {
        if !self.shared.load(Ordering::Relaxed) {
            // If it fails, closing does it.
            let _closed = self.file.unlock();
        }
    }
}

fn folder_of(config: &Config) -> Result<PathBuf, CaptureError> {
    config.node_folder().ok_or_else(|| CaptureError::NodeName {
        node: config.node.clone(),
    })
}
