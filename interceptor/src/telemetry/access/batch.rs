//! Lines that are handed over together.
//!
//! They are handed over as numbers with their templates, and become text in the writer, just before
//! they are written: text that one processor has made costs another more to fetch than to make.
//! The lines of one connection, of which there is one for each end, share its numbers.

use std::sync::Arc;

use jiff::Timestamp;

use super::clock::Clock;
use super::template::Template;
use super::words::Words;
use super::{Lines, Outcome, is_enabled};
use crate::telemetry::record::Numbers;

/// So many bytes are handed over at once, about: a file takes them in four fifths of the time that it
/// takes for as many in pieces of 64 KiB. More than the writer gathers before it writes, so that it does
/// not gather them.
const CHUNK: usize = 256 * 1024;

/// So many connections are that, usually.
const USUAL: usize = 256;

/// Lines of connections that were allowed, handed over together: the queue and its writer are asked
/// once for some hundreds of them. What is left is handed over when it is dropped.
#[derive(Debug)]
pub struct Batch {
    /// `None` if such lines are not wanted: asked once.
    lines: Option<Lines>,
    waiting: Waiting,
}

/// Lines that are not handed over yet.
#[derive(Debug, Default)]
struct Waiting {
    /// Each once.
    templates: Vec<Arc<[Template]>>,
    /// Of a connection: which templates, and what is to be put in.
    connections: Vec<(usize, Timestamp, Numbers)>,
    /// How many lines that is.
    lines: usize,
    /// About as many bytes.
    size: usize,
}

impl Batch {
    pub(super) fn new(lines: Option<Lines>) -> Self {
        Self {
            lines: lines.filter(|_| is_enabled(Outcome::Allowed)),
            waiting: Waiting::default(),
        }
    }

    /// Adds the lines of a connection that was over `at` this time.
    pub fn write(&mut self, templates: &Arc<[Template]>, at: Timestamp, numbers: &Numbers) {
        if self.lines.is_none() {
            return;
        }
        self.waiting.add(templates, at, numbers);
        if self.waiting.size >= CHUNK {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let count = u64::try_from(waiting.lines).unwrap_or(u64::MAX);
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
    fn add(&mut self, templates: &Arc<[Template]>, at: Timestamp, numbers: &Numbers) {
        let mut known = self.templates.iter();
        // Connections of a kind often follow each other.
        let known = known.rposition(|it| Arc::ptr_eq(it, templates));
        let which = known.unwrap_or_else(|| {
            self.templates.push(Arc::clone(templates));
            self.templates.len() - 1
        });
        if self.connections.capacity() == 0 {
            self.connections.reserve(USUAL);
        }
        self.connections.push((which, at, *numbers));
        self.lines += templates.len();
        self.size += templates.iter().map(Template::about).sum::<usize>();
    }

    fn render(&self, out: &mut Vec<u8>) {
        let (mut clock, mut words) = (Clock::default(), Words::default());
        out.reserve(self.size);
        for (which, at, numbers) in &self.connections {
            let templates = self.templates.get(*which).map_or(&[][..], |it| &**it);
            if let Some(template) = templates.first() {
                words.set(template, &mut clock, *at, numbers);
            }
            for template in templates {
                template.fill(out, &words);
            }
        }
    }
}
