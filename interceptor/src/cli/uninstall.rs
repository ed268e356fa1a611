//! `interceptor uninstall`: take the kernel half of a node away, and prove it.

use std::path::PathBuf;

use serde::Serialize;

use super::output::{Printer, Report, Style, Tone};
use super::settings::AgentConfig;
use super::{Exit, Failure, doctor, human};
use crate::capture::{self, Leftover};

/// Remove every pinned program and map of this node, and prove that nothing is left.
///
/// The agent leaves its kernel programs in place when it stops, so that the ports of enrolled
/// workloads stay closed instead of open. This command takes them away: from then on connections
/// are made as if there had never been an agent, in plaintext. Workloads need not be restarted.
///
/// The agent must be stopped first. Other nodes' agents on the same machine are left alone.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code: 0 nothing is left, 1 something is left (it is named), 2 could not try.

Examples:
  systemctl stop interceptor && interceptor uninstall --verify
  interceptor uninstall --config agent.yaml")]
pub(super) struct Args {
    #[command(flatten)]
    config: AgentConfig,

    /// Also ask the kernel whether any program, link or map of ours is still loaded.
    #[arg(long)]
    verify: bool,
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    let config = args.config.load_or_default()?.capture;
    doctor::privileges()?;
    let removed = capture::uninstall(&config).map_err(|error| {
        let failure = Failure::from_error(&error);
        if matches!(
            error,
            capture::UninstallError::Capture(capture::CaptureError::Running { .. })
        ) {
            failure.try_next("stop it first: systemctl stop interceptor")
        } else {
            failure.try_next("run as root: sudo interceptor uninstall")
        }
    })?;
    let left = if args.verify {
        let mut left = capture::still_held(&removed);
        left.extend(capture::verify_removed(&config).map_err(|error| Failure::from_error(&error))?);
        left
    } else {
        Vec::new()
    };
    printer.report(&Uninstalled {
        node: config.node,
        programs: removed.links,
        maps: removed.maps,
        verified: args.verify,
        left: left.iter().map(Left::from).collect(),
    })
}

#[derive(Debug, Serialize)]
struct Uninstalled {
    node: String,
    programs: usize,
    maps: usize,
    verified: bool,
    left: Vec<Left>,
}

/// Something that is still there.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum Left {
    Pinned(PathBuf),
    Program { name: String, id: u32 },
    Held { what: &'static str, id: u32 },
}

impl From<&Leftover> for Left {
    fn from(leftover: &Leftover) -> Self {
        match leftover {
            Leftover::Pinned(path) => Self::Pinned(path.clone()),
            Leftover::Program { name, id } => Self::Program {
                name: name.clone(),
                id: *id,
            },
            Leftover::Held { what, id } => Self::Held { what, id: *id },
        }
    }
}

impl Report for Uninstalled {
    fn text(&self, style: Style) -> String {
        let removed = if self.programs + self.maps == 0 {
            format!("node {}: there was nothing to remove", self.node)
        } else {
            format!(
                "node {}: {} and {} removed",
                self.node,
                human::count(self.programs, "attached program"),
                human::count(self.maps, "map")
            )
        };
        if !self.left.is_empty() {
            let mut text = format!("{removed}; {} LEFT", self.left.len());
            text = style.paint(Tone::Bad, &text);
            for left in &self.left {
                text.push_str("\n  ");
                text.push_str(&left.describe());
            }
            return text;
        }
        let proof = if self.verified {
            "; verified: nothing is left"
        } else {
            ""
        };
        style.paint(Tone::Good, &format!("{removed}{proof}"))
    }

    fn exit(&self) -> Exit {
        if self.left.is_empty() {
            Exit::Yes
        } else {
            Exit::No
        }
    }
}

impl Left {
    fn describe(&self) -> String {
        match self {
            Self::Pinned(path) => format!("{}: remove it with rm -r", path.display()),
            Self::Held { what, id } => {
                let command = if *what == "program" { "prog" } else { what };
                format!(
                    "{what} {id}: detached, but some process holds it; find it with bpftool \
                     {command} show id {id}"
                )
            }
            Self::Program { name, id } => format!(
                "program {name}, id {id}: some process holds it; find it with bpftool prog show id {id}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uninstalled(left: Vec<Left>) -> Uninstalled {
        Uninstalled {
            node: "one".to_owned(),
            programs: 9,
            maps: 1,
            verified: true,
            left,
        }
    }

    #[test]
    fn what_is_left_is_named_and_the_answer_is_no() {
        let left = uninstalled(vec![
            Left::Pinned(PathBuf::from("/sys/fs/bpf/interceptor/one")),
            Left::Program {
                name: "ic_connect4".to_owned(),
                id: 7,
            },
            Left::Held {
                what: "map",
                id: 12,
            },
        ]);
        assert_eq!(left.exit(), Exit::No);
        insta::assert_snapshot!(left.text(Style::Plain));
    }

    #[test]
    fn nothing_left_is_said_in_the_first_line() {
        let clean = uninstalled(Vec::new());
        assert_eq!(clean.exit(), Exit::Yes);
        assert_eq!(
            clean.text(Style::Plain),
            "node one: 9 attached programs and 1 map removed; verified: nothing is left"
        );
    }
}
