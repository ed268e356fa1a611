//! Why the embedded CA could not be opened or created. Each message names the remedy.

use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use interceptor_policy::{SpiffeIdError, TrustDomain};

use crate::identity::bundle::BundleError;
use crate::identity::certificate::Malformed;
use crate::identity::issuer::IssueError;
use crate::identity::peer::PeerError;

/// Why there is no CA.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// A file or the folder could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than the owner could read the key.
    #[error("{} has mode {mode:04o}: the CA's key must be readable by its owner only; run `chmod 600 {0}` and consider the key known to whoever could read it", path.display())]
    KeyTooOpen {
        /// The key file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Others than the owner could replace the CA.
    #[error("{} has mode {mode:04o}: others could replace the CA in it; run `chmod go-w {0}`", path.display())]
    FolderTooOpen {
        /// The folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file of somebody who is neither root nor us.
    #[error("{} belongs to user {owner}, not to root or user {us}: the CA must be ours", path.display())]
    Owner {
        /// The file or folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Our effective user.
        us: u32,
    },
    /// Not a file, or one far too large for what it should hold.
    #[error("{} is not a file of reasonable size", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// One of the two files is there.
    #[error("{} is there but {} is not: restore it, or remove the first to have a new CA created", present.display(), missing.display())]
    Incomplete {
        /// The one that is there.
        present: PathBuf,
        /// The one that is not.
        missing: PathBuf,
    },
    /// `ca init` where there is a CA already.
    #[error("there is a CA in {} already: certificates of this mesh depend on it", dir.display())]
    Exists {
        /// The folder.
        dir: PathBuf,
    },
    /// Somebody else holds the folder's lock and does not let go.
    #[error("another process holds {} for too long: is one hanging?", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The file is not what its name says.
    #[error("{} is not PEM with {expected}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
    },
    /// The chain is empty.
    #[error("the CA has no certificate")]
    NoCertificate,
    /// The certificate cannot be read.
    #[error("the CA's certificate cannot be read")]
    Malformed(#[from] Malformed),
    /// The certificate may not sign others.
    #[error("the CA's certificate is not one of a CA (basic constraints, key usage keyCertSign)")]
    NotACa,
    /// The certificate belongs to another trust domain.
    #[error(
        "the CA is of {got}, but this node's trust domain is {expected}: correct the configuration or use another CA folder"
    )]
    OtherTrustDomain {
        /// As configured.
        expected: TrustDomain,
        /// As the certificate says.
        got: String,
    },
    /// Expired, or from the future.
    #[error("the CA's certificate is valid from {} to {} only: check the clock, or create a new CA", humantime::format_rfc3339_seconds(*.not_before), humantime::format_rfc3339_seconds(*.not_after))]
    NotValid {
        /// Start of validity.
        not_before: SystemTime,
        /// End of validity.
        not_after: SystemTime,
    },
    /// Key and certificate are not a pair.
    #[error("the CA's key does not belong to its certificate: restore the pair from one backup")]
    KeyMismatch,
    /// The root cannot be trusted as one.
    #[error("the CA's root cannot be used")]
    Root(#[from] BundleError),
    /// The verifier cannot read the certificate.
    #[error("the CA's certificate cannot be used")]
    Unusable(#[from] webpki::Error),
    /// Making a key or a certificate failed.
    #[error("cannot make the CA's key or certificate")]
    Make(#[from] rcgen::Error),
    /// The probe could not be named.
    #[error("the trust domain leaves no room for an identity")]
    Name(#[from] SpiffeIdError),
    /// The probe could not be issued.
    #[error("the CA cannot issue")]
    Issue(#[from] IssueError),
    /// A peer would not accept what this CA issues.
    #[error("peers would not accept what this CA issues")]
    Probe(#[source] PeerError),
}
