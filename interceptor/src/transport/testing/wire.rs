//! The network between two nodes, which can fail and knows what it has carried.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{app, dial};
use crate::drain::Tasks;

/// What carries every connection to one address.
pub(in crate::transport) struct Wire {
    pub(in crate::transport) address: SocketAddr,
    accepting: Tasks,
    carrying: Mutex<Tasks>,
    frozen: CancellationToken,
    back: AtomicU64,
}

impl Wire {
    pub(in crate::transport) fn to(far: SocketAddr) -> Arc<Self> {
        let (listener, address) = app();
        let wire = Arc::new(Self {
            address,
            accepting: Tasks::new(),
            carrying: Mutex::default(),
            frozen: CancellationToken::new(),
            back: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&wire);
        wire.accepting.spawn("wire", async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let tasks = accepting.carrying.lock().clone();
                let wire = Arc::clone(&accepting);
                tasks.spawn(
                    "wire connection",
                    async move { wire.carry(near, far).await },
                );
            }
        });
        wire
    }

    /// Ends every connection on it without a goodbye. New ones work.
    pub(in crate::transport) fn interrupt(&self) {
        std::mem::take(&mut *self.carrying.lock()).cancel();
    }

    /// Carries nothing more, without telling anybody.
    pub(in crate::transport) fn freeze(&self) {
        self.frozen.cancel();
    }

    /// Bytes that it has brought back from the far end.
    pub(in crate::transport) fn back(&self) -> u64 {
        self.back.load(Ordering::Relaxed)
    }

    async fn carry(&self, mut near: TcpStream, far: SocketAddr) {
        let mut far = dial(far).await.unwrap();
        // Or the kernel keeps what is small until all before it is acknowledged.
        near.set_nodelay(true).unwrap();
        far.set_nodelay(true).unwrap();
        let ((near, to_near), (far, to_far)) = (near.split(), far.split());
        let there = AtomicU64::new(0);
        let both = async {
            // Whatever ends one direction badly ends both.
            let ended =
                tokio::try_join!(pass(near, to_far, &there), pass(far, to_near, &self.back),);
            drop(ended);
        };
        if self.frozen.run_until_cancelled(both).await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    passed: &AtomicU64,
) -> io::Result<()> {
    let mut piece = vec![0; 64 << 10];
    while let count @ 1.. = from.read(&mut piece).await? {
        to.write_all(&piece[..count]).await?;
        passed.fetch_add(u64::try_from(count).unwrap(), Ordering::Relaxed);
    }
    to.shutdown().await
}
