//! `cargo xtask lint`: everything that can be said about the code without running it.
//!
//! The quick checks come first. Warnings are errors here and only here, by clippy's own argument
//! and not by `RUSTFLAGS`, which would compile every dependency a second time.

use anyhow::Result;

use crate::build::{HOST_CRATES, XTASK};
use crate::build_ebpf::{Kernel, build_ebpf};
use crate::dependencies::dependencies;
use crate::files::files;
use crate::fmt;
use crate::layers::layers;
use crate::project::Project;
use crate::step::{run, say};
use crate::toolchain::rustup;

/// The documentation is for whoever works on the code: private items are in it, and may be linked.
const DOCUMENTATION: &str = "-Dwarnings -Arustdoc::private_intra_doc_links";

/// Checks everything, and stops at the first check that fails.
pub(crate) fn task(project: &Project) -> Result<()> {
    rustup::require(project, "clippy", "clippy")?;
    fmt::task(project, &fmt::Args::CHECK)?;
    files(project)?;
    layers(project)?;
    say("layout, headers, lengths, layers: fine");

    // The agent embeds the kernel programs, so that it cannot even be checked without them.
    build_ebpf(project)?;
    let deny_warnings = ["--", "-D", "warnings"];
    run(Kernel::obtain(project)?.cargo("clippy").args(deny_warnings))?;
    for crates in [&HOST_CRATES[..], &XTASK] {
        let mut cargo = project.cargo();
        cargo.arg("clippy").args(crates).arg("--all-targets");
        run(cargo.args(deny_warnings))?;
    }
    dependencies(project)?;
    say("dependencies: every one is used, none is banned");
    for crates in [&HOST_CRATES[..], &XTASK] {
        let mut cargo = project.cargo();
        cargo.env("RUSTDOCFLAGS", DOCUMENTATION).arg("doc");
        run(cargo
            .args(crates)
            .args(["--no-deps", "--document-private-items"]))?;
    }
    Ok(())
}
