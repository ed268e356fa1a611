//! Taking a node's kernel half off the machine, and proving that it is gone.
//!
//! Links go first, and with them the programs; then the maps. A program or map that nobody holds
//! is freed by the kernel a moment later, so proving waits for that.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use aya::maps::{MapData, loaded_maps};
use aya::programs::{loaded_links, loaded_programs};

use super::config::{Config, GUARD_LINK};
use super::error::CaptureError;
use super::links;
use super::loader::{CGROUP_PROGRAMS, GUARD_PROGRAM, HOST_PROGRAM, NAMESPACE_PROGRAMS};
use super::lock::NodeLock;
use crate::net::bpf;

/// How often, and how long apart, the kernel is asked whether it has freed everything.
const PATIENCE: (u32, Duration) = (40, Duration::from_millis(50));

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Links, and so attached programs.
    pub links: usize,
    /// Maps.
    pub maps: usize,
    /// What the kernel called them.
    pub(super) ids: Ids,
}

/// The kernel's numbers of what was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ids {
    links: HashSet<u32>,
    programs: HashSet<u32>,
    maps: HashSet<u32>,
}

/// Something of ours that is still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// A file or folder in the BPF file system.
    Pinned(PathBuf),
    /// Something that was removed and that somebody still holds.
    Held {
        /// `program`, `map` or `link`.
        what: &'static str,
        /// The kernel's id.
        id: u32,
    },
    /// An attached program that no node's folder accounts for.
    Program {
        /// Its name.
        name: String,
        /// The kernel's id.
        id: u32,
    },
}

/// Why the kernel half could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// An agent is running, or the name is wrong.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// A file could not be removed.
    #[error("cannot remove {}", path.display())]
    Remove {
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Removes everything that agents of this node, of whatever version, have pinned.
///
/// # Errors
///
/// If an agent of the node is running, or a file cannot be removed.
pub fn uninstall(config: &Config) -> Result<Removed, UninstallError> {
    let folder = node_folder(config)?;
    let mut removed = Removed::default();
    if !folder.exists() {
        return Ok(removed);
    }
    let _lock = NodeLock::of_folder(&folder, &config.node)?;
    for layout in list(&folder) {
        // Guards go first, for they let only known connections begin; then what is captured, and
        // what serves it last.
        removed.ids.note(&layout);
        removed.links += clear(&layout.join("links"), links::remove)?;
        removed.maps += clear(&layout.join("maps"), |map| fs::remove_file(map))?;
        remove(&layout, fs::remove_dir_all(&layout))?;
    }
    remove(&folder, fs::remove_dir(&folder))?;
    // Stays while another node uses it.
    match fs::remove_dir(config.nodes_folder()) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
            remove(&config.nodes_folder(), Err(error))?;
        }
        _ => {}
    }
    Ok(removed)
}

/// What was removed and is still there, because somebody holds it: an agent that is still
/// draining, a tool that looks at it. Waits a moment, for the kernel frees things late.
pub fn still_held(removed: &Removed) -> Vec<Leftover> {
    let (attempts, pause) = PATIENCE;
    let mut held = removed.ids.loaded();
    for _ in 1..attempts {
        if held.is_empty() {
            break;
        }
        sleep(pause);
        held = removed.ids.loaded();
    }
    held
}

impl Ids {
    /// Notes everything that is pinned in this folder.
    fn note(&mut self, layout: &Path) {
        for pin in list(&layout.join("links")) {
            let info = bpf::open_pinned(&pin).and_then(|link| bpf::link_info(link.as_fd()));
            if let Ok(info) = info {
                self.links.insert(info.id);
                self.programs.insert(info.program);
            }
        }
        for pin in list(&layout.join("maps")) {
            if let Ok(info) = MapData::from_pin(pin).and_then(|map| map.info()) {
                self.maps.insert(info.id());
            }
        }
    }

    /// Those that the kernel still has.
    fn loaded(&self) -> Vec<Leftover> {
        let held = |what| move |id| Leftover::Held { what, id };
        let links = loaded_links().flatten().map(|it| it.id());
        let links = links.filter(|id| self.links.contains(id)).map(held("link"));
        let programs = loaded_programs().flatten().map(|it| it.id());
        let programs = programs.filter(|id| self.programs.contains(id));
        let maps = loaded_maps().flatten().map(|it| it.id());
        let maps = maps.filter(|id| self.maps.contains(id)).map(held("map"));
        links
            .chain(programs.map(held("program")))
            .chain(maps)
            .collect()
    }
}

/// What is left of the node: its folder, and programs of ours that no folder accounts for. Empty
/// is the proof that nothing is.
///
/// # Errors
///
/// If the node's name cannot be used.
pub fn verify_removed(config: &Config) -> Result<Vec<Leftover>, CaptureError> {
    let folder = node_folder(config)?;
    let (attempts, pause) = PATIENCE;
    let mut left = leftovers(config, &folder);
    for _ in 1..attempts {
        if left.is_empty() || folder.exists() {
            break;
        }
        sleep(pause);
        // What is there every time is left; what comes and goes is another node's that starts or
        // ends just now.
        let now = leftovers(config, &folder);
        left.retain(|one| now.contains(one));
    }
    Ok(left)
}

/// What is left now.
fn leftovers(config: &Config, folder: &Path) -> Vec<Leftover> {
    let mut left = Vec::new();
    if folder.exists() {
        left.push(Leftover::Pinned(folder.to_path_buf()));
    }
    left.extend(unpinned(config));
    left
}

/// Programs of ours, of whatever node, that are attached and not pinned: they go when whoever holds
/// them goes.
pub fn unpinned(config: &Config) -> Vec<Leftover> {
    let ours: HashMap<u32, String> = loaded_programs()
        .flatten()
        .filter_map(|program| {
            let name = program.name_as_str().filter(|name| is_ours(name))?;
            Some((program.id(), name.to_owned()))
        })
        .collect();
    let accounted = pinned_links(&config.nodes_folder());
    // A program without a link runs nowhere: another node's agent has it at hand.
    let links = loaded_links().flatten();
    let links = links.filter(|link| !accounted.contains(&link.id()));
    let programs = links.filter_map(|link| {
        let id = link.program_id();
        let name = ours.get(&id)?.clone();
        Some(Leftover::Program { name, id })
    });
    programs.collect()
}

/// Whether a program with this name is one of ours.
fn is_ours(name: &str) -> bool {
    let lookups = NAMESPACE_PROGRAMS.iter().map(|(_, name)| name);
    let mut ours = CGROUP_PROGRAMS
        .iter()
        .chain(&[HOST_PROGRAM, GUARD_PROGRAM])
        .chain(lookups);
    ours.any(|it| *it == name)
}

/// The links of every node of this machine.
fn pinned_links(nodes: &Path) -> HashSet<u32> {
    let layouts = list(nodes).into_iter().flat_map(|node| list(&node));
    let links = layouts.flat_map(|layout| list(&layout.join("links")));
    links
        .filter_map(|link| {
            let link = bpf::open_pinned(&link).ok()?;
            Some(bpf::link_info(link.as_fd()).ok()?.id)
        })
        .collect()
}

/// The node's folder.
fn node_folder(config: &Config) -> Result<PathBuf, CaptureError> {
    config.node_folder().ok_or_else(|| CaptureError::NodeName {
        node: config.node.clone(),
    })
}

/// Removes every file in a folder and says how many there were.
fn clear(
    folder: &Path,
    remove_file: impl Fn(&Path) -> io::Result<()>,
) -> Result<usize, UninstallError> {
    let files = list(folder);
    for file in &files {
        remove(file, remove_file(file))?;
    }
    Ok(files.len())
}

/// What is in a folder, guards first; nothing if there is no folder.
fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    let is_guard = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(GUARD_LINK))
    };
    paths.sort_by_key(|path| !is_guard(path));
    paths
}

/// What is gone already was removed.
fn remove(path: &Path, result: io::Result<()>) -> Result<(), UninstallError> {
    match result {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(UninstallError::Remove {
            path: path.to_path_buf(),
            source,
        }),
        _ => Ok(()),
    }
}
