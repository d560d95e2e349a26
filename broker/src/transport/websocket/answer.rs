//! The answers to an upgrade request. Called by `websocket.rs`. Nothing that the client sent is
//! repeated in an answer, except the name of its subprotocol, which is one of ours.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use super::request::{Accepted, Refusal};

/// Constant of RFC 6455 section 1.3.
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Appends the answer that begins WebSocket (RFC 6455 section 4.2.2).
pub(super) fn switch(accepted: &Accepted, below: &mut Vec<u8>) {
    let mut hash = Sha1::new();
    hash.update(&accepted.key);
    hash.update(ACCEPT_SUFFIX);
    let accept = STANDARD.encode(hash.finalize());
    for part in [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
        "Sec-WebSocket-Accept: ",
        &accept,
        // [MQTT-6.0.0-4]
        "\r\nSec-WebSocket-Protocol: ",
        accepted.subprotocol,
        "\r\n\r\n",
    ] {
        below.extend_from_slice(part.as_bytes());
    }
}

/// Appends the answer that refuses a request, with a sentence for the person who reads it. The
/// connection ends after it, so that no body of the request can be taken for another request.
pub(super) fn refuse(refusal: &Refusal, below: &mut Vec<u8>) {
    let length = (refusal.sentence.len() + 1).to_string();
    for part in [
        "HTTP/1.1 ",
        refusal.status,
        "\r\n",
        refusal.headers,
        "Connection: ",
        // RFC 9110 section 7.8: a sender of Upgrade lists it in Connection.
        if refusal.headers.starts_with("Upgrade:") { "close, Upgrade" } else { "close" },
        "\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: ",
        &length,
        "\r\n\r\n",
    ] {
        below.extend_from_slice(part.as_bytes());
    }
    // RFC 9110 section 9.3.2: an answer to HEAD has no body.
    if !refusal.is_head {
        below.extend_from_slice(refusal.sentence.as_bytes());
        below.push(b'\n');
    }
}
