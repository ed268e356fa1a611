//! The CA's folder under good and bad circumstances, and what its SVIDs consist of.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use rstest::rstest;
use tempfile::TempDir;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::*;

/// 2026-11-21T00:00:00Z: any time will do, as long as no clock is read.
fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(498_672)
}

const HOUR: Duration = Duration::from_hours(1);

fn domain() -> TrustDomain {
    TrustDomain::cluster_local()
}

fn caller() -> SpiffeId {
    SpiffeId::new(&domain(), "demo", "caller").unwrap()
}

fn folder() -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("ca");
    (parent, dir)
}

fn mode(path: PathBuf) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn chmod(path: PathBuf, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_first_start_creates_what_later_starts_open() {
    let (_parent, dir) = folder();
    let created = Ca::open_or_create(&dir, &domain(), start()).unwrap();
    let opened = Ca::open_or_create(&dir, &domain(), start() + HOUR).unwrap();

    assert_eq!(created.serial, opened.serial);
    assert_eq!(mode(dir.join("ca.key")), 0o600);
    assert_eq!(mode(dir.join("ca.crt")), 0o644);
    assert_eq!(mode(dir.clone()), 0o700);
    let mut names: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["ca.crt", "ca.key", "ca.lock"],
        "nothing unfinished is left"
    );
}

#[test]
fn agents_that_start_at_once_on_one_folder_share_one_ca() {
    let (_parent, dir) = folder();
    let serials: Vec<Serial> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..16)
            .map(|_| scope.spawn(|| Ca::open_or_create(&dir, &domain(), start()).unwrap().serial))
            .collect();
        starts
            .into_iter()
            .map(|start| start.join().unwrap())
            .collect()
    });
    assert!(
        serials.iter().all(|serial| *serial == serials[0]),
        "{serials:?}"
    );
}

#[test]
fn init_refuses_a_folder_that_has_a_ca() {
    let (_parent, dir) = folder();
    let first = Ca::create(&dir, &domain(), start()).unwrap();
    assert!(matches!(
        Ca::create(&dir, &domain(), start()),
        Err(CaError::Exists { .. })
    ));
    assert_eq!(
        Ca::open(&dir, &domain(), start()).unwrap().serial,
        first.serial
    );
}

#[test]
fn a_read_only_folder_with_a_ca_is_enough() {
    let (_parent, dir) = folder();
    Ca::create(&dir, &domain(), start()).unwrap();
    fs::remove_file(dir.join("ca.lock")).unwrap();
    Ca::open_or_create(&dir, &domain(), start()).unwrap();
    assert!(!dir.join("ca.lock").exists(), "opening writes nothing");
}

#[test]
fn a_kubernetes_secret_is_a_folder_of_links_in_a_sticky_folder() {
    let (parent, dir) = folder();
    Ca::create(&dir, &domain(), start()).unwrap();
    let mount = parent.path().join("mount");
    fs::create_dir(&mount).unwrap();
    for file in ["ca.crt", "ca.key"] {
        std::os::unix::fs::symlink(dir.join(file), mount.join(file)).unwrap();
    }
    chmod(mount.clone(), 0o1777);
    Ca::open_or_create(&mount, &domain(), start()).unwrap();
}

#[rstest]
#[case::key_readable_by_group("ca.key", 0o640, "chmod 600")]
#[case::key_readable_by_all("ca.key", 0o604, "chmod 600")]
#[case::folder_writable_by_group("", 0o770, "chmod go-w")]
fn permissions_that_are_too_wide_are_refused(
    #[case] file: &str,
    #[case] wide: u32,
    #[case] remedy: &str,
) {
    let (_parent, dir) = folder();
    Ca::create(&dir, &domain(), start()).unwrap();
    chmod(dir.join(file), wide);
    let error = Ca::open_or_create(&dir, &domain(), start())
        .unwrap_err()
        .to_string();
    assert!(error.contains(remedy), "{error}");
    assert!(error.contains(&format!("{wide:04o}")), "{error}");
}

#[test]
fn a_key_of_another_user_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        return; // Only root can give files away.
    }
    let (_parent, dir) = folder();
    Ca::create(&dir, &domain(), start()).unwrap();
    std::os::unix::fs::chown(dir.join("ca.key"), Some(12345), None).unwrap();
    let error = Ca::open(&dir, &domain(), start()).unwrap_err();
    assert!(
        matches!(error, CaError::Owner { owner: 12345, .. }),
        "{error}"
    );
}

#[rstest]
#[case::key_lost("ca.key", "ca.crt")]
#[case::certificate_lost("ca.crt", "ca.key")]
fn half_a_ca_is_never_replaced_by_a_new_one(#[case] lost: &str, #[case] left: &str) {
    let (_parent, dir) = folder();
    Ca::create(&dir, &domain(), start()).unwrap();
    fs::remove_file(dir.join(lost)).unwrap();
    let before = fs::read(dir.join(left)).unwrap();

    let error = Ca::open_or_create(&dir, &domain(), start()).unwrap_err();
    assert!(matches!(error, CaError::Incomplete { .. }), "{error}");
    assert_eq!(fs::read(dir.join(left)).unwrap(), before);
}

#[rstest]
#[case::certificate("ca.crt")]
#[case::key("ca.key")]
fn files_that_are_not_pem_are_refused(#[case] file: &str) {
    let (_parent, dir) = folder();
    Ca::create(&dir, &domain(), start()).unwrap();
    fs::write(dir.join(file), "rubbish").unwrap();
    let error = Ca::open(&dir, &domain(), start()).unwrap_err();
    assert!(matches!(error, CaError::Pem { .. }), "{error}");
}

#[test]
fn a_named_pipe_or_a_huge_file_in_place_of_the_key_does_not_hang_or_fill_memory() {
    let (_parent, dir) = folder();
    Ca::create(&dir, &domain(), start()).unwrap();
    fs::remove_file(dir.join("ca.key")).unwrap();
    nix::unistd::mkfifo(&dir.join("ca.key"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = Ca::open(&dir, &domain(), start()).unwrap_err();
    assert!(matches!(error, CaError::NotAFile { .. }), "{error}");

    fs::remove_file(dir.join("ca.key")).unwrap();
    fs::File::create(dir.join("ca.key"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    chmod(dir.join("ca.key"), 0o600);
    let error = Ca::open(&dir, &domain(), start()).unwrap_err();
    assert!(matches!(error, CaError::NotAFile { .. }), "{error}");
}

#[test]
fn the_key_of_another_ca_is_refused() {
    let (parent, dir) = folder();
    let other = parent.path().join("other");
    Ca::create(&dir, &domain(), start()).unwrap();
    Ca::create(&other, &domain(), start()).unwrap();
    fs::copy(other.join("ca.key"), dir.join("ca.key")).unwrap();
    assert!(matches!(
        Ca::open(&dir, &domain(), start()),
        Err(CaError::KeyMismatch)
    ));
}

#[test]
fn a_ca_of_another_trust_domain_is_refused() {
    let (_parent, dir) = folder();
    Ca::create(&dir, &domain(), start()).unwrap();
    let error = Ca::open_or_create(&dir, &"other.example".parse().unwrap(), start()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the CA is of spiffe://cluster.local, but this node's trust domain is other.example: \
         correct the configuration or use another CA folder"
    );
}

#[rstest]
#[case::expired(start() + CA_YEARS)]
#[case::from_the_future(start() - HOUR * 2)]
fn a_ca_outside_of_its_validity_is_refused(#[case] now: SystemTime) {
    let (_parent, dir) = folder();
    Ca::create(&dir, &domain(), start()).unwrap();
    assert!(matches!(
        Ca::open(&dir, &domain(), now),
        Err(CaError::NotValid { .. })
    ));
}

const CA_YEARS: Duration = Duration::from_hours(24 * 365 * 10);

#[test]
fn a_workloads_certificate_is_not_a_ca() {
    let (_parent, dir) = folder();
    let ca = Ca::create(&dir, &domain(), start()).unwrap();
    let svid = ca.issue_pem(&caller(), HOUR, start()).unwrap();
    fs::write(dir.join("ca.crt"), &svid.certificates).unwrap();
    fs::write(dir.join("ca.key"), &*svid.key).unwrap();
    assert!(matches!(
        Ca::open(&dir, &domain(), start()),
        Err(CaError::NotACa)
    ));
}

#[test]
fn an_intermediate_issues_chains_that_peers_verify_against_its_root() {
    let root_key = KeyPair::generate().unwrap();
    let mut params = template::authority(&domain(), start()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(1));
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "root");
    let root = params.self_signed(&root_key).unwrap();
    let issuer = rcgen::Issuer::new(params, root_key);
    let key = KeyPair::generate().unwrap();
    let own = template::authority(&domain(), start())
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();

    let other = Ca::generate(&domain(), start()).unwrap();
    let chain = vec![own.into(), root.into(), other.chain[0].clone()];
    let ca = Ca::assemble(&domain(), chain, CaKey(Zeroizing::new(key)), start()).unwrap();
    let svid = ca.issue_now(&caller(), HOUR, start()).unwrap();
    assert_eq!(
        svid.chain().len(),
        2,
        "leaf and intermediate, without roots"
    );
    let foreign = other.issue_now(&caller(), HOUR, start()).unwrap();
    let now = start().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    for svid in [&svid, &foreign] {
        let (leaf, above) = svid.chain().split_first().unwrap();
        let peer =
            Verifier::new(ca.bundle()).verify_client(leaf, above, UnixTime::since_unix_epoch(now));
        assert_eq!(peer, Ok(caller()), "what follows the root is trusted, too");
    }
}

#[test]
fn an_svid_is_what_the_specification_says() {
    let ca = Ca::generate(&domain(), start()).unwrap();
    let svid = ca.issue_now(&caller(), HOUR, start()).unwrap();
    let (rest, leaf) = X509Certificate::from_der(&svid.chain()[0]).unwrap();

    assert!(rest.is_empty());
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "there is no subject");
    assert_eq!(
        names.value.general_names,
        [GeneralName::URI("spiffe://cluster.local/ns/demo/sa/caller")]
    );
    assert_eq!(leaf.subject().iter().count(), 0);
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && !constraints.value.ca);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature());
    assert_eq!(usage.value.flags, 1, "nothing but digitalSignature");
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && !purposes.any);
    assert_eq!(leaf.raw_serial().len(), 16);
    assert_eq!(
        leaf.public_key().algorithm.algorithm.to_id_string(),
        "1.2.840.10045.2.1"
    );
    assert_eq!(svid.id, caller());
    assert_eq!(svid.not_before, start() - Duration::from_mins(1));
    assert_eq!(svid.not_after, start() + HOUR);
    assert_eq!(svid.renew_at(), start() + HOUR / 2);
}

#[test]
fn every_svid_has_its_own_key_and_serial() {
    let ca = Ca::generate(&domain(), start()).unwrap();
    let one = ca.issue_now(&caller(), HOUR, start()).unwrap();
    let other = ca.issue_now(&caller(), HOUR, start()).unwrap();
    assert_ne!(one.serial, other.serial);
    assert_ne!(
        one.signing().key.public_key(),
        other.signing().key.public_key()
    );
}

#[test]
fn an_svid_never_outlives_its_ca() {
    let ca = Ca::generate(&domain(), start()).unwrap();
    let late = ca.not_after - Duration::from_mins(10);
    let svid = ca.issue_now(&caller(), HOUR, late).unwrap();
    assert_eq!(svid.not_after, ca.not_after);
    let after = ca.issue_now(&caller(), HOUR, ca.not_after).unwrap_err();
    assert_eq!(after.reason(), "ca_not_valid");
}

#[rstest]
#[case::none(Duration::ZERO)]
#[case::more_than_a_day(Duration::from_secs(24 * 3600 + 1))]
fn lifetimes_have_bounds(#[case] lifetime: Duration) {
    let ca = Ca::generate(&domain(), start()).unwrap();
    let error = ca.issue_now(&caller(), lifetime, start()).unwrap_err();
    assert_eq!(error.reason(), "lifetime");
}

#[test]
fn nothing_is_issued_for_another_trust_domain() {
    let ca = Ca::generate(&domain(), start()).unwrap();
    let foreign = "spiffe://other.example/ns/demo/sa/caller".parse().unwrap();
    let error = ca.issue_now(&foreign, HOUR, start()).unwrap_err();
    assert_eq!(error.reason(), "other_trust_domain");
}

#[test]
fn keys_do_not_appear_in_debug_output() {
    let ca = Ca::generate(&domain(), start()).unwrap();
    let svid = ca.issue_now(&caller(), HOUR, start()).unwrap();
    assert!(format!("{ca:?}").contains("[redacted]"));
    assert!(format!("{svid:?}").contains("[redacted]"));
}

#[test]
fn openssl_agrees() {
    if Command::new("openssl").arg("version").output().is_err() {
        return; // The other tests of this file parse and verify the same certificate.
    }
    let (_parent, dir) = folder();
    let now = SystemTime::now();
    let ca = Ca::create(&dir, &domain(), now).unwrap();
    let svid = ca.issue_pem(&caller(), HOUR, now).unwrap();
    fs::write(dir.join("leaf.crt"), &svid.certificates).unwrap();
    fs::write(dir.join("leaf.key"), &*svid.key).unwrap();

    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(&dir)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    for purpose in ["sslclient", "sslserver"] {
        let verify = [
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-CAfile",
            "ca.crt",
            "leaf.crt",
        ];
        assert_eq!(openssl(&verify), "leaf.crt: OK\n");
    }
    let from_key = openssl(&["pkey", "-in", "leaf.key", "-pubout"]);
    assert_eq!(
        openssl(&["x509", "-in", "leaf.crt", "-noout", "-pubkey"]),
        from_key
    );
}
