//! What the machine is: privileges, file systems, ports, limits.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};

use super::{Check, Health};
use crate::capture::Prober;

/// Capabilities that the agent needs, by their number in `capabilities(7)`. What each is for is
/// said in `deploy/kubernetes`, which gives no others. `CAP_SYS_ADMIN` includes what `CAP_BPF` and
/// `CAP_PERFMON` would add.
const CAPABILITIES: [(u8, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];

/// Below this many file descriptors a busy node runs out: each connection takes two or three.
const FILES: u64 = 65_536;

pub(super) fn checks() -> Vec<Check> {
    let mut checks = essentials();
    checks.push(bpffs(&mounts()));
    checks.push(prober(&mounts(), Path::new("/var/lib/kubelet")));
    checks.push(ipv6());
    checks.extend(ports());
    checks.push(files());
    checks
}

/// What must be there before anything else can be tried.
pub(super) fn essentials() -> Vec<Check> {
    vec![privileges(), kernel(), btf(), cgroup2(&mounts())]
}

pub(super) fn privileges() -> Check {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    privileges_of(&status)
}

fn privileges_of(status: &str) -> Check {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let lacking: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(number, _)| effective >> number & 1 == 0)
        .map(|(_, name)| *name)
        .collect();
    let check = Check::ok(
        "privileges",
        "all capabilities that are needed",
        "loading programs, entering network namespaces",
    );
    if lacking.is_empty() {
        return check;
    }
    check.but(
        Health::Missing,
        format!("without {}", lacking.join(", ")),
        "run as root: sudo, or the capabilities in deploy/kubernetes",
    )
}

fn kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let check = Check::ok("kernel", release, "the hooks below");
    match version(release) {
        // bpf_get_netns_cookie in sock_ops programs.
        Some(version) if version < (5, 15) => check.but(
            Health::Missing,
            format!("{release}, older than 5.15"),
            "use Linux 5.15 or newer: Debian 12, Ubuntu 22.04, RHEL 9",
        ),
        Some(_) => check,
        None => check.but(
            Health::Unknown,
            "a release that is not a number",
            "the hooks below tell more",
        ),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-', '+']);
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    Some((major, minor))
}

fn btf() -> Check {
    let path = "/sys/kernel/btf/vmlinux";
    let check = Check::ok("BTF", path, "loading programs whatever the kernel's layout");
    if Path::new(path).exists() {
        return check;
    }
    check.but(
        Health::Missing,
        format!("no {path}"),
        "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as distributions' are; in a container, \
         mount /sys",
    )
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()
}

/// Where a file system of this type is mounted first.
fn mount_of<'a>(mounts: &'a str, file_system: &str) -> Option<&'a str> {
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let found = kind.split(' ').next() == Some(file_system);
        found.then(|| place.split(' ').nth(4))?
    })
}

fn cgroup2(mounts: &str) -> Check {
    let purpose = "seeing connections as they are made";
    match mount_of(mounts, "cgroup2") {
        Some(path) => Check::ok("cgroup2", path, purpose),
        None => Check::ok("cgroup2", "", purpose).but(
            Health::Missing,
            "not mounted",
            "mount it: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none \
             /sys/fs/cgroup/unified",
        ),
    }
}

fn bpffs(mounts: &str) -> Check {
    let purpose = "programs that stay when the agent dies";
    match mount_of(mounts, "bpf") {
        Some(path) => Check::ok("bpffs", path, purpose),
        None => Check::ok("bpffs", "", purpose).but(
            Health::Degraded,
            "not mounted; the agent mounts it",
            "mount it at boot: mount -t bpf bpf /sys/fs/bpf",
        ),
    }
}

/// Whether kubelet's probes can be told from other connections of the node.
fn prober(mounts: &str, kubelet: &Path) -> Check {
    let check = Check::ok("kubelet's cgroup", "", "probes under STRICT");
    let mount = mount_of(mounts, "cgroup2").unwrap_or("/sys/fs/cgroup");
    let found = Prober::Discover.existing(Path::new(mount));
    let found: Vec<_> = found
        .iter()
        .map(|it| format!("/{}", it.display()))
        .collect();
    if !found.is_empty() {
        return Check {
            found: found.join(", "),
            ..check
        };
    }
    if !kubelet.exists() {
        return Check {
            found: "no kubelet here".to_owned(),
            ..check
        };
    }
    check.but(
        Health::Degraded,
        "kubelet is in none of the usual places",
        "name it in the configuration file: capture.prober, as in /proc/$(pidof kubelet)/cgroup",
    )
}

fn ipv6() -> Check {
    let check = Check::ok("IPv6", "available", "workloads with IPv6 addresses");
    match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(_listener) => check,
        Err(error) => check.but(
            Health::Degraded,
            error.to_string(),
            "only IPv4 is captured; nothing to do where there is no IPv6",
        ),
    }
}

fn ports() -> Vec<Check> {
    let config = crate::admin::Config::default();
    let answers = std::os::unix::net::UnixStream::connect(&config.socket).is_ok();
    [
        ("administration", config.admin),
        ("metrics", config.metrics),
        ("readiness", config.readiness),
    ]
    .map(|(purpose, address)| port(purpose, address, answers))
    .into()
}

fn port(purpose: &'static str, address: SocketAddr, agent_runs: bool) -> Check {
    let check = Check::ok(format!("port {}", address.port()), "free", purpose);
    match TcpListener::bind(address) {
        Ok(_listener) => check,
        Err(_) if agent_runs => Check {
            found: "taken by the running agent".to_owned(),
            ..check
        },
        Err(error) if error.kind() == ErrorKind::AddrInUse => check.but(
            Health::Degraded,
            "taken",
            format!(
                "see by whom: ss -ltnp 'sport = :{}'; or choose another port in the \
                 configuration file",
                address.port()
            ),
        ),
        Err(error) => check.but(
            Health::Unknown,
            error.to_string(),
            "choose another address in the configuration file",
        ),
    }
}

fn files() -> Check {
    let check = Check::ok("open files", "", "two or three for each connection");
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_soft, hard)) if hard >= FILES => Check {
            found: format!("limit {hard}"),
            ..check
        },
        Ok((_soft, hard)) => check.but(
            Health::Degraded,
            format!("limit {hard}"),
            format!("raise it: LimitNOFILE={FILES} in the unit, or ulimit -Hn {FILES}"),
        ),
        Err(error) => check.but(Health::Unknown, error.to_string(), "see ulimit -Hn"),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("6.18.0-rc1", Some((6, 18)))]
    #[case("5.14.0-427.el9.x86_64", Some((5, 14)))]
    #[case("6.8-custom", Some((6, 8)))]
    #[case("next", None)]
    fn releases_are_read(#[case] release: &str, #[case] expected: Option<(u32, u32)>) {
        assert_eq!(version(release), expected);
    }

    #[test]
    fn a_capability_that_is_lacking_is_named() {
        let all = "CapEff:\t000001ffffffffff\n";
        assert_eq!(privileges_of(all).state, Health::Ok);
        let least = "CapEff:\t0000000000201000\n";
        assert_eq!(privileges_of(least).state, Health::Ok);
        let bpf_alone = "CapEff:\t000000c000001000\n";
        assert_eq!(privileges_of(bpf_alone).found, "without CAP_SYS_ADMIN");
        assert_eq!(privileges_of("").state, Health::Missing);
    }

    #[test]
    fn a_kubelet_that_is_in_an_unusual_cgroup_is_told() {
        let mount = tempfile::tempdir().unwrap();
        let mounts = format!(
            "35 24 0:30 / {} rw - cgroup2 none rw\n",
            mount.path().display()
        );
        let (kubelet, nobody) = (mount.path(), mount.path().join("nobody"));
        assert_eq!(prober(&mounts, kubelet).state, Health::Degraded);
        assert_eq!(prober(&mounts, &nobody).state, Health::Ok);
        let usual = "system.slice/kubelet.service";
        fs::create_dir_all(mount.path().join(usual)).unwrap();
        assert_eq!(prober(&mounts, kubelet).found, format!("/{usual}"));
    }

    #[test]
    fn mounts_are_found_by_type_and_not_by_path() {
        let mounts = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
41 31 0:31 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw
";
        assert_eq!(cgroup2(mounts).found, "/sys/fs/cgroup/unified");
        assert_eq!(bpffs(mounts).state, Health::Degraded);
        assert_eq!(cgroup2("").state, Health::Missing);
    }
}
