//! What the broker does for plugins outside of events: metrics of their own.

use grapnel::plugin::MetricValue;
use serde_json::json;

use super::shards::Fixture;

/// What `host-calls` has measured, by the end of the name.
fn measured(broker: &Fixture, metric: &str) -> Option<MetricValue> {
    let name = format!("plugin_host_calls_{metric}");
    broker.manager.metrics().into_iter().find(|found| found.name == name).map(|found| found.value)
}

/// In one test, because metrics belong to the process.
#[test]
fn metrics_of_a_plugin_are_shown_while_it_is_loaded_and_go_on_through_a_reload() {
    let broker = Fixture::with(2, |settings| settings.limits.plugin_metrics_max = 4);
    broker.load("host-calls", json!({})).unwrap();
    assert_eq!(measured(&broker, "publishes"), Some(MetricValue::Counter(0)));
    broker.shards.publish(0, 3);
    broker.shards.publish(1, 2);
    broker.manager.reload("host-calls", None).unwrap();
    broker.shards.publish(1, 1);
    assert_eq!(measured(&broker, "publishes"), Some(MetricValue::Counter(6)));
    assert_eq!(measured(&broker, "last_payload_bytes"), Some(MetricValue::Gauge(2)));
    let sizes = MetricValue::Histogram { buckets: vec![(4, 6), (16, 6)], count: 6, sum: 12 };
    assert_eq!(measured(&broker, "payload_bytes"), Some(sizes));

    broker.manager.unload("host-calls").unwrap();
    assert_eq!(broker.manager.metrics(), []);
    broker.load("host-calls", json!({"metric": "one_more"})).unwrap();
    assert_eq!(measured(&broker, "publishes"), Some(MetricValue::Counter(6)));
    broker.manager.unload("host-calls").unwrap();
    let error = broker.load("host-calls", json!({"metric": "Upper-Case"})).unwrap_err();
    assert!(error.contains("the value cannot be taken"), "{error}");
    let error = broker.load("host-calls", json!({"metric": "one_too_many"})).unwrap_err();
    assert!(error.contains("a limit is reached"), "{error}");
}
