//! Tests of refusals: what is written can be read, and what is read is bounded.

use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn reason(proxy: &str, error: Option<&str>, details: Option<&str>) -> PeerReason {
    PeerReason {
        proxy: proxy.to_owned(),
        error: error.map(str::to_owned),
        details: details.map(str::to_owned),
        ..PeerReason::default()
    }
}

#[test]
fn the_policy_and_its_rule_reach_the_other_end() {
    let policy = PolicyName::new("demo", "allow-caller");
    let refusal = Refusal::denied("no match").by(Some(&policy), Some(2));
    let (_, value) = refusal.header();
    insta::assert_snapshot!(
        value.to_str().unwrap(),
        @r#"interceptor; error=http_request_denied; policy="demo/allow-caller"; rule=2; details="no match""#
    );
    let read = PeerReason::parse(value.to_str().unwrap()).unwrap();
    assert_eq!((read.policy.as_ref(), read.rule), (Some(&policy), Some(2)));
    assert_eq!(read.to_string(), "no match");
}

#[rstest]
#[case::no_slash("demo")]
#[case::empty_name("demo/")]
#[case::two_slashes("a/b/c")]
#[case::spaces("a/b c")]
fn a_policy_that_cannot_be_one_is_none(#[case] name: &str) {
    let read = PeerReason::parse(&format!("interceptor; policy=\"{name}\"")).unwrap();
    assert_eq!(read.policy, None);
}

#[test]
fn another_proxys_policy_is_not_ours() {
    let read = PeerReason::parse("envoy; policy=\"a/b\"; rule=1; error=y").unwrap();
    assert_eq!((read.policy, read.rule), (None, None));
}

#[rstest]
#[case::ours(
    "interceptor; error=http_request_denied; details=\"policy=a/b rule=0\"",
    reason("interceptor", Some("http_request_denied"), Some("policy=a/b rule=0"))
)]
#[case::without_parameters("envoy", reason("envoy", None, None))]
#[case::quoted_name("\"my proxy\";error=x", reason("my proxy", Some("x"), None))]
#[case::escapes("p;details=\"a\\\"b\\\\c\"", reason("p", None, Some("a\"b\\c")))]
#[case::the_last_of_several("origin;error=a, edge;error=b", reason("edge", Some("b"), None))]
#[case::comma_in_a_string("p;details=\"a, b; c\"", reason("p", None, Some("a, b; c")))]
#[case::unknown_parameters(
    "p;rcvd-status=503;next-hop=\"10.0.0.1\";received;error=x",
    reason("p", Some("x"), None)
)]
#[case::text_item("?1;error=dns_error", reason("?1", Some("dns_error"), None))]
fn reads_what_proxies_write(#[case] text: &str, #[case] expected: PeerReason) {
    assert_eq!(PeerReason::parse(text), Some(expected));
}

#[rstest]
#[case::empty("")]
#[case::unterminated_string("p;details=\"abc")]
#[case::bad_escape("p;details=\"a\\n\"")]
#[case::non_ascii("p;details=\"\u{e9}\"")]
#[case::control("p;details=\"\u{1}\"")]
#[case::trailing_comma("p,")]
#[case::no_key("p;=x")]
#[case::no_value("p;error=")]
#[case::garbage_after("p \"x\"")]
fn refuses_what_is_not_a_proxy_status(#[case] text: &str) {
    assert_eq!(PeerReason::parse(text), None);
}

#[test]
fn what_is_kept_of_a_peers_words_is_bounded() {
    let long = format!(
        "{};error={};details=\"{}\"",
        "n".repeat(900),
        "e".repeat(900),
        "d".repeat(900)
    );
    let parsed = PeerReason::parse(&long).unwrap();
    assert_eq!(parsed.proxy.len(), MAX_NAME);
    assert_eq!(parsed.error.unwrap().len(), MAX_NAME);
    assert_eq!(parsed.details.unwrap().len(), MAX_DETAILS);
    assert_eq!(PeerReason::parse(&"x".repeat(MAX_HEADER + 1)), None);
}

proptest! {
    #[test]
    fn any_details_survive_as_printable_ascii(details in ".{0,700}") {
        let (name, value) = Refusal::denied(details.clone()).header();
        let mut headers = HeaderMap::new();
        headers.append(name, value);
        let read = PeerReason::from_headers(&headers).unwrap();
        let expected: String = details
            .chars()
            .take(MAX_DETAILS)
            .map(|c| match c {
                ' '..='~' => c,
                c if c.is_control() => ' ',
                _ => '?',
            })
            .collect();
        prop_assert_eq!(read.details.unwrap_or_default(), expected);
        prop_assert_eq!(read.error.as_deref(), Some("http_request_denied"));
    }

    #[test]
    fn no_value_makes_the_parser_panic(text in "\\PC{0,200}") {
        let _parsed = PeerReason::parse(&text);
    }

    #[test]
    fn no_nearly_valid_value_makes_the_parser_panic(text in "[a-z;=\"\\\\, ]{0,80}") {
        let _parsed = PeerReason::parse(&text);
    }
}
