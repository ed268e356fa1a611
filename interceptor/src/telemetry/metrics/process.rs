//! The process itself, under the names that every Prometheus client library uses.

use std::fs;

/// What the kernel says about this process now. Zero where it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: u64,
    pub(super) open_fds: u64,
    pub(super) threads: u64,
}

impl Process {
    /// Reads `/proc/self`.
    pub(super) fn now() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let fds = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Self {
            open_fds: u64::try_from(fds).unwrap_or(u64::MAX),
            ..Self::parse(&stat)
        }
    }

    /// Reads the line of `/proc/<pid>/stat`, whose fields are documented in `proc_pid_stat(5)`.
    fn parse(stat: &str) -> Self {
        // The command's name may contain anything, so fields are counted from its closing bracket.
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = after_name.split(' ').collect();
        let number = |field: usize| {
            // Field 3 of the manual is the first after the name.
            fields
                .get(field.saturating_sub(3))
                .and_then(|text| text.trim().parse::<u32>().ok())
                .unwrap_or(0)
        };
        let ticks = f64::from(number(14)) + f64::from(number(15));
        Self {
            // USER_HZ is 100 on every architecture that Linux supports today.
            cpu_seconds: ticks / 100.0,
            threads: number(20).into(),
            resident_bytes: u64::from(number(24)) * page_size(),
            open_fds: 0,
        }
    }
}

fn page_size() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|size| u64::try_from(size).ok())
        .unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_bracket_in_its_name_is_read() {
        let line = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 1 2 3 4 5\n";
        let process = Process::parse(line);
        assert!((process.cpu_seconds - 2.0).abs() < f64::EPSILON);
        assert_eq!(process.threads, 9);
        assert_eq!(process.resident_bytes, 3 * page_size());
    }

    #[test]
    fn nonsense_is_zero() {
        assert_eq!(Process::parse("x"), Process::default());
    }

    #[test]
    fn this_process_has_memory_and_files() {
        let now = Process::now();
        assert!(now.resident_bytes > 0 && now.open_fds > 0 && now.threads > 0);
    }
}
