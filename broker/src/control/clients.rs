//! Clients and their subscriptions: paged lists, the details of one client, and its disconnection.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use grapnel_engine::reason::ReasonCode;
use grapnel_engine::shard::Shard;
use serde::Deserialize;

use super::answer::{ApiError, Json, Name, Parameters};
use super::api::Api;
use super::gather::{Cursor, page_limit};
use super::wire;

/// Its routes.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/api/v1/clients", get(list))
        .route("/api/v1/clients/{id}", get(show).delete(kick))
        .route("/api/v1/subscriptions", get(subscriptions))
}

/// `limit` and `cursor` of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParameters {
    limit: Option<usize>,
    cursor: Option<String>,
}

async fn list(
    State(api): State<Api>,
    Parameters(wanted): Parameters<ListParameters>,
) -> Result<Json<wire::Clients>, ApiError> {
    let from = Cursor::parse(wanted.cursor.as_deref())?;
    let page = api
        .shards
        .page(from, page_limit(wanted.limit)?, |shard, place, room| shard.clients(place, room))
        .await;
    Ok(Json(wire::Clients {
        clients: page.rows.into_iter().map(Into::into).collect(),
        next: page.next.map(|next| next.to_string()),
        unanswered: page.unanswered,
    }))
}

async fn show(State(api): State<Api>, Name(id): Name) -> Result<Json<wire::ClientDetails>, ApiError> {
    let wanted = id.clone();
    let gathered = api.shards.call_all(move |shard| shard.client(&wanted)).await;
    let found = gathered.answers.into_iter().find_map(|(_, found)| found);
    match (found, gathered.unanswered.first()) {
        (Some(found), _) => Ok(Json(found.into())),
        (None, Some(unanswered)) => Err(ApiError::from(*unanswered)),
        (None, None) => Err(no_client(&id)),
    }
}

/// Parameters of a kick.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KickParameters {
    #[serde(default)]
    discard: bool,
    reason: Option<u8>,
}

async fn kick(
    State(api): State<Api>,
    Name(id): Name,
    Parameters(wanted): Parameters<KickParameters>,
) -> Result<Json<wire::Kicked>, ApiError> {
    let reason = match wanted.reason.map(ReasonCode) {
        None => ReasonCode::ADMINISTRATIVE_ACTION,
        // Section 3.14.2.1: the DISCONNECT of a server that has a cause has an error code.
        Some(reason) if reason.is_defined() && reason.is_error() => reason,
        Some(reason) => {
            return Err(ApiError::bad_request(format_args!(
                "reason must be a reason code of MQTT 5 from 128 up such as 152, not {}",
                reason.0
            )));
        }
    };
    let (client_id, discard) = (id.clone(), wanted.discard);
    let kick = move |shard: &mut Shard| match shard.kick(&client_id, reason, discard) {
        true => Found::Kicked,
        false if shard.client(&client_id).is_some() => Found::Stored,
        false => Found::Nothing,
    };
    let gathered = api.shards.call_all(kick).await;
    let is = |wanted: Found| gathered.answers.iter().any(|(_, found)| *found == wanted);
    if is(Found::Kicked) {
        return Ok(Json(wire::Kicked { client_id: id, discarded: discard }));
    }
    if is(Found::Stored) {
        let sentence =
            format_args!("client \"{id}\" is not connected, only its session is stored; discard ends that");
        return Err(ApiError::new(StatusCode::CONFLICT, sentence));
    }
    match gathered.unanswered.first() {
        Some(unanswered) => Err(ApiError::from(*unanswered)),
        None => Err(no_client(&id)),
    }
}

/// What a shard has found of a client that is to be disconnected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Kicked,
    Stored,
    Nothing,
}

fn no_client(id: &str) -> ApiError {
    ApiError::not_found(format_args!(
        "there is no client \"{id}\", neither connected nor with a stored session"
    ))
}

/// The client whose subscriptions are listed, and the page.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SubscriptionParameters {
    client_id: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

async fn subscriptions(
    State(api): State<Api>,
    Parameters(wanted): Parameters<SubscriptionParameters>,
) -> Result<Json<wire::Subscriptions>, ApiError> {
    let from = Cursor::parse(wanted.cursor.as_deref())?;
    let limit = page_limit(wanted.limit)?;
    let client_id = wanted.client_id;
    let page = api
        .shards
        .page(from, limit, move |shard, place, room| shard.subscriptions(client_id.as_deref(), place, room))
        .await;
    Ok(Json(wire::Subscriptions {
        subscriptions: page.rows.into_iter().map(Into::into).collect(),
        next: page.next.map(|next| next.to_string()),
        unanswered: page.unanswered,
    }))
}
