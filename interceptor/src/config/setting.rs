//! The types of values in the configuration file: how each is read, shown and described.

use std::ops::RangeInclusive;
use std::path::{Component, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use interceptor_policy::{OnUnsupported, TrustDomain};
use serde_json::Value;

use crate::capture::Prober;
use crate::telemetry::access::Format;
use crate::telemetry::logging;
use crate::telemetry::queue::Destination;
use crate::workload::{SaidBy, SameNode};
use crate::yaml::Reader;

/// A value of the configuration file.
pub(super) trait Setting: Sized {
    /// What limits it.
    type Allowed;

    /// Reads it; a mistake is reported by the reader.
    fn read(reader: &Reader<'_>, allowed: &Self::Allowed) -> Option<Self>;

    /// Its form in the file; null if there is none.
    fn show(&self) -> Value;

    /// What may be written, for the documentation.
    fn describe(allowed: &Self::Allowed) -> String;
}

impl Setting for bool {
    type Allowed = ();

    fn read(reader: &Reader<'_>, (): &()) -> Option<Self> {
        reader.boolean()
    }

    fn show(&self) -> Value {
        Value::from(*self)
    }

    fn describe((): &()) -> String {
        "true or false".to_owned()
    }
}

/// Integers all read, show and describe alike.
macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl Setting for $integer {
            type Allowed = RangeInclusive<Self>;

            fn read(reader: &Reader<'_>, allowed: &Self::Allowed) -> Option<Self> {
                reader.integer(allowed.clone())
            }

            fn show(&self) -> Value {
                Value::from(*self)
            }

            fn describe(allowed: &Self::Allowed) -> String {
                format!("{} to {}", allowed.start(), allowed.end())
            }
        }
    )*};
}

integers!(u16, u32, usize);

impl Setting for Duration {
    type Allowed = RangeInclusive<Self>;

    fn read(reader: &Reader<'_>, allowed: &Self::Allowed) -> Option<Self> {
        let duration = reader.duration()?;
        if !allowed.contains(&duration) {
            reader.error(format!("must be {}", Self::describe(allowed)));
            return None;
        }
        Some(duration)
    }

    fn show(&self) -> Value {
        Value::from(humantime::format_duration(*self).to_string())
    }

    fn describe(allowed: &Self::Allowed) -> String {
        let show = |duration: &Self| humantime::format_duration(*duration).to_string();
        format!("{} to {}", show(allowed.start()), show(allowed.end()))
    }
}

impl Setting for PathBuf {
    type Allowed = ();

    fn read(reader: &Reader<'_>, (): &()) -> Option<Self> {
        let path = Self::from(reader.name()?);
        let upwards = path.components().any(|part| part == Component::ParentDir);
        if !path.is_absolute() || upwards {
            reader.error("must be an absolute path without `..`");
            return None;
        }
        Some(path)
    }

    fn show(&self) -> Value {
        Value::from(self.to_string_lossy())
    }

    fn describe((): &()) -> String {
        "an absolute path".to_owned()
    }
}

impl Setting for Option<PathBuf> {
    type Allowed = ();

    fn read(reader: &Reader<'_>, (): &()) -> Option<Self> {
        PathBuf::read(reader, &()).map(Some)
    }

    fn show(&self) -> Value {
        self.as_ref().map_or(Value::Null, Setting::show)
    }

    fn describe((): &()) -> String {
        PathBuf::describe(&())
    }
}

/// The words for [`Prober`]; anything else is a cgroup.
const PROBERS: [(&str, Prober); 2] = [("auto", Prober::Discover), ("none", Prober::None)];

impl Setting for Prober {
    type Allowed = ();

    fn read(reader: &Reader<'_>, (): &()) -> Option<Self> {
        let text = reader.name()?;
        if let Some((_, prober)) = PROBERS.iter().find(|(word, _)| *word == text) {
            return Some(prober.clone());
        }
        let path = PathBuf::from(text);
        let upwards = path.components().any(|part| part == Component::ParentDir);
        if upwards || !text.contains('/') {
            reader.error(
                "must be auto, none or the path of a cgroup without `..`, such as \
                 /system.slice/kubelet.service",
            );
            return None;
        }
        Some(Self::Cgroup(path))
    }

    fn show(&self) -> Value {
        match self {
            Self::Cgroup(path) => path.show(),
            word => PROBERS
                .iter()
                .find(|(_, prober)| prober == word)
                .map_or(Value::Null, |(word, _)| Value::from(*word)),
        }
    }

    fn describe((): &()) -> String {
        "auto, none or a cgroup's path".to_owned()
    }
}

impl Setting for TrustDomain {
    type Allowed = ();

    fn read(reader: &Reader<'_>, (): &()) -> Option<Self> {
        reader.parsed()
    }

    fn show(&self) -> Value {
        Value::from(self.as_str())
    }

    fn describe((): &()) -> String {
        "a trust domain".to_owned()
    }
}

impl Setting for Vec<TrustDomain> {
    type Allowed = ();

    fn read(reader: &Reader<'_>, (): &()) -> Option<Self> {
        let items = reader.items()?;
        Some(
            items
                .filter_map(|item| TrustDomain::read(&item, &()))
                .collect(),
        )
    }

    fn show(&self) -> Value {
        self.iter().map(Setting::show).collect()
    }

    fn describe((): &()) -> String {
        "a list of trust domains".to_owned()
    }
}

/// What a text must be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Words {
    /// A node's name, which becomes part of paths.
    Node,
    /// A DNS name in lower case.
    Dns,
    /// A log level or directives.
    Level,
}

impl Words {
    /// What is wrong with `text`, if something is.
    pub(super) fn problem(self, text: &str) -> Option<String> {
        let short = !text.is_empty() && text.len() <= 253;
        match self {
            Self::Node => {
                let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
                let right = short && text.chars().all(legal) && !text.starts_with('.');
                (!right).then(|| {
                    "must be at most 253 letters, digits, '-', '_' and '.', not beginning with '.'"
                        .to_owned()
                })
            }
            Self::Dns => {
                let legal = |c: char| {
                    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.')
                };
                let right = short && text.chars().all(legal);
                (!right).then(|| {
                    "must be at most 253 lower-case letters, digits, '-' and '.'".to_owned()
                })
            }
            Self::Level => logging::parse(text).err().map(|error| error.to_string()),
        }
    }

    fn read<'a>(self, reader: &Reader<'a>) -> Option<&'a str> {
        let text = reader.text()?;
        match self.problem(text) {
            None => Some(text),
            Some(problem) => {
                reader.error(problem);
                None
            }
        }
    }

    fn describe(self) -> String {
        let what = match self {
            Self::Node => "a node's name",
            Self::Dns => "a DNS name",
            Self::Level => "a level",
        };
        what.to_owned()
    }
}

impl Setting for Arc<str> {
    type Allowed = Words;

    fn read(reader: &Reader<'_>, allowed: &Words) -> Option<Self> {
        allowed.read(reader).map(Self::from)
    }

    fn show(&self) -> Value {
        Value::from(&**self)
    }

    fn describe(allowed: &Words) -> String {
        allowed.describe()
    }
}

impl Setting for String {
    type Allowed = Words;

    fn read(reader: &Reader<'_>, allowed: &Words) -> Option<Self> {
        allowed.read(reader).map(Self::from)
    }

    fn show(&self) -> Value {
        Value::from(self.as_str())
    }

    fn describe(allowed: &Words) -> String {
        allowed.describe()
    }
}

impl Setting for Format {
    type Allowed = [(&'static str, Self); 2];

    fn read(reader: &Reader<'_>, allowed: &Self::Allowed) -> Option<Self> {
        reader.one_of(allowed)
    }

    fn show(&self) -> Value {
        Value::from(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }

    fn describe(allowed: &Self::Allowed) -> String {
        choices(allowed)
    }
}

const UNSUPPORTED: [(&str, OnUnsupported); 2] = [
    ("widen", OnUnsupported::Widen),
    ("reject", OnUnsupported::Reject),
];

impl Setting for OnUnsupported {
    type Allowed = ();

    fn read(reader: &Reader<'_>, (): &()) -> Option<Self> {
        reader.one_of(&UNSUPPORTED)
    }

    fn show(&self) -> Value {
        let word = UNSUPPORTED.iter().find(|(_, value)| value == self);
        word.map_or(Value::Null, |(word, _)| Value::from(*word))
    }

    fn describe((): &()) -> String {
        choices(&UNSUPPORTED)
    }
}

const SAME_NODE: [(&str, SameNode); 2] = [
    ("kernel", SameNode::Kernel),
    ("mtls", SameNode::Mtls(SaidBy::Mesh)),
];

impl Setting for SameNode {
    type Allowed = ();

    fn read(reader: &Reader<'_>, (): &()) -> Option<Self> {
        reader.one_of(&SAME_NODE)
    }

    fn show(&self) -> Value {
        let word = SAME_NODE.iter().find(|(_, value)| value == self);
        word.map_or(Value::Null, |(word, _)| Value::from(*word))
    }

    fn describe((): &()) -> String {
        choices(&SAME_NODE)
    }
}

fn choices<T>(choices: &[(&str, T)]) -> String {
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    words.join(" or ")
}

impl Setting for Destination {
    type Allowed = ();

    fn read(reader: &Reader<'_>, (): &()) -> Option<Self> {
        match reader.text()? {
            "stdout" => Some(Self::Stdout),
            "stderr" => Some(Self::Stderr),
            path if path.starts_with('/') => PathBuf::read(reader, &()).map(Self::File),
            _ => {
                reader.error("must be stdout, stderr or an absolute path");
                None
            }
        }
    }

    fn show(&self) -> Value {
        match self {
            Self::Stdout => Value::from("stdout"),
            Self::Stderr => Value::from("stderr"),
            Self::File(path) => path.show(),
        }
    }

    fn describe((): &()) -> String {
        "stdout, stderr or an absolute path".to_owned()
    }
}
