//! Turns the events of YAML's grammar into trees, refusing what is ambiguous or too large.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use saphyr_parser::{Event, ScalarStyle, Tag};

use super::mistake::{Mistake, Report};
use super::node::{Document, Entry, Node, Position, Scalar, Shown, Value};
use super::parse::Limits;
use super::read::push_key;

/// A list or map whose end has not been seen yet.
struct Open {
    at: Position,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        keys: Keys,
        pending: Option<(Box<str>, Position)>,
    },
}

/// The keys of a map that is being read, to find duplicates. Almost all maps are small enough to
/// be searched; only large ones pay for hashing.
#[derive(Default)]
struct Keys(HashMap<Box<str>, Position>);

impl Keys {
    const SMALL: usize = 16;

    fn find(&self, entries: &[Entry], key: &str) -> Option<Position> {
        if entries.len() <= Self::SMALL {
            let same = |entry: &&Entry| &*entry.key == key;
            return entries.iter().find(same).map(|entry| entry.at);
        }
        self.0.get(key).copied()
    }

    /// To be called before `key` is added to `entries`.
    fn add(&mut self, entries: &[Entry], key: &str, at: Position) {
        if entries.len() < Self::SMALL {
            return;
        }
        if self.0.is_empty() {
            let known = entries.iter().map(|entry| (entry.key.clone(), entry.at));
            self.0.extend(known);
        }
        self.0.insert(Box::from(key), at);
    }
}

/// Turns events into trees with a stack of its own, so that nesting costs no call stack.
pub(super) struct Builder<'a> {
    file: &'a Arc<str>,
    limits: &'a Limits,
    report: &'a Report,
    document: Option<Document>,
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, Extent)>,
    nodes: usize,
    aliased: usize,
}

impl<'a> Builder<'a> {
    pub(super) fn new(file: &'a Arc<str>, limits: &'a Limits, report: &'a Report) -> Self {
        Self {
            file,
            limits,
            report,
            document: None,
            open: Vec::new(),
            anchors: HashMap::new(),
            nodes: 0,
            aliased: 0,
        }
    }

    /// Takes the next event of the grammar; an error ends the file.
    pub(super) fn take(
        &mut self,
        event: Event<'_>,
        at: Position,
    ) -> Result<Option<Document>, Mistake> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd => {}
            Event::DocumentStart(_) => self.anchors.clear(),
            Event::DocumentEnd => return Ok(self.document.take()),
            Event::Alias(anchor) => self.alias(anchor, at)?,
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = self.scalar(&text, style, tag.as_deref(), at)?;
                let value = Value::Scalar(scalar);
                self.value(Node { at, value }, anchor, at)?;
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), "seq", at)?;
                self.push(at, anchor, Content::List(Vec::new()))?;
            }
            Event::MappingStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), "map", at)?;
                let content = Content::Map {
                    entries: Vec::new(),
                    keys: Keys::default(),
                    pending: None,
                };
                self.push(at, anchor, content)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(at)?,
        }
        Ok(None)
    }

    fn alias(&mut self, anchor: usize, at: Position) -> Result<(), Mistake> {
        let Some((node, extent)) = self.anchors.get(&anchor) else {
            return Err(self.mistake(at, "alias of something that is not in this document"));
        };
        let extent = *extent;
        if self.open.len().saturating_add(extent.depth) > self.limits.depth {
            return Err(self.too_deep(at));
        }
        let node = node.clone();
        self.charge_alias(extent.size, at)?;
        self.value(node, 0, at)
    }

    fn push(&mut self, at: Position, anchor: usize, content: Content) -> Result<(), Mistake> {
        if self.open.len() >= self.limits.depth {
            return Err(self.too_deep(at));
        }
        if self.awaits_key() {
            return Err(self.mistake(at, "a key must be a plain word, not a list or a map"));
        }
        self.open.push(Open {
            at,
            anchor,
            content,
        });
        Ok(())
    }

    fn close(&mut self, at: Position) -> Result<(), Mistake> {
        let Some(open) = self.open.pop() else {
            return Err(self.mistake(at, "ends a list or map that was never opened"));
        };
        let value = match open.content {
            Content::List(items) => Value::List(items),
            Content::Map { entries, .. } => Value::Map(entries),
        };
        let node = Node { at: open.at, value };
        self.value(node, open.anchor, open.at)
    }

    /// Puts a finished value where it belongs: into the document, the open list, or the open map
    /// as key or value.
    fn value(&mut self, node: Node, anchor: usize, at: Position) -> Result<(), Mistake> {
        self.nodes += 1;
        if self.nodes > self.limits.nodes {
            let message = format!(
                "more than {} values in one file; split it into several",
                self.limits.nodes
            );
            return Err(self.mistake(at, &message));
        }
        if anchor > 0 {
            let extent = Extent::of(&node);
            self.charge_alias(extent.size, at)?;
            self.anchors.insert(anchor, (node.clone(), extent));
        }
        if self.awaits_key() {
            return self.key(node, at);
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None if node.is_null() => {}
            None => {
                self.document = Some(Document {
                    file: Arc::clone(self.file),
                    root: node,
                });
            }
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map {
                entries,
                keys,
                pending,
            }) => {
                // Awaiting a key was excluded above; a duplicate's value is dropped.
                if let Some((key, at)) = pending.take()
                    && keys.find(entries, &key).is_none()
                {
                    keys.add(entries, &key, at);
                    entries.push(Entry {
                        key,
                        at,
                        value: node,
                    });
                }
            }
        }
        Ok(())
    }

    fn key(&mut self, node: Node, at: Position) -> Result<(), Mistake> {
        let Value::Scalar(scalar) = node.value else {
            return Err(self.mistake(at, "a key must be a plain word, not a list or a map"));
        };
        if matches!(&scalar, Scalar::Plain(text) if &**text == "<<") {
            return Err(self.mistake(
                at,
                "merge keys (<<) are not supported; write the fields out",
            ));
        }
        let text = match scalar {
            Scalar::Plain(text) | Scalar::Text(text) => text,
        };
        let mut first = None;
        if let Some(Content::Map {
            entries,
            keys,
            pending,
        }) = self.open.last_mut().map(|open| &mut open.content)
        {
            first = keys.find(entries, &text);
            *pending = Some((text, at));
        }
        if let Some(first) = first {
            let message = format!("is there twice, first in line {}", first.line);
            self.report.add(self.mistake(at, &message));
        }
        Ok(())
    }

    fn awaits_key(&self) -> bool {
        matches!(
            self.open.last().map(|open| &open.content),
            Some(Content::Map { pending: None, .. })
        )
    }

    /// Aliases multiply: what they copy is paid from a budget of its own, before it is copied
    /// into the tree.
    fn charge_alias(&mut self, size: usize, at: Position) -> Result<(), Mistake> {
        self.aliased = self.aliased.saturating_add(size);
        if self.aliased > self.limits.aliased {
            let message = format!(
                "anchors and aliases copy more than {} values; write them out",
                self.limits.aliased
            );
            return Err(self.mistake(at, &message));
        }
        Ok(())
    }

    fn scalar(
        &self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
        at: Position,
    ) -> Result<Scalar, Mistake> {
        let text = Box::from(text);
        let plain = style == ScalarStyle::Plain;
        match tag {
            None if plain => Ok(Scalar::Plain(text)),
            None => Ok(Scalar::Text(text)),
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Ok(Scalar::Text(text)),
            Some(tag) if tag.is_yaml_core_schema() => Ok(Scalar::Plain(text)),
            Some(tag) => Err(self.unknown_tag(tag, at)),
        }
    }

    fn check_tag(&self, tag: Option<&Tag>, allowed: &str, at: Position) -> Result<(), Mistake> {
        match tag {
            Some(tag) if !(tag.is_yaml_core_schema() && tag.suffix == allowed) => {
                Err(self.unknown_tag(tag, at))
            }
            _ => Ok(()),
        }
    }

    fn unknown_tag(&self, tag: &Tag, at: Position) -> Mistake {
        let message = format!("the tag {} is not supported", Shown(&tag.to_string()));
        self.mistake(at, &message)
    }

    fn too_deep(&self, at: Position) -> Mistake {
        let message = format!("is nested more than {} deep", self.limits.depth);
        self.mistake(at, &message)
    }

    /// A mistake at `at`, with the key path of what is being read.
    pub(super) fn mistake(&self, at: Position, message: &str) -> Mistake {
        Mistake::at(self.file, at, self.path(), message)
    }

    /// The key path of what is being read now.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match &open.content {
                Content::List(items) => {
                    // Writing to a String cannot fail.
                    write!(path, "[{}]", items.len()).unwrap_or_default();
                }
                Content::Map { pending, .. } => {
                    if let Some((key, _)) = pending {
                        push_key(&mut path, key);
                    }
                }
            }
        }
        path
    }
}

/// How large a tree is. Measuring recurses as deep as the tree is, which [`Limits`] bounds.
#[derive(Clone, Copy)]
struct Extent {
    size: usize,
    depth: usize,
}

impl Extent {
    fn of(node: &Node) -> Self {
        let inner = match &node.value {
            Value::Scalar(_) => return Self { size: 1, depth: 0 },
            Value::List(items) => items.iter().fold(Self::NONE, Self::and),
            Value::Map(entries) => entries
                .iter()
                .fold(Self::NONE, |sum, entry| sum.and(&entry.value)),
        };
        Self {
            size: inner.size + 1,
            depth: inner.depth + 1,
        }
    }

    const NONE: Self = Self { size: 0, depth: 0 };

    fn and(self, node: &Node) -> Self {
        let other = Self::of(node);
        Self {
            size: self.size + other.size,
            depth: self.depth.max(other.depth),
        }
    }
}
