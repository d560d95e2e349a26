//! The requests about the configuration: what is in force, what a reload would change, and a reload.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};

use super::answer::{ApiError, Json, Parameters};
use super::api::Api;
use super::plugins::{ForceParameters, blocking, change};
use super::wire::{Changed, ConfigSetting, ConfigSettings};
use crate::config::When;
use crate::reload::{ReloadError, Reloaded};

/// Its routes.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/v1/config", get(show))
        .route("/api/v1/config/diff", get(diff))
        .route("/api/v1/config/reload", post(reload))
}

impl From<ReloadError> for ApiError {
    fn from(error: ReloadError) -> ApiError {
        match error {
            ReloadError::Wrong(_) => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, error),
            ReloadError::NoFile => ApiError::new(StatusCode::CONFLICT, error),
            ReloadError::Plugin { ref error } => {
                let sentence = format!("{error}; nothing of the configuration has changed");
                let status = ApiError::status_of(error);
                ApiError::new(status, sentence)
            }
        }
    }
}

async fn show(State(api): State<Api>) -> Json<ConfigSettings> {
    let config = api.config();
    let file = config.file.as_ref().map(|file| file.display().to_string());
    let settings = config.settings().into_iter().map(|setting| ConfigSetting {
        key: setting.key,
        value: setting.value,
        source: setting.source,
        needs_restart: setting.when == When::Start,
    });
    Json(ConfigSettings { file, settings: settings.collect() })
}

async fn diff(State(api): State<Api>) -> Result<Json<Reloaded>, ApiError> {
    Ok(Json(blocking(&api, |api| api.reloader.differences()).await??))
}

async fn reload(
    State(api): State<Api>,
    Parameters(ForceParameters { force }): Parameters<ForceParameters>,
) -> Result<Json<Changed<Reloaded>>, ApiError> {
    change(&api, move |api| api.reloader.reload(force)).await.map(Json)
}
