//! Metrics of plugins: numbers that any thread of a plugin changes without a lock, and that
//! `/metrics` shows under the plugin's name. Called by the services; the control plane reads them.
//! A metric belongs to the name of the plugin, so that a reloaded plugin continues to count.
//! Metrics are never removed, because a late thread may still use them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use grapnel_plugin_abi::host::MetricRequest;
use grapnel_plugin_abi::raw::{MetricKind, Status};

/// Metrics of one chunk of the table.
const CHUNK: usize = 64;
/// Chunks there can be: 65,536 metrics of all plugins together.
const CHUNKS_MAX: usize = 1024;
/// Bytes a name may have.
const NAME_BYTES_MAX: usize = 64;
/// Bytes a help text may have.
const HELP_BYTES_MAX: usize = 512;

/// A metric with its value.
#[derive(Debug)]
pub(in crate::plugin) struct Metric {
    /// The plugin that it belongs to.
    plugin: Arc<str>,
    /// Its name in `/metrics`, without the broker's prefix.
    shown: String,
    help: String,
    kind: MetricKind,
    /// The value of a counter or gauge, or the sum of a histogram.
    value: AtomicI64,
    bounds: Box<[i64]>,
    /// Number of values per bucket, the last one beyond all bounds; not cumulated.
    buckets: Box<[AtomicU64]>,
}

type Chunk = Box<[OnceLock<Metric>]>;

/// All metrics of all plugins, numbered from 1.
pub(in crate::plugin) struct Metrics {
    chunks: Box<[OnceLock<Chunk>]>,
    names: Mutex<Names>,
}

#[derive(Default)]
struct Names {
    /// How many elements of the table are in use.
    made: usize,
    /// How many metrics each plugin has made.
    by_plugin: HashMap<Arc<str>, usize>,
    /// The number of the metric of each sample name. A histogram has four sample names.
    samples: HashMap<String, u64>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics { chunks: (0..CHUNKS_MAX).map(|_| OnceLock::new()).collect(), names: Mutex::default() }
    }
}

/// Why a metric was refused: the status for the plugin and the sentence for the log.
type Refusal = (Status, String);

impl Metrics {
    /// Makes a metric of a plugin, or returns the existing one of this name; the plugin may make
    /// `max` metrics.
    ///
    /// # Errors
    /// INVALID for an invalid name, help, kind or bounds, or for a name that another metric has;
    /// FULL beyond `max`.
    pub(in crate::plugin) fn make(
        &self,
        plugin: &str,
        wanted: &MetricRequest<'_>,
        max: u64,
    ) -> Result<u64, Refusal> {
        let name = wanted.name;
        check(wanted).map_err(|what| (Status::INVALID, format!("makes no metric {name:?}: {what}")))?;
        let shown = format!("plugin_{}_{name}", plugin.replace('-', "_"));
        let bounds = bounds_of(wanted);
        let mut names = self.names();
        if let Some(&number) = names.samples.get(&shown) {
            let known = self.get(number).filter(|known| known.shown == shown && &*known.plugin == plugin);
            match known {
                Some(known) if known.kind != wanted.kind => {
                    let what = format!("requests the metric {name} with another kind than before");
                    return Err((Status::INVALID, what));
                }
                Some(known) if known.bounds == bounds => return Ok(number),
                // A version with other buckets begins a new histogram, which replaces the old one.
                Some(_) => {}
                None => return Err((Status::INVALID, self.taken(name, &shown, number))),
            }
        } else if let Some((sample, number)) = taken_sample(&names, &shown, wanted.kind) {
            return Err((Status::INVALID, self.taken(name, &sample, number)));
        }
        let made = names.by_plugin.get(plugin).copied().unwrap_or(0);
        if made as u64 >= max {
            let what =
                format!("has made {made} metrics and gets no {name}; limits.plugin_metrics_max is {max}");
            return Err((Status::FULL, what));
        }
        let metric = Metric {
            plugin: plugin.into(),
            shown,
            help: wanted.help.to_owned(),
            kind: wanted.kind,
            value: AtomicI64::new(0),
            buckets: buckets_of(wanted.kind, bounds.len()),
            bounds,
        };
        self.put(&mut names, metric)
            .ok_or_else(|| (Status::FULL, format!("gets no metric {name}: the broker's table is full")))
    }

    fn put(&self, names: &mut Names, metric: Metric) -> Option<u64> {
        let (chunk, place) = (names.made / CHUNK, names.made % CHUNK);
        let number = names.made as u64 + 1;
        let plugin = Arc::clone(&metric.plugin);
        let samples: Vec<String> = sample_names(&metric.shown, metric.kind).collect();
        let places = self.chunks.get(chunk)?.get_or_init(|| (0..CHUNK).map(|_| OnceLock::new()).collect());
        places.get(place)?.set(metric).ok()?;
        names.made += 1;
        *names.by_plugin.entry(plugin).or_default() += 1;
        names.samples.extend(samples.into_iter().map(|sample| (sample, number)));
        Some(number)
    }

    fn taken(&self, name: &str, sample: &str, number: u64) -> String {
        let owner = self.get(number).map_or("another plugin", |metric| &metric.plugin);
        format!("makes no metric {name}: it would show as grapnel_{sample}, which is a metric of {owner}")
    }

    /// The metric with a number. Takes no lock.
    fn get(&self, number: u64) -> Option<&Metric> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.chunks.get(index / CHUNK)?.get()?.get(index % CHUNK)?.get()
    }

    /// Adds to a counter, sets a gauge, or adds a value to a histogram. Any thread; takes no lock.
    pub(in crate::plugin) fn measure(&self, number: u64, value: i64) -> Result<(), Status> {
        let metric = self.get(number).ok_or(Status::INVALID)?;
        match metric.kind {
            MetricKind::COUNTER if value < 0 => return Err(Status::INVALID),
            MetricKind::COUNTER => drop(metric.value.fetch_add(value, Ordering::Relaxed)),
            MetricKind::GAUGE => metric.value.store(value, Ordering::Relaxed),
            _ => {
                let bucket = metric.bounds.partition_point(|bound| *bound < value);
                if let Some(bucket) = metric.buckets.get(bucket) {
                    bucket.fetch_add(1, Ordering::Relaxed);
                }
                metric.value.fetch_add(value, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Adds to a gauge. Any thread; takes no lock.
    pub(in crate::plugin) fn adjust(&self, number: u64, by: i64) -> Result<(), Status> {
        let metric = self.get(number).filter(|metric| metric.kind == MetricKind::GAUGE);
        metric.ok_or(Status::INVALID)?.value.fetch_add(by, Ordering::Relaxed);
        Ok(())
    }

    /// The value of a counter or gauge, or the number of values in a bucket. Any thread; takes no
    /// lock.
    pub(in crate::plugin) fn reading(&self, number: u64, bucket: u32) -> Result<i64, Status> {
        let metric = self.get(number).ok_or(Status::INVALID)?;
        match (metric.buckets.is_empty(), metric.buckets.get(bucket as usize)) {
            (true, _) if bucket == 0 => Ok(metric.value.load(Ordering::Relaxed)),
            (_, Some(count)) => Ok(i64::try_from(count.load(Ordering::Relaxed)).unwrap_or(i64::MAX)),
            _ => Err(Status::ABSENT),
        }
    }

    /// The values of the metrics of these plugins, sorted by their name in `/metrics`.
    pub(in crate::plugin) fn read(&self, plugins: &[String]) -> Vec<MetricReading> {
        let mut numbers: Vec<(String, u64)> = {
            let names = self.names();
            names.samples.iter().map(|(name, number)| (name.clone(), *number)).collect()
        };
        numbers.sort_unstable();
        let metrics = numbers.iter().filter_map(|(sample, number)| {
            let metric = self.get(*number).filter(|metric| metric.shown == *sample)?;
            plugins.iter().any(|plugin| **plugin == *metric.plugin).then(|| metric.reading())
        });
        metrics.collect()
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A metric at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricReading {
    /// Its name without the broker's prefix, such as `plugin_tap_messages`.
    pub name: String,
    /// Its help text, in the plugin's words.
    pub help: String,
    /// The value.
    pub value: MetricValue,
}

/// The value of a metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricValue {
    /// Only grows.
    Counter(i64),
    /// Goes up and down.
    Gauge(i64),
    /// Values by size.
    Histogram {
        /// Each upper bound, with the number of values up to it (cumulated).
        buckets: Vec<(i64, u64)>,
        /// Number of all values.
        count: u64,
        /// Sum of all values.
        sum: i64,
    },
}

impl Metric {
    fn reading(&self) -> MetricReading {
        let value = self.value.load(Ordering::Relaxed);
        let value = match self.kind {
            MetricKind::COUNTER => MetricValue::Counter(value),
            MetricKind::GAUGE => MetricValue::Gauge(value),
            _ => {
                let mut count = 0;
                let mut cumulated = self.buckets.iter().map(|bucket| {
                    count += bucket.load(Ordering::Relaxed);
                    count
                });
                let buckets = self.bounds.iter().copied().zip(&mut cumulated).collect();
                cumulated.for_each(drop);
                MetricValue::Histogram { buckets, count, sum: value }
            }
        };
        MetricReading { name: self.shown.clone(), help: self.help.clone(), value }
    }
}

/// Returns what is wrong with a request, without regard to other metrics.
fn check(wanted: &MetricRequest<'_>) -> Result<(), String> {
    let name = wanted.name;
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(fits) {
        return Err(format!("a name is 1 to {NAME_BYTES_MAX} lower case letters, digits and _"));
    }
    if wanted.help.len() > HELP_BYTES_MAX {
        return Err(format!("its help has more than {HELP_BYTES_MAX} bytes"));
    }
    match wanted.kind {
        MetricKind::COUNTER | MetricKind::GAUGE if !wanted.bounds.is_empty() => {
            Err("only a histogram has bounds".to_owned())
        }
        MetricKind::COUNTER | MetricKind::GAUGE => Ok(()),
        MetricKind::HISTOGRAM if !wanted.bounds.is_sorted_by(|a, b| a < b) => {
            Err("the bounds of a histogram must grow".to_owned())
        }
        MetricKind::HISTOGRAM => Ok(()),
        other => Err(format!("there is no kind {}", other.0)),
    }
}

/// The bounds of the request; for a histogram without bounds 1, 2, 5, 10 … 1,000,000,000.
fn bounds_of(wanted: &MetricRequest<'_>) -> Box<[i64]> {
    if wanted.kind != MetricKind::HISTOGRAM || !wanted.bounds.is_empty() {
        return wanted.bounds.into();
    }
    let decades = (0..9).flat_map(|decade| [1, 2, 5].map(|step| step * 10_i64.pow(decade)));
    decades.chain([1_000_000_000]).collect()
}

fn buckets_of(kind: MetricKind, bounds: usize) -> Box<[AtomicU64]> {
    let count = if kind == MetricKind::HISTOGRAM { bounds + 1 } else { 0 };
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// The names of the samples of a metric, its own name first.
fn sample_names(shown: &str, kind: MetricKind) -> impl Iterator<Item = String> {
    let parts: &[&str] = if kind == MetricKind::HISTOGRAM { &["_bucket", "_sum", "_count"] } else { &[] };
    std::iter::once(shown.to_owned()).chain(parts.iter().map(move |part| format!("{shown}{part}")))
}

fn taken_sample(names: &Names, shown: &str, kind: MetricKind) -> Option<(String, u64)> {
    sample_names(shown, kind).find_map(|sample| {
        let number = *names.samples.get(&sample)?;
        Some((sample, number))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn wanted<'a>(kind: MetricKind, name: &'a str, bounds: &'a [i64]) -> MetricRequest<'a> {
        MetricRequest { kind, name, help: "what it counts", bounds }
    }

    fn counter(name: &str) -> MetricRequest<'_> {
        wanted(MetricKind::COUNTER, name, &[])
    }

    fn value(metrics: &Metrics, plugin: &str) -> Vec<(String, MetricValue)> {
        let read = metrics.read(&[plugin.to_owned()]);
        read.into_iter().map(|reading| (reading.name, reading.value)).collect()
    }

    #[test]
    fn a_metric_continues_in_the_next_version_and_belongs_to_its_plugin() {
        let metrics = Metrics::default();
        let first = metrics.make("my-tap", &counter("messages"), 8).unwrap();
        metrics.measure(first, 3).unwrap();
        let again = metrics.make("my-tap", &counter("messages"), 8).unwrap();
        metrics.measure(again, 4).unwrap();
        assert_eq!(first, again);
        let other = metrics.make("other", &counter("messages"), 8).unwrap();
        assert_ne!(other, first);
        let shown = ("plugin_my_tap_messages".to_owned(), MetricValue::Counter(7));
        assert_eq!(value(&metrics, "my-tap"), [shown]);
        assert_eq!(value(&metrics, "gone"), []);
    }

    #[test]
    fn a_gauge_can_be_set_and_changed_and_a_counter_never_decreases() {
        let metrics = Metrics::default();
        let gauge = metrics.make("p", &wanted(MetricKind::GAUGE, "depth", &[]), 8).unwrap();
        metrics.measure(gauge, 5).unwrap();
        metrics.adjust(gauge, -7).unwrap();
        assert_eq!(value(&metrics, "p"), [("plugin_p_depth".to_owned(), MetricValue::Gauge(-2))]);
        let counter = metrics.make("q", &counter("x"), 8).unwrap();
        assert_eq!(metrics.measure(counter, -1), Err(Status::INVALID));
        assert_eq!(metrics.adjust(counter, 1), Err(Status::INVALID));
        assert_eq!(metrics.measure(0, 1), Err(Status::INVALID));
        assert_eq!(metrics.measure(9_999_999, 1), Err(Status::INVALID));
    }

    #[test]
    fn a_histogram_counts_by_bucket_and_restarts_with_other_bounds() {
        let metrics = Metrics::default();
        let histogram = wanted(MetricKind::HISTOGRAM, "size", &[1, 10, 100]);
        let number = metrics.make("p", &histogram, 8).unwrap();
        for measured in [1, 2, 10, 100, 101] {
            metrics.measure(number, measured).unwrap();
        }
        let expected =
            MetricValue::Histogram { buckets: vec![(1, 1), (10, 3), (100, 4)], count: 5, sum: 214 };
        assert_eq!(value(&metrics, "p"), [("plugin_p_size".to_owned(), expected)]);
        let other = metrics.make("p", &wanted(MetricKind::HISTOGRAM, "size", &[5]), 8).unwrap();
        assert_ne!(other, number);
        // A thread of the previous version may still count in the old histogram.
        metrics.measure(number, 1).unwrap();
        let expected = MetricValue::Histogram { buckets: vec![(5, 0)], count: 0, sum: 0 };
        assert_eq!(value(&metrics, "p"), [("plugin_p_size".to_owned(), expected)]);
        let default = metrics.make("p", &wanted(MetricKind::HISTOGRAM, "time_us", &[]), 8).unwrap();
        assert_eq!(metrics.get(default).unwrap().bounds[..5], [1, 2, 5, 10, 20]);
        assert_eq!(metrics.get(default).unwrap().bounds.last(), Some(&1_000_000_000));
    }

    #[test]
    fn invalid_metrics_are_refused_with_an_error_text() {
        let metrics = Metrics::default();
        let error_of = |wanted: &MetricRequest<'_>| metrics.make("p", wanted, 8).unwrap_err();
        for name in ["", "Messages", "a b", "a-b", "é", &"x".repeat(65)] {
            let (status, what) = error_of(&counter(name));
            assert_eq!(status, Status::INVALID);
            assert!(what.ends_with("a name is 1 to 64 lower case letters, digits and _"), "{what}");
        }
        assert!(error_of(&wanted(MetricKind(9), "x", &[])).1.ends_with("there is no kind 9"));
        assert!(error_of(&wanted(MetricKind::HISTOGRAM, "x", &[2, 2])).1.ends_with("must grow"));
        assert!(error_of(&wanted(MetricKind::GAUGE, "x", &[2])).1.ends_with("only a histogram has bounds"));
        metrics.make("p", &counter("x"), 8).unwrap();
        assert!(error_of(&wanted(MetricKind::GAUGE, "x", &[])).1.contains("another kind"));
    }

    #[test]
    fn no_two_metrics_are_shown_under_one_name() {
        let metrics = Metrics::default();
        metrics.make("a", &counter("b_c"), 8).unwrap();
        let (_, what) = metrics.make("a-b", &counter("c"), 8).unwrap_err();
        assert_eq!(what, "makes no metric c: it would show as grapnel_plugin_a_b_c, which is a metric of a");
        metrics.make("h", &wanted(MetricKind::HISTOGRAM, "x", &[]), 8).unwrap();
        assert!(metrics.make("h", &counter("x_count"), 8).is_err());
        metrics.make("h", &counter("y_sum"), 8).unwrap();
        assert!(metrics.make("h", &wanted(MetricKind::HISTOGRAM, "y", &[]), 8).is_err());
    }

    #[test]
    fn a_plugin_has_a_limited_number_of_metrics() {
        let metrics = Metrics::default();
        for number in 0..100 {
            metrics.make("p", &counter(&format!("x{number}")), 100).unwrap();
        }
        let (status, what) = metrics.make("p", &counter("y"), 100).unwrap_err();
        assert_eq!(status, Status::FULL);
        assert!(what.ends_with("gets no y; limits.plugin_metrics_max is 100"), "{what}");
        metrics.make("p", &counter("x99"), 100).expect("what is there is found beyond the limit");
        metrics.make("q", &counter("y"), 100).expect("another plugin has its own share");
    }

    #[test]
    fn counts_of_many_threads_add_up() {
        let metrics = Metrics::default();
        let number = metrics.make("p", &counter("x"), 8).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| metrics.measure(number, 1).unwrap()));
            }
        });
        assert_eq!(value(&metrics, "p"), [("plugin_p_x".to_owned(), MetricValue::Counter(40_000))]);
    }
}
