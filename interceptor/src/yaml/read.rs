//! Typed reading: every reader notes its mistakes in the [`Report`] and answers `None`, so that
//! one pass finds all of them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::mistake::{Mistake, Report, Severity};
use super::node::{Document, Entry, Node, Position, Resolved, Scalar, Shown, Value};
use super::suggest::nearest;

/// A value in a document together with its place and its key path.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    file: &'a Arc<str>,
    node: &'a Node,
    at: Position,
    path: Path<'a>,
    report: &'a Report,
}

/// The key path from the document's root, shared between siblings and only spelled out for
/// mistakes.
#[derive(Clone, Debug, Default)]
struct Path<'a>(Option<Rc<(Self, Step<'a>)>>);

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    fn then(&self, step: Step<'a>) -> Self {
        Self(Some(Rc::new((self.clone(), step))))
    }

    fn spell(&self, out: &mut String) {
        let Some((before, step)) = self.0.as_deref() else {
            return;
        };
        before.spell(out);
        match step {
            Step::Key(key) => push_key(out, key),
            // Writing to a String cannot fail.
            Step::Index(index) => write!(out, "[{index}]").unwrap_or_default(),
        }
    }
}

/// Appends `.key`, or `["some.key"]` for keys that are not plain words.
pub(super) fn push_key(path: &mut String, key: &str) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let result = if key.is_empty() || !key.chars().all(is_word) {
        write!(path, "[\"{}\"]", Shown(key))
    } else if path.is_empty() {
        write!(path, "{}", Shown(key))
    } else {
        write!(path, ".{}", Shown(key))
    };
    // Writing to a String cannot fail.
    result.unwrap_or_default();
}

impl<'a> Reader<'a> {
    /// Reads from the root of `document`.
    pub fn new(document: &'a Document, report: &'a Report) -> Self {
        Self {
            file: &document.file,
            node: &document.root,
            at: document.root.at,
            path: Path::default(),
            report,
        }
    }

    /// The file that this value stands in.
    pub const fn file(&self) -> &'a Arc<str> {
        self.file
    }

    /// Where this value was written.
    pub const fn position(&self) -> Position {
        self.at
    }

    /// Its key path, such as `spec.rules[0].from`.
    pub fn key(&self) -> String {
        let mut path = String::new();
        self.path.spell(&mut path);
        path
    }

    /// The value itself.
    pub const fn node(&self) -> &'a Node {
        self.node
    }

    /// Where all mistakes of this file go.
    pub const fn report(&self) -> &'a Report {
        self.report
    }

    /// Reports an error about this value.
    pub fn error(&self, message: impl Into<String>) {
        self.report
            .add(Mistake::at(self.file, self.at, self.key(), message));
    }

    /// Reports something that is accepted but probably not meant.
    pub fn warning(&self, message: impl Into<String>) {
        self.report
            .add(Mistake::at(self.file, self.at, self.key(), message).with(Severity::Warning));
    }

    fn expected(&self, what: impl Display) {
        self.error(format!("must be {what}, not {}", self.node.describe()));
    }

    fn scalar(&self, what: &str) -> Option<&'a Scalar> {
        match &self.node.value {
            Value::Scalar(scalar) => Some(scalar),
            Value::List(_) | Value::Map(_) => {
                self.expected(what);
                None
            }
        }
    }

    /// Text. A number or boolean without quotes is a mistake, as it is for Kubernetes.
    pub fn text(&self) -> Option<&'a str> {
        let scalar = self.scalar("text")?;
        match scalar.resolve() {
            Resolved::Text => return Some(scalar.as_str()),
            Resolved::Null => self.expected("text"),
            Resolved::Boolean(_) | Resolved::Integer | Resolved::Number => self.error(format!(
                "must be text, not {}; write it in quotes: \"{}\"",
                self.node.describe(),
                Shown(scalar.as_str())
            )),
        }
        None
    }

    /// Text that is not empty.
    pub fn name(&self) -> Option<&'a str> {
        let text = self.text()?;
        if text.is_empty() {
            self.error("must not be empty");
            return None;
        }
        Some(text)
    }

    /// Text that has a meaning of its own; the type's error says what is wrong with it.
    pub fn parsed<T>(&self) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = self.text()?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.error(format!("\"{}\": {error}", Shown(text)));
                None
            }
        }
    }

    /// An integer within `range`.
    pub fn integer<T>(&self, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i128> + PartialOrd + Display,
    {
        let scalar = self.scalar("a number")?;
        if scalar.resolve() == Resolved::Integer
            && let Ok(wide) = scalar.as_str().parse::<i128>()
            && let Ok(value) = T::try_from(wide)
            && range.contains(&value)
        {
            return Some(value);
        }
        self.expected(format_args!(
            "a number from {} to {}",
            range.start(),
            range.end()
        ));
        None
    }

    /// A boolean.
    pub fn boolean(&self) -> Option<bool> {
        if let Resolved::Boolean(value) = self.scalar("true or false")?.resolve() {
            return Some(value);
        }
        self.expected("true or false");
        None
    }

    /// A duration with a unit: `10s`, `1m 30s`, `24h`.
    pub fn duration(&self) -> Option<Duration> {
        let what = "a duration such as 10s, 5m or 24h";
        let scalar = self.scalar(what)?;
        let duration = humantime::parse_duration(scalar.as_str()).ok();
        if duration.is_none() {
            self.expected(what);
        }
        duration
    }

    /// One of a closed set of words.
    pub fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let words = || choices.iter().map(|(word, _)| *word);
        let Value::Scalar(scalar) = &self.node.value else {
            self.expected(Alternatives(words().collect()));
            return None;
        };
        let text = scalar.as_str();
        let found = choices.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let hint = nearest(text, words())
                .map(|word| format!("; did you mean {word}?"))
                .unwrap_or_default();
            self.error(format!(
                "must be {}, not {}{hint}",
                Alternatives(words().collect()),
                self.node.describe()
            ));
        }
        found.map(|(_, value)| *value)
    }

    /// The elements of a list.
    pub fn items(&self) -> Option<impl Iterator<Item = Self> + use<'a>> {
        let Value::List(items) = &self.node.value else {
            self.expected("a list");
            return None;
        };
        let this = self.clone();
        Some(items.iter().enumerate().map(move |(index, node)| Self {
            node,
            at: node.at,
            path: this.path.then(Step::Index(index)),
            ..this.clone()
        }))
    }

    /// Reads every element of a list; those with mistakes are left out.
    pub fn list<T>(&self, read: impl FnMut(&Self) -> Option<T>) -> Vec<T> {
        let mut read = read;
        match self.items() {
            Some(items) => items.filter_map(|item| read(&item)).collect(),
            None => Vec::new(),
        }
    }

    /// A list of texts.
    pub fn texts(&self) -> Vec<String> {
        self.list(|item| item.text().map(str::to_owned))
    }

    /// The entries of a map whose keys are not known beforehand, such as labels.
    pub fn entries(&self) -> Option<impl Iterator<Item = (&'a str, Self)> + use<'a>> {
        let Value::Map(entries) = &self.node.value else {
            self.expected("a map");
            return None;
        };
        let this = self.clone();
        Some(
            entries
                .iter()
                .map(move |entry| (&*entry.key, this.child(entry))),
        )
    }

    /// A map from text to text, such as labels.
    pub fn text_map(&self) -> BTreeMap<String, String> {
        match self.entries() {
            Some(entries) => entries
                .filter_map(|(key, value)| Some((key.to_owned(), value.text()?.to_owned())))
                .collect(),
            None => BTreeMap::new(),
        }
    }

    /// A map with known keys. Finish with [`Fields::no_others`].
    pub fn fields(&self) -> Option<Fields<'a>> {
        let Value::Map(entries) = &self.node.value else {
            self.expected("a map");
            return None;
        };
        Some(Fields {
            reader: self.clone(),
            entries,
            known: RefCell::default(),
        })
    }

    fn child(&self, entry: &'a Entry) -> Self {
        let scalar = matches!(entry.value.value, Value::Scalar(_)) && !entry.value.is_null();
        Self {
            node: &entry.value,
            // A mistake about a whole list or map is best shown at its key.
            at: if scalar { entry.value.at } else { entry.at },
            path: self.path.then(Step::Key(&entry.key)),
            ..self.clone()
        }
    }
}

/// A map with known keys, read field by field.
#[derive(Debug)]
pub struct Fields<'a> {
    reader: Reader<'a>,
    entries: &'a [Entry],
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Fields<'a> {
    /// The field `key`, if it is there and not null.
    pub fn optional(&self, key: &'static str) -> Option<Reader<'a>> {
        self.known.borrow_mut().push(key);
        self.entries
            .iter()
            .find(|entry| &*entry.key == key && !entry.value.is_null())
            .map(|entry| self.reader.child(entry))
    }

    /// The field `key`; its absence is a mistake.
    pub fn required(&self, key: &'static str) -> Option<Reader<'a>> {
        let found = self.optional(key);
        if found.is_none() {
            self.reader.error(format!("field `{key}` is missing"));
        }
        found
    }

    /// The map as a value.
    pub const fn reader(&self) -> &Reader<'a> {
        &self.reader
    }

    /// Declares fields that exist but are not read.
    pub fn known(&self, keys: &[&'static str]) {
        self.known.borrow_mut().extend_from_slice(keys);
    }

    /// Reports every field that was neither asked for nor declared, with the field that was
    /// probably meant.
    pub fn no_others(&self) {
        let known = self.known.borrow();
        for entry in self.entries {
            if known.contains(&&*entry.key) {
                continue;
            }
            if self.reader.report.is_full() {
                self.reader.child(entry).error("unknown field");
                continue;
            }
            let hint = match nearest(&entry.key, known.iter().copied()) {
                Some(word) => format!("; did you mean `{word}`?"),
                None => format!("; known here: {}", known.join(", ")),
            };
            self.reader.report.add(Mistake::at(
                self.reader.file,
                entry.at,
                self.reader.key(),
                format!("unknown field `{}`{hint}", Shown(&entry.key)),
            ));
        }
    }
}

/// "a, b or c".
struct Alternatives<'w>(Vec<&'w str>);

impl Display for Alternatives<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, word) in self.0.iter().enumerate() {
            if index > 0 {
                let last = index + 1 == self.0.len();
                f.write_str(if last { " or " } else { ", " })?;
            }
            f.write_str(word)?;
        }
        Ok(())
    }
}
