//! Printing answers: aligned text, colours on a terminal, JSON.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use super::{Exit, Failure, Output};

/// An answer that can be printed both ways.
pub(super) trait Report: Serialize {
    /// The answer for people; its first line is the answer itself.
    fn text(&self, style: Style) -> String;

    /// Yes or no.
    fn exit(&self) -> Exit;
}

/// Whether text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Without escape sequences.
    Plain,
    /// For terminals.
    Coloured,
}

/// What a piece of text means; its colour follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    /// Nothing special.
    #[default]
    Normal,
    /// As it should be.
    Good,
    /// Somebody should look.
    Warning,
    /// Not as it should be.
    Bad,
    /// Less important.
    Faint,
    /// A heading.
    Strong,
}

impl Style {
    /// `text` in the colour of `tone`.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Normal => return text.to_owned(),
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31",
            Tone::Faint => "2",
            Tone::Strong => "1",
        };
        match self {
            Self::Plain => text.to_owned(),
            Self::Coloured => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

/// Where answers go.
#[derive(Debug)]
pub(super) struct Printer {
    output: Output,
    style: Style,
}

impl Printer {
    /// Prints to standard output, coloured if that is a terminal and nobody asked for no colours.
    pub(super) fn stdout(output: Output) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let style = if io::stdout().is_terminal() && wanted {
            Style::Coloured
        } else {
            Style::Plain
        };
        Self { output, style }
    }

    /// Prints `report` and returns its answer.
    pub(super) fn report(&self, report: &impl Report) -> Result<Exit, Failure> {
        match self.output {
            Output::Text => Self::line(report.text(self.style).trim_end())?,
            Output::Json => Self::json(report)?,
        }
        Ok(report.exit())
    }

    /// Prints one event of a stream: a line of text, or a JSON object on one line.
    pub(super) fn event(
        &self,
        event: &impl Serialize,
        text: impl FnOnce(Style) -> String,
    ) -> Result<(), Failure> {
        match self.output {
            Output::Text => Self::line(&text(self.style)),
            Output::Json => {
                let line = serde_json::to_string(event).map_err(|e| Failure::from_error(&e))?;
                Self::line(&line)
            }
        }
    }

    fn json(value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(|e| Failure::from_error(&e))?;
        Self::line(&text)
    }

    fn line(text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            // `interceptor … | head`: the reader has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::unheard()),
            Err(error) => Err(Failure::from_error(&error)),
            Ok(()) => Ok(()),
        }
    }
}

/// A table with aligned columns.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Row>,
}

#[derive(Debug)]
enum Row {
    Cells(Vec<(String, Tone)>),
    /// A line under a row, indented.
    Note(String, Tone),
}

/// A cell without a tone.
pub(super) fn cell(text: impl Into<String>) -> (String, Tone) {
    (text.into(), Tone::Normal)
}

impl Table {
    /// A table with these column heads.
    pub(super) fn new<const N: usize>(heads: [&str; N]) -> Self {
        let heads = heads.map(|head| (head.to_owned(), Tone::Strong));
        Self {
            rows: vec![Row::Cells(heads.into())],
        }
    }

    /// A table without column heads.
    pub(super) const fn headless() -> Self {
        Self { rows: Vec::new() }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [(String, Tone); N]) {
        self.rows.push(Row::Cells(cells.into()));
    }

    /// A line under the last row.
    pub(super) fn note(&mut self, text: impl Into<String>, tone: Tone) {
        self.rows.push(Row::Note(text.into(), tone));
    }

    /// The lines, without trailing spaces.
    pub(super) fn text(&self, style: Style) -> String {
        let mut widths: Vec<usize> = Vec::new();
        for row in &self.rows {
            let Row::Cells(cells) = row else { continue };
            widths.resize(widths.len().max(cells.len()), 0);
            for (width, (text, _)) in widths.iter_mut().zip(cells) {
                *width = (*width).max(text.chars().count());
            }
        }
        let mut out = String::new();
        for row in &self.rows {
            match row {
                Row::Note(text, tone) => {
                    out.push_str("  ");
                    out.push_str(&style.paint(*tone, text));
                }
                Row::Cells(cells) => out.push_str(&line(cells, &widths, style)),
            }
            out.push('\n');
        }
        out
    }
}

fn line(cells: &[(String, Tone)], widths: &[usize], style: Style) -> String {
    let mut out = String::new();
    let mut gap = 0;
    for ((text, tone), width) in cells.iter().zip(widths) {
        if !text.is_empty() {
            out.extend(std::iter::repeat_n(' ', gap));
            gap = 0;
            out.push_str(&style.paint(*tone, text));
        }
        gap += width.saturating_sub(text.chars().count()) + 2;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_whatever_their_colour_and_no_line_ends_in_spaces() {
        let mut table = Table::new(["A", "LONGER"]);
        table.row([cell("wide cell"), ("x".to_owned(), Tone::Good)]);
        table.row([cell(""), cell("y")]);
        table.note("why", Tone::Bad);
        let plain = table.text(Style::Plain);
        assert_eq!(
            plain,
            "A          LONGER\nwide cell  x\n           y\n  why\n"
        );
        let coloured = table.text(Style::Coloured);
        let stripped: String =
            coloured
                .split('\x1b')
                .map(|part| {
                    part.split_once('m').map_or(part, |(code, rest)| {
                        if code.starts_with('[') { rest } else { part }
                    })
                })
                .collect();
        assert_eq!(stripped, plain);
    }
}
