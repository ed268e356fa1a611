//! The configuration in force, in the file's own words.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::Config;
use super::file::{self, Visit};
use super::setting::Setting;

/// Every key with its value.
pub(super) fn json(config: &Config) -> Value {
    let mut show = Show::default();
    // Showing takes the way of reading, which wants to write; the copy takes it.
    file::visit(&mut show, &mut config.clone());
    Value::Object(show.keys)
}

#[derive(Default)]
struct Show {
    keys: Map<String, Value>,
}

impl Visit for Show {
    fn field<T: Setting>(
        &mut self,
        key: &'static str,
        _help: &'static str,
        value: &mut T,
        _allowed: T::Allowed,
    ) {
        self.keys.insert(key.to_owned(), value.show());
    }

    fn section(
        &mut self,
        key: &'static str,
        _help: &'static str,
        visit: &mut dyn FnMut(&mut Self),
    ) {
        let mut below = Self::default();
        visit(&mut below);
        self.keys.insert(key.to_owned(), Value::Object(below.keys));
    }
}

/// Block style for maps; values on one line, as JSON, which YAML includes.
pub(super) fn yaml(value: &Value) -> String {
    let mut out = String::new();
    write_yaml(&mut out, value, 0);
    out
}

fn write_yaml(out: &mut String, value: &Value, depth: usize) {
    let Value::Object(keys) = value else {
        return;
    };
    for (key, value) in keys {
        let indent = "  ".repeat(depth);
        if matches!(value, Value::Object(_)) {
            // Writing to a String cannot fail.
            writeln!(out, "{indent}{key}:").unwrap_or_default();
            write_yaml(out, value, depth + 1);
        } else {
            writeln!(out, "{indent}{key}: {value}").unwrap_or_default();
        }
    }
}
