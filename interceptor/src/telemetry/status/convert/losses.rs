//! What somebody has taken away of the kernel half, for people.

use crate::capture::{Loss, Losses, Lost};
use crate::telemetry::status::{KernelLoss, Unprotected};

impl KernelLoss {
    /// How often each kind of thing was lost; all kinds, so that a counter is there before it is
    /// needed.
    pub fn all(losses: &Losses) -> Vec<Self> {
        let count = |lost: Lost| Self {
            what: lost.label().to_owned(),
            count: losses.counts.get(&lost).copied().unwrap_or_default(),
        };
        Lost::ALL.map(count).into()
    }

    /// What is missing now and cannot be put back: what, why, what it means, what to do.
    pub fn complaint(loss: &Loss) -> Option<String> {
        let error = loss.error.as_ref()?;
        Some(format!(
            "{}: {}, and it cannot be put back ({error}): {}. Find out who changes the agent's \
             kernel programs, then restart the agent",
            loss.pin.display(),
            loss.lost.what(),
            loss.lost.consequence(),
        ))
    }
}

impl Unprotected {
    /// What is not protected because somebody has taken it away, or was not for a while.
    pub fn by_loss(losses: &Losses) -> Vec<Self> {
        let standing = losses.standing.iter().map(|loss| Self {
            subject: "kernel programs".to_owned(),
            what: loss.pin.display().to_string(),
            why: format!("{}: {}", loss.lost.what(), loss.lost.consequence()),
            connections: None,
        });
        let interrupted = losses
            .interrupted
            .and_then(super::timestamp)
            .map(|at| Self {
                subject: "kernel programs".to_owned(),
                what: format!("connections made in the seconds before {at:.0}"),
                why: "somebody had detached or replaced programs; they are in their place again"
                    .to_owned(),
                connections: None,
            });
        standing.chain(interrupted).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn standing() -> Losses {
        Losses {
            counts: [(Lost::Pin, 26)].into(),
            standing: vec![Loss {
                lost: Lost::Folder,
                pin: "/sys/fs/bpf/interceptor/one".into(),
                error: Some("another agent of node \"one\" is running".to_owned()),
            }],
            interrupted: Some(SystemTime::UNIX_EPOCH + Duration::from_hours(483_564)),
        }
    }

    #[test]
    fn every_kind_of_loss_is_counted_from_the_beginning() {
        let all = KernelLoss::all(&standing());
        let all: Vec<_> = all.iter().map(|it| (&*it.what, it.count)).collect();
        let expected = [
            ("folder", 0),
            ("pin", 26),
            ("attachment", 0),
            ("program", 0),
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn what_cannot_be_put_back_is_told_with_its_consequence() {
        let losses = standing();
        let told: Vec<_> = (losses.standing.iter())
            .filter_map(KernelLoss::complaint)
            .collect();
        insta::assert_snapshot!(told.join("\n"), @r#"/sys/fs/bpf/interceptor/one: the node's folder is not there any more, and it cannot be put back (another agent of node "one" is running): if the agent ends, ports of enrolled workloads open. Find out who changes the agent's kernel programs, then restart the agent"#);
        let ledger = Unprotected::by_loss(&losses);
        let ledger: Vec<_> = ledger
            .iter()
            .map(|it| format!("{} | {} | {}", it.subject, it.what, it.why))
            .collect();
        insta::assert_snapshot!(ledger.join("\n"), @r"
        kernel programs | /sys/fs/bpf/interceptor/one | the node's folder is not there any more: if the agent ends, ports of enrolled workloads open
        kernel programs | connections made in the seconds before 2025-03-01T12:00:00Z | somebody had detached or replaced programs; they are in their place again
        ");
    }
}
