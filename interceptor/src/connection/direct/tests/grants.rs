//! What is granted, and when it is void.

use rstest::rstest;

use super::super::grants::OTHERS;
use super::*;

#[tokio::test]
async fn a_pair_is_granted_once_and_with_the_generation_of_its_mesh() {
    let agent = Agent::new(DEMO).await;
    for _ in 0..3 {
        agent.offer("10.0.0.2:8080");
        agent.offer("10.96.0.1:80");
    }
    let target = vec![Some("10.0.0.2:8080".parse().unwrap())];
    assert_eq!(agent.granted("10.0.0.2:8080"), Some((target.clone(), 1)));
    assert_eq!(agent.granted("10.96.0.1:80"), Some((target, 1)));
    assert_eq!(agent.kernel.published.load(Ordering::Relaxed), 2);
    assert_eq!(agent.path().counts().granted, 2);
}

#[rstest]
#[case::by_policy("sa/caller]", "sa/nobody]")]
#[case::by_the_owners_wish(
    "{interceptor.dev/network-namespace: server}",
    "{interceptor.dev/network-namespace: server, interceptor.dev/same-node: mtls}"
)]
#[case::without_a_certificate("serviceAccountName: server", "serviceAccountName: other")]
#[case::not_captured(
    "{interceptor.dev/network-namespace: caller}",
    "{interceptor.dev/network-namespace: caller, traffic.sidecar.istio.io/excludeOutboundPorts: '8080'}"
)]
#[tokio::test]
async fn what_may_not_go_past_the_agent_is_never_granted(#[case] from: &str, #[case] to: &str) {
    let agent = Agent::new(&DEMO.replace(from, to)).await;
    agent.offer("10.0.0.2:8080");
    assert_eq!(agent.granted("10.0.0.2:8080"), None);
}

#[tokio::test]
async fn before_the_first_mesh_and_without_room_nothing_is_granted() {
    let agent = Agent::new(DEMO).await;
    agent.path().grants.advanced(0);
    agent.offer("10.0.0.2:8080");
    assert_eq!(agent.granted("10.0.0.2:8080"), None);

    agent.advance();
    agent.kernel.is_full.store(true, Ordering::Relaxed);
    agent.offer("10.0.0.2:8080");
    assert_eq!(agent.granted("10.0.0.2:8080"), None);
    assert_eq!(agent.path().counts().unpublished, 1);
}

/// Whatever `capture.maxGrants` is: a pair that is granted and not known would be decided again at each
/// connection that passes, not be renewed, and be in no metric.
#[tokio::test]
async fn all_that_the_kernel_has_room_for_is_known_renewed_and_counted() {
    const EACH: u16 = 11_000;
    let of = |keys: std::ops::Range<u64>| {
        let to = |port| SocketAddr::from(([10, 0, 0, 2], port));
        keys.flat_map(move |key| (1..=EACH).map(move |port| (key, to(port))))
    };
    let room = of(0..7).count();
    let kernel = Fake {
        room,
        ..Fake::default()
    };
    let agent = Agent::over(kernel, DEMO).await;
    let granted = u64::try_from(room).unwrap();
    for (key, to) in of(0..7) {
        agent.offer_to(key, to);
    }
    assert_eq!(agent.path().counts().granted, granted);
    // What has no room is forgotten before any of these is.
    agent.kernel.is_full.store(true, Ordering::Relaxed);
    for (key, to) in of(7..12) {
        agent.offer_to(key, to);
    }
    let counts = agent.path().counts();
    assert_eq!(counts.granted, granted);
    assert!((1..=OTHERS).contains(&usize::try_from(counts.unpublished).unwrap()));
    agent.kernel.is_full.store(false, Ordering::Relaxed);
    agent.change(good_mesh(DEMO));
    assert_eq!(agent.path().counts().granted, granted);
    // None of them is decided by its next connection.
    let published = agent.kernel.published.load(Ordering::Relaxed);
    for (key, to) in of(0..7) {
        agent.offer_to(key, to);
    }
    assert_eq!(agent.kernel.published.load(Ordering::Relaxed), published);
}

#[tokio::test]
async fn beyond_its_share_a_workload_takes_the_agents_path_and_keeps_what_it_has() {
    let agent = Agent::new(DEMO).await;
    agent.offer("10.0.0.2:8080");
    agent.kernel.has_its_share.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        agent.offer("10.0.0.2:8081");
    }
    let counts = agent.path().counts();
    assert_eq!((counts.granted, counts.unpublished), (1, 1));
    assert_eq!(counts.refused, 1, "each pair once");
    assert!(agent.granted("10.0.0.2:8080").is_some());
    // After a change it is looked at again.
    agent.kernel.has_its_share.store(false, Ordering::Relaxed);
    agent.change(good_mesh(DEMO));
    agent.offer("10.0.0.2:8081");
    assert_eq!(agent.path().counts().granted, 2);
}

#[tokio::test]
async fn what_nobody_uses_makes_room_for_a_pair_that_has_none() {
    let agent = Agent::new(DEMO).await;
    agent.offer("10.0.0.2:8080");
    let make_room = |idle| agent.path().grants.make_room(&*agent.kernel, idle);
    make_room(Duration::ZERO);
    assert!(agent.granted("10.0.0.2:8080").is_some(), "there is room");

    agent.kernel.has_its_share.store(true, Ordering::Relaxed);
    agent.offer("10.0.0.2:8081");
    make_room(Duration::from_hours(1));
    assert!(agent.granted("10.0.0.2:8080").is_some(), "it is in use");
    make_room(Duration::ZERO);
    assert_eq!(agent.granted("10.0.0.2:8080"), None);
    agent.kernel.has_its_share.store(false, Ordering::Relaxed);
    agent.offer("10.0.0.2:8081");
    assert!(agent.granted("10.0.0.2:8081").is_some());
    let counts = agent.path().counts();
    assert_eq!((counts.granted, counts.unpublished), (1, 0));
}

#[tokio::test]
async fn a_workload_that_goes_lets_pairs_without_room_be_asked_about_again() {
    let agent = Agent::new(DEMO).await;
    agent.kernel.has_its_share.store(true, Ordering::Relaxed);
    agent.offer("10.0.0.2:8080");
    agent.kernel.has_its_share.store(false, Ordering::Relaxed);
    agent.offer("10.0.0.2:8080");
    assert_eq!(agent.granted("10.0.0.2:8080"), None, "once is enough");
    agent.path().released(3);
    agent.offer("10.0.0.2:8080");
    assert!(agent.granted("10.0.0.2:8080").is_some());
}

#[tokio::test]
async fn a_change_renews_what_still_holds_and_withdraws_the_rest() {
    let agent = Agent::new(DEMO).await;
    agent.offer("10.0.0.2:8080");
    agent.change(good_mesh(DEMO));
    assert_eq!(agent.granted("10.0.0.2:8080").unwrap().1, 2);
    agent.change(denying());
    assert_eq!(agent.granted("10.0.0.2:8080"), None);
    agent.offer("10.0.0.2:8080");
    assert_eq!(agent.granted("10.0.0.2:8080"), None);
    agent.change(good_mesh(DEMO));
    agent.offer("10.0.0.2:8080");
    assert_eq!(agent.granted("10.0.0.2:8080").unwrap().1, 4);
}

#[tokio::test]
async fn an_enrolment_lets_a_pair_be_looked_at_again() {
    let agent = Agent::new(DEMO).await;
    agent.offer("10.0.0.2:8080");
    // The kernel forgets what it was told of a workload that is released.
    agent
        .kernel
        .withdraw(CALLER, "10.0.0.2:8080".parse().unwrap())
        .unwrap();
    agent.path().released(SERVER);
    agent.path().enrolled(3, id("server"));
    agent.offer("10.0.0.2:8080");
    assert!(agent.granted("10.0.0.2:8080").is_some());
}

#[tokio::test]
async fn a_certificate_that_is_gone_is_noticed() {
    let agent = Agent::new(DEMO).await;
    agent.offer("10.0.0.2:8080");
    let mesh = agent.plane.mesh.load_full();
    let grants = &agent.path().grants;
    assert!(!grants.lacks_certificate(&mesh, &agent.plane.identities));
    agent
        .plane
        .identities
        .want(["spiffe://cluster.local/ns/demo/sa/server".parse().unwrap()]);
    assert!(grants.lacks_certificate(&mesh, &agent.plane.identities));
    agent.change(good_mesh(DEMO));
    assert_eq!(agent.granted("10.0.0.2:8080"), None);
}

#[tokio::test]
async fn an_agent_that_left_the_grants_to_another_grants_nothing() {
    let agent = Agent::new(DEMO).await;
    agent.path().leave();
    agent.offer("10.0.0.2:8080");
    assert_eq!(agent.granted("10.0.0.2:8080"), None);
    agent.path().go_on();
    agent.offer("10.0.0.2:8080");
    assert!(agent.granted("10.0.0.2:8080").is_some());
}
