//! The agent's own log: what happens to the agent, not to connections (those have access lines).
//!
//! Written to standard error by a thread behind a bounded queue, like access lines, so that a
//! terminal that is not read cannot hold up the agent. The level can be changed while the agent
//! runs. A warning that repeats is left out and counted: one broken peer that tries a thousand
//! times a second must not fill a disk.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use super::access::Format;
use super::metrics::Metrics;
use super::queue::{Destination, Lines};

mod repeats;

use repeats::Repeats;

/// How the agent logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Level, by target where wanted: `info`, `info,interceptor::transport=debug,access=warn`.
    /// Target `access` is the access log.
    pub level: String,
    /// How lines look.
    pub format: Format,
    /// Where they go.
    pub destination: Destination,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // Lifecycle and access lines; per-connection detail is for debugging.
            level: "info".to_owned(),
            format: Format::Text,
            // Standard output belongs to the access lines.
            destination: Destination::Stderr,
        }
    }
}

/// Why logging could not be started or changed.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The log cannot be written to.
    #[error("cannot open the log")]
    Open(#[from] io::Error),
    /// A directive that is neither a level nor `target=level`.
    #[error(
        "`{directive}` is not a log level; use off, error, warn, info, debug or trace, or \
         `target=level`, separated by commas: `info,interceptor::transport=debug`"
    )]
    Level {
        /// The directive.
        directive: String,
    },
    /// The subscriber is gone or was set before.
    #[error("the log of this process was set up before")]
    Taken,
}

/// What libraries may say when somebody asks for `debug` or `trace` without naming a target: at
/// those levels they describe every frame and every relocation. Naming one lifts its limit.
const LIBRARIES: [(&str, &str); 8] = [
    ("aya", "info"),
    ("aya_obj", "info"),
    ("h2", "info"),
    ("hyper", "info"),
    ("hyper_util", "info"),
    ("mio", "info"),
    ("notify", "info"),
    ("rustls", "info"),
];

/// The running log. Clones share it.
#[derive(Clone, Debug)]
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
    level: Arc<Mutex<String>>,
    lines: Lines,
}

impl Logging {
    /// Starts logging for the whole process.
    ///
    /// # Errors
    ///
    /// When the level or the destination is wrong, or the process has a log already.
    pub fn start(config: &Config, metrics: &Metrics) -> Result<Self, LoggingError> {
        let filter = parse(&config.level)?;
        let lines = Lines::open(&config.destination, notice(config.format))?;
        let (filter, handle) = reload::Layer::new(filter);
        tracing_subscriber::registry()
            .with(filter)
            .with(Repeats::new(metrics.clone()))
            .with(render(config.format, Writer(lines.clone())))
            .try_init()
            .map_err(|_already| LoggingError::Taken)?;
        Ok(Self {
            filter: handle,
            level: Arc::new(Mutex::new(config.level.clone())),
            lines,
        })
    }

    /// The level in force, as it was written.
    pub fn level(&self) -> String {
        self.level.lock().clone()
    }

    /// Changes the level at once.
    ///
    /// # Errors
    ///
    /// When `directives` are wrong; the level in force stays.
    pub fn set_level(&self, directives: &str) -> Result<(), LoggingError> {
        let filter = parse(directives)?;
        self.filter
            .reload(filter)
            .map_err(|_gone| LoggingError::Taken)?;
        directives.clone_into(&mut self.level.lock());
        Ok(())
    }

    /// Waits until everything logged so far is written, or `limit` has passed. Blocks.
    pub fn flush(&self, limit: Duration) {
        self.lines.flush(limit);
    }
}

/// Checks what `tracing` itself does not: that a word alone is a level. (It would take a misspelt
/// level for the name of a target and log nothing else.)
///
/// # Errors
///
/// Names the directive that is wrong.
pub fn parse(directives: &str) -> Result<EnvFilter, LoggingError> {
    let wrong = |directive: &str| LoggingError::Level {
        directive: directive.to_owned(),
    };
    for directive in directives.split(',') {
        let level = directive
            .rsplit_once('=')
            .map_or(directive, |(_target, level)| level);
        if !is_level(level.trim()) {
            return Err(wrong(directive));
        }
    }
    let mut effective = quieted_libraries(directives);
    effective.push_str(directives);
    EnvFilter::builder()
        .parse(effective)
        .map_err(|_unparsable| wrong(directives))
}

/// Limits for [`LIBRARIES`] that `directives` do not name, if those ask for detail in general.
fn quieted_libraries(directives: &str) -> String {
    let detailed = directives
        .split(',')
        .any(|one| matches!(one.trim().to_ascii_lowercase().as_str(), "debug" | "trace"));
    let mut limits = String::new();
    for (library, level) in LIBRARIES {
        let named = directives
            .split(',')
            .any(|one| one.trim().starts_with(library));
        if detailed && !named {
            limits.extend([library, "=", level, ","]);
        }
    }
    limits
}

fn is_level(text: &str) -> bool {
    ["off", "error", "warn", "info", "debug", "trace"]
        .iter()
        .any(|level| text.eq_ignore_ascii_case(level))
}

fn render<S>(format: Format, writer: Writer) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(writer);
    match format {
        Format::Text => layer.boxed(),
        Format::Json => layer.json().flatten_event(true).boxed(),
    }
}

const fn notice(format: Format) -> fn(u64) -> Vec<u8> {
    match format {
        Format::Text => |lost| format!("WARN {lost} log lines were lost\n").into_bytes(),
        Format::Json => |lost| {
            format!("{{\"level\":\"WARN\",\"message\":\"log lines were lost\",\"count\":{lost}}}\n")
                .into_bytes()
        },
    }
}

/// Gives every formatted event to the queue.
#[derive(Clone, Debug)]
struct Writer(Lines);

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Self;

    fn make_writer(&'a self) -> Self::Writer {
        self.clone()
    }
}

impl io::Write for Writer {
    /// The formatter writes an event with one call.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.push(event.to_vec());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::a_level("debug")]
    #[case::in_capitals("INFO")]
    #[case::by_target("info,interceptor::transport=trace,access=off")]
    fn levels_that_are_understood(#[case] directives: &str) {
        parse(directives).unwrap();
    }

    #[rstest]
    #[case::misspelt("inof", "inof")]
    #[case::empty("", "")]
    #[case::a_misspelt_level_of_a_target("info,access=of", "access=of")]
    #[case::a_stray_comma("info,", "")]
    fn a_word_that_is_no_level_is_an_error_that_names_it(
        #[case] directives: &str,
        #[case] wrong: &str,
    ) {
        let error = parse(directives).unwrap_err().to_string();
        assert!(error.starts_with(&format!("`{wrong}` is not")), "{error}");
    }

    #[rstest]
    #[case::general("debug", true)]
    #[case::a_library_by_name("debug,h2=trace", false)]
    #[case::no_detail("info", false)]
    fn libraries_are_quiet_unless_they_are_named(#[case] directives: &str, #[case] quiet: bool) {
        assert_eq!(quieted_libraries(directives).contains("h2=info"), quiet);
        parse(directives).unwrap();
    }

    #[rstest]
    #[case::text(Format::Text, "peer refused peer=\"x\"")]
    #[case::json(Format::Json, "\"message\":\"peer refused\",\"peer\":\"x\"")]
    fn an_event_becomes_one_line(#[case] format: Format, #[case] expected: &str) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let lines = Lines::open(&Destination::File(path.clone()), notice(format)).unwrap();
        let subscriber = tracing_subscriber::registry().with(render(format, Writer(lines.clone())));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(peer = "x", "peer refused");
        });
        lines.flush(Duration::from_secs(10));
        let written = std::fs::read_to_string(path).unwrap();
        assert!(written.contains(expected), "{written}");
        assert_eq!(written.lines().count(), 1);
    }
}
