//! Finds the compiled kernel programs and names them to the compiler, which embeds them.
//!
//! They are built by `cargo xtask build-ebpf` and not from here: their toolchain has to be obtained
//! first, and a plain `cargo check` or an editor must not start downloading one. An agent without
//! kernel programs could only fail at run time, so a missing object fails the build instead.
//!
//! A target folder that was copied from elsewhere leads to the object there until this script runs again:
//! touch it.
//!
//! `INTERCEPTOR_EBPF_OBJECT` overrides the place; every place is watched, so that a new object
//! means a new agent.

use std::env;
use std::path::PathBuf;

const OBJECT: &str = "INTERCEPTOR_EBPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-env-changed={OBJECT}");
    println!("cargo::rerun-if-changed=build.rs");
    let object = env::var_os(OBJECT).map_or_else(built_earlier, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    if object.is_file() {
        println!("cargo::rustc-env={OBJECT}={}", object.display());
    } else {
        println!(
            "cargo::error=the kernel programs are not built: {} does not exist. Run `cargo xtask \
             build-ebpf` once (it obtains what it needs), then build again",
            object.display()
        );
    }
}

/// `interceptor-ebpf.o` in the target folder, which is somewhere above the folder that cargo gave
/// to this script, whatever `CARGO_TARGET_DIR` and `--target` say.
fn built_earlier() -> PathBuf {
    let out = env::var_os("OUT_DIR")
        .map(PathBuf::from)
        .unwrap_or_default();
    out.ancestors()
        .map(|folder| folder.join("interceptor-ebpf.o"))
        .find(|object| object.is_file())
        .unwrap_or_else(|| PathBuf::from("../target/interceptor-ebpf.o"))
}
