//! The time of a line, to the microsecond.
//!
//! Most lines share their second with the one before, whose digits are kept: a date costs more
//! than all numbers of a line together.

use std::io::Write as _;

use jiff::Timestamp;

/// Writes times. Remembers the latest second.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: i64,
    /// Its digits, up to the point. Empty if there was none yet.
    digits: String,
}

impl Clock {
    /// Appends `at`, as `{at:.6}` would.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, at: Timestamp) {
        let (second, micros) = (at.as_second(), at.subsec_microsecond());
        let Ok(micros) = u32::try_from(micros) else {
            // Before 1970 the fraction is negative.
            write!(out, "{at:.6}").unwrap_or_default();
            return;
        };
        if self.second != second || self.digits.is_empty() {
            self.second = second;
            self.digits = format!("{at:.0}").replace('Z', ".");
        }
        out.extend_from_slice(self.digits.as_bytes());
        let mut rest = micros;
        for unit in [100_000, 10_000, 1_000, 100, 10, 1] {
            let digit = u8::try_from(rest / unit).unwrap_or_default();
            out.push(b'0' + digit);
            rest %= unit;
        }
        out.push(b'Z');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_time_looks_as_if_it_were_formatted_anew(
            times in prop::collection::vec((-3_i64..4_000_000_000, 0_i32..1_000_000_000), 1..20),
        ) {
            let mut clock = Clock::default();
            for (second, nanosecond) in times {
                for second in [second, second, second + 1] {
                    let at = Timestamp::new(second, nanosecond).unwrap();
                    let mut out = Vec::new();
                    clock.write(&mut out, at);
                    prop_assert_eq!(String::from_utf8(out).unwrap(), format!("{at:.6}"));
                }
            }
        }
    }
}
