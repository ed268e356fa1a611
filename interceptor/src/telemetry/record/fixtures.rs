//! Fixed records for golden files: one of each outcome.

use super::*;
use crate::telemetry::shadow::Effect;
use crate::workload::{
    Canonical, CaptureRules, Enrolment, SameNode, TunnelProtocol, UnknownDestinations, WorkloadId,
};

/// A workload `demo/<name>` with service account `<name>` at `address`.
pub(crate) fn workload(name: &str, address: &str) -> Arc<Workload> {
    Arc::new(Workload {
        id: WorkloadId {
            namespace: "demo".into(),
            name: name.into(),
        },
        identity: identity(name),
        addresses: vec![address.parse().unwrap()],
        labels: Arc::default(),
        node: Some("one".into()),
        ports: Arc::default(),
        protocol: TunnelProtocol::Hbone,
        enrolment: Enrolment::Enrolled,
        healthy: true,
        capture: CaptureRules::default(),
        binding: None,
        unknown_destinations: UnknownDestinations::Passthrough,
        same_node: SameNode::Kernel,
        canonical: Arc::new(Canonical {
            app: name.into(),
            version: "v1".into(),
            service: name.into(),
            revision: "v1".into(),
            workload: name.into(),
        }),
    })
}

fn identity(name: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/demo/sa/{name}")
        .parse()
        .unwrap()
}

fn end(name: &str, socket: &str) -> End {
    let address: SocketAddr = socket.parse().unwrap();
    End {
        address: Some(address),
        workload: Some(workload(name, &address.ip().to_string())),
        identity: Some(identity(name)),
    }
}

/// What an AUDIT policy and one in dry-run said.
fn shadows() -> Vec<Shadow> {
    let shadow = |name: &str, effect| Shadow {
        policy: PolicyName::new("demo", name),
        rule: Some(0),
        effect,
    };
    vec![
        shadow("watch", Effect::Audited),
        shadow("only-operator", Effect::WouldRefuse),
    ]
}

/// A call that went through, reported by the client's agent.
pub(crate) fn allowed() -> Record {
    Record {
        id: ConnectionId(0x00c0_ffee_0000_0001),
        reporter: Reporter::Source,
        source: end("caller", "10.1.0.2:43210"),
        destination: end("server", "10.2.0.2:15008"),
        hbone_address: Some("10.2.0.2:8080".parse().unwrap()),
        service: Some(ServiceName {
            namespace: "demo".into(),
            name: "server".into(),
            host: "server.demo.svc.cluster.local".into(),
        }),
        security: Security::MutualTls,
        outcome: Outcome::Allowed,
        reason: Reason {
            label: Label::Allowed,
            policy: None,
            rule: None,
            detail: None,
        },
        shadows: Vec::new(),
        flags: ResponseFlags::None,
        tls: Some(TlsFacts {
            cipher: "TLS13_AES_128_GCM_SHA256",
            key_exchange: "X25519MLKEM768",
        }),
        tcp: None,
        bytes_sent: 84,
        bytes_received: 175,
        duration: Duration::from_millis(3),
    }
}

/// A call inside of one node, which the kernel carried.
pub(crate) fn direct() -> Record {
    Record {
        destination: end("server", "10.1.0.4:8080"),
        hbone_address: None,
        security: Security::Kernel,
        reason: Reason {
            label: Label::Allowed,
            policy: Some(policy("allow-caller")),
            rule: Some(0),
            detail: None,
        },
        tls: None,
        tcp: Some(TcpFacts {
            round_trip: Duration::from_micros(46),
            retransmits: 0,
        }),
        ..allowed()
    }
}

/// The same call, reported by the server's agent.
pub(crate) fn allowed_inbound() -> Record {
    Record {
        reporter: Reporter::Destination,
        shadows: shadows(),
        reason: Reason {
            label: Label::Allowed,
            policy: Some(policy("allow-caller")),
            rule: Some(0),
            detail: None,
        },
        ..allowed()
    }
}

/// A call that the server's agent refused by policy.
pub(crate) fn denied() -> Record {
    Record {
        source: end("intruder", "10.1.0.3:50000"),
        outcome: Outcome::Denied,
        reason: Reason {
            label: Label::NoAllowMatched,
            policy: Some(policy("allow-caller")),
            rule: Some(0),
            detail: Some(
                "no ALLOW policy matched; nearest: demo/allow-caller rule 0 failed at \
                 from[0].source.principals: \"cluster.local/ns/demo/sa/intruder\" is not in \
                 [\"cluster.local/ns/demo/sa/caller\"]"
                    .into(),
            ),
        },
        flags: ResponseFlags::Deny,
        bytes_sent: 0,
        bytes_received: 0,
        shadows: Vec::new(),
        ..allowed_inbound()
    }
}

/// A call whose peer could not be reached.
pub(crate) fn failed() -> Record {
    Record {
        outcome: Outcome::Failed,
        reason: Reason {
            label: Label::Unreachable,
            policy: None,
            rule: None,
            detail: Some(
                "cannot reach 10.2.0.2:15008: connection refused; is the agent of node two \
                 running?"
                    .into(),
            ),
        },
        flags: ResponseFlags::Connect,
        tls: None,
        bytes_sent: 0,
        bytes_received: 0,
        ..allowed()
    }
}

/// A call that was cut when its policy changed.
pub(crate) fn cut() -> Record {
    Record {
        outcome: Outcome::Cut,
        reason: Reason {
            label: Label::Denied,
            policy: Some(policy("deny-caller")),
            rule: Some(1),
            detail: Some("policy demo/deny-caller rule 1 now denies it".into()),
        },
        flags: ResponseFlags::Deny,
        duration: Duration::from_secs(90),
        shadows: Vec::new(),
        ..allowed_inbound()
    }
}

/// A call to the world outside of the mesh.
pub(crate) fn passthrough() -> Record {
    Record {
        destination: End {
            address: Some("192.0.2.7:443".parse().unwrap()),
            ..End::default()
        },
        hbone_address: None,
        service: None,
        security: Security::None,
        reason: Reason::labelled(Label::UnknownDestination),
        tls: None,
        ..allowed()
    }
}

fn policy(name: &str) -> PolicyName {
    PolicyName {
        namespace: "demo".into(),
        name: name.into(),
    }
}
