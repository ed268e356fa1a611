//! The CA's folder: `ca.crt` (0644), `ca.key` (0600), and `ca.lock` while one is created.
//!
//! # Invariants
//!
//! * A key that others could have read, or a folder in which others could replace it, is refused,
//!   not repaired: repairing would hide that it happened.
//! * Files appear whole: written under another name, synced, renamed; the key before the
//!   certificate, so whoever sees the certificate finds the key.
//! * Reading takes no lock and writes nothing, so a read-only mount (a Kubernetes Secret) serves.
//! * An existing CA is never overwritten.
//!
//! Not here: what a CA is (`ca`).

use std::fs::{DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use super::error::CaError;

const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";
const LOCK: &str = "ca.lock";
/// Neither file comes near; what is larger is something else.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Creating takes milliseconds; a lock held longer is held by something that hangs.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_INTERVAL: Duration = Duration::from_millis(20);
/// Permission bits of a mode.
const PERMISSIONS: u32 = 0o7777;
const STICKY: u32 = 0o1000;
const OTHERS_ANY: u32 = 0o077;
const OTHERS_WRITE: u32 = 0o022;

/// A CA as read from its folder.
pub(super) struct Files {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) key: Zeroizing<KeyPair>,
}

/// A CA as written to its folder.
pub(super) struct Pem {
    pub(super) certificates: String,
    pub(super) key: Zeroizing<String>,
}

/// What [`create`] does if the folder has a CA already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum IfPresent {
    Keep,
    Refuse,
}

/// Where certificates and key are.
pub(super) fn paths(dir: &Path) -> [PathBuf; 2] {
    [CERTIFICATE, KEY].map(|name| dir.join(name))
}

/// Whether both files are there; one alone counts, too, so that opening it tells what is missing.
pub(super) fn exists(dir: &Path) -> Result<bool, CaError> {
    is_present(&dir.join(CERTIFICATE))
}

/// Reads and checks a CA's folder.
pub(super) fn read(dir: &Path) -> Result<Files, CaError> {
    check_folder(dir)?;
    let (certificate, key) = (dir.join(CERTIFICATE), dir.join(KEY));
    match (is_present(&certificate)?, is_present(&key)?) {
        (true, false) => {
            return Err(CaError::Incomplete {
                present: certificate,
                missing: key,
            });
        }
        (false, true) => {
            return Err(CaError::Incomplete {
                present: key,
                missing: certificate,
            });
        }
        _ => {}
    }
    Ok(Files {
        certificates: read_certificates(&certificate)?,
        key: read_key(&key)?,
    })
}

/// Makes a CA by `make` and writes it, alone among all processes that use this folder.
pub(super) fn create(
    dir: &Path,
    if_present: IfPresent,
    make: impl FnOnce() -> Result<Pem, CaError>,
) -> Result<(), CaError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(io_error("create", dir))?;
    check_folder(dir)?;
    let lock = lock(dir)?;
    let (certificate, key) = (dir.join(CERTIFICATE), dir.join(KEY));
    match (is_present(&certificate)?, is_present(&key)?) {
        (false, false) => {}
        (true, _) if if_present == IfPresent::Keep => return Ok(()),
        (false, true) => {
            return Err(CaError::Incomplete {
                present: key,
                missing: certificate,
            });
        }
        (true, _) => {
            return Err(CaError::Exists {
                dir: dir.to_owned(),
            });
        }
    }
    let pem = make()?;
    write(dir, &key, pem.key.as_bytes(), 0o600)?;
    write(dir, &certificate, pem.certificates.as_bytes(), 0o644)?;
    drop(lock);
    Ok(())
}

/// One certificate as PEM.
pub(super) fn pem_block(certificate: &CertificateDer<'_>) -> String {
    pem::encode_config(
        &pem::Pem::new("CERTIFICATE", certificate.as_ref()),
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let (bytes, metadata) = read_file(path)?;
    check_owner(path, &metadata)?;
    let not_pem = || CaError::Pem {
        path: path.to_owned(),
        expected: "certificates",
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|_not_detailed| not_pem())?;
    if chain.is_empty() {
        return Err(not_pem());
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<Zeroizing<KeyPair>, CaError> {
    let (bytes, metadata) = read_file(path)?;
    check_owner(path, &metadata)?;
    let mode = metadata.mode() & PERMISSIONS;
    if mode & OTHERS_ANY != 0 {
        return Err(CaError::KeyTooOpen {
            path: path.to_owned(),
            mode,
        });
    }
    std::str::from_utf8(&bytes)
        .ok()
        .and_then(|text| KeyPair::from_pem(text).ok())
        .map(Zeroizing::new)
        .ok_or_else(|| CaError::Pem {
            path: path.to_owned(),
            expected: "a private key",
        })
}

/// Contents and facts of one and the same file, read with a bound and wiped when dropped.
fn read_file(path: &Path) -> Result<(Zeroizing<Vec<u8>>, Metadata), CaError> {
    let file = OpenOptions::new()
        .read(true)
        // A named pipe in its place must not hang the agent.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(io_error("open", path))?;
    let metadata = file.metadata().map_err(io_error("examine", path))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
        return Err(CaError::NotAFile {
            path: path.to_owned(),
        });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(
        usize::try_from(metadata.len())
            .unwrap_or(0)
            .saturating_add(1),
    ));
    file.take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(io_error("read", path))?;
    Ok((bytes, metadata))
}

fn check_folder(dir: &Path) -> Result<(), CaError> {
    let metadata = std::fs::metadata(dir).map_err(io_error("examine", dir))?;
    check_owner(dir, &metadata)?;
    let mode = metadata.mode() & PERMISSIONS;
    // In a sticky folder (Kubernetes mounts Secrets in one) others cannot replace what is ours.
    if mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
        return Err(CaError::FolderTooOpen {
            path: dir.to_owned(),
            mode,
        });
    }
    Ok(())
}

fn check_owner(path: &Path, metadata: &Metadata) -> Result<(), CaError> {
    let us = nix::unistd::geteuid().as_raw();
    let owner = metadata.uid();
    if owner == 0 || owner == us {
        return Ok(());
    }
    Err(CaError::Owner {
        path: path.to_owned(),
        owner,
        us,
    })
}

fn is_present(path: &Path) -> Result<bool, CaError> {
    path.try_exists().map_err(io_error("examine", path))
}

/// Takes the folder's lock, which ends with the returned file or with this process.
fn lock(dir: &Path) -> Result<File, CaError> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io_error("open", &path))?;
    let attempts = LOCK_PATIENCE.as_millis() / LOCK_INTERVAL.as_millis();
    for _ in 0..attempts {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_INTERVAL),
            Err(TryLockError::Error(error)) => return Err(io_error("lock", &path)(error)),
        }
    }
    Err(CaError::Locked { path })
}

/// Writes a file that appears whole or not at all, even if the machine stops half-way.
fn write(dir: &Path, path: &Path, contents: &[u8], mode: u32) -> Result<(), CaError> {
    let unfinished = path.with_extension(format!("{:016x}.new", rand::random::<u64>()));
    let written = write_synced(&unfinished, contents, mode)
        .and_then(|()| std::fs::rename(&unfinished, path))
        .and_then(|()| File::open(dir)?.sync_all());
    written.map_err(|error| {
        let _nothing_to_remove = std::fs::remove_file(&unfinished);
        io_error("write", path)(error)
    })
}

fn write_synced(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    // The umask may have taken bits away.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    file.write_all(contents)?;
    file.sync_all()
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CaError {
    let path = PathBuf::from(path);
    move |source| CaError::Io {
        action,
        path,
        source,
    }
}
