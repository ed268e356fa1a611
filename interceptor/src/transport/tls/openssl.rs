//! OpenSSL at the other end of a fast session, as client and as server: an implementation that shares
//! nothing with ours. It sends tickets, changes its keys and asks for ours.

use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rstest::rstest;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::super::record::{Content, Control, HEADER, OVERHEAD};
use super::super::testing::{id, soon};
use super::Tls;
use super::handover::{Agreed, Fast};
use crate::identity::{Ca, Identities};

/// Which end OpenSSL is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

/// OpenSSL, talking on its standard input and output.
struct OpenSsl {
    _process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl OpenSsl {
    fn start(folder: &std::path::Path, arguments: &[&str]) -> Self {
        let mut process = Command::new("openssl")
            .args(arguments)
            .args(["-tls1_3", "-alpn", "interceptor-hbone/1"])
            .args(["-cert", "leaf.crt", "-key", "leaf.key", "-CAfile", "ca.crt"])
            .args(["-cert_chain", "leaf.crt"])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            input: process.stdin.take().unwrap(),
            output: BufReader::new(process.stdout.take().unwrap()),
            _process: process,
        }
    }

    async fn say(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.input.write_all(line.as_bytes()).await.unwrap();
        self.input.flush().await.unwrap();
    }

    /// Reads what it prints up to a line that contains `text`.
    async fn prints(&mut self, text: &str) -> String {
        let mut line = String::new();
        soon(async {
            while !line.contains(text) {
                line.clear();
                let count = self.output.read_line(&mut line).await.unwrap();
                assert_ne!(count, 0, "openssl ended before it printed {text:?}");
            }
        })
        .await;
        line
    }
}

/// Our end.
struct Ours {
    fast: Box<Fast<TcpStream>>,
    buffer: Vec<u8>,
}

impl Ours {
    async fn send(&mut self, control: &Control) {
        self.fast.socket.write_all(control.bytes()).await.unwrap();
    }

    async fn say(&mut self, text: &str) {
        if let Some(control) = self.fast.session.due().unwrap() {
            self.send(&control).await;
        }
        let mut slot = vec![0; text.len() + OVERHEAD];
        slot[HEADER..HEADER + text.len()].copy_from_slice(text.as_bytes());
        let length = self.fast.session.sealer.seal(&mut slot, text.len());
        assert_eq!(length, Ok(slot.len()));
        self.fast.socket.write_all(&slot).await.unwrap();
    }

    /// The next record.
    async fn hears(&mut self) -> Heard {
        let hears = async {
            loop {
                let record = self.fast.session.opener.open(&mut self.buffer, 0);
                if let Some(record) = record.unwrap() {
                    let heard = match record.content {
                        Content::Data(range) => Heard::Data(self.buffer[range].to_vec()),
                        Content::Closed => Heard::Goodbye,
                        Content::Nothing => Heard::Nothing,
                    };
                    self.buffer.drain(..record.end);
                    return heard;
                }
                let count = self.fast.socket.read_buf(&mut self.buffer).await.unwrap();
                assert_ne!(count, 0, "closed without a goodbye");
            }
        };
        soon(hears).await
    }
}

/// What was in a record.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Data(Vec<u8>),
    Nothing,
    Goodbye,
}

async fn connected(role: Role, folder: &std::path::Path) -> (OpenSsl, Ours) {
    let now = SystemTime::now();
    let ca = Ca::create(&folder.join("ca"), &"mesh.test".parse().unwrap(), now).unwrap();
    let svid = ca.issue_pem(&id("openssl"), Duration::from_hours(1), now);
    let svid = svid.unwrap();
    fs::write(folder.join("leaf.crt"), &svid.certificates).unwrap();
    fs::write(folder.join("leaf.key"), &*svid.key).unwrap();
    fs::write(folder.join("ca.crt"), ca.certificates_pem()).unwrap();
    let identities = Identities::new(Arc::new(ca), Duration::from_hours(1));
    let own = identities.ensure(&id("own")).await.unwrap();
    let tls = Tls::new(identities.verifier());
    let (openssl, secured) = match role {
        Role::Server => {
            let server = ["s_server", "-accept", "127.0.0.1:0", "-Verify", "2"];
            let mut openssl = OpenSsl::start(folder, &server);
            let line = openssl.prints("ACCEPT").await;
            let address: SocketAddr = line.trim_start_matches("ACCEPT").trim().parse().unwrap();
            let socket = TcpStream::connect(address).await.unwrap();
            let secured = soon(tls.connect_fast(&own, (&id("openssl"), super::FAST), socket)).await;
            (openssl, secured)
        }
        Role::Client => {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let openssl = OpenSsl::start(folder, &["s_client", "-connect", &address]);
            let (socket, _) = soon(listener.accept()).await.unwrap();
            (openssl, soon(tls.accept_fast(&own, socket)).await)
        }
    };
    let secured = secured.unwrap();
    assert_eq!(secured.peer, id("openssl"));
    let Agreed::Fast(fast) = secured.stream else {
        panic!("agreed on HTTP/2");
    };
    let buffer = fast.early.to_vec();
    (openssl, Ours { fast, buffer })
}

#[rstest]
#[tokio::test]
async fn openssl_understands_our_records_and_we_its(
    #[values(Role::Client, Role::Server)] role: Role,
) {
    if Command::new("openssl")
        .arg("version")
        .output()
        .await
        .is_err()
    {
        return; // rustls is the other end in the other tests.
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut openssl, mut ours) = connected(role, folder.path()).await;
    ours.say("hello openssl\n").await;
    openssl.prints("hello openssl").await;
    openssl.say("hello back").await;
    let mut heard = ours.hears().await;
    while heard == Heard::Nothing {
        heard = ours.hears().await; // Tickets come first.
    }
    assert_eq!(heard, Heard::Data(b"hello back\n".to_vec()));

    // It changes its keys and asks for ours. What it reads together with a command it forgets, so
    // the next line has to wait for the effect.
    openssl.say("K").await;
    assert_eq!(ours.hears().await, Heard::Nothing);
    openssl.say("with new keys").await;
    assert_eq!(ours.hears().await, Heard::Data(b"with new keys\n".to_vec()));
    ours.say("with new keys of ours\n").await;
    openssl.prints("with new keys of ours").await;
    // It changes its keys and asks for nothing.
    openssl.say("k").await;
    assert_eq!(ours.hears().await, Heard::Nothing);
    openssl.say("once more").await;
    assert_eq!(ours.hears().await, Heard::Data(b"once more\n".to_vec()));
    assert!(ours.fast.session.due().unwrap().is_none());
    // We change ours.
    let update = ours.fast.session.sealer.update().unwrap();
    ours.send(&update).await;
    ours.say("once more, too\n").await;
    openssl.prints("once more, too").await;

    let goodbye = ours.fast.session.sealer.close().unwrap();
    ours.send(&goodbye).await;
    assert_eq!(ours.hears().await, Heard::Goodbye);
}
