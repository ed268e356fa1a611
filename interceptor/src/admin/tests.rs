//! What each of the ports and the socket answers, to whom, and what it refuses.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use rstest::rstest;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UnixStream};

use super::*;
use crate::telemetry::AccessLog;
use crate::telemetry::record::fixtures as records;
use crate::telemetry::shadow;
use crate::telemetry::status::fixtures as statuses;
use crate::telemetry::view::State as ViewState;
use crate::workload::{Mesh, MeshSettings};

struct Agent {
    admin: SocketAddr,
    metrics: SocketAddr,
    readiness: SocketAddr,
    socket: PathBuf,
    telemetry: Telemetry,
    tasks: Tasks,
    _folder: tempfile::TempDir,
}

fn state(status: fn() -> Status) -> State {
    State {
        status: Arc::new(status),
        readiness: Arc::new(move || status().readiness),
        mesh: Arc::new(|| Arc::new(Mesh::empty(MeshSettings::for_node("one")))),
        connections: Arc::new(|| vec![ConnectionView::new(&records::allowed(), ViewState::Open)]),
        config: Arc::new(|| serde_json::json!({"workloads": []})),
        shadows: Arc::new(shadow::Report::default),
        telemetry: Telemetry::new(AccessLog::disabled()),
        logging: None,
    }
}

fn start(status: fn() -> Status) -> Agent {
    let folder = tempfile::tempdir().unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let socket = folder.path().join("run/interceptor.sock");
    let listeners = Listeners::open(&Config {
        admin: any,
        metrics: any,
        readiness: any,
        socket: socket.clone(),
    })
    .unwrap();
    let [admin, metrics, readiness] = listeners.addresses().unwrap();
    let state = state(status);
    let telemetry = state.telemetry.clone();
    let tasks = Tasks::new();
    listeners.serve(state, &tasks);
    Agent {
        admin,
        metrics,
        readiness,
        socket,
        telemetry,
        tasks,
        _folder: folder,
    }
}

/// Sends `bytes`, closes the sending half and returns everything that comes back.
async fn exchange(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // The server may answer and close before it has read everything.
    drop(stream.write_all(bytes).await);
    drop(stream.shutdown().await);
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    String::from_utf8_lossy(&answer).into_owned()
}

async fn get(to: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\r\n");
    exchange(to, request.as_bytes()).await
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let ready = start(statuses::healthy);
    let answer = get(ready.readiness, "/healthz/ready").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let not = start(statuses::troubled);
    let answer = get(not.readiness, "/healthz/ready").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("not ready: workloads are being enrolled"));
}

#[rstest]
#[case::ours("/metrics")]
#[case::istios("/stats/prometheus")]
#[tokio::test]
async fn metrics_are_served_where_scrapers_look(#[case] path: &str) {
    let agent = start(statuses::healthy);
    agent.telemetry.refused(&records::denied());
    let answer = get(agent.metrics, path).await;
    assert!(answer.contains("text/plain; version=0.0.4"));
    assert!(answer.contains("interceptor_connections_denied_total{"));
    assert!(answer.ends_with("# EOF\n"));
}

#[tokio::test]
async fn a_modern_scraper_gets_the_modern_type() {
    let agent = start(statuses::healthy);
    let request = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                   accept: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n\r\n";
    let answer = exchange(agent.metrics, request.as_bytes()).await;
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"));
}

#[rstest]
#[case::status("/status", "\"node\": \"one\"")]
#[case::connections("/connections", "\"live\"")]
#[case::certificates("/certificates", "\"renewAt\"")]
#[case::config("/config_dump", "\"inForce\"")]
#[case::explain("/explain?from=demo%2Fa&to=demo/b:80", "there is no workload demo/a")]
#[case::explain_without_a_question("/explain?from=demo/a", "GET /explain?from=")]
#[case::explain_from_no_address("/explain?from=a/b&to=c/d&sourceIp=x", "GET /explain?from=")]
#[case::ports("/ports", "[]")]
#[case::ports_of_nothing("/ports?service=demo/b", "there is no Service demo/b")]
#[case::help("/", "GET  /status")]
#[tokio::test]
async fn administration_answers_on_loopback_and_socket(#[case] path: &str, #[case] expected: &str) {
    let agent = start(statuses::healthy);
    let answer = get(agent.admin, path).await;
    assert!(answer.contains(expected), "{answer}");
    let mut socket = UnixStream::connect(&agent.socket).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nconnection: close\r\n\r\n");
    // HTTP/1.1 wants a Host; the command line sends one.
    let request = request.replace("\r\nconnection", "\r\nhost: agent\r\nconnection");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(expected), "{answer}");
}

#[tokio::test]
async fn the_other_ports_serve_nothing_of_administration() {
    let agent = start(statuses::healthy);
    for port in [agent.metrics, agent.readiness] {
        for path in ["/config_dump", "/connections", "/logging", "/status"] {
            assert!(get(port, path).await.starts_with("HTTP/1.1 404"));
        }
    }
}

#[rstest]
#[case::rebinding("host: evil.example\r\n")]
#[case::rebinding_with_port("host: evil.example:15000\r\n")]
#[case::cross_origin("host: localhost\r\norigin: http://evil.example\r\n")]
#[tokio::test]
async fn web_pages_are_refused(#[case] headers: &str) {
    let agent = start(statuses::healthy);
    let request = format!("GET /config_dump HTTP/1.1\r\n{headers}connection: close\r\n\r\n");
    let answer = exchange(agent.admin, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[tokio::test]
async fn a_method_that_changes_nothing_here_is_refused() {
    let agent = start(statuses::healthy);
    let request = "POST /status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer = exchange(agent.admin, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert!(answer.contains("allow: GET, HEAD"));
}

#[tokio::test]
async fn a_follower_sees_what_happens_line_by_line() {
    let agent = start(statuses::healthy);
    let mut stream = TcpStream::connect(agent.admin).await.unwrap();
    stream
        .write_all(b"GET /connections?watch=1 HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut lines = BufReader::new(stream).lines();
    // The head of the answer comes at once; from then on nothing is missed.
    while !lines.next_line().await.unwrap().unwrap().is_empty() {}
    agent.telemetry.refused(&records::denied());
    let mut line = String::new();
    while !line.starts_with('{') {
        line = lines.next_line().await.unwrap().unwrap();
    }
    let view: ConnectionView = serde_json::from_str(&line).unwrap();
    assert_eq!(view.state, ViewState::Refused);
    assert_eq!(view.policy.as_deref(), Some("demo/allow-caller"));
    drop(lines);
    assert_eq!(agent.tasks.finish(Duration::from_secs(10)).await, 0);
}

#[tokio::test]
async fn a_follower_does_not_hold_up_the_end_of_the_agent() {
    let agent = start(statuses::healthy);
    let mut stream = TcpStream::connect(agent.admin).await.unwrap();
    stream
        .write_all(b"GET /connections?watch=1 HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(agent.tasks.finish(Duration::from_secs(30)).await, 0);
}

#[rstest]
#[case::garbage(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec())]
#[case::endless_line(vec![b'A'; 1 << 20])]
#[case::endless_headers([b"GET / HTTP/1.1\r\n".to_vec(), b"x: y\r\n".repeat(100_000)].concat())]
#[case::bad_length(b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n".to_vec())]
#[case::two_lengths(b"POST /logging HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".to_vec())]
#[case::nothing(Vec::new())]
#[tokio::test]
async fn hostile_requests_are_answered_or_dropped_and_harm_nobody(#[case] bytes: Vec<u8>) {
    let agent = start(statuses::healthy);
    let answer = exchange(agent.admin, &bytes).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
    assert!(
        get(agent.admin, "/status")
            .await
            .starts_with("HTTP/1.1 200")
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_finishes_its_head_is_dropped() {
    let agent = start(statuses::healthy);
    let mut slow = TcpStream::connect(agent.admin).await.unwrap();
    slow.write_all(b"GET /status HT").await.unwrap();
    let mut answer = Vec::new();
    // Ends only when the server gives up; paused time brings that about.
    drop(slow.read_to_end(&mut answer).await);
}

#[tokio::test]
async fn the_socket_is_for_its_owner_only_and_a_second_agent_is_told() {
    let agent = start(statuses::healthy);
    let mode = std::fs::metadata(&agent.socket)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let error = Socket::bind(&agent.socket).unwrap_err();
    assert!(error.to_string().starts_with("another agent is running on"));
}

#[tokio::test]
async fn a_socket_that_nobody_answers_on_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _socket = Socket::bind(&path).unwrap();
    UnixStream::connect(&path).await.unwrap();
}

#[tokio::test]
async fn a_socket_that_is_closed_leaves_its_file_which_may_be_a_successors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    drop(Socket::bind(&path).unwrap());
    assert!(path.exists());
    remove_socket(&path).unwrap();
    assert!(!path.exists());
    remove_socket(&path).unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_its_remedy() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap();
    let error = Listeners::open(&Config {
        admin: address,
        socket: Path::new("/nonexistent/s").to_path_buf(),
        ..Config::default()
    })
    .unwrap_err()
    .to_string();
    assert!(
        error.contains(&format!("{address} for administration")),
        "{error}"
    );
    assert!(error.contains("ports.admin"));
}

#[tokio::test]
async fn administration_is_never_open_to_the_network() {
    let error = Listeners::open(&Config {
        admin: SocketAddr::from(([0, 0, 0, 0], 0)),
        ..Config::default()
    })
    .unwrap_err();
    assert!(matches!(error, AdminError::NotLoopback(_)));
}

proptest! {
    #[test]
    fn any_request_gets_an_answer(path in "/[ -~]{0,60}", method in "[A-Z]{1,8}") {
        let uri: Result<hyper::Uri, _> = path.parse();
        prop_assume!(uri.is_ok());
        let request = hyper::Request::builder()
            .method(method.as_str())
            .uri(uri.unwrap())
            .body(())
            .unwrap();
        let state = state(statuses::troubled);
        for surface in [Surface::Admin, Surface::Metrics, Surface::Readiness] {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _entered = runtime.enter();
            let session = routes::Session::default();
            let answer = routes::answer(&state, surface, &session, &Tasks::new(), &request);
            prop_assert!(answer.status().as_u16() < 600);
        }
    }
}
