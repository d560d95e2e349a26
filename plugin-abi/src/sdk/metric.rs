//! Metrics of a plugin in the broker's `/metrics`, under the plugin's name. A reloaded plugin
//! continues the counts of the generation before it.

use super::error::Refused;
use super::host::Host;
use crate::raw::{MetricKind, NewMetric, Slice, Status};

/// A number that only increases. Cheap to copy; any thread.
#[derive(Clone, Copy, Debug)]
pub struct Counter(Handle);

/// A number that increases and decreases. Cheap to copy; any thread.
#[derive(Clone, Copy, Debug)]
pub struct Gauge(Handle);

/// A histogram: values counted by size. Cheap to copy; any thread.
#[derive(Clone, Copy, Debug)]
pub struct Histogram(Handle);

#[derive(Clone, Copy, Debug)]
struct Handle {
    host: Host,
    metric: u64,
}

impl Handle {
    fn make(host: Host, kind: MetricKind, names: (&str, &str), bounds: &[i64]) -> Result<Handle, Refused> {
        let (name, help) = names;
        let table = NewMetric {
            size: size_of::<NewMetric>() as u32,
            kind,
            name: Slice::of(name.as_bytes()),
            help: Slice::of(help.as_bytes()),
            bounds: bounds.as_ptr(),
            bounds_len: bounds.len(),
        };
        let mut metric = 0;
        let api = host.api();
        // SAFETY: `metric` may be called from any thread, the table is alive during the call, and
        // `metric` is writable.
        let status = unsafe { (api.metric)(api.plugin, &raw const table, &raw mut metric) };
        if status == Status::OK { Ok(Handle { host, metric }) } else { Err(Refused { field: None, status }) }
    }

    fn measure(self, value: i64) {
        // SAFETY: `measure` may be called from any thread. It fails only for an unknown metric.
        let _ = unsafe { (self.host.api().measure)(self.metric, value) };
    }

    fn reading(self, bucket: u32) -> Option<i64> {
        let mut value = 0;
        // SAFETY: `reading` may be called from any thread, and `value` is writable.
        let status = unsafe { (self.host.api().reading)(self.metric, bucket, &raw mut value) };
        (status == Status::OK).then_some(value)
    }
}

impl Counter {
    /// Adds one.
    pub fn add_one(self) {
        self.0.measure(1);
    }

    /// Adds `by`.
    pub fn add(self, by: u32) {
        self.0.measure(i64::from(by));
    }

    /// The current value, over all versions of the plugin. Any thread.
    pub fn value(self) -> i64 {
        self.0.reading(0).unwrap_or(0)
    }
}

impl Gauge {
    /// Sets the value.
    pub fn set(self, value: i64) {
        self.0.measure(value);
    }

    /// Adds `by`, which may be negative.
    pub fn adjust(self, by: i64) {
        // SAFETY: `adjust` may be called from any thread. It fails only for an unknown metric.
        let _ = unsafe { (self.0.host.api().adjust)(self.0.metric, by) };
    }

    /// The current value. Any thread.
    pub fn value(self) -> i64 {
        self.0.reading(0).unwrap_or(0)
    }
}

/// One holder's part of a gauge that several holders share, such as the versions of a plugin during
/// a reload. Dropping it subtracts the part from the gauge.
#[derive(Default, Debug)]
pub struct GaugePart {
    gauge: Option<Gauge>,
    value: i64,
}

impl GaugePart {
    /// A part of 0. Without a gauge, all calls have no effect.
    pub fn of(gauge: Option<Gauge>) -> GaugePart {
        GaugePart { gauge, value: 0 }
    }

    /// Sets this part.
    pub fn set(&mut self, value: i64) {
        self.adjust(value - self.value);
    }

    /// Adds `by` to this part; it may be negative.
    pub fn adjust(&mut self, by: i64) {
        if let Some(gauge) = self.gauge.filter(|_| by != 0) {
            self.value += by;
            gauge.adjust(by);
        }
    }
}

impl Drop for GaugePart {
    fn drop(&mut self) {
        self.adjust(-self.value);
    }
}

impl Histogram {
    /// Counts a value.
    pub fn record(self, value: i64) {
        self.0.measure(value);
    }

    /// The number of values in each bucket: above the previous bound and up to this one. The last
    /// element counts the values above all bounds. Any thread.
    pub fn buckets(self) -> Vec<i64> {
        (0..).map_while(|bucket| self.0.reading(bucket)).collect()
    }
}

impl Host {
    /// A counter. `name` includes the unit: lower case letters, digits and `_`. Any thread.
    ///
    /// # Errors
    /// [`Refused`] for an invalid name, for a name that another kind of metric has, and above
    /// `plugin_metrics_max`.
    pub fn counter(self, name: &str, help: &str) -> Result<Counter, Refused> {
        Handle::make(self, MetricKind::COUNTER, (name, help), &[]).map(Counter)
    }

    /// A gauge. For `name` and threads see [`Host::counter`].
    ///
    /// # Errors
    /// As [`Host::counter`].
    pub fn gauge(self, name: &str, help: &str) -> Result<Gauge, Refused> {
        Handle::make(self, MetricKind::GAUGE, (name, help), &[]).map(Gauge)
    }

    /// A histogram with these upper bounds of its buckets: ascending, at most 64. An empty list
    /// means 1, 2, 5, 10 … 1,000,000,000. For `name` and threads see [`Host::counter`].
    ///
    /// # Errors
    /// As [`Host::counter`].
    pub fn histogram(self, name: &str, help: &str, bounds: &[i64]) -> Result<Histogram, Refused> {
        Handle::make(self, MetricKind::HISTOGRAM, (name, help), bounds).map(Histogram)
    }
}
