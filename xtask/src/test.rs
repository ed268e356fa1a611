//! `cargo xtask test`: the unit tests, then the end-to-end tests.
//!
//! Both run on what [`build::everything`] has built, with the same packages chosen, because cargo
//! builds a dependency anew for every other set of features.

use std::fs;

use anyhow::Result;

use crate::build::{self, HOST_CRATES, Profile, XTASK};
use crate::project::Project;
use crate::step::{run, say};
use crate::toolchain::envoy;
use crate::toolchain::tools::{Need, require};

/// Options of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the tests beside the code, which need no privilege
    #[arg(long, conflicts_with = "e2e")]
    unit: bool,

    /// Only the end-to-end tests: as root, with namespaces, cgroups and real agents
    #[arg(long)]
    e2e: bool,

    /// Given to `cargo test` as it is, for example `-- capture -- --nocapture`
    #[arg(last = true)]
    cargo_arguments: Vec<String>,
}

/// Runs the tests that were asked for.
pub(crate) fn task(project: &Project, args: &Args) -> Result<()> {
    if !args.unit {
        require_all(project)?;
    }
    build::everything(project)?;
    if !args.e2e {
        unit(project, &args.cargo_arguments)?;
    }
    if !args.unit {
        e2e(project, &args.cargo_arguments)?;
    }
    Ok(())
}

/// Asks for all that the end-to-end tests take, so that what is missing is said at once.
pub(crate) fn require_all(project: &Project) -> Result<()> {
    let envoy = envoy::found(project).map_or(&[Need::Envoy][..], |_| &[]);
    require(&[&[Need::Compile, Need::Namespaces], envoy].concat())
}

/// The product's own tests, and the examples in its documentation.
///
/// Those of them that need a privilege say so and are skipped without it.
pub(crate) fn unit(project: &Project, arguments: &[String]) -> Result<()> {
    let test = |crates: &[&str], kinds: &[&str]| {
        let mut cargo = project.cargo();
        cargo.arg("test").args(crates).args(kinds).args(arguments);
        run(&mut cargo)
    };
    let beside = beside_the_code(project)?;
    let mut kinds = vec!["--lib", "--bins"];
    kinds.extend(beside.iter().flat_map(|name| ["--test", name]));
    let all = [
        test(&HOST_CRATES, &kinds),
        test(&HOST_CRATES, &["--doc"]),
        test(&XTASK, &[]),
    ];
    all.into_iter().collect()
}

/// The names of the product's tests that are programs of their own.
fn beside_the_code(project: &Project) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for member in ["interceptor", "interceptor/policy", "interceptor-common"] {
        let folder = project.root().join(member).join("tests");
        if !folder.exists() {
            continue;
        }
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "rs")
                || path.join("main.rs").exists()
            {
                let name = path.file_stem().unwrap_or_default();
                names.push(name.to_string_lossy().into_owned());
            }
        }
    }
    Ok(names)
}

/// The end-to-end tests, given the agent that was built.
pub(crate) fn e2e(project: &Project, arguments: &[String]) -> Result<()> {
    let agent = Profile::Dev.folder(project).join("interceptor");
    let mut cargo = project.cargo();
    cargo.env("INTERCEPTOR_BIN", agent);
    match envoy::obtain(project) {
        Ok(envoy) => drop(cargo.env(envoy::VARIABLE, envoy)),
        // The tests that need it fail where a skip is a failure, and print a skip elsewhere.
        Err(error) => say(format_args!("no Envoy to test against: {error:#}")),
    }
    cargo.arg("test").args(HOST_CRATES);
    run(cargo.args(["--test", "e2e"]).args(arguments))
}
