//! The state that every handler of the API uses: shards, plugins, the configuration, and permits
//! for requests that may take long.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::FromRef;
use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::BrokerInfo;
use super::answer::{ApiError, RequestTimeout};
use super::gather::Shards;
use super::traces::Traces;
use super::wire;
use crate::config::{Config, ControlConfig};
use crate::plugin::PluginManager;
use crate::reload::{Reloader, RunningListener};

/// The state of the handlers. Cheap to clone.
#[derive(Clone)]
pub(super) struct Api {
    pub shards: Shards,
    pub plugins: Arc<PluginManager>,
    pub reloader: Arc<Reloader>,
    pub info: Arc<BrokerInfo>,
    pub http_address: Option<SocketAddr>,
    pub traces: Traces,
    /// Permits for requests that may take long: traces, verbs of plugins, and changes of plugins,
    /// including those that wait for their turn.
    pub long: Arc<Semaphore>,
    /// True when the broker stops.
    pub stopping: watch::Receiver<bool>,
}

/// Number of long requests that may run or wait at a time, on both sockets together; at least one.
pub(super) fn long_requests_max(control: &ControlConfig) -> usize {
    control.connections_max.saturating_sub(control.connections_free_min).max(1)
}

impl Api {
    /// The configuration in force.
    pub(super) fn config(&self) -> Arc<Config> {
        self.reloader.config()
    }

    /// Where clients connect.
    pub(super) fn listeners(&self) -> Vec<wire::Listener> {
        let listener = |open: RunningListener| wire::Listener {
            name: open.rules.info.name.to_string(),
            address: open.address.to_string(),
            allow_anonymous: open.rules.info.allow_anonymous,
            identity: open.identity().map(str::to_owned),
        };
        self.reloader.open().into_iter().map(listener).collect()
    }

    /// Takes a permit for a request that may take long. The number of permits is bounded, so that
    /// connections are left for other requests.
    pub(super) fn begin_long(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.long).try_acquire_owned().map_err(|_| {
            let max = long_requests_max(&self.config().control);
            let sentence = format_args!(
                "no more than {max} of traces, changes and verbs of plugins can run or wait at a time \
                 (control.connections_max less control.connections_free_min); try again when one has ended"
            );
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, sentence)
        })
    }
}

impl FromRef<Api> for RequestTimeout {
    fn from_ref(api: &Api) -> RequestTimeout {
        RequestTimeout(api.config().control.request_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_trace_or_change_fits_with_the_smallest_limits() {
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
