//! Renewal, failure and removal, on paused time.

use std::fs;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Waker};

use interceptor_policy::TrustDomain;
use rstest::rstest;
use rustls_pki_types::UnixTime;
use tokio::time::Instant;

use super::attempt::ISSUE_TIMEOUT;
use super::*;
use crate::identity::{Ca, FollowedCa, Issuing, PeerError};

const HOUR: Duration = Duration::from_hours(1);

/// An issuer that a test can make fail or hang, as a whole or for some identities.
struct Scripted {
    ca: Ca,
    failing: AtomicBool,
    /// Service account whose requests are never answered.
    hanging: &'static str,
    asked: AtomicU64,
}

impl Scripted {
    fn new() -> Arc<Self> {
        let ca = Ca::generate(&TrustDomain::cluster_local(), start()).unwrap();
        Arc::new(Self {
            ca,
            failing: AtomicBool::new(false),
            hanging: "hanging",
            asked: AtomicU64::new(0),
        })
    }
}

impl Issuer for Scripted {
    fn issue<'a>(&'a self, id: &'a SpiffeId, lifetime: Duration, now: SystemTime) -> Issuing<'a> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            if id.service_account() == self.hanging {
                std::future::pending::<()>().await;
            }
            tokio::task::yield_now().await;
            if self.failing.load(Ordering::Relaxed) {
                return Err(IssueError::Refused("try later".to_owned()));
            }
            if id.service_account() == "impostor" {
                return self.ca.issue_now(&caller(), lifetime, now);
            }
            self.ca.issue_now(id, lifetime, now)
        })
    }

    fn bundle(&self) -> TrustBundle {
        self.ca.bundle()
    }

    fn name(&self) -> &'static str {
        "scripted"
    }
}

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(498_672)
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::new(&TrustDomain::cluster_local(), "demo", account).unwrap()
}

fn caller() -> SpiffeId {
    id("caller")
}

/// A store whose clock follows tokio's paused one.
fn store(issuer: &Arc<Scripted>) -> Arc<Identities> {
    let epoch = Instant::now();
    let clock: Clock = Arc::new(move || start() + epoch.elapsed());
    let issuer = Arc::clone(issuer);
    Arc::new(Identities::with_clock(issuer, HOUR, clock))
}

fn running(issuer: &Arc<Scripted>) -> (Arc<Identities>, Tasks) {
    let store = store(issuer);
    let tasks = Tasks::new();
    tasks.spawn("identities", Arc::clone(&store).run(tasks.clone()));
    (store, tasks)
}

#[tokio::test(start_paused = true)]
async fn wanted_identities_are_issued_and_unwanted_ones_dropped() {
    let (store, tasks) = running(&Scripted::new());
    store.want([caller(), id("server")]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(store.current(&caller()).is_some());
    assert!(store.current(&id("server")).is_some());

    let kept = store.current(&caller()).unwrap();
    let dropped = Arc::downgrade(&store.current(&id("server")).unwrap());
    store.want([caller()]);
    assert!(store.current(&id("server")).is_none());
    assert!(dropped.upgrade().is_none(), "the key is gone");
    assert_eq!(store.current(&caller()).unwrap().serial, kept.serial);
    tasks.finish(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn it_is_known_how_long_all_svids_are_valid_and_when_one_ended() {
    let store = store(&Scripted::new());
    assert_eq!(store.current_for(), Duration::MAX, "nobody needs one");
    let first = store.ensure(&caller()).await.unwrap();
    tokio::time::sleep(Duration::from_mins(20)).await;
    store.ensure(&id("server")).await.unwrap();
    let left = first.not_after.duration_since((store.clock)()).unwrap();
    assert_eq!(store.current_for(), left, "the first that ends");

    tokio::time::advance(left.saturating_sub(Duration::from_millis(1))).await;
    assert_eq!(store.current_for(), Duration::from_millis(1));
    assert_eq!(store.ended(&caller()), None);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(store.current_for(), Duration::ZERO);
    assert_eq!(store.ended(&caller()), Some(first.not_after));
    assert_eq!(store.ended(&id("server")), None);
    assert_eq!(store.ended(&id("nobody")), None);
}

#[tokio::test(start_paused = true)]
async fn an_svid_is_renewed_before_half_of_its_life_is_over() {
    let (store, tasks) = running(&Scripted::new());
    let first = store.ensure(&caller()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(27 * 60 - 1)).await;
    assert_eq!(
        store.current(&caller()).unwrap().serial,
        first.serial,
        "not too early"
    );
    tokio::time::sleep(Duration::from_secs(3 * 60 + 2)).await;
    assert_ne!(store.current(&caller()).unwrap().serial, first.serial);

    tokio::time::sleep(24 * HOUR).await;
    assert!(store.current(&caller()).is_some(), "and so on");
    assert!(
        (40..=60).contains(&store.counts().issued),
        "{:?}",
        store.counts()
    );
    tasks.finish(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_issuer_is_asked_again_and_an_expired_svid_is_not_handed_out() {
    let issuer = Scripted::new();
    let (store, tasks) = running(&issuer);
    store.ensure(&caller()).await.unwrap();
    issuer.failing.store(true, Ordering::Relaxed);

    tokio::time::sleep(Duration::from_secs(3598)).await;
    assert!(store.current(&caller()).is_some(), "still valid");
    let status = &store.list()[0];
    assert_eq!(status.last_error.as_deref(), Some("try later"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(store.current(&caller()).is_none(), "expired");
    let failed = store.counts().failed;
    assert!(
        (25..=45).contains(&failed),
        "{failed} attempts in half an hour"
    );

    issuer.failing.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(store.current(&caller()).is_some());
    assert_eq!(store.list()[0].last_error, None);
    tasks.finish(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_hangs_does_not_hold_up_others() {
    let (store, tasks) = running(&Scripted::new());
    store.want([id("hanging"), caller()]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(store.current(&caller()).is_some());

    tokio::time::sleep(ISSUE_TIMEOUT).await;
    let hanging = store
        .list()
        .into_iter()
        .find(|status| status.id == id("hanging"));
    assert_eq!(
        hanging.unwrap().last_error.as_deref(),
        Some("no answer within 30s")
    );
    tasks.finish(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn ensure_issues_at_once_and_only_once_for_many_that_ask() {
    let issuer = Scripted::new();
    let store = store(&issuer);
    let many = (0..50).map(|_| {
        let store = Arc::clone(&store);
        async move { store.ensure(&caller()).await.unwrap().serial.clone() }
    });
    let mut set = tokio::task::JoinSet::new();
    for ask in many {
        set.spawn(ask);
    }
    let serials = set.join_all().await;
    assert!(serials.iter().all(|serial| *serial == serials[0]));
    assert_eq!(issuer.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn ensure_reports_why_and_the_loop_goes_on_trying() {
    let issuer = Scripted::new();
    issuer.failing.store(true, Ordering::Relaxed);
    let (store, tasks) = running(&issuer);
    let error = store.ensure(&caller()).await.unwrap_err();
    assert_eq!(error.reason(), "refused");
    issuer.failing.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(store.current(&caller()).is_some());
    tasks.finish(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_request_is_given_back() {
    let issuer = Scripted::new();
    let store = store(&issuer);
    let hanging = id("hanging");
    for _ in 0..2 {
        let ask = store.ensure(&hanging);
        let answer = tokio::time::timeout(Duration::from_secs(1), ask).await;
        assert!(answer.is_err());
    }
    assert_eq!(issuer.asked.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_an_identity_that_is_no_longer_wanted_is_thrown_away() {
    let store = store(&Scripted::new());
    let caller = caller();
    let ensure = store.ensure(&caller);
    tokio::pin!(ensure);
    tokio::select! {
        biased;
        _ = &mut ensure => panic!("answered too early"),
        () = std::future::ready(()) => store.want([]),
    }
    assert_eq!(ensure.await.unwrap_err().reason(), "not_wanted");
    assert!(store.current(&caller).is_none());
    assert!(store.list().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_somebody_elses_identity_is_refused() {
    let store = store(&Scripted::new());
    let error = store.ensure(&id("impostor")).await.unwrap_err();
    assert_eq!(error.reason(), "other_identity");
    assert!(store.current(&id("impostor")).is_none());
    assert!(store.current(&caller()).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_watcher_sees_renewals() {
    let (store, tasks) = running(&Scripted::new());
    store.ensure(&caller()).await.unwrap();
    let mut watch = store.watch();
    watch.mark_unchanged();
    tokio::time::timeout(HOUR / 2, watch.changed())
        .await
        .unwrap()
        .unwrap();
    tasks.finish(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn verifiers_accept_an_alias_as_soon_as_it_is_trusted() {
    let issuer = Scripted::new();
    let store = store(&issuer);
    let old: TrustDomain = "old.example".parse().unwrap();
    assert!(store.bundle().roots(&old).is_empty());
    store.trust_aliases(&TrustDomain::cluster_local(), std::slice::from_ref(&old));
    let one = SpiffeId::new(&old, "demo", "caller").unwrap();
    assert_eq!(store.bundle().roots(&old).len(), 1);
    assert!(store.bundle().same_workload(&one, &caller()));
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_identities_are_issued_a_few_at_a_time() {
    let (store, tasks) = running(&Scripted::new());
    store.want((0..300).map(|n| id(&format!("w{n}"))));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        store
            .list()
            .iter()
            .filter(|status| status.serial.is_some())
            .count(),
        300
    );
    tasks.finish(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn status_as_json_has_times_that_people_read() {
    let store = store(&Scripted::new());
    store.ensure(&caller()).await.unwrap();
    let mut json = serde_json::to_value(&store.list()[0]).unwrap();
    json["serial"] = "0".into();
    json["renew_at"] = "half-life".into();
    assert_eq!(
        json,
        serde_json::json!({
            "id": "spiffe://cluster.local/ns/demo/sa/caller",
            "serial": "0",
            "not_before": "2026-11-20T23:59:00Z",
            "not_after": "2026-11-21T01:00:00Z",
            "renew_at": "half-life",
            "issuer": "scripted",
            "last_error": null,
        })
    );
}

/// A store that follows the CA in a folder, and the folder.
fn following() -> (tempfile::TempDir, Arc<Identities>) {
    let folder = tempfile::tempdir().unwrap();
    let ca = FollowedCa::open_or_create(&folder.path().join("ca"), &domain(), start()).unwrap();
    let epoch = Instant::now();
    let clock: Clock = Arc::new(move || start() + epoch.elapsed());
    let store = Identities::with_clock(Arc::new(ca), HOUR, clock);
    store.trust_aliases(&domain(), &["old.example".parse().unwrap()]);
    (folder, Arc::new(store))
}

fn domain() -> TrustDomain {
    TrustDomain::cluster_local()
}

/// Puts what `from` has in the place of the CA, with the certificates of `besides` after its own.
fn replace(folder: &Path, from: &str, besides: &[&str]) {
    let of = |name: &str| fs::read_to_string(folder.join(name).join("ca.crt")).unwrap();
    let certificates: String = [from].iter().chain(besides).map(|name| of(name)).collect();
    fs::copy(folder.join(from).join("ca.key"), folder.join("new.key")).unwrap();
    fs::write(folder.join("new.crt"), certificates).unwrap();
    fs::rename(folder.join("new.key"), folder.join("ca/ca.key")).unwrap();
    fs::rename(folder.join("new.crt"), folder.join("ca/ca.crt")).unwrap();
}

/// A CA of its own beside that of [`following`], and a copy of that one.
fn two_authorities(folder: &Path) {
    Ca::create(&folder.join("new"), &domain(), start()).unwrap();
    fs::create_dir(folder.join("old")).unwrap();
    for file in ["ca.crt", "ca.key"] {
        fs::copy(folder.join("ca").join(file), folder.join("old").join(file)).unwrap();
    }
}

fn verify(store: &Identities, svid: &Svid) -> Result<SpiffeId, PeerError> {
    let (leaf, above) = svid.chain().split_first().unwrap();
    let since = (store.clock)().duration_since(SystemTime::UNIX_EPOCH);
    let now = UnixTime::since_unix_epoch(since.unwrap());
    store.verifier().verify_client(leaf, above, now)
}

#[tokio::test(start_paused = true)]
async fn a_root_is_replaced_in_three_steps_and_nobody_is_refused_in_between() {
    let (folder, store) = following();
    let folder = folder.path();
    two_authorities(folder);
    let tasks = Tasks::new();
    tasks.spawn("identities", Arc::clone(&store).run(tasks.clone()));
    let first = store.ensure(&caller()).await.unwrap();
    let withdrawal = store.verifier().withdrawal();
    let renewed = async |than: &Arc<Svid>| loop {
        store.look();
        tokio::time::sleep(Duration::from_millis(10)).await;
        let svid = store.current(&caller()).unwrap();
        if svid.serial != than.serial {
            return svid;
        }
    };

    replace(folder, "old", &["new"]);
    let second = renewed(&first).await;
    assert_eq!(store.authority().roots.len(), 2);
    let old = store.authority().serial;
    replace(folder, "new", &["old"]);
    let third = renewed(&second).await;
    assert_ne!(store.authority().serial, old);
    for svid in [&first, &second, &third] {
        assert_eq!(verify(&store, svid).unwrap(), caller());
    }
    assert!(!withdrawal.is_cancelled(), "nobody was trusted less");

    replace(folder, "new", &[]);
    renewed(&third).await;
    assert_eq!(verify(&store, &third).unwrap(), caller());
    assert!(withdrawal.is_cancelled());
    assert!(!store.verifier().withdrawal().is_cancelled());
    let error = verify(&store, &second).unwrap_err();
    assert_eq!(error.reason(), "unknown_issuer");
    assert_eq!(store.authority().roots.len(), 1);
    let alias: TrustDomain = "old.example".parse().unwrap();
    assert_eq!(store.bundle().roots(&alias).len(), 1, "aliases stay");
    assert_eq!(store.authority().last_error, None);
    tasks.finish(HOUR).await;
}

#[rstest]
#[case::certificate_of_another_key("ca.crt", "does not belong to its certificate")]
#[case::key_of_another_certificate("ca.key", "does not belong to its certificate")]
#[tokio::test(start_paused = true)]
async fn half_of_a_new_authority_is_a_mistake_only_when_the_other_half_does_not_come(
    #[case] file: &str,
    #[case] complaint: &str,
) {
    let (folder, store) = following();
    let folder = folder.path();
    two_authorities(folder);
    let svid = store.ensure(&caller()).await.unwrap();
    let serial = store.authority().serial;
    fs::copy(folder.join("new").join(file), folder.join("ca").join(file)).unwrap();
    store.look();
    assert_eq!(store.authority().last_error, None, "it may be coming");
    store.look();
    let error = store.authority().last_error.unwrap();
    assert!(error.contains(complaint), "{error}");
    assert_eq!(store.authority().serial, serial, "the one before goes on");
    assert_eq!(verify(&store, &svid).unwrap(), caller());
    assert!(store.ensure(&id("server")).await.is_ok());

    replace(folder, "new", &[]);
    store.look();
    assert_eq!(store.authority().last_error, None);
    assert_ne!(store.authority().serial, serial);
}

#[rstest]
#[case::nothing("", "is not PEM")]
#[case::half_a_certificate("-----BEGIN CERTIFICATE-----\nMIIB", "is not PEM")]
#[tokio::test(start_paused = true)]
async fn an_authority_that_cannot_be_read_changes_nothing_until_it_is_put_right(
    #[case] text: &str,
    #[case] complaint: &str,
) {
    let (folder, store) = following();
    let folder = folder.path();
    two_authorities(folder);
    let svid = store.ensure(&caller()).await.unwrap();
    let seen = *store.watch().borrow();
    fs::write(folder.join("ca/ca.crt"), text).unwrap();
    for _ in 0..3 {
        store.look();
    }
    let error = store.authority().last_error.unwrap();
    assert!(error.contains(complaint), "{error}");
    assert_eq!(*store.watch().borrow(), seen + 1, "it is said once");
    assert_eq!(store.current(&caller()).unwrap().serial, svid.serial);

    replace(folder, "old", &[]);
    store.look();
    assert_eq!(store.authority().last_error, None);
    assert_eq!(store.current(&caller()).unwrap().serial, svid.serial);
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_stays_as_it_is_renews_nothing() {
    let (_folder, store) = following();
    store.ensure(&caller()).await.unwrap();
    let seen = *store.watch().borrow();
    for _ in 0..3 {
        store.look();
    }
    assert_eq!(*store.watch().borrow(), seen);
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_the_issuer_before_is_asked_for_again_at_once() {
    let issuer = Scripted::new();
    let store = store(&issuer);
    let caller = caller();
    let mut asking = pin!(store.ensure(&caller));
    // It is under way: the issuer has been asked and has not answered.
    let mut context = Context::from_waker(Waker::noop());
    assert!(asking.as_mut().poll(&mut context).is_pending());
    store.renew_all();
    asking.await.unwrap();
    let due = store.list().first().and_then(|svid| svid.renew_at);
    assert_eq!(due, Some(start()));
}
