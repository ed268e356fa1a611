//! Leaves out warnings and errors that repeat.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::telemetry::metrics::Metrics;

/// How many events one place in the code may log per [`WINDOW`]: enough to see several peers at
/// once, few enough to read.
const BURST: u32 = 10;

/// How long a place that has used up its [`BURST`] stays silent, at most.
const WINDOW: Duration = Duration::from_secs(10);

/// A filter by place in the code: the number of places bounds its memory.
#[derive(Debug)]
pub(super) struct Repeats {
    windows: Mutex<HashMap<Identifier, Window>>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Window {
    start: Instant,
    seen: u32,
}

impl Repeats {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            windows: Mutex::default(),
            metrics,
        }
    }

    fn admits(&self, place: Identifier, now: Instant) -> bool {
        let mut windows = self.windows.lock();
        let window = windows.entry(place).or_insert(Window {
            start: now,
            seen: 0,
        });
        if now.saturating_duration_since(window.start) >= WINDOW {
            *window = Window {
                start: now,
                seen: 0,
            };
        }
        window.seen = window.seen.saturating_add(1);
        window.seen <= BURST
    }
}

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN || self.admits(metadata.callsite(), Instant::now()) {
            return true;
        }
        self.metrics.warnings_suppressed(1);
        false
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    struct Count(std::sync::Arc<std::sync::atomic::AtomicU32>);

    impl<S: Subscriber> Layer<S> for Count {
        fn on_event(&self, _event: &Event<'_>, _context: Context<'_, S>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[test]
    fn a_warning_that_repeats_is_left_out_and_counted() {
        let metrics = Metrics::new();
        let seen = std::sync::Arc::<std::sync::atomic::AtomicU32>::default();
        let subscriber = tracing_subscriber::registry()
            .with(Repeats::new(metrics.clone()))
            .with(Count(std::sync::Arc::clone(&seen)));
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..100 {
                tracing::warn!("the same");
                tracing::info!("not a warning");
            }
            tracing::warn!("another place");
        });
        assert_eq!(seen.load(std::sync::atomic::Ordering::Relaxed), BURST + 101);
        let text = metrics.render().unwrap();
        assert!(text.contains("\ninterceptor_log_suppressed_total 90\n"));
    }

    #[test]
    fn it_is_heard_again_in_the_next_window() {
        let repeats = Repeats::new(Metrics::new());
        let place = tracing::callsite!(name: "here", kind: tracing::metadata::Kind::EVENT, fields:);
        let place = tracing::Callsite::metadata(place).callsite();
        let start = Instant::now();
        let admitted = |at: Instant| {
            (0..20)
                .filter(|_| repeats.admits(place.clone(), at))
                .count()
        };
        assert_eq!(admitted(start), 10);
        assert_eq!(admitted(start + WINDOW / 2), 0);
        assert_eq!(admitted(start + WINDOW), 10);
    }
}
