//! The log of the kernel programs, read by the agent: for finding faults, off by default.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::time::{MissedTickBehavior, interval};

use super::loader::Source;

/// How often the log is read: soon enough for somebody who watches.
const PERIOD: Duration = Duration::from_millis(200);

/// Hands every record of the kernel programs to the `log` facade, from which the agent's
/// subscriber takes it.
pub struct DebugLog {
    reading: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl DebugLog {
    /// Takes the log out of the loaded object.
    pub(super) fn new(object: &mut Ebpf) -> Result<Self, Source> {
        let mut logger = EbpfLogger::init(object)?;
        let reading = async move {
            let mut ticks = interval(PERIOD);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                logger.flush();
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
