//! How an error is told in one line, everywhere alike: in the access log, in `status`, on a terminal.
//!
//! Every error says what failed and leaves why to its sources, so a line without them would be half
//! an answer.

use std::error::Error;

/// An error and all that it rests on, in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::chain;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Fault(&'static str, #[source] Option<Box<Self>>);

    #[test]
    fn causes_follow_what_they_caused() {
        let root = Fault("no route", None);
        let middle = Fault("cannot connect", Some(Box::new(root)));
        let error = Fault("cannot renew", Some(Box::new(middle)));
        assert_eq!(chain(&error), "cannot renew: cannot connect: no route");
    }
}
