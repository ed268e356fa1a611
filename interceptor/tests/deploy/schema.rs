//! The fields of Kubernetes' kinds that a deployment of ours may use, with their types, so that a
//! misspelt or misplaced field is found without an API server.
//!
//! `[T]` is a list of `T`; `map` is text to text. A field that is not here is either a mistake or
//! one that has to be added here from the API reference.

use interceptor::yaml::{Document, Node, Resolved, Value};

type Fields = &'static [(&'static str, &'static str)];

/// Type to its fields.
const TYPES: &[(&str, Fields)] = &[
    (
        "Namespace",
        &[
            ("apiVersion", "text"),
            ("kind", "text"),
            ("metadata", "Meta"),
        ],
    ),
    (
        "ServiceAccount",
        &[
            ("apiVersion", "text"),
            ("kind", "text"),
            ("metadata", "Meta"),
            ("automountServiceAccountToken", "bool"),
        ],
    ),
    (
        "Role",
        &[
            ("apiVersion", "text"),
            ("kind", "text"),
            ("metadata", "Meta"),
            ("rules", "[Rule]"),
        ],
    ),
    (
        "Rule",
        &[
            ("apiGroups", "[text]"),
            ("resources", "[text]"),
            ("resourceNames", "[text]"),
            ("verbs", "[text]"),
        ],
    ),
    (
        "ConfigMap",
        &[
            ("apiVersion", "text"),
            ("kind", "text"),
            ("metadata", "Meta"),
            ("data", "map"),
        ],
    ),
    (
        "Kustomization",
        &[
            ("apiVersion", "text"),
            ("kind", "text"),
            ("resources", "[text]"),
        ],
    ),
    (
        "DaemonSet",
        &[
            ("apiVersion", "text"),
            ("kind", "text"),
            ("metadata", "Meta"),
            ("spec", "DaemonSetSpec"),
        ],
    ),
    (
        "Meta",
        &[
            ("name", "text"),
            ("namespace", "text"),
            ("labels", "map"),
            ("annotations", "map"),
        ],
    ),
    (
        "DaemonSetSpec",
        &[
            ("selector", "Selector"),
            ("updateStrategy", "UpdateStrategy"),
            ("template", "Template"),
            ("minReadySeconds", "int"),
        ],
    ),
    ("Selector", &[("matchLabels", "map")]),
    (
        "UpdateStrategy",
        &[("type", "text"), ("rollingUpdate", "RollingUpdate")],
    ),
    (
        "RollingUpdate",
        &[("maxUnavailable", "int"), ("maxSurge", "int")],
    ),
    ("Template", &[("metadata", "Meta"), ("spec", "PodSpec")]),
    (
        "PodSpec",
        &[
            ("serviceAccountName", "text"),
            ("automountServiceAccountToken", "bool"),
            ("hostNetwork", "bool"),
            ("dnsPolicy", "text"),
            ("priorityClassName", "text"),
            ("terminationGracePeriodSeconds", "int"),
            ("nodeSelector", "map"),
            ("tolerations", "[Toleration]"),
            ("containers", "[Container]"),
            ("volumes", "[Volume]"),
        ],
    ),
    (
        "Toleration",
        &[("operator", "text"), ("key", "text"), ("effect", "text")],
    ),
    (
        "Container",
        &[
            ("name", "text"),
            ("image", "text"),
            ("imagePullPolicy", "text"),
            ("args", "[text]"),
            ("env", "[Env]"),
            ("ports", "[Port]"),
            ("readinessProbe", "Probe"),
            ("resources", "Resources"),
            ("securityContext", "Security"),
            ("volumeMounts", "[Mount]"),
        ],
    ),
    (
        "Env",
        &[
            ("name", "text"),
            ("value", "text"),
            ("valueFrom", "EnvSource"),
        ],
    ),
    ("EnvSource", &[("fieldRef", "FieldRef")]),
    ("FieldRef", &[("fieldPath", "text")]),
    (
        "Port",
        &[
            ("name", "text"),
            ("containerPort", "int"),
            ("protocol", "text"),
        ],
    ),
    (
        "Probe",
        &[
            ("httpGet", "HttpGet"),
            ("periodSeconds", "int"),
            ("failureThreshold", "int"),
        ],
    ),
    (
        "HttpGet",
        &[("path", "text"), ("port", "int"), ("host", "text")],
    ),
    ("Resources", &[("requests", "map"), ("limits", "map")]),
    (
        "Security",
        &[
            ("runAsUser", "int"),
            ("readOnlyRootFilesystem", "bool"),
            ("seccompProfile", "Seccomp"),
            ("capabilities", "Capabilities"),
        ],
    ),
    ("Seccomp", &[("type", "text")]),
    ("Capabilities", &[("drop", "[text]"), ("add", "[text]")]),
    (
        "Mount",
        &[
            ("name", "text"),
            ("mountPath", "text"),
            ("readOnly", "bool"),
            ("mountPropagation", "text"),
        ],
    ),
    (
        "Volume",
        &[
            ("name", "text"),
            ("configMap", "ConfigMapVolume"),
            ("secret", "SecretVolume"),
            ("hostPath", "HostPath"),
        ],
    ),
    ("ConfigMapVolume", &[("name", "text")]),
    (
        "SecretVolume",
        &[("secretName", "text"), ("defaultMode", "octal")],
    ),
    ("HostPath", &[("path", "text"), ("type", "text")]),
];

/// Everything in `document` that its kind does not have, or has with another type.
pub(crate) fn mistakes(document: &Document) -> Vec<String> {
    let mut found = Vec::new();
    let kind = document.root.get("kind").map(|entry| &entry.value.value);
    match kind {
        Some(Value::Scalar(kind)) => check(&document.root, kind.as_str(), "", &mut found),
        _ => found.push("no kind".to_owned()),
    }
    found
        .into_iter()
        .map(|mistake| format!("{}: {mistake}", document.file))
        .collect()
}

fn check(node: &Node, expected: &str, path: &str, found: &mut Vec<String>) {
    let inner = expected
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let fits = match (&node.value, expected, inner) {
        (Value::List(items), _, Some(inner)) => {
            for item in items {
                check(item, inner, path, found);
            }
            true
        }
        (Value::Scalar(scalar), _, None) => match expected {
            "text" => scalar.resolve() == Resolved::Text,
            "int" => scalar.resolve() == Resolved::Integer,
            "bool" => matches!(scalar.resolve(), Resolved::Boolean(_)),
            // YAML 1.1, which Kubernetes reads: a leading zero makes it octal.
            "octal" => scalar.as_str().starts_with('0') && scalar.resolve() == Resolved::Number,
            _ => false,
        },
        (Value::Map(entries), "map", None) => {
            for entry in entries {
                check(
                    &entry.value,
                    "text",
                    &format!("{path}.{}", entry.key),
                    found,
                );
            }
            true
        }
        (Value::Map(entries), _, None) => match fields(expected) {
            Some(known) => {
                for entry in entries {
                    let path = format!("{path}.{}", entry.key);
                    match known.iter().find(|(name, _)| *name == &*entry.key) {
                        Some((_, kind)) => check(&entry.value, kind, &path, found),
                        None => found.push(format!("{path} is not a field of {expected}")),
                    }
                }
                true
            }
            None => false,
        },
        _ => false,
    };
    if !fits {
        found.push(format!(
            "line {}: {path} is not of type {expected}",
            node.at.line
        ));
    }
}

fn fields(name: &str) -> Option<Fields> {
    let found = TYPES.iter().find(|(known, _)| *known == name);
    found.map(|(_, fields)| *fields)
}
