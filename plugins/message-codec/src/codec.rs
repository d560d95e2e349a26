//! Transformations of a payload. Pure functions from bytes to bytes, or to an error of one
//! sentence.

use std::borrow::Cow;
use std::io::{Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

/// A payload format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Codec {
    /// RFC 4648, section 4, padded.
    Base64,
    /// RFC 1952.
    Gzip,
    /// A JSON object that contains the payload.
    Json,
}

/// The direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Into the format.
    Encode,
    /// From the format.
    Decode,
}

/// The fields of the JSON object besides the payload.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Client identifier of the publisher; empty for none.
    pub from: &'a str,
    /// Time of arrival, milliseconds since 1970.
    pub timestamp_ms: u64,
}

/// The transformed payload, at most `bytes_max` long.
pub fn apply(
    codec: Codec,
    action: Action,
    payload: &[u8],
    about: About<'_>,
    bytes_max: usize,
) -> Result<Vec<u8>, String> {
    let out = match (codec, action) {
        (Codec::Base64, Action::Encode) => STANDARD.encode(payload).into_bytes(),
        (Codec::Base64, Action::Decode) => {
            STANDARD.decode(payload.trim_ascii()).map_err(|_| "the payload is not base64".to_owned())?
        }
        (Codec::Gzip, Action::Encode) => gzip(payload).map_err(|error| error.to_string())?,
        (Codec::Gzip, Action::Decode) => gunzip(payload, bytes_max)?,
        (Codec::Json, Action::Encode) => wrap(payload, about),
        (Codec::Json, Action::Decode) => unwrap(payload)?,
    };
    if out.len() > bytes_max {
        return Err(too_long(bytes_max));
    }
    Ok(out)
}

fn too_long(bytes_max: usize) -> String {
    format!("the payload would have more than {bytes_max} bytes")
}

fn gzip(payload: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(payload.len() / 2), Compression::default());
    encoder.write_all(payload)?;
    encoder.finish()
}

/// Never unpacks more than `bytes_max`, whatever size the data claims.
fn gunzip(payload: &[u8], bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut decoder = MultiGzDecoder::new(payload).take(bytes_max as u64 + 1);
    decoder.read_to_end(&mut out).map_err(|_| "the payload is not gzip".to_owned())?;
    if out.len() > bytes_max { Err(too_long(bytes_max)) } else { Ok(out) }
}

/// A UTF-8 payload goes into `payload`, any other into `payload_base64`.
fn wrap(payload: &[u8], about: About<'_>) -> Vec<u8> {
    let mut object = json!({ "topic": about.topic, "timestamp_ms": about.timestamp_ms });
    if !about.from.is_empty() {
        object["from"] = about.from.into();
    }
    match std::str::from_utf8(payload) {
        Ok(text) => object["payload"] = text.into(),
        Err(_) => object["payload_base64"] = STANDARD.encode(payload).into(),
    }
    object.to_string().into_bytes()
}

fn unwrap(payload: &[u8]) -> Result<Vec<u8>, String> {
    let object: Value = serde_json::from_slice(payload).map_err(|_| "the payload is not JSON".to_owned())?;
    match (object.get("payload"), object.get("payload_base64")) {
        (Some(Value::String(text)), None) => Ok(Cow::from(text.as_bytes()).into_owned()),
        // A value that is not a JSON string is returned as JSON text.
        (Some(value), None) => Ok(value.to_string().into_bytes()),
        (None, Some(Value::String(text))) => {
            STANDARD.decode(text).map_err(|_| "payload_base64 is not base64".to_owned())
        }
        _ => Err("the payload is no JSON object with either payload or payload_base64".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const ABOUT: About<'_> = About { topic: "a/b", from: "me", timestamp_ms: 5 };

    fn run(codec: Codec, action: Action, payload: &[u8]) -> Result<Vec<u8>, String> {
        apply(codec, action, payload, ABOUT, 1000)
    }

    #[test]
    fn encoded_payloads_decode_to_the_same_bytes() {
        for codec in [Codec::Base64, Codec::Gzip, Codec::Json] {
            for payload in [b"".as_slice(), b"hello", b"\"quoted\\", "grün".as_bytes(), &[0, 255, 128]] {
                let encoded = run(codec, Action::Encode, payload).unwrap();
                assert!(payload.is_empty() || encoded != payload, "{codec:?}");
                assert_eq!(run(codec, Action::Decode, &encoded).unwrap(), payload, "{codec:?}");
            }
        }
    }

    #[test]
    fn encodings_are_compatible_with_other_programs() {
        assert_eq!(run(Codec::Base64, Action::Encode, b"hello").unwrap(), b"aGVsbG8=");
        assert_eq!(run(Codec::Base64, Action::Decode, b"aGVsbG8=\n").unwrap(), b"hello");
        // printf hello | gzip -n
        let packed = [
            0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 7, 0, 0x86, 0xa6, 0x10, 0x36,
            5, 0, 0, 0,
        ];
        assert_eq!(run(Codec::Gzip, Action::Decode, &packed).unwrap(), b"hello");
        let object: Value =
            serde_json::from_slice(&run(Codec::Json, Action::Encode, b"hi").unwrap()).unwrap();
        assert_eq!(object, json!({"topic": "a/b", "from": "me", "timestamp_ms": 5, "payload": "hi"}));
        assert_eq!(run(Codec::Json, Action::Decode, br#"{"payload": {"n": 1}}"#).unwrap(), br#"{"n":1}"#);
    }

    #[test]
    fn invalid_payloads_are_reported_and_growth_is_bounded() {
        let error_of = |codec, payload: &[u8]| run(codec, Action::Decode, payload).unwrap_err();
        assert_eq!(error_of(Codec::Base64, b"a"), "the payload is not base64");
        assert_eq!(error_of(Codec::Gzip, b"hello"), "the payload is not gzip");
        assert_eq!(error_of(Codec::Json, b"{"), "the payload is not JSON");
        for object in
            ["{}", "[]", r#"{"payload": "a", "payload_base64": "YQ=="}"#, r#"{"payload_base64": 1}"#]
        {
            let none = "the payload is no JSON object with either payload or payload_base64";
            assert_eq!(error_of(Codec::Json, object.as_bytes()), none, "{object}");
        }
        let bomb = gzip(&vec![0; 10_000_000]).unwrap();
        assert_eq!(error_of(Codec::Gzip, &bomb), "the payload would have more than 1000 bytes");
        let long = run(Codec::Base64, Action::Encode, &[0; 999]).unwrap_err();
        assert_eq!(long, "the payload would have more than 1000 bytes");
    }
}
