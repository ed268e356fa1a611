//! Links: what attaches a program to a cgroup, a network namespace or an interface, pinned so that
//! it outlives the agent, and held so that it outlives its pin.
//!
//! A program that takes the place of another does so behind the same link. Removing detaches first:
//! the kernel frees a link that nobody has a moment later, and in that moment half of a workload's
//! programs would be gone.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use aya::Ebpf;
use aya::programs::links::{CgroupAttachMode, FdLink, LinkOrder};
use aya::programs::tc::{TcAttachOptions, TcAttachType};
use aya::programs::{Program, ProgramError};

use super::held::Held;
use super::loader::Source;
use crate::net::Namespace;
use crate::net::bpf::{self, Target};

/// The loaded programs, and what attaches them.
pub(super) struct Hooks {
    /// The object, which has the programs.
    pub(super) object: Ebpf,
    /// Their links.
    pub(super) held: Held,
}

impl Hooks {
    /// Attaches one program to `cgroup` and pins the link at `pin`.
    pub(super) fn attach_to_cgroup(
        &mut self,
        name: &str,
        cgroup: &File,
        pin: &Path,
        target: Target,
    ) -> Result<(), Source> {
        self.attach(name, pin, target, |program| {
            // aya hands the mode to bpf_link_create as flags, which must be zero; links of cgroups
            // are always for several programs.
            let mode = CgroupAttachMode::Single;
            match program {
                Program::CgroupSockAddr(program) => {
                    let id = program.attach(cgroup, mode)?;
                    Ok(program.take_link(id)?.try_into()?)
                }
                Program::CgroupSock(program) => {
                    let id = program.attach(cgroup, mode)?;
                    Ok(program.take_link(id)?.try_into()?)
                }
                Program::SockOps(program) => {
                    let id = program.attach(cgroup, mode)?;
                    Ok(program.take_link(id)?.try_into()?)
                }
                _ => Err(ProgramError::UnexpectedProgramType.into()),
            }
        })
    }

    /// Attaches an `sk_lookup` program to `namespace` and pins the link at `pin`.
    pub(super) fn attach_to_namespace(
        &mut self,
        name: &str,
        namespace: &Namespace,
        pin: &Path,
    ) -> Result<(), Source> {
        let target = Target::Namespace(namespace.inode());
        self.attach(name, pin, target, |program| {
            let Program::SkLookup(program) = program else {
                return Err(ProgramError::UnexpectedProgramType.into());
            };
            let id = program.attach(namespace)?;
            Ok(FdLink::from(program.take_link(id)?))
        })
    }

    /// Attaches a program to what arrives at an interface of the calling thread's namespace, before
    /// all other programs there, and pins the link at `pin`. The interface is given by name and
    /// index.
    pub(super) fn attach_to_interface(
        &mut self,
        name: &str,
        (interface, index): (&str, u32),
        pin: &Path,
    ) -> Result<(), Source> {
        self.attach(name, pin, Target::Interface(index), |program| {
            let Program::SchedClassifier(program) = program else {
                return Err(ProgramError::UnexpectedProgramType.into());
            };
            // Another program could let a packet through without asking the ones after it.
            let order = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = program.attach_with_options(interface, TcAttachType::Ingress, order)?;
            Ok(program.take_link(id)?.try_into()?)
        })
    }

    /// Puts the program with this name behind the link that is pinned at `pin`, or behind a new
    /// one that `attach` makes.
    fn attach(
        &mut self,
        name: &str,
        pin: &Path,
        target: Target,
        attach: impl FnOnce(&mut Program) -> Result<FdLink, Source>,
    ) -> Result<(), Source> {
        // A link that has lost its pin still is what attaches; a second one would run beside it.
        if !pin.exists() && self.held.is_attached(pin) {
            self.held.pin_again(pin)?;
        }
        let program = self.object.program_mut(name).ok_or("no such program")?;
        if !replace(program, pin, target)? {
            self.remove(pin)?;
            let program = self.object.program_mut(name).ok_or("no such program")?;
            drop(attach(program)?.pin(pin)?);
        }
        Ok(self.held.link(pin)?)
    }

    /// Detaches the link of this pin, if there is one, and removes the pin. Nothing runs any longer
    /// when this returns.
    pub(super) fn remove(&mut self, pin: &Path) -> io::Result<()> {
        self.held.let_go(pin)?;
        remove(pin)
    }
}

/// Puts `program` behind the link that is pinned at `pin`. False if there is none, or if it was
/// attached to something else than `target`.
fn replace(program: &Program, pin: &Path, target: Target) -> Result<bool, Source> {
    if !pin.exists() {
        return Ok(false);
    }
    let link = bpf::open_pinned(pin)?;
    if !bpf::link_info(link.as_fd())?.is_attached_to(target) {
        return Ok(false);
    }
    match bpf::update_link(link.as_fd(), program.fd()?.as_fd()) {
        Ok(()) => Ok(true),
        // The target is being removed, and the link with it.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether a link is pinned at `pin` that is attached to a namespace that still exists.
pub(super) fn is_attached(pin: &Path) -> bool {
    let info = bpf::open_pinned(pin).and_then(|link| bpf::link_info(link.as_fd()));
    info.is_ok_and(|info| info.has_target())
}

/// Detaches the link that is pinned at `pin`, if there is one, and removes the pin.
pub(super) fn remove(pin: &Path) -> io::Result<()> {
    let link: OwnedFd = match bpf::open_pinned(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        link => link?,
    };
    bpf::detach_link(link.as_fd())?;
    fs::remove_file(pin)
}
