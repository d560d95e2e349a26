//! `authz invalidate`: drops cached verdicts of client.authorize and rechecks existing
//! subscriptions.

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use grapnel_engine::shard::Scope;
use grapnel_engine::topic;
use serde::Deserialize;

use super::answer::{ApiError, Json, Parameters};
use super::api::Api;
use super::revoked::Revocations;
use super::wire;

/// Its routes.
pub(super) fn routes() -> Router<Api> {
    Router::new().route("/api/v1/authz/invalidate", post(invalidate))
}

/// Selects what is rechecked. At most one may be given; none means everything.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InvalidateParameters {
    client_id: Option<String>,
    username: Option<String>,
    topic: Option<String>,
}

async fn invalidate(
    State(api): State<Api>,
    Parameters(wanted): Parameters<InvalidateParameters>,
) -> Result<Json<wire::Changed<wire::Invalidated>>, ApiError> {
    let scope = match (wanted.client_id, wanted.username, wanted.topic) {
        (None, None, None) => Scope::All,
        (Some(client_id), None, None) => Scope::Client(client_id.into()),
        (None, Some(username), None) => Scope::User(username.into()),
        (None, None, Some(filter)) => {
            topic::validate_filter(&filter).map_err(|error| {
                ApiError::bad_request(format_args!("topic \"{filter}\" is no topic filter: {error}"))
            })?;
            Scope::Topics(filter.into())
        }
        _ => {
            return Err(ApiError::bad_request(format_args!(
                "client_id, username and topic exclude each other; give one, or none for everybody"
            )));
        }
    };
    let before = Revocations::before(&api.shards).await;
    let gathered = api.shards.call_all(move |shard| shard.invalidate(scope)).await;
    let now = wire::Invalidated { shards: gathered.answers.len(), unanswered: gathered.unanswered_rows() };
    let revoked = before.await_end(&api.shards).await;
    Ok(Json(wire::Changed { now, revoked, follows: Vec::new() }))
}
