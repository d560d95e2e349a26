//! What is counted of a worker, as metrics of the plugin: `grapnel-ctl exhook drivers` and `/metrics` show them. Any thread counts.

use std::time::Duration;

use grapnel_plugin_abi::{Counter, Gauge, Histogram, Host};

/// Upper bounds of the times of answers, microseconds.
const ANSWER_US: [i64; 25] = [
    50, 75, 100, 150, 200, 250, 300, 400, 500, 750, 1_000, 1_500, 2_000, 3_000, 5_000, 7_500, 10_000, 20_000,
    50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000,
];

/// The metrics of one worker. One that the broker has no room for is not counted.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    calls: Option<Counter>,
    dropped: Option<Counter>,
    failed: Option<Counter>,
    timeouts: Option<Counter>,
    restarts: Option<Counter>,
    queue: Option<Gauge>,
    loaded: Option<Gauge>,
    answer_us: Option<Histogram>,
}

impl Figures {
    /// Those of a worker, by driver and number.
    pub fn new(host: Host, driver: &str, index: u32) -> Figures {
        let name = |what: &str| format!("worker_{driver}_{index}_{what}");
        let counter = |what: &str, help: &str| host.counter(&name(what), help).ok();
        let figures = Figures {
            calls: counter("calls", "Calls handed over to the worker"),
            dropped: counter("dropped", "Calls that only told, and were dropped"),
            failed: counter("failed", "Calls that ended by their policy"),
            timeouts: counter("timeouts", "Of them, those without an answer in time"),
            restarts: counter("restarts", "Processes started after the first"),
            loaded: host.gauge(&name("loaded"), "Whether the plugin has the worker now").ok(),
            queue: host.gauge(&name("queue"), "Calls that wait for the worker").ok(),
            answer_us: host
                .histogram(&name("answer_us"), "Microseconds until an answer was there", &ANSWER_US)
                .ok(),
        };
        if figures.answer_us.is_none() {
            host.warn(format_args!(
                "not all figures of worker {driver}/{index} are counted; limits.plugin_metrics_max is too small"
            ));
        }
        figures
    }

    /// Those of a worker that nobody counts.
    #[cfg(test)]
    pub const fn none() -> Figures {
        Figures {
            calls: None,
            dropped: None,
            failed: None,
            timeouts: None,
            restarts: None,
            queue: None,
            loaded: None,
            answer_us: None,
        }
    }

    /// Calls were handed over.
    pub fn called(&self, count: usize) {
        add(self.calls, count);
    }

    /// Calls that only told went nowhere.
    pub fn dropped(&self, count: usize) {
        add(self.dropped, count);
    }

    /// A call ended by its policy.
    pub fn failed(&self) {
        add(self.failed, 1);
    }

    /// A call that ended by its policy got no answer in time.
    pub fn timed_out(&self) {
        add(self.timeouts, 1);
    }

    /// Another process was started.
    pub fn restarted(&self) {
        add(self.restarts, 1);
    }

    /// The plugin has the worker, until what comes back is dropped. A version that replaces another has it before that has not.
    pub fn loaded(&self) -> Loaded {
        if let Some(gauge) = self.loaded {
            gauge.adjust(1);
        }
        Loaded(self.loaded)
    }

    /// So many calls wait.
    pub fn waiting(&self, count: usize) {
        if let Some(gauge) = self.queue {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// An answer came after so long.
    pub fn answered(&self, after: Duration) {
        if let Some(histogram) = self.answer_us {
            histogram.record(i64::try_from(after.as_micros()).unwrap_or(i64::MAX));
        }
    }
}

/// See [`Figures::loaded`].
#[derive(Debug)]
pub struct Loaded(Option<Gauge>);

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Some(gauge) = self.0 {
            gauge.adjust(-1);
        }
    }
}

fn add(counter: Option<Counter>, count: usize) {
    if let Some(counter) = counter.filter(|_| count > 0) {
        counter.add(u32::try_from(count).unwrap_or(u32::MAX));
    }
}
