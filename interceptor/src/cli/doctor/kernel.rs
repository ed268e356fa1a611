//! What the kernel can do: helpers, maps, and the agent's own programs, tried one by one.

use std::collections::BTreeMap;
use std::error::Error;

use aya::maps::MapType;
use aya::programs::tc::{SchedClassifier, TcAttachType};
use aya::programs::{Program, ProgramType};
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported};
use aya::{Ebpf, EbpfLoader};
use nix::errno::Errno;

use super::{Check, Health, OURS, diag};
use crate::capture::OBJECT;

pub(super) fn checks() -> Vec<Check> {
    if !may_load() {
        let unknown = Check::ok("programs", "", "capturing connections").but(
            Health::Unknown,
            "not tried",
            "run as root: sudo interceptor doctor",
        );
        return vec![unknown];
    }
    let mut checks: Vec<_> = HELPERS.iter().map(helper).collect();
    checks.extend(MAPS.iter().map(map));
    checks.extend(programs());
    checks.push(destroy());
    checks.push(tcx());
    checks
}

/// Loading even the smallest program needs privileges; without them every trial would look like
/// a missing feature.
fn may_load() -> bool {
    matches!(
        aya::sys::is_program_supported(ProgramType::SocketFilter),
        Ok(true)
    )
}

/// A helper function and what it is for.
struct Helper {
    name: &'static str,
    program: ProgramType,
    function: BpfHelper,
    purpose: &'static str,
    since: &'static str,
    /// What its absence means.
    absent: Health,
}

const HELPERS: [Helper; 6] = [
    Helper {
        name: "namespace cookie in connect hooks",
        program: ProgramType::CgroupSockAddr,
        function: BpfHelper::BPF_FUNC_get_netns_cookie,
        purpose: "knowing which workload connects",
        since: "5.7",
        absent: Health::Missing,
    },
    Helper {
        name: "namespace cookie in sock_ops",
        program: ProgramType::SockOps,
        function: BpfHelper::BPF_FUNC_get_netns_cookie,
        purpose: "knowing whose connection is established",
        since: "5.15",
        absent: Health::Missing,
    },
    Helper {
        name: "socket storage in connect hooks",
        program: ProgramType::CgroupSockAddr,
        function: BpfHelper::BPF_FUNC_sk_storage_get,
        purpose: "remembering the original destination",
        since: "5.9",
        absent: Health::Missing,
    },
    Helper {
        name: "socket storage in sock_ops",
        program: ProgramType::SockOps,
        function: BpfHelper::BPF_FUNC_sk_storage_get,
        purpose: "handing the original destination over",
        since: "5.9",
        absent: Health::Missing,
    },
    Helper {
        name: "assignment in sk_lookup",
        program: ProgramType::SkLookup,
        function: BpfHelper::BPF_FUNC_sk_assign,
        purpose: "steering connections to the agent's listeners",
        since: "5.9",
        absent: Health::Missing,
    },
    Helper {
        name: "choice of errno in connect hooks",
        program: ProgramType::CgroupSockAddr,
        function: BpfHelper::BPF_FUNC_set_retval,
        purpose: "ECONNREFUSED instead of EPERM for a refusal",
        since: "5.18",
        absent: Health::Degraded,
    },
];

fn helper(wanted: &Helper) -> Check {
    let check = Check::ok(wanted.name, "available", wanted.purpose);
    match is_helper_supported(wanted.program, wanted.function) {
        Ok(true) => check,
        Ok(false) => check.but(
            wanted.absent,
            "not in this kernel",
            format!("Linux {} has it", wanted.since),
        ),
        Err(error) => check.but(Health::Unknown, causes(&error), "see the message"),
    }
}

const MAPS: [(MapType, &str, &str); 4] = [
    (
        MapType::SkStorage,
        "socket storage",
        "remembering the original destination",
    ),
    (
        MapType::LpmTrie,
        "prefix trie",
        "capture rules by address range",
    ),
    (MapType::LruHash, "LRU hash", "connections being made"),
    (MapType::SockHash, "socket hash", "the agent's listeners"),
];

fn map((kind, name, purpose): &(MapType, &str, &'static str)) -> Check {
    let check = Check::ok(format!("map: {name}"), "available", purpose);
    match is_map_supported(*kind) {
        Ok(true) => check,
        Ok(false) => check.but(
            Health::Missing,
            "not in this kernel",
            "use Linux 5.15 or newer with CONFIG_BPF_SYSCALL and CONFIG_INET",
        ),
        Err(error) => check.but(Health::Unknown, causes(&error), "see the message"),
    }
}

/// Loads the agent's own programs, with maps as small as they can be, and drops them.
fn programs() -> Vec<Check> {
    let mut ebpf = match load() {
        Ok(ebpf) => ebpf,
        Err(error) => {
            let check = Check::ok("programs", "", "capturing connections");
            return vec![check.but(
                Health::Missing,
                error,
                "the kernel refuses the maps; the rows above say which",
            )];
        }
    };
    let sorted: BTreeMap<_, _> = ebpf
        .programs_mut()
        .map(|(name, program)| (name.to_owned(), program))
        .collect();
    sorted
        .into_iter()
        .map(|(name, program)| {
            // The names in the object begin with `ic_`, as `bpftool prog` shows them.
            let hook = name.strip_prefix(OURS).unwrap_or(&name);
            let check = Check::ok(format!("hook: {hook}"), "our program loads", purpose(hook));
            match try_load(program) {
                Ok(()) => check,
                Err(error) => check.but(
                    Health::Missing,
                    error,
                    "the kernel refuses it; the rows above say what it lacks",
                ),
            }
        })
        .collect()
}

/// What the program on a hook does.
fn purpose(hook: &str) -> &'static str {
    if hook.starts_with("connect") {
        "redirecting connections of workloads to the agent"
    } else if hook.starts_with("getpeername") {
        "showing applications the true peer"
    } else if hook.starts_with("getsockname") {
        "telling the agent the original destination"
    } else if hook == "guard" {
        "stopping hand-made packets at a workload's interface"
    } else if hook.starts_with("sendmsg") {
        "refusing or counting UDP of workloads"
    } else if hook == "sock_create" {
        "refusing raw sockets in workloads"
    } else if hook.starts_with("sock_ops") {
        "following connections from SYN to close"
    } else if hook.ends_with("lookup") {
        "steering connections to the agent's listeners"
    } else {
        "capturing connections"
    }
}

fn load() -> Result<Ebpf, String> {
    let mut loader = EbpfLoader::new();
    // Only the shape matters; the sizes in force are the configuration's.
    for map in ["FLOWS", "RULES", "INBOUND_PORTS", "LISTENERS"] {
        loader.map_max_entries(map, 64);
    }
    loader.load(OBJECT).map_err(|error| causes(&error))
}

fn try_load(program: &mut Program) -> Result<(), String> {
    let loaded = match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        _ => return Err("a kind of program that this check does not know".to_owned()),
    };
    loaded.map_err(|error| first_line(&causes(&error)))
}

/// The verifier's log is long; its first line and the error are enough for a table.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// Asks the kernel to destroy a connection that does not exist: "no such connection" means that
/// it could.
fn destroy() -> Check {
    let check = Check::ok(
        "destroying sockets",
        "available",
        "cutting same-node connections when their policy changes",
    );
    match diag::destroy_nothing() {
        Ok(Errno::ENOENT) => check,
        Ok(errno) => check.but(
            Health::Degraded,
            format!("{errno}"),
            "a kernel with CONFIG_INET_DIAG_DESTROY=y; only same-node connections that the kernel \
             carries need it",
        ),
        Err(error) => check.but(
            Health::Unknown,
            error.to_string(),
            "load the module: modprobe tcp_diag",
        ),
    }
}

fn tcx() -> Check {
    let check = Check::ok("tcx", "available", "the backstop on a workload's interface");
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_programs) => check,
        Err(error) => check.but(
            Health::Degraded,
            first_line(&causes(&error)),
            "Linux 6.6 has it; without it raw sockets are not stopped at the interface",
        ),
    }
}

fn causes(error: &(dyn Error + 'static)) -> String {
    super::Failure::from_error(error).to_string()
}
