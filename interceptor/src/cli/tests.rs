//! What the commands print and how they exit, as the person who typed them sees it.

use clap::CommandFactory as _;
use jiff::Timestamp;

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

/// The help of every command, as a person reads it on a wide terminal.
#[test]
fn helps_are_golden() {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut helps = command.render_long_help().to_string();
    let names: Vec<_> = command
        .get_subcommands()
        .map(|c| c.get_name().to_owned())
        .collect();
    for name in names {
        if let Some(sub) = command.find_subcommand_mut(&name) {
            helps.push_str("\n=== ");
            helps.push_str(&name);
            helps.push_str(" ===\n");
            helps.push_str(&sub.render_long_help().to_string());
        }
    }
    insta::assert_snapshot!(helps);
}

#[test]
fn arguments_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn a_healthy_status_is_golden() {
    let answer = status::Answer {
        status: statuses::healthy(),
        now: now(),
    };
    assert_eq!(answer.exit(), Exit::Yes);
    insta::assert_snapshot!(answer.text(Style::Plain));
}

#[test]
fn a_troubled_status_is_golden() {
    let answer = status::Answer {
        status: statuses::troubled(),
        now: now(),
    };
    assert_eq!(answer.exit(), Exit::No);
    insta::assert_snapshot!(answer.text(Style::Plain));
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
    let json = serde_json::to_value(&status::Answer {
        status: status.clone(),
        now: now(),
    })
    .unwrap();
    assert_eq!(
        serde_json::from_value::<crate::telemetry::Status>(json).unwrap(),
        status
    );
}
