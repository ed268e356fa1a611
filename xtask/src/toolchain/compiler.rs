//! The compiler that runs: its version, its LLVM, its folder.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::project::Project;
use crate::step::capture;

/// What `rustc -vV` says about itself.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    release: String,
    commit: String,
    host: String,
    llvm_major: u32,
}

/// The running compiler.
pub(crate) struct Compiler {
    version: Version,
    sysroot: PathBuf,
    cache: PathBuf,
}

impl Compiler {
    /// Asks the compiler that cargo would use.
    pub(crate) fn running(project: &Project) -> Result<Self> {
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
        let ask = |arguments: &[&str]| {
            capture(
                Command::new(&rustc)
                    .args(arguments)
                    .current_dir(project.root()),
            )
        };
        let version = Version::parse(&ask(&["-vV"])?)?;
        let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?.trim_end());
        let cache = project.target().join("toolchain").join(version.key());
        Ok(Self {
            version,
            sysroot,
            cache,
        })
    }

    /// The release, for example `1.95.0`.
    pub(crate) fn release(&self) -> &str {
        &self.version.release
    }

    /// The machine that it compiles on and for, for example `x86_64-unknown-linux-gnu`.
    pub(crate) fn host(&self) -> &str {
        &self.version.host
    }

    /// The major version of its LLVM.
    pub(crate) const fn llvm_major(&self) -> u32 {
        self.version.llvm_major
    }

    /// The folder that it is installed in.
    pub(crate) fn sysroot(&self) -> &Path {
        &self.sysroot
    }

    /// The folder of what was obtained for exactly this compiler.
    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    /// The name of its rustup toolchain, if rustup manages it.
    pub(crate) fn rustup_toolchain(&self) -> Option<&str> {
        let folder = self.sysroot.parent()?;
        let managed =
            folder.file_name()? == "toolchains" && folder.parent()?.join("settings.toml").exists();
        managed
            .then(|| self.sysroot.file_name()?.to_str())
            .flatten()
    }
}

impl Version {
    fn parse(text: &str) -> Result<Self> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .with_context(|| format!("`rustc -vV` has no line `{name}`"))
        };
        let llvm = field("LLVM version")?;
        let llvm_major = llvm
            .split('.')
            .next()
            .unwrap_or(llvm)
            .parse()
            .with_context(|| format!("`rustc -vV` has an odd LLVM version: {llvm}"))?;
        Ok(Self {
            release: field("release")?.to_owned(),
            commit: field("commit-hash")?.to_owned(),
            host: field("host")?.to_owned(),
            llvm_major,
        })
    }

    /// Names this build of the compiler: two nightlies share a release, but not a commit.
    fn key(&self) -> String {
        let commit: String = self.commit.chars().take(9).collect();
        format!("{}-{commit}-{}", self.release, self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STABLE: &str = "\
rustc 1.95.0 (59807616e 2026-04-14)
binary: rustc
commit-hash: 59807616e1fa2540724bfbac14d7976d7e4a3860
commit-date: 2026-04-14
host: x86_64-unknown-linux-gnu
release: 1.95.0
LLVM version: 22.1.2
";

    #[test]
    fn the_version_is_read_from_what_rustc_says() {
        let version = Version::parse(STABLE).unwrap();
        assert_eq!(version.release, "1.95.0");
        assert_eq!(version.llvm_major, 22);
        assert_eq!(version.key(), "1.95.0-59807616e-x86_64-unknown-linux-gnu");
    }

    #[test]
    fn a_compiler_without_llvm_is_refused_with_the_line_it_lacks() {
        let text = STABLE.replace("LLVM version", "Cranelift");
        let error = Version::parse(&text).unwrap_err();
        assert_eq!(error.to_string(), "`rustc -vV` has no line `LLVM version`");
    }
}
