//! From text to documents, within limits.

use std::fmt;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, StrInput};

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
    as_text(file, bytes, report).map_or_else(Vec::new, |text| parse(file, text, limits, report))
}

/// Reads the documents of a file.
///
/// A document that breaks YAML's grammar or a limit ends the file: what precedes it is returned,
/// so that its mistakes can be reported together. Whoever uses the documents asks `report`.
pub fn parse(file: &Arc<str>, text: &str, limits: &Limits, report: &Report) -> Vec<Document> {
    documents(file, text, limits, report).collect()
}

/// The bytes as text, if they are UTF-8; else the place where they are not is a mistake.
pub fn as_text<'b>(file: &Arc<str>, bytes: &'b [u8], report: &Report) -> Option<&'b str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = valid.split(|byte| *byte == b'\n').count();
            let before = valid.iter().rev().take_while(|byte| **byte != b'\n');
            let at = Position {
                line: saturate(line),
                column: saturate(before.count().saturating_add(1)),
            };
            let message = "is not UTF-8 text from here on; save the file as UTF-8";
            report.add(Mistake::at(file, at, "", message));
            None
        }
    }
}

/// Reads the documents of a file one by one, so that only one tree is in memory at a time.
pub fn documents<'a>(
    file: &'a Arc<str>,
    text: &'a str,
    limits: &'a Limits,
    report: &'a Report,
) -> Documents<'a> {
    let fits = text.len() <= limits.bytes;
    if !fits {
        let message = format!(
            "is {} bytes long, the limit is {}; split it into several files",
            text.len(),
            limits.bytes
        );
        report.add(Mistake::in_file(file, message));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    Documents {
        parser: fits.then(|| Parser::new_from_str(text)),
        builder: Builder::new(file, limits, report),
        report,
    }
}

/// The documents of a file, read as they are asked for.
pub struct Documents<'a> {
    /// None once the file has ended, well or not.
    parser: Option<Parser<'a, StrInput<'a>>>,
    builder: Builder<'a>,
    report: &'a Report,
}

impl fmt::Debug for Documents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Documents").finish_non_exhaustive()
    }
}

impl Iterator for Documents<'_> {
    type Item = Document;

    fn next(&mut self) -> Option<Document> {
        while let Some(event) = self.parser.as_mut()?.next_event() {
            let taken = match event {
                Ok((Event::StreamEnd, _)) => break,
                Ok((event, span)) => self.builder.take(event, position(span.start)),
                Err(error) => {
                    let at = position(*error.marker());
                    Err(self.builder.mistake(at, error.info()))
                }
            };
            match taken {
                Ok(None) => {}
                Ok(Some(document)) => return Some(document),
                Err(mistake) => {
                    self.report.add(mistake);
                    break;
                }
            }
        }
        self.parser = None;
        None
    }
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
