//! `NetworkPolicy`, as far as ports are concerned: whom it selects, and which ports it lets through.
//!
//! Selectors mean exactly what they mean to Kubernetes, expressions included. What Kubernetes would
//! refuse is not guessed at: the object is left out, and the reason is told.

use std::collections::{BTreeMap, BTreeSet};

use super::extra::Object;
use super::finding::Place;
use crate::workload::Workload;
use crate::yaml::{Fields, Reader};

/// A `NetworkPolicy`.
#[derive(Debug)]
pub(super) struct NetworkPolicy {
    pub(super) place: Place,
    pub(super) namespace: String,
    pods: Vec<Requirement>,
    /// What comes in, if it limits that.
    pub(super) ingress: Option<Vec<Rule>>,
    /// The same for what goes out.
    pub(super) egress: Option<Vec<Rule>>,
}

/// The ports that a rule lets through; every one, if it names none.
#[derive(Debug)]
pub(super) struct Rule(Option<Vec<AllowedPort>>);

/// A port that a rule lets through. Numbers are inclusive ranges.
#[derive(Debug)]
pub(super) enum AllowedPort {
    Tcp(u16, u16),
    /// TCP, by the name of a container port.
    Named(String),
    /// Every TCP port.
    AnyTcp,
    /// UDP or SCTP.
    Other,
}

/// What a selector asks of one label.
#[derive(Debug)]
struct Requirement {
    key: String,
    wants: Wants,
}

#[derive(Debug)]
enum Wants {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    DoesNotExist,
}

impl NetworkPolicy {
    /// Reads one; the error says why it cannot be used.
    pub(super) fn read(object: &Object<'_>) -> Result<Self, String> {
        let Some(spec) = &object.spec else {
            return Err("it has no spec".to_owned());
        };
        let selector = spec.optional("podSelector");
        let pods = selector.map_or_else(|| Ok(Vec::new()), |selector| requirements(&selector))?;
        let types = spec.optional("policyTypes").map(|types| types.texts());
        let egress = spec.optional("egress");
        let limits = |kind: &str, by_default: bool| match &types {
            Some(types) => types.iter().any(|one| one == kind),
            None => by_default,
        };
        let (limits_in, limits_out) = (limits("Ingress", true), limits("Egress", egress.is_some()));
        let rules = |rules: Option<Reader<'_>>| -> Vec<Rule> {
            let rules = rules.map(|rules| rules.list(|rule| Some(Rule::read(rule))));
            rules.unwrap_or_default()
        };
        Ok(Self {
            place: object.place(),
            namespace: object.namespace.to_owned(),
            pods,
            ingress: limits_in.then(|| rules(spec.optional("ingress"))),
            egress: limits_out.then(|| rules(egress)),
        })
    }

    /// Whether it selects a workload of its namespace.
    pub(super) fn selects(&self, workload: &Workload) -> bool {
        let labels = &workload.labels;
        self.pods.iter().all(|pods| pods.met_by(labels))
    }

    /// How much looking at it costs, in comparisons.
    pub(super) fn cost(&self) -> usize {
        let rules = self.ingress.iter().chain(&self.egress).flatten();
        let ports = rules.map(|rule| rule.ports().count().saturating_add(1));
        ports.sum::<usize>().saturating_add(self.pods.len()).max(1)
    }
}

impl Rule {
    fn read(rule: &Reader<'_>) -> Self {
        let ports = rule.fields().and_then(|fields| fields.optional("ports"));
        let ports = ports.map(|ports| ports.list(|port| Some(AllowedPort::read(port))));
        Self(ports.filter(|ports| !ports.is_empty()))
    }

    /// Whether it lets a TCP port of a workload through.
    pub(super) fn admits(&self, number: u16, workload: &Workload) -> bool {
        let ports = self.0.as_ref();
        ports.is_none_or(|ports| ports.iter().any(|port| port.admits(number, workload)))
    }

    /// The ports that it names.
    pub(super) fn ports(&self) -> impl Iterator<Item = &AllowedPort> {
        self.0.iter().flatten()
    }
}

impl AllowedPort {
    fn read(port: &Reader<'_>) -> Self {
        let Some(fields) = port.fields() else {
            return Self::Other;
        };
        let protocol = fields.optional("protocol");
        let protocol = protocol.as_ref().and_then(Reader::text);
        if !matches!(protocol, None | Some("TCP")) {
            return Self::Other;
        }
        let Some(port) = fields.optional("port") else {
            return Self::AnyTcp;
        };
        match port.integer(1..=u16::MAX) {
            Some(first) => {
                let end = fields.optional("endPort");
                let last = end.and_then(|end| end.integer(first..=u16::MAX));
                Self::Tcp(first, last.unwrap_or(first))
            }
            None => Self::Named(port.text().unwrap_or_default().to_owned()),
        }
    }

    fn admits(&self, number: u16, workload: &Workload) -> bool {
        match self {
            Self::Tcp(first, last) => (*first..=*last).contains(&number),
            Self::Named(name) => workload.ports.get(name) == Some(&number),
            Self::AnyTcp => true,
            Self::Other => false,
        }
    }
}

/// A label selector: `matchLabels` and `matchExpressions`, all of which must be met.
fn requirements(selector: &Reader<'_>) -> Result<Vec<Requirement>, String> {
    let Some(fields) = selector.fields() else {
        return Err("its podSelector is no selector".to_owned());
    };
    let labels = fields.optional("matchLabels");
    let labels = labels.map(|labels| labels.text_map()).unwrap_or_default();
    let labels = labels.into_iter().map(|(key, value)| {
        Ok(Requirement {
            key,
            wants: Wants::In(BTreeSet::from([value])),
        })
    });
    let expressions = fields.optional("matchExpressions");
    let expressions = expressions.as_ref().and_then(Reader::items);
    let expressions = expressions.into_iter().flatten();
    let expressions = expressions.map(|one| {
        let fields = one
            .fields()
            .ok_or("an entry of its podSelector.matchExpressions is none")?;
        expression(&fields)
    });
    labels.chain(expressions).collect()
}

fn expression(fields: &Fields<'_>) -> Result<Requirement, String> {
    let text = |key| {
        let value: Option<Reader<'_>> = fields.optional(key);
        value.and_then(|value| value.text().map(str::to_owned))
    };
    let key = text("key").ok_or("an entry of its podSelector.matchExpressions has no key")?;
    let values = fields.optional("values");
    let values: BTreeSet<String> = values
        .map(|values| values.texts().into_iter().collect())
        .unwrap_or_default();
    let operator = text("operator").unwrap_or_default();
    let wants = match (operator.as_str(), values.is_empty()) {
        ("In", false) => Wants::In(values),
        ("NotIn", false) => Wants::NotIn(values),
        ("Exists", true) => Wants::Exists,
        ("DoesNotExist", true) => Wants::DoesNotExist,
        ("In" | "NotIn", true) => return Err(format!("{operator} {key} needs values")),
        ("Exists" | "DoesNotExist", false) => {
            return Err(format!("{operator} {key} takes no values"));
        }
        _ => {
            return Err(format!(
                "operator {operator:?} of {key} must be In, NotIn, Exists or DoesNotExist"
            ));
        }
    };
    Ok(Requirement { key, wants })
}

impl Requirement {
    fn met_by(&self, labels: &BTreeMap<String, String>) -> bool {
        match (&self.wants, labels.get(&self.key)) {
            (Wants::In(values), Some(value)) => values.contains(value),
            (Wants::NotIn(values), Some(value)) => !values.contains(value),
            (Wants::Exists, Some(_)) | (Wants::NotIn(_) | Wants::DoesNotExist, None) => true,
            (Wants::In(_) | Wants::Exists, None) | (Wants::DoesNotExist, Some(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use rstest::rstest;

    use super::super::extra::Extra;
    use crate::yaml::{Limits, Report, parse};

    fn policies(selector: &str) -> Extra {
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: a}}\n\
             spec: {{podSelector: {selector}}}\n"
        );
        let mut extra = Extra::default();
        let report = Report::default();
        let documents = parse(&Arc::from("a.yaml"), &text, &Limits::default(), &report);
        for document in &documents {
            extra.see(document);
        }
        extra
    }

    #[rstest]
    #[case::everything("{}", true)]
    #[case::labels("{matchLabels: {app: web}}", true)]
    #[case::other_labels("{matchLabels: {app: db}}", false)]
    #[case::is_one_of(
        "{matchExpressions: [{key: app, operator: In, values: [db, web]}]}",
        true
    )]
    #[case::is_none_of(
        "{matchExpressions: [{key: app, operator: NotIn, values: [web]}]}",
        false
    )]
    #[case::has_not_that_label(
        "{matchExpressions: [{key: tier, operator: NotIn, values: [x]}]}",
        true
    )]
    #[case::is_missing("{matchExpressions: [{key: tier, operator: In, values: [x]}]}", false)]
    #[case::exists("{matchExpressions: [{key: app, operator: Exists}]}", true)]
    #[case::exists_not("{matchExpressions: [{key: app, operator: DoesNotExist}]}", false)]
    #[case::all_must_be_met(
        "{matchLabels: {app: web}, matchExpressions: [{key: tier, operator: Exists}]}",
        false
    )]
    fn a_selector_means_what_it_means_to_kubernetes(#[case] selector: &str, #[case] met: bool) {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let extra = policies(selector);
        let [policy] = extra.network_policies.as_slice() else {
            panic!("one policy: {:?}", extra.unreadable)
        };
        assert_eq!(policy.pods.iter().all(|pods| pods.met_by(&labels)), met);
    }

    #[rstest]
    #[case::an_operator(
        "{matchExpressions: [{key: app, operator: Is, values: [a]}]}",
        "operator \"Is\" of app must be In, NotIn, Exists or DoesNotExist"
    )]
    #[case::no_values(
        "{matchExpressions: [{key: app, operator: In}]}",
        "In app needs values"
    )]
    #[case::values(
        "{matchExpressions: [{key: app, operator: Exists, values: [a]}]}",
        "Exists app takes no values"
    )]
    #[case::no_key(
        "{matchExpressions: [{operator: Exists}]}",
        "an entry of its podSelector.matchExpressions has no key"
    )]
    #[case::a_list("[]", "its podSelector is no selector")]
    fn what_kubernetes_refuses_is_left_out_and_told(#[case] selector: &str, #[case] why: &str) {
        let extra = policies(selector);
        assert!(extra.network_policies.is_empty());
        let [(_, told)] = extra.unreadable.as_slice() else {
            panic!("one reason")
        };
        assert_eq!(told, why);
    }
}
