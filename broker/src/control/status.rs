//! `status`, and the counters as JSON and for Prometheus.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use grapnel_engine::shard::{Counters, Ledger, Shard};
use serde::Deserialize;

use super::answer::{ApiError, Json, Parameters};
use super::api::Api;
use super::links;
use super::prometheus::{self, Text};
use super::slots;
use super::wire;
use crate::log;
use crate::net;
use crate::plugin::{MetricReading, MetricValue, PluginInfo, PluginState, verbs_counted};

/// Its routes.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/metrics", get(prometheus))
        .route("/api/v1/status", get(status))
        .route("/api/v1/metrics", get(metrics))
}

/// Counters of the process, which are not counted by shard: name, meaning and value.
fn of_process() -> [(&'static str, &'static str, u64); 9] {
    let [begun, late, refused, invalid, failed] = verbs_counted();
    [
        ("log_lines_lost", "lines of the log that could not be written", log::lines_lost()),
        (
            "connections_refused_descriptors",
            "connections closed because the process had no file descriptor left for clients",
            net::refused_for_descriptors(),
        ),
        (
            "connections_refused_listener",
            "connections closed by the rules of their listener: too many of them, a proxy that is not listed, a failed TLS handshake or WebSocket request, a client that breaks TLS or WebSocket",
            net::refused_by_listener(),
        ),
        (
            "control_connections_stalled",
            "connections to the API closed because their end did not take the answer",
            slots::stalled(),
        ),
        ("verbs_begun", "calls of verbs of plugins that were begun", begun),
        ("verbs_late", "calls of verbs of plugins that had no answer in time", late),
        (
            "verbs_refused",
            "calls of verbs of plugins refused because too many of the plugin run, or it ends",
            refused,
        ),
        ("verbs_invalid", "calls of verbs of plugins refused for their arguments", invalid),
        ("verbs_failed", "calls of verbs of plugins that ran and failed", failed),
    ]
}

async fn status(State(api): State<Api>) -> Json<wire::Status> {
    let gathered = api.shards.call_all(shard_status).await;
    let (mut all, mut memory) = (Counters::default(), Ledger::default());
    let mut shards = Vec::new();
    for (id, (counters, ledger, generation)) in &gathered.answers {
        all.add(counters);
        memory.add(ledger);
        shards.push(wire::ShardStatus {
            shard: id.0,
            connections: counters.connections_count,
            sessions: counters.sessions_count,
            subscriptions: counters.subscriptions_count,
            messages_received: counters.messages_received,
            messages_sent: counters.messages_sent,
            chain_generation: *generation,
            memory: (*ledger).into(),
        });
    }
    let config = api.config();
    let plugins = api.plugins.list().plugins;
    let (loaded, failed): (Vec<_>, Vec<_>) =
        plugins.into_iter().partition(|plugin| !matches!(plugin.state, PluginState::Failed(_)));
    let names = |plugins: Vec<PluginInfo>| plugins.into_iter().map(|plugin| plugin.name).collect();
    Json(wire::Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        io: api.info.io.to_owned(),
        started_at_ms: api.info.started_at_ms,
        uptime_s: uptime_s(api.info.started_at_ms),
        connections: all.connections_count,
        sessions: all.sessions_count,
        subscriptions: all.subscriptions_count,
        retained_messages: all.messages_retained_count,
        messages_received: all.messages_received,
        messages_sent: all.messages_sent,
        messages_dropped: all.messages_dropped,
        memory: memory.into(),
        shards,
        listeners: api.listeners(),
        plugins: names(loaded),
        plugins_failed: names(failed),
        control_socket: config.control.socket.display().to_string(),
        control_http: api.http_address.map(|address| address.to_string()),
        config_file: config.file.as_ref().map(|file| file.display().to_string()),
        plugins_dir: config.plugins_dir.display().to_string(),
        state_dir: config.state_dir.display().to_string(),
        log_lines_lost: log::lines_lost(),
        allocations: api.info.allocations.map(|count| count()),
        unanswered: gathered.unanswered_rows(),
    })
}

/// Counters, memory ledger and generation of the chains of one shard.
fn shard_status(shard: &mut Shard) -> (Counters, Ledger, u64) {
    shard.settle_memory();
    (*shard.counters(), shard.ledger(), shard.chains().generation())
}

fn uptime_s(started_at_ms: u64) -> u64 {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    now_ms.saturating_sub(started_at_ms) / 1000
}

async fn metrics(State(api): State<Api>) -> Json<wire::Metrics> {
    let gathered = api.shards.call_all(|shard| *shard.counters()).await;
    let mut all = Counters::default();
    gathered.answers.iter().for_each(|(_, counters)| all.add(counters));
    let by_shard: Vec<_> = gathered.answers.iter().map(|(_, counters)| counters.rows()).collect();
    let metrics = all.rows().into_iter().enumerate().map(|(index, (name, value, help))| wire::Metric {
        name: name.to_owned(),
        value: signed(value),
        shards: by_shard.iter().map(|rows| rows[index].1).collect(),
        gauge: prometheus::is_gauge(name),
        help: help.to_owned(),
    });
    let of_plugins = api.plugins.metrics().into_iter().flat_map(plugin_rows);
    let of_process = of_process().into_iter().map(|(name, help, value)| wire::Metric {
        name: name.to_owned(),
        value: signed(value),
        shards: Vec::new(),
        gauge: false,
        help: help.to_owned(),
    });
    let metrics = metrics.chain(of_process).chain(of_plugins).collect();
    Json(wire::Metrics { metrics, unanswered: gathered.unanswered_rows() })
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The rows of a plugin's metric.
fn plugin_rows(MetricReading { name, help, value }: MetricReading) -> Vec<wire::Metric> {
    let row = |name: String, value: i64, gauge: bool| wire::Metric {
        name,
        value,
        shards: Vec::new(),
        gauge,
        help: help.clone(),
    };
    match value {
        MetricValue::Counter(value) => vec![row(name, value, false)],
        MetricValue::Gauge(value) => vec![row(name, value, true)],
        MetricValue::Histogram { buckets, count, sum } => {
            let all = ("+Inf".to_owned(), count);
            let buckets = buckets.into_iter().map(|(bound, values)| (bound.to_string(), values)).chain([all]);
            let bucket = |(le, values)| row(format!("{name}_bucket{{le=\"{le}\"}}"), signed(values), false);
            let mut rows: Vec<_> = buckets.map(bucket).collect();
            rows.push(row(format!("{name}_sum"), sum, false));
            rows.push(row(format!("{name}_count"), signed(count), false));
            rows
        }
    }
}

/// Parameters of `/metrics`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PrometheusParameters {
    #[serde(default)]
    per_shard: bool,
}

async fn prometheus(
    State(api): State<Api>,
    Parameters(wanted): Parameters<PrometheusParameters>,
) -> Result<impl IntoResponse, ApiError> {
    let gathered = api.shards.call_all(|shard| (*shard.counters(), links::counted(shard.chains()))).await;
    let mut text = Text::default();
    text.family("broker_info", "the broker's version, as a label", true);
    text.sample("broker_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    text.family("broker_uptime_seconds", "time since the broker started", true);
    text.sample("broker_uptime_seconds", &[], uptime_s(api.info.started_at_ms));
    text.family(
        "shard_answered",
        "whether the shard answered in time; what it counts is missing if not",
        true,
    );
    for handle in &api.shards.handles {
        let answered = gathered.answers.iter().any(|(id, _)| *id == handle.id());
        text.sample("shard_answered", &[("shard", &handle.id().to_string())], u64::from(answered));
    }
    let mut all = Counters::default();
    gathered.answers.iter().for_each(|(_, (counters, _))| all.add(counters));
    let by_shard: Vec<_> =
        gathered.answers.iter().map(|(id, (counters, _))| (id.to_string(), counters.rows())).collect();
    for (index, (name, value, help)) in all.rows().into_iter().enumerate() {
        text.family(name, help, prometheus::is_gauge(name));
        if !wanted.per_shard {
            text.sample(name, &[], value);
            continue;
        }
        for (shard, rows) in &by_shard {
            text.sample(name, &[("shard", shard)], rows[index].1);
        }
    }
    for (name, help, value) in of_process() {
        text.family(name, help, false);
        text.sample(name, &[], value);
    }
    let rows = gathered.answers.into_iter().map(|(id, (_, rows))| (id, rows)).collect();
    links::write(&mut text, rows, wanted.per_shard);
    text.family("plugins_trips", "times a plugin was tripped because it failed too often", false);
    for (plugin, trips) in api.plugins.trips() {
        text.sample("plugins_trips", &[("plugin", &plugin)], trips);
    }
    api.plugins.metrics().iter().for_each(|metric| text.plugin_metric(metric));
    Ok(([(header::CONTENT_TYPE, prometheus::CONTENT_TYPE)], text.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_of_a_plugin_has_the_same_name_in_json_and_prometheus() {
        let rows = |value| {
            let reading = MetricReading { name: "plugin_p_x".to_owned(), help: "what".to_owned(), value };
            let rows = plugin_rows(reading);
            assert!(rows.iter().all(|row| row.help == "what" && row.shards.is_empty()));
            rows.into_iter().map(|row| (row.name, row.value, row.gauge)).collect::<Vec<_>>()
        };
        let name = || "plugin_p_x".to_owned();
        assert_eq!(rows(MetricValue::Counter(3)), [(name(), 3, false)]);
        assert_eq!(rows(MetricValue::Gauge(-3)), [(name(), -3, true)]);
        let histogram = MetricValue::Histogram { buckets: vec![(1, 2), (5, 2)], count: 3, sum: -4 };
        let expected = [
            ("_bucket{le=\"1\"}", 2),
            ("_bucket{le=\"5\"}", 2),
            ("_bucket{le=\"+Inf\"}", 3),
            ("_sum", -4),
            ("_count", 3),
        ];
        assert_eq!(rows(histogram), expected.map(|(end, value)| (name() + end, value, false)));
    }
}
