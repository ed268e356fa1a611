//! Policies from bytes: every byte is a choice, so that small changes of the input are small changes
//! of the policy, and any input is one.

use std::collections::BTreeMap;

use interceptor_policy::spec::{
    AuthorizationPolicySpec, ConditionSpec, FromSpec, MtlsSpec, OperationSpec,
    PeerAuthenticationSpec, RuleSpec, SelectorSpec, SourceSpec, TargetRefSpec, ToSpec,
};
use interceptor_policy::{PolicyMeta, Settings};

/// Values that fields are made of. What is no value of one field is one of another.
const TEXTS: [&str; 48] = [
    "*",
    "",
    "a",
    "cluster.local/ns/demo/sa/a",
    "*/ns/demo/sa/a",
    "cluster.local/ns/demo/*",
    "*/sa/b",
    "old.org/ns/demo/sa/a",
    "spiffe://cluster.local/ns/demo/sa/a",
    "demo",
    "ops",
    "de*",
    "*o",
    "d*o",
    "demo/a",
    "demo/*",
    "cluster.local",
    "old.org",
    "10.0.0.1",
    "10.0.0.0/8",
    "10.0.0.1/8",
    "0.0.0.0/0",
    "::/0",
    "2001:db8::1",
    "::ffff:10.0.0.0/104",
    "10.0.0.0/33",
    "80",
    "8080",
    "8000-9000",
    "9000-8000",
    "0",
    "65535",
    "65536",
    "http",
    "-1",
    "+80",
    "080",
    "GET",
    "/admin",
    "example.com",
    "10.0.0.0/8,80",
    "\u{202e}",
    "\u{1f980}",
    "\n",
    " 80",
    "**",
    "*a*",
    "cluster.local/ns//sa/",
];

const KEYS: [&str; 16] = [
    "source.principal",
    "source.namespace",
    "source.ip",
    "source.serviceAccount",
    "source.trustDomain",
    "destination.ip",
    "destination.port",
    "remote.ip",
    "request.headers[x]",
    "request.auth.claims[a]",
    "connection.sni",
    "experimental.envoy.filters.a",
    "",
    "source",
    "source.principals",
    "source.port",
];

/// An input that is read choice by choice. At its end every choice is the first.
pub(crate) struct Choices<'i>(&'i [u8]);

impl<'i> Choices<'i> {
    pub(crate) const fn new(input: &'i [u8]) -> Self {
        Self(input)
    }

    pub(crate) const fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    pub(crate) fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn text(&mut self) -> String {
        match self.byte() {
            // Now and then whatever the input says.
            255 => {
                let length = self.below(24).min(self.0.len());
                let (text, rest) = self.0.split_at(length);
                self.0 = rest;
                String::from_utf8_lossy(text).into_owned()
            }
            byte => TEXTS[usize::from(byte) % TEXTS.len()].to_owned(),
        }
    }

    fn texts(&mut self) -> Vec<String> {
        let count = match self.byte() {
            0..=175 => 0,
            176..=230 => 1,
            byte => usize::from(byte) - 228,
        };
        (0..count).map(|_| self.text()).collect()
    }

    fn option<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (!self.byte().is_multiple_of(3)).then(|| make(self))
    }

    fn list<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }

    fn source(&mut self) -> SourceSpec {
        SourceSpec {
            principals: self.texts(),
            not_principals: self.texts(),
            namespaces: self.texts(),
            not_namespaces: self.texts(),
            service_accounts: self.texts(),
            not_service_accounts: self.texts(),
            trust_domains: self.texts(),
            not_trust_domains: self.texts(),
            ip_blocks: self.texts(),
            not_ip_blocks: self.texts(),
            remote_ip_blocks: self.texts(),
            request_principals: self.texts(),
            ..SourceSpec::default()
        }
    }

    fn operation(&mut self) -> OperationSpec {
        OperationSpec {
            ports: self.texts(),
            not_ports: self.texts(),
            hosts: self.texts(),
            methods: self.texts(),
            not_methods: self.texts(),
            paths: self.texts(),
            ..OperationSpec::default()
        }
    }

    fn rule(&mut self) -> RuleSpec {
        RuleSpec {
            from: self.option(|c| {
                c.list(3, |c| FromSpec {
                    source: c.option(Self::source),
                })
            }),
            to: self.option(|c| {
                c.list(3, |c| ToSpec {
                    operation: c.option(Self::operation),
                })
            }),
            when: self.list(2, |c| ConditionSpec {
                key: c.one(&KEYS).to_owned(),
                values: c.texts(),
                not_values: c.texts(),
            }),
        }
    }

    fn selector(&mut self) -> Option<SelectorSpec> {
        let label = self.below(6);
        (label > 3).then(|| SelectorSpec {
            match_labels: match label {
                4 => BTreeMap::from([("app".to_owned(), "a".to_owned())]),
                _ => BTreeMap::from([(self.text(), self.text())]),
            },
        })
    }

    fn target_ref(&mut self) -> TargetRefSpec {
        TargetRefSpec {
            group: self
                .one(&["", "core", "gateway.networking.k8s.io"])
                .to_owned(),
            kind: self.one(&["Service", "Gateway", "Pod"]).to_owned(),
            name: self.one(&["web", "a", ""]).to_owned(),
            namespace: None,
        }
    }

    /// An `AuthorizationPolicy` as written.
    pub(crate) fn policy(&mut self) -> (PolicyMeta, AuthorizationPolicySpec) {
        let dry_run = self.one(&[None, None, None, Some("true"), Some("false"), Some("yes")]);
        let meta = PolicyMeta {
            dry_run: dry_run.map(str::to_owned),
        };
        let actions = [
            None,
            Some("ALLOW"),
            Some("DENY"),
            Some("AUDIT"),
            Some("CUSTOM"),
            Some("deny"),
        ];
        let spec = AuthorizationPolicySpec {
            action: self.one(&actions).map(str::to_owned),
            selector: self.selector(),
            target_refs: if self.byte() > 220 {
                self.list(2, Self::target_ref)
            } else {
                Vec::new()
            },
            rules: self.list(4, Self::rule),
            ..AuthorizationPolicySpec::default()
        };
        (meta, spec)
    }

    /// A `PeerAuthentication` as written.
    pub(crate) fn peer_authentication(&mut self) -> PeerAuthenticationSpec {
        PeerAuthenticationSpec {
            selector: self.selector(),
            mtls: self.option(Self::mtls),
            port_level_mtls: self.option(|c| {
                let ports = c.list(3, |c| (c.text(), c.mtls()));
                ports.into_iter().collect()
            }),
        }
    }

    fn mtls(&mut self) -> MtlsSpec {
        let modes = [
            None,
            Some("STRICT"),
            Some("PERMISSIVE"),
            Some("DISABLE"),
            Some("UNSET"),
            Some("x"),
        ];
        MtlsSpec {
            mode: self.one(&modes).map(str::to_owned),
        }
    }

    /// What the mesh as a whole is like.
    pub(crate) fn settings(&mut self) -> Settings {
        let mut settings = Settings::default();
        if self.byte() > 127 {
            settings.trust_domain_aliases.extend("old.org".parse());
        }
        if self.byte() > 200 {
            settings.on_unsupported = interceptor_policy::OnUnsupported::Reject;
        }
        settings
    }
}
