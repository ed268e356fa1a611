//! What is granted and when it is void, and that each connection is recorded once at each end.

use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rstest::rstest;
use tokio::sync::broadcast;

use super::flows::{compare, judge, take_in};
use super::*;
use crate::capture::{End, Event, Totals};
use crate::connection::Registry;
use crate::identity::{Ca, Identities};
use crate::telemetry::record::{Outcome, Reporter, Security};
use crate::telemetry::view::State;
use crate::telemetry::{AccessLog, ConnectionView, Telemetry};
use crate::transport;
use crate::workload::Mesh;
use crate::workload::fixtures::good_mesh;

const DEMO: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: demo, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata:
  name: caller
  namespace: demo
  annotations: {interceptor.dev/network-namespace: caller}
spec: {nodeName: one, serviceAccountName: caller}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata:
  name: server
  namespace: demo
  labels: {app: server}
  annotations: {interceptor.dev/network-namespace: server}
spec: {nodeName: one, serviceAccountName: server}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: demo}
spec: {clusterIP: 10.96.0.1, selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: demo}
spec:
  selector: {matchLabels: {app: server}}
  rules: [{from: [{source: {principals: [cluster.local/ns/demo/sa/caller]}}]}]
";

const CALLER: u64 = 1;
const SERVER: u64 = 2;

/// What the kernel was asked, and what it says.
#[derive(Default)]
struct Fake {
    generation: AtomicU64,
    grants: Mutex<HashMap<(u64, SocketAddr), Grant>>,
    published: AtomicU64,
    open: Mutex<Vec<Open>>,
    cut: Mutex<Vec<u64>>,
    cannot_cut: AtomicBool,
    is_full: AtomicBool,
}

impl Kernel for Fake {
    fn advance(&self) -> io::Result<u64> {
        Ok(self.generation.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn publish(&self, grant: &Grant) -> Result<(), GrantError> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(GrantError::Full);
        }
        self.published.fetch_add(1, Ordering::Relaxed);
        let key = (grant.source, grant.address);
        self.grants.lock().insert(key, grant.clone());
        Ok(())
    }

    fn withdraw(&self, source: u64, address: SocketAddr) -> Result<(), GrantError> {
        self.grants.lock().remove(&(source, address));
        Ok(())
    }

    fn lost(&self) -> u64 {
        0
    }

    fn open(&self) -> io::Result<Vec<Open>> {
        Ok(self.open.lock().clone())
    }

    fn cut(&self, flow: &DirectFlow) -> io::Result<bool> {
        if self.cannot_cut.load(Ordering::Relaxed) {
            return Err(io::Error::other("not now"));
        }
        self.cut.lock().push(flow.id);
        Ok(true)
    }
}

/// An agent over a kernel that does what a test says.
struct Agent {
    kernel: Arc<Fake>,
    plane: Plane,
    feed: broadcast::Receiver<Arc<ConnectionView>>,
}

impl Agent {
    async fn new(manifests: &str) -> Self {
        let kernel = Arc::new(Fake::default());
        let ca = Ca::generate(&"cluster.local".parse().unwrap(), SystemTime::now()).unwrap();
        let identities = Arc::new(Identities::new(Arc::new(ca), Duration::from_hours(1)));
        let telemetry = Telemetry::new(AccessLog::disabled());
        let feed = telemetry.recent.follow();
        let over: Arc<Fake> = Arc::clone(&kernel);
        let agent = Self {
            kernel,
            plane: Plane {
                mesh: Arc::new(ArcSwap::from_pointee(good_mesh(manifests))),
                server: transport::Server::new(Arc::default(), &identities),
                identities,
                telemetry,
                registry: Registry::new(),
                direct: Arc::new(DirectPath::over(over)),
                connect_timeout: Duration::from_secs(1),
            },
            feed,
        };
        for (key, name) in [(CALLER, "caller"), (SERVER, "server")] {
            agent.plane.direct.enrolled(key, id(name));
            agent.certify(name).await;
        }
        agent.advance();
        agent
    }

    async fn certify(&self, service_account: &str) {
        let id = format!("spiffe://cluster.local/ns/demo/sa/{service_account}");
        let id = id.parse().unwrap();
        self.plane.identities.ensure(&id).await.unwrap();
    }

    fn path(&self) -> &DirectPath {
        &self.plane.direct
    }

    fn advance(&self) {
        let generation = self.kernel.advance().unwrap();
        self.path().grants.advanced(generation);
    }

    /// As the task does when the mesh has changed.
    fn change(&self, mesh: Mesh) {
        self.plane.mesh.store(Arc::new(mesh));
        self.advance();
        judge(self.path(), &self.plane);
        let (kernel, mesh) = (&*self.kernel, self.plane.mesh.load());
        (self.path().grants).renew(kernel, &mesh, &self.plane.identities);
    }

    fn offer(&self, to: &str) {
        let asked = (&id("caller"), (CALLER, to.parse().unwrap()));
        (self.path().grants).offer(&*self.kernel, &self.plane, asked);
    }

    /// The targets and the generation of what is granted for this address.
    fn granted(&self, to: &str) -> Option<(Vec<Option<SocketAddr>>, u64)> {
        let grants = self.kernel.grants.lock();
        let grant = grants.get(&(CALLER, to.parse().unwrap()))?;
        Some((grant.targets.clone(), grant.generation))
    }

    fn take_in(&self, events: impl IntoIterator<Item = Event>) {
        take_in(self.path(), &self.plane, events);
    }

    /// What was told of connections, in order.
    fn told(&mut self) -> Vec<Arc<ConnectionView>> {
        std::iter::from_fn(|| self.feed.try_recv().ok()).collect()
    }

    /// What was told of the ends of connections: by whom, what became of them, and why.
    fn ends(&mut self) -> Vec<(Reporter, Outcome, String)> {
        let told = self.told();
        let over = told.iter().filter(|view| view.state != State::Open);
        over.map(|view| (view.reporter, view.decision, view.reason.clone()))
            .collect()
    }

    fn metric(&self, line: &str) -> u64 {
        let text = self.plane.telemetry.metrics.render().unwrap();
        let lines = text.lines().filter(|it| it.starts_with(line));
        lines
            .map(|it| it.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }
}

fn id(name: &str) -> WorkloadId {
    WorkloadId {
        namespace: "demo".into(),
        name: name.into(),
    }
}

fn flow(number: u64) -> DirectFlow {
    DirectFlow {
        id: number,
        source: CALLER,
        destination: SERVER,
        source_address: "10.0.0.1:40000".parse().unwrap(),
        destination_address: "10.0.0.2:8080".parse().unwrap(),
        original: "10.96.0.1:80".parse().unwrap(),
        since_ns: number,
        generation: 1,
        tag: 0,
    }
}

fn carried(sent: u64, received: u64) -> Totals {
    Totals {
        sent,
        received,
        duration: Duration::from_millis(5),
        round_trip: Some(Duration::from_micros(40)),
        retransmits: 2,
    }
}

fn closed(number: u64, end: End) -> Event {
    Event::Closed {
        flow: flow(number),
        totals: carried(10, 7),
        established: !matches!(end, End::Refused | End::Abandoned),
        end,
    }
}

fn is_open(number: u64) -> Open {
    Open {
        flow: flow(number),
        totals: carried(4, 3),
    }
}

fn denying() -> Mesh {
    good_mesh(&DEMO.replace("sa/caller]", "sa/nobody]"))
}

// === grants ===

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

// === connections ===

#[tokio::test]
async fn a_short_connection_is_recorded_as_a_whole_at_both_ends() {
    let mut agent = Agent::new(DEMO).await;
    agent.take_in([Event::Opened(flow(1)), closed(1, End::Finished)]);
    let told = agent.told();
    let over: Vec<_> = told.iter().filter(|it| it.state == State::Closed).collect();
    assert_eq!(over.len(), 2);
    for view in over {
        assert_eq!(view.security, Security::Kernel);
        assert_eq!(view.policy.as_deref(), Some("demo/callers"));
        assert_eq!(view.rule, Some(0));
        assert_eq!((view.bytes_sent, view.bytes_received), (10, 7));
        assert_eq!((view.round_trip_us, view.retransmits), (Some(40), Some(2)));
        assert_eq!(view.service.as_deref(), Some("demo/server"));
        assert_eq!(view.conn_id, told[0].conn_id);
    }
    assert!(agent.plane.registry.is_empty());
    assert_eq!(agent.metric("istio_tcp_connections_opened_total"), 2);
    assert_eq!(agent.metric("istio_tcp_connections_closed_total"), 2);
    assert_eq!(agent.metric("istio_tcp_received_bytes_total"), 20);
    assert_eq!(agent.metric("istio_tcp_sent_bytes_total"), 14);
}

#[tokio::test]
async fn a_long_connection_is_among_the_open_ones_and_its_bytes_are_counted_once() {
    let mut agent = Agent::new(DEMO).await;
    agent.take_in([Event::Opened(flow(1))]);
    assert_eq!(agent.plane.registry.len(), 2);
    *agent.kernel.open.lock() = vec![is_open(1)];
    agent.path().refresh();
    assert_eq!(agent.metric("istio_tcp_received_bytes_total"), 8);
    agent.take_in([closed(1, End::Reset)]);
    assert_eq!(agent.metric("istio_tcp_received_bytes_total"), 20);
    assert_eq!(agent.metric("istio_tcp_sent_bytes_total"), 14);
    assert!(agent.plane.registry.is_empty());
    let ends = agent.ends();
    assert!(
        ends.iter()
            .all(|(_, outcome, _)| *outcome == Outcome::Allowed),
        "{ends:?}"
    );
    assert_eq!(ends.len(), 2);
}

#[rstest]
#[case::the_policy("sa/caller]", "sa/nobody]", "no_allow_matched")]
#[case::a_label("labels: {app: server}", "labels: {app: db}", "")]
#[case::the_callers_account(
    "serviceAccountName: caller",
    "serviceAccountName: x",
    "identity_changed"
)]
#[case::the_servers_account(
    "serviceAccountName: server",
    "serviceAccountName: x",
    "identity_changed"
)]
#[case::the_owners_wish(
    "interceptor.dev/network-namespace: server",
    "interceptor.dev/same-node: mtls, interceptor.dev/network-namespace: server",
    "same_node_mtls"
)]
#[case::the_caller_is_gone("name: caller\n", "name: another\n", "workload_gone")]
#[tokio::test]
async fn a_change_cuts_what_it_forbids_and_both_ends_say_why(
    #[case] from: &str,
    #[case] to: &str,
    #[case] reason: &str,
) {
    let mut agent = Agent::new(DEMO).await;
    agent.take_in([Event::Opened(flow(1))]);
    let (changed, _) = crate::workload::fixtures::mesh(&DEMO.replace(from, to));
    agent.change(changed);
    if reason.is_empty() {
        // Nothing selects it any more, so nothing forbids it.
        assert!(agent.kernel.cut.lock().is_empty());
        return;
    }
    assert_eq!(*agent.kernel.cut.lock(), [1]);
    agent.take_in([closed(1, End::Cut)]);
    let expected = [Reporter::Source, Reporter::Destination]
        .map(|reporter| (reporter, Outcome::Cut, reason.to_owned()));
    assert_eq!(agent.ends(), expected);
}

#[tokio::test]
async fn a_lost_certificate_cuts() {
    let mut agent = Agent::new(DEMO).await;
    agent.take_in([Event::Opened(flow(1))]);
    agent
        .plane
        .identities
        .want(["spiffe://cluster.local/ns/demo/sa/server".parse().unwrap()]);
    judge(agent.path(), &agent.plane);
    agent.take_in([closed(1, End::Cut)]);
    assert_eq!(agent.ends()[0].2, "no_identity");
}

#[tokio::test]
async fn what_opened_under_an_older_mesh_is_judged_when_it_is_heard_of() {
    let agent = Agent::new(DEMO).await;
    agent.change(denying());
    agent.take_in([Event::Opened(flow(1))]);
    assert_eq!(*agent.kernel.cut.lock(), [1]);
}

#[tokio::test]
async fn what_cannot_be_cut_is_tried_again() {
    let agent = Agent::new(DEMO).await;
    agent.kernel.cannot_cut.store(true, Ordering::Relaxed);
    agent.take_in([Event::Opened(flow(1))]);
    agent.change(denying());
    assert!(!judge(agent.path(), &agent.plane));
    agent.kernel.cannot_cut.store(false, Ordering::Relaxed);
    assert!(judge(agent.path(), &agent.plane));
    assert_eq!(*agent.kernel.cut.lock(), [1]);
}

#[rstest]
#[case::nobody_listens(End::Refused, "app_unreachable", 2)]
#[case::the_caller_gives_up(End::Abandoned, "abandoned", 1)]
#[tokio::test]
async fn what_is_never_established_has_failed(
    #[case] end: End,
    #[case] reason: &str,
    #[case] lines: usize,
) {
    let mut agent = Agent::new(DEMO).await;
    agent.take_in([closed(1, end)]);
    let ends = agent.ends();
    assert_eq!(ends.len(), lines);
    assert_eq!(
        ends[0],
        (Reporter::Source, Outcome::Failed, reason.to_owned())
    );
    assert!(agent.plane.registry.is_empty());
}

// === losses and restarts ===

#[tokio::test]
async fn an_end_that_was_not_told_is_found_and_counted_once() {
    let mut agent = Agent::new(DEMO).await;
    agent.take_in([Event::Opened(flow(1)), Event::Opened(flow(2))]);
    *agent.kernel.open.lock() = vec![is_open(1), is_open(2)];
    assert!(!compare(agent.path(), &agent.plane, || {}));
    *agent.kernel.open.lock() = vec![is_open(2)];
    assert!(
        compare(agent.path(), &agent.plane, || {}),
        "its end may be on its way"
    );
    assert_eq!(agent.plane.registry.len(), 4);
    assert!(!compare(agent.path(), &agent.plane, || {}));
    assert_eq!(agent.plane.registry.len(), 2);
    assert_eq!(agent.path().counts().unseen, 1);
    // Told after all.
    agent.take_in([closed(1, End::Finished)]);
    assert_eq!(agent.ends().len(), 2);
    assert_eq!(agent.metric("istio_tcp_received_bytes_total"), 16);
}

#[tokio::test]
async fn what_is_open_when_the_agent_starts_is_taken_over() {
    let mut agent = Agent::new(DEMO).await;
    *agent.kernel.open.lock() = vec![is_open(1)];
    // The buffer may still have the opening, and the end of another.
    let waiting = || agent.take_in([Event::Opened(flow(1)), closed(2, End::Finished)]);
    assert!(!compare(agent.path(), &agent.plane, waiting));
    assert_eq!(agent.plane.registry.len(), 2);
    agent.take_in([closed(1, End::Finished)]);
    assert_eq!(agent.ends().len(), 4);
    assert_eq!(agent.metric("istio_tcp_connections_opened_total"), 4);
    assert_eq!(agent.metric("istio_tcp_connections_closed_total"), 4);
}

#[tokio::test]
async fn a_socket_that_is_missing_once_has_an_end_on_its_way() {
    let mut agent = Agent::new(DEMO).await;
    agent.take_in([Event::Opened(flow(1))]);
    let end = || agent.take_in([closed(1, End::Finished)]);
    assert!(!compare(agent.path(), &agent.plane, end));
    assert_eq!(agent.path().counts().unseen, 0);
    assert_eq!(agent.ends().len(), 2);
}

#[test]
fn names_of_workloads_that_are_gone_are_kept_for_a_while() {
    let names = Names::default();
    for key in 0..=u64::try_from(REMEMBERED).unwrap() {
        names.set(key, id("a"));
        names.retire(key);
    }
    assert_eq!(names.of(0), None);
    assert_eq!(names.of(1), Some(id("a")));
    names.set(1, id("b"));
    assert_eq!(names.of(1), Some(id("b")));
}
