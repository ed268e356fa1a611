//! Loads the kernel programs, attaches them once at the cgroup root, and pins everything, or takes
//! over what an earlier agent of this node pinned.
//!
//! Links are pinned, so the programs stay when the agent goes: what was captured is then refused.
//! An agent that starts again finds the maps by their pins and swaps each program in place
//! (`BPF_LINK_UPDATE`); no connection sees neither the old nor the new one.
//!
//! What is pinned the agent also holds open ([`Held`]): pins that are taken away take nothing with
//! them while it runs.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use aya::maps::MapData;
use aya::programs::{Program, ProgramError, ProgramType};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader};
use interceptor_common::{Udp, WorkloadEntry};

use super::btf::{Offsets, TaskOffsets};
use super::cgroup::Hierarchy;
use super::config::{Config, Pins, layout_name};
use super::error::CaptureError;
use super::folder::create;
use super::held::Held;
use super::links::Hooks;
use super::lock::NodeLock;
use super::maps::Maps;
use super::object::OBJECT;
use super::shapes::SHAPES;
use crate::net::bpf::Target;

/// The programs that are attached to the cgroup root.
pub(super) const CGROUP_PROGRAMS: [&str; 10] = [
    // The flows first: nothing is redirected before it can be published and handed over.
    "ic_sock_ops",
    "ic_getsockname4",
    "ic_getsockname6",
    "ic_getpeername4",
    "ic_getpeername6",
    "ic_connect4",
    "ic_connect6",
    "ic_sock_create",
    "ic_sendmsg4",
    "ic_sendmsg6",
];

/// The programs for the namespaces of workloads, by what becomes of their datagrams.
pub(super) const NAMESPACE_PROGRAMS: [(u32, &str); 5] = [
    (0, "ic_sk_lookup"),
    (Udp::OBSERVED, "ic_udp_observe"),
    (Udp::QUIC, "ic_udp_no_quic"),
    (Udp::ALL_BUT_DNS, "ic_udp_dns_only"),
    (Udp::ALL, "ic_udp_deny"),
];

/// The program for the namespace of a workload.
pub(super) fn namespace_program(workload: Option<&WorkloadEntry>) -> &'static str {
    let udp = workload.map_or(0, |it| it.udp);
    let mut programs = NAMESPACE_PROGRAMS.iter();
    let found = programs.find(|(rule, _)| *rule == udp);
    // Not knowing is a denial.
    found.map_or("ic_udp_deny", |(_, name)| name)
}

/// The program for the host's namespace.
pub(super) const HOST_PROGRAM: &str = "ic_host_lookup";

/// The program for the host's side of workloads' interfaces.
pub(super) const GUARD_PROGRAM: &str = "ic_guard";

/// How often a load that was interrupted is tried.
const LOAD_ATTEMPTS: u32 = 10;

/// Any error of the layers below.
pub(super) type Source = Box<dyn std::error::Error + Send + Sync>;

/// The programs and maps of a node, loaded, attached and pinned.
pub(super) struct Loaded {
    /// The programs, and what attaches them.
    pub(super) hooks: Hooks,
    /// The maps.
    pub(super) maps: Maps,
    /// Where they are pinned.
    pub(super) pins: Pins,
    /// Where they are attached.
    pub(super) hierarchy: Hierarchy,
    /// Keeps a second agent of the node away.
    pub(super) lock: NodeLock,
}

impl Loaded {
    /// Loads and attaches, or adopts, for the node that `lock` is of.
    pub(super) fn new(config: &Config, lock: NodeLock) -> Result<Self, CaptureError> {
        let hierarchy = Hierarchy::find(config.cgroup_root.as_deref())?;
        let node_folder = lock.folder().to_path_buf();
        refuse_other_layouts(&node_folder)?;

        let pins = Pins::new(node_folder.join(layout_name()));
        let adopting = pins.folder().exists();
        if adopting {
            refuse_other_shapes(&pins, &node_folder)?;
        }
        create(&pins.maps())?;
        create(&pins.links())?;
        let loaded = load(config, &pins).and_then(|mut object| {
            let maps = Maps::take(&mut object).map_err(|source| refused("the maps", source))?;
            let mut hooks = Hooks {
                object,
                held: hold(&pins)?,
            };
            attach_all(&mut hooks, &hierarchy, &pins)?;
            Ok((hooks, maps))
        });
        match loaded {
            Ok((hooks, maps)) => Ok(Self {
                hooks,
                maps,
                pins,
                hierarchy,
                lock,
            }),
            // What did not exist before must not half exist afterwards.
            Err(error) if !adopting => {
                if let Err(error) = fs::remove_dir_all(pins.folder()) {
                    tracing::warn!(%error, folder = %pins.folder().display(), "cannot clean up");
                }
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Puts our programs behind the links again, whatever somebody else has put there.
    pub(super) fn attach_again(&mut self) -> Result<(), CaptureError> {
        attach_all(&mut self.hooks, &self.hierarchy, &self.pins)
    }
}

/// Holds every map, and every link that an earlier agent has left.
fn hold(pins: &Pins) -> Result<Held, CaptureError> {
    let mut held = Held::default();
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| CaptureError::Io {
            doing: "hold",
            path,
            source,
        }
    };
    for shape in SHAPES {
        let pin = pins.map(shape.name);
        held.map(&pin).map_err(io(&pin))?;
    }
    let links = fs::read_dir(pins.links()).map_err(io(&pins.links()))?;
    for link in links.flatten() {
        held.link(&link.path()).map_err(io(&link.path()))?;
    }
    Ok(held)
}

/// Loads the object into the kernel: maps by their pins, settings as constants.
fn load(config: &Config, pins: &Pins) -> Result<Ebpf, CaptureError> {
    let choose_errno = u8::from(chooses_errno());
    // Of the same version is compare-and-exchange on 64-bit ARM, the last machine that got it.
    let exchange = choose_errno;
    let log_level: u8 = if config.debug_log { u8::MAX } else { 0 };
    let mut offsets = Offsets::of_this_kernel();
    if !tells_task() {
        offsets.task = TaskOffsets::default();
    }
    let (task, cgroup) = (&offsets.task, &offsets.cgroup);
    let tell_interface = u8::from(offsets.lookups_know_interface);
    let mut loader = EbpfLoader::new();
    loader
        .override_global("HBONE_PORT", &config.ports.hbone, true)
        .override_global("CHOOSE_ERRNO", &choose_errno, true)
        .override_global("EXCHANGE", &exchange, true)
        .override_global("TELL_INTERFACE", &tell_interface, true)
        .override_global("SOCKET_ERROR", &offsets.error, true)
        .override_global("SOCKET_FLAGS", &offsets.flags, true)
        .override_global("WRITE_SEQUENCE", &offsets.write_sequence, true)
        .override_global("DEFERRAL_AT", &offsets.deferral.0, true)
        .override_global("DEFERRAL_BIT", &offsets.deferral.1, true)
        .override_global("CALLBACKS_AT", &offsets.callbacks, true)
        .override_global("TASK_PROXY", &task.proxy, true)
        .override_global("TASK_NAMESPACE", &task.namespace, true)
        .override_global("TASK_COOKIE", &task.cookie, true)
        .override_global("CGROUP_OF_SOCKET", &cgroup.of_socket, true)
        .override_global("CGROUP_LEVEL", &cgroup.level, true)
        .override_global("CGROUP_NODE", &cgroup.node, true)
        .override_global("CGROUP_ID", &cgroup.id, true)
        .override_global("CGROUP_PARENT", &cgroup.parent, true)
        .override_global("CGROUP_OF_PARENT", &cgroup.of_parent, true)
        .override_global(aya_log::LEVEL, &log_level, false);
    for shape in SHAPES {
        loader.map_pin_path(shape.name, pins.map(shape.name));
        if let Some(capacity) = shape.capacity {
            loader.map_max_entries(shape.name, capacity(&config.sizes));
        }
    }
    let mut object = loader
        .load(OBJECT)
        .map_err(|source| refused("the maps", source))?;
    for (name, program) in object.programs_mut() {
        load_program(program).map_err(|source| refused(name, source))?;
    }
    Ok(object)
}

/// Whether programs may choose the errno of a refused call: Linux 5.18 and later.
fn chooses_errno() -> bool {
    let helper = BpfHelper::BPF_FUNC_set_retval;
    is_helper_supported(ProgramType::CgroupSockAddr, helper).unwrap_or(false)
}

/// Whether programs may look at the calling task: Linux 5.11 and later.
fn tells_task() -> bool {
    let helper = BpfHelper::BPF_FUNC_get_current_task_btf;
    is_helper_supported(ProgramType::CgroupSockAddr, helper).unwrap_or(false)
}

/// Has the verifier look at one program. It gives up when a signal arrives for the thread, which
/// says nothing about the program.
fn load_program(program: &mut Program) -> Result<(), ProgramError> {
    for _ in 1..LOAD_ATTEMPTS {
        match load_once(program) {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == io::ErrorKind::WouldBlock => {}
            loaded => return loaded,
        }
    }
    load_once(program)
}

/// Loads one program of the types that we have.
fn load_once(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Attaches every program of the cgroup root, or puts it in the place of its predecessor.
fn attach_all(hooks: &mut Hooks, hierarchy: &Hierarchy, pins: &Pins) -> Result<(), CaptureError> {
    let attach_error = |program, source| CaptureError::Attach {
        program,
        to: hierarchy.root.clone(),
        source,
    };
    let open = || Ok((File::open(&hierarchy.root)?, hierarchy.root_id()?));
    let (cgroup, id) = open().map_err(|error: io::Error| attach_error("anything", error.into()))?;
    for name in CGROUP_PROGRAMS {
        hooks
            .attach_to_cgroup(name, &cgroup, &pins.link(name), Target::Cgroup(id))
            .map_err(|source| attach_error(name, source))?;
    }
    Ok(())
}

/// Refuses a node whose folder holds another layout than ours.
fn refuse_other_layouts(node_folder: &Path) -> Result<(), CaptureError> {
    let entries = fs::read_dir(node_folder).map_err(|source| CaptureError::Io {
        doing: "read",
        path: node_folder.to_path_buf(),
        source,
    })?;
    let ours = layout_name();
    for entry in entries.flatten() {
        let found = entry.file_name().to_string_lossy().into_owned();
        if found != ours {
            return Err(other_layout(node_folder, found));
        }
    }
    Ok(())
}

/// Refuses pinned maps that are not what this agent would create.
fn refuse_other_shapes(pins: &Pins, node_folder: &Path) -> Result<(), CaptureError> {
    for shape in SHAPES {
        let pin = pins.map(shape.name);
        if !pin.exists() {
            continue;
        }
        let found = MapData::from_pin(&pin)
            .and_then(|map| map.info())
            .map_err(|source| refused(shape.name, source))?;
        let same = found.map_type().is_ok_and(|kind| kind == shape.kind)
            && usize::try_from(found.key_size()) == Ok(shape.key_bytes)
            && usize::try_from(found.value_size()) == Ok(shape.value_bytes);
        if !same {
            let found = format!("another shape of {}", shape.name);
            return Err(other_layout(node_folder, found));
        }
    }
    Ok(())
}

/// The error for something that another version left.
fn other_layout(node_folder: &Path, found: String) -> CaptureError {
    CaptureError::Layout {
        folder: node_folder.to_path_buf(),
        found,
        ours: layout_name(),
    }
}

/// The error for something that the kernel did not take.
fn refused(what: &str, source: impl Into<Source>) -> CaptureError {
    CaptureError::Load {
        what: what.to_owned(),
        source: source.into(),
    }
}
