//! From a written policy to a compiled one, or to everything that is wrong with it.

use interceptor_policy::{Compiled, PeerAuthentication, Policy, PolicyName, Problem, Severity};

use crate::bytes::Choices;
use crate::engine::{Features, Target, feature, skeleton};

pub(crate) const TARGET: Target = Target {
    name: "compile",
    run,
    words: &[],
};

fn run(input: &[u8]) -> Features {
    let mut choices = Choices::new(input);
    let settings = choices.settings();
    let namespace = choices.one(&["demo", "istio-system"]);
    let name = || PolicyName::new(namespace, "p");
    let (meta, spec) = choices.policy();
    let compiled = Policy::compile(name(), &meta, &spec, &settings);
    let mut features = Features::new();
    if let Ok(compiled) = &compiled {
        assert_eq!(compiled.value.rule_count(), spec.rules.len());
        features.insert(feature((
            compiled.value.action(),
            compiled.value.enforcement(),
        )));
    }
    features.extend(problems(&compiled));
    let again = Policy::compile(name(), &meta, &spec, &settings);
    assert_eq!(compiled, again, "the same policy compiles otherwise");

    let spec = choices.peer_authentication();
    let compiled = PeerAuthentication::compile(name(), None, &spec, &settings);
    features.extend(problems(&compiled));
    features
}

fn problems<T>(compiled: &Result<Compiled<T>, Vec<Problem>>) -> Features {
    let problems = match compiled {
        Ok(compiled) => {
            let warning = |problem: &Problem| problem.severity == Severity::Warning;
            assert!(
                compiled.warnings.iter().all(warning),
                "an error that did not stop it"
            );
            &compiled.warnings
        }
        Err(problems) => {
            let error = |problem: &Problem| problem.severity == Severity::Error;
            assert!(problems.iter().any(error), "refused without an error");
            problems
        }
    };
    let seen = problems.iter().map(|problem| {
        let path = problem.path.to_string();
        assert!(!path.is_empty() && problem.message.len() < 4096);
        feature((problem.severity, skeleton(&problem.message)))
    });
    seen.collect()
}
