//! Making carriers, and their lives: tasks of their own, which outlive whoever asked for them.
//!
//! Not here: who gets a carrier (`pool.rs`, `exclusive/warm.rs`).

use std::sync::Arc;

use super::super::error::TunnelError;
use super::super::exclusive::{Dial, Dialled, Warm};
use super::carrier::{Carrier, Established, Offer, establish};
use super::client::Shared;
use super::pool::{Key, Pool, Slot};

impl Shared {
    /// Makes carriers that one stream at a time has to itself, as long as somebody waits for one.
    /// A peer that does not speak that gets a shared one.
    pub(super) async fn dial(self: Arc<Self>, key: Key, dial: Dial) {
        let mut next = Some(dial);
        while let Some(dial) = next {
            let made = (&self.config, Offer::Exclusive);
            let svid = Arc::clone(&dial.svid);
            let established = establish(&self.dialer, &self.tls, &svid, &key, made).await;
            let (dialled, shared) = match established {
                Ok(Established::Exclusive {
                    carrier,
                    facts,
                    until,
                }) => (Dialled::Exclusive(carrier, facts, until), None),
                Ok(Established::Shared(carrier)) => {
                    // In the pool before anybody who waits looks for it there.
                    let slot = self.pool.adopt(&key, &svid);
                    slot.ready(carrier.requests.clone(), carrier.facts, carrier.allowed);
                    (Dialled::Http2, Some((slot, carrier)))
                }
                Err(error) => (Dialled::Failed(error), None),
            };
            next = Warm::dialled(dial, dialled);
            if let Some((slot, carrier)) = shared {
                let tasks = self.tasks.clone();
                tasks.spawn("carrier", Arc::clone(&self).drive(slot, carrier));
            }
        }
    }

    /// One shared carrier's life: set-up, service, end.
    pub(super) async fn carry(self: Arc<Self>, slot: Arc<Slot>) {
        let unfinished = Unfinished(Arc::clone(&slot), Arc::clone(&self.pool));
        let offer = if self.config.max_exclusive == 0 {
            Offer::Http2
        } else {
            Offer::Mux
        };
        let made = (&self.config, offer);
        let established = establish(&self.dialer, &self.tls, &slot.svid, &slot.key, made).await;
        match established {
            Ok(Established::Shared(carrier)) => {
                slot.ready(carrier.requests.clone(), carrier.facts, carrier.allowed);
                Arc::clone(&self).drive(slot, carrier).await;
            }
            // Not offered, so not chosen.
            Ok(Established::Exclusive { .. }) => {}
            Err(error) => slot.publish(Err(error)),
        }
        drop(unfinished);
    }

    async fn drive(self: Arc<Self>, slot: Arc<Slot>, carrier: Box<Carrier>) {
        let unfinished = Unfinished(Arc::clone(&slot), Arc::clone(&self.pool));
        let (pool, tasks) = (Arc::clone(&self.pool), self.tasks.clone());
        let Carrier {
            driver, requests, ..
        } = *carrier;
        // Only those that have the carrier keep it: it ends with the last of them.
        drop(requests);
        driver.run(slot, pool, tasks).await;
        drop(unfinished);
    }
}

/// Leaves nobody waiting for a carrier whose task was cancelled or has failed.
struct Unfinished(Arc<Slot>, Arc<Pool>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.1.retire(&self.0);
        self.0.requests.lock().take();
        self.0.publish(Err(TunnelError::Draining));
    }
}
