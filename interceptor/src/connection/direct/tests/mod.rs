//! What is granted and when it is void, and that each connection is recorded once at each end:
//! over a kernel that does what a test says.

mod flows;
mod grants;
mod kinds;
mod table;

use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::broadcast;

use super::flows::{compare, judge};
use super::intake::{look_up, take_in};
use super::*;
use crate::capture::{End, Event, Totals};
use crate::connection::Registry;
use crate::identity::{Ca, Identities};
use crate::lanes::Lanes;
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
    room: usize,
    generation: AtomicU64,
    grants: Mutex<HashMap<(u64, SocketAddr), Grant>>,
    published: AtomicU64,
    open: Mutex<Vec<Open>>,
    cut: Mutex<Vec<u64>>,
    cannot_cut: AtomicBool,
    /// Workloads besides the two that are enrolled from the start.
    others: Mutex<Vec<u64>>,
    /// All workloads are released.
    is_empty: AtomicBool,
    is_full: AtomicBool,
    /// The source has its share.
    has_its_share: AtomicBool,
}

impl Kernel for Fake {
    fn advance(&self) -> io::Result<u64> {
        Ok(self.generation.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn publish(&self, grant: &Grant) -> Result<(), GrantError> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(GrantError::Full);
        }
        if self.has_its_share.load(Ordering::Relaxed) {
            return Err(GrantError::Share);
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

    fn room(&self) -> usize {
        self.room
    }

    fn lost(&self) -> u64 {
        0
    }

    fn entered(&self) -> u64 {
        0
    }

    fn table(&self) -> io::Result<Vec<Entered>> {
        Ok(Vec::new())
    }

    fn open(&self) -> io::Result<Vec<Open>> {
        Ok(self.open.lock().clone())
    }

    fn sweep(&self) -> io::Result<()> {
        Ok(())
    }

    fn is_workload(&self, key: u64) -> bool {
        let known = [CALLER, SERVER].contains(&key) || self.others.lock().contains(&key);
        known && !self.is_empty.load(Ordering::Relaxed)
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
        Self::over(Fake::default(), manifests).await
    }

    async fn over(kernel: Fake, manifests: &str) -> Self {
        let kernel = Arc::new(kernel);
        let ca = Ca::generate(&"cluster.local".parse().unwrap(), SystemTime::now()).unwrap();
        let identities = Arc::new(Identities::new(Arc::new(ca), Duration::from_hours(1)));
        let telemetry = Telemetry::new(AccessLog::disabled());
        let feed = telemetry.recent.follow();
        let over: Arc<Fake> = Arc::clone(&kernel);
        let agent = Self {
            kernel,
            plane: Plane {
                mesh: Arc::new(ArcSwap::from_pointee(good_mesh(manifests))),
                lanes: Lanes::default(),
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
        self.offer_to(CALLER, to.parse().unwrap());
    }

    /// The same of whatever the kernel knows the caller as.
    fn offer_to(&self, key: u64, to: SocketAddr) {
        let asked = (&id("caller"), (key, to));
        (self.path().grants).offer(self.path(), &self.plane, asked);
    }

    /// The targets and the generation of what is granted for this address.
    fn granted(&self, to: &str) -> Option<(Vec<Option<SocketAddr>>, u64)> {
        let grants = self.kernel.grants.lock();
        let grant = grants.get(&(CALLER, to.parse().unwrap()))?;
        Some((grant.targets.clone(), grant.generation))
    }

    /// Returns whether something was too young to be entered.
    fn take_in(&self, events: impl IntoIterator<Item = Event>) -> bool {
        take_in(self.path(), &self.plane, events)
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
