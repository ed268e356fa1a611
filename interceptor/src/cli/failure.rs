//! When a command could not tell: what went wrong, and what to do next.

use std::error::Error;
use std::fmt;
use std::io::Write as _;

use crate::error::chain;

/// Why a command has no answer.
#[derive(Debug)]
pub(super) struct Failure {
    what: String,
    next: Option<String>,
}

impl Failure {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            next: None,
        }
    }

    /// Nobody reads the answer, so there is nobody to tell, either.
    pub(super) const fn unheard() -> Self {
        Self {
            what: String::new(),
            next: None,
        }
    }

    /// The failure that `error` and its causes describe.
    pub(super) fn from_error(error: &(dyn Error + 'static)) -> Self {
        Self::new(chain(error))
    }

    /// Adds what to do next.
    pub(super) fn try_next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// Prints it to standard error.
    pub(super) fn print(&self) {
        if self.what.is_empty() {
            return;
        }
        // A closed standard error leaves nobody to tell.
        writeln!(std::io::stderr(), "interceptor: {self}").unwrap_or_default();
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.next {
            Some(next) => write!(f, "\n  {next}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_named_and_the_remedy_comes_last() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read it")]
        struct Outer(#[source] std::io::Error);

        let inner = std::io::Error::from_raw_os_error(2);
        let failure = Failure::from_error(&Outer(inner)).try_next("look there");
        assert_eq!(
            failure.to_string(),
            "cannot read it: No such file or directory (os error 2)\n  look there"
        );
    }
}
