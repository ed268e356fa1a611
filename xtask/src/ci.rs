//! `cargo xtask ci`: exactly what CI runs, in its order, with the time that each step took.
//!
//! Everything is compiled with the `dev` profile and for one choice of packages, so that each
//! dependency is compiled once for checking and once for running.
//!
//! A step that fails does not hide what the others would say: one run tells all that is wrong.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::project::Project;
use crate::step::say;
use crate::{build, demo, fuzz, lint, test};

type Step = fn(&Project) -> Result<()>;

/// Without it, nothing that follows can say anything.
const BUILD: &str = "build";

const STEPS: [(&str, Step); 6] = [
    ("lint", lint::task),
    (BUILD, build::everything),
    ("unit tests", |project| {
        test::unit(project, &["--no-fail-fast".to_owned()])
    }),
    ("fuzz", |project| fuzz::task(project, &fuzz::Args::CI)),
    ("end-to-end tests", |project| test::e2e(project, &[])),
    ("demo --check", demo::check),
];

/// Runs the steps, and fails if any of them did.
pub(crate) fn task(project: &Project) -> Result<()> {
    test::require_all(project)?;
    let mut took: Vec<(&str, Duration)> = Vec::new();
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        say(format_args!("ci: {name}"));
        let start = Instant::now();
        let result = step(project);
        took.push((name, start.elapsed()));
        if let Err(error) = result {
            say(format_args!("error: ci: {name}: {error:#}"));
            failed.push(name);
            if name == BUILD {
                break;
            }
        }
    }
    report(&took);
    ensure!(failed.is_empty(), "ci failed at {}", failed.join(", "));
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
