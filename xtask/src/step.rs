//! Running other programs, and saying so: one line per step, on stderr, the command's own output
//! untouched below it.
//!
//! Not here: which programs and why (`toolchain/`, the tasks).

use std::fmt::Display;
use std::io::{Write as _, read_to_string};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How often a bounded command is looked at: short against any command worth bounding.
const POLL: Duration = Duration::from_millis(50);

/// Says what is being done, in one line.
pub(crate) fn say(message: impl Display) {
    // A closed stderr is no reason to stop building.
    drop(writeln!(std::io::stderr(), "xtask: {message}"));
}

/// Runs `command` with this terminal's input and output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("could not start {}", line(command)))?;
    succeeded(command, status)
}

/// Runs `command` and returns what it wrote to stdout; its stderr is shown only if it fails.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not start {}", line(command)))?;
    if !output.status.success() {
        bail!(
            "{} failed ({}): {}",
            line(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("{} wrote something that is not UTF-8", line(command)))
}

/// Runs `command` quietly and kills it when it takes longer than `limit`.
///
/// For steps that may wait for a network that is not there. Of what it complains about, the last
/// line is reported; one that complains for more than a pipe holds is killed at `limit` as well.
pub(crate) fn within(limit: Duration, command: &mut Command) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start {}", line(command)))?;
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            let complaint = child.stderr.take().map(read_to_string).transpose()?;
            let complaint = complaint.unwrap_or_default();
            return succeeded(command, status)
                .with_context(|| decisive(&complaint).unwrap_or("it failed").to_owned());
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            bail!("{} gave no answer within {limit:?}", line(command));
        }
        sleep(POLL);
    }
}

/// The line of `complaint` that tells most: the first error, or else the last line.
fn decisive(complaint: &str) -> Option<&str> {
    let error = |line: &&str| line.starts_with("error:") || line.starts_with("E:");
    let mut lines = complaint.lines().map(str::trim);
    lines.clone().find(error).or_else(|| lines.next_back())
}

fn succeeded(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    bail!("{} failed ({status})", line(command))
}

/// The command line as one would type it, without its environment.
fn line(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    // The toolchain's absolute paths only hide what was run.
    let name = program.rsplit('/').next().unwrap_or(&program).to_owned();
    command.get_args().fold(name, |line, argument| {
        line + " " + &argument.to_string_lossy()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_hangs_is_ended_and_named() {
        let error = within(Duration::ZERO, Command::new("sleep").arg("60")).unwrap_err();
        assert!(error.to_string().starts_with("sleep 60 gave no answer"));
    }

    #[test]
    fn of_a_long_complaint_the_error_is_reported() {
        let complaint = "info: downloading\nerror: no such host\nCaused by:\n  15: unknown\n";
        assert_eq!(decisive(complaint), Some("error: no such host"));
        assert_eq!(decisive("a\nb\n"), Some("b"));
        assert_eq!(decisive(""), None);
    }

    #[test]
    fn a_failed_command_shows_its_own_words() {
        let error = capture(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().ends_with("(exit status: 3): why"));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(&mut Command::new("/nowhere/frobnicate")).unwrap_err();
        assert_eq!(error.to_string(), "could not start frobnicate");
    }
}
