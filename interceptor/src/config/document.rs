//! `docs/config.md`, made from the keys themselves.

use std::fmt::Write as _;

use serde_json::Value;

use super::file::{self, Visit};
use super::setting::Setting;
use super::{Config, DEFAULT_FILE};

/// The page that lists every key.
pub fn markdown() -> String {
    let mut out = format!(
        "# Configuration\n\n\
         <!-- Made from interceptor/src/config/file.rs: \
         `INTERCEPTOR_GEN=1 cargo test -p interceptor docs_list_every_key` -->\n\n\
         The agent reads `{DEFAULT_FILE}`, or the file that `--config` names. Every key has a \
         default; an empty file is a valid one. Unknown keys, wrong values and values that \
         contradict each other are all reported at once, with file, line and key, and the agent \
         does not start. Durations have a unit (`10s`, `5m`, `24h`). What the mesh consists of is \
         not here but in [manifests](manifests.md).\n\n\
         | key | default | allowed | what |\n|---|---|---|---|\n"
    );
    let mut document = Document {
        prefix: String::new(),
        out: &mut out,
    };
    file::visit(&mut document, &mut Config::for_node(""));
    out
}

struct Document<'o> {
    prefix: String,
    out: &'o mut String,
}

impl Visit for Document<'_> {
    fn field<T: Setting>(
        &mut self,
        key: &'static str,
        help: &'static str,
        value: &mut T,
        allowed: T::Allowed,
    ) {
        let default = match value.show() {
            Value::Null => "none".to_owned(),
            Value::String(text) if text.is_empty() => "the host's name".to_owned(),
            Value::String(text) => format!("`{text}`"),
            other => format!("`{other}`"),
        };
        let allowed = T::describe(&allowed);
        let prefix = &self.prefix;
        // Writing to a String cannot fail.
        writeln!(
            self.out,
            "| `{prefix}{key}` | {default} | {allowed} | {help} |"
        )
        .unwrap_or_default();
    }

    fn section(&mut self, key: &'static str, help: &'static str, visit: &mut dyn FnMut(&mut Self)) {
        let before = self.prefix.clone();
        writeln!(self.out, "| **`{before}{key}`** | | | {help} |").unwrap_or_default();
        write!(self.prefix, "{key}.").unwrap_or_default();
        visit(self);
        self.prefix = before;
    }
}
