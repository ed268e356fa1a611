//! Durations, times and sizes as people say them.

use std::time::Duration;

use jiff::Timestamp;

/// The two largest units: `3d 4h`, `5m 3s`, `0s`.
pub(super) fn duration(duration: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let mut seconds = duration.as_secs();
    let mut parts = Vec::new();
    for (length, name) in UNITS {
        let count = seconds / length;
        seconds %= length;
        if count > 0 {
            parts.push(format!("{count}{name}"));
        }
    }
    parts.truncate(2);
    if parts.is_empty() {
        return "0s".to_owned();
    }
    parts.join(" ")
}

/// How long ago `then` was, seen from `now`; `0s` for the future.
pub(super) fn since(then: Timestamp, now: Timestamp) -> String {
    duration(now.duration_since(then).try_into().unwrap_or_default())
}

/// How far away `then` is: `3h 59m`, or `5m ago`.
pub(super) fn until(then: Timestamp, now: Timestamp) -> String {
    if then > now {
        duration(then.duration_since(now).try_into().unwrap_or_default())
    } else {
        format!("{} ago", since(then, now))
    }
}

/// `84 B`, `1.5 MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths of the unit, in integers.
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = "KiB";
    for larger in UNITS.into_iter().skip(1) {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        unit = larger;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// `1 workload`, `2 workloads`, `no workloads`.
pub(super) fn count(count: usize, one: &str) -> String {
    match count {
        0 => format!("no {one}s"),
        1 => format!("1 {one}"),
        n => format!("{n} {one}s"),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0, "0s")]
    #[case(59, "59s")]
    #[case(3600, "1h")]
    #[case(3661, "1h 1m")]
    #[case(273_601, "3d 4h")]
    fn durations_have_two_units(#[case] seconds: u64, #[case] expected: &str) {
        assert_eq!(duration(Duration::from_secs(seconds)), expected);
    }

    #[rstest]
    #[case(0, "0 B")]
    #[case(1023, "1023 B")]
    #[case(1536, "1.5 KiB")]
    #[case(1_048_575, "1023.9 KiB")]
    #[case(1_048_576, "1.0 MiB")]
    #[case(u64::MAX, "15.9 EiB")]
    fn sizes_have_one_decimal(#[case] size: u64, #[case] expected: &str) {
        assert_eq!(bytes(size), expected);
    }

    #[test]
    fn what_is_overdue_says_so() {
        let now = Timestamp::UNIX_EPOCH;
        let past = Timestamp::from_second(-90).unwrap();
        let future = Timestamp::from_second(90).unwrap();
        assert_eq!(until(past, now), "1m 30s ago");
        assert_eq!(until(future, now), "1m 30s");
        assert_eq!(since(future, now), "0s");
    }
}
