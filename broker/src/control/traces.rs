//! The list of clients that are being traced. `trace` starts and ends traces.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;
use grapnel_plugin_abi::counted;
use tokio::sync::OwnedSemaphorePermit;

use super::answer::ApiError;
use super::gather::Shards;

/// The clients that are being traced. A client has at most one trace, because reading the lines
/// removes them from the shard.
#[derive(Clone, Debug, Default)]
pub(super) struct Traces(Arc<Mutex<HashSet<String>>>);

impl Traces {
    pub fn begin(
        &self,
        client_id: &str,
        max: usize,
        shards: &Shards,
        long: OwnedSemaphorePermit,
    ) -> Result<Tracing, ApiError> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if running.contains(client_id) {
            let sentence =
                format_args!("client \"{client_id}\" is being traced already; end that trace first");
            return Err(ApiError::new(StatusCode::CONFLICT, sentence));
        }
        if running.len() >= max {
            let max = counted(max, "client");
            let sentence = format!("no more than {max} can be traced at a time (control.traces_max)");
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, sentence));
        }
        running.insert(client_id.to_owned());
        let (client_id, shards) = (client_id.to_owned(), shards.clone());
        Ok(Tracing { traces: self.clone(), client_id, shards, _long: long })
    }
}

/// A running trace. Dropping it stops the trace on the shards.
pub(super) struct Tracing {
    traces: Traces,
    pub client_id: String,
    pub shards: Shards,
    _long: OwnedSemaphorePermit,
}

impl Drop for Tracing {
    fn drop(&mut self) {
        for handle in &self.shards.handles {
            let client_id = self.client_id.clone();
            handle.submit(Box::new(move |shard| shard.trace_stop(&client_id)));
        }
        // Removed after the stop was submitted, so that the start of a new trace of this client
        // reaches the shards after it.
        self.traces.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.client_id);
    }
}
