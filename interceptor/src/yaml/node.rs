//! The tree that a document becomes: scalars, lists and maps, each with its line.

use std::fmt;
use std::sync::Arc;

/// A place in a file, counted from 1; both 0 means the file as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: u32,
    /// Column in characters.
    pub column: u32,
}

/// One document of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The file that it was read from.
    pub file: Arc<str>,
    /// Its content, never null: empty documents are skipped.
    pub root: Node,
}

/// A value and the place where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where it begins.
    pub at: Position,
    /// What it is.
    pub value: Value,
}

/// The three shapes of YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text, a number, a boolean, null.
    Scalar(Scalar),
    /// `- a`, `[a]`.
    List(Vec<Node>),
    /// `a: b`, `{a: b}`, in the order of writing, without duplicates.
    Map(Vec<Entry>),
}

/// One `key: value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key, as written.
    pub key: Box<str>,
    /// Where the key begins.
    pub at: Position,
    /// The value.
    pub value: Node,
}

/// A scalar as written; what it means depends on who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// Without quotes: may be null, a boolean, a number or text.
    Plain(Box<str>),
    /// Quoted, or a block: always text.
    Text(Box<str>),
}

/// What a plain scalar means to Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// Nothing, `~` or `null`.
    Null,
    /// A boolean, also in the spellings of YAML 1.1 that Kubernetes still accepts.
    Boolean(bool),
    /// A decimal integer without leading zeros.
    Integer,
    /// Any other number: fractions, exponents, octal and hexadecimal.
    Number,
    /// None of these.
    Text,
}

impl Scalar {
    /// The characters, without quotes.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Plain(text) | Self::Text(text) => text,
        }
    }

    /// What it means.
    pub fn resolve(&self) -> Resolved {
        match self {
            Self::Plain(text) => resolve(text),
            Self::Text(_) => Resolved::Text,
        }
    }
}

impl Node {
    /// Whether it is null, which Kubernetes treats as absent.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.resolve() == Resolved::Null)
    }

    /// The value under `key`, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| &*entry.key == key),
            Value::Scalar(_) | Value::List(_) => None,
        }
    }

    /// Where `path` (such as `spec.rules[0].from`) was written, or the nearest enclosing value
    /// that was. Keys with dots stand in brackets: `metadata.annotations["istio.io/dry-run"]`.
    pub fn locate(&self, path: &str) -> Position {
        let mut node = self;
        let mut at = self.at;
        for step in Steps(path) {
            match node.step(step) {
                Some((next, place)) => {
                    node = next;
                    at = place;
                }
                None => break,
            }
        }
        at
    }

    fn step(&self, part: &str) -> Option<(&Self, Position)> {
        match &self.value {
            Value::Scalar(_) => None,
            Value::List(items) => {
                let item = items.get(part.parse::<usize>().ok()?)?;
                Some((item, item.at))
            }
            Value::Map(_) => {
                let entry = self.get(part)?;
                let at = match entry.value.value {
                    Value::Scalar(_) if !entry.value.is_null() => entry.value.at,
                    _ => entry.at,
                };
                Some((&entry.value, at))
            }
        }
    }

    /// "text", "a list", ...: for messages.
    pub(super) const fn describe(&self) -> Described<'_> {
        Described(self)
    }
}

/// The steps of a key path: `rules[0].from` has `rules`, `0` and `from`.
struct Steps<'p>(&'p str);

impl<'p> Iterator for Steps<'p> {
    type Item = &'p str;

    fn next(&mut self) -> Option<&'p str> {
        let rest = self.0.trim_start_matches('.');
        if rest.is_empty() {
            return None;
        }
        let (step, rest) = match rest.strip_prefix('[') {
            Some(bracketed) => {
                let (step, rest) = bracketed.split_once(']').unwrap_or((bracketed, ""));
                (step.trim_matches('"'), rest)
            }
            None => rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len())),
        };
        self.0 = rest;
        Some(step)
    }
}

fn resolve(text: &str) -> Resolved {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Resolved::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            Resolved::Boolean(true)
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            Resolved::Boolean(false)
        }
        _ if is_integer(text) => Resolved::Integer,
        _ if is_number(text) => Resolved::Number,
        _ => Resolved::Text,
    }
}

fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && (digits == "0" || !digits.starts_with('0'))
}

fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if let Some(digits) = unsigned.strip_prefix("0x") {
        return !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    }
    if let Some(digits) = unsigned.strip_prefix("0o") {
        return !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    }
    if matches!(
        unsigned,
        ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN"
    ) {
        return true;
    }
    // Rust's own grammar for floats also takes "inf" and "nan", which YAML does not.
    unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.contains(|c: char| c.is_ascii_digit())
        && unsigned.parse::<f64>().is_ok()
}

/// Display of a node for messages: kind and, for scalars, the bounded value.
#[derive(Debug)]
pub(super) struct Described<'a>(&'a Node);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.value {
            Value::List(_) => f.write_str("a list"),
            Value::Map(_) => f.write_str("a map"),
            Value::Scalar(scalar) => match scalar.resolve() {
                Resolved::Null => f.write_str("nothing"),
                Resolved::Boolean(_) => write!(f, "the boolean {}", Shown(scalar.as_str())),
                Resolved::Integer | Resolved::Number => {
                    write!(f, "the number {}", Shown(scalar.as_str()))
                }
                Resolved::Text => write!(f, "the text \"{}\"", Shown(scalar.as_str())),
            },
        }
    }
}

/// Display of text from a file for messages: escaped, at most 80 characters.
#[derive(Debug)]
pub(super) struct Shown<'a>(pub(super) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.chars();
        for c in rest.by_ref().take(80) {
            write!(f, "{}", c.escape_debug())?;
        }
        if rest.next().is_some() {
            f.write_str("...")?;
        }
        Ok(())
    }
}
