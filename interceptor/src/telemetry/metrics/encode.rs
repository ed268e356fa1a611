//! The exposition: from cells, tables and the agent's [`Status`] to samples.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use interceptor_policy::SpiffeId;
use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::Metrics;
use super::catalogue::{self as c, Definition, Kind};
use super::process::Process;
use super::traffic::{Cells, EndLabels, TrafficLabels};
use crate::telemetry::access::AccessLog;
use crate::telemetry::record::ResponseFlags;
use crate::telemetry::status::{Authority, Severity, Status};

/// Everything that one scrape shows.
#[derive(Debug)]
pub(super) struct Exposition(pub(super) Metrics);

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = &self.0.inner;
        // First, because it asks what the kernel has carried.
        let observe = metrics.observe.lock().clone();
        let status = observe.map(|observe| observe());
        metrics.live.flush();
        let mut out = Out { encoder };
        self.traffic(&mut out)?;
        self.connections(&mut out)?;
        if let Some(status) = &status {
            kernel(&mut out, status)?;
            configuration(&mut out, status)?;
        }
        self.agent(&mut out)?;
        if let Some(status) = &status {
            out.one(&c::PROCESS_START, seconds(status.started))?;
        }
        process(&mut out, Process::now())
    }
}

impl Exposition {
    fn traffic(&self, out: &mut Out<'_>) -> fmt::Result {
        let sorted = self.0.inner.traffic.sorted();
        let cells: Vec<_> = sorted
            .iter()
            .map(|(labels, cells)| {
                let ended = labels.flags != ResponseFlags::None;
                (traffic_labels(labels), cells, ended)
            })
            .collect();
        let families: [(&Definition, Cell); 5] = [
            (&c::TCP_OPENED, |cells| &cells.opened),
            (&c::TCP_CLOSED, |cells| &cells.closed),
            (&c::TCP_FAILED, |cells| &cells.failed),
            (&c::TCP_RECEIVED, |cells| &cells.received),
            (&c::TCP_SENT, |cells| &cells.sent),
        ];
        for (definition, cell) in families {
            let failures = definition.name == c::TCP_FAILED.name;
            let samples = cells.iter().filter_map(|(labels, cells, ended)| {
                let value = cell(cells).load(Ordering::Relaxed);
                // A label set with response flags only ever ends connections; zeros of what it
                // cannot count would double the exposition.
                (value > 0 || !(*ended || failures)).then(|| (labels.clone(), value))
            });
            out.family(definition, samples)?;
        }
        Ok(())
    }

    fn connections(&self, out: &mut Out<'_>) -> fmt::Result {
        let metrics = &self.0.inner;
        let (source, destination) = metrics.live.count();
        let reporters = [("source", source), ("destination", destination)];
        out.family(
            &c::OPEN,
            reporters.map(|(reporter, open)| (vec![("reporter", reporter.into())], open)),
        )?;
        for (definition, table) in [(&c::DENIED, &metrics.denied), (&c::CUT, &metrics.cut)] {
            let samples = table.counts().into_iter();
            out.family(
                definition,
                samples.map(|((reporter, policy, reason), count)| {
                    let labels = vec![
                        ("reporter", reporter.into()),
                        ("policy", policy.into()),
                        ("reason", reason.into()),
                    ];
                    (labels, count)
                }),
            )?;
        }
        for (definition, table) in [
            (&c::FAILED, &metrics.failed),
            (&c::PLAINTEXT, &metrics.plaintext),
        ] {
            let samples = table.counts().into_iter();
            out.family(
                definition,
                samples.map(|((reporter, reason), count)| {
                    let labels = vec![("reporter", reporter.into()), ("reason", reason.into())];
                    (labels, count)
                }),
            )?;
        }
        let (shadows, _) = self.0.shadows();
        out.family(
            &c::SHADOWS,
            shadows.into_iter().map(|count| {
                let labels = vec![
                    ("policy", count.policy.into()),
                    ("effect", count.effect.label().into()),
                    ("source_principal", count.caller.into()),
                ];
                (labels, count.connections)
            }),
        )?;
        let handshakes = metrics.handshakes.counts().into_iter();
        out.family(
            &c::HANDSHAKES_FAILED,
            handshakes.map(|(reason, count)| (vec![("reason", reason.into())], count)),
        )
    }

    fn agent(&self, out: &mut Out<'_>) -> fmt::Result {
        let metrics = &self.0.inner;
        let lost = metrics.access.lock().as_ref().map_or(0, AccessLog::lost);
        let overflowed = metrics.traffic.overflowed()
            + metrics.denied.overflowed()
            + metrics.failed.overflowed()
            + metrics.cut.overflowed()
            + metrics.plaintext.overflowed()
            + metrics.shadows.overflowed()
            + metrics.handshakes.overflowed();
        let suppressed = metrics.suppressed_warnings.load(Ordering::Relaxed);
        out.one(&c::LINES_LOST, lost)?;
        out.one(&c::WARNINGS_SUPPRESSED, suppressed)?;
        out.one(&c::OVERFLOWED, overflowed)?;
        let version = env!("CARGO_PKG_VERSION");
        out.family(&c::BUILD, [(vec![("version", version.into())], 1)])?;
        let labels = vec![("component", "interceptor".into()), ("tag", version.into())];
        out.family(&c::ISTIO_BUILD, [(labels, 1)])
    }
}

fn kernel(out: &mut Out<'_>, status: &Status) -> fmt::Result {
    let same_node = &status.same_node;
    out.one(&c::SAME_NODE_GRANTS, same_node.granted)?;
    out.one(&c::SAME_NODE_UNPUBLISHED, same_node.unpublished)?;
    out.one(&c::SAME_NODE_REFUSED, same_node.refused)?;
    out.one(&c::SAME_NODE_OPEN, same_node.open)?;
    out.one(&c::SAME_NODE_LOST, same_node.events_lost)?;
    out.one(&c::SAME_NODE_UNSEEN, same_node.ends_unseen)?;
    out.family(
        &c::KERNEL_EVENTS,
        status
            .counters
            .iter()
            .map(|counter| (vec![("event", counter.name.as_str().into())], counter.value)),
    )?;
    out.family(
        &c::MAP_ENTRIES,
        status
            .maps
            .iter()
            .map(|map| (vec![("map", map.name.as_str().into())], map.entries)),
    )?;
    out.family(
        &c::MAP_CAPACITY,
        status
            .maps
            .iter()
            .map(|map| (vec![("map", map.name.as_str().into())], map.capacity)),
    )?;
    let mut programs = std::collections::BTreeMap::<&str, u64>::new();
    for program in &status.programs {
        *programs.entry(&program.name).or_default() += 1;
    }
    out.family(
        &c::PROGRAMS,
        programs
            .into_iter()
            .map(|(name, count)| (vec![("program", name.into())], count)),
    )?;
    let losses = status.losses.iter();
    let losses = losses.map(|loss| (vec![("what", loss.what.as_str().into())], loss.count));
    out.family(&c::LOSSES, losses)
}

fn authority(out: &mut Out<'_>, authority: &Authority) -> fmt::Result {
    out.family(
        &c::ROOT_EXPIRY,
        authority.roots.iter().filter_map(|root| {
            let labels = vec![
                ("trust_domain", root.trust_domain.as_str().into()),
                ("serial", root.serial.as_str().into()),
            ];
            Some((labels, seconds(root.not_after?)))
        }),
    )?;
    let failing = u64::from(authority.last_error.is_some());
    out.one(&c::AUTHORITY_ERROR, failing)
}

fn configuration(out: &mut Out<'_>, status: &Status) -> fmt::Result {
    out.one(&c::READY, u64::from(status.readiness.is_ready()))?;
    let failed = count(status.workloads.iter().filter(|w| w.error.is_some()));
    let enrolled = count(status.workloads.iter().filter(|w| w.error.is_none()));
    out.family(
        &c::WORKLOADS,
        [("enrolled", enrolled), ("failed", failed)]
            .map(|(state, value)| (vec![("state", state.into())], value)),
    )?;
    out.family(
        &c::CERTIFICATE_EXPIRY,
        status.certificates.iter().filter_map(|certificate| {
            let labels = vec![("identity", certificate.identity.as_str().into())];
            Some((labels, seconds(certificate.not_after?)))
        }),
    )?;
    let failing = status
        .certificates
        .iter()
        .filter(|c| c.last_error.is_some());
    out.one(&c::CERTIFICATE_ERRORS, count(failing))?;
    authority(out, &status.authority)?;
    out.one(&c::BUFFERED, status.buffered.bytes)?;
    out.one(&c::BUFFERED_MOST, status.buffered.most)?;
    out.one(&c::PANICS, status.panics)?;
    let configuration = &status.configuration;
    out.one(&c::CONFIG_VERSION, configuration.version)?;
    out.one(&c::CONFIG_LOADED, configuration.loaded.map_or(0, seconds))?;
    let of = |severity| {
        count(
            configuration
                .mistakes
                .iter()
                .filter(|m| m.severity == severity),
        )
    };
    out.family(
        &c::CONFIG_MISTAKES,
        [
            ("error", of(Severity::Error)),
            ("warning", of(Severity::Warning)),
        ]
        .map(|(severity, value)| (vec![("severity", severity.into())], value)),
    )
}

fn process(out: &mut Out<'_>, process: Process) -> fmt::Result {
    out.family(&c::PROCESS_CPU, [(Vec::new(), process.cpu_seconds)])?;
    out.one(&c::PROCESS_MEMORY, process.resident_bytes)?;
    out.one(&c::PROCESS_FDS, process.open_fds)?;
    out.one(&c::PROCESS_THREADS, process.threads)
}

fn count<T>(items: impl Iterator<Item = T>) -> u64 {
    u64::try_from(items.count()).unwrap_or(u64::MAX)
}

/// Unix time; nothing here is older than 1970.
fn seconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_second()).unwrap_or(0)
}

/// Picks one counter of a label set.
type Cell = fn(&Cells) -> &AtomicU64;

type Labels<'a> = Vec<(&'static str, Cow<'a, str>)>;

/// Istio's labels in the order of [`c::TRAFFIC_LABELS`].
fn traffic_labels(labels: &TrafficLabels) -> Labels<'_> {
    let mut out: Labels<'_> = Vec::with_capacity(c::TRAFFIC_LABELS.len());
    let mut names = c::TRAFFIC_LABELS.iter();
    let mut push = |value| {
        let value: Cow<'_, str> = value;
        if let Some(name) = names.next() {
            let known = !value.is_empty();
            out.push((name, if known { value } else { "unknown".into() }));
        }
    };
    push(labels.reporter.label().into());
    end_labels(&labels.source, &mut push);
    match &labels.service {
        Some(service) => {
            push(Cow::Borrowed(&service.host));
            push(Cow::Borrowed(&service.namespace));
            push(Cow::Borrowed(&service.name));
        }
        None => (0..3).for_each(|_| push(Cow::Borrowed(""))),
    }
    end_labels(&labels.destination, &mut push);
    push("tcp".into());
    push(labels.flags.label().into());
    push(labels.security.label().into());
    out
}

fn end_labels<'a>(end: &'a EndLabels, push: &mut impl FnMut(Cow<'a, str>)) {
    push(Cow::Borrowed(&end.workload));
    push(Cow::Borrowed(&end.service));
    push(Cow::Borrowed(&end.revision));
    push(Cow::Borrowed(&end.namespace));
    push(Cow::Owned(
        end.principal
            .as_ref()
            .map(SpiffeId::to_string)
            .unwrap_or_default(),
    ));
    push(Cow::Borrowed(&end.app));
    push(Cow::Borrowed(&end.version));
    // One cluster; its name comes with the sources that know it.
    push(Cow::Borrowed(""));
}

/// Writes families as the catalogue defines them.
struct Out<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Out<'_> {
    fn one(&mut self, definition: &Definition, value: u64) -> fmt::Result {
        self.family(definition, [(Vec::new(), value)])
    }

    #[expect(
        single_use_lifetimes,
        reason = "an anonymous lifetime is not allowed in this place"
    )]
    fn family<'l, V: Value>(
        &mut self,
        definition: &Definition,
        samples: impl IntoIterator<Item = (Labels<'l>, V)>,
    ) -> fmt::Result {
        let kind = match definition.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        };
        let mut family =
            self.encoder
                .encode_descriptor(definition.name, definition.help, None, kind)?;
        for (labels, value) in samples {
            debug_assert!(
                labels
                    .iter()
                    .map(|(name, _)| name)
                    .eq(definition.labels.iter()),
                "labels of {} differ from the catalogue",
                definition.name
            );
            if labels.is_empty() {
                // Without labels there are no braces: `name 1`, as people search for it.
                sample(&mut family, definition.kind, &value)?;
            } else {
                sample(&mut family.encode_family(&labels)?, definition.kind, &value)?;
            }
        }
        Ok(())
    }
}

fn sample<V: Value>(encoder: &mut MetricEncoder<'_>, kind: Kind, value: &V) -> fmt::Result {
    match kind {
        Kind::Counter => encoder.encode_counter::<NoLabelSet, V, u64>(value, None),
        Kind::Gauge => encoder.encode_gauge(value),
    }
}

/// Numbers that samples have.
trait Value:
    prometheus_client::encoding::EncodeCounterValue + prometheus_client::encoding::EncodeGaugeValue
{
}

impl Value for u64 {}
impl Value for f64 {}
