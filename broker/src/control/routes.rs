//! All routes of the API: those of each handler's file, and the errors for unknown paths and
//! methods.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};

use super::answer::ApiError;
use super::api::Api;
use super::{authz, clients, config, follows, plugins, status, trace, verbs};

/// All routes.
pub(super) fn router(api: Api) -> Router {
    let request_bytes_max = api.config().control.request_bytes_max;
    Router::new()
        .merge(status::routes())
        .merge(plugins::routes())
        .merge(verbs::routes())
        .merge(follows::routes())
        .merge(clients::routes())
        .merge(authz::routes())
        .merge(trace::routes())
        .merge(config::routes())
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
