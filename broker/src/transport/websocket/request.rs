//! The upgrade request: collects its bytes within a limit, and decides whether it begins WebSocket
//! for MQTT (RFC 6455 section 4.2, MQTT 5.0 section 6). Called by `websocket.rs`.

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use httparse::{EMPTY_HEADER, Header, Request, Status};

use super::forwarded;
use super::settings::{Origins, WebSocketSettings};

/// Largest request with its headers, bytes. Cookies of a browser may take some kilobytes.
pub(super) const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// Most headers of a request. A browser sends about 20, a proxy adds some.
pub(super) const HEADERS_MAX: usize = 64;
/// Names of the subprotocol, the one that we would rather have first: that of MQTT 3.1.1 and 5
/// [MQTT-6.0.0-3], and that of clients of MQTT 3.1.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// A request that begins WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    /// Value of `Sec-WebSocket-Key`.
    pub key: Vec<u8>,
    pub subprotocol: &'static str,
    /// The client, if whoever sent the request is a trusted proxy.
    pub forwarded: Option<SocketAddr>,
}

/// A request that does not.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Code and phrase.
    pub status: &'static str,
    /// Further header lines, each with its line end.
    pub headers: &'static str,
    pub sentence: &'static str,
    /// Whether the answer must have no body.
    pub is_head: bool,
    /// For the log: what was wrong, and with which value.
    pub log: String,
}

impl Refusal {
    fn new(status: &'static str, sentence: &'static str) -> Self {
        let log = format!("WebSocket upgrade refused: {sentence}");
        Refusal { status, headers: "", sentence, is_head: false, log }
    }

    fn bad(sentence: &'static str) -> Self {
        Refusal::new("400 Bad Request", sentence)
    }

    fn with_headers(self, headers: &'static str) -> Self {
        Refusal { headers, ..self }
    }

    /// Adds a value of the client to the text for the log, escaped and cut.
    fn naming(mut self, value: &[u8]) -> Self {
        const SHOWN_BYTES_MAX: usize = 100;
        let shown = value.get(..SHOWN_BYTES_MAX).unwrap_or(value);
        self.log.push_str(&format!(" It was \"{}\".", shown.escape_ascii()));
        self
    }
}

/// The bytes of a request so far.
#[derive(Debug, Default)]
pub(super) struct Head(Vec<u8>);

impl Head {
    /// Takes bytes of the request from the front of `input`, and gives the whole request once its
    /// last byte has come. Every byte is looked at once, however the request is cut.
    pub(super) fn collect(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        if self.0.is_empty()
            && let Some(&first) = input.first()
        {
            check_first(first)?;
        }
        for (at, &byte) in input.iter().enumerate() {
            if self.0.len() == REQUEST_BYTES_MAX {
                return Err(Refusal::new(
                    "431 Request Header Fields Too Large",
                    "The request and its headers are larger than 8 KiB.",
                ));
            }
            // RFC 9112 section 2.2 lets a recipient take a bare line feed for a line end, and two
            // recipients that differ in this can be played off against each other.
            if byte == b'\n' && self.0.last() != Some(&b'\r') {
                return Err(Refusal::bad("A line of the request does not end with CR LF."));
            }
            self.0.push(byte);
            if byte == b'\n' && self.0.ends_with(b"\r\n\r\n") {
                *input = input.get(at + 1..).unwrap_or_default();
                return Ok(Some(std::mem::take(&mut self.0)));
            }
        }
        *input = &[];
        Ok(None)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.0.capacity()
    }
}

/// A client that speaks something else waits for an answer that never comes, so it is refused at
/// its first byte.
fn check_first(first: u8) -> Result<(), Refusal> {
    const CONNECT: u8 = 0x10;
    const TLS_HANDSHAKE: u8 = 0x16;
    match first {
        b'A'..=b'Z' => Ok(()),
        CONNECT => Err(Refusal::bad("This port speaks MQTT over WebSocket, not MQTT over TCP.")),
        TLS_HANDSHAKE => Err(Refusal::bad("This port speaks WebSocket without TLS.")),
        _ => Err(Refusal::bad("This is not an HTTP request.")),
    }
}

/// Decides about the whole request in `bytes`.
pub(super) fn judge(bytes: &[u8], settings: &WebSocketSettings) -> Result<Accepted, Refusal> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut request = Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::new(
                "431 Request Header Fields Too Large",
                "The request has more than 64 headers.",
            ));
        }
        Ok(Status::Partial) | Err(_) => return Err(Refusal::bad("The HTTP request is malformed.")),
    }
    let is_head = request.method == Some("HEAD");
    judge_parsed(&request, settings).map_err(|refusal| Refusal { is_head, ..refusal })
}

fn judge_parsed(request: &Request<'_, '_>, settings: &WebSocketSettings) -> Result<Accepted, Refusal> {
    let fields = Fields(request.headers);
    check_message(request, fields)?;
    let target = request.path.unwrap_or_default();
    if path_of(target) != settings.path {
        return Err(Refusal::new("404 Not Found", "There is nothing at this path.").naming(target.as_bytes()));
    }
    if request.method != Some("GET") {
        return Err(Refusal::new("405 Method Not Allowed", "Only GET begins WebSocket.")
            .with_headers("Allow: GET\r\n"));
    }
    check_upgrade(fields)?;
    check_origin(fields, &settings.origins)?;
    Ok(Accepted {
        key: key(fields)?,
        subprotocol: subprotocol(fields)?,
        forwarded: forwarded(fields, settings)?,
    })
}

/// The client as the header of a proxy names it; who sent the header is not looked at here.
fn forwarded(fields: Fields<'_>, settings: &WebSocketSettings) -> Result<Option<SocketAddr>, Refusal> {
    if settings.trusted_proxies.is_empty() {
        return Ok(None);
    }
    let values = fields.all(settings.forwarded_header.name());
    forwarded::client(settings.forwarded_header, values, &settings.trusted_proxies)
        .map_err(|forwarded::Malformed| Refusal::bad("The Forwarded header is malformed."))
}

/// What any HTTP/1.1 request without a body must be.
fn check_message(request: &Request<'_, '_>, fields: Fields<'_>) -> Result<(), Refusal> {
    // RFC 6455 section 4.1: "at least 1.1"; WebSocket in HTTP/2 begins otherwise.
    if request.version != Some(1) {
        return Err(Refusal::bad("WebSocket needs HTTP/1.1."));
    }
    // RFC 9112 section 3.2
    if fields.all("Host").count() != 1 {
        return Err(Refusal::bad("The request must have one Host header."));
    }
    // After the request come frames. A proxy in front that takes them for a body must not be helped.
    let has_body = fields.all("Transfer-Encoding").next().is_some()
        || fields.all("Content-Length").any(|length| length != b"0");
    if has_body {
        return Err(Refusal::bad("The request must have no body."));
    }
    Ok(())
}

/// RFC 6455 section 4.2.1, items 3, 4 and 6.
fn check_upgrade(fields: Fields<'_>) -> Result<(), Refusal> {
    let upgrades = fields.elements("Upgrade").any(|name| name.eq_ignore_ascii_case(b"websocket"));
    if !upgrades {
        return Err(Refusal::new(
            "426 Upgrade Required",
            "This is an MQTT broker. Connect with an MQTT client over WebSocket.",
        )
        .with_headers("Upgrade: websocket\r\n"));
    }
    if !fields.elements("Connection").any(|option| option.eq_ignore_ascii_case(b"upgrade")) {
        return Err(Refusal::bad("The Connection header does not contain Upgrade."));
    }
    let mut versions = fields.all("Sec-WebSocket-Version");
    if versions.next() != Some(b"13") || versions.next().is_some() {
        // RFC 6455 section 4.4
        return Err(Refusal::new("426 Upgrade Required", "Only version 13 of WebSocket is spoken here.")
            .with_headers("Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"));
    }
    Ok(())
}

/// RFC 6455 section 10.2. Only browsers send an origin, and only they can be made to connect by a
/// page that its user did not mean to trust.
fn check_origin(fields: Fields<'_>, allowed: &Origins) -> Result<(), Refusal> {
    let mut origins = fields.all("Origin");
    let (Some(origin), None) = (origins.next(), origins.next()) else {
        return match fields.all("Origin").next() {
            None => Ok(()),
            Some(_) => Err(Refusal::bad("The request has more than one Origin header.")),
        };
    };
    let (fits, sentence) = match allowed {
        Origins::All => return Ok(()),
        Origins::Listed(listed) => (
            listed.iter().any(|one| one.as_bytes().eq_ignore_ascii_case(origin)),
            "Pages of this origin may not connect.",
        ),
        Origins::ThisMachine => (
            is_of_this_machine(origin),
            "Only pages of this machine may connect here. The broker's setting origins can allow others.",
        ),
    };
    if fits { Ok(()) } else { Err(Refusal::new("403 Forbidden", sentence).naming(origin)) }
}

/// Whether the host of an origin is a loopback address or `localhost` (RFC 6761 section 6.3).
fn is_of_this_machine(origin: &[u8]) -> bool {
    let host = std::str::from_utf8(origin).ok().and_then(|origin| {
        let (_, authority) = origin.split_once("://")?;
        // An address of version 6 is in brackets, and has colons.
        match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').map(|(host, _)| host),
            None => authority.split(':').next(),
        }
    });
    host.is_some_and(|host| {
        host.parse::<IpAddr>().map_or_else(
            |_| host.eq_ignore_ascii_case("localhost") || has_suffix(host, ".localhost"),
            |address| address.is_loopback(),
        )
    })
}

fn has_suffix(name: &str, suffix: &str) -> bool {
    let end = name.len().checked_sub(suffix.len()).and_then(|at| name.get(at..));
    end.is_some_and(|end| end.eq_ignore_ascii_case(suffix))
}

/// RFC 6455 section 4.2.1, item 5: 16 bytes in Base64. The last character may have bits that mean
/// nothing: some small clients draw its letters at random.
fn key(fields: Fields<'_>) -> Result<Vec<u8>, Refusal> {
    const KEY: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
    );
    let mut keys = fields.all("Sec-WebSocket-Key");
    match (keys.next(), keys.next()) {
        (Some(key), None) if KEY.decode(key).is_ok_and(|decoded| decoded.len() == 16) => Ok(key.to_vec()),
        _ => Err(Refusal::bad("The request must have one Sec-WebSocket-Key header of 16 bytes in Base64.")),
    }
}

/// The subprotocol, compared with case as RFC 6455 section 4.1 gives no other rule. A client must
/// offer "mqtt" [MQTT-6.0.0-3]. One that offers nothing is refused, as EMQX does by default, and as
/// libwebsockets does in Mosquitto, which gives it to the handler for plain HTTP: what knows nothing
/// of the subprotocol is a page or a scanner rather than an MQTT client, and learns the reason.
fn subprotocol(fields: Fields<'_>) -> Result<&'static str, Refusal> {
    let offers =
        |name: &&str| fields.elements("Sec-WebSocket-Protocol").any(|offer| offer == name.as_bytes());
    SUBPROTOCOLS.into_iter().find(offers).ok_or_else(|| {
        Refusal::bad("The client must offer the WebSocket subprotocol mqtt (Sec-WebSocket-Protocol: mqtt).")
    })
}

/// The path of a request target, which may be a whole URL (RFC 9112 section 3.2.2), without query.
fn path_of(target: &str) -> &str {
    let scheme = target.get(..8).map(str::to_ascii_lowercase).unwrap_or_default();
    let after_scheme = match scheme {
        _ if scheme.starts_with("http://") => target.get(7..),
        _ if scheme == "https://" => target.get(8..),
        _ => None,
    };
    let path = match after_scheme {
        Some(rest) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/"),
        None => target,
    };
    path.split('?').next().unwrap_or_default()
}

/// The headers of a request. Their names are compared without case (RFC 9110 section 5.1).
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [Header<'a>]);

impl<'a> Fields<'a> {
    /// Values of all headers of that name, in order.
    fn all(self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    /// Elements of the list that all headers of that name give together (RFC 9110 section 5.3).
    fn elements(self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.all(name).flat_map(|value| value.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
    }
}
