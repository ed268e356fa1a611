//! What would become of a connection, step by step, without opening it.
//!
//! ```text
//!  who? ─▶ enrolled? ─▶ captured? ─▶ where does it lead? ─▶ which path? ─▶ who judges? ─▶ verdict
//! ```
//!
//! Every step is asked of the function that the data plane asks: capture rules are looked up as
//! the kernel does, [`decide::outbound`] resolves and chooses the path, the policy engine judges.
//! Nothing here decides anything; it only asks in order, and keeps the answers.
//!
//! A Service with several endpoints is several connections: each endpoint is followed, and the
//! worst outcome is the answer.
//!
//! # Invariants
//!
//! * What cannot be told is said to be unclear, never guessed: a name that is not there, a policy
//!   that looks at an address that nobody gave.
//!
//! Not here: reading manifests (`workload::source`), printing (`cli`).
//!
//! [`decide::outbound`]: crate::decide::outbound

mod arrival;
mod journey;
pub mod ports;
mod resolve;
mod source;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::workload::Mesh;

pub use journey::explain;

/// A connection to be explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Question {
    /// `namespace/name` of a workload, an identity, an address, or `plaintext`.
    pub from: String,
    /// A host, `namespace/name` of a Service or workload, or an address; and a port.
    pub to: String,
    /// The caller's address, where the workload does not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ip: Option<IpAddr>,
}

/// What would become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It reaches the application.
    Allowed,
    /// It depends on what was not said, or what was asked about is not there.
    Unclear,
    /// It is refused.
    Denied,
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// What was asked.
    #[serde(flatten)]
    pub question: Question,
    /// Allowed or not.
    pub outcome: Outcome,
    /// The stable label of the reason, as in metrics and access lines.
    pub reason: String,
    /// The reason as a sentence.
    pub summary: String,
    /// How it came to that, in order.
    pub steps: Vec<Step>,
    /// What the policy engine considered, if it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Value>,
    /// What would turn the outcome, the smallest change first.
    pub changes: Vec<Change>,
}

/// One step of an [`Answer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What is asked.
    pub step: StepName,
    /// Whether it speaks for or against the connection, or somebody should look.
    pub sense: Sense,
    /// The answer in one line.
    pub answer: String,
    /// What else there is to say, in lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What a [`Step`] asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepName {
    /// Who calls?
    Caller,
    /// Is the caller part of the mesh?
    Enrolled,
    /// Is its connection handed to the agent?
    Captured,
    /// Where does the destination lead?
    Resolves,
    /// How is it carried?
    Path,
    /// Who receives it, and judges?
    Arrives,
    /// What does the port require?
    Mtls,
    /// What do the policies say?
    Policies,
}

/// Whether a step speaks for or against a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sense {
    /// It goes on.
    Good,
    /// It goes on, and somebody should look.
    Warning,
    /// It ends here.
    Bad,
}

/// A change that would turn the outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// An instruction.
    pub message: String,
    /// The same for programs.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub changes: Value,
}

impl Answer {
    /// The answer when the question itself makes no sense in this mesh.
    fn unclear(question: &Question, why: String) -> Self {
        Self {
            question: question.clone(),
            outcome: Outcome::Unclear,
            reason: "not_found".to_owned(),
            summary: why,
            steps: Vec::new(),
            decision: None,
            changes: Vec::new(),
        }
    }
}

impl Step {
    fn new(step: StepName, sense: Sense, answer: impl Into<String>) -> Self {
        Self {
            step,
            sense,
            answer: answer.into(),
            notes: Vec::new(),
        }
    }

    fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

impl StepName {
    /// As it is shown.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Enrolled => "enrolled",
            Self::Captured => "captured",
            Self::Resolves => "resolves",
            Self::Path => "path",
            Self::Arrives => "arrives",
            Self::Mtls => "mTLS",
            Self::Policies => "policies",
        }
    }
}

impl Outcome {
    /// As it is shown.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Allowed => "ALLOWED",
            Self::Denied => "DENIED",
            Self::Unclear => "UNCLEAR",
        }
    }
}

/// A value as JSON. What is shown serialises; if it did not, there would be nothing to show.
fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

#[cfg(test)]
mod tests;
