//! `interceptor version`.

use serde::Serialize;

use super::output::{Printer, Report, Style};
use super::{Exit, Failure};

/// The version of this binary.
///
/// The running agent's version is in `interceptor status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

#[derive(Debug, Serialize)]
struct Version {
    version: &'static str,
}

pub(super) fn run(_args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    printer.report(&Version {
        version: env!("CARGO_PKG_VERSION"),
    })
}

impl Report for Version {
    fn text(&self, _style: Style) -> String {
        format!("interceptor {}", self.version)
    }

    fn exit(&self) -> Exit {
        Exit::Yes
    }
}
