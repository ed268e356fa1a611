//! `cargo xtask build`: the agent, with the kernel programs embedded.

use std::path::PathBuf;

use anyhow::Result;

use crate::build_ebpf::build_ebpf;
use crate::project::Project;
use crate::step::{run, say};

/// Chooses the product and its tests, the same way for each command: cargo unites the features of
/// what is chosen, and compiles a dependency anew for every other union.
pub(crate) const HOST_CRATES: [&str; 5] = [
    "--workspace",
    "--exclude",
    "interceptor-ebpf",
    "--exclude",
    "xtask",
];

/// Chooses xtask, alone as `cargo xtask` does. In one union with the product, it would change how
/// every procedural macro is compiled, for it uses as a library what they are made of.
pub(crate) const XTASK: [&str; 2] = ["--package", "xtask"];

/// How fast the result is to be, and how fast it is to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Cargo's `dev`: quick to build; tests and CI use it throughout.
    Dev,
    /// Cargo's `release`: what is shipped, demonstrated and measured.
    Release,
}

/// Options of `cargo xtask build`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Optimise, as for shipping
    #[arg(long)]
    release: bool,
}

/// Builds the agent as asked.
pub(crate) fn task(project: &Project, args: &Args) -> Result<()> {
    let profile = if args.release {
        Profile::Release
    } else {
        Profile::Dev
    };
    let agent = build(project, profile)?;
    say(format_args!("agent: {}", agent.display()));
    Ok(())
}

/// Builds the agent and returns where it is.
pub(crate) fn build(project: &Project, profile: Profile) -> Result<PathBuf> {
    build_ebpf(project)?;
    let mut cargo = project.cargo();
    cargo.args(["build", "--package", "interceptor"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    run(&mut cargo)?;
    Ok(profile.folder(project).join("interceptor"))
}

/// Builds the agent and every test, with the profile and the features that the tests run with.
pub(crate) fn everything(project: &Project) -> Result<()> {
    build_ebpf(project)?;
    run(project
        .cargo()
        .arg("build")
        .args(HOST_CRATES)
        .args(["--lib", "--bins", "--tests"]))
}

impl Profile {
    /// Where cargo puts what it builds with this profile.
    pub(crate) fn folder(self, project: &Project) -> PathBuf {
        project.target().join(match self {
            Self::Dev => "debug",
            Self::Release => "release",
        })
    }
}
