//! Lines that are handed over together.

use jiff::Timestamp;

use super::clock::Clock;
use super::template::Template;
use super::{Lines, Outcome, is_enabled};
use crate::telemetry::record::Numbers;

/// So many bytes are handed over at once: as many as the writer writes at once.
const CHUNK: usize = 64 * 1024;

/// What one more line may take before a chunk is over.
const SLACK: usize = 2 * 1024;

/// Lines that are handed over together: the queue and its writer are asked once for about a
/// hundred of them. What is left is handed over when it is dropped.
#[derive(Debug)]
pub struct Batch {
    lines: Option<Lines>,
    text: Vec<u8>,
    /// How many lines that is.
    count: u64,
    clock: Clock,
    /// What is written of connections that were allowed: asked once.
    allowed: bool,
}

impl Batch {
    pub(super) fn new(lines: Option<Lines>) -> Self {
        let allowed = lines.is_some() && is_enabled(Outcome::Allowed);
        Self {
            lines,
            text: Vec::new(),
            count: 0,
            clock: Clock::default(),
            allowed,
        }
    }

    /// Adds the line of a connection that was over `at` this time, if its level is enabled.
    pub fn write(&mut self, template: &Template, at: Timestamp, numbers: &Numbers) {
        let wanted = match template.outcome() {
            Outcome::Allowed => self.allowed,
            other => self.lines.is_some() && is_enabled(other),
        };
        if !wanted {
            return;
        }
        if self.text.capacity() == 0 {
            self.text.reserve_exact(CHUNK + SLACK);
        }
        template.fill(&mut self.text, &mut self.clock, at, numbers);
        self.count += 1;
        if self.text.len() >= CHUNK {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        let text = std::mem::take(&mut self.text);
        let count = std::mem::take(&mut self.count);
        if let Some(lines) = self.lines.as_ref().filter(|_| count > 0) {
            lines.push_all(text, count);
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.hand_over();
    }
}
