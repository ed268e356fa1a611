//! What the commands print and how they exit, as the person who typed them sees it.

use clap::CommandFactory as _;
use jiff::Timestamp;
use rstest::rstest;

use super::output::{Report as _, Style};
use super::*;
use crate::telemetry::ConnectionView;
use crate::telemetry::record::fixtures as records;
use crate::telemetry::status::fixtures as statuses;
use crate::telemetry::view::State;

fn now() -> Timestamp {
    "2025-03-01T12:05:00Z".parse().unwrap()
}

fn view(record: &crate::telemetry::Record, state: State) -> ConnectionView {
    ConnectionView {
        at: "2025-03-01T12:00:00Z".parse().unwrap(),
        ..ConnectionView::new(record, state)
    }
}

/// `docs/cli.md`: the help of every command, as a person reads it on a wide terminal.
fn manual() -> String {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut manual = "# Commands\n\n\
         <!-- Made from interceptor/src/cli: \
         `INTERCEPTOR_GEN=1 cargo test -p interceptor docs_show_the_help_of_every_command` -->\n\n\
         `interceptor run` is the agent; the rest are people's tools. All of them take `-o json`.\n"
        .to_owned();
    section(&mut manual, "interceptor", &mut command.clone());
    for sub in command.get_subcommands_mut() {
        if sub.get_name() == "help" {
            continue;
        }
        let name = format!("interceptor {}", sub.get_name());
        section(&mut manual, &name, sub);
        for below in sub.get_subcommands_mut() {
            if below.get_name() != "help" {
                section(&mut manual, &format!("{name} {}", below.get_name()), below);
            }
        }
    }
    manual
}

fn section(manual: &mut String, name: &str, command: &mut clap::Command) {
    let help = command.render_long_help().to_string();
    let lines: Vec<_> = help.lines().map(str::trim_end).collect();
    manual.extend(["\n## ", name, "\n\n```text\n", &lines.join("\n"), "\n```\n"]);
}

#[test]
fn docs_show_the_help_of_every_command() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's switch, not configuration"
    )]
    if std::env::var("INTERCEPTOR_GEN").is_ok() {
        std::fs::write(&path, manual()).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(&path).unwrap_or_default(),
        manual(),
        "run: INTERCEPTOR_GEN=1 cargo test -p interceptor docs_show_the_help_of_every_command"
    );
}

#[test]
fn arguments_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn a_healthy_status_is_golden() {
    let answer = status::Answer::new(statuses::healthy(), now());
    assert_eq!(answer.exit(), Exit::Yes);
    insta::assert_snapshot!(answer.text(Style::Plain));
}

#[test]
fn a_troubled_status_is_golden() {
    let answer = status::Answer::new(statuses::troubled(), now());
    assert_eq!(answer.exit(), Exit::No);
    insta::assert_snapshot!(answer.text(Style::Plain));
}

#[rstest]
#[case::four_fifths("flows", 52_428, false)]
#[case::one_more("flows", 52_429, true)]
#[case::full("flows", 65_536, true)]
#[case::one_that_gives_its_oldest_entries_up("EXPECTED", 65_536, false)]
fn a_map_that_is_nearly_full_is_complained_of(
    #[case] name: &str,
    #[case] entries: u64,
    #[case] complained: bool,
) {
    let mut healthy = statuses::healthy();
    healthy.maps[0].name = name.to_owned();
    healthy.maps[0].entries = entries;
    let answer = status::Answer::new(healthy, now());
    let complaint = format!(
        "the map of connections being made or open is nearly full ({entries} of 65536): \
         raise its size in the configuration"
    );
    let text = answer.text(Style::Plain);
    assert_eq!(text.contains(&complaint), complained, "{text}");
    let exit = if complained { Exit::No } else { Exit::Yes };
    assert_eq!(answer.exit(), exit);
}

#[test]
fn connections_are_golden() {
    let answer = connections::Answer {
        live: Some(vec![
            view(&records::allowed(), State::Open),
            view(&records::passthrough(), State::Open),
        ]),
        recent: vec![
            view(&records::failed(), State::Refused),
            view(&records::denied(), State::Refused),
        ],
        now: now(),
    };
    insta::assert_snapshot!(answer.text(Style::Plain));
}

#[test]
fn followed_connections_are_golden() {
    let lines: Vec<_> = [
        view(&records::allowed(), State::Open),
        ConnectionView {
            at: now(),
            ..ConnectionView::from(&records::allowed())
        },
        view(&records::denied(), State::Refused),
        view(&records::failed(), State::Refused),
        view(&records::cut(), State::Closed),
    ]
    .iter()
    .map(|view| connections::event_line(view, Style::Plain))
    .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn certificates_are_golden() {
    let mut certificates = statuses::troubled().certificates;
    certificates.extend(statuses::healthy().certificates);
    let answer = certificates::Answer {
        certificates,
        now: now(),
    };
    assert_eq!(answer.exit(), Exit::No);
    insta::assert_snapshot!(answer.text(Style::Plain));
}

#[test]
fn json_is_what_the_agent_said() {
    let status = statuses::troubled();
    let json = serde_json::to_value(status::Answer::new(status.clone(), now())).unwrap();
    assert_eq!(
        serde_json::from_value::<crate::telemetry::Status>(json).unwrap(),
        status
    );
}
