//! Links: what attaches a program to a cgroup or a network namespace, pinned so that it outlives
//! the agent.
//!
//! The agent keeps no link open, so a link lives exactly as long as its pin. A program that takes
//! the place of another does so behind the same link.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use aya::Ebpf;
use aya::programs::links::{CgroupAttachMode, FdLink, LinkOrder};
use aya::programs::tc::{TcAttachOptions, TcAttachType};
use aya::programs::{Program, ProgramError};

use super::loader::Source;
use crate::net::Namespace;
use crate::net::bpf::{self, Target};

/// Attaches one program to `cgroup` and pins the link at `pin`.
pub(super) fn attach_to_cgroup(
    object: &mut Ebpf,
    name: &str,
    cgroup: &File,
    pin: &Path,
    target: Target,
) -> Result<(), Source> {
    let program = object.program_mut(name).ok_or("no such program")?;
    if replace(program, pin, target)? {
        return Ok(());
    }
    // aya hands the mode to bpf_link_create as flags, which must be zero; links of cgroups are
    // always for several programs.
    let mode = CgroupAttachMode::Single;
    let link: FdLink = match program {
        Program::CgroupSockAddr(program) => {
            let id = program.attach(cgroup, mode)?;
            program.take_link(id)?.try_into()?
        }
        Program::CgroupSock(program) => {
            let id = program.attach(cgroup, mode)?;
            program.take_link(id)?.try_into()?
        }
        Program::SockOps(program) => {
            let id = program.attach(cgroup, mode)?;
            program.take_link(id)?.try_into()?
        }
        _ => return Err(ProgramError::UnexpectedProgramType.into()),
    };
    drop(link.pin(pin)?);
    Ok(())
}

/// Attaches an `sk_lookup` program to `namespace` and pins the link at `pin`.
pub(super) fn attach_to_namespace(
    object: &mut Ebpf,
    name: &str,
    namespace: &Namespace,
    pin: &Path,
) -> Result<(), Source> {
    let program = object.program_mut(name).ok_or("no such program")?;
    if replace(program, pin, Target::Namespace(namespace.inode()))? {
        return Ok(());
    }
    let Program::SkLookup(program) = program else {
        return Err(ProgramError::UnexpectedProgramType.into());
    };
    let id = program.attach(namespace)?;
    let link = FdLink::from(program.take_link(id)?);
    drop(link.pin(pin)?);
    Ok(())
}

/// Attaches a program to what arrives at an interface of the calling thread's namespace, before
/// all other programs there, and pins the link at `pin`. The interface is given by name and index.
pub(super) fn attach_to_interface(
    object: &mut Ebpf,
    name: &str,
    (interface, index): (&str, u32),
    pin: &Path,
) -> Result<(), Source> {
    let program = object.program_mut(name).ok_or("no such program")?;
    if replace(program, pin, Target::Interface(index))? {
        return Ok(());
    }
    let Program::SchedClassifier(program) = program else {
        return Err(ProgramError::UnexpectedProgramType.into());
    };
    // Another program could let a packet through without asking the ones after it.
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(interface, TcAttachType::Ingress, order)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    drop(link.pin(pin)?);
    Ok(())
}

/// Puts `program` behind the link that is pinned at `pin`. False if there is none, or if it was
/// attached to something else than `target`, for then it is removed.
fn replace(program: &Program, pin: &Path, target: Target) -> Result<bool, Source> {
    if !pin.exists() {
        return Ok(false);
    }
    let link = bpf::open_pinned_link(pin)?;
    if bpf::link_info(link.as_fd())?.is_attached_to(target) {
        match bpf::update_link(link.as_fd(), program.fd()?.as_fd()) {
            Ok(()) => return Ok(true),
            // The target is being removed, and the link with it.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            Err(error) => return Err(error.into()),
        }
    }
    remove(pin)?;
    Ok(false)
}

/// Whether a link is pinned at `pin` that is attached to a namespace that still exists.
pub(super) fn is_attached(pin: &Path) -> bool {
    let info = bpf::open_pinned_link(pin).and_then(|link| bpf::link_info(link.as_fd()));
    info.is_ok_and(|info| info.has_target())
}

/// Detaches the link that is pinned at `pin`, if there is one, and removes the pin. Nothing runs
/// any longer when this returns.
pub(super) fn remove(pin: &Path) -> io::Result<()> {
    let link = match bpf::open_pinned_link(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        link => link?,
    };
    bpf::detach_link(link.as_fd())?;
    fs::remove_file(pin)
}
