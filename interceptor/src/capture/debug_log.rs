//! The log of the kernel programs, read by the agent: for finding faults, off by default.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::loader::Source;

/// Hands every record of the kernel programs to the `log` facade, from which the agent's
/// subscriber takes it.
pub struct DebugLog {
    reading: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl DebugLog {
    /// Takes the log out of the loaded object.
    pub(super) fn new(object: &mut Ebpf) -> Result<Self, Source> {
        let logger = EbpfLogger::init(object)?;
        let mut records = AsyncFd::register_with_interest(logger, Interest::READABLE)?;
        let reading = async move {
            while let Ok(mut ready) = records.readable_mut().await {
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
        };
        Ok(Self {
            reading: Box::pin(reading),
        })
    }

    /// Reads until dropped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses records and nothing else.
    pub async fn run(self) {
        self.reading.await;
    }
}

impl fmt::Debug for DebugLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DebugLog")
    }
}
