//! The standard library's source for the running compiler: the kernel's target has no prebuilt one.
//!
//! Looked for in this order, each step bounded in time and none but the last fatal:
//!
//! 1. the compiler's own folder, or what an earlier run unpacked;
//! 2. `rustup component add rust-src`;
//! 3. Debian's package of exactly the same version ([`super::apt`]);
//! 4. the archive that `INTERCEPTOR_RUST_SRC` names.
//!
//! # Why an unpacked source is not put where cargo looks
//!
//! That folder is rustup's, and a later `rustup component add` would stumble over it. Cargo also
//! reads the place from `__CARGO_TESTS_ONLY_SRC_ROOT` (the folder with `core` and `std`; cargo
//! 1.84 and later), which its own tests and bootstrapping tools rely on.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::tools::{Need, require};
use super::{Compiler, apt, rustup};
use crate::step::{run, say};

/// Names an archive of the source: a `.tar.xz` whose top folder is `library/`.
const ARCHIVE: &str = "INTERCEPTOR_RUST_SRC";

/// Where the source is.
pub(crate) enum RustSrc {
    /// Where cargo looks by itself.
    InToolchain,
    /// In the folder that holds `core` and `std`.
    Unpacked(PathBuf),
}

impl RustSrc {
    /// Finds the source, or obtains it.
    pub(crate) fn obtain(compiler: &Compiler) -> Result<Self> {
        if let Some(found) = Self::found(compiler) {
            return Ok(found);
        }
        let mut failures = Vec::new();
        for (way, attempt) in WAYS {
            match attempt(compiler) {
                Ok(()) if Self::found(compiler).is_some() => {
                    say(format_args!("rust-src {}: from {way}", compiler.release()));
                }
                Ok(()) => failures.push(format!("{way}: it brought no library/core")),
                Err(error) => failures.push(format!("{way}: {error:#}")),
            }
            if let Some(found) = Self::found(compiler) {
                return Ok(found);
            }
            if let Some(failure) = failures.last() {
                say(format_args!("rust-src: not from {failure}"));
            }
        }
        Err(nowhere(compiler, &failures))
    }

    /// Makes `cargo` find the source.
    pub(crate) fn apply(&self, cargo: &mut Command) {
        if let Self::Unpacked(library) = self {
            cargo.env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
        }
    }

    /// The folder that holds `core` and `std`.
    pub(crate) fn library(&self, compiler: &Compiler) -> PathBuf {
        match self {
            Self::InToolchain => compiler.sysroot().join("lib/rustlib/src/rust/library"),
            Self::Unpacked(library) => library.clone(),
        }
    }

    fn found(compiler: &Compiler) -> Option<Self> {
        let complete = |library: &Path| library.join("core/src/lib.rs").exists();
        if complete(&Self::InToolchain.library(compiler)) {
            return Some(Self::InToolchain);
        }
        let unpacked = destination(compiler).join("library");
        complete(&unpacked).then_some(Self::Unpacked(unpacked))
    }
}

type Attempt = fn(&Compiler) -> Result<()>;

const WAYS: [(&str, Attempt); 3] = [
    ("rustup", from_rustup),
    ("Debian trixie-backports", from_debian),
    (ARCHIVE, from_archive),
];

fn destination(compiler: &Compiler) -> PathBuf {
    compiler.cache().join("rust-src")
}

fn from_rustup(compiler: &Compiler) -> Result<()> {
    rustup::add(compiler, "rust-src", || RustSrc::found(compiler).is_some())
}

fn from_debian(compiler: &Compiler) -> Result<()> {
    let workspace = compiler.cache().join("apt");
    let package = apt::download("rust-src", compiler.release(), &workspace)?;
    // The package is the whole compiler, 400 MB; the library is a tenth of it.
    let unpack = |folder: &Path| {
        let mut archive = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(&package)
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start dpkg-deb")?;
        let contents = archive.stdout.take().map_or_else(Stdio::null, Stdio::from);
        let unpacked = run(Command::new("tar")
            .args(["-x", "--strip-components=4", "-C"])
            .arg(folder)
            .arg(format!("./usr/src/rustc-{}/library", compiler.release()))
            .stdin(contents));
        archive.wait()?;
        unpacked
    };
    unpack_into(&destination(compiler), unpack)?;
    fs::remove_dir_all(workspace)?;
    Ok(())
}

fn from_archive(compiler: &Compiler) -> Result<()> {
    let archive = env::var_os(ARCHIVE).context("the variable is not set")?;
    let archive = PathBuf::from(archive);
    ensure!(archive.is_file(), "{} is not a file", archive.display());
    if let Some(other) = other_release(&archive, compiler.release()) {
        bail!("{} is the source of {other}", archive.display());
    }
    require(&[Need::Archive])?;
    unpack_into(&destination(compiler), |folder| {
        run(Command::new("tar")
            .arg("-xJf")
            .arg(&archive)
            .arg("-C")
            .arg(folder)
            .arg("library"))
    })
}

/// Unpacks beside `destination` and moves the whole into place, so that an interrupted run leaves
/// nothing that looks complete.
fn unpack_into(destination: &Path, unpack: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let partial = destination.with_extension("partial");
    for leftover in [&partial, destination] {
        if leftover.exists() {
            fs::remove_dir_all(leftover)?;
        }
    }
    fs::create_dir_all(&partial)?;
    unpack(&partial)?;
    fs::rename(&partial, destination)?;
    Ok(())
}

/// The release in the archive's name, if it names one and it is not `release`.
fn other_release<'a>(archive: &'a Path, release: &str) -> Option<&'a str> {
    let name = archive.file_name()?.to_str()?;
    name.trim_end_matches(".tar.xz")
        .split('-')
        .find(|part| part.contains('.') && part.starts_with(|c: char| c.is_ascii_digit()))
        .filter(|named| *named != release)
}

fn nowhere(compiler: &Compiler, failures: &[String]) -> anyhow::Error {
    let release = compiler.release();
    let toolchain = compiler.rustup_toolchain().unwrap_or("stable");
    anyhow!(
        "the kernel programs need the standard library's source (rust-src) of Rust {release}, and \
         none could be had:\n  {}\nWith a network: rustup component add rust-src --toolchain \
         {toolchain}\nWithout: {ARCHIVE}=/path/to/rust-src-library-{release}.tar.xz cargo xtask \
         build-ebpf",
        failures.join("\n  ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_of_another_release_is_recognised_by_its_name() {
        let other = |name: &str| other_release(Path::new(name), "1.95.0").map(str::to_owned);
        assert_eq!(other("/x/rust-src-library-1.95.0.tar.xz"), None);
        assert_eq!(
            other("/x/rust-src-1.94.1.tar.xz"),
            Some("1.94.1".to_owned())
        );
        assert_eq!(other("/1.94.1/library.tar.xz"), None);
    }

    #[test]
    fn an_interrupted_unpacking_leaves_nothing_that_looks_complete() {
        let folder = env::temp_dir().join(format!("xtask-unpack-{}", std::process::id()));
        let destination = folder.join("rust-src");
        unpack_into(&destination, |_| bail!("the disk is full")).unwrap_err();
        assert!(!destination.exists());

        unpack_into(&destination, |partial| {
            Ok(fs::write(partial.join("library"), "")?)
        })
        .unwrap();
        assert!(destination.join("library").exists());
        fs::remove_dir_all(folder).unwrap();
    }
}
