//! Making text from peers safe to print: bounded, on one line, without control characters.

use std::fmt::{self, Write as _};

/// Longest free text that appears in a line or a view. Enough for a sentence that names a policy,
/// a rule and an identity (at most 2048 bytes by specification, in practice about 60).
pub const MAX_TEXT: usize = 512;

/// `text`, cut to [`MAX_TEXT`] bytes at a character, control characters replaced by `\u{..}`.
pub fn bounded(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(MAX_TEXT));
    for c in text.chars() {
        if out.len() + c.len_utf8() > MAX_TEXT {
            out.push('…');
            break;
        }
        if is_harmless(c) {
            out.push(c);
        } else {
            out.extend(c.escape_unicode());
        }
    }
    out
}

/// Displays `text` between double quotes, with quotes, backslashes and control characters
/// escaped, cut to [`MAX_TEXT`] bytes.
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        let mut left = MAX_TEXT;
        for c in self.0.chars() {
            let Some(rest) = left.checked_sub(c.len_utf8()) else {
                f.write_char('…')?;
                break;
            };
            left = rest;
            match c {
                '"' | '\\' => {
                    f.write_char('\\')?;
                    f.write_char(c)?;
                }
                c if is_harmless(c) => f.write_char(c)?,
                c => write!(f, "{}", c.escape_unicode())?,
            }
        }
        f.write_char('"')
    }
}

/// Neither a control character nor one that reorders or hides text on a terminal.
fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn terminal_escapes_and_line_breaks_do_not_survive() {
        assert_eq!(
            bounded("a\n\x1b[2Jb\u{202e}c"),
            "a\\u{a}\\u{1b}[2Jb\\u{202e}c"
        );
        assert_eq!(
            Quoted("say \"no\"\\\n").to_string(),
            r#""say \"no\"\\\u{a}""#
        );
    }

    proptest! {
        #[test]
        fn any_text_becomes_one_bounded_printable_line(text in ".{0,2000}") {
            let quoted = Quoted(&text).to_string();
            prop_assert!(quoted.chars().all(is_harmless));
            // The longest escape, `\u{10ffff}`, is ten bytes for at least one.
            prop_assert!(quoted.len() <= MAX_TEXT * 10 + 5);
            prop_assert!(bounded(&text).chars().all(is_harmless));
            prop_assert!(bounded(&text).len() <= MAX_TEXT + 13);
        }
    }
}
