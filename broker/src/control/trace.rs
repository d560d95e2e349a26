//! Streams the packets of one client as lines of JSON. The shards store a bounded number of lines;
//! this file collects them ten times a second, and ends the trace when the reader has disconnected.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use grapnel_engine::shard;
use grapnel_plugin_abi::counted;
use hyper::body::Frame;
use serde::Deserialize;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::answer::{ApiError, Name, Parameters};
use super::api::Api;
use super::gather::Gathered;
use super::server::stopped;
use super::traces::Tracing;
use super::wire::{Direction, TraceLine};

/// Its routes.
pub(super) fn routes() -> Router<Api> {
    Router::new().route("/api/v1/trace/{id}", get(trace))
}

/// Interval at which lines are collected from the shards.
const INTERVAL: Duration = Duration::from_millis(100);
/// Batches of lines that wait for the reader. If the reader is slower, the shard drops the oldest
/// lines and counts them.
const BATCHES: usize = 4;
/// Packets after which a trace ends: default and maximum.
const COUNT: (u64, u64) = (10_000, 1_000_000);
/// Seconds after which a trace ends: default and maximum.
const SECONDS: (u64, u64) = (600, 86_400);

/// When a trace ends by itself.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TraceParameters {
    count: Option<u64>,
    for_s: Option<u64>,
}

async fn trace(
    State(api): State<Api>,
    Name(client_id): Name,
    Parameters(wanted): Parameters<TraceParameters>,
) -> Result<Response, ApiError> {
    let bytes_max = api.config().limits.client_id_bytes_max;
    if client_id.len() as u64 > bytes_max {
        let sentence = format_args!(
            "no client can have an id of more than {bytes_max} bytes (limits.client_id_bytes_max)"
        );
        return Err(ApiError::bad_request(sentence));
    }
    let count = within("count", wanted.count, COUNT)?;
    let seconds = within("for_s", wanted.for_s, SECONDS)?;
    let config = api.config();
    let control = &config.control;
    let tracing = api.traces.begin(&client_id, control.traces_max, &api.shards, api.begin_long()?)?;
    // Started on every shard: the client may not have connected yet, and its home shard is known
    // only to the shards.
    let started = api.shards.call_all(move |shard| shard.trace_start(&client_id)).await;
    if let Some(unanswered) = started.unanswered.first() {
        return Err(ApiError::from(*unanswered));
    }
    let (sender, receiver) = mpsc::channel(BATCHES);
    let until = Instant::now() + Duration::from_secs(seconds);
    let bound = Bound { count, seconds, until, stall: control.stall_timeout };
    tokio::spawn(run(tracing, sender, bound, api.stopping.clone()));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(Lines(receiver))).into_response())
}

fn within(name: &str, value: Option<u64>, (default, max): (u64, u64)) -> Result<u64, ApiError> {
    match value {
        None => Ok(default),
        Some(value) if (1..=max).contains(&value) => Ok(value),
        Some(value) => {
            Err(ApiError::bad_request(format_args!("{name} must be between 1 and {max}, not {value}")))
        }
    }
}

struct Bound {
    count: u64,
    seconds: u64,
    until: Instant,
    /// Time in which the reader must take a batch.
    stall: Duration,
}

async fn run(
    tracing: Tracing,
    sender: mpsc::Sender<Bytes>,
    bound: Bound,
    mut stopping: watch::Receiver<bool>,
) {
    let mut left = bound.count;
    let mut next = Instant::now();
    loop {
        next = (next + INTERVAL).max(Instant::now()).min(bound.until);
        let stop = tokio::select! {
            () = tokio::time::sleep_until(next) => false,
            () = sender.closed() => return,
            () = stopped(&mut stopping) => true,
        };
        let client_id = tracing.client_id.clone();
        let taken = tracing.shards.call_all(move |shard| shard.trace_take(&client_id)).await;
        let unanswered = taken.unanswered.first().map(ToString::to_string);
        let mut batch = Vec::new();
        for line in lines(taken).take_while(|line| within_count(line, &mut left)) {
            write_line(&mut batch, &line);
        }
        let ended = match (left, unanswered, stop) {
            (0, _, _) => Some(format!("the limit of {} is reached", counted(bound.count, "packet"))),
            (_, Some(sentence), _) => Some(sentence),
            (_, _, true) => Some("the broker stops".to_owned()),
            _ if Instant::now() >= bound.until => Some(format!("{} s are over", bound.seconds)),
            _ => None,
        };
        if let Some(ended) = &ended {
            write_line(&mut batch, &TraceLine::Ended { ended: ended.clone() });
        }
        let went =
            if batch.is_empty() { Ok(()) } else { sender.send_timeout(batch.into(), bound.stall).await };
        if let Err(SendTimeoutError::Timeout(_)) = went {
            tracing::warn!(
                "the trace of client {:?} has ended: its reader has not taken the next lines within {} ms (control.stall_timeout_ms)",
                tracing.client_id,
                bound.stall.as_millis()
            );
        }
        if went.is_err() || ended.is_some() {
            return;
        }
    }
}

/// Counts packets down. Returns false for lines after the last packet.
fn within_count(line: &TraceLine, left: &mut u64) -> bool {
    if *left == 0 {
        return false;
    }
    if matches!(line, TraceLine::Packet { .. }) {
        *left -= 1;
    }
    true
}

fn lines(taken: Gathered<(Vec<shard::TraceLine>, u64)>) -> impl Iterator<Item = TraceLine> {
    taken.answers.into_iter().flat_map(|(shard, (lines, lost))| {
        // The shard drops the oldest lines first, so the loss is reported before the stored lines.
        let loss = (lost > 0).then_some(TraceLine::Lost { lost });
        let packets = lines.into_iter().map(move |line| TraceLine::Packet {
            at_ms: line.wall_ms,
            direction: if line.inbound { Direction::In } else { Direction::Out },
            packet: line.text,
            shard: shard.0,
        });
        loss.into_iter().chain(packets)
    })
}

fn write_line(batch: &mut Vec<u8>, line: &TraceLine) {
    // Cannot fail: numbers and strings can always be written as JSON, and a vector grows.
    if serde_json::to_writer(&mut *batch, line).is_ok() {
        batch.push(b'\n');
    }
}

/// A response body that ends when its sender is dropped.
struct Lines(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|batch| batch.map(|batch| Ok(Frame::data(batch))))
    }
}
