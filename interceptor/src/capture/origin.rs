//! Where an accepted connection was headed.
//!
//! The kernel programs answer `getsockname(2)` on a captured connection with its original
//! destination. Should they not have run, the answer is the socket's plain address: loopback if
//! somebody inside of the namespace dialled the listener, else an address of the workload itself.
//! Neither is ever an original destination, because a workload's connections to loopback and to
//! itself are not captured. So the two cases cannot be confused, and the agent never dials
//! itself.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use arc_swap::ArcSwap;
use interceptor_common::FlowKind;
use tokio::net::TcpStream;

use super::error::DestinationError;
use crate::net::bpf;

/// Tells where the connections of one workload's listeners were headed. Clones follow changes of
/// the workload's addresses.
#[derive(Clone, Debug)]
pub struct Origin {
    own: Arc<ArcSwap<Vec<IpAddr>>>,
    /// The map of what the kernel knows of sockets.
    storage: Arc<OwnedFd>,
}

impl Origin {
    /// For a workload with these addresses.
    pub(super) fn new(own: Vec<IpAddr>, storage: Arc<OwnedFd>) -> Self {
        Self {
            own: Arc::new(ArcSwap::from_pointee(own)),
            storage,
        }
    }

    /// The workload has these addresses from now on.
    pub(super) fn set(&self, own: Vec<IpAddr>) {
        self.own.store(Arc::new(own));
    }

    /// The original destination of a connection that the outbound listener accepted.
    ///
    /// # Errors
    ///
    /// If the connection was not captured, or is gone.
    pub fn outbound(&self, stream: &TcpStream) -> Result<SocketAddr, DestinationError> {
        let local = local(stream)?;
        if self.own.load().contains(&local.ip()) {
            return Err(DestinationError::NotCaptured { local });
        }
        Ok(local)
    }

    /// Whether a connection that the outbound listener accepted has a destination with a grant, of
    /// which the kernel drew the share that is the agent's: then only endpoints that the grant does
    /// not name may be chosen, or those that it names would get more than their share.
    ///
    /// A system call of two microseconds; ask it where such a grant was published.
    ///
    /// # Errors
    ///
    /// If the kernel does not say.
    pub fn is_rest_of_grant(&self, stream: &TcpStream) -> io::Result<bool> {
        let flow = bpf::socket_storage(self.storage.as_fd(), stream.as_fd())?;
        Ok(flow.is_some_and(|it| it.is(FlowKind::AcceptedOutbound) && it.generation != 0))
    }

    /// The workload's address and port that a connection to one of the inbound listeners was
    /// headed for.
    ///
    /// # Errors
    ///
    /// If it was dialled over loopback, or is gone.
    pub fn inbound(&self, stream: &TcpStream) -> Result<SocketAddr, DestinationError> {
        local(stream)
    }
}

/// The socket's own idea of where it is, which must not be loopback.
fn local(stream: &TcpStream) -> Result<SocketAddr, DestinationError> {
    let local = stream.local_addr().map_err(DestinationError::Gone)?;
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    if local.ip().is_loopback() || local.ip().is_unspecified() {
        return Err(DestinationError::NotCaptured { local });
    }
    Ok(local)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_was_not_captured_has_no_destination() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _client = TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let storage = std::fs::File::open("/dev/null").unwrap();
        let own = vec!["10.0.0.1".parse().unwrap()];
        let origin = Origin::new(own, Arc::new(storage.into()));
        let refused = origin.outbound(&stream).unwrap_err();
        assert_eq!(refused.reason(), "not_captured");
        assert_eq!(
            origin.inbound(&stream).unwrap_err().reason(),
            "not_captured"
        );
        assert!(origin.is_rest_of_grant(&stream).is_err());
    }
}
