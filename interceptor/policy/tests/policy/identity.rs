//! SPIFFE ids and trust domains: what is one, and that it survives being written and read.

use interceptor_policy::{SpiffeId, SpiffeIdError, TrustDomain, TrustDomainError};
use proptest::prelude::*;
use rstest::rstest;

#[test]
fn an_identity_has_its_parts() -> Result<(), SpiffeIdError> {
    let id: SpiffeId = "spiffe://cluster.local/ns/demo/sa/caller".parse()?;
    assert_eq!(id.trust_domain().as_str(), "cluster.local");
    assert_eq!((id.namespace(), id.service_account()), ("demo", "caller"));
    assert_eq!(id.principal(), "cluster.local/ns/demo/sa/caller");
    assert_eq!(
        id,
        SpiffeId::new(&TrustDomain::cluster_local(), "demo", "caller")?
    );
    Ok(())
}

#[rstest]
#[case::nothing("", SpiffeIdError::Scheme)]
#[case::no_scheme("cluster.local/ns/a/sa/b", SpiffeIdError::Scheme)]
#[case::another_scheme("https://cluster.local/ns/a/sa/b", SpiffeIdError::Scheme)]
#[case::an_upper_case_scheme("SPIFFE://cluster.local/ns/a/sa/b", SpiffeIdError::Scheme)]
#[case::no_path("spiffe://cluster.local", SpiffeIdError::Path)]
#[case::an_empty_path("spiffe://cluster.local/", SpiffeIdError::Path)]
#[case::another_path("spiffe://cluster.local/workload/a", SpiffeIdError::Path)]
#[case::a_longer_path("spiffe://cluster.local/ns/a/sa/b/c", SpiffeIdError::Path)]
#[case::a_trailing_slash("spiffe://cluster.local/ns/a/sa/b/", SpiffeIdError::Path)]
#[case::swapped_parts("spiffe://cluster.local/sa/a/ns/b", SpiffeIdError::Path)]
#[case::an_empty_namespace("spiffe://cluster.local/ns//sa/b", SpiffeIdError::Segment("".into()))]
#[case::dots("spiffe://cluster.local/ns/../sa/b", SpiffeIdError::Segment("..".into()))]
#[case::a_query("spiffe://cluster.local/ns/a/sa/b?x", SpiffeIdError::Segment("b?x".into()))]
#[case::an_escape("spiffe://cluster.local/ns/a/sa/%62", SpiffeIdError::Segment("%62".into()))]
#[case::a_port("spiffe://cluster.local:80/ns/a/sa/b", TrustDomainError::Character(':').into())]
#[case::a_user("spiffe://u@cluster.local/ns/a/sa/b", TrustDomainError::Character('@').into())]
#[case::upper_case("spiffe://Cluster.local/ns/a/sa/b", TrustDomainError::Character('C').into())]
#[case::no_trust_domain("spiffe:///ns/a/sa/b", TrustDomainError::Empty.into())]
fn what_is_not_an_identity(#[case] text: &str, #[case] expected: SpiffeIdError) {
    assert_eq!(text.parse::<SpiffeId>(), Err(expected));
}

#[test]
fn lengths_are_bounded_as_the_specification_says() {
    let domain = |bytes: usize| "a".repeat(bytes).parse::<TrustDomain>();
    assert!(domain(255).is_ok());
    assert_eq!(domain(256), Err(TrustDomainError::TooLong(256)));
    let id = |bytes: usize| {
        let start = "spiffe://cluster.local/ns/a/sa/";
        format!("{start}{}", "b".repeat(bytes.saturating_sub(start.len()))).parse::<SpiffeId>()
    };
    assert!(id(2048).is_ok());
    assert_eq!(id(2049), Err(SpiffeIdError::TooLong(2049)));
}

proptest! {
    #[test]
    fn an_identity_survives_being_written_and_read(
        domain in "[a-z0-9._-]{1,40}",
        namespace in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?",
        account in "[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?",
    ) {
        let domain: TrustDomain = domain.parse().expect("legal characters");
        let id = SpiffeId::new(&domain, &namespace, &account).expect("legal segments");
        prop_assert_eq!(id.to_string().parse(), Ok(id.clone()));
        let json = serde_json::to_string(&id).expect("text");
        prop_assert_eq!(serde_json::from_str::<SpiffeId>(&json).ok(), Some(id));
    }

    #[test]
    fn any_text_is_an_identity_or_an_error(text in ".{0,80}") {
        if let Ok(id) = text.parse::<SpiffeId>() {
            prop_assert_eq!(id.as_str(), text);
        }
    }

    #[test]
    fn almost_identities_never_panic(text in "spiffe:/{0,3}[a-z.%/ ]{0,12}(/?ns/?[a-z./]{0,6}/?sa/?.{0,6})?") {
        if let Ok(id) = text.parse::<SpiffeId>() {
            prop_assert_eq!(id.as_str(), text);
        }
    }
}
