//! Fixed states for golden files.

use super::*;
use crate::telemetry::shadow::Reporting;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn prober() -> Prober {
    Prober {
        cgroups: vec!["/system.slice/kubelet.service".to_owned()],
        problem: None,
        probes: 31,
    }
}

fn same_node() -> SameNode {
    SameNode {
        granted: 1,
        open: 1,
        ..SameNode::default()
    }
}

fn authority() -> Authority {
    let serial = "4a1b2c3d4e5f60718293a4b5c6d7e8f9".to_owned();
    Authority {
        issuer: "embedded CA".to_owned(),
        serial: Some(serial.clone()),
        roots: vec![Root {
            trust_domain: "cluster.local".to_owned(),
            serial,
            not_before: Some(at("2025-01-01T00:00:00Z")),
            not_after: Some(at("2034-12-30T00:00:00Z")),
        }],
        last_error: None,
    }
}

fn certificate() -> Certificate {
    Certificate {
        identity: "spiffe://cluster.local/ns/demo/sa/caller".to_owned(),
        serial: Some("0f1e2d3c4b5a69788796a5b4c3d2e1f0".to_owned()),
        issuer: "embedded CA of cluster.local".to_owned(),
        not_before: Some(at("2025-03-01T11:00:00Z")),
        not_after: Some(at("2025-03-02T11:00:00Z")),
        renew_at: Some(at("2025-03-01T23:00:00Z")),
        last_error: None,
    }
}

/// An agent that does its work.
pub(crate) fn healthy() -> Status {
    Status {
        node: "one".to_owned(),
        version: "0.1.0".to_owned(),
        pid: 4711,
        started: at("2025-03-01T11:00:00Z"),
        readiness: Readiness::default(),
        programs: vec![
            Program {
                name: "connect4".to_owned(),
                attached_to: "/sys/fs/cgroup".to_owned(),
                id: 101,
                pinned: true,
            },
            Program {
                name: "sk_lookup".to_owned(),
                attached_to: "demo/caller".to_owned(),
                id: 107,
                pinned: true,
            },
        ],
        counters: vec![
            KernelCounter {
                name: "captured".to_owned(),
                help: "Outbound connections redirected to the agent".to_owned(),
                value: 12,
            },
            KernelCounter {
                name: "refused_storage".to_owned(),
                help: "Connections refused because they could not be remembered".to_owned(),
                value: 0,
            },
        ],
        maps: vec![MapFill {
            name: "flows".to_owned(),
            holds: "connections being made or open".to_owned(),
            entries: 3,
            capacity: 65_536,
        }],
        workloads: vec![EnrolledWorkload {
            namespace: "demo".to_owned(),
            name: "caller".to_owned(),
            key: Some("1a".to_owned()),
            identity: "spiffe://cluster.local/ns/demo/sa/caller".to_owned(),
            addresses: vec!["10.1.0.2".parse().unwrap(), "fd00:1::2".parse().unwrap()],
            inbound: "all except 15020, 15021, 15090".to_owned(),
            outbound: "all".to_owned(),
            error: None,
        }],
        certificates: vec![certificate()],
        authority: authority(),
        configuration: Configuration {
            source: "/etc/interceptor/manifests".to_owned(),
            version: 3,
            loaded: Some(at("2025-03-01T11:30:00Z")),
            mistakes: Vec::new(),
        },
        prober: prober(),
        unprotected: Vec::new(),
        losses: KernelLoss::all(&crate::capture::Losses::default()),
        reporting: Vec::new(),
        connections_open: 2,
        same_node: same_node(),
        buffered: Buffered {
            bytes: 36_864,
            most: 512 << 20,
        },
        panics: 0,
    }
}

/// An agent with everything that can be wrong.
pub(crate) fn troubled() -> Status {
    let mut status = healthy();
    status.readiness.missing = vec!["workloads are being enrolled".to_owned()];
    status.workloads.push(EnrolledWorkload {
        namespace: "demo".to_owned(),
        name: "server".to_owned(),
        key: None,
        identity: "spiffe://cluster.local/ns/demo/sa/server".to_owned(),
        addresses: vec!["10.1.0.3".parse().unwrap()],
        inbound: "all".to_owned(),
        outbound: "all".to_owned(),
        error: Some("/run/netns/server does not exist; is the container running?".to_owned()),
    });
    if let Some(certificate) = status.certificates.first_mut() {
        certificate.last_error = Some("the CA certificate has expired".to_owned());
    }
    status.buffered.bytes = status.buffered.most;
    status.panics = 1;
    status.authority.last_error = Some(
        "the CA's key does not belong to its certificate: restore the pair from one backup"
            .to_owned(),
    );
    status.configuration.mistakes = vec![
        Finding {
            severity: Severity::Error,
            place: "demo.yaml:12:7: spec.rules[0].from[0].source.ipBlocks[0]".to_owned(),
            message: "\"10.0.0.0/33\" is not a CIDR".to_owned(),
        },
        Finding {
            severity: Severity::Warning,
            place: "demo.yaml:40:3: spec.selector".to_owned(),
            message: "selects no workload".to_owned(),
        },
    ];
    status.prober = Prober {
        problem: Some("the cgroup /sys/fs/cgroup/kubelet: No such file or directory".to_owned()),
        ..Prober::default()
    };
    let reporting = |policy: &str, action: &str, would_refuse, audited| Summary {
        policy: Reporting {
            policy: policy.to_owned(),
            action: action.to_owned(),
            dry_run: action == "DENY",
        },
        would_refuse,
        would_allow: 0,
        audited,
    };
    status.reporting = vec![
        reporting("demo/only-operator", "DENY", 3, 0),
        reporting("demo/watch", "AUDIT", 0, 41),
    ];
    status.unprotected = vec![
        Unprotected {
            subject: "demo/batch".to_owned(),
            what: "everything".to_owned(),
            why: "not enrolled: label istio.io/dataplane-mode is none".to_owned(),
            connections: None,
        },
        Unprotected {
            subject: "demo/caller".to_owned(),
            what: "outbound to 192.0.2.7:443".to_owned(),
            why: "unknown_destination".to_owned(),
            connections: Some(2),
        },
    ];
    status
}
