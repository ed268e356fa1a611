//! One change of one object, and what it makes of what was written.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::field::{Attribute, FieldRef, Place};
use crate::peer_authentication::MtlsMode;
use crate::policy::PolicyName;
use crate::spec::{
    AuthorizationPolicySpec, ConditionSpec, FromSpec, MtlsSpec, OperationSpec,
    PeerAuthenticationSpec, RuleSpec, SelectorSpec, SourceSpec, ToSpec,
};
use crate::{FieldPath, SpiffeId};

/// One change. Its `Display` is an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The caller comes over mutual TLS instead of in plaintext.
    UseMtls {
        /// As whom.
        identity: SpiffeId,
    },
    /// Something in an authorization policy.
    Policy {
        /// Which.
        policy: PolicyName,
        /// What.
        edit: Edit,
    },
    /// A new authorization policy for the workload.
    AddPolicy {
        /// Its name.
        policy: PolicyName,
        /// What it says.
        spec: Box<AuthorizationPolicySpec>,
    },
    /// An authorization policy goes.
    DeletePolicy {
        /// Which.
        policy: PolicyName,
    },
    /// What a port accepts.
    Mode(ModeChange),
    /// A label of the workload goes, so that policies no longer select it.
    RemoveLabel {
        /// Its key.
        key: String,
        /// Its value.
        value: String,
    },
}

/// Something in an authorization policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A value is added to a list. An entry that is not there yet is made.
    AddValue {
        /// The index of the rule.
        rule: usize,
        /// The list.
        field: FieldRef,
        /// The value.
        value: String,
    },
    /// A value is taken out of a list.
    RemoveValue {
        /// The index of the rule.
        rule: usize,
        /// The list.
        field: FieldRef,
        /// The value, as written.
        value: String,
    },
    /// An entry of `from`, `to` or `when` goes.
    RemoveEntry {
        /// The index of the rule.
        rule: usize,
        /// The entry.
        place: Place,
    },
    /// A rule is added at the end.
    AddRule {
        /// What it says.
        rule: Box<RuleSpec>,
    },
    /// A rule goes.
    RemoveRule {
        /// Its index.
        rule: usize,
    },
}

/// What a port, or everything that an object holds for, accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeChange {
    /// The `PeerAuthentication`.
    pub object: PolicyName,
    /// The port; `None` for all that it holds for.
    pub port: Option<u16>,
    /// The new mode.
    pub mode: MtlsMode,
    /// The labels that it selects by, if it is a new object.
    pub new: Option<BTreeMap<String, String>>,
}

// === what it makes of what was written ===

impl Edit {
    /// Makes the change in `spec`. `None` if `spec` has no such place, and then it is unchanged.
    pub fn apply(&self, spec: &mut AuthorizationPolicySpec) -> Option<()> {
        match self {
            Self::AddValue { rule, field, value } => {
                let rule = spec.rules.get_mut(*rule)?;
                make_entry(rule, *field)?;
                list(rule, *field)?.push(value.clone());
            }
            Self::RemoveValue { rule, field, value } => {
                let values = list(spec.rules.get_mut(*rule)?, *field)?;
                let at = values.iter().position(|written| written == value)?;
                values.remove(at);
            }
            Self::RemoveEntry { rule, place } => {
                let rule = spec.rules.get_mut(*rule)?;
                match place {
                    Place::From(index) => remove(&mut rule.from, *index)?,
                    Place::To(index) => remove(&mut rule.to, *index)?,
                    Place::When(index) if *index < rule.when.len() => {
                        rule.when.remove(*index);
                    }
                    Place::When(_) => return None,
                }
            }
            Self::AddRule { rule } => spec.rules.push((**rule).clone()),
            Self::RemoveRule { rule } if *rule < spec.rules.len() => {
                spec.rules.remove(*rule);
            }
            Self::RemoveRule { .. } => return None,
        }
        Some(())
    }
}

/// Takes an entry out; with the last one the whole list goes.
fn remove<T>(entries: &mut Option<Vec<T>>, index: usize) -> Option<()> {
    let list = entries.as_mut().filter(|list| index < list.len())?;
    list.remove(index);
    if list.is_empty() {
        *entries = None;
    }
    Some(())
}

/// Makes the entry that a field stands in, if it is the next one.
fn make_entry(rule: &mut RuleSpec, field: FieldRef) -> Option<()> {
    match field.place {
        Place::From(index) => {
            let entries = rule.from.get_or_insert_default();
            if index == entries.len() {
                let source = Some(SourceSpec::default());
                entries.push(FromSpec { source });
            }
            (index < entries.len()).then_some(())
        }
        Place::To(index) => {
            let entries = rule.to.get_or_insert_default();
            if index == entries.len() {
                let operation = Some(OperationSpec::default());
                entries.push(ToSpec { operation });
            }
            (index < entries.len()).then_some(())
        }
        Place::When(index) => {
            if index == rule.when.len() {
                rule.when.push(ConditionSpec {
                    key: field.attribute.condition_key().to_owned(),
                    ..ConditionSpec::default()
                });
            }
            (index < rule.when.len()).then_some(())
        }
    }
}

/// The list that a field is, as written.
pub(super) fn list(rule: &mut RuleSpec, field: FieldRef) -> Option<&mut Vec<String>> {
    let negated = field.negated;
    let pick = |lists: (_, _)| if negated { lists.1 } else { lists.0 };
    match field.place {
        Place::From(index) => {
            let source = rule.from.as_mut()?.get_mut(index)?.source.as_mut()?;
            let s = source;
            Some(pick(match field.attribute {
                Attribute::Principal => (&mut s.principals, &mut s.not_principals),
                Attribute::Namespace => (&mut s.namespaces, &mut s.not_namespaces),
                Attribute::ServiceAccount => (&mut s.service_accounts, &mut s.not_service_accounts),
                Attribute::TrustDomain => (&mut s.trust_domains, &mut s.not_trust_domains),
                Attribute::SourceIp => (&mut s.ip_blocks, &mut s.not_ip_blocks),
                Attribute::DestinationIp | Attribute::DestinationPort => return None,
            }))
        }
        Place::To(index) => {
            let operation = rule.to.as_mut()?.get_mut(index)?.operation.as_mut()?;
            (field.attribute == Attribute::DestinationPort)
                .then(|| pick((&mut operation.ports, &mut operation.not_ports)))
        }
        Place::When(index) => {
            let condition = rule.when.get_mut(index)?;
            (condition.key == field.attribute.condition_key())
                .then(|| pick((&mut condition.values, &mut condition.not_values)))
        }
    }
}

impl ModeChange {
    /// Makes the change in what `spec` says.
    pub fn apply(&self, spec: &mut PeerAuthenticationSpec) {
        let mtls = MtlsSpec {
            mode: Some(self.mode.to_string()),
        };
        if let Some(match_labels) = &self.new {
            let match_labels = match_labels.clone();
            spec.selector = Some(SelectorSpec { match_labels });
        }
        match self.port {
            None => spec.mtls = Some(mtls),
            Some(port) => {
                let ports = spec.port_level_mtls.get_or_insert_default();
                ports.insert(port.to_string(), mtls);
            }
        }
    }
}

// === instructions ===

impl Change {
    /// The object that is changed, made or deleted.
    pub const fn object(&self) -> Option<&PolicyName> {
        match self {
            Self::UseMtls { .. } | Self::RemoveLabel { .. } => None,
            Self::Policy { policy, .. }
            | Self::AddPolicy { policy, .. }
            | Self::DeletePolicy { policy } => Some(policy),
            Self::Mode(change) => Some(&change.object),
        }
    }

    /// The field of that object that is changed.
    pub fn path(&self) -> Option<FieldPath> {
        let spec = FieldPath::root("spec");
        let rules = || spec.key("rules");
        match self {
            Self::UseMtls { .. } | Self::AddPolicy { .. } | Self::DeletePolicy { .. } => None,
            Self::Policy { edit, .. } => Some(match edit {
                Edit::AddValue { rule, field, .. } | Edit::RemoveValue { rule, field, .. } => {
                    field.path(*rule)
                }
                Edit::RemoveEntry { rule, place } => place.entry_path(&rules().index(*rule)),
                Edit::AddRule { .. } => rules(),
                Edit::RemoveRule { rule } => rules().index(*rule),
            }),
            Self::Mode(change) => Some(match change.port {
                None => spec.key("mtls").key("mode"),
                Some(port) => (spec.key("portLevelMtls").key(port.to_string())).key("mode"),
            }),
            Self::RemoveLabel { key, .. } => {
                Some(FieldPath::root("metadata").key("labels").key(key.clone()))
            }
        }
    }

    const fn label(&self) -> &'static str {
        match self {
            Self::UseMtls { .. } => "use_mtls",
            Self::Policy { edit, .. } => match edit {
                Edit::AddValue { .. } => "add_value",
                Edit::RemoveValue { .. } => "remove_value",
                Edit::RemoveEntry { .. } => "remove_entry",
                Edit::AddRule { .. } => "add_rule",
                Edit::RemoveRule { .. } => "remove_rule",
            },
            Self::AddPolicy { .. } => "add_policy",
            Self::DeletePolicy { .. } => "delete_policy",
            Self::Mode(_) => "set_mode",
            Self::RemoveLabel { .. } => "remove_label",
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UseMtls { identity } => {
                write!(
                    f,
                    "enrol the caller, so that it comes as {identity} over mutual TLS"
                )
            }
            Self::Policy { policy, edit } => edit.write(f, policy),
            Self::AddPolicy { policy, spec } => {
                let action = spec.action.as_deref().unwrap_or("ALLOW");
                write!(f, "add a policy {policy} that says {action} ")?;
                spec.rules.iter().try_for_each(|rule| write_rule(f, rule))
            }
            Self::DeletePolicy { policy } => write!(f, "delete policy {policy}"),
            Self::Mode(change) => change.fmt(f),
            Self::RemoveLabel { key, value } => write!(
                f,
                "remove the label {key}={value} of the workload, which policies select it by"
            ),
        }
    }
}

impl Edit {
    fn write(&self, f: &mut fmt::Formatter<'_>, policy: &PolicyName) -> fmt::Result {
        match self {
            Self::AddValue { rule, field, value } => {
                write!(f, "add {value:?} to {field} of {policy} rule {rule}")
            }
            Self::RemoveValue { rule, field, value } => {
                write!(f, "remove {value:?} from {field} of {policy} rule {rule}")
            }
            Self::RemoveEntry { rule, place } => {
                write!(f, "remove {} of {policy} rule {rule}", place.entry())
            }
            Self::AddRule { rule } => {
                write!(f, "add a rule to {policy}: ")?;
                write_rule(f, rule)
            }
            Self::RemoveRule { rule } => write!(f, "remove rule {rule} of {policy}"),
        }
    }
}

/// A rule that was made here: one source, one port.
fn write_rule(f: &mut fmt::Formatter<'_>, rule: &RuleSpec) -> fmt::Result {
    let sources = rule
        .from
        .iter()
        .flatten()
        .filter_map(|from| from.source.as_ref());
    let operations = rule
        .to
        .iter()
        .flatten()
        .filter_map(|to| to.operation.as_ref());
    let mut said = Vec::new();
    if rule.from.is_none() {
        said.push("from anybody".to_owned());
    }
    for source in sources {
        said.extend(
            source
                .principals
                .iter()
                .map(|value| format!("from principal {value}")),
        );
        said.extend(
            source
                .ip_blocks
                .iter()
                .map(|value| format!("from address {value}")),
        );
    }
    for operation in operations {
        said.extend(
            operation
                .ports
                .iter()
                .map(|value| format!("to port {value}")),
        );
    }
    f.write_str(&said.join(" "))
}

impl fmt::Display for ModeChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            object, port, mode, ..
        } = self;
        match (&self.new, port) {
            (Some(_), Some(port)) => write!(
                f,
                "add a PeerAuthentication {object} that selects the workload and sets port {port} \
                 to {mode}"
            ),
            (Some(_), None) => write!(
                f,
                "add a PeerAuthentication {object} that selects the workload and sets {mode}"
            ),
            (None, Some(port)) => write!(
                f,
                "set port {port} of PeerAuthentication {object} to {mode}"
            ),
            (None, None) => write!(f, "set the mode of PeerAuthentication {object} to {mode}"),
        }
    }
}

impl Serialize for Change {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(None)?;
        out.serialize_entry("change", self.label())?;
        out.serialize_entry("object", &self.object())?;
        out.serialize_entry("path", &self.path())?;
        if let Self::Policy {
            edit: Edit::AddValue { value, .. } | Edit::RemoveValue { value, .. },
            ..
        } = self
        {
            out.serialize_entry("value", value)?;
        }
        out.serialize_entry("message", &self.to_string())?;
        out.end()
    }
}
