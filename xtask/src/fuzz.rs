//! `cargo xtask fuzz`: bad input, for as long as one likes.
//!
//! The fuzzer is a test program of the agent (`interceptor/tests/fuzz`) and needs nothing but the
//! compiler that builds the agent. Its targets run side by side, each for the whole time.

use anyhow::Result;

use crate::build::{self, HOST_CRATES};
use crate::project::Project;
use crate::step::run;

/// Options of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long
    #[arg(long, default_value_t = Args::CI.seconds, value_name = "N")]
    seconds: u64,

    /// The number that a run printed, to see the same again
    #[arg(long)]
    seed: Option<u64>,
}

impl Args {
    /// What CI runs: a minute, all targets at once.
    pub(crate) const CI: Self = Self {
        seconds: 60,
        seed: None,
    };
}

/// Builds the fuzzer as `cargo xtask test` does, and runs it.
pub(crate) fn task(project: &Project, args: &Args) -> Result<()> {
    build::everything(project)?;
    let mut cargo = project.cargo();
    cargo.env("INTERCEPTOR_FUZZ_SECONDS", args.seconds.to_string());
    if let Some(seed) = args.seed {
        cargo.env("INTERCEPTOR_FUZZ_SEED", seed.to_string());
    }
    // Not captured: each target tells how far it came.
    let fuzz = ["--test", "fuzz", "--", "--nocapture"];
    run(cargo.arg("test").args(HOST_CRATES).args(fuzz))
}
