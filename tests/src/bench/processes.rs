//! What processes cost, out of `/proc`.

use std::fs;

use anyhow::{Context as _, Result};

use super::figure::to_float;

/// CPU time that they have used so far, user and system.
pub(super) fn cpu_seconds(processes: &[u32]) -> Result<f64> {
    let mut ticks = 0;
    for id in processes {
        let stat = fs::read_to_string(format!("/proc/{id}/stat"))
            .with_context(|| format!("process {id} ended"))?;
        ticks += cpu_ticks(&stat).context("read CPU time")?;
    }
    // USER_HZ is 100 on every architecture that we build for.
    Ok(to_float(ticks) / 100.0)
}

/// The processes of a group: what a command has become.
pub(super) fn group(leader: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        field(&stat, 2) == Some(u64::from(leader))
    })
    .collect()
}

/// Memory in use, in MiB.
pub(super) fn resident_mib(processes: &[u32]) -> Result<f64> {
    status_mib(processes, "VmRSS:")
}

/// The most memory that was ever in use, in MiB.
pub(super) fn peak_mib(processes: &[u32]) -> Result<f64> {
    status_mib(processes, "VmHWM:")
}

fn status_mib(processes: &[u32], key: &str) -> Result<f64> {
    let mut kibibytes = 0;
    for id in processes {
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let number = line.context("no such memory")?.trim();
        kibibytes += number.trim_end_matches(" kB").parse::<u64>()?;
    }
    Ok(to_float(kibibytes) / 1024.0)
}

/// User and system time out of `/proc/PID/stat`.
fn cpu_ticks(stat: &str) -> Option<u64> {
    Some(field(stat, 11)? + field(stat, 12)?)
}

/// A field of `/proc/PID/stat`, counted from the state, which is 0.
fn field(stat: &str, index: usize) -> Option<u64> {
    // The name in parentheses may hold spaces; what follows it does not.
    let after = stat.rsplit_once(')')?.1;
    after.split_whitespace().nth(index)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_past_a_name_with_spaces() {
        let stat = "7 (tokio rt (w)) S 1 8 7 0 -1 4194304 1 2 3 4 250 50 0 0 20 0 9 0";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(field(stat, 2), Some(8));
    }
}
