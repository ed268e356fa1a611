//! A line of the verdict: what was found, what it must be, and what follows.
//!
//! What was not measured has its line, too, and nobody may take it for reached.

use std::fmt;

use super::table::{number, times};

/// How a work went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Nobody knows.
    NotMeasured,
    /// Not what it must be.
    Missed,
    /// Not what it must be, but by less than the error of the measurement.
    WithinError,
    /// What it must be.
    Reached,
    /// What is hoped for.
    Surpassed,
}

impl Outcome {
    /// Whether it is shown to be what it must be.
    pub(super) fn is_reached(self) -> bool {
        self >= Self::Reached
    }

    /// Whether it is shown not to be what it must be, or not shown at all.
    pub(super) fn is_lacking(self) -> bool {
        self <= Self::Missed
    }
}

/// Single results behind a value: what the others hide.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) least: f64,
    pub(super) most: f64,
    pub(super) count: usize,
    /// How many of them alone would have missed.
    pub(super) lost: usize,
}

/// One line of the verdict.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Of what.
    pub what: String,
    /// What it is compared with.
    pub(super) against: String,
    pub(super) to_a_peer: bool,
    /// What was found, or why nothing was.
    pub(super) value: Result<f64, String>,
    /// The value's standard error, if the verdict allows for it.
    pub(super) error: Option<f64>,
    pub(super) spread: Option<Spread>,
    /// Nothing if it is a ratio.
    pub(super) unit: &'static str,
    pub(super) must: f64,
    pub(super) hope: f64,
    pub(super) more: bool,
}

impl Verdict {
    /// How it went.
    pub fn outcome(&self) -> Outcome {
        let Ok(value) = self.value else {
            return Outcome::NotMeasured;
        };
        let error = self.error.unwrap_or_default();
        let better = if self.more { error } else { -error };
        match (self.holds(value, self.must), self.holds(value, self.hope)) {
            (true, true) => Outcome::Surpassed,
            (true, false) => Outcome::Reached,
            (false, _) if self.holds(value + better, self.must) => Outcome::WithinError,
            (false, _) => Outcome::Missed,
        }
    }

    fn holds(&self, value: f64, bound: f64) -> bool {
        if self.more {
            value >= bound
        } else {
            value <= bound
        }
    }

    /// The same with the single results that it was made of.
    pub(super) fn from(self, values: &[f64]) -> Self {
        let lost = values.iter().filter(|it| !self.holds(**it, self.must));
        let spread = Spread {
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(0.0, f64::max),
            count: values.len(),
            lost: lost.count(),
        };
        Self {
            spread: Some(spread).filter(|it| it.count > 1),
            ..self
        }
    }

    fn bound(&self, bound: f64) -> String {
        format!(
            "{} {}",
            if self.more { "≥" } else { "≤" },
            self.shown(bound)
        )
    }

    fn shown(&self, value: f64) -> String {
        match self.unit {
            "" => times(value),
            unit => format!("{} {unit}", number(value)),
        }
    }

    fn found(&self) -> String {
        match (&self.value, self.error) {
            (Ok(value), Some(error)) => format!("{} ±{}", self.shown(*value), number(error)),
            (Ok(value), None) => self.shown(*value),
            (Err(_), _) => "–".to_owned(),
        }
    }

    fn rounds(&self) -> String {
        let Some(spread) = self.spread else {
            return "–".to_owned();
        };
        let Spread {
            least,
            most,
            count,
            lost,
        } = spread;
        format!(
            "{}–{}, {} of {count}",
            number(least),
            number(most),
            count - lost
        )
    }

    /// How many times better than the best peer; nothing if that is not what it is compared with.
    pub(super) fn advantage(&self) -> Option<f64> {
        let value = self.value.as_ref().ok().copied();
        let ratio = value.filter(|it| self.to_a_peer && *it > 0.0)?;
        Some(if self.more { ratio } else { 1.0 / ratio })
    }

    /// What is told of it, as [`HEADINGS`] say.
    pub(super) fn cells(&self) -> [String; 7] {
        let outcome = match &self.value {
            Ok(_) => self.outcome().to_string(),
            Err(reason) => format!("{} ({reason})", Outcome::NotMeasured),
        };
        [
            self.what.clone(),
            self.against.clone(),
            self.found(),
            self.rounds(),
            self.bound(self.must),
            self.bound(self.hope),
            outcome,
        ]
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotMeasured => "not measured",
            Self::Missed => "missed",
            Self::WithinError => "within the error",
            Self::Reached => "reached",
            Self::Surpassed => "surpassed",
        })
    }
}

/// The headings of [`Verdict::cells`]. `single` are the least and the most of the single results, and
/// how many of them alone would have reached what must be.
pub(super) const HEADINGS: [&str; 7] = [
    "work",
    "against",
    "ours",
    "single",
    "must be",
    "reach for",
    "verdict",
];

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn verdict(value: f64, error: f64, more: bool) -> Verdict {
        Verdict {
            what: "work".to_owned(),
            against: "raw".to_owned(),
            to_a_peer: false,
            value: Ok(value),
            error: Some(error),
            spread: None,
            unit: "",
            must: if more { 0.95 } else { 1.05 },
            hope: 1.0,
            more,
        }
    }

    #[rstest]
    #[case::missed(0.93, 0.01, true, Outcome::Missed)]
    #[case::almost(0.93, 0.03, true, Outcome::WithinError)]
    #[case::reached(0.96, 0.03, true, Outcome::Reached)]
    #[case::as_good(1.0, 0.03, true, Outcome::Surpassed)]
    #[case::too_slow(1.09, 0.01, false, Outcome::Missed)]
    #[case::almost_too_slow(1.06, 0.02, false, Outcome::WithinError)]
    #[case::fast_enough(1.05, 0.02, false, Outcome::Reached)]
    fn an_error_excuses_no_more_than_itself(
        #[case] value: f64,
        #[case] error: f64,
        #[case] more: bool,
        #[case] expected: Outcome,
    ) {
        let outcome = verdict(value, error, more).outcome();
        assert_eq!(outcome, expected);
        assert_eq!(outcome.is_lacking(), expected == Outcome::Missed);
        assert_eq!(outcome.is_reached(), expected >= Outcome::Reached);
    }

    #[test]
    fn what_was_not_measured_is_lacking() {
        let mut verdict = verdict(1.0, 0.0, true);
        verdict.value = Err("no wrk".to_owned());
        assert!(verdict.outcome().is_lacking());
        assert_eq!(
            verdict.cells().join(" | "),
            "work | raw | – | – | ≥ 0.95× | ≥ 1.00× | not measured (no wrk)"
        );
    }

    #[test]
    fn single_results_are_told_with_how_many_of_them_hold() {
        let verdict = verdict(0.97, 0.01, true).from(&[0.9, 0.97, 1.2]);
        assert_eq!(
            verdict.cells().join(" | "),
            "work | raw | 0.97× ±0.01 | 0.90–1.20, 2 of 3 | ≥ 0.95× | ≥ 1.00× | reached"
        );
    }
}
