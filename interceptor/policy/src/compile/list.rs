//! Lists of values, each value parsed or reported with its own path.

use super::{Context, alias};
use crate::PolicyName;
use crate::field::{Attribute, Place};
use crate::policy::{Action, Test};
use crate::problem::{FieldPath, Problems};
use crate::settings::Settings;
use crate::value::{Covers, IpBlock, Pattern, PortMatch, ServiceAccountRef, Values};

/// Istio's limit for service accounts in one list.
const MAX_SERVICE_ACCOUNTS: usize = 16;

/// Both lists of one field, as written.
pub(super) struct Written<'a> {
    pub(super) attribute: Attribute,
    pub(super) values: &'a [String],
    pub(super) not_values: &'a [String],
}

/// The test that both lists describe, or `None` if they are empty.
pub(super) fn compile(
    written: &Written<'_>,
    place: Place,
    rule: &FieldPath,
    context: &Context<'_>,
    problems: &mut Problems,
) -> Option<Test> {
    if written.values.is_empty() && written.not_values.is_empty() {
        return None;
    }
    let mut lists = Lists {
        written,
        place,
        rule,
        problems,
    };
    let aliases = context.settings;
    Some(match written.attribute {
        Attribute::Principal => {
            Test::Principal(lists.parse(|text| alias::principals(text, aliases)))
        }
        Attribute::TrustDomain => {
            Test::TrustDomain(lists.parse(|text| alias::trust_domains(text, aliases)))
        }
        Attribute::Namespace => Test::Namespace(lists.parse(|text| Pattern::parse(text).map(one))),
        Attribute::ServiceAccount => {
            lists.limit(MAX_SERVICE_ACCOUNTS);
            let own = &*context.name.namespace;
            Test::ServiceAccount(lists.parse(|text| ServiceAccountRef::parse(text, own).map(one)))
        }
        Attribute::SourceIp => Test::SourceIp(lists.parse(parse_block)),
        Attribute::DestinationIp => Test::DestinationIp(lists.parse(parse_block)),
        Attribute::DestinationPort => {
            Test::DestinationPort(lists.parse(|text| text.parse::<PortMatch>().map(one)))
        }
    })
}

/// The test that one value describes, written in a policy of this name; `None` if it is no value.
pub(crate) fn compile_value(
    text: &str,
    attribute: Attribute,
    policy: &PolicyName,
    settings: &Settings,
) -> Option<Test> {
    let context = Context {
        name: policy,
        settings,
        action: Action::Deny,
    };
    let values = [text.to_owned()];
    let written = Written {
        attribute,
        values: &values,
        not_values: &[],
    };
    // The place only matters for messages, which nobody sees.
    let (place, rule) = (Place::When(0), FieldPath::default());
    let mut problems = Problems::default();
    let test = compile(&written, place, &rule, &context, &mut problems);
    test.filter(|_| problems.no_errors())
}

fn one<T>(value: T) -> Vec<T> {
    vec![value]
}

fn parse_block(text: &str) -> Result<Vec<IpBlock>, String> {
    text.parse::<IpBlock>()
        .map(one)
        .map_err(|error| error.to_string())
}

/// The two lists of a field and where their problems go.
struct Lists<'a> {
    written: &'a Written<'a>,
    place: Place,
    rule: &'a FieldPath,
    problems: &'a mut Problems,
}

impl Lists<'_> {
    /// Every value of both lists, parsed; one written value may mean several.
    fn parse<T: Covers>(&mut self, parse: impl Fn(&str) -> Result<Vec<T>, String>) -> Values<T> {
        let values = Values {
            any_of: self.parse_list(false, self.written.values, &parse),
            none_of: self.parse_list(true, self.written.not_values, &parse),
        };
        // Only what was read completely: a value that is wrong may be the one that could match.
        if values.any_of.len() >= self.written.values.len() && values.contradict() {
            let path = self.path(true);
            self.problems.error(
                path,
                "never matches, because it excludes every value that is listed beside it: remove \
                 what should match, or the whole entry",
            );
        }
        values
    }

    fn parse_list<T>(
        &mut self,
        negated: bool,
        texts: &[String],
        parse: impl Fn(&str) -> Result<Vec<T>, String>,
    ) -> Box<[T]> {
        let mut parsed = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            if text.is_empty() {
                let path = self.path(negated).index(index);
                self.problems
                    .error(path, "an empty value is not allowed: remove it");
                continue;
            }
            match parse(text) {
                Ok(values) => {
                    parsed.extend(values);
                    self.warn_about(negated, index, text);
                }
                Err(message) => {
                    let path = self.path(negated).index(index);
                    self.problems.error(path, message);
                }
            }
        }
        parsed.into()
    }

    /// Reports values that parse and yet do something unexpected.
    fn warn_about(&mut self, negated: bool, index: usize, text: &str) {
        let message = match self.written.attribute {
            Attribute::SourceIp | Attribute::DestinationIp
                if !IpBlock::is_written_as_network(text) =>
            {
                format!(
                    "the bits of {text} after the prefix are ignored: write the network's address"
                )
            }
            Attribute::Principal if !could_be_identity(text) => format!(
                "{text} equals no identity: they have the form <trust domain>/ns/<namespace>/sa/<name>"
            ),
            _ => return,
        };
        let path = self.path(negated).index(index);
        self.problems.warn(path, message);
    }

    /// Refuses lists of a source that are longer than Istio allows; `when` has no such limit.
    fn limit(&mut self, most: usize) {
        if matches!(self.place, Place::When(_)) {
            return;
        }
        for (negated, texts) in [
            (false, self.written.values),
            (true, self.written.not_values),
        ] {
            if texts.len() > most {
                let path = self.path(negated);
                self.problems
                    .error(path, format!("at most {most} values: split the rule"));
            }
        }
    }

    fn path(&self, negated: bool) -> FieldPath {
        let field = crate::FieldRef {
            place: self.place,
            attribute: self.written.attribute,
            negated,
        };
        self.place.path(self.rule).key(field.key())
    }
}

/// Whether an exact principal has the form of an identity; patterns are given the benefit.
fn could_be_identity(text: &str) -> bool {
    text.contains('*')
        || format!("spiffe://{text}")
            .parse::<crate::SpiffeId>()
            .is_ok()
}
