//! The catalogue is complete, and what is told of an end is what it says.

use std::path::Path;

use interceptor_policy::{PolicyName, RuleRef};
use rstest::rstest;

use super::*;

fn rule() -> RuleRef {
    RuleRef {
        policy: PolicyName::new("demo", "allow-caller"),
        rule: 0,
    }
}

#[test]
fn labels_are_distinct_and_in_alphabetical_order() {
    let texts: Vec<_> = Label::ALL.iter().map(|label| label.as_str()).collect();
    assert!(texts.is_sorted_by(|a, b| a < b), "{texts:?}");
}

#[test]
fn labels_are_what_queries_can_name() {
    for label in Label::ALL {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(label.as_str().chars().all(allowed), "{label}");
    }
}

#[test]
fn what_they_mean_is_whole_sentences_that_fit_into_a_table() {
    for label in Label::ALL {
        let meaning = label.entry().meaning;
        assert!(meaning.ends_with('.'), "{label}: {meaning}");
        assert!(!meaning.contains(['|', '\n']), "{label}: {meaning}");
    }
}

#[test]
fn what_was_carried_to_its_end_has_no_flag_and_what_was_denied_has_its_own() {
    for label in Label::ALL {
        for (outcome, flags) in label.entry().ends {
            match outcome {
                Outcome::Allowed => assert_eq!(*flags, ResponseFlags::None, "{label}"),
                Outcome::Denied => assert_eq!(*flags, ResponseFlags::Deny, "{label}"),
                Outcome::Failed => assert_ne!(*flags, ResponseFlags::Deny, "{label}"),
                Outcome::Cut => {}
            }
        }
    }
}

#[rstest]
#[case::nobody_asks(Cause::NoPolicies)]
#[case::nobody_objects(Cause::NoDenyMatched)]
#[case::allowed(Cause::AllowedBy(rule()))]
#[case::denied(Cause::DeniedBy { rule: rule(), hits: Vec::new(), widened: Vec::new() })]
fn a_verdict_has_the_label_that_the_policy_engine_gives_it(#[case] cause: Cause) {
    assert_eq!(Label::of(&cause).as_str(), cause.reason());
}

#[test]
fn docs_list_every_reason() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reasons.md");
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's switch, not configuration"
    )]
    if std::env::var("INTERCEPTOR_GEN").is_ok() {
        std::fs::write(&path, Label::markdown()).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(&path).unwrap_or_default(),
        Label::markdown(),
        "run: INTERCEPTOR_GEN=1 cargo test -p interceptor docs_list_every_reason"
    );
}
