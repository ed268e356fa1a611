//! From text to documents, within limits.

use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser};

use super::build::Builder;
use super::mistake::{Mistake, Report};
use super::node::{Document, Position};

/// What one file may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of the file.
    pub bytes: usize,
    /// Nesting of lists and maps.
    pub depth: usize,
    /// Values in the file, aliases expanded.
    pub nodes: usize,
    /// Values that anchors and aliases may copy.
    pub aliased: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Kubernetes refuses objects above 1.5 MiB; ten of the largest fit into one file.
            bytes: 10 * 1024 * 1024,
            // A Pod nests 12 deep, a custom resource definition about 40.
            depth: 100,
            // A file of the largest size that is all Pods has 600,000.
            nodes: 1_000_000,
            // A "billion laughs" file stops here; honest ones alias a few dozen.
            aliased: 100_000,
        }
    }
}

/// Reads the documents of a file given as bytes, which must be UTF-8.
pub fn parse_bytes(
    file: &Arc<str>,
    bytes: &[u8],
    limits: &Limits,
    report: &Report,
) -> Vec<Document> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(file, text, limits, report),
        Err(error) => {
            let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = valid.split(|byte| *byte == b'\n').count();
            let column = valid
                .iter()
                .rev()
                .take_while(|byte| **byte != b'\n')
                .count()
                + 1;
            let at = Position {
                line: saturate(line),
                column: saturate(column),
            };
            let message = "is not UTF-8 text from here on; save the file as UTF-8";
            report.add(Mistake::at(file, at, "", message));
            Vec::new()
        }
    }
}

/// Reads the documents of a file.
///
/// A document that breaks YAML's grammar or a limit ends the file: what precedes it is returned,
/// so that its mistakes can be reported together. Whoever uses the documents asks `report`.
pub fn parse(file: &Arc<str>, text: &str, limits: &Limits, report: &Report) -> Vec<Document> {
    if text.len() > limits.bytes {
        let message = format!(
            "is {} bytes long, the limit is {}; split it into several files",
            text.len(),
            limits.bytes
        );
        report.add(Mistake::in_file(file, message));
        return Vec::new();
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::new(file, limits, report);
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let step = match event {
            Ok((Event::StreamEnd, _)) => break,
            Ok((event, span)) => builder.take(event, position(span.start)),
            Err(error) => Err(builder.mistake(position(*error.marker()), error.info())),
        };
        if let Err(mistake) = step {
            report.add(mistake);
            break;
        }
    }
    builder.into_documents()
}

fn position(marker: Marker) -> Position {
    Position {
        line: saturate(marker.line()),
        column: saturate(marker.col().saturating_add(1)),
    }
}

fn saturate(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
