//! The requests about plugins and chains. The plugin manager blocks while shards answer, so it is
//! called on threads that may block, one change at a time.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::Value;

use super::answer::{ApiError, Json, Name, Parameters, Payload};
use super::api::Api;
use super::follows::{self, RemovedHooks};
use super::revoked::Revocations;
use super::wire::Changed;
use crate::config::HookOverride;
use crate::plugin::{
    ByHand, Configured, HookChange, HookError, HookReport, HookRow, HookStats, LoadError, LoadRequest,
    PluginInfo, PluginList, Unloaded,
};

/// Its routes.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/v1/plugins", get(list).post(load))
        .route("/api/v1/plugins/{name}", get(show).delete(unload))
        .route("/api/v1/plugins/{name}/reload", post(reload))
        .route("/api/v1/plugins/{name}/rearm", post(rearm))
        .route("/api/v1/plugins/{name}/configure", post(configure))
        .route("/api/v1/plugins/{name}/enable", post(enable))
        .route("/api/v1/plugins/{name}/disable", post(disable))
        .route("/api/v1/hooks", get(hooks).post(override_hook))
        .route("/api/v1/hooks/stats", get(hook_stats))
}

impl From<LoadError> for ApiError {
    fn from(error: LoadError) -> ApiError {
        ApiError::new(ApiError::status_of(&error), error)
    }
}

impl ApiError {
    /// The status of an error of the loader.
    pub(super) fn status_of(error: &LoadError) -> StatusCode {
        match error.cause() {
            LoadError::Name { .. } | LoadError::ConfigShape { .. } => StatusCode::BAD_REQUEST,
            LoadError::NotFound { .. } | LoadError::NotLoaded { .. } => StatusCode::NOT_FOUND,
            LoadError::AlreadyLoaded { .. }
            | LoadError::RetiredFull { .. }
            | LoadError::NeededBy { .. }
            | LoadError::LastDecider { .. } => StatusCode::CONFLICT,
            LoadError::Shard { .. } => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }
}

async fn list(State(api): State<Api>) -> Json<PluginList> {
    Json(api.plugins.list())
}

async fn show(State(api): State<Api>, Name(name): Name) -> Result<Json<PluginInfo>, ApiError> {
    let found = api.plugins.show(&name);
    found.map(Json).ok_or_else(|| {
        let loaded = api.plugins.list().plugins.into_iter().map(|plugin| plugin.name).collect();
        LoadError::NotLoaded { name, loaded }.into()
    })
}

/// A plugin to load.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LoadBody {
    source: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    config: Value,
    /// Whether `config` is merged over the plugin's configuration in the configuration file.
    #[serde(default)]
    merge: bool,
    #[serde(default)]
    priority: Option<i32>,
    #[serde(default)]
    once: bool,
    #[serde(default)]
    required: bool,
}

async fn load(
    State(api): State<Api>,
    Payload(body): Payload<LoadBody>,
) -> Result<Json<Changed<ByHand>>, ApiError> {
    let LoadBody { source, name, config, merge, priority, once, required } = body;
    if once && required {
        return Err(ApiError::bad_request("a plugin that is loaded once cannot be required"));
    }
    HookOverride { priority, ..HookOverride::default() }.check().map_err(ApiError::bad_request)?;
    let request = LoadRequest { source, name, config, merge, priority, once, required };
    change(&api, move |api| api.plugins.load_by_hand(request)).await.map(Json)
}

/// Parameters of a change that may be forced.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ForceParameters {
    /// Makes the change even if no plugin is left that decides who may connect or what clients may
    /// do.
    #[serde(default)]
    pub force: bool,
}

async fn unload(
    State(api): State<Api>,
    Name(name): Name,
    Parameters(ForceParameters { force }): Parameters<ForceParameters>,
) -> Result<Json<Changed<Unloaded>>, ApiError> {
    let leaving = Some(RemovedHooks::plugin(&name));
    change_after(&api, leaving, move |api| api.plugins.unload_with(&name, force)).await.map(Json)
}

/// The body of a reload.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReloadBody {
    /// The new configuration. Without one the plugin keeps its configuration.
    #[serde(default)]
    config: Option<Value>,
}

async fn reload(
    State(api): State<Api>,
    Name(name): Name,
    Parameters(ForceParameters { force }): Parameters<ForceParameters>,
    Payload(body): Payload<ReloadBody>,
) -> Result<Json<Changed<PluginInfo>>, ApiError> {
    change(&api, move |api| api.plugins.reload_with(&name, body.config, force)).await.map(Json)
}

async fn rearm(State(api): State<Api>, Name(name): Name) -> Result<Json<Changed<PluginInfo>>, ApiError> {
    change(&api, move |api| api.plugins.rearm(&name)).await.map(Json)
}

/// The body of a change of a running plugin's configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfigureBody {
    config: Value,
    /// Whether `config` is a merge patch (RFC 7396) for the current configuration.
    #[serde(default)]
    merge: bool,
}

async fn configure(
    State(api): State<Api>,
    Name(name): Name,
    Parameters(ForceParameters { force }): Parameters<ForceParameters>,
    Payload(ConfigureBody { config, merge }): Payload<ConfigureBody>,
) -> Result<Json<Changed<Configured>>, ApiError> {
    change(&api, move |api| api.plugins.configure_with(&name, config, merge, force)).await.map(Json)
}

async fn enable(State(api): State<Api>, Name(name): Name) -> Result<Json<Changed<PluginInfo>>, ApiError> {
    change(&api, move |api| api.plugins.enable(&name)).await.map(Json)
}

async fn disable(
    State(api): State<Api>,
    Name(name): Name,
    Parameters(ForceParameters { force }): Parameters<ForceParameters>,
) -> Result<Json<Changed<PluginInfo>>, ApiError> {
    let leaving = Some(RemovedHooks::plugin(&name));
    change_after(&api, leaving, move |api| api.plugins.disable_with(&name, force)).await.map(Json)
}

/// Selects the hook points.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HooksParameters {
    /// Also those without a link.
    #[serde(default)]
    all: bool,
}

async fn hooks(
    State(api): State<Api>,
    Parameters(wanted): Parameters<HooksParameters>,
) -> Result<Json<HookReport>, ApiError> {
    blocking(&api, move |api| api.plugins.hooks(wanted.all)).await.map(Json)
}

async fn hook_stats(State(api): State<Api>) -> Result<Json<HookStats>, ApiError> {
    blocking(&api, |api| api.plugins.hook_stats()).await.map(Json)
}

async fn override_hook(
    State(api): State<Api>,
    Payload(wanted): Payload<HookChange>,
) -> Result<Json<Changed<HookRow>>, ApiError> {
    let leaving = RemovedHooks::hook(&wanted);
    change_after(&api, leaving, move |api| api.plugins.override_hook(&wanted)).await.map(Json)
}

impl From<HookError> for ApiError {
    fn from(error: HookError) -> ApiError {
        let status = match error {
            HookError::Plugin(error) => return error.into(),
            HookError::Point { .. } | HookError::Hook { .. } => StatusCode::NOT_FOUND,
            HookError::Value(_) => StatusCode::BAD_REQUEST,
        };
        ApiError::new(status, error)
    }
}

/// Runs a change that removes no hook from the chains.
pub(super) async fn change<R: Send + 'static, E: Into<ApiError> + Send + 'static>(
    api: &Api,
    work: impl FnOnce(Api) -> Result<R, E> + Send + 'static,
) -> Result<Changed<R>, ApiError> {
    change_after(api, None, work).await
}

/// Runs a change of plugins, one at a time. If the client disconnects while its change waits, the
/// change is not made. The result says how many subscriptions were revoked, and the consequences of
/// the hooks that leave the chains.
pub(super) async fn change_after<R: Send + 'static, E: Into<ApiError> + Send + 'static>(
    api: &Api,
    leaving: Option<RemovedHooks>,
    work: impl FnOnce(Api) -> Result<R, E> + Send + 'static,
) -> Result<Changed<R>, ApiError> {
    let place = api.begin_long()?;
    change_in_place(api, place, leaving, work).await
}

/// As [`change_after`], for a caller that has a permit of [`Api::begin_long`] already. The change
/// holds the permit until it has ended.
pub(super) async fn change_in_place<R: Send + 'static, E: Into<ApiError> + Send + 'static>(
    api: &Api,
    place: impl Send + 'static,
    leaving: Option<RemovedHooks>,
    work: impl FnOnce(Api) -> Result<R, E> + Send + 'static,
) -> Result<Changed<R>, ApiError> {
    let turn = Arc::clone(api.reloader.turn()).lock_owned().await;
    let follows = match leaving {
        Some(leaving) => follows::of(api, &leaving).await?,
        None => Vec::new(),
    };
    let before = Revocations::before(&api.shards).await;
    let result = blocking(api, move |api| {
        let result = work(api);
        // The turn is held until the work has ended, even if the client has disconnected.
        drop((turn, place));
        result
    });
    let now = match result.await?.map_err(Into::into) {
        Ok(now) => now,
        Err(error) => return Err(ApiError { follows, ..error }),
    };
    let revoked = before.await_end(&api.shards).await;
    Ok(Changed { now, revoked, follows })
}

pub(super) async fn blocking<R: Send + 'static>(
    api: &Api,
    work: impl FnOnce(Api) -> R + Send + 'static,
) -> Result<R, ApiError> {
    let api = api.clone();
    tokio::task::spawn_blocking(move || work(api)).await.map_err(|_| ApiError::failed_here())
}
