//! `cargo xtask build-ebpf`: the kernel programs, as one object with its type information.
//!
//! The object goes to `target/interceptor-ebpf.o`, where `interceptor/build.rs` finds it. It is
//! written only when its bytes change, so that the agent is not built anew for nothing.
//!
//! The kernel's target is known to stable Rust but not shipped with it, so `core` is built from
//! source, which cargo calls unstable: hence `RUSTC_BOOTSTRAP`, for these programs only. They have
//! a target folder of their own, so that neither build waits for the other's lock.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::project::Project;
use crate::step::{run, say};
use crate::toolchain::{Compiler, Linker, RustSrc, tools};

const PACKAGE: &str = "interceptor-ebpf";

/// Builds the kernel programs and returns where their object is.
pub(crate) fn build_ebpf(project: &Project) -> Result<PathBuf> {
    let kernel = Kernel::obtain(project)?;
    run(&mut kernel.cargo("build"))?;
    let built = kernel
        .folder
        .join(kernel.target)
        .join("release")
        .join(PACKAGE);
    let object = project.target().join("interceptor-ebpf.o");
    let bytes = publish(&built, &object)?;
    say(format_args!(
        "kernel programs: {} ({bytes} bytes)",
        object.display()
    ));
    Ok(object)
}

/// Everything that compiling for the kernel takes.
pub(crate) struct Kernel<'project> {
    project: &'project Project,
    compiler: Compiler,
    source: RustSrc,
    linker: Linker,
    folder: PathBuf,
    target: &'static str,
}

impl<'project> Kernel<'project> {
    /// Obtains what is missing.
    pub(crate) fn obtain(project: &'project Project) -> Result<Self> {
        tools::require(&[tools::Need::Compile])?;
        let compiler = Compiler::running(project)?;
        let source = RustSrc::obtain(&compiler)?;
        let linker = Linker::obtain(project, &compiler)?;
        Ok(Self {
            project,
            folder: project.target().join("ebpf"),
            target: target(),
            compiler,
            source,
            linker,
        })
    }

    /// `cargo <task>` for the kernel programs.
    pub(crate) fn cargo(&self, task: &str) -> Command {
        let mut cargo = self.project.plain_cargo();
        cargo
            .args([task, "--package", PACKAGE, "--release"])
            .args(["-Z", "build-std=core", "--target", self.target])
            .arg("--target-dir")
            .arg(&self.folder)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", self.flags());
        self.source.apply(&mut cargo);
        self.linker.apply(&mut cargo);
        cargo
    }

    /// Type information for the kernel (BTF), and the machine whose structures are read.
    ///
    /// Line information holds paths; those of the building machine have no place in the product.
    fn flags(&self) -> String {
        let machine = self.compiler.host().split('-').next().unwrap_or_default();
        let machine = if machine.starts_with("riscv64") {
            "riscv64"
        } else {
            machine
        };
        let mut flags = vec![
            format!("--cfg=bpf_target_arch=\"{machine}\""),
            "-Cdebuginfo=2".to_owned(),
            "-Clink-arg=--btf".to_owned(),
        ];
        for (folder, name) in [
            (self.project.root(), "/interceptor"),
            (&cargo_home(), "/cargo"),
            (&self.source.library(&self.compiler), "/rust/library"),
        ] {
            flags.push(format!("--remap-path-prefix={}={name}", folder.display()));
        }
        flags.join("\x1f")
    }
}

fn cargo_home() -> PathBuf {
    std::env::var_os("CARGO_HOME").map_or_else(
        || std::env::home_dir().unwrap_or_default().join(".cargo"),
        PathBuf::from,
    )
}

const fn target() -> &'static str {
    if cfg!(target_endian = "big") {
        "bpfeb-unknown-none"
    } else {
        "bpfel-unknown-none"
    }
}

/// Copies `built` to `object` unless the bytes are the same already; returns their number.
fn publish(built: &Path, object: &Path) -> Result<usize> {
    let new = fs::read(built).with_context(|| format!("could not read {}", built.display()))?;
    if fs::read(object).is_ok_and(|old| old == new) {
        return Ok(new.len());
    }
    // A reader sees the old object or the new one, never half of it.
    let partial = object.with_extension("partial");
    fs::write(&partial, &new)?;
    fs::rename(&partial, object)?;
    Ok(new.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_object_is_not_touched() {
        let folder = std::env::temp_dir().join(format!("xtask-publish-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (built, object) = (folder.join("built"), folder.join("object.o"));
        let long_ago = std::time::SystemTime::UNIX_EPOCH;

        fs::write(&built, "one").unwrap();
        publish(&built, &object).unwrap();
        let file = fs::File::options().append(true).open(&object).unwrap();
        file.set_modified(long_ago).unwrap();
        publish(&built, &object).unwrap();
        assert_eq!(fs::metadata(&object).unwrap().modified().unwrap(), long_ago);

        fs::write(&built, "two").unwrap();
        publish(&built, &object).unwrap();
        assert_eq!(fs::read(&object).unwrap(), b"two");
        fs::remove_dir_all(folder).unwrap();
    }
}
