//! Reading the file: every key, then what keys must be to each other.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use super::Config;
use super::file::{self, Visit};
use super::setting::{Setting, Words};
use crate::yaml::{self, Document, Fields, Limits, Mistake, Reader, Report};

/// Reads a configuration from `bytes`.
pub(super) fn parse(
    file: &Arc<str>,
    bytes: &[u8],
    node: Option<&str>,
) -> Result<Config, Vec<Mistake>> {
    let report = Report::default();
    let documents = yaml::parse_bytes(file, bytes, &Limits::default(), &report);
    let mut config = Config::for_node("");
    if let Some(second) = documents.get(1) {
        let message = "one document is enough: remove the `---` and join them";
        report.add(Mistake::at(file, second.root.at, "", message));
    }
    if let Some(document) = documents.first()
        && let Some(fields) = Reader::new(document, &report).fields()
    {
        let mut read = Read { fields };
        file::visit(&mut read, &mut config);
        read.fields.no_others();
    }
    name_node(&mut config, node, file, &report);
    let place = Place {
        file,
        document: documents.first(),
        report: &report,
    };
    check(&config, &place);
    if report.is_empty() {
        config.share();
        return Ok(config);
    }
    Err(report.into_mistakes())
}

struct Read<'a> {
    fields: Fields<'a>,
}

impl Visit for Read<'_> {
    fn field<T: Setting>(
        &mut self,
        key: &'static str,
        _help: &'static str,
        value: &mut T,
        allowed: T::Allowed,
    ) {
        if let Some(read) = self
            .fields
            .optional(key)
            .and_then(|reader| T::read(&reader, &allowed))
        {
            *value = read;
        }
    }

    fn section(
        &mut self,
        key: &'static str,
        _help: &'static str,
        visit: &mut dyn FnMut(&mut Self),
    ) {
        if let Some(fields) = self.fields.optional(key).and_then(|reader| reader.fields()) {
            let mut below = Self { fields };
            visit(&mut below);
            below.fields.no_others();
        }
    }
}

/// The command line's name beats the file's, and the file's the host's.
fn name_node(config: &mut Config, node: Option<&str>, file: &Arc<str>, report: &Report) {
    let host = || fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let (name, origin) = match node {
        Some(node) => (node.to_owned(), "the node's name given by --node"),
        None if config.mesh.node.is_empty() => {
            let name = host().unwrap_or_default().trim().to_lowercase();
            (
                name,
                "the host's name, which is the node's unless `node` is set,",
            )
        }
        None => return,
    };
    if let Some(problem) = Words::Node.problem(&name) {
        report.add(Mistake::in_file(file, format!("{origin} {problem}")));
    }
    config.mesh.node = Arc::from(name);
}

/// Where to show mistakes that concern several keys.
struct Place<'a> {
    file: &'a Arc<str>,
    document: Option<&'a Document>,
    report: &'a Report,
}

impl Place<'_> {
    fn error(&self, key: &str, message: String) {
        let at = self
            .document
            .map(|document| document.root.locate(key))
            .unwrap_or_default();
        self.report.add(Mistake::at(self.file, at, key, message));
    }
}

fn check(config: &Config, place: &Place<'_>) {
    let (own, node) = (config.mesh.ports, config.node_ports);
    let mut taken = HashMap::new();
    for (key, port) in [
        ("ports.outbound", own.outbound),
        ("ports.inbound", own.inbound),
        ("ports.hbone", own.hbone),
        ("ports.admin", node.admin),
        ("ports.metrics", node.metrics),
        ("ports.readiness", node.readiness),
    ] {
        if let Some(other) = taken.insert(port, key) {
            place.error(key, format!("{port} is also {other}; choose another port"));
        }
    }
    let transport = &config.transport;
    if transport.connection_window < transport.stream_window {
        let message = format!(
            "must be at least streamWindow ({}), or no stream could fill its window",
            transport.stream_window
        );
        place.error("transport.connectionWindow", message);
    }
    if transport.max_handshakes_per_address > transport.max_handshakes {
        let message = format!(
            "must be at most maxHandshakes ({})",
            transport.max_handshakes
        );
        place.error("transport.maxHandshakesPerAddress", message);
    }
    if config
        .mesh
        .trust_domain_aliases
        .contains(&config.mesh.trust_domain)
    {
        let message = "holds the trust domain itself; remove it".to_owned();
        place.error("trustDomainAliases", message);
    }
}
