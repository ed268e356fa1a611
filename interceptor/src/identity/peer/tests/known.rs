//! A peer that was met before is judged as a stranger would be.

use super::*;

/// A verifier that has met the peer of this chain.
fn acquainted(
    authority: &Authority,
    leaf: &CertificateDer<'static>,
    intermediates: &[CertificateDer<'static>],
) -> Verifier {
    let verifier = authority.trusted_for("cluster.local");
    let met = verifier.verify_client(leaf, intermediates, now());
    assert_eq!(met, Ok(server()));
    assert_eq!(verifier.known.len(), 1);
    verifier
}

fn after(hours: f64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW) + hour(hours))
}

fn hour(hours: f64) -> Duration {
    Duration::from_secs(HOUR).mul_f64(hours)
}

#[test]
fn a_peer_that_is_known_is_refused_once_its_certificate_has_ended() {
    let mut params = good(SERVER);
    validity(&mut params, NOW - HOUR, NOW + HOUR);
    let leaf = CA.sign(&params);
    let verifier = acquainted(&CA, &leaf, &[]);
    let again = verifier.verify_client(&leaf, &[], after(0.9));
    assert_eq!(again, Ok(server()));
    let error = verifier.verify_client(&leaf, &[], after(1.1)).unwrap_err();
    assert_eq!(error.reason(), "expired");
}

#[test]
fn a_peer_that_is_known_is_refused_once_its_root_has_ended() {
    let root = Authority::between("ours", NOW - HOUR, NOW + HOUR);
    let leaf = root.sign(&good(SERVER));
    let verifier = acquainted(&root, &leaf, &[]);
    let error = verifier.verify_client(&leaf, &[], after(1.1)).unwrap_err();
    assert_eq!(error.reason(), "root_expired");
}

#[test]
fn a_peer_that_is_known_is_refused_once_its_intermediate_has_ended() {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    validity(&mut params, NOW - HOUR, NOW + HOUR);
    let key = KeyPair::generate().unwrap();
    let intermediate: CertificateDer<'_> = params.signed_by(&key, &CA.issuer).unwrap().into();
    let leaf = good(SERVER).signed_by(&KeyPair::generate().unwrap(), &Issuer::new(params, key));
    let leaf: CertificateDer<'_> = leaf.unwrap().into();
    let verifier = acquainted(&CA, &leaf, std::slice::from_ref(&intermediate));
    // Known with its intermediate is not known without.
    let error = verifier.verify_client(&leaf, &[], now()).unwrap_err();
    assert_eq!(error.reason(), "unknown_issuer");
    let error = verifier.verify_client(&leaf, &[intermediate], after(1.1));
    assert_eq!(error.unwrap_err().reason(), "expired");
}

#[test]
fn a_peer_that_is_known_is_refused_once_its_root_is_not_trusted() {
    let shared = Arc::new(ArcSwap::from_pointee(Trust::new(bundle(&[(
        "cluster.local",
        &CA,
    )]))));
    let verifier = Verifier::following(Arc::clone(&shared));
    let leaf = CA.sign(&good(SERVER));
    assert_eq!(verifier.verify_client(&leaf, &[], now()), Ok(server()));
    let next = Authority::new("ours");
    Trust::replace(&shared, bundle(&[("cluster.local", &next)]));
    let error = verifier.verify_client(&leaf, &[], now()).unwrap_err();
    assert_eq!(error.reason(), "unknown_issuer");
}

#[test]
fn a_peer_that_is_known_as_a_client_is_not_known_as_a_server() {
    let mut params = good(SERVER);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = CA.sign(&params);
    let verifier = acquainted(&CA, &leaf, &[]);
    let error = verifier.verify_server(&leaf, &[], &server(), now());
    assert_eq!(error.unwrap_err().reason(), "wrong_purpose");
}

#[test]
fn a_server_that_is_known_is_still_only_itself() {
    let leaf = CA.sign(&good(SERVER));
    let verifier = CA.trusted_for("cluster.local");
    let other = "spiffe://cluster.local/ns/demo/sa/other".parse().unwrap();
    for _ in 0..2 {
        assert_eq!(
            verifier.verify_server(&leaf, &[], &server(), now()),
            Ok(server())
        );
        let error = verifier.verify_server(&leaf, &[], &other, now());
        assert_eq!(error.unwrap_err().reason(), "wrong_identity");
    }
}

#[test]
fn only_so_many_peers_are_known() {
    let (known, bundle) = (Known::default(), Arc::new(TrustBundle::default()));
    let at = system_time(now());
    for serial in 0..5000_u32 {
        let bytes = CertificateDer::from(serial.to_be_bytes().to_vec());
        let print = Fingerprint::of((&bytes, &[]), Purpose::Client).unwrap();
        let vouched = Vouched {
            peer: server(),
            from: at,
            until: at + hour(1.0),
        };
        known.keep(&bundle, print, vouched, at);
        assert_eq!(known.peer(&bundle, print, at), Some(server()));
        assert!(known.len() <= 1024);
    }
}

proptest! {
    #[test]
    fn whoever_is_known_is_judged_as_a_stranger_would_be(
        certificate in (0..40_u64, 1..40_u64),
        root in (0..40_u64, 1..40_u64),
        times in proptest::collection::vec(0..90_u64, 1..6),
    ) {
        let (from, until) = (NOW + certificate.0, NOW + certificate.0 + certificate.1);
        let authority = Authority::between("ours", NOW + root.0, NOW + root.0 + root.1);
        let mut params = good(SERVER);
        validity(&mut params, from, until);
        let leaf = authority.sign(&params);
        let verifier = authority.trusted_for("cluster.local");
        for time in times {
            let time = UnixTime::since_unix_epoch(Duration::from_secs(NOW + time));
            let stranger = authority.trusted_for("cluster.local");
            prop_assert_eq!(
                verifier.verify_client(&leaf, &[], time),
                stranger.verify_client(&leaf, &[], time)
            );
        }
    }
}
