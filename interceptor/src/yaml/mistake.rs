//! What is wrong in a file, where, and what to do about it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::node::Position;

/// How bad a [`Mistake`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For information: something was left out on purpose.
    Note,
    /// Accepted, but probably not what was meant.
    Warning,
    /// Refused: nothing of this load takes effect.
    Error,
}

/// One finding in one file.
///
/// Displays as `demo.yaml:12:7: spec.selector: message`, so that editors jump to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Mistake {
    /// The file, as it was named to us.
    #[serde(serialize_with = "as_text")]
    pub file: Arc<str>,
    /// Line, from 1; 0 if the whole file is meant.
    pub line: u32,
    /// Column in characters, from 1; 0 if the whole file is meant.
    pub column: u32,
    /// The key path, such as `spec.rules[0].from`; empty if the whole document is meant.
    pub key: String,
    /// What is wrong and what to do, without a full stop.
    pub message: String,
    /// How bad it is.
    pub severity: Severity,
}

fn as_text<S: Serializer>(file: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(file)
}

impl Mistake {
    /// An error about a file as a whole.
    pub fn in_file(file: &Arc<str>, message: impl Into<String>) -> Self {
        Self::at(file, Position::default(), "", message)
    }

    /// An error at a place in a file.
    pub fn at(
        file: &Arc<str>,
        at: Position,
        key: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            file: Arc::clone(file),
            line: at.line,
            column: at.column,
            key: legible(key.into()),
            message: legible(message.into()),
            severity: Severity::Error,
        }
    }

    /// The same finding with another severity.
    #[must_use]
    pub const fn with(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    /// File, line, column and key: `demo.yaml:12:7: spec.rules[0]`.
    pub fn place(&self) -> String {
        let mut place = self.file.to_string();
        if self.line > 0 {
            place = format!("{place}:{}:{}", self.line, self.column);
        }
        if !self.key.is_empty() {
            place = format!("{place}: {}", self.key);
        }
        place
    }

    /// Whether it prevents the load from taking effect.
    pub const fn is_error(&self) -> bool {
        matches!(self.severity, Severity::Error)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        match self.severity {
            Severity::Error => f.write_str(": ")?,
            Severity::Warning => f.write_str(": warning: ")?,
            Severity::Note => f.write_str(": note: ")?,
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Longest key or message. Ours are sentences; what makes them longer is text from the file.
const LONGEST: usize = 1500;

/// Text as it may be shown: on one line, without what controls a terminal or hides text on it, and
/// bounded. Names and values from the file are in it, whatever they are.
fn legible(text: String) -> String {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    if text.len() <= LONGEST && !text.chars().any(harmful) {
        return text;
    }
    let mut shown = String::new();
    for c in text.chars() {
        if shown.len() > LONGEST {
            shown.push('…');
            break;
        }
        if harmful(c) {
            shown.extend(c.escape_debug());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Collects mistakes while a file is read, up to a bound.
///
/// Shared by reference between the parser and all readers of one file, hence the interior
/// mutability; it never leaves the thread that reads.
#[derive(Debug)]
pub struct Report {
    mistakes: RefCell<Vec<Mistake>>,
    dropped: Cell<usize>,
    limit: usize,
}

impl Default for Report {
    /// Keeps at most 100 mistakes: nobody reads more, and a hostile file could have millions.
    fn default() -> Self {
        Self::with_limit(100)
    }
}

impl Report {
    /// Keeps at most `limit` mistakes and counts the rest.
    pub const fn with_limit(limit: usize) -> Self {
        Self {
            mistakes: RefCell::new(Vec::new()),
            dropped: Cell::new(0),
            limit,
        }
    }

    /// Adds a mistake, or counts it if the limit is reached.
    pub fn add(&self, mistake: Mistake) {
        let mut mistakes = self.mistakes.borrow_mut();
        if mistakes.len() < self.limit {
            mistakes.push(mistake);
        } else {
            self.dropped.set(self.dropped.get().saturating_add(1));
        }
    }

    /// Whether anything was reported, of whatever severity.
    pub fn is_empty(&self) -> bool {
        self.mistakes.borrow().is_empty()
    }

    /// How many mistakes are kept now, to ask later which keys were added.
    pub fn mark(&self) -> usize {
        self.mistakes.borrow().len()
    }

    /// The keys of the errors that were reported since `mark` was taken.
    pub fn keys_since(&self, mark: usize) -> Vec<String> {
        let mistakes = self.mistakes.borrow();
        let since = mistakes.iter().skip(mark);
        since
            .filter(|mistake| mistake.is_error())
            .map(|mistake| mistake.key.clone())
            .collect()
    }

    /// Whether there are so many that further ones are only counted. Readers of long lists may
    /// stop here.
    pub fn is_full(&self) -> bool {
        self.mistakes.borrow().len() >= self.limit
    }

    /// The mistakes in the order of their lines, and one more that counts what was left out.
    pub fn into_mistakes(self) -> Vec<Mistake> {
        let mut mistakes = self.mistakes.into_inner();
        mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
        let dropped = self.dropped.get();
        if let Some(last) = mistakes.last().filter(|_| dropped > 0) {
            let file = Arc::clone(&last.file);
            mistakes.push(Mistake::in_file(
                &file,
                format!("{dropped} more mistakes in this file are not shown"),
            ));
        }
        mistakes
    }
}
