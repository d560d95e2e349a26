//! The control plane: an HTTP API on a Unix socket and, if configured, on loopback TCP, served by a
//! thread of its own. Started by `program`. It submits jobs, which shards run between two steps,
//! and does not access their state itself.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use crate::lock::patiently;
use crate::plugin::PluginManager;
use crate::reload::Reloader;
use crate::shard::handle::ShardHandle;

mod answer;
mod api;
mod authz;
mod clients;
mod config;
mod follows;
mod gather;
mod links;
mod plugins;
mod prometheus;
mod revoked;
mod routes;
mod server;
mod slots;
mod socket;
mod status;
mod trace;
mod traces;
mod verbs;
mod web_page;
pub mod wire;

pub use socket::SocketError;

/// Time that running requests have to finish when the broker stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Threads for blocking work: one change of plugins, and reports about their hooks.
const BLOCKING_THREADS_MAX: usize = 4;

/// What the control plane needs from the broker.
#[derive(Debug)]
pub struct ControlContext {
    /// Every shard.
    pub shards: Vec<ShardHandle>,
    /// Loads and unloads plugins.
    pub plugins: Arc<PluginManager>,
    /// The configuration in force, and its reload.
    pub reloader: Arc<Reloader>,
    /// Data that only `program` has.
    pub info: BrokerInfo,
}

/// Data about the running broker that only `program` has.
#[derive(Clone, Debug)]
pub struct BrokerInfo {
    /// When it started, milliseconds since 1970.
    pub started_at_ms: u64,
    /// How the shards wait for their sockets, by the name that the configuration has for it.
    pub io: &'static str,
    /// Reads the counters of the allocator, in a program whose allocator counts.
    pub allocations: Option<CountAllocations>,
}

/// Reads the counters of an allocator. Called from any thread. The counters may be read at slightly
/// different times.
pub type CountAllocations = fn() -> wire::Allocations;

/// Why the control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The Unix socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The TCP port.
    #[error("cannot bind control.http_bind {address}: {error}; choose another port")]
    Http {
        /// The configured address.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// The thread or its runtime could not be started.
    #[error("cannot start the control plane: {0}")]
    System(#[from] std::io::Error),
}

/// The running control plane. Dropping it stops it, as [`ControlServer::stop`] does.
#[derive(Debug)]
pub struct ControlServer {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    http_address: Option<SocketAddr>,
    // Last field, so that the file is removed after the thread has ended.
    _socket: socket::SocketFile,
}

/// Binds the sockets, then serves them from a thread of its own.
///
/// # Errors
/// [`ControlError`] if a running broker has the socket, an address is in use, or resources are
/// missing.
pub fn start(context: ControlContext) -> Result<ControlServer, ControlError> {
    let config = context.reloader.config();
    let control = &config.control;
    let patience = Duration::from_millis(config.shell_limits.start_retry_ms);
    let (unix, socket) = socket::listen(&control.socket, patience)?;
    let http = control.http_bind.map(|address| bind_http(address, patience)).transpose()?;
    let http_address = http.as_ref().map(TcpListener::local_addr).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()?;
    let (stop, stopping) = watch::channel(false);
    let bounds = server::Bounds {
        connections_max: control.connections_max,
        request: control.request_timeout,
        stall: control.stall_timeout,
    };
    let api = api::Api {
        shards: gather::Shards { handles: context.shards, timeout: control.answer_timeout },
        plugins: context.plugins,
        reloader: context.reloader,
        info: Arc::new(context.info),
        http_address,
        traces: traces::Traces::default(),
        long: Arc::new(Semaphore::new(api::long_requests_max(control))),
        stopping: stopping.clone(),
    };
    let serve = async move {
        let router = routes::router(api);
        let on_unix = async {
            match tokio::net::UnixListener::from_std(unix) {
                Ok(unix) => server::serve(unix, router.clone(), bounds, stopping.clone()).await,
                Err(error) => tracing::error!("the control socket cannot be served: {error}"),
            }
        };
        let on_tcp = async {
            let Some(http) = http else { return };
            let router = router.clone().layer(axum::middleware::from_fn(web_page::refuse_browsers));
            match tokio::net::TcpListener::from_std(http) {
                Ok(http) => server::serve(http, router, bounds, stopping.clone()).await,
                Err(error) => tracing::error!("control.http_bind cannot be served: {error}"),
            }
        };
        tokio::join!(on_unix, on_tcp);
    };
    let mut stopping = stop.subscribe();
    let thread = std::thread::Builder::new().name("grapnel-control".to_owned()).spawn(move || {
        runtime.block_on(async {
            let deadline = async {
                server::stopped(&mut stopping).await;
                tokio::time::sleep(STOP_TIMEOUT).await;
            };
            tokio::select! {
                () = serve => {}
                () = deadline => tracing::warn!("the control plane stops with requests unanswered"),
            }
        });
        // Does not wait for a plugin call that blocks.
        runtime.shutdown_background();
    })?;
    Ok(ControlServer { stop, thread: Some(thread), http_address, _socket: socket })
}

fn bind_http(address: SocketAddr, patience: Duration) -> Result<TcpListener, ControlError> {
    let in_use = |error: &std::io::Error| error.kind() == std::io::ErrorKind::AddrInUse;
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    patiently(patience, in_use, bind).map_err(|error| ControlError::Http { address, error })
}

impl ControlServer {
    /// The address of the API on TCP, if configured.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http_address
    }

    /// Ends running traces, waits at most two seconds for running requests, and removes the socket.
    pub fn stop(self) {
        // Drop does it.
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control plane ended with a panic; please report it");
        }
    }
}

#[cfg(test)]
mod tests;
