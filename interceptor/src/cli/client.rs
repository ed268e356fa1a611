//! Asking the running agent through its unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::failure::Failure;
use crate::drain::Tasks;

/// The agent answers from memory; if it does not within this, it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// A status of 10,000 workloads is about 5 MB.
const LARGEST_ANSWER: usize = 256 * 1024 * 1024;

/// The longest line of a stream.
const LARGEST_LINE: usize = 1024 * 1024;

/// Asks the agent at `socket` for the document at `path`.
pub(super) fn fetch<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, Failure> {
    runtime()?.block_on(async {
        let answer = tokio::time::timeout(PATIENCE, async {
            let response = request(socket, path).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST_ANSWER);
            let body = body
                .collect()
                .await
                .map_err(|error| broken(socket, &*error))?;
            Ok((status, body.to_bytes()))
        });
        let Ok(answer) = answer.await else {
            return Err(silent(socket));
        };
        let (status, body) = answer?;
        if !status.is_success() {
            let text = String::from_utf8_lossy(&body);
            return Err(Failure::new(format!(
                "the agent answered {status}: {}",
                text.trim()
            )));
        }
        serde_json::from_slice(&body).map_err(|error| foreign(&error))
    })
}

/// A text as it may stand in a query.
pub(super) fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte);
    let written = |byte: u8| match byte {
        byte if plain(byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(written).collect()
}

/// Follows the JSON lines at `path` until the agent ends or `each` fails.
pub(super) fn follow<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    mut each: impl FnMut(T) -> Result<(), Failure>,
) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let response = tokio::time::timeout(PATIENCE, request(socket, path))
            .await
            .map_err(|_elapsed| silent(socket))??;
        let mut body = response.into_body();
        let mut buffer = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| broken(socket, &error))?;
            if let Ok(data) = frame.into_data() {
                buffer.extend_from_slice(&data);
            }
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line = buffer.split_to(end + 1);
                each(serde_json::from_slice(&line).map_err(|error| foreign(&error))?)?;
            }
            if buffer.len() > LARGEST_LINE {
                return Err(Failure::new("the agent sent a line without an end"));
            }
        }
        Err(Failure::new("the agent has stopped"))
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::from_error(&error))
}

async fn request(socket: &Path, path: &str) -> Result<Response<Incoming>, Failure> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| unreachable(socket, &error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(socket, &error))?;
    Tasks::new().spawn("connection", async move {
        // Its error reaches whoever waits for the answer, too.
        drop(connection.await);
    });
    let request = Request::get(path)
        .header(hyper::header::HOST, "agent")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::from_error(&error))?;
    sender
        .send_request(request)
        .await
        .map_err(|error| broken(socket, &error))
}

fn broken(socket: &Path, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(format!(
        "the agent on {} stopped answering: {}",
        socket.display(),
        Failure::from_error(error)
    ))
}

fn silent(socket: &Path) -> Failure {
    Failure::new(format!(
        "the agent on {} accepts and does not answer within {PATIENCE:?}",
        socket.display()
    ))
    .try_next("its log says more: journalctl -u interceptor")
}

fn foreign(error: &serde_json::Error) -> Failure {
    Failure::new(format!("the agent's answer is not understood: {error}"))
        .try_next("agent and command are of different versions; use the agent's own binary")
}

fn unreachable(socket: &Path, error: &io::Error) -> Failure {
    let failure = Failure::new(format!("no agent answers on {}: {error}", socket.display()));
    if error.kind() == io::ErrorKind::PermissionDenied {
        return failure.try_next("only root and the agent's own user may ask: use sudo");
    }
    let others = sockets(&std::fs::read_to_string("/proc/net/unix").unwrap_or_default());
    if others.is_empty() {
        return failure.try_next(
            "no agent runs on this machine: start one with `interceptor run --config FILE`, or \
             see why it ended with `journalctl -u interceptor`",
        );
    }
    let others: Vec<_> = others
        .iter()
        .map(|path| format!("--socket {}", path.display()))
        .collect();
    failure.try_next(format!("agents on this machine: {}", others.join(", ")))
}

/// Sockets named `interceptor.sock` in the text of `/proc/net/unix`, without the name under which
/// they were made (see `admin::socket`).
fn sockets(table: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = table
        .lines()
        .filter_map(|line| line.split_whitespace().nth(7))
        .map(|path| path.strip_suffix(".new").unwrap_or(path))
        .filter(|path| path.ends_with("/interceptor.sock"))
        .map(PathBuf::from)
        .collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_agents_are_found_by_their_sockets() {
        let table = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 20 /run/b/interceptor.sock.new
0000000000000000: 00000003 00000000 00000000 0001 03 21 /run/b/interceptor.sock.new
0000000000000000: 00000002 00000000 00010000 0001 01 22 /run/a/interceptor.sock
0000000000000000: 00000002 00000000 00010000 0001 01 23 /run/other.sock
0000000000000000: 00000002 00000000 00010000 0001 01 24
";
        assert_eq!(
            sockets(table),
            [
                PathBuf::from("/run/a/interceptor.sock"),
                PathBuf::from("/run/b/interceptor.sock")
            ]
        );
    }

    /// Serves `answer` to one request on a unix socket.
    fn agent(socket: &Path, answer: &'static [u8]) -> std::thread::JoinHandle<()> {
        use std::io::{Read as _, Write as _};

        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 1024];
            assert!(stream.read(&mut head).unwrap() > 0);
            stream.write_all(answer).unwrap();
        })
    }

    fn answered<T>(answer: &'static [u8], ask: impl FnOnce(&Path) -> T) -> T {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let agent = agent(&socket, answer);
        let result = ask(&socket);
        agent.join().unwrap();
        result
    }

    #[test]
    fn a_document_is_fetched() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"a\":1}";
        let value: serde_json::Value = answered(answer, |socket| fetch(socket, "/x")).unwrap();
        assert_eq!(value["a"], 1);
    }

    #[test]
    fn an_answer_of_another_version_and_a_broken_one_say_so() {
        let other = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]";
        let failure = answered(other, |socket| {
            fetch::<crate::telemetry::Status>(socket, "/status")
        });
        assert!(
            failure
                .unwrap_err()
                .to_string()
                .contains("different versions")
        );
        let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{";
        let failure = answered(cut, |socket| fetch::<serde_json::Value>(socket, "/x"));
        assert!(
            failure
                .unwrap_err()
                .to_string()
                .contains("stopped answering")
        );
        let no = b"HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\n\r\nno\n";
        let failure = answered(no, |socket| fetch::<serde_json::Value>(socket, "/x"));
        assert_eq!(
            failure.unwrap_err().to_string(),
            "the agent answered 404 Not Found: no"
        );
    }

    #[test]
    fn a_stream_is_followed_line_by_line_until_the_agent_ends() {
        let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
            3\r\n1\n2\r\n3\r\n3\n4\r\n1\r\n\n\r\n0\r\n\r\n";
        let mut seen = Vec::new();
        let end = answered(answer, |socket| {
            follow(socket, "/x", |number: u32| {
                seen.push(number);
                Ok(())
            })
        });
        assert_eq!(seen, [1, 23, 4]);
        assert!(end.unwrap_err().to_string().contains("has stopped"));
    }

    #[test]
    fn no_agent_is_said_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("interceptor.sock");
        let failure = fetch::<serde_json::Value>(&socket, "/status").unwrap_err();
        let text = failure.to_string();
        assert!(text.starts_with(&format!("no agent answers on {}", socket.display())));
        assert!(text.contains("\n  "), "{text}");
    }
}
