//! Answers of the API: JSON, and for an error `{"error": "sentence"}` with the matching status.
//! Used by every handler.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRef, FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::wire::Refusal;
use crate::shard::handle::Unanswered;

/// An error answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    pub status: StatusCode,
    pub sentence: String,
    /// The consequences that the change would have had, if it removed hooks from chains.
    pub follows: Vec<String>,
}

impl ApiError {
    pub fn new(status: StatusCode, sentence: impl std::fmt::Display) -> ApiError {
        ApiError { status, sentence: sentence.to_string(), follows: Vec::new() }
    }

    pub fn bad_request(sentence: impl std::fmt::Display) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, sentence)
    }

    /// A task of the broker has panicked.
    pub fn failed_here() -> ApiError {
        let sentence = "the broker failed at this (see its log); please report it";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, sentence)
    }

    pub fn not_found(sentence: impl std::fmt::Display) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, sentence)
    }
}

impl From<Unanswered> for ApiError {
    fn from(unanswered: Unanswered) -> ApiError {
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, unanswered)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(Refusal { error: self.sentence, follows: self.follows })).into_response()
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(mut body) => {
                body.push(b'\n');
                ([(header::CONTENT_TYPE, "application/json")], body).into_response()
            }
            // The broker's own rows can always be written; only data from a plugin could fail.
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot be written as JSON: {error}"))
                .into_response(),
        }
    }
}

/// Time in which the body of a request must arrive.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestTimeout(pub Duration);

/// A JSON request body of bounded size, which arrives within a bounded time; an empty one is `{}`.
#[derive(Debug)]
pub(super) struct Payload<T>(pub T);

impl<S, T> FromRequest<S> for Payload<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
    RequestTimeout: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let RequestTimeout(timeout) = RequestTimeout::from_ref(state);
        let body = tokio::time::timeout(timeout, Bytes::from_request(request, state))
            .await
            .map_err(|_| {
                let ms = timeout.as_millis();
                let sentence = format_args!(
                    "the request body did not arrive within {ms} ms (control.request_timeout_ms)"
                );
                ApiError::new(StatusCode::REQUEST_TIMEOUT, sentence)
            })?
            .map_err(|rejection| match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "the request body is larger than control.request_bytes_max",
                ),
                status => ApiError::new(status, rejection.body_text()),
            })?;
        let text: &[u8] = if body.is_empty() { b"{}" } else { &body };
        serde_json::from_slice(text).map(Payload).map_err(|error| {
            ApiError::bad_request(format_args!("the request body is not what is expected: {error}"))
        })
    }
}

/// The parameters of the query string.
#[derive(Debug)]
pub(super) struct Parameters<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let parsed = Query::<T>::from_request_parts(parts, state).await;
        let Query(parameters) = parsed.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
        Ok(Parameters(parameters))
    }
}

/// The one name in a path.
#[derive(Debug)]
pub(super) struct Name(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let parsed = Path::<String>::from_request_parts(parts, state).await;
        let Path(name) = parsed.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
        Ok(Name(name))
    }
}
