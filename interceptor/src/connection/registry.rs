//! The connections that are open now, and what their verdicts rest on.
//!
//! Everybody who asks "what is going on" reads from here: `interceptor connections`, the metrics
//! scrape, and the re-check that runs after every change of the mesh. A connection is here from
//! capture until its record is about to be written; [`Entry`] removes it on drop, so no path can
//! forget it.
//!
//! Not here: refusals and failures of the past (`telemetry::recent`).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use interceptor_policy::SpiffeId;
use parking_lot::Mutex;

use crate::net::Traffic;
use crate::telemetry::record::{Reason, Record, TcpFacts};
use crate::workload::WorkloadId;

/// Shards of the table: enough that cores rarely meet at one lock, few enough that a snapshot is
/// cheap.
const SHARDS: usize = 16;

/// What a verdict rested on, kept so that it can be taken again when the mesh changes.
#[derive(Clone, Debug)]
pub enum Basis {
    /// A captured connection of a local workload.
    Outbound {
        /// The workload that dialled.
        source: WorkloadId,
        /// The identity under which it dialled.
        identity: SpiffeId,
        /// Where it wanted to go.
        original: SocketAddr,
        /// The address of the workload that it reached, and who the mesh says that is; `None` for
        /// plaintext.
        peer: Option<(IpAddr, SpiffeId)>,
    },
    /// One that the kernel carries; `direct` knows, and cuts it.
    Direct,
    /// A connection to a local workload.
    Inbound {
        /// The workload that is reached.
        destination: WorkloadId,
        /// The client's proven identity; `None` for plaintext.
        identity: Option<SpiffeId>,
        /// The client's address.
        source_ip: IpAddr,
        /// The workload's address and port that is reached.
        target: SocketAddr,
    },
}

/// One open connection.
#[derive(Debug)]
pub struct Live {
    /// What its verdict rests on.
    pub basis: Basis,
    /// Bytes so far.
    pub traffic: Arc<Traffic>,
    /// What the kernel measured so far, where it carries the connection.
    pub tcp: Mutex<Option<TcpFacts>>,
    /// When it was captured.
    pub since: Instant,
    /// What is known so far.
    pub record: Arc<Record>,
    /// Key in the table. Not the connection id: both ends may be ours and share that one, and a
    /// peer chooses what it sends.
    key: u64,
    cut_reason: OnceLock<Box<Reason>>,
    /// Who waits for it.
    cutter: Mutex<Option<Waker>>,
}

impl Live {
    /// Ends the connection for `reason`. The first reason stays.
    pub fn cut(&self, reason: Reason) {
        if self.cut_reason.set(Box::new(reason)).is_ok()
            && let Some(waiting) = self.cutter.lock().take()
        {
            waiting.wake();
        }
    }

    /// `waits` is whose waker is kept already; 0 for nobody's.
    fn poll_cut(&self, cx: &Context<'_>, waits: &mut usize) -> Poll<Reason> {
        let reason = || self.cut_reason.get().map(|reason| Reason::clone(reason));
        // What is kept is let go only when there is a reason, so nobody else can be at its place.
        let waker = cx.waker().data().addr();
        if *waits != waker {
            *self.cutter.lock() = Some(cx.waker().clone());
            *waits = waker;
        }
        reason().map_or(Poll::Pending, Poll::Ready)
    }
}

/// Waits until a connection is to be cut, and why. One task at a time may wait for a connection: the
/// one that carries it, which looks with every message.
#[derive(Debug)]
pub struct Cutting {
    live: Arc<Live>,
    waits: usize,
}

impl Cutting {
    /// Of this connection.
    pub const fn of(live: Arc<Live>) -> Self {
        Self { live, waits: 0 }
    }

    /// Ready with the reason once there is one.
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<Reason> {
        self.live.poll_cut(cx, &mut self.waits)
    }
}

type Shard = Mutex<HashMap<u64, Arc<Live>>>;

/// All open connections of this agent. Clones share the same table.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Table>);

#[derive(Debug, Default)]
struct Table {
    shards: [Shard; SHARDS],
    next: AtomicU64,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters a connection that was allowed. It is removed when the returned entry is dropped.
    pub fn open(&self, record: impl Into<Arc<Record>>, basis: Basis, since: Instant) -> Entry {
        let live = Arc::new(Live {
            basis,
            traffic: Arc::default(),
            tcp: Mutex::default(),
            since,
            record: record.into(),
            key: self.0.next.fetch_add(1, Ordering::Relaxed),
            cut_reason: OnceLock::new(),
            cutter: Mutex::new(None),
        });
        if let Some(shard) = self.shard(live.key) {
            shard.lock().insert(live.key, Arc::clone(&live));
        }
        Entry {
            registry: self.clone(),
            live,
        }
    }

    /// The connections that are open now, in no order.
    pub fn snapshot(&self) -> Vec<Arc<Live>> {
        let mut all = Vec::new();
        for shard in &self.0.shards {
            all.extend(shard.lock().values().cloned());
        }
        all
    }

    /// How many connections have been opened since the agent started.
    pub fn opened(&self) -> u64 {
        self.0.next.load(Ordering::Relaxed)
    }

    /// How many connections are open now.
    pub fn len(&self) -> usize {
        self.0.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// True if no connection is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, key: u64) -> Option<&Shard> {
        let shards = u64::try_from(SHARDS).ok()?;
        self.0.shards.get(usize::try_from(key % shards).ok()?)
    }
}

/// Keeps a connection in the registry; dropping it takes the connection out.
#[derive(Debug)]
pub struct Entry {
    registry: Registry,
    live: Arc<Live>,
}

impl Entry {
    /// The connection, to be looked at beside the entry.
    pub fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live)
    }
}

impl std::ops::Deref for Entry {
    type Target = Live;

    fn deref(&self) -> &Live {
        &self.live
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(shard) = self.registry.shard(self.live.key) {
            shard.lock().remove(&self.live.key);
        }
    }
}
