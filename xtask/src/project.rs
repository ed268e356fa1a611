//! Where this checkout and its build products are, and how cargo is started in it.
//!
//! Everything that a task makes lies under the target folder: `cargo clean` undoes all of it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::step::capture;

/// One checkout of the repository.
pub(crate) struct Project {
    root: PathBuf,
    target: PathBuf,
}

impl Project {
    /// The checkout that this program was built from.
    pub(crate) fn find() -> Result<Self> {
        // At run time, because a built xtask survives a move of the checkout.
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest
            .parent()
            .context("xtask is not inside a workspace")?
            .to_path_buf();
        let metadata = capture(
            Command::new(program())
                .args([
                    "metadata",
                    "--no-deps",
                    "--format-version=1",
                    "--manifest-path",
                ])
                .arg(root.join("Cargo.toml")),
        )?;
        let target = target_folder(&metadata).context("cargo names no target folder")?;
        Ok(Self { root, target })
    }

    /// The top folder of the checkout.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target folder.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Cargo as the user started it.
    ///
    /// What the outer `cargo run` told this program about itself is taken out of the environment:
    /// build scripts read it, and would be run again for every change of it.
    pub(crate) fn cargo(&self) -> Command {
        self.command(program())
    }

    /// Cargo without the user's flags for the host, for whatever is not of the host's build.
    pub(crate) fn plain_cargo(&self) -> Command {
        let mut cargo = self.cargo();
        for (name, _) in env::vars_os() {
            if steers_compilation(&name.to_string_lossy()) {
                cargo.env_remove(name);
            }
        }
        cargo
    }

    /// `program` in this checkout, with the user's own environment.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target);
        for (name, _) in env::vars_os() {
            if told_by_cargo_run(&name.to_string_lossy()) {
                command.env_remove(name);
            }
        }
        match self.library_path() {
            Some(path) => command.env("LD_LIBRARY_PATH", path),
            None => command.env_remove("LD_LIBRARY_PATH"),
        };
        command
    }

    /// The user's own library path: `cargo run` puts build folders and the toolchain before it.
    fn library_path(&self) -> Option<OsString> {
        let path = env::var_os("LD_LIBRARY_PATH")?;
        let own = env::split_paths(&path)
            .filter(|entry| !entry.starts_with(&self.target) && !entry.join("rustlib").exists())
            .filter(|entry| !entry.as_os_str().is_empty());
        env::join_paths(own).ok().filter(|path| !path.is_empty())
    }
}

fn told_by_cargo_run(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || matches!(name, "CARGO_MANIFEST_DIR" | "CARGO_MANIFEST_PATH")
}

/// The user may have set it in the environment or in any of cargo's configuration files.
fn target_folder(metadata: &str) -> Option<PathBuf> {
    let (_, rest) = metadata.split_once("\"target_directory\":\"")?;
    Some(PathBuf::from(rest.split_once('"')?.0))
}

fn program() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"))
}

/// True for a variable that changes how cargo compiles: the kernel programs are built for another
/// target, and flags meant for the host break them.
fn steers_compilation(name: &str) -> bool {
    const PREFIXES: [&str; 4] = [
        "CARGO_BUILD_",
        "CARGO_ENCODED_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
    ];
    let prefixed = PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    prefixed && name != "CARGO_BUILD_JOBS"
        || matches!(
            name,
            "RUSTC" | "RUSTC_WORKSPACE_WRAPPER" | "RUSTC_WRAPPER" | "RUSTFLAGS" | "RUSTDOCFLAGS"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_folder_is_the_one_that_cargo_uses() {
        let metadata = r#"{"packages":[],"target_directory":"/x/target","version":1}"#;
        assert_eq!(target_folder(metadata), Some(PathBuf::from("/x/target")));
        assert_eq!(target_folder("{}"), None);
    }

    #[test]
    fn host_flags_are_kept_from_the_kernel_programs() {
        for name in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "CARGO_TARGET_DIR",
            "CARGO_PROFILE_RELEASE_LTO",
        ] {
            assert!(steers_compilation(name), "{name}");
        }
    }

    #[test]
    fn the_users_registry_and_network_settings_are_kept() {
        for name in [
            "CARGO_BUILD_JOBS",
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_HTTP_PROXY",
            "CARGO_SOURCE_CRATES_IO_REPLACE_WITH",
            "RUSTUP_TOOLCHAIN",
        ] {
            assert!(!steers_compilation(name), "{name}");
            assert!(!told_by_cargo_run(name), "{name}");
        }
    }
}
