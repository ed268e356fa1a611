//! Values as block YAML, as people write manifests. Scalars are JSON scalars, which are YAML.

use serde_json::Value;

/// One document with a final line break.
pub(super) fn document(value: &Value) -> String {
    let mut out = String::new();
    block(&mut out, value, 0);
    out
}

fn block(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                indent(out, depth);
                out.push_str(&scalar(&Value::String(key.clone())));
                out.push(':');
                below(out, value, depth + 1);
            }
        }
        Value::Array(items) => {
            for item in items {
                indent(out, depth);
                out.push('-');
                below(out, item, depth + 1);
            }
        }
        _ => {
            indent(out, depth);
            out.push_str(&scalar(value));
            out.push('\n');
        }
    }
}

fn below(out: &mut String, value: &Value, depth: usize) {
    let nested = match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if nested {
        out.push('\n');
        block(out, value, depth);
    } else {
        out.push(' ');
        out.push_str(&scalar(value));
        out.push('\n');
    }
}

/// Plain where that is unmistakable, else quoted.
fn scalar(value: &Value) -> String {
    if let Value::String(text) = value {
        let plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
            && text
                .chars()
                .all(|it| it.is_ascii_alphanumeric() || "-._/".contains(it))
            && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
                .contains(&text.to_ascii_lowercase().as_str());
        if plain {
            return text.clone();
        }
    }
    value.to_string()
}

fn indent(out: &mut String, depth: usize) {
    for _ in 0..depth {
        out.push_str("  ");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::{AuthorizationPolicy, Rule, yaml};

    #[test]
    fn a_policy_reads_as_an_operator_would_write_it() {
        let policy = AuthorizationPolicy::allow("callers")
            .selecting("server")
            .rule(&Rule::from("caller").ports(&["8080"]));
        assert_eq!(
            yaml(&[&policy]),
            "apiVersion: security.istio.io/v1\n\
             kind: AuthorizationPolicy\n\
             metadata:\n  name: callers\n  namespace: demo\n\
             spec:\n  action: ALLOW\n  rules:\n    -\n      from:\n        -\n          source:\n            principals:\n              - cluster.local/ns/demo/sa/caller\n      to:\n        -\n          operation:\n            ports:\n              - \"8080\"\n  selector:\n    matchLabels:\n      app: server\n"
        );
    }

    #[test]
    fn scalars_that_yaml_would_misread_are_quoted() {
        assert_eq!(
            document(&serde_json::json!({ "a": "1.5", "b": "yes", "c": 3, "d": [], "e": "x y" })),
            "a: \"1.5\"\nb: \"yes\"\nc: 3\nd: []\ne: \"x y\"\n"
        );
    }
}
