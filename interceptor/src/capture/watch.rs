//! Looking after what keeps capture in force: the programs attached, their links and maps pinned,
//! the node locked.
//!
//! All of it can be taken away by root while the agent runs: a BPF file system that is unmounted,
//! files that are removed, links that are detached, a program that is put in another's place. What
//! is pinned is held as well ([`super::held`]), so that losing pins harms nobody as long as the
//! agent lives; but its death would then open every port. So it is looked every second, and what is
//! missing is put back.
//!
//! # Invariants
//!
//! * A loss is told, whether it could be mended or not. One that lasts is told once.
//! * Nothing is pinned again by an agent that has lost its right to the node to another.
//!
//! Not here: the entries of maps, which only the agent and its programs write.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::config::{GUARD_LINK, NAMESPACE_LINK};
use super::enrol::{self, Enrolment};
use super::held::Flaw;
use super::loader::{CGROUP_PROGRAMS, HOST_PROGRAM, Source};
use super::{Capture, WorkloadId};
use crate::error::chain;

/// What was not in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lost {
    /// The node's folder in the BPF file system, and with it the lock on the node.
    Folder,
    /// The pin of a link or map.
    Pin,
    /// A program was attached to nothing.
    Attachment,
    /// A link ran a program that is not ours.
    Program,
}

/// One thing that was not in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// What about it.
    pub lost: Lost,
    /// Where it should have been.
    pub pin: PathBuf,
    /// Why it could not be put back; `None` if it was.
    pub error: Option<String>,
}

/// What was lost since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// How often, by what.
    pub counts: BTreeMap<Lost, u64>,
    /// What could not be put back and is missing now.
    pub standing: Vec<Loss>,
    /// When programs were last found not to be in force, and had to be attached again.
    pub interrupted: Option<SystemTime>,
}

impl Lost {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Folder, Self::Pin, Self::Attachment, Self::Program];

    /// The stable, low-cardinality label under which it is counted.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::Pin => "pin",
            Self::Attachment => "attachment",
            Self::Program => "program",
        }
    }

    /// What has happened, for people; where it should be comes before.
    pub const fn what(self) -> &'static str {
        match self {
            Self::Folder => "the node's folder is not there any more",
            Self::Pin => "somebody has removed the pin",
            Self::Attachment => "somebody has detached the program",
            Self::Program => "somebody has put another program in its place",
        }
    }

    /// What it means, for people, until it is put back.
    pub const fn consequence(self) -> &'static str {
        match self {
            Self::Folder | Self::Pin => "if the agent ends, ports of enrolled workloads open",
            Self::Attachment | Self::Program => {
                "connections of enrolled workloads pass in plaintext"
            }
        }
    }

    /// Whether capture was not in force meanwhile.
    const fn interrupts(self) -> bool {
        matches!(self, Self::Attachment | Self::Program)
    }
}

impl Losses {
    /// Those after another look, which found `now`. Returns what it found for the first time.
    fn note(&mut self, now: Vec<Loss>) -> Vec<Loss> {
        let known = std::mem::take(&mut self.standing);
        let is_new = |loss: &Loss| {
            let same = |other: &Loss| (other.lost, &other.pin) == (loss.lost, &loss.pin);
            loss.error.is_none() || !known.iter().any(same)
        };
        let new: Vec<_> = now.iter().filter(|it| is_new(it)).cloned().collect();
        for loss in &new {
            let count = self.counts.entry(loss.lost).or_default();
            *count = count.saturating_add(1);
        }
        if now.iter().any(|loss| loss.lost.interrupts()) {
            self.interrupted = Some(SystemTime::now());
        }
        let standing = now.into_iter().filter(|loss| loss.error.is_some());
        self.standing.extend(standing);
        new
    }
}

/// Looks, and puts back what is missing. Returns what was found for the first time.
pub(super) fn look(capture: &mut Capture) -> Vec<Loss> {
    let found = find(capture);
    let mut losses = capture.observer.losses();
    if found.is_empty() && losses.standing.is_empty() {
        return found;
    }
    let new = losses.note(found);
    capture.observer.set_losses(losses);
    new
}

fn find(capture: &mut Capture) -> Vec<Loss> {
    let mut found = Vec::new();
    if !capture.loaded.lock.is_in_place() {
        let taken = capture.loaded.lock.take_again(&capture.config);
        let error = taken.err().map(|error| chain(&error));
        let is_ours = error.is_none();
        found.push(Loss {
            lost: Lost::Folder,
            pin: capture.loaded.lock.folder().to_path_buf(),
            error,
        });
        if !is_ours {
            // Perhaps the node is another agent's by now: its pins are not ours to remove.
            return found;
        }
    }
    for (pin, flaw) in capture.loaded.hooks.held.flaws() {
        let (lost, restored) = match flaw {
            Flaw::Pin => {
                let pinned = capture.loaded.hooks.held.pin_again(&pin);
                (Lost::Pin, pinned.map_err(Source::from))
            }
            Flaw::Attachment => match attach_again(capture, &pin) {
                Some(attached) => (Lost::Attachment, attached),
                None => continue,
            },
            Flaw::Program => match attach_again(capture, &pin) {
                Some(attached) => (Lost::Program, attached),
                None => continue,
            },
        };
        let error = restored.err().map(|error| chain(&*error));
        found.push(Loss { lost, pin, error });
    }
    found
}

/// Attaches again what this pin stands for. `None` if nobody took it away: what it was attached to
/// is gone.
fn attach_again(capture: &mut Capture, pin: &Path) -> Option<Result<(), Source>> {
    let name = pin.file_name()?.to_str()?;
    if CGROUP_PROGRAMS.contains(&name) {
        return Some(capture.loaded.attach_again().map_err(Source::from));
    }
    if name == HOST_PROGRAM {
        let nobody = enrol::nobody("the host's workloads");
        return Some(enrol::refresh_host(capture, &nobody).map_err(Source::from));
    }
    if let Some(key) = name.strip_prefix(NAMESPACE_LINK) {
        let id = enrolled_as(capture, key)?;
        return Some(enrol::steer_again(capture, &id).map_err(Source::from));
    }
    let (key, _index) = name.strip_prefix(GUARD_LINK)?.split_once('_')?;
    let id = enrolled_as(capture, key)?;
    enrol::guard_interfaces(capture, &id);
    // If its interface is gone, so is the guard.
    let held = &capture.loaded.hooks.held;
    held.is_attached(pin).then_some(Ok(()))
}

/// The enrolled workload with this key. Those that nobody serves are what they are: their
/// namespaces may have gone meanwhile.
fn enrolled_as(capture: &Capture, key: &str) -> Option<WorkloadId> {
    let key: u64 = key.parse().ok()?;
    let mut enrolled = capture.enrolled.iter();
    let found = enrolled.find(|(_, it)| Enrolment::key(it) == key);
    found.map(|(id, _)| id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(lost: Lost, pin: &str, error: Option<&str>) -> Loss {
        Loss {
            lost,
            pin: PathBuf::from(pin),
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn a_loss_that_lasts_is_told_and_counted_once() {
        let mut losses = Losses::default();
        let lasting = loss(Lost::Pin, "a", Some("no"));
        let told = losses.note(vec![lasting.clone()]);
        assert_eq!(told.as_slice(), std::slice::from_ref(&lasting));
        assert_eq!(losses.note(vec![lasting.clone()]), []);
        assert_eq!(losses.standing, [lasting]);
        assert_eq!(losses.counts.get(&Lost::Pin), Some(&1));
        assert_eq!(losses.note(Vec::new()), []);
        assert_eq!(losses.standing, []);
    }

    #[test]
    fn a_loss_that_comes_again_after_it_was_mended_is_another() {
        let mut losses = Losses::default();
        let mended = loss(Lost::Pin, "a", None);
        for count in 1..=3 {
            let told = losses.note(vec![mended.clone()]);
            assert_eq!(told.as_slice(), std::slice::from_ref(&mended));
            assert_eq!(losses.counts.get(&Lost::Pin), Some(&count));
        }
        assert_eq!(losses.interrupted, None, "what was attached stayed so");
    }

    #[test]
    fn a_program_that_was_not_in_force_is_remembered() {
        let mut losses = Losses::default();
        losses.note(vec![loss(Lost::Attachment, "a", None)]);
        losses.note(Vec::new());
        assert!(losses.interrupted.is_some());
        assert_eq!(losses.standing, []);
    }
}
