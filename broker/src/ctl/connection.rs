//! One request to the broker and its answer, over the control socket. Every wait is bounded. An
//! error answer becomes an error with the broker's sentence.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::CtlError;
use crate::config::Environment;
use crate::control::wire::{Refusal, UnansweredShard};

/// Largest accepted answer, bytes. Pages of lists are much smaller.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The broker behind a socket.
#[derive(Clone, Debug)]
pub(super) struct Broker {
    socket: PathBuf,
    timeout: Duration,
    /// The user id, if the socket's path is the default. Another user could have created a socket
    /// there.
    guessed_by: Option<u32>,
}

impl Broker {
    /// Uses the given socket, else that of GRAPNEL_CONTROL_SOCKET, else the default of a broker of
    /// this user.
    pub fn new(socket: Option<PathBuf>, environment: &Environment, timeout_s: u64) -> Broker {
        let named = socket.or_else(|| environment.var("GRAPNEL_CONTROL_SOCKET").map(PathBuf::from));
        let guessed_by = named.is_none().then_some(environment.uid);
        let socket = named.unwrap_or_else(|| environment.default_socket());
        Broker { socket, timeout: Duration::from_secs(timeout_s), guessed_by }
    }

    /// Its control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends a GET request and reads a JSON answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CtlError> {
        self.json(Method::GET, path, None).await
    }

    /// Sends a request and reads a JSON answer.
    pub async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<T, CtlError> {
        let whole = async {
            let response = self.send(method, path, body).await?;
            let status = response.status();
            let bytes = self.collect(response).await?;
            read(status, &bytes)
        };
        tokio::time::timeout(self.timeout, whole).await.unwrap_or_else(|_| Err(self.too_late(self.timeout)))
    }

    /// Sends a request and reads a JSON answer within this time. An error answer of the broker is
    /// returned with its status.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
        timeout: Duration,
    ) -> Result<Result<T, (StatusCode, Refusal)>, CtlError> {
        let whole = async {
            let response = self.exchange(method, path, body).await?;
            let status = response.status();
            let bytes = self.collect(response).await?;
            if status.is_success() {
                read(status, &bytes).map(Ok)
            } else {
                Ok(Err((status, refusal(status, &bytes))))
            }
        };
        tokio::time::timeout(timeout, whole).await.unwrap_or_else(|_| Err(self.too_late(timeout)))
    }

    /// Sends a request whose answer is a stream. The timeout is for the head of the answer only.
    pub async fn stream(&self, path: &str) -> Result<Incoming, CtlError> {
        let begin = async { Ok(self.send(Method::GET, path, None).await?.into_body()) };
        tokio::time::timeout(self.timeout, begin).await.unwrap_or_else(|_| Err(self.too_late(self.timeout)))
    }

    /// Sends a request and returns the response.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Response<Incoming>, CtlError> {
        let response = self.exchange(method, path, body).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = self.collect(response).await?;
        Err(CtlError::Refused(refusal(status, &bytes).error))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Response<Incoming>, CtlError> {
        self.check_owner()?;
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
        let lost = |error: hyper::Error| CtlError::Unreachable(format!("the broker did not answer: {error}"));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        // An error of the connection is also returned by the request or by its body.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body.map(|body| Bytes::from(body.to_string())).unwrap_or_default()))
            .map_err(|error| CtlError::Usage(format!("this request cannot be made: {error}")))?;
        sender.send_request(request).await.map_err(lost)
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Bytes, CtlError> {
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body =
            body.map_err(|error| CtlError::Refused(format!("the broker's answer broke off: {error}")))?;
        Ok(body.to_bytes())
    }

    /// Refuses a socket at the default path that belongs to another user than this one or root:
    /// other users may be able to create files in that folder.
    fn check_owner(&self) -> Result<(), CtlError> {
        let Some(uid) = self.guessed_by else { return Ok(()) };
        match std::fs::metadata(&self.socket) {
            Ok(found) if found.uid() != uid && found.uid() != 0 => Err(CtlError::Unreachable(format!(
                "the socket at {} belongs to another user (id {}); if that is the broker you mean, name it with --socket",
                self.socket.display(),
                found.uid()
            ))),
            // If the socket does not exist, connecting reports it.
            _ => Ok(()),
        }
    }

    fn unreachable(&self, error: &std::io::Error) -> CtlError {
        CtlError::Unreachable(format!(
            "cannot reach the broker at {}: {error}; is it running? start it with grapnel, or name its socket with --socket",
            self.path().display()
        ))
    }

    fn too_late(&self, timeout: Duration) -> CtlError {
        CtlError::Unreachable(format!(
            "the broker at {} did not answer within {} s; --timeout waits longer",
            self.path().display(),
            timeout.as_secs()
        ))
    }

    fn path(&self) -> &Path {
        &self.socket
    }
}

fn read<T: DeserializeOwned>(status: StatusCode, bytes: &[u8]) -> Result<T, CtlError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        CtlError::Refused(format!(
            "the broker's answer ({status}) is none that this grapnel-ctl understands ({error}): {text}"
        ))
    })
}

fn refusal(status: StatusCode, bytes: &[u8]) -> Refusal {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|_| Refusal { error: format!("the broker answered {status}"), follows: Vec::new() })
}

/// Percent-encodes a name as one segment of a path, or as the value of a parameter.
pub(super) fn encoded(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// An error that names the shards missing from an answer. To be called after the answer has been
/// printed.
pub(super) fn complete(unanswered: &[UnansweredShard]) -> Result<(), CtlError> {
    match unanswered {
        [] => Ok(()),
        missing => {
            let sentences: Vec<&str> = missing.iter().map(|shard| shard.error.as_str()).collect();
            Err(CtlError::Refused(format!("the answer is incomplete: {}", sentences.join("; "))))
        }
    }
}
