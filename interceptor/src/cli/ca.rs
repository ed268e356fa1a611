//! `interceptor ca`: the embedded certificate authority.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Subcommand;
use jiff::Timestamp;
use serde::Serialize;

use super::output::{Printer, Report, Style, Table, Tone, cell};
use super::{Exit, Failure, human};
use crate::identity::{Ca, DEFAULT_LIFETIME, SpiffeId, TrustDomain};

/// The embedded certificate authority: create it, show it, issue an identity by hand.
///
/// The agent creates its CA on first start. Nodes that shall trust each other share one CA: create
/// it once and copy its folder to each of them (`ca.key` is the secret of the whole mesh).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  interceptor ca init --dir ./ca --trust-domain example.org
  interceptor ca show --dir ./ca --trust-domain example.org
  interceptor ca issue spiffe://cluster.local/ns/demo/sa/tester --out ./tester
      then: openssl s_client -connect 10.2.0.2:15008 -alpn h2 \\
                -cert tester/svid.pem -key tester/svid.key -CAfile tester/ca.pem")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,

    /// Folder of the CA.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/var/lib/interceptor/ca"
    )]
    dir: PathBuf,

    /// The trust domain that it issues for.
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        default_value = "cluster.local"
    )]
    trust_domain: TrustDomain,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a CA where there is none.
    Init,
    /// Show an existing CA and its certificates as PEM.
    Show,
    /// Issue a certificate and key for tests and for programs outside of the mesh.
    Issue {
        /// The identity: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
        identity: SpiffeId,
        /// Folder for svid.pem, svid.key and ca.pem.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// How long it is valid; at most 24h.
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "1h")]
        lifetime: Duration,
    },
}

pub(super) fn run(args: Args, printer: &Printer) -> Result<Exit, Failure> {
    let now = SystemTime::now();
    let Args {
        command,
        dir,
        trust_domain,
    } = args;
    match command {
        Command::Init => {
            let ca = Ca::create(&dir, &trust_domain, now).map_err(|e| Failure::from_error(&e))?;
            printer.report(&Authority::of(&ca, &dir, "created"))
        }
        Command::Show => {
            let ca = open(&dir, &trust_domain, now)?;
            printer.report(&Authority::of(&ca, &dir, "valid"))
        }
        Command::Issue {
            identity,
            out,
            lifetime,
        } => {
            let ca = open(&dir, &trust_domain, now)?;
            let issued = issue(&ca, &identity, &out, lifetime, now)?;
            printer.report(&issued)
        }
    }
}

fn open(dir: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<Ca, Failure> {
    Ca::open(dir, trust_domain, now).map_err(|error| {
        Failure::from_error(&error).try_next(format!(
            "the folder is {}; choose another with --dir, or create a CA with `interceptor ca init`",
            dir.display()
        ))
    })
}

/// A CA, without its key.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Authority {
    trust_domain: String,
    directory: PathBuf,
    state: &'static str,
    serial: String,
    not_before: Option<Timestamp>,
    not_after: Option<Timestamp>,
    certificates: String,
}

impl Authority {
    fn of(ca: &Ca, dir: &Path, state: &'static str) -> Self {
        Self {
            trust_domain: ca.trust_domain().to_string(),
            directory: dir.to_path_buf(),
            state,
            serial: ca.serial.to_string(),
            not_before: Timestamp::try_from(ca.not_before).ok(),
            not_after: Timestamp::try_from(ca.not_after).ok(),
            certificates: ca.certificates_pem(),
        }
    }
}

impl Report for Authority {
    fn text(&self, style: Style) -> String {
        let first = format!("CA of trust domain {}: {}", self.trust_domain, self.state);
        let mut table = Table::headless();
        table.row([cell("folder"), cell(self.directory.display().to_string())]);
        table.row([cell("serial"), cell(&self.serial)]);
        if let Some(until) = self.not_after {
            let left = human::until(until, Timestamp::now());
            table.row([cell("expires in"), cell(format!("{left} ({until:.0})"))]);
        }
        format!(
            "{}\n\n{}\n{}",
            style.paint(Tone::Good, &first),
            table.text(style),
            self.certificates
        )
    }

    fn exit(&self) -> Exit {
        Exit::Yes
    }
}

/// What was written where.
#[derive(Debug, Serialize)]
struct Issued {
    identity: String,
    chain: PathBuf,
    key: PathBuf,
    authorities: PathBuf,
}

fn issue(
    ca: &Ca,
    identity: &SpiffeId,
    out: &Path,
    lifetime: Duration,
    now: SystemTime,
) -> Result<Issued, Failure> {
    let pem = ca
        .issue_pem(identity, lifetime, now)
        .map_err(|error| Failure::from_error(&error))?;
    let issued = Issued {
        identity: identity.to_string(),
        chain: out.join("svid.pem"),
        key: out.join("svid.key"),
        authorities: out.join("ca.pem"),
    };
    let cannot = |path: &Path, error: &std::io::Error| {
        Failure::new(format!("cannot write {}: {error}", path.display()))
            .try_next("choose an empty folder that you may write to with --out")
    };
    std::fs::create_dir_all(out).map_err(|error| cannot(out, &error))?;
    for (path, content, mode) in [
        (&issued.key, pem.key.as_str(), 0o600),
        (&issued.chain, pem.certificates.as_str(), 0o644),
        (&issued.authorities, &ca.certificates_pem(), 0o644),
    ] {
        write_new(path, content, mode).map_err(|error| cannot(path, &error))?;
    }
    Ok(issued)
}

/// Writes a file that must not exist, so that no key is ever replaced or given wider permissions.
fn write_new(path: &Path, content: &str, mode: u32) -> std::io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?
        .write_all(content.as_bytes())
}

impl Report for Issued {
    fn text(&self, style: Style) -> String {
        let mut table = Table::headless();
        table.row([cell("chain"), cell(self.chain.display().to_string())]);
        table.row([cell("key"), cell(self.key.display().to_string())]);
        table.row([
            cell("authorities"),
            cell(self.authorities.display().to_string()),
        ]);
        format!("issued {}\n\n{}", self.identity, table.text(style))
    }

    fn exit(&self) -> Exit {
        Exit::Yes
    }
}

const _: () = assert!(
    DEFAULT_LIFETIME.as_secs() == 3600,
    "the help text says 1h, like the agent's default"
);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_identity_is_issued_once_and_its_key_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let domain: TrustDomain = "cluster.local".parse().unwrap();
        let now = SystemTime::now();
        let ca = Ca::create(&folder.path().join("ca"), &domain, now).unwrap();
        let id: SpiffeId = "spiffe://cluster.local/ns/demo/sa/t".parse().unwrap();
        let out = folder.path().join("out");
        let issued = issue(&ca, &id, &out, DEFAULT_LIFETIME, now).unwrap();
        let mode = std::fs::metadata(&issued.key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(
            std::fs::read_to_string(&issued.chain)
                .unwrap()
                .starts_with("-----BEGIN CERT")
        );
        let again = issue(&ca, &id, &out, DEFAULT_LIFETIME, now).unwrap_err();
        assert!(again.to_string().contains("svid.key"), "{again}");
    }

    #[test]
    fn a_folder_without_a_ca_says_how_to_make_one() {
        let folder = tempfile::tempdir().unwrap();
        let domain: TrustDomain = "cluster.local".parse().unwrap();
        let failure = open(folder.path(), &domain, SystemTime::now())
            .err()
            .unwrap();
        assert!(failure.to_string().contains("interceptor ca init"));
    }
}
