//! Lines that are handed over together.
//!
//! They are handed over as numbers with their templates, and become text in the writer, just before
//! they are written: text that one processor has made costs another more to fetch than to make.

use std::sync::Arc;

use jiff::Timestamp;

use super::clock::Clock;
use super::template::Template;
use super::{Lines, Outcome, is_enabled};
use crate::telemetry::record::Numbers;

/// So many bytes are handed over at once, about: a little more than the writer gathers before it
/// writes, so that it does not gather them.
const CHUNK: usize = 68 * 1024;

/// So many lines are that, usually.
const USUAL: usize = 128;

/// Lines that are handed over together: the queue and its writer are asked once for about a
/// hundred of them. What is left is handed over when it is dropped.
#[derive(Debug)]
pub struct Batch {
    lines: Option<Lines>,
    waiting: Waiting,
    /// What is written of connections that were allowed: asked once.
    allowed: bool,
}

/// Lines that are not handed over yet.
#[derive(Debug, Default)]
struct Waiting {
    /// Each once.
    templates: Vec<Arc<Template>>,
    /// Which template, and what is to be put in.
    lines: Vec<(usize, Timestamp, Numbers)>,
    /// About as many bytes.
    size: usize,
}

impl Batch {
    pub(super) fn new(lines: Option<Lines>) -> Self {
        let allowed = lines.is_some() && is_enabled(Outcome::Allowed);
        Self {
            lines,
            waiting: Waiting::default(),
            allowed,
        }
    }

    /// Adds the line of a connection that was over `at` this time, if its level is enabled.
    pub fn write(&mut self, template: &Arc<Template>, at: Timestamp, numbers: &Numbers) {
        let wanted = match template.outcome() {
            Outcome::Allowed => self.allowed,
            other => self.lines.is_some() && is_enabled(other),
        };
        if !wanted {
            return;
        }
        self.waiting.add(template, at, numbers);
        if self.waiting.size >= CHUNK {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let count = u64::try_from(waiting.lines.len()).unwrap_or(u64::MAX);
        if let Some(lines) = self.lines.as_ref().filter(|_| count > 0) {
            lines.push_later((waiting.size, count), move |out| waiting.render(out));
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.hand_over();
    }
}

impl Waiting {
    fn add(&mut self, template: &Arc<Template>, at: Timestamp, numbers: &Numbers) {
        let mut known = self.templates.iter();
        // Both ends of a connection follow each other, and so do connections of a kind.
        let known = known.rposition(|it| Arc::ptr_eq(it, template));
        let which = known.unwrap_or_else(|| {
            self.templates.push(Arc::clone(template));
            self.templates.len() - 1
        });
        if self.lines.capacity() == 0 {
            self.lines.reserve(USUAL);
        }
        self.lines.push((which, at, *numbers));
        self.size += template.about();
    }

    fn render(&self, out: &mut Vec<u8>) {
        let mut clock = Clock::default();
        out.reserve(self.size);
        for (which, at, numbers) in &self.lines {
            if let Some(template) = self.templates.get(*which) {
                template.fill(out, &mut clock, *at, numbers);
            }
        }
    }
}
