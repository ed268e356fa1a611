//! What differs between connections that are alike in everything else.

use std::net::SocketAddr;
use std::time::Duration;

use super::{ConnectionId, Record, TcpFacts};

/// The part of a [`Record`] that is a connection's own, where thousands of others have the same
/// ends, were allowed for the same reason and were carried in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Its number.
    pub id: ConnectionId,
    /// The client's address.
    pub source: Option<SocketAddr>,
    /// Bytes that the client sent.
    pub bytes_sent: u64,
    /// Bytes that the client received.
    pub bytes_received: u64,
    /// From capture to close.
    pub duration: Duration,
    /// What the kernel measured, when it carried the connection.
    pub tcp: Option<TcpFacts>,
}

/// What many of them have carried together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many connections.
    pub connections: u64,
    /// Bytes that the clients sent.
    pub bytes_sent: u64,
    /// Bytes that the clients received.
    pub bytes_received: u64,
    /// The latest client's address.
    pub source: Option<SocketAddr>,
}

impl Tally {
    /// Adds a connection.
    pub fn add(&mut self, numbers: &Numbers) {
        self.connections += 1;
        self.bytes_sent = self.bytes_sent.saturating_add(numbers.bytes_sent);
        self.bytes_received = self.bytes_received.saturating_add(numbers.bytes_received);
        self.source = numbers.source.or(self.source);
    }
}

impl Record {
    /// What is this connection's own.
    pub const fn numbers(&self) -> Numbers {
        Numbers {
            id: self.id,
            source: self.source.address,
            bytes_sent: self.bytes_sent,
            bytes_received: self.bytes_received,
            duration: self.duration,
            tcp: self.tcp,
        }
    }

    /// The same with another connection's own.
    #[must_use]
    pub fn with(&self, numbers: &Numbers) -> Self {
        let mut record = self.clone();
        record.id = numbers.id;
        record.source.address = numbers.source;
        record.bytes_sent = numbers.bytes_sent;
        record.bytes_received = numbers.bytes_received;
        record.duration = numbers.duration;
        record.tcp = numbers.tcp;
        record
    }
}
