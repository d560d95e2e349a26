//! What every handler of the API has at hand: shards, plugins, the configuration, and places for
//! requests that take long.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::FromRef;
use axum::http::StatusCode;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch};

use super::BrokerInfo;
use super::answer::{ApiError, RequestTimeout};
use super::gather::Shards;
use super::traces::Traces;
use crate::config::{Config, ControlConfig};
use crate::plugin::PluginManager;

/// What handlers work with. Cheap to clone.
#[derive(Clone)]
pub(super) struct Api {
    pub shards: Shards,
    pub plugins: Arc<PluginManager>,
    /// Held by whoever changes plugins.
    pub plugin_turn: Arc<Mutex<()>>,
    pub config: Arc<Config>,
    pub info: Arc<BrokerInfo>,
    pub http_address: Option<SocketAddr>,
    pub traces: Traces,
    /// Places of requests that take as long as they take: traces, verbs of plugins, and changes of plugins with those that wait for
    /// their turn.
    pub long: Arc<Semaphore>,
    /// True once the broker stops.
    pub stopping: watch::Receiver<bool>,
}

/// Traces and changes of plugins that may be in hand, on both sockets together; at least one.
pub(super) fn long_requests_max(control: &ControlConfig) -> usize {
    control.connections_max.saturating_sub(control.connections_free_min).max(1)
}

impl Api {
    /// A place for a request that may take long, so that others find one, too.
    pub(super) fn begin_long(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.long).try_acquire_owned().map_err(|_| {
            let max = long_requests_max(&self.config.control);
            let sentence = format_args!(
                "{max} traces, changes and verbs of plugins are in hand or wait, as many as there may be: control.connections_max less \
                 control.connections_free_min; try again when one has ended"
            );
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, sentence)
        })
    }
}

impl FromRef<Api> for RequestTimeout {
    fn from_ref(api: &Api) -> RequestTimeout {
        RequestTimeout(api.config.control.request_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_trace_or_change_is_always_possible() {
        let long = |connections_max, connections_free_min| {
            long_requests_max(&ControlConfig {
                connections_max,
                connections_free_min,
                ..ControlConfig::default()
            })
        };
        assert_eq!((long(64, 8), long(5, 4), long(5, 5), long(1, 1023)), (56, 1, 1, 1));
    }
}
