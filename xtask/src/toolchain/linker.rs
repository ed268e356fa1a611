//! bpf-linker, which makes one object for the kernel out of LLVM bitcode.
//!
//! It must be linked with the LLVM that wrote the bitcode, and rustup ships that LLVM as a shared
//! library beside the compiler. So bpf-linker is built here against exactly that file, unless the
//! one in `PATH` proves to be able to link what this compiler writes.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::Compiler;
use crate::project::Project;
use crate::step::{capture, run, say};

/// The newest that reads this LLVM; it brings its own lock file.
const VERSION: &str = "0.13.0";

/// A program whose only purpose is to be linked.
const PROBE: &str = "#[unsafe(no_mangle)] pub extern \"C\" fn probe() -> u32 { 7 }\n";

/// A bpf-linker that works with the running compiler.
pub(crate) struct Linker {
    program: PathBuf,
    libraries: PathBuf,
}

impl Linker {
    /// Finds one that works, or builds it.
    pub(crate) fn obtain(project: &Project, compiler: &Compiler) -> Result<Self> {
        let root = compiler.cache().join("bpf-linker");
        let own = Self::at(root.join("bin/bpf-linker"), compiler);
        if own.program.exists() {
            return Ok(own);
        }
        if let Some(found) = in_path("bpf-linker") {
            let found = Self::at(found, compiler);
            match found.prove(compiler) {
                Ok(()) => return Ok(found),
                Err(error) => say(format_args!(
                    "bpf-linker: {} does not work with Rust {} ({error:#})",
                    found.program.display(),
                    compiler.release()
                )),
            }
        }
        build(project, compiler, &root)?;
        own.prove(compiler)
            .context("the bpf-linker that was just built does not work")?;
        Ok(own)
    }

    /// Makes `cargo` link the kernel programs with it.
    pub(crate) fn apply(&self, cargo: &mut Command) {
        cargo
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.program)
            .env("CARGO_TARGET_BPFEB_UNKNOWN_NONE_LINKER", &self.program)
            .env("LD_LIBRARY_PATH", &self.libraries);
    }

    fn at(program: PathBuf, compiler: &Compiler) -> Self {
        let libraries = compiler.sysroot().join("lib");
        Self { program, libraries }
    }

    /// Links a function that the running compiler has compiled.
    fn prove(&self, compiler: &Compiler) -> Result<()> {
        let folder = compiler.cache().join("probe");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("probe.rs"), PROBE)?;
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
        capture(
            Command::new(rustc)
                .current_dir(&folder)
                .args(["--edition=2024", "--crate-type=lib", "--emit=llvm-bc"])
                .args(["-o", "probe.bc", "probe.rs"]),
        )?;
        capture(
            Command::new(&self.program)
                .current_dir(&folder)
                .env("LD_LIBRARY_PATH", &self.libraries)
                .args(["--target=bpfel-unknown-none", "--emit=obj"])
                .args(["--export=probe", "-o", "probe.o", "probe.bc"]),
        )?;
        fs::remove_dir_all(&folder)?;
        Ok(())
    }
}

fn build(project: &Project, compiler: &Compiler, root: &Path) -> Result<()> {
    let major = compiler.llvm_major();
    say(format_args!(
        "bpf-linker {VERSION}: building it against the LLVM {major} of Rust {} (once, a minute)",
        compiler.release()
    ));
    let prefix = llvm_prefix(compiler)?;
    let folder = compiler.cache().join("bpf-linker-build");
    let mut cargo = project.plain_cargo();
    cargo
        .args(["install", "bpf-linker", "--version", VERSION, "--locked"])
        .args(["--no-default-features", "--features"])
        .arg(format!("llvm-{major}"))
        .arg("--root")
        .arg(root)
        .arg("--target-dir")
        .arg(&folder)
        .args(["--no-track", "--force", "--quiet"])
        .env("LLVM_PREFIX", prefix)
        .env("LD_LIBRARY_PATH", compiler.sysroot().join("lib"));
    run(&mut cargo).with_context(|| {
        format!("bpf-linker {VERSION} reads LLVM 21 to 23, and this compiler writes LLVM {major}")
    })?;
    fs::remove_dir_all(folder)?;
    Ok(())
}

/// A folder that looks like an installation of LLVM and is the toolchain's own library.
fn llvm_prefix(compiler: &Compiler) -> Result<PathBuf> {
    let library = llvm_library(&compiler.sysroot().join("lib"), compiler.llvm_major())?;
    let prefix = compiler.cache().join("llvm");
    let lib = prefix.join("lib");
    if prefix.exists() {
        fs::remove_dir_all(&prefix)?;
    }
    fs::create_dir_all(&lib)?;
    symlink(&library, lib.join("libLLVM.so"))?;
    // The name that the built program asks for at run time.
    let name = library.file_name().context("the library has no name")?;
    symlink(&library, lib.join(name))?;
    Ok(prefix)
}

fn llvm_library(folder: &Path, major: u32) -> Result<PathBuf> {
    let wanted = format!("libLLVM.so.{major}.");
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&wanted) {
            return Ok(entry.path());
        }
    }
    bail!(
        "{} has no {wanted}*: bpf-linker can be built here only against a toolchain that ships its \
         LLVM, as rustup's do; or put a bpf-linker for LLVM {major} into PATH",
        folder.display()
    )
}

/// The first program of this name in `PATH`.
pub(super) fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}
