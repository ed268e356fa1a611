//! An agent's access log, one connection per line, as the tests read it.

use std::fmt;
use std::time::SystemTime;

use serde::Deserialize;

/// One line: ztunnel's fields and ours. Fields that a line does not have are `None`.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct Line {
    /// When the agent wrote it, by its own clock.
    pub time: Option<String>,
    /// The client's address.
    #[serde(rename = "src.addr")]
    pub src_addr: Option<String>,
    /// The client's workload.
    #[serde(rename = "src.workload")]
    pub src_workload: Option<String>,
    /// The client's namespace.
    #[serde(rename = "src.namespace")]
    pub src_namespace: Option<String>,
    /// The client's proven identity.
    #[serde(rename = "src.identity")]
    pub src_identity: Option<String>,
    /// The address that was dialled.
    #[serde(rename = "dst.addr")]
    pub dst_addr: Option<String>,
    /// The authority of the CONNECT.
    #[serde(rename = "dst.hbone_addr")]
    pub dst_hbone_addr: Option<String>,
    /// The Service's host name.
    #[serde(rename = "dst.service")]
    pub dst_service: Option<String>,
    /// The server's workload.
    #[serde(rename = "dst.workload")]
    pub dst_workload: Option<String>,
    /// The server's namespace.
    #[serde(rename = "dst.namespace")]
    pub dst_namespace: Option<String>,
    /// The server's proven identity.
    #[serde(rename = "dst.identity")]
    pub dst_identity: Option<String>,
    /// `inbound` or `outbound`.
    pub direction: Option<String>,
    /// Bytes that the client sent.
    pub bytes_sent: Option<u64>,
    /// Bytes that the client received.
    pub bytes_recv: Option<u64>,
    /// How long it lasted, as `1234ms`.
    pub duration: Option<String>,
    /// Why it did not go well.
    pub error: Option<String>,
    /// What became of it.
    pub decision: Option<String>,
    /// The policy that decided.
    pub policy: Option<String>,
    /// The rule of that policy.
    pub rule: Option<u64>,
    /// The stable label of the reason.
    pub reason: Option<String>,
    /// The connection's number, the same in both agents' lines.
    pub conn_id: Option<String>,
    /// The cipher.
    #[serde(rename = "tls.cipher")]
    pub tls_cipher: Option<String>,
    /// The key exchange.
    #[serde(rename = "tls.kx")]
    pub tls_kx: Option<String>,
    /// `kernel` for what went from socket to socket.
    pub path: Option<String>,
    /// The round trip that the kernel measured, in microseconds.
    #[serde(rename = "tcp.srtt_us")]
    pub tcp_srtt_us: Option<u64>,
    /// How many segments the client's kernel sent again.
    #[serde(rename = "tcp.retransmits")]
    pub tcp_retransmits: Option<u64>,
    /// The line as it was written.
    #[serde(skip)]
    pub text: String,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Line {
    /// Reads one line of the log: `None` if it is no access line.
    pub fn parse(text: &str) -> Option<Self> {
        let line: Self = serde_json::from_str(text).ok()?;
        Some(Self {
            text: text.to_owned(),
            ..line
        })
    }

    /// Whether it is an agent's line about a connection that left one of its workloads.
    pub fn is_outbound(&self) -> bool {
        self.direction.as_deref() == Some("outbound")
    }

    /// Whether the local workload sent and received this many bytes.
    pub fn is_of(&self, sent: usize, received: usize) -> bool {
        let is = |have: Option<u64>, wanted: usize| have == u64::try_from(wanted).ok();
        is(self.bytes_sent, sent) && is(self.bytes_recv, received)
    }

    /// When the agent wrote it, which does not depend on when a test comes to look.
    pub fn at(&self) -> Option<SystemTime> {
        humantime::parse_rfc3339(self.time.as_deref()?).ok()
    }

    /// How long it lasted, in milliseconds.
    pub fn milliseconds(&self) -> Option<u64> {
        let text = self.duration.as_deref()?;
        text.strip_suffix("ms")?.parse().ok()
    }

    /// Whether the kernel carried it from socket to socket.
    pub fn is_direct(&self) -> bool {
        self.path.as_deref() == Some("kernel")
    }

    /// Whether the connection was carried.
    pub fn is_allowed(&self) -> bool {
        self.decision.as_deref() == Some("allowed")
    }
}
