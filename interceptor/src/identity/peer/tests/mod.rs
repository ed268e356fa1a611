//! Every way in which a peer's certificates can be wrong, and what we say about it.

mod known;

use std::sync::LazyLock;

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rstest::rstest;

use super::*;

const NOW: u64 = 1_795_219_200;
const HOUR: u64 = 3600;
const SERVER: &str = "spiffe://cluster.local/ns/demo/sa/server";

/// A CA made by hand, which signs whatever it is told to.
struct Authority {
    root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        Self::between(name, NOW - HOUR, NOW + 100 * HOUR)
    }

    fn between(name: &str, from: u64, until: u64) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        validity(&mut params, from, until);
        let key = KeyPair::generate().unwrap();
        Self {
            root: params.self_signed(&key).unwrap().into(),
            issuer: Issuer::new(params, key),
        }
    }

    fn sign(&self, params: &CertificateParams) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, &self.issuer).unwrap().into()
    }

    fn trusted_for(&self, domain: &str) -> Verifier {
        Verifier::new(bundle(&[(domain, self)]))
    }
}

fn bundle(roots: &[(&str, &Authority)]) -> TrustBundle {
    let mut bundle = TrustBundle::default();
    for (domain, authority) in roots {
        let domain = domain.parse().unwrap();
        bundle.add_root(&domain, authority.root.clone()).unwrap();
    }
    bundle
}

fn validity(params: &mut CertificateParams, from: u64, until: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(from);
    params.not_after = epoch + Duration::from_secs(until);
}

fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

/// A leaf as it should be, before a test spoils it.
fn good(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(id)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    validity(&mut params, NOW - HOUR, NOW + HOUR);
    params
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW))
}

fn server() -> SpiffeId {
    SERVER.parse().unwrap()
}

static CA: LazyLock<Authority> = LazyLock::new(|| Authority::new("ours"));

#[test]
fn a_good_peer_is_who_its_certificate_says() {
    let leaf = CA.sign(&good(SERVER));
    let verifier = CA.trusted_for("cluster.local");
    assert_eq!(verifier.verify_client(&leaf, &[], now()), Ok(server()));
    assert_eq!(
        verifier.verify_server(&leaf, &[], &server(), now()),
        Ok(server())
    );
}

type Leaf = CertificateParams;
type Spoil = fn(&mut Leaf);

#[rstest]
#[case::expired("expired", |p: &mut Leaf| validity(p, NOW - 2 * HOUR, NOW - HOUR))]
#[case::not_yet_valid("not_yet_valid", |p: &mut Leaf| validity(p, NOW + HOUR, NOW + 2 * HOUR))]
#[case::another_workload("wrong_identity", |p: &mut Leaf| {
    p.subject_alt_names = vec![uri("spiffe://cluster.local/ns/demo/sa/intruder")];
})]
#[case::another_namespace("wrong_identity", |p: &mut Leaf| {
    p.subject_alt_names = vec![uri("spiffe://cluster.local/ns/other/sa/server")];
})]
#[case::no_names("no_spiffe_id", |p: &mut Leaf| p.subject_alt_names.clear())]
#[case::dns_name_only("no_spiffe_id", |p: &mut Leaf| {
    p.subject_alt_names = vec![SanType::DnsName("server.demo.svc".try_into().unwrap())];
})]
#[case::two_uris("several_identities", |p: &mut Leaf| {
    p.subject_alt_names.push(uri("spiffe://cluster.local/ns/demo/sa/admin"));
})]
#[case::the_same_uri_twice("several_identities", |p: &mut Leaf| p.subject_alt_names.push(uri(SERVER)))]
#[case::not_a_spiffe_uri("not_a_workload", |p: &mut Leaf| {
    p.subject_alt_names = vec![uri("https://server.demo.svc/")];
})]
#[case::not_istios_path("not_a_workload", |p: &mut Leaf| {
    p.subject_alt_names = vec![uri("spiffe://cluster.local/server")];
})]
#[case::another_trust_domain("untrusted_domain", |p: &mut Leaf| {
    p.subject_alt_names = vec![uri("spiffe://other.example/ns/demo/sa/server")];
})]
#[case::ca_as_leaf("ca_as_leaf", |p: &mut Leaf| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))]
#[case::may_sign_certificates("ca_as_leaf", |p: &mut Leaf| p.key_usages.push(KeyUsagePurpose::KeyCertSign))]
#[case::no_purpose("wrong_purpose", |p: &mut Leaf| p.extended_key_usages.clear())]
#[case::client_only("wrong_purpose", |p: &mut Leaf| {
    p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
})]
#[case::key_agreement_only("wrong_purpose", |p: &mut Leaf| p.key_usages = vec![KeyUsagePurpose::KeyAgreement])]
fn a_spoilt_server_certificate_is_refused(#[case] reason: &str, #[case] spoil: Spoil) {
    let mut params = good(SERVER);
    spoil(&mut params);
    let leaf = CA.sign(&params);
    let error = CA
        .trusted_for("cluster.local")
        .verify_server(&leaf, &[], &server(), now())
        .unwrap_err();
    assert_eq!(error.reason(), reason, "{error}");
}

#[test]
fn a_dns_name_beside_the_identity_changes_nothing() {
    let mut params = good(SERVER);
    let name = SanType::DnsName("admin.demo.svc".try_into().unwrap());
    params.subject_alt_names.push(name);
    let leaf = CA.sign(&params);
    let verifier = CA.trusted_for("cluster.local");
    assert_eq!(verifier.verify_client(&leaf, &[], now()), Ok(server()));
}

#[rstest]
#[case::of_another_name("theirs")]
#[case::of_our_name("ours")]
fn another_ca_does_not_vouch_for_our_domain(#[case] name: &str) {
    let leaf = Authority::new(name).sign(&good(SERVER));
    let error = CA
        .trusted_for("cluster.local")
        .verify_client(&leaf, &[], now())
        .unwrap_err();
    assert_eq!(error, PeerError::UnknownIssuer { peer: server() });
}

#[test]
fn a_self_signed_certificate_is_refused() {
    let params = good(SERVER);
    let leaf = params
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap()
        .into();
    let verifier = CA.trusted_for("cluster.local");
    let error = verifier.verify_client(&leaf, &[], now()).unwrap_err();
    assert_eq!(error.reason(), "unknown_issuer", "{error}");
}

#[test]
fn a_trusted_ca_of_one_domain_does_not_vouch_for_another() {
    let theirs = Authority::new("theirs");
    let both = Verifier::new(bundle(&[
        ("cluster.local", &CA),
        ("other.example", &theirs),
    ]));
    let foreign = "spiffe://other.example/ns/demo/sa/server";

    let legitimate = theirs.sign(&good(foreign));
    assert_eq!(
        both.verify_client(&legitimate, &[], now()),
        Ok(foreign.parse().unwrap())
    );
    for forged in [theirs.sign(&good(SERVER)), CA.sign(&good(foreign))] {
        let error = both.verify_client(&forged, &[], now()).unwrap_err();
        assert_eq!(error.reason(), "unknown_issuer", "{error}");
    }
}

#[test]
fn both_roots_vouch_while_one_succeeds_the_other() {
    let next = Authority::new("ours");
    let verifier = Verifier::new(bundle(&[("cluster.local", &CA), ("cluster.local", &next)]));
    for authority in [&*CA, &next] {
        let leaf = authority.sign(&good(SERVER));
        assert_eq!(verifier.verify_client(&leaf, &[], now()), Ok(server()));
    }
}

#[test]
fn an_expired_root_vouches_for_nobody() {
    let old = Authority::between("old", NOW - 9 * HOUR, NOW - HOUR);
    let leaf = old.sign(&good(SERVER));
    let error = old
        .trusted_for("cluster.local")
        .verify_client(&leaf, &[], now())
        .unwrap_err();
    assert_eq!(error.reason(), "root_expired", "{error}");
}

#[test]
fn an_alias_is_another_name_of_the_same_workloads() {
    let mut bundle = bundle(&[("cluster.local", &CA)]);
    bundle.add_alias(
        "old.example".parse().unwrap(),
        "cluster.local".parse().unwrap(),
    );
    let verifier = Verifier::new(bundle);
    let old: SpiffeId = "spiffe://old.example/ns/demo/sa/server".parse().unwrap();
    let leaf = CA.sign(&good(old.as_str()));

    assert_eq!(
        verifier.verify_server(&leaf, &[], &server(), now()),
        Ok(old)
    );
    let intruder = "spiffe://cluster.local/ns/demo/sa/intruder"
        .parse()
        .unwrap();
    let error = verifier
        .verify_server(&leaf, &[], &intruder, now())
        .unwrap_err();
    assert_eq!(error.reason(), "wrong_identity");
}

#[test]
fn a_chain_through_an_intermediate_holds_and_without_it_does_not() {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "intermediate");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    validity(&mut params, NOW - HOUR, NOW + HOUR);
    let key = KeyPair::generate().unwrap();
    let intermediate = params.signed_by(&key, &CA.issuer).unwrap().into();
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = good(SERVER)
        .signed_by(&leaf_key, &Issuer::new(params, key))
        .unwrap()
        .into();
    let verifier = CA.trusted_for("cluster.local");

    assert_eq!(
        verifier.verify_client(&leaf, &[intermediate], now()),
        Ok(server())
    );
    let error = verifier.verify_client(&leaf, &[], now()).unwrap_err();
    assert_eq!(error.reason(), "unknown_issuer", "{error}");
}

#[test]
fn a_workload_cannot_sign_for_another() {
    let key = KeyPair::generate().unwrap();
    let workload = good("spiffe://cluster.local/ns/demo/sa/intruder");
    let intermediate = workload.signed_by(&key, &CA.issuer).unwrap().into();
    let leaf_key = KeyPair::generate().unwrap();
    let forged = good(SERVER)
        .signed_by(&leaf_key, &Issuer::new(workload, key))
        .unwrap()
        .into();
    let error = CA
        .trusted_for("cluster.local")
        .verify_client(&forged, &[intermediate], now())
        .unwrap_err();
    assert!(
        matches!(error.reason().as_str(), "unknown_issuer" | "broken_chain"),
        "{error}"
    );
}

#[test]
fn an_endless_chain_is_refused_before_it_is_read() {
    let leaf = CA.sign(&good(SERVER));
    let chain = vec![CA.root.clone(); 100];
    let verifier = CA.trusted_for("cluster.local");
    assert_eq!(
        verifier.verify_client(&leaf, &chain, now()),
        Err(PeerError::ChainTooLong(101))
    );
}

#[test]
fn a_verifier_follows_its_bundle() {
    let shared = Arc::new(ArcSwap::from_pointee(Trust::new(TrustBundle::default())));
    let verifier = Verifier::following(Arc::clone(&shared));
    let leaf = CA.sign(&good(SERVER));
    let before = verifier.verify_client(&leaf, &[], now()).unwrap_err();
    assert_eq!(before.reason(), "untrusted_domain");
    Trust::replace(&shared, bundle(&[("cluster.local", &CA)]));
    assert_eq!(verifier.verify_client(&leaf, &[], now()), Ok(server()));
}

#[test]
fn errors_tell_a_person_what_happened() {
    let mut params = good(SERVER);
    validity(&mut params, NOW - 2 * HOUR, NOW - HOUR);
    let error = CA
        .trusted_for("cluster.local")
        .verify_client(&CA.sign(&params), &[], now())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the certificate of spiffe://cluster.local/ns/demo/sa/server expired at \
         2026-11-20T23:00:00Z (it is 2026-11-21T00:00:00Z)"
    );
    let error = PeerError::WrongIdentity {
        expected: server(),
        got: "spiffe://cluster.local/ns/demo/sa/intruder"
            .parse()
            .unwrap(),
    };
    assert_eq!(
        error.to_string(),
        "expected spiffe://cluster.local/ns/demo/sa/server, \
         got spiffe://cluster.local/ns/demo/sa/intruder"
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let verifier = CA.trusted_for("cluster.local");
        let leaf = CertificateDer::from(bytes.clone());
        prop_assert!(verifier.verify_client(&leaf, &[CertificateDer::from(bytes)], now()).is_err());
    }

    #[test]
    fn a_certificate_with_flipped_bytes_is_refused_and_never_panics(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..4),
    ) {
        static LEAF: LazyLock<CertificateDer<'static>> = LazyLock::new(|| CA.sign(&good(SERVER)));
        let mut bytes = LEAF.to_vec();
        for (index, mask) in flips {
            let index = index.index(bytes.len());
            bytes[index] ^= mask;
        }
        prop_assume!(bytes != LEAF.to_vec());
        let verifier = CA.trusted_for("cluster.local");
        prop_assert!(verifier.verify_client(&CertificateDer::from(bytes), &[], now()).is_err());
    }
}
