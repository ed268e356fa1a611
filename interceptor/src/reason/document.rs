//! `docs/reasons.md`, made from the catalogue.

use std::fmt::Write as _;

use super::{Label, Outcome, ResponseFlags};

impl Label {
    /// `docs/reasons.md`.
    pub fn markdown() -> String {
        let mut out = String::from(
            "# Every `reason`\n\n\
             <!-- Made from interceptor/src/reason/catalogue.rs: \
             `INTERCEPTOR_GEN=1 cargo test -p interceptor docs_list_every_reason` -->\n\n\
             Values of `reason` in [access lines](access-log.md), in `interceptor connections` and in \
             the [metrics](metrics.md) `interceptor_connections_denied_total`, `…_failed_total`, \
             `…_cut_total`, `…_plaintext_total` and `interceptor_handshake_failures_total`. There are no \
             others, and what is here keeps its name. The sentence in `error` says it of the \
             connection at hand.\n\n\
             *Becomes* is `decision` of the access line and Istio's `response_flags`; `allowed` is what \
             let a connection go on. *Acts* is who can do something about it: the owner of the caller \
             or of the server, whoever runs the agent that wrote the line (*this agent*) or the one at \
             the other end, whoever runs the network between them. A peer that is not trusted is \
             *other agent*, whoever it really is. *Same node*: of connections from socket to socket \
             ([same-node.md](same-node.md)).\n\n\
             | reason | becomes | acts | what it means |\n|---|---|---|---|\n",
        );
        for label in Self::ALL {
            let entry = label.entry();
            let ends: Vec<_> = entry.ends.iter().map(|end| written(*end)).collect();
            // Writing to a String cannot fail.
            writeln!(
                out,
                "| `{}` | {} | {} | {} |",
                entry.text,
                ends.join(", "),
                entry.side.label(),
                entry.meaning
            )
            .unwrap_or_default();
        }
        out
    }
}

/// An end as the document has it. What was carried has no flag, and what was denied always the same.
fn written((outcome, flags): (Outcome, ResponseFlags)) -> String {
    match outcome {
        Outcome::Allowed => outcome.label().to_owned(),
        _ => format!("{} `{}`", outcome.label(), flags.label()),
    }
}
