//! Where an accepted connection was headed.
//!
//! The kernel programs answer `getsockname(2)` on a captured connection with its original
//! destination. Should they not have run, the answer is the socket's plain address: loopback if
//! somebody inside of the namespace dialled the listener, else an address of the workload itself.
//! Neither is ever an original destination, because a workload's connections to loopback and to
//! itself are not captured. So the two cases cannot be confused, and the agent never dials
//! itself.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::net::TcpStream;

use super::error::DestinationError;

/// Tells where the connections of one workload's listeners were headed. Clones follow changes of
/// the workload's addresses.
#[derive(Clone, Debug)]
pub struct Origin {
    own: Arc<ArcSwap<Vec<IpAddr>>>,
}

impl Origin {
    /// For a workload with these addresses.
    pub(super) fn new(own: Vec<IpAddr>) -> Self {
        Self {
            own: Arc::new(ArcSwap::from_pointee(own)),
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
        let origin = Origin::new(vec!["10.0.0.1".parse().unwrap()]);
        let refused = origin.outbound(&stream).unwrap_err();
        assert_eq!(refused.reason(), "not_captured");
        assert_eq!(
            origin.inbound(&stream).unwrap_err().reason(),
            "not_captured"
        );
    }
}
