//! Connections that differ only in their [`Numbers`], reported together.
//!
//! A caller that opens thousands of connections a second to one server has thousands of records
//! that are the same but for ports, bytes and times, and the same numbers at both ends. What they
//! share is resolved once, as a [`Shape`]: label sets, counters, and access lines with holes. One of
//! them costs a few additions and the bytes of its lines then.
//!
//! A shape is of one moment. Names, identities and what allowed a connection may change: whoever
//! keeps one must know when.

use std::sync::Arc;

use jiff::Timestamp;

use super::access::{self, Template};
use super::calls;
use super::metrics::Counted;
use super::record::{Numbers, Outcome, Record, ResponseFlags, Security, Tally};
use super::{Recent, Telemetry};

/// So many shapes are counted at the same time, in a batch.
const TALLIES: usize = 16;

/// What connections share that were allowed, carried and ended well.
#[derive(Debug)]
pub struct Shape {
    ends: Vec<End>,
    lines: Arc<[Template]>,
}

/// What is reported of one end.
#[derive(Debug)]
struct End {
    record: Record,
    counted: Counted,
    call: Option<calls::Line>,
}

/// Reports connections that were over when they were heard of, many at once. What is not reported yet
/// is when it is dropped.
#[derive(Debug)]
pub struct Batch {
    lines: access::Batch,
    recent: Recent,
    /// Somebody follows the live feed: asked once.
    followed: bool,
    now: Timestamp,
    tallies: Vec<(Arc<Shape>, Tally)>,
}

impl Telemetry {
    /// What connections share whose ends are recorded like these. `None` if there is more to be told
    /// of each: a refusal, a failure, plaintext, or what policies that only report said.
    pub fn shape(&self, records: impl IntoIterator<Item = Record>) -> Option<Shape> {
        let ends = records.into_iter().map(|record| self.end(record));
        let ends: Vec<End> = ends.collect::<Option<_>>()?;
        let lines = ends.iter().map(|end| self.access.template(&end.record));
        Some(Shape {
            lines: lines.collect(),
            ends,
        })
    }

    fn end(&self, record: Record) -> Option<End> {
        let is_plain = record.outcome == Outcome::Allowed
            && record.flags == ResponseFlags::None
            && record.security != Security::None
            && record.shadows.is_empty();
        is_plain.then(|| End {
            counted: self.metrics.counted(&record),
            call: self.calls.line(&record),
            record,
        })
    }

    /// Begins to report connections together.
    pub fn batch(&self) -> Batch {
        Batch {
            lines: self.access.batch(),
            recent: self.recent.clone(),
            followed: self.recent.is_followed(),
            now: Timestamp::now(),
            tallies: Vec::with_capacity(TALLIES),
        }
    }
}

impl Batch {
    /// Reports a connection of this shape that ended `at` this time, at all ends.
    pub fn whole(&mut self, shape: &Arc<Shape>, at: Timestamp, numbers: &Numbers) {
        self.tally(shape, numbers);
        if self.followed {
            for end in &shape.ends {
                let record = end.record.with(numbers);
                self.recent.opened(&record);
                self.recent.ended(&record);
            }
        }
        self.lines.write(&shape.lines, at, numbers);
    }

    /// Remembers to count it: the counters are others', too, and cost more.
    fn tally(&mut self, shape: &Arc<Shape>, numbers: &Numbers) {
        let mut known = self.tallies.iter_mut().rev();
        if let Some((_, tally)) = known.find(|(it, _)| Arc::ptr_eq(it, shape)) {
            return tally.add(numbers);
        }
        if self.tallies.len() >= TALLIES {
            self.count();
        }
        let mut tally = Tally::default();
        tally.add(numbers);
        self.tallies.push((Arc::clone(shape), tally));
    }

    /// Counts what was tallied.
    fn count(&mut self) {
        for (shape, tally) in self.tallies.drain(..) {
            for end in &shape.ends {
                end.counted.add(&tally);
                if let (Some(call), Some(source)) = (&end.call, tally.source) {
                    call.add(self.now, source.ip().to_canonical(), tally.connections);
                }
            }
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::access::{AccessLog, Config, Format, render};
    use crate::telemetry::queue::Destination;
    use crate::telemetry::record::{ConnectionId, Reporter, fixtures};

    fn at() -> Timestamp {
        "2025-03-01T12:00:00.123456Z".parse().unwrap()
    }

    /// Three connections like this one.
    fn alike(record: &Record) -> Vec<Record> {
        let mut numbers = record.numbers();
        let records = (1..=3_u8).map(|n| {
            numbers.id = ConnectionId(u64::from(n) << 56);
            numbers.bytes_sent += 1000;
            numbers.duration *= 7;
            let ip = [10, 1, 0, 2 * (n % 2)];
            numbers.source = Some((ip, 100 * u16::from(n)).into());
            numbers.tcp = numbers.tcp.filter(|_| n != 2);
            record.with(&numbers)
        });
        records.collect()
    }

    #[test]
    fn what_is_reported_together_is_what_is_reported_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let log = |name: &str, format| {
            let path = folder.path().join(name);
            let config = Config {
                destination: Destination::File(path),
                format,
            };
            Telemetry::new(AccessLog::open(&config).unwrap())
        };
        let subscriber = tracing_subscriber::registry();
        let _all_levels = tracing::subscriber::set_default(subscriber);
        for format in [Format::Json, Format::Text] {
            let (single, together) = (log("single", format), log("together", format));
            let mut inbound = fixtures::direct();
            inbound.reporter = Reporter::Destination;
            let mut batch = together.batch();
            let mut lines = Vec::new();
            let ends = |one: &Record, own: &Numbers| [one.with(own), inbound.with(own)];
            for record in [fixtures::direct(), fixtures::allowed()] {
                let both = ends(&record, &record.numbers());
                let shape = Arc::new(together.shape(both).unwrap());
                for numbers in alike(&record).iter().map(Record::numbers) {
                    for record in ends(&record, &numbers) {
                        let open = single.opened(&record, Arc::default());
                        single.closed(open, &record);
                        lines.extend(render(&record, at(), format));
                    }
                    batch.whole(&shape, at(), &numbers);
                }
            }
            drop(batch);
            together.access.flush(std::time::Duration::from_secs(10));
            let written = std::fs::read(folder.path().join("together")).unwrap();
            assert_eq!(
                String::from_utf8(written).unwrap(),
                String::from_utf8(lines).unwrap()
            );
            std::fs::remove_file(folder.path().join("together")).unwrap();
            let counted = |telemetry: &Telemetry| {
                let mut report = telemetry.calls.report();
                for call in &mut report.calls {
                    (call.first, call.last) = (at(), at());
                }
                let metrics = telemetry.metrics.render().unwrap();
                let metrics = metrics.lines().filter(|it| !it.contains("bytes_total{"));
                let metrics = metrics.filter(|it| !it.starts_with("process_"));
                (report, metrics.collect::<Vec<_>>().join("\n"))
            };
            assert_eq!(counted(&single), counted(&together));
        }
    }

    #[test]
    fn bytes_are_counted_from_the_servers_side_whoever_reports() {
        let telemetry = Telemetry::new(AccessLog::disabled());
        for reporter in [Reporter::Source, Reporter::Destination] {
            let mut record = fixtures::direct();
            record.reporter = reporter;
            let shape = Arc::new(telemetry.shape([record.clone()]).unwrap());
            telemetry.batch().whole(&shape, at(), &record.numbers());
        }
        let text = telemetry.metrics.render().unwrap();
        let total = |name: &str| -> u64 {
            let lines = text.lines().filter(|it| it.starts_with(name));
            let values = lines.map(|it| it.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
            values.sum()
        };
        assert_eq!(total("istio_tcp_sent_bytes_total"), 2 * 175);
        assert_eq!(total("istio_tcp_received_bytes_total"), 2 * 84);
    }

    #[test]
    fn more_shapes_than_are_tallied_together_are_counted_all_the_same() {
        let telemetry = Telemetry::new(AccessLog::disabled());
        let record = fixtures::direct();
        let shape = || Arc::new(telemetry.shape([record.clone()]).unwrap());
        let shapes: Vec<_> = std::iter::repeat_with(shape).take(3 * TALLIES).collect();
        let mut batch = telemetry.batch();
        for shape in shapes.iter().chain(&shapes) {
            batch.whole(shape, at(), &record.numbers());
        }
        drop(batch);
        let calls = telemetry.calls.report().calls;
        let counted: Vec<u64> = calls.iter().map(|call| call.connections).collect();
        assert_eq!(counted, [u64::try_from(6 * TALLIES).unwrap()]);
    }

    #[test]
    fn what_has_more_to_tell_has_no_shape() {
        let telemetry = Telemetry::new(AccessLog::disabled());
        for record in [
            fixtures::denied(),
            fixtures::failed(),
            fixtures::cut(),
            fixtures::passthrough(),
            fixtures::allowed_inbound(),
        ] {
            assert!(telemetry.shape([record]).is_none());
        }
    }

    #[test]
    fn followers_see_each_of_them() {
        let telemetry = Telemetry::new(AccessLog::disabled());
        let mut feed = telemetry.recent.follow();
        let record = fixtures::direct();
        let shape = Arc::new(telemetry.shape([record.clone()]).unwrap());
        telemetry.batch().whole(&shape, at(), &record.numbers());
        let seen = std::iter::from_fn(|| feed.try_recv().ok());
        assert_eq!(seen.count(), 2, "its beginning and its end");
    }
}
