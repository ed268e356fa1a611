//! Limits and timeouts of the transport. Every default states its reason here and nowhere else.

use std::time::Duration;

/// What bounds the transport in time and memory, on both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long `connect(2)` to a peer's HBONE listener may take.
    pub connect_timeout: Duration,
    /// How long TLS and the HTTP/2 preface together may take, on either end.
    pub handshake_timeout: Duration,
    /// How long a peer may take to answer a CONNECT. It dials the application meanwhile.
    pub answer_timeout: Duration,
    /// How long a carrier without streams is kept for the next connection.
    pub idle_timeout: Duration,
    /// How long the far end of a quiet carrier is trusted before it is asked for a sign of life.
    pub ping_interval: Duration,
    /// How long it may take to give that sign.
    pub ping_timeout: Duration,
    /// Carriers per (source identity, peer identity, gateway) that one stream at a time has to
    /// itself, if the peer is an agent of ours. 0 speaks HTTP/2 as everybody does.
    pub max_exclusive: usize,
    /// Carriers per (source identity, peer identity, gateway) before streams share one; between
    /// agents of ours, before streams of small messages do. Also how many are being made at once.
    pub max_carriers: usize,
    /// Streams that our client puts on one carrier, if the peer allows as many.
    pub max_streams: usize,
    /// Streams that our server allows a peer on one connection.
    pub max_accepted_streams: u32,
    /// Unread bytes that one stream may have in flight towards us, once bytes pass fast enough.
    pub stream_window: u32,
    /// Unread bytes that one connection may have in flight towards us, once bytes pass fast enough.
    pub connection_window: u32,
    /// Bytes that one stream may have waiting to be written to its connection, and memory that they
    /// may take.
    pub send_buffer: usize,
    /// Bytes that all connections of the agent together may keep, or promise to keep, beyond the
    /// least that each of them needs ([`bound_buffers`](super::bound_buffers)).
    pub max_buffered: usize,
    /// Largest HTTP/2 frame that we accept.
    pub max_frame_size: u32,
    /// Largest header list that our server accepts.
    pub max_request_headers: u32,
    /// Largest header list that our client accepts.
    pub max_response_headers: u32,
    /// Inbound handshakes under way at once.
    pub max_handshakes: usize,
    /// Inbound handshakes under way at once from one address.
    pub max_handshakes_per_address: usize,
    /// Ports that no CONNECT may name: the agent's own listeners.
    pub own_ports: [u16; 3],
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // ztunnel's value, so that mixed meshes fail alike. A SYN is retried at 1, 3 and 7 s.
            connect_timeout: Duration::from_secs(10),
            // A handshake costs under a millisecond of CPU; the rest is patience with a slow path.
            handshake_timeout: Duration::from_secs(10),
            // The peer's own connect timeout towards its application, and some way back.
            answer_timeout: Duration::from_secs(15),
            // ztunnel's value. A warm carrier saves 0.7 ms of CPU on both ends together
            // (reference/transport.md 4) and costs about 10 KiB on each.
            idle_timeout: Duration::from_mins(5),
            // ztunnel's values, but only a carrier that is silent is asked.
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            // Far more connections than a pair of workloads has open at once, unless they are idle
            // for the most part: those can share. 2 MiB at worst.
            max_exclusive: 256,
            // One stream per TLS connection carried three times what a shared one did, up to the
            // number of cores (reference/transport.md 2); twice four cores.
            max_carriers: 8,
            // ztunnel's value.
            max_streams: 100,
            // ztunnel's value; twice what our own client uses.
            max_accepted_streams: 200,
            // ztunnel's value: 3.3 Gbit/s for one stream at 10 ms round trip.
            stream_window: 4 << 20,
            // Four streams' worth, so that one stuck reader cannot close the connection's window.
            connection_window: 16 << 20,
            // Two of the largest reads: one being encrypted while the next arrives.
            send_buffer: 512 << 10,
            // Buffers of 512 KiB for a thousand directions, or full windows for thirty connections
            // to peers that are no agents of ours: more than a node's cores keep moving.
            max_buffered: 512 << 20,
            // 16 KiB frames cost a quarter of the throughput (reference/transport.md 8).
            max_frame_size: 1 << 20,
            // A CONNECT of ours is under 1 KiB; a foreign one may carry long baggage.
            max_request_headers: 64 << 10,
            // An answer is a status, a reason and baggage.
            max_response_headers: 16 << 10,
            // About 20 KiB each: 20 MiB, and 40 at worst, for as many again are for addresses that
            // have none under way.
            max_handshakes: 1024,
            // A peer's agent dials at most `max_carriers` per local identity at once; more than
            // this from one address is a fault or an attack, and must not starve the others.
            max_handshakes_per_address: 64,
            own_ports: [15001, 15006, 15008],
        }
    }
}
