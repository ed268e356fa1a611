//! What the agent holds open of the kernel's objects, and where each of them is pinned.
//!
//! A link or a map lives as long as somebody has it. The pins are what keeps captured ports closed
//! while no agent runs. The descriptors are what keeps programs attached while the agent runs, when
//! somebody takes the pins away: a BPF file system that is unmounted, files that are removed.
//! Without them, capture would end in that moment and in silence.
//!
//! # Invariants
//!
//! * Everything of the node's folder is held, from the moment in which it is pinned.
//! * What is removed is detached first, so that no descriptor keeps it running.
//!
//! Not here: putting back what is lost (`watch`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::net::bpf;

/// Links and maps by their pins.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<PathBuf, Object>);

/// One link or map.
#[derive(Debug)]
struct Object {
    descriptor: OwnedFd,
    /// The file that names it.
    file: FileId,
    /// What it runs, if it is a link.
    program: Option<u32>,
}

/// A file, whatever it is called: device and inode.
pub(super) type FileId = (u64, u64);

/// What can become of something that was pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Flaw {
    /// Its pin is gone or names something else.
    Pin,
    /// It is attached to nothing.
    Attachment,
    /// It runs another program.
    Program,
}

impl Held {
    /// Holds the link that is pinned here, instead of what was held for this pin before.
    pub(super) fn link(&mut self, pin: &Path) -> io::Result<()> {
        let descriptor = bpf::open_pinned(pin)?;
        let program = Some(bpf::link_info(descriptor.as_fd())?.program);
        self.hold(pin, descriptor, program)
    }

    /// Holds the map that is pinned here.
    pub(super) fn map(&mut self, pin: &Path) -> io::Result<()> {
        let descriptor = bpf::open_pinned(pin)?;
        self.hold(pin, descriptor, None)
    }

    fn hold(&mut self, pin: &Path, descriptor: OwnedFd, program: Option<u32>) -> io::Result<()> {
        let file = file_id(pin)?;
        let object = Object {
            descriptor,
            file,
            program,
        };
        self.0.insert(pin.to_path_buf(), object);
        Ok(())
    }

    /// Detaches what is held for this pin and holds it no longer. Not the pin itself.
    pub(super) fn let_go(&mut self, pin: &Path) -> io::Result<()> {
        let Some(object) = self.0.get(pin) else {
            return Ok(());
        };
        if object.program.is_some() {
            bpf::detach_link(object.descriptor.as_fd())?;
        }
        self.0.remove(pin);
        Ok(())
    }

    /// The pins of everything that is held.
    pub(super) fn pins(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    /// Whether a link is held for this pin, and attached.
    pub(super) fn is_attached(&self, pin: &Path) -> bool {
        let object = self.0.get(pin);
        object.is_some_and(|it| it.program.is_some() && it.runs().is_some())
    }

    /// What is not as it was when it was pinned: two or three cheap system calls for each.
    pub(super) fn flaws(&self) -> Vec<(PathBuf, Flaw)> {
        let flaws = self.0.iter().filter_map(|(pin, object)| {
            let flaw = object.flaw(pin)?;
            Some((pin.clone(), flaw))
        });
        flaws.collect()
    }

    /// Pins what is held once more, in the place of whatever is there now.
    pub(super) fn pin_again(&mut self, pin: &Path) -> io::Result<()> {
        let Some(object) = self.0.get_mut(pin) else {
            return Ok(());
        };
        if let Some(folder) = pin.parent() {
            fs::create_dir_all(folder)?;
        }
        match fs::remove_file(pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        bpf::pin(object.descriptor.as_fd(), pin)?;
        object.file = file_id(pin)?;
        Ok(())
    }
}

impl Object {
    /// The program that the link runs now; `None` if it is attached to nothing.
    fn runs(&self) -> Option<u32> {
        let info = bpf::link_info(self.descriptor.as_fd()).ok()?;
        info.has_target().then_some(info.program)
    }

    /// The worst of what is wrong with it.
    fn flaw(&self, pin: &Path) -> Option<Flaw> {
        let is_pinned = file_id(pin).is_ok_and(|found| found == self.file);
        match self.program {
            Some(_) if self.runs().is_none() => Some(Flaw::Attachment),
            Some(program) if self.runs() != Some(program) => Some(Flaw::Program),
            _ if !is_pinned => Some(Flaw::Pin),
            _ => None,
        }
    }
}

/// Which file this is.
pub(super) fn file_id(path: &Path) -> io::Result<FileId> {
    let found = fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}
