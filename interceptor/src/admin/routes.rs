//! Which path gives what.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HOST, HeaderValue, ORIGIN};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use super::State;
use super::body::Body;
use crate::drain::Tasks;
use crate::explain::Question;
use crate::telemetry::ConnectionView;

/// Which listener a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surface {
    /// The loopback port.
    Admin,
    /// The unix socket, whose peers are known.
    Socket,
    /// The metrics port.
    Metrics,
    /// The readiness port.
    Readiness,
}

/// A follower that does not take a line for this long is cut off.
const FOLLOWER_PATIENCE: Duration = Duration::from_secs(30);

/// The connection that a request came in by, as far as routes change its life.
#[derive(Clone, Debug, Default)]
pub(super) struct Session {
    /// Set while it follows connections: it may then live on.
    pub(super) following: Arc<AtomicBool>,
    /// Ends it at once.
    pub(super) cut: CancellationToken,
}

const ADMIN_HELP: &str = "\
GET  /status           everything that `interceptor status` prints
GET  /connections      live connections and recent refusals
GET  /connections?watch=1   one JSON object per line, as connections open, close and are refused
GET  /calls            who called whom since the agent started, counted
GET  /shadow           what policies in dry-run and AUDIT policies say
GET  /explain?from=F&to=T   what would become of a connection: see `interceptor help explain`
GET  /ports?service=S  what meets at the ports of Services
GET  /certificates     certificates of local identities
GET  /config_dump      configuration, workloads, services and policies in force
GET  /logging          level of the agent's log
POST /logging?level=L  changes it: info, debug, info,interceptor::transport=trace
GET  /metrics          as on the metrics port
";

/// Answers `request`.
pub(super) fn answer<B>(
    state: &State,
    surface: Surface,
    session: &Session,
    tasks: &Tasks,
    request: &Request<B>,
) -> Response<Body> {
    match surface {
        Surface::Metrics => match request.uri().path() {
            "/metrics" | "/stats/prometheus" => get(request, || metrics(state, request)),
            _ => plain(StatusCode::NOT_FOUND, "GET /metrics\n"),
        },
        Surface::Readiness => match request.uri().path() {
            "/healthz/ready" => get(request, || ready(state)),
            "/healthz/live" => get(request, || plain(StatusCode::OK, "alive\n")),
            _ => plain(StatusCode::NOT_FOUND, "GET /healthz/ready\n"),
        },
        Surface::Admin if !is_from_here(request) => plain(
            StatusCode::FORBIDDEN,
            "this port serves tools on this machine, not web pages and not other host names\n",
        ),
        Surface::Admin | Surface::Socket => admin(state, session, tasks, request),
    }
}

fn admin<B>(
    state: &State,
    session: &Session,
    tasks: &Tasks,
    request: &Request<B>,
) -> Response<Body> {
    match request.uri().path() {
        "/" | "/help" => get(request, || plain(StatusCode::OK, ADMIN_HELP)),
        "/status" => get(request, || json(&(state.status)())),
        "/certificates" => get(request, || json(&(state.status)().certificates)),
        "/config_dump" => get(request, || config_dump(state)),
        "/connections" if query(request, "watch").is_some_and(|v| v != "0") => {
            get(request, || follow(state, session, tasks))
        }
        "/connections" => get(request, || connections(state)),
        "/calls" => get(request, || json(&state.telemetry.calls.report())),
        "/shadow" => get(request, || json(&(state.shadows)())),
        "/explain" => get(request, || explain(state, request)),
        "/ports" => get(request, || ports(state, request)),
        "/logging" => logging(state, request),
        "/metrics" | "/stats/prometheus" => get(request, || metrics(state, request)),
        "/healthz/ready" => get(request, || ready(state)),
        _ => plain(StatusCode::NOT_FOUND, ADMIN_HELP),
    }
}

/// A browser sends its page's `Origin` and the name it resolved as `Host`; a tool on this machine
/// sends neither another name nor an origin. Without this check a web page could read the
/// configuration through its visitor (DNS rebinding).
fn is_from_here<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    if headers.contains_key(ORIGIN) {
        return false;
    }
    let Some(host) = headers.get(HOST) else {
        return true;
    };
    let Ok(host) = host.to_str() else {
        return false;
    };
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.chars().all(|c| c.is_ascii_digit()) {
            name
        } else {
            host
        }
    });
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

fn get<B>(request: &Request<B>, make: impl FnOnce() -> Response<Body>) -> Response<Body> {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return make();
    }
    not_allowed("GET, HEAD")
}

fn not_allowed(methods: &'static str) -> Response<Body> {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, format!("use {methods}\n"));
    let methods = HeaderValue::from_static(methods);
    response.headers_mut().insert(ALLOW, methods);
    response
}

fn metrics<B>(state: &State, request: &Request<B>) -> Response<Body> {
    let Ok(text) = state.telemetry.metrics.render() else {
        return plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            "metrics cannot be rendered\n",
        );
    };
    // What is written is both: the classic format takes the trailing `# EOF` for a comment.
    let modern = request
        .headers()
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("application/openmetrics-text"));
    let content_type = if modern {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    respond(StatusCode::OK, content_type, text)
}

fn ready(state: &State) -> Response<Body> {
    let readiness = (state.readiness)();
    if readiness.is_ready() {
        return plain(StatusCode::OK, "ready\n");
    }
    plain(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("not ready: {}\n", readiness.missing.join("; ")),
    )
}

fn config_dump(state: &State) -> Response<Body> {
    let status = (state.status)();
    json(&serde_json::json!({
        "node": status.node,
        "version": status.version,
        "configuration": status.configuration,
        "certificates": status.certificates,
        "workloads": status.workloads,
        "inForce": (state.config)(),
    }))
}

/// The document at `/connections`.
#[derive(Debug, Serialize)]
struct Connections<'a> {
    live: Vec<ConnectionView>,
    recent: Vec<&'a ConnectionView>,
}

fn connections(state: &State) -> Response<Body> {
    let recent = state.telemetry.recent.refusals();
    json(&Connections {
        live: (state.connections)(),
        recent: recent.iter().map(|view| &**view).collect(),
    })
}

fn ports<B>(state: &State, request: &Request<B>) -> Response<Body> {
    let service = query(request, "service");
    match crate::explain::ports::ports(&(state.mesh)(), service.as_deref()) {
        Ok(ports) => json(&ports),
        Err(why) => plain(StatusCode::NOT_FOUND, format!("{why}\n")),
    }
}

fn explain<B>(state: &State, request: &Request<B>) -> Response<Body> {
    let source_ip = query(request, "sourceIp").map(|text| text.parse());
    let (Some(from), Some(to), Ok(source_ip)) = (
        query(request, "from"),
        query(request, "to"),
        source_ip.transpose(),
    ) else {
        let usage = "GET /explain?from=NAMESPACE/NAME&to=HOST:PORT[&sourceIp=IP]\n";
        return plain(StatusCode::BAD_REQUEST, usage);
    };
    let question = Question {
        from,
        to,
        source_ip,
    };
    json(&crate::explain::explain(&(state.mesh)(), &question))
}

fn follow(state: &State, session: &Session, tasks: &Tasks) -> Response<Body> {
    let (lines, body) = mpsc::channel(64);
    session.following.store(true, Ordering::Relaxed);
    let feed = state.telemetry.recent.follow();
    let (cut, stopping) = (session.cut.clone(), tasks.clone());
    tasks.spawn("follow", async move {
        tokio::select! {
            () = stopping.stopping() => {}
            () = lines.closed() => {}
            // Whatever the follower has not taken by now, it will not take.
            () = pass_on(feed, &lines) => cut.cancel(),
        }
    });
    let mut response = Response::new(Body::Feed(body));
    let content_type = HeaderValue::from_static("application/jsonl");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Ends when the follower does not take lines.
async fn pass_on(mut feed: broadcast::Receiver<Arc<ConnectionView>>, lines: &mpsc::Sender<Bytes>) {
    loop {
        let line = match feed.recv().await {
            Ok(view) => serde_json::to_string(&*view).unwrap_or_default(),
            Err(broadcast::error::RecvError::Lagged(missed)) => format!("{{\"missed\":{missed}}}"),
            Err(broadcast::error::RecvError::Closed) => return,
        };
        let sending = lines.send(Bytes::from(line + "\n"));
        if !matches!(
            tokio::time::timeout(FOLLOWER_PATIENCE, sending).await,
            Ok(Ok(()))
        ) {
            return;
        }
    }
}

fn logging<B>(state: &State, request: &Request<B>) -> Response<Body> {
    let Some(logging) = &state.logging else {
        return plain(StatusCode::NOT_FOUND, "this agent has no log\n");
    };
    match *request.method() {
        Method::GET | Method::HEAD => {}
        Method::POST | Method::PUT => {
            let Some(level) = query(request, "level") else {
                return plain(StatusCode::BAD_REQUEST, "use POST /logging?level=debug\n");
            };
            if let Err(error) = logging.set_level(&level) {
                return plain(StatusCode::BAD_REQUEST, format!("{error}\n"));
            }
            tracing::info!(level = logging.level(), "log level changed");
        }
        _ => return not_allowed("GET, HEAD, POST"),
    }
    plain(StatusCode::OK, format!("{}\n", logging.level()))
}

/// The value of `key` in the query, `%xx` and `+` decoded. Bytes that are not UTF-8 are replaced.
fn query<B>(request: &Request<B>, key: &str) -> Option<String> {
    request.uri().query()?.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name == key).then(|| decode(value))
    })
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let decoded = match byte {
            b'%' => {
                let mut after = rest.clone();
                let high = after.next().and_then(hex);
                let low = after.next().and_then(hex);
                match (high, low) {
                    (Some(high), Some(low)) => {
                        rest = after;
                        high * 16 + low
                    }
                    _ => byte,
                }
            }
            b'+' => b' ',
            _ => byte,
        };
        bytes.push(decoded);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

fn json(value: &impl Serialize) -> Response<Body> {
    match serde_json::to_string_pretty(value) {
        Ok(text) => respond(StatusCode::OK, "application/json", text + "\n"),
        Err(error) => plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("cannot be shown as JSON: {error}\n"),
        ),
    }
}

fn plain(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    respond(status, "text/plain; charset=utf-8", text)
}

fn respond(
    status: StatusCode,
    content_type: &'static str,
    text: impl Into<String>,
) -> Response<Body> {
    let mut response = Response::new(Body::text(text));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
