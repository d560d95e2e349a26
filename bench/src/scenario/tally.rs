//! What the loop of a scenario counts besides the books: connections, acknowledgements, errors, and how long things
//! took. Written by clients and loop, read by the report. Adding to it allocates nothing, but for an error not seen
//! before.

use crate::stats::{count_error, histogram};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;

/// Counts of one run; times are nanoseconds.
#[derive(Debug)]
pub struct Tally {
    /// Connects begun.
    pub started: u32,
    /// CONNACKs with success.
    pub connected: u32,
    /// Clients ready: connected, and subscribed where they subscribe.
    pub ready: u32,
    /// Clients that did not become ready.
    pub failed: u32,
    /// Unexpected ends of ready connections.
    pub disconnects: u32,
    /// QoS 1 and 2 messages acknowledged.
    pub acked: u64,
    /// QoS 1 and 2 messages turned down with a reason code.
    pub refused: u64,
    /// QoS 1 and 2 messages not yet acknowledged.
    pub in_flight: u64,
    /// Payload bytes of deliveries.
    pub delivered_bytes: u64,
    /// From sent, or due, to received.
    pub latency: Meter,
    /// From sent to PUBACK or PUBCOMP.
    pub ack_latency: Meter,
    /// From connect to CONNACK.
    pub connect_latency: Histogram<u64>,
    /// What went wrong how often, in words.
    pub errors: BTreeMap<String, u64>,
}

impl Tally {
    /// All zero; meters are off.
    pub fn new() -> Self {
        Self {
            started: 0,
            connected: 0,
            ready: 0,
            failed: 0,
            disconnects: 0,
            acked: 0,
            refused: 0,
            in_flight: 0,
            delivered_bytes: 0,
            latency: Meter::new(),
            ack_latency: Meter::new(),
            connect_latency: histogram(),
            errors: BTreeMap::new(),
        }
    }

    /// Counts an error; true if it is the first of its kind.
    pub fn error(&mut self, what: &str) -> bool {
        count_error(&mut self.errors, what)
    }

    /// Switches the latency meters.
    pub fn measure(&mut self, on: bool) {
        self.latency.switch(on);
        self.ack_latency.switch(on);
    }
}

/// A histogram of every message, fast where messages come in batches: equal values in a row are recorded together.
#[derive(Debug)]
pub struct Meter {
    histogram: Histogram<u64>,
    on: bool,
    value: u64,
    times: u64,
}

impl Meter {
    fn new() -> Self {
        Self { histogram: histogram(), on: false, value: 0, times: 0 }
    }

    /// Records one value, if it is on.
    #[inline]
    pub fn record(&mut self, value: u64) {
        if value != self.value {
            self.flush();
            self.value = value;
        }
        self.times += 1;
    }

    fn flush(&mut self) {
        if self.on && self.times > 0 {
            self.histogram.saturating_record_n(self.value, self.times);
        }
        self.times = 0;
    }

    fn switch(&mut self, on: bool) {
        self.flush();
        self.on = on;
    }

    /// Everything recorded while it was on; call after it was switched off.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_records_every_value_of_its_time_and_none_else() {
        let mut meter = Meter::new();
        meter.record(5);
        meter.switch(true);
        for value in [7, 7, 7, 9, 7] {
            meter.record(value);
        }
        meter.switch(false);
        meter.record(11);
        meter.switch(true);
        meter.switch(false);
        let values: Vec<_> = meter
            .histogram()
            .iter_recorded()
            .map(|at| (at.value_iterated_to(), at.count_at_value()))
            .collect();
        assert_eq!(values, [(7, 4), (9, 1)]);
    }

    #[test]
    fn errors_are_counted_by_kind() {
        let mut tally = Tally::new();
        assert!(tally.error("a") && !tally.error("a") && tally.error("b"));
        assert_eq!(tally.errors, BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]));
    }
}
