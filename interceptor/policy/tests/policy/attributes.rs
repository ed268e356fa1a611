//! What each field and each `when` key compares, with and without an identity.

use interceptor_policy::Decision;
use rstest::rstest;
use serde_json::{Value, json};

use crate::fixture::{Call, Mesh, migrating};

const OURS: &str = "spiffe://cluster.local/ns/demo/sa/caller";
const FOREIGN: &str = "spiffe://other.org/ns/demo/sa/caller";

fn allows(source: &Value, call: &Call) -> bool {
    let spec = json!({"rules": [{"from": [{"source": source}]}]});
    Mesh::new()
        .policy("demo/p", &spec)
        .decide(call)
        .is_allowed()
}

fn allows_when(condition: &Value, call: &Call) -> bool {
    let spec = json!({"rules": [{"when": [condition]}]});
    Mesh::new()
        .policy("demo/p", &spec)
        .decide(call)
        .is_allowed()
}

#[rstest]
#[case::exact("cluster.local/ns/demo/sa/caller", true)]
#[case::exact_is_the_whole_text("cluster.local/ns/demo/sa/call", false)]
#[case::case_matters("cluster.local/ns/demo/sa/Caller", false)]
#[case::present("*", true)]
#[case::prefix("cluster.local/ns/demo/*", true)]
#[case::prefix_must_begin("ns/demo/*", false)]
#[case::suffix("*/sa/caller", true)]
#[case::suffix_must_end("*/sa/call", false)]
#[case::any_trust_domain("*/ns/demo/sa/caller", true)]
#[case::another_trust_domain("other.org/ns/demo/sa/caller", false)]
fn principals(#[case] pattern: &str, #[case] expected: bool) {
    assert_eq!(
        allows(&json!({"principals": [pattern]}), &Call::with_id(OURS)),
        expected
    );
    assert_eq!(
        allows(&json!({"notPrincipals": [pattern]}), &Call::with_id(OURS)),
        !expected
    );
    let condition = json!({"key": "source.principal", "values": [pattern]});
    assert_eq!(allows_when(&condition, &Call::with_id(OURS)), expected);
}

#[rstest]
#[case::principals("principals", "notPrincipals", "source.principal", "*")]
#[case::namespaces("namespaces", "notNamespaces", "source.namespace", "*")]
#[case::trust_domains("trustDomains", "notTrustDomains", "source.trustDomain", "*")]
#[case::accounts(
    "serviceAccounts",
    "notServiceAccounts",
    "source.serviceAccount",
    "demo/caller"
)]
fn without_identity_values_never_match_and_not_values_hold(
    #[case] field: &str,
    #[case] not_field: &str,
    #[case] key: &str,
    #[case] value: &str,
) {
    let (identified, plaintext) = (Call::with_id(OURS), Call::plaintext());
    assert!(allows(&json!({field: [value]}), &identified));
    assert!(!allows(&json!({field: [value]}), &plaintext));
    assert!(!allows(&json!({not_field: [value]}), &identified));
    assert!(allows(&json!({not_field: [value]}), &plaintext));
    assert!(allows_when(
        &json!({"key": key, "values": [value]}),
        &identified
    ));
    assert!(!allows_when(
        &json!({"key": key, "values": [value]}),
        &plaintext
    ));
    assert!(!allows_when(
        &json!({"key": key, "notValues": [value]}),
        &identified
    ));
    assert!(allows_when(
        &json!({"key": key, "notValues": [value]}),
        &plaintext
    ));
}

#[rstest]
#[case::exact("demo", true)]
#[case::prefix("de*", true)]
#[case::suffix("*mo", true)]
#[case::another("dem", false)]
fn namespaces(#[case] pattern: &str, #[case] expected: bool) {
    assert_eq!(
        allows(&json!({"namespaces": [pattern]}), &Call::with_id(OURS)),
        expected
    );
}

#[rstest]
#[case::in_the_policys_own_namespace("caller", true)]
#[case::with_a_namespace("demo/caller", true)]
#[case::of_another_namespace("other/caller", false)]
#[case::another("server", false)]
fn service_accounts(#[case] account: &str, #[case] expected: bool) {
    let source = json!({"serviceAccounts": [account]});
    assert_eq!(allows(&source, &Call::with_id(OURS)), expected);
    assert_eq!(
        allows(&source, &Call::with_id(FOREIGN)),
        expected,
        "in any trust domain"
    );
}

#[rstest]
#[case::exact("other.org", true)]
#[case::prefix("other*", true)]
#[case::suffix("*.org", true)]
#[case::another("cluster.local", false)]
fn trust_domains(#[case] pattern: &str, #[case] expected: bool) {
    let call = Call::with_id(FOREIGN);
    assert_eq!(allows(&json!({"trustDomains": [pattern]}), &call), expected);
    assert_eq!(
        allows(&json!({"notTrustDomains": [pattern]}), &call),
        !expected
    );
}

#[test]
fn a_namespace_in_a_trust_domain_is_both() {
    let source = json!({"namespaces": ["demo"], "trustDomains": ["cluster.local"]});
    assert!(allows(&source, &Call::with_id(OURS)));
    assert!(!allows(&source, &Call::with_id(FOREIGN)));
}

#[rstest]
#[case::an_address("10.1.2.3", "10.1.2.3", true)]
#[case::another_address("10.1.2.4", "10.1.2.3", false)]
#[case::a_block("10.0.0.0/8", "10.1.2.3", true)]
#[case::outside_the_block("10.0.0.0/16", "10.1.2.3", false)]
#[case::everything_v4("0.0.0.0/0", "10.1.2.3", true)]
#[case::everything_v6_is_not_v4("::/0", "10.1.2.3", false)]
#[case::everything_v4_is_not_v6("0.0.0.0/0", "2001:db8::1", false)]
#[case::a_v6_block("2001:db8::/32", "2001:db8::1", true)]
#[case::a_mapped_source("10.0.0.0/8", "::ffff:10.1.2.3", true)]
#[case::a_mapped_address_in_the_policy("::ffff:10.1.2.3", "10.1.2.3", true)]
#[case::a_mapped_block_in_the_policy("::ffff:10.0.0.0/104", "10.1.2.3", true)]
#[case::a_block_written_with_host_bits("10.1.2.3/8", "10.200.0.1", true)]
fn ip_blocks(#[case] block: &str, #[case] source: &str, #[case] expected: bool) {
    let call = Call::plaintext().calling_from(source);
    assert_eq!(allows(&json!({"ipBlocks": [block]}), &call), expected);
    assert_eq!(allows(&json!({"notIpBlocks": [block]}), &call), !expected);
    assert_eq!(
        allows_when(&json!({"key": "source.ip", "values": [block]}), &call),
        expected
    );
    let call = Call::plaintext().calling_at(source);
    assert_eq!(
        allows_when(&json!({"key": "destination.ip", "values": [block]}), &call),
        expected
    );
}

#[rstest]
#[case::a_number("8080", true)]
#[case::another_number("80", false)]
#[case::a_range("8000-8080", true)]
#[case::a_range_that_begins_there("8080-9000", true)]
#[case::a_range_of_one("8080-8080", true)]
#[case::a_range_beside_it("8081-9000", false)]
#[case::a_name("http", true)]
#[case::another_ports_name("admin", false)]
#[case::a_name_that_the_workload_lacks("htpp", false)]
fn ports(#[case] port: &str, #[case] expected: bool) {
    let policy = |operation: Value| {
        let spec = json!({"rules": [{"to": [{"operation": operation}]}]});
        Mesh::new()
            .policy("demo/p", &spec)
            .decide(&Call::plaintext())
            .is_allowed()
    };
    assert_eq!(policy(json!({"ports": [port]})), expected);
    assert_eq!(policy(json!({"notPorts": [port]})), !expected);
    let condition = json!({"key": "destination.port", "values": [port]});
    assert_eq!(allows_when(&condition, &Call::plaintext()), expected);
}

#[test]
fn a_port_name_that_the_workload_lacks_is_reported() {
    let spec = json!({"rules": [{"to": [{"operation": {"ports": ["http", "htpp"]}}]}]});
    let server = Mesh::new().policy("demo/p", &spec).server();
    let [unknown] = server.unknown_port_names() else {
        panic!("one unknown name")
    };
    assert_eq!(
        unknown.to_string(),
        "demo/p: spec.rules[0].to[0].operation.ports[1]: the workload has no port named \"htpp\", \
         so it never matches (it has admin, http)"
    );
}

#[rstest]
#[case::the_own_domain_means_its_aliases("new.org/ns/a/sa/b", ["new.org", "old.org"], true)]
#[case::an_alias_means_the_own_domain("old.org/ns/a/sa/b", ["new.org", "old.org"], true)]
#[case::cluster_local_means_them_all("cluster.local/ns/a/sa/b", ["new.org", "old.org"], true)]
#[case::prefixes_of_five_parts_too("old.org/ns/a/sa/*", ["new.org", "old.org"], true)]
#[case::a_partial_wildcard_covers_the_rest("*d.org/ns/a/sa/b", ["new.org", "old.org"], true)]
#[case::any_domain_stays_any("*/ns/a/sa/b", ["third.org", "new.org"], true)]
#[case::a_foreign_domain_stays_foreign("third.org/ns/a/sa/b", ["new.org", "old.org"], false)]
#[case::another_shape_stays_as_written("old.org/ns/a/*", ["new.org", "third.org"], false)]
fn trust_domain_aliases(
    #[case] principal: &str,
    #[case] domains: [&str; 2],
    #[case] expected: bool,
) {
    let spec = json!({"rules": [{"from": [{"source": {"principals": [principal]}}]}]});
    let mesh = Mesh::with_settings(migrating()).policy("demo/p", &spec);
    for domain in domains {
        let call = Call::with_id(&format!("spiffe://{domain}/ns/a/sa/b"));
        assert_eq!(mesh.decide(&call).is_allowed(), expected, "{domain}");
    }
}

#[test]
fn aliases_hold_for_trust_domains_as_well() {
    let spec =
        json!({"action": "DENY", "rules": [{"from": [{"source": {"trustDomains": ["new.org"]}}]}]});
    let mesh = Mesh::with_settings(migrating()).policy("demo/p", &spec);
    let call = Call::with_id("spiffe://old.org/ns/a/sa/b");
    assert_eq!(mesh.decide(&call).decision, Decision::Deny);
}
