//! The routes of the API, and what every handler has at hand. The same on the Unix socket and on
//! TCP; on TCP, requests that come from web pages are refused.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::{get, post};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch};

use super::answer::ApiError;
use super::gather::Shards;
use super::trace::{self, Traces};
use super::{BrokerInfo, authz, clients, follows, plugins, status, verbs};
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

/// All routes.
pub(super) fn router(api: Api) -> Router {
    let request_bytes_max = api.config.control.request_bytes_max;
    Router::new()
        .route("/metrics", get(status::prometheus))
        .route("/api/v1/status", get(status::status))
        .route("/api/v1/metrics", get(status::metrics))
        .route("/api/v1/plugins", get(plugins::list).post(plugins::load))
        .route("/api/v1/plugins/{name}", get(plugins::show).delete(plugins::unload))
        .route("/api/v1/plugins/{name}/reload", post(plugins::reload))
        .route("/api/v1/plugins/{name}/rearm", post(plugins::rearm))
        .route("/api/v1/plugins/{name}/configure", post(plugins::configure))
        .route("/api/v1/plugins/{name}/enable", post(plugins::enable))
        .route("/api/v1/plugins/{name}/disable", post(plugins::disable))
        .route("/api/v1/plugins/{name}/commands", get(verbs::of))
        .route("/api/v1/plugins/{name}/commands/{*verb}", get(verbs::look).post(verbs::call))
        .route("/api/v1/commands", get(verbs::all))
        .route("/api/v1/hooks", get(plugins::hooks).post(plugins::override_hook))
        .route("/api/v1/hooks/stats", get(plugins::hook_stats))
        .route("/api/v1/follows", get(follows::follows))
        .route("/api/v1/clients", get(clients::list))
        .route("/api/v1/clients/{id}", get(clients::show).delete(clients::kick))
        .route("/api/v1/subscriptions", get(clients::subscriptions))
        .route("/api/v1/authz/invalidate", post(authz::invalidate))
        .route("/api/v1/trace/{id}", get(trace::trace))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(request_bytes_max))
        .with_state(api)
}

async fn no_route(uri: Uri) -> ApiError {
    ApiError::not_found(format_args!(
        "there is nothing at {}; the API is under /api/v1, metrics are at /metrics",
        uri.path()
    ))
}

async fn no_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format_args!("{} does not take {method}", uri.path()))
}

/// For TCP: a web page that a user of this machine looks at must not control the broker. Browsers name the page's origin
/// with everything that changes something, the name they believe to be talking to as host, and with what a page embeds, such as an
/// image, in which relation the page is to it.
pub(super) async fn refuse_browsers(request: Request, next: Next) -> Result<Response, ApiError> {
    match of_web_page(request.headers()) {
        Some(sentence) => Err(ApiError::new(StatusCode::FORBIDDEN, sentence)),
        None => Ok(next.run(request).await),
    }
}

/// Why a request is refused as one that a web page has made.
fn of_web_page(headers: &HeaderMap) -> Option<&'static str> {
    if headers.contains_key(header::ORIGIN) {
        return Some("requests of web pages are refused (they carry an Origin header)");
    }
    // What is typed into the address bar has `none`.
    let is_own = |site: &HeaderValue| matches!(site.as_bytes(), b"none" | b"same-origin");
    if !headers.get_all("sec-fetch-site").iter().all(is_own) {
        return Some(
            "requests of web pages are refused (they carry a Sec-Fetch-Site header that names another site)",
        );
    }
    let loopback =
        "the Host header must name localhost or a loopback address, as requests from this machine have";
    (!names_loopback(headers)).then_some(loopback)
}

fn names_loopback(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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

    #[test]
    fn what_a_page_of_another_site_embeds_is_refused() {
        let refused = |site: &[&'static str], host: &'static str| {
            let mut headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
            for site in site {
                headers.append("sec-fetch-site", HeaderValue::from_static(site));
            }
            of_web_page(&headers).is_some()
        };
        for site in [&[][..], &["none"], &["same-origin"]] {
            assert!(!refused(site, "127.0.0.1:8083"), "{site:?}");
            assert!(refused(site, "example.org"), "{site:?}");
        }
        for site in [&["cross-site"][..], &["same-site"], &[""], &["none", "cross-site"]] {
            assert!(refused(site, "127.0.0.1:8083"), "{site:?}");
        }
    }

    #[test]
    fn only_loopback_names_are_taken_for_this_machine() {
        let named = |host: &'static str| {
            names_loopback(&HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]))
        };
        for host in ["localhost", "localhost:80", "127.0.0.1:8083", "127.0.0.2", "[::1]:80", "[::1]"] {
            assert!(named(host), "{host}");
        }
        for host in ["example.org", "localhost.example.org", "10.0.0.1:80", "", "127.0.0.1.example.org:80"] {
            assert!(!named(host), "{host}");
        }
        assert!(!names_loopback(&HeaderMap::new()));
    }
}
