//! The text format of Prometheus (version 0.0.4): families with help and type, samples with labels.

use std::fmt::{Display, Write};

use crate::plugin::{MetricReading, MetricValue};

/// Content type of the format.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Prefix of every metric name.
const PREFIX: &str = "grapnel_";

/// Whether a counter of the engine is a gauge: its value can decrease.
pub(super) fn is_gauge(name: &str) -> bool {
    name.ends_with("_count") || matches!(name, "messages_retained_bytes" | "memory_bytes")
}

/// The text that is being built.
#[derive(Debug, Default)]
pub(super) struct Text(String);

// Writing to a string cannot fail, so the results below are ignored.
impl Text {
    /// Starts a metric. Its samples must follow.
    pub fn family(&mut self, name: &str, help: &str, gauge: bool) {
        self.family_of(name, help, if gauge { "gauge" } else { "counter" });
    }

    fn family_of(&mut self, name: &str, help: &str, kind: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(self.0, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}");
    }

    /// A value of the metric.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.0, "{PREFIX}{name}");
        for (index, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if index == 0 { '{' } else { ',' });
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }

    /// Writes a metric of a plugin.
    pub fn plugin_metric(&mut self, MetricReading { name, help, value }: &MetricReading) {
        match value {
            MetricValue::Counter(value) => {
                self.family_of(name, help, "counter");
                self.sample(name, &[], value);
            }
            MetricValue::Gauge(value) => {
                self.family_of(name, help, "gauge");
                self.sample(name, &[], value);
            }
            MetricValue::Histogram { buckets, count, sum } => {
                self.family_of(name, help, "histogram");
                let bucket = format!("{name}_bucket");
                for (bound, values) in buckets {
                    self.sample(&bucket, &[("le", &bound.to_string())], values);
                }
                self.sample(&bucket, &[("le", "+Inf")], count);
                self.sample(&format!("{name}_sum"), &[], sum);
                self.sample(&format!("{name}_count"), &[], count);
            }
        }
    }

    /// The finished text.
    pub fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_as_the_prometheus_format_requires() {
        let mut text = Text::default();
        text.family("x", "a \\ b\nc", false);
        text.sample("x", &[("a", "q\"\\\n"), ("b", "2")], 3);
        text.sample("x", &[], 4);
        let expected = "# HELP grapnel_x a \\\\ b\\nc\n# TYPE grapnel_x counter\ngrapnel_x{a=\"q\\\"\\\\\\n\",b=\"2\"} 3\ngrapnel_x 4\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn the_last_bucket_of_a_histogram_counts_all_values() {
        let mut text = Text::default();
        let value = MetricValue::Histogram { buckets: vec![(1, 2), (5, 2)], count: 3, sum: -4 };
        text.plugin_metric(&MetricReading { name: "plugin_p_x".to_owned(), help: "x".to_owned(), value });
        let expected = "# HELP grapnel_plugin_p_x x\n# TYPE grapnel_plugin_p_x histogram\n\
            grapnel_plugin_p_x_bucket{le=\"1\"} 2\ngrapnel_plugin_p_x_bucket{le=\"5\"} 2\n\
            grapnel_plugin_p_x_bucket{le=\"+Inf\"} 3\ngrapnel_plugin_p_x_sum -4\ngrapnel_plugin_p_x_count 3\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn metrics_that_can_decrease_are_gauges() {
        assert!(
            is_gauge("connections_count") && is_gauge("messages_retained_bytes") && is_gauge("memory_bytes")
        );
        assert!(!is_gauge("messages_received"));
    }
}
