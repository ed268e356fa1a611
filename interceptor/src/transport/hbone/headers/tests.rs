//! Tests of the hints: what is written is read again, and nothing hostile gets through.

use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn round_trip(hints: &ConnectHeaders) -> ConnectHeaders {
    let mut headers = HeaderMap::new();
    hints.write(&mut headers);
    ConnectHeaders::read(&headers)
}

#[test]
fn all_hints_survive_the_wire() {
    let hints = ConnectHeaders {
        baggage: Baggage {
            cluster: Some("Kubernetes".to_owned()),
            namespace: Some("demo".to_owned()),
            workload: Some(("deployment".to_owned(), "web".to_owned())),
            service: Some("web".to_owned()),
            revision: Some("v1, \"two\"; 100% é".to_owned()),
        },
        forwarded: Some("[fd00::1]:4711".parse().unwrap()),
        traceparent: Some(Traceparent {
            trace: 1,
            parent: u64::MAX,
            sampled: true,
        }),
    };
    assert_eq!(round_trip(&hints), hints);
}

#[test]
fn nothing_to_say_is_no_header() {
    let mut headers = HeaderMap::new();
    ConnectHeaders::default().write(&mut headers);
    assert!(headers.is_empty());
}

#[rstest]
#[case::ztunnel("for=\"10.77.1.2:13888\"", Some("10.77.1.2:13888"))]
#[case::with_host(
    "for=\"10.0.0.1:1\";host=web.demo.svc.cluster.local",
    Some("10.0.0.1:1")
)]
#[case::host_first("host=x;FOR=\"[::1]:2\"", Some("[::1]:2"))]
#[case::first_of_several("for=\"10.0.0.1:1\", for=\"10.0.0.2:2\"", Some("10.0.0.1:1"))]
#[case::without_port("for=10.0.0.1", None)]
#[case::obfuscated("for=_hidden", None)]
#[case::nothing("", None)]
fn the_client_is_read_from_forwarded(#[case] value: &str, #[case] expected: Option<&str>) {
    let expected = expected.map(|address| address.parse().unwrap());
    assert_eq!(forwarded_for(value), expected);
}

#[rstest]
#[case::version_00("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true)]
#[case::later_version("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more", true)]
#[case::version_ff("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", false)]
#[case::too_long("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-x", false)]
#[case::zero_trace("00-00000000000000000000000000000000-b7ad6b7169203331-00", false)]
#[case::zero_parent("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-00", false)]
#[case::upper_case("00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", false)]
#[case::signs("00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", false)]
#[case::garbage("hello", false)]
fn a_traceparent_is_taken_only_if_valid(#[case] text: &str, #[case] valid: bool) {
    assert_eq!(text.parse::<Traceparent>().is_ok(), valid);
}

#[test]
fn unknown_baggage_is_ignored_and_hostile_baggage_is_absent() {
    let baggage = Baggage::decode(
        "k8s.namespace.name=%0d%0aevil,service.name=%zz,k8s.evil{label}.name=x,user=me,\
         service.version = v2 ;prop=1,k8s.pod.name=p",
    );
    let expected = Baggage {
        workload: Some(("pod".to_owned(), "p".to_owned())),
        revision: Some("v2".to_owned()),
        ..Baggage::default()
    };
    assert_eq!(baggage, expected);
}

proptest! {
    #[test]
    fn any_name_survives_or_is_absent(name in ".{0,80}") {
        let hints = ConnectHeaders {
            baggage: Baggage { service: Some(name.clone()), ..Baggage::default() },
            ..ConnectHeaders::default()
        };
        let read = round_trip(&hints).baggage.service;
        let shown = !name.is_empty() && name.len() <= MAX_VALUE && !name.contains(char::is_control);
        if shown {
            prop_assert_eq!(read, Some(name));
        } else if name.len() <= MAX_VALUE {
            prop_assert_eq!(read, None);
        }
    }

    #[test]
    fn no_header_makes_the_readers_panic(text in "\\PC{0,300}") {
        let _baggage = Baggage::decode(&text);
        let _forwarded = forwarded_for(&text);
        let _trace = text.parse::<Traceparent>();
    }
}
