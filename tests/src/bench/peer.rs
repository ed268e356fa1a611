//! Peers: what else carries TCP over mutual TLS between two nodes, as a pair of processes.
//!
//! ```text
//!  client's pod                                 server's pod
//!  127.0.0.1:P ─▶ client process ═════ TLS ════▶ P+5000 server process ─▶ 127.0.0.1:P
//! ```
//!
//! Both have a certificate of the mesh's CA, and as many worker threads as they have by default: one
//! for each core, as our agent.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::processes::group;
use crate::envoy::{self, Party, Place, Role, Tunnel};
use crate::manifests::identity;
use crate::netns::NetNs;
use crate::pod::Pod;
use crate::{settings, sweep, wait};

const SERVICE_ACCOUNTS: [&str; 2] = ["peer-client", "peer-server"];

/// Where Debian's package `libnginx-mod-stream` puts it.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Whether nginx can be a peer.
pub fn has_nginx_stream() -> bool {
    settings::is_installed("nginx") && Path::new(NGINX_STREAM).is_file()
}

/// What a peer is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Envoy, mutual TLS 1.3, identities checked.
    Envoy {
        /// What is within TLS.
        carriage: Carriage,
        /// How many worker threads, if not as many as it has by default.
        workers: Option<usize>,
    },
    /// haproxy with a connection over mutual TLS 1.3 for every one that it takes.
    Haproxy,
    /// nginx' `stream` module with a connection over mutual TLS 1.3 for every one that it takes. Its
    /// client accepts every server: it knows no identities but names.
    Nginx,
    /// A command for the shell, run once in each pod.
    ///
    /// Its environment: `ROLE` (`client` or `server`), `LISTEN` and `CONNECT` (address and port;
    /// the client listens for plain TCP and connects with TLS, the server the other way round),
    /// `CERTIFICATE`, `KEY`, `CA` (PEM files), `WORKERS`, and `FOLDER` for files of its own.
    Command(String),
}

/// What Envoy carries within TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carriage {
    /// HBONE: HTTP/2 CONNECT, many connections on one.
    Hbone,
    /// Nothing: a connection over TLS for each that it takes.
    Plain,
}

/// A pair of processes that carries connections to one port.
#[derive(Debug)]
pub(super) struct Pair {
    // Field order is drop order.
    client: Process,
    server: Process,
}

/// Where a pair runs and keeps its files.
#[derive(Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) client: &'a Pod,
    pub(super) server: &'a Pod,
    /// A folder of this peer alone.
    pub(super) folder: &'a Path,
    /// The folder of the mesh's CA.
    pub(super) ca: &'a Path,
}

/// One end of a pair.
struct End<'a> {
    role: &'static str,
    namespace: &'a NetNs,
    folder: PathBuf,
    ca: &'a Path,
    listen: SocketAddr,
    connect: SocketAddr,
}

/// Where a client's process listens, and a server's application does.
pub(super) fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Pair {
    /// Starts both and waits until they listen.
    pub(super) fn start(kind: &Kind, site: Site<'_>, port: u16) -> Result<Self> {
        let between = site.server.at(port + 5000);
        let end = |role, pod: &'static str, namespace, listen, connect| End {
            role,
            namespace,
            folder: site.folder.join(format!("{pod}-{port}")),
            ca: site.ca,
            listen,
            connect,
        };
        let [client, server] = [site.client.namespace(), site.server.namespace()];
        let server = end("server", "server", server, between, local(port)).start(kind)?;
        let client = end("client", "client", client, local(port), between).start(kind)?;
        Ok(Self { client, server })
    }

    /// The processes of the client's and of the server's end.
    pub(super) fn processes(&self) -> [Vec<u32>; 2] {
        [&self.client, &self.server].map(|it| group(it.0.id()))
    }
}

impl End<'_> {
    fn start(&self, kind: &Kind) -> Result<Process> {
        fs::create_dir_all(&self.folder)?;
        let command = match kind {
            Kind::Envoy { carriage, workers } => self.envoy(*carriage, *workers)?,
            Kind::Haproxy => self.haproxy()?,
            Kind::Nginx => self.nginx()?,
            Kind::Command(line) => self.shell(line)?,
        };
        Process::start(
            command,
            self.namespace,
            &self.folder.join("log"),
            self.listen,
        )
        .with_context(|| format!("the peer's {}", self.role))
    }

    fn is_client(&self) -> bool {
        self.role == "client"
    }

    /// This end's identity and the other's.
    fn identities(&self) -> [String; 2] {
        let [client, server] = SERVICE_ACCOUNTS.map(identity);
        if self.is_client() {
            [client, server]
        } else {
            [server, client]
        }
    }

    fn envoy(&self, carriage: Carriage, workers: Option<usize>) -> Result<Command> {
        let [identity, peer] = self.identities();
        let party = Party {
            identity: &identity,
            peer: &peer,
            protocol: match carriage {
                Carriage::Hbone => "h2",
                Carriage::Plain => "tcp",
            },
        };
        let place = Place {
            namespace: self.namespace,
            folder: &self.folder,
            ca: self.ca,
        };
        let (listen, connect) = (self.listen, self.connect);
        let (app, gateway) = (connect, connect);
        let role = match (carriage, self.is_client()) {
            (Carriage::Hbone, true) => Role::Client(Tunnel {
                gateway,
                authority: connect,
            }),
            (Carriage::Hbone, false) => Role::Server { app },
            (Carriage::Plain, true) => Role::TlsClient { gateway },
            (Carriage::Plain, false) => Role::TlsServer { app },
        };
        let mut config = envoy::config(place, party, listen, role)?;
        // By default no more than 1,024 requests to a cluster at a time.
        let most = json!(100_000);
        let limits = json!({ "thresholds": [{
            "max_connections": most, "max_pending_requests": most, "max_requests": most,
        }] });
        if let Some(Value::Object(cluster)) = config.pointer_mut("/static_resources/clusters/0") {
            cluster.insert("circuit_breakers".to_owned(), limits);
        }
        let file = self.folder.join("envoy.json");
        fs::write(&file, serde_json::to_vec_pretty(&config)?)?;
        let mut command = Command::new(settings::envoy_binary()?);
        command.arg("-c").arg(file);
        command.arg("--disable-hot-restart");
        if let Some(workers) = workers {
            command.args(["--concurrency", &workers.to_string()]);
        }
        Ok(command)
    }

    fn haproxy(&self) -> Result<Command> {
        let [certificate, key, ca] = self.credentials()?;
        let both = self.folder.join("both.pem");
        fs::write(
            &both,
            fs::read_to_string(certificate)? + &fs::read_to_string(key)?,
        )?;
        let tls = format!(
            "ssl crt {} ca-file {} verify required",
            both.display(),
            ca.display()
        );
        let (bind, server) = if self.is_client() {
            (String::new(), format!("{tls} force-tlsv13"))
        } else {
            (format!("{tls} ssl-min-ver TLSv1.3"), String::new())
        };
        let config = format!(
            "defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n\
             frontend plain\n  bind {} {bind}\n  default_backend other\n\
             backend other\n  server other {} {server}\n",
            self.listen, self.connect
        );
        let file = self.folder.join("haproxy.cfg");
        fs::write(&file, config)?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(file);
        Ok(command)
    }

    fn nginx(&self) -> Result<Command> {
        let [certificate, key, ca] = self.credentials()?;
        let (certificate, key) = (certificate.display(), key.display());
        let (listen, tls) = if self.is_client() {
            let tls = format!(
                "proxy_ssl on; proxy_ssl_protocols TLSv1.3; proxy_ssl_certificate {certificate}; \
                 proxy_ssl_certificate_key {key};"
            );
            ("", tls)
        } else {
            let tls = format!(
                "ssl_protocols TLSv1.3; ssl_certificate {certificate}; ssl_certificate_key {key}; \
                 ssl_client_certificate {}; ssl_verify_client on;",
                ca.display()
            );
            (" ssl", tls)
        };
        let place = self.folder.display();
        let config = format!(
            "load_module {NGINX_STREAM};\ndaemon off;\nuser root;\nworker_processes auto;\n\
             pid {place}/nginx.pid;\nerror_log {place}/error.log;\n\
             events {{ worker_connections 16384; }}\n\
             stream {{ server {{ listen {}{listen} backlog=4096; {tls} proxy_pass {}; }} }}\n",
            self.listen, self.connect
        );
        let file = self.folder.join("nginx.conf");
        fs::write(&file, config)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&self.folder).arg("-c").arg(file);
        Ok(command)
    }

    fn shell(&self, line: &str) -> Result<Command> {
        let [certificate, key, ca] = self.credentials()?;
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        command
            .env("ROLE", self.role)
            .env("LISTEN", self.listen.to_string())
            .env("CONNECT", self.connect.to_string())
            .env("WORKERS", cores().to_string())
            .env("FOLDER", &self.folder);
        command
            .env("CERTIFICATE", certificate)
            .env("KEY", key)
            .env("CA", ca);
        Ok(command)
    }

    /// Files of its certificate, its key, and the CA's certificate.
    fn credentials(&self) -> Result<[PathBuf; 3]> {
        let [identity, _] = self.identities();
        let (chain, key) = envoy::credentials(self.ca, &identity)?;
        let files = ["tls.crt", "tls.key"].map(|name| self.folder.join(name));
        for (file, text) in files.iter().zip([chain, key]) {
            fs::write(file, text)?;
        }
        let [certificate, key] = files;
        Ok([certificate, key, self.ca.join("ca.crt")])
    }
}

/// How many threads everybody has by default.
fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// A process with its children. They are killed when this value is dropped.
#[derive(Debug)]
pub(super) struct Process(Child);

impl Process {
    /// Starts it in a namespace and waits until it listens.
    pub(super) fn start(
        mut command: Command,
        namespace: &NetNs,
        log: &Path,
        listen: SocketAddr,
    ) -> Result<Self> {
        let output = File::create(log)?;
        command
            .env(sweep::PARENT, std::process::id().to_string())
            .stdin(Stdio::null())
            .stderr(output.try_clone()?)
            .stdout(output)
            .process_group(0);
        let child = namespace.run(move || command.spawn())?;
        let mut process = Self(child.context("start it")?);
        let said = || fs::read_to_string(log).unwrap_or_default();
        let listening = || {
            let limit = Duration::from_secs(1);
            let connect = namespace.run(|| TcpStream::connect_timeout(&listen, limit));
            connect.is_ok_and(|stream| stream.is_ok())
        };
        let ready = wait::until("it to listen", || match process.0.try_wait() {
            Ok(Some(status)) => Some(Err(status)),
            _ => listening().then_some(Ok(())),
        });
        match ready {
            Ok(Ok(())) => Ok(process),
            Ok(Err(status)) => bail!("it ended with {status}:\n{}", said()),
            Err(error) => Err(error.context(said())),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(id) = i32::try_from(self.0.id()) {
            // It may have ended by itself.
            killpg(Pid::from_raw(id), Signal::SIGKILL).unwrap_or_default();
        }
        drop(self.0.wait());
    }
}
