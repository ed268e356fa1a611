//! How the demonstration looks: headings, facts in two columns, claims with a tick. Colours only
//! on a terminal.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Result;

use crate::settings;

/// Column of the facts' values.
const LABEL: usize = 15;
/// Where lines end.
const WIDTH: usize = 120;

/// Prints, and counts claims.
#[derive(Debug)]
pub struct Show {
    colour: bool,
    scene: usize,
    claims: usize,
    failed: Vec<String>,
}

/// How a piece of text is set.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ink {
    Bold,
    Dim,
    Green,
    Red,
    Cyan,
}

impl Show {
    /// On standard output.
    pub fn new() -> Self {
        let colour = io::stdout().is_terminal() && settings::variable("NO_COLOR").is_none();
        Self {
            colour,
            scene: 0,
            claims: 0,
            failed: Vec::new(),
        }
    }

    /// Text in a colour, where there are colours.
    pub(super) fn ink(&self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Bold => "1",
            Ink::Dim => "2",
            Ink::Green => "32",
            Ink::Red => "31",
            Ink::Cyan => "36",
        };
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    pub(super) fn title(&self, text: &str) -> Result<()> {
        self.print(&format!("\n{}\n", self.ink(Ink::Bold, text)))
    }

    /// Begins a numbered scene.
    pub(super) fn scene(&mut self, text: &str) -> Result<()> {
        self.scene += 1;
        let number = self.ink(Ink::Cyan, &format!("{}.", self.scene));
        self.print(&format!("\n{number} {}\n", self.ink(Ink::Bold, text)))
    }

    /// A label and what is to be said under it; further lines stay in their column.
    pub(super) fn fact(&self, label: &str, value: &str) -> Result<()> {
        let mut label = self.ink(Ink::Dim, &format!("{label:<LABEL$}"));
        for line in wrap(value, WIDTH - LABEL - 3) {
            self.print(&format!("   {label}{line}\n"))?;
            label = " ".repeat(LABEL);
        }
        Ok(())
    }

    /// Something that must be so: with a tick if it is, else with what was found instead.
    pub(super) fn claim(&mut self, what: &str, outcome: Result<()>) -> Result<()> {
        self.claims += 1;
        match outcome {
            Ok(()) => self.print(&format!("   {} {what}\n", self.ink(Ink::Green, "✓"))),
            Err(error) => {
                self.failed.push(what.to_owned());
                self.print(&format!(
                    "   {} {what}\n     {error:#}\n",
                    self.ink(Ink::Red, "✗ NOT SO:")
                ))
            }
        }
    }

    /// A block of somebody else's words, set apart and cut at the margin.
    pub(super) fn quote(&self, text: &str) -> Result<()> {
        for line in text.lines() {
            let mut short: String = line.chars().take(WIDTH - 6).collect();
            if short.len() < line.len() {
                short.push('…');
            }
            self.print(&format!("   {} {short}\n", self.ink(Ink::Dim, "│")))?;
        }
        Ok(())
    }

    /// A line as it is.
    pub(super) fn say(&self, text: &str) -> Result<()> {
        self.print(&format!("   {text}\n"))
    }

    /// The last line: whether everything was so.
    pub(super) fn summary(&self) -> Result<bool> {
        let good = self.failed.is_empty();
        let text = if good {
            self.ink(
                Ink::Green,
                &format!("{} of {} claims were so.", self.claims, self.claims),
            )
        } else {
            let list = self.failed.join("\n  ✗ ");
            self.ink(
                Ink::Red,
                &format!(
                    "{} of {} claims were not so:\n  ✗ {list}",
                    self.failed.len(),
                    self.claims
                ),
            )
        };
        self.print(&format!("\n{text}\n"))?;
        Ok(good)
    }

    #[expect(
        clippy::unused_self,
        reason = "everything that is printed goes through the show"
    )]
    fn print(&self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }
}

impl Default for Show {
    fn default() -> Self {
        Self::new()
    }
}

/// Breaks text at spaces.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_facts_are_broken_at_spaces_and_line_breaks_are_kept() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("one\ntwo three", 20), ["one", "two three"]);
        assert_eq!(wrap("a-word-that-is-longer", 5), ["a-word-that-is-longer"]);
    }
}
