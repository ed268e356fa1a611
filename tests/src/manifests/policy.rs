//! Istio's security objects.

use serde_json::{Map, Value, json};

use super::{Manifest, NAMESPACE, metadata, principal};

/// A `security.istio.io/v1` `AuthorizationPolicy`.
#[derive(Clone, Debug)]
pub struct AuthorizationPolicy {
    name: String,
    action: &'static str,
    app: Option<String>,
    rules: Vec<Value>,
    dry_run: bool,
}

impl AuthorizationPolicy {
    /// An ALLOW policy of namespace `demo` for all of its pods.
    pub fn allow(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            action: "ALLOW",
            app: None,
            rules: Vec::new(),
            dry_run: false,
        }
    }

    /// A DENY policy of namespace `demo` for all of its pods.
    pub fn deny(name: &str) -> Self {
        Self {
            action: "DENY",
            ..Self::allow(name)
        }
    }

    /// An AUDIT policy of namespace `demo` for all of its pods.
    pub fn audit(name: &str) -> Self {
        Self {
            action: "AUDIT",
            ..Self::allow(name)
        }
    }

    /// Lets it report only.
    #[must_use]
    pub const fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// Selects pods labelled `app: <app>`.
    #[must_use]
    pub fn selecting(mut self, app: &str) -> Self {
        self.app = Some(app.to_owned());
        self
    }

    /// Adds a rule.
    #[must_use]
    pub fn rule(mut self, rule: &Rule) -> Self {
        self.rules.push(rule.value());
        self
    }
}

impl Manifest for AuthorizationPolicy {
    fn object(&self) -> Value {
        let mut spec = Map::new();
        if let Some(app) = &self.app {
            spec.insert(
                "selector".to_owned(),
                json!({ "matchLabels": { "app": app } }),
            );
        }
        spec.insert("action".to_owned(), json!(self.action));
        if !self.rules.is_empty() {
            spec.insert("rules".to_owned(), json!(self.rules));
        }
        let mut metadata = metadata(&self.name, NAMESPACE);
        if self.dry_run {
            let annotations = json!({ "istio.io/dry-run": "true" });
            metadata.insert("annotations".to_owned(), annotations);
        }
        json!({
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": metadata,
            "spec": spec,
        })
    }
}

/// A rule: who, and to which port.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    source: Map<String, Value>,
    operation: Map<String, Value>,
}

impl Rule {
    /// Matches callers by service account of namespace `demo`.
    pub fn from(service_account: &str) -> Self {
        Self::default().source("principals", &[&principal(service_account)])
    }

    /// Matches callers by a field of Istio's `source`.
    #[must_use]
    pub fn source(mut self, field: &str, values: &[&str]) -> Self {
        self.source.insert(field.to_owned(), json!(values));
        self
    }

    /// Matches target ports.
    #[must_use]
    pub fn ports(mut self, ports: &[&str]) -> Self {
        self.operation.insert("ports".to_owned(), json!(ports));
        self
    }

    /// Matches requests by a field of Istio's `operation`, such as `methods`.
    #[must_use]
    pub fn operation(mut self, field: &str, values: &[&str]) -> Self {
        self.operation.insert(field.to_owned(), json!(values));
        self
    }

    fn value(&self) -> Value {
        let mut rule = Map::new();
        if !self.source.is_empty() {
            rule.insert("from".to_owned(), json!([{ "source": self.source }]));
        }
        if !self.operation.is_empty() {
            rule.insert("to".to_owned(), json!([{ "operation": self.operation }]));
        }
        Value::Object(rule)
    }
}

/// A `security.istio.io/v1` `PeerAuthentication`.
#[derive(Clone, Debug)]
pub struct PeerAuthentication {
    name: String,
    mode: &'static str,
    app: Option<String>,
    ports: Map<String, Value>,
}

impl PeerAuthentication {
    /// Namespace `demo` takes mutual TLS only.
    pub fn strict() -> Self {
        Self {
            name: "default".to_owned(),
            mode: "STRICT",
            app: None,
            ports: Map::new(),
        }
    }

    /// Namespace `demo` takes plaintext, too.
    pub fn permissive() -> Self {
        Self {
            mode: "PERMISSIVE",
            ..Self::strict()
        }
    }

    /// Selects pods labelled `app: <app>`, and takes that label's name.
    #[must_use]
    pub fn selecting(mut self, app: &str) -> Self {
        app.clone_into(&mut self.name);
        self.app = Some(app.to_owned());
        self
    }

    /// Gives a target port a mode of its own.
    #[must_use]
    pub fn port(mut self, port: u16, mode: &str) -> Self {
        self.ports.insert(port.to_string(), json!({ "mode": mode }));
        self
    }
}

impl Manifest for PeerAuthentication {
    fn object(&self) -> Value {
        let mut spec = Map::new();
        if let Some(app) = &self.app {
            spec.insert(
                "selector".to_owned(),
                json!({ "matchLabels": { "app": app } }),
            );
        }
        spec.insert("mtls".to_owned(), json!({ "mode": self.mode }));
        if !self.ports.is_empty() {
            spec.insert("portLevelMtls".to_owned(), json!(self.ports));
        }
        json!({
            "apiVersion": "security.istio.io/v1",
            "kind": "PeerAuthentication",
            "metadata": metadata(&self.name, NAMESPACE),
            "spec": spec,
        })
    }
}
