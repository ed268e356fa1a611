//! One entry of `when`.

use super::fields::Syntax;
use super::list::Written;
use super::rule::Draft;
use crate::field::{Attribute, Place};
use crate::policy::Entry;
use crate::spec::ConditionSpec;

/// Keys that Istio knows and only an HTTP proxy can decide.
const HTTP_KEYS: [&str; 5] = [
    "remote.ip",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "connection.sni",
];

/// The same with a name in brackets: `request.headers[User-Agent]`.
const HTTP_MAP_KEYS: [&str; 3] = [
    "request.headers",
    "request.auth.claims",
    "experimental.envoy.filters.",
];

/// What a `when` key is to us.
enum Key {
    Decidable(Attribute),
    Http,
    Wrong(String),
}

pub(super) fn compile(spec: &ConditionSpec, index: usize, draft: &mut Draft<'_>) -> Entry {
    let place = Place::When(index);
    let path = place.path(draft.path);
    if spec.values.is_empty() && spec.not_values.is_empty() {
        draft.problems.error(
            path.clone(),
            "needs values or notValues: without them it says nothing about the connection",
        );
    }
    let mut entry = Entry {
        place,
        tests: Box::default(),
    };
    match classify(&spec.key) {
        Key::Decidable(attribute) => {
            let written = Written {
                attribute,
                values: &spec.values,
                not_values: &spec.not_values,
            };
            entry.tests = draft.test(&written, place).into_iter().collect();
        }
        Key::Http => {
            let syntax = if spec.key == "remote.ip" {
                Syntax::Address
            } else {
                Syntax::Text
            };
            draft.check_values(&path.key("values"), &spec.values, syntax);
            draft.check_values(&path.key("notValues"), &spec.not_values, syntax);
            draft.unsupported(path.key("key"), format!("{place} ({})", spec.key));
        }
        Key::Wrong(message) => draft.problems.error(path.key("key"), message),
    }
    entry
}

fn classify(key: &str) -> Key {
    if let Some(attribute) = Attribute::from_condition_key(key) {
        return Key::Decidable(attribute);
    }
    if HTTP_KEYS.contains(&key) {
        return Key::Http;
    }
    if HTTP_MAP_KEYS.iter().any(|prefix| key.starts_with(prefix)) {
        return if is_map_key(key) {
            Key::Http
        } else {
            Key::Wrong(format!(
                "{key:?} lacks its name in brackets: write it as key[name]"
            ))
        };
    }
    Key::Wrong(match key {
        "" => "missing: name the attribute that the values belong to".to_owned(),
        "destination.namespace" => "use the policy's own namespace instead".to_owned(),
        _ if key.starts_with("destination.labels") => {
            "use the policy's selector instead".to_owned()
        }
        _ => format!(
            "{key:?} is not an attribute; at L4 there are source.ip, source.principal, \
             source.namespace, source.serviceAccount, source.trustDomain, destination.ip and \
             destination.port"
        ),
    })
}

/// Whether a key has the form `a[b]`.
fn is_map_key(key: &str) -> bool {
    key.split_once('[')
        .is_some_and(|(map, name)| !map.is_empty() && name.ends_with(']') && name.len() > 1)
}
