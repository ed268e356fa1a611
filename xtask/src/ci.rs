//! `cargo xtask ci`: exactly what CI runs, in its order, with the time that each step took.
//!
//! Everything is compiled with the `dev` profile and for one choice of packages, so that each
//! dependency is compiled once for checking and once for running.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::project::Project;
use crate::step::say;
use crate::{build, demo, fuzz, lint, test};

type Step = fn(&Project) -> Result<()>;

const STEPS: [(&str, Step); 6] = [
    ("lint", lint::task),
    ("build", build::everything),
    ("unit tests", |project| test::unit(project, &[])),
    ("fuzz", |project| fuzz::task(project, &fuzz::Args::CI)),
    ("end-to-end tests", |project| test::e2e(project, &[])),
    ("demo --check", demo::check),
];

/// Runs the steps, and stops at the first that fails.
pub(crate) fn task(project: &Project) -> Result<()> {
    test::require_all(project)?;
    let mut took: Vec<(&str, Duration)> = Vec::new();
    for (name, step) in STEPS {
        say(format_args!("ci: {name}"));
        let start = Instant::now();
        let result = step(project);
        took.push((name, start.elapsed()));
        if result.is_err() {
            report(&took);
        }
        result.with_context(|| format!("ci failed at {name}"))?;
    }
    report(&took);
    say("ci: all of it passed");
    Ok(())
}

fn report(took: &[(&str, Duration)]) {
    for (name, duration) in took {
        say(format_args!(
            "ci: {:>6.1} s  {name}",
            duration.as_secs_f32()
        ));
    }
}
