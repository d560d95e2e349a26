//! The upgrade request and its answers.

use super::*;

/// Status code, headers and body of the answer to a request that is refused, and the text for the log.
fn refused(settings: WebSocketSettings, input: &[u8]) -> (u16, String, String, String) {
    let mut layer = layer(settings);
    let (result, above, below) = feed(&mut layer, input);
    let Err(LayerError::Refused(log)) = result else { panic!("{result:?} for {}", input.escape_ascii()) };
    assert!(above.is_empty() && !layer.is_open());
    assert_eq!(layer.memory_bytes(), size_of::<WebSocket>());
    // Nothing further is taken for a request: no smuggling.
    assert_eq!(feed(&mut layer, &good()), (Err(LayerError::Closed), vec![], vec![]));
    let answer = String::from_utf8(below).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap();
    assert!(head.contains("\r\nConnection: close"), "{head}");
    if !input.starts_with(b"HEAD") {
        assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())), "{head}");
        assert!(body.ends_with(".\n"), "a sentence: {body}");
    }
    (status, head.to_owned(), body.to_owned(), log)
}

fn status(line: &str, changes: &[(&str, &str)]) -> u16 {
    refused(WebSocketSettings::default(), &request(line, changes)).0
}

fn accepted(line: &str, changes: &[(&str, &str)]) -> String {
    let mut layer = layer(WebSocketSettings::default());
    let (result, _, below) = feed(&mut layer, &request(line, changes));
    assert_eq!(result, Ok(()), "{changes:?}");
    assert!(layer.is_open());
    String::from_utf8(below).unwrap()
}

const GET: &str = "GET /mqtt HTTP/1.1";

/// The example of section 1.3, with the subprotocol of MQTT [MQTT-6.0.0-3] [MQTT-6.0.0-4].
#[test]
fn the_example_of_the_rfc() {
    assert_eq!(
        accepted(GET, &[]),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    );
}

#[test]
fn the_request_may_be_cut_anywhere_and_frames_may_follow_at_once() {
    let data = [frame(FINAL | BINARY, b"connect"), frame(FINAL | BINARY, b"publish")].concat();
    let input = [good(), data].concat();
    let answer = accepted(GET, &[]).into_bytes();
    for step in 1..=input.len() {
        let mut layer = layer(WebSocketSettings::default());
        let (mut above, mut below) = (Vec::new(), Vec::new());
        for part in input.chunks(step) {
            layer.receive(part, &mut above, &mut below).unwrap();
        }
        assert_eq!((above.as_slice(), &below), (&b"connectpublish"[..], &answer), "parts of {step}");
    }
}

/// Section 4.2.1
#[test]
fn forms_of_the_headers_that_are_right() {
    for changes in [
        ("Connection", "keep-alive, Upgrade"),
        ("Connection", "keep-alive,upgrade"),
        ("Connection", " UPGRADE ,"),
        ("Upgrade", "WebSocket"),
        ("Upgrade", "h2c, websocket"),
        ("Sec-WebSocket-Protocol", "mqttv3.1, mqtt"),
        ("Sec-WebSocket-Protocol", "chat,mqtt"),
        ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
        ("Content-Length", "0"),
        ("Origin", "https://anywhere.example"),
        // 22 letters at random: the last has bits that mean nothing.
        ("Sec-WebSocket-Key", "zzzzzzzzzzzzzzzzzzzzzz=="),
    ] {
        let answer = accepted(GET, &[changes]);
        assert!(answer.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n"), "{changes:?}");
        assert!(!answer.contains("Extensions"), "none is agreed on");
    }
    accepted(GET, &[("Connection", "keep-alive"), ("connection", "upgrade")]);
    accepted(GET, &[("sec-websocket-protocol", "a"), ("Sec-Websocket-Protocol", "mqtt")]);
}

#[test]
fn the_subprotocol_of_mqtt_3_1_is_taken_if_it_alone_is_offered() {
    let answer = accepted(GET, &[("Sec-WebSocket-Protocol", "mqttv3.1")]);
    assert!(answer.ends_with("\r\nSec-WebSocket-Protocol: mqttv3.1\r\n\r\n"), "{answer}");
}

/// [MQTT-6.0.0-3]; section 4.1 compares with case.
#[test]
fn without_the_subprotocol_of_mqtt_a_client_is_refused() {
    for offer in ["", "chat", "MQTT", "mqtt5", "mqttv3.1.1", "\"mqtt\"", ","] {
        let input = request(GET, &[("Sec-WebSocket-Protocol", offer)]);
        let (status, _, body, _) = refused(WebSocketSettings::default(), &input);
        assert_eq!((status, body.contains("subprotocol mqtt")), (400, true), "{offer:?}");
    }
}

#[test]
fn the_path_is_compared_without_its_query() {
    accepted("GET /mqtt?token=/other HTTP/1.1", &[]);
    accepted("GET /mqtt? HTTP/1.1", &[]);
    // RFC 9112 section 3.2.2
    accepted("GET http://broker.example:8083/mqtt HTTP/1.1", &[]);
    accepted("GET HTTPS://broker.example/mqtt?a HTTP/1.1", &[]);
    for path in ["/", "/mqtt/", "/MQTT", "/mqtt2", "/mqt", "mqtt", "*", "//mqtt", "http://x", "/x?/mqtt"] {
        assert_eq!(status(&format!("GET {path} HTTP/1.1"), &[]), 404, "{path}");
    }
    let settings = WebSocketSettings { path: "/".into(), ..WebSocketSettings::default() };
    for path in ["/", "http://x", "http://x/?q"] {
        let mut layer = layer(settings.clone());
        feed(&mut layer, &request(&format!("GET {path} HTTP/1.1"), &[])).0.unwrap();
    }
}

/// Section 4.4
#[test]
fn another_version_is_answered_with_ours() {
    for version in ["", "8", "12", "14", "13, 8", "+13"] {
        let input = request(GET, &[("Sec-WebSocket-Version", version)]);
        let (status, head, ..) = refused(WebSocketSettings::default(), &input);
        assert_eq!(status, 426, "{version:?}");
        assert!(head.contains("\r\nSec-WebSocket-Version: 13\r\n"), "{head}");
    }
    assert_eq!(status(GET, &[("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Version", "13")]), 426);
}

/// RFC 9110 section 15.5.22
#[test]
fn a_browser_that_visits_the_port_reads_a_sentence() {
    let (status, head, body, _) =
        refused(WebSocketSettings::default(), b"GET /mqtt HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(status, 426);
    assert_eq!(body, "This is an MQTT broker. Connect with an MQTT client over WebSocket.\n");
    assert!(head.contains("\r\nUpgrade: websocket\r\nConnection: close, Upgrade\r\n"), "{head}");
}

#[test]
fn other_requests_are_refused() {
    for (line, changes, expected) in [
        ("POST /mqtt HTTP/1.1", ("a", ""), 405),
        ("HEAD /mqtt HTTP/1.1", ("a", ""), 405),
        ("GET /mqtt HTTP/1.0", ("a", ""), 400),
        ("GET /mqtt HTTP/2.0", ("a", ""), 400),
        ("GET /mqtt", ("a", ""), 400),
        (GET, ("Host", ""), 400),
        (GET, ("Connection", ""), 400),
        (GET, ("Connection", "close"), 400),
        (GET, ("Connection", "Upgrades"), 400),
        (GET, ("Upgrade", ""), 426),
        (GET, ("Upgrade", "h2c"), 426),
        (GET, ("Sec-WebSocket-Key", ""), 400),
        (GET, ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ"), 400),
        (GET, ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25j"), 400),
        (GET, ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZSE="), 400),
        (GET, ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25j*Q=="), 400),
        (GET, ("Content-Length", "5"), 400),
        (GET, ("Content-Length", "00"), 400),
        (GET, ("Transfer-Encoding", "chunked"), 400),
    ] {
        assert_eq!(status(line, &[changes]), expected, "{line} {changes:?}");
    }
    assert_eq!(status(GET, &[("Host", "a"), ("Host", "b")]), 400);
    let key = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(status(GET, &[key, key]), 400);
}

/// RFC 9110 section 9.3.2
#[test]
fn head_is_answered_without_a_body() {
    let (status, head, body, _) = refused(WebSocketSettings::default(), &request("HEAD /mqtt HTTP/1.1", &[]));
    assert_eq!((status, body.as_str()), (405, ""));
    assert!(head.contains("\r\nAllow: GET\r\n"), "{head}");
}

/// Section 10.2
#[test]
fn origins_are_compared_if_any_are_listed() {
    let settings = WebSocketSettings {
        origins: Origins::Listed(vec!["https://app.example".into(), "http://localhost:8080".into()]),
        ..WebSocketSettings::default()
    };
    for origin in ["", "https://app.example", "HTTPS://App.Example", "http://localhost:8080"] {
        let mut layer = layer(settings.clone());
        assert_eq!(feed(&mut layer, &request(GET, &[("Origin", origin)])).0, Ok(()), "{origin}");
    }
    for origin in
        ["https://app.example.evil", "http://app.example", "https://app.example/", "null", "http://localhost"]
    {
        let (status, _, body, log) = refused(settings.clone(), &request(GET, &[("Origin", origin)]));
        assert_eq!(status, 403, "{origin}");
        assert!(log.contains(origin) && !body.contains(origin), "for the log alone");
    }
    let twice = request(GET, &[("Origin", "https://app.example"), ("Origin", "https://evil.example")]);
    assert_eq!(refused(settings, &twice).0, 400);
}

#[test]
fn a_listener_for_this_machine_takes_no_pages_of_others() {
    let settings = WebSocketSettings { origins: Origins::ThisMachine, ..WebSocketSettings::default() };
    let near =
        ["http://localhost", "http://LocalHost:8080", "https://app.localhost:1", "http://127.0.0.1:80"];
    for origin in near.into_iter().chain(["http://[::1]:8080", "http://127.255.0.1"]) {
        let mut layer = layer(settings.clone());
        assert_eq!(feed(&mut layer, &request(GET, &[("Origin", origin)])).0, Ok(()), "{origin}");
    }
    let mut without = layer(settings.clone());
    assert_eq!(feed(&mut without, &good()).0, Ok(()), "a program sends none");
    // "broker.example" is the host of the request: a name that its owner may let lead anywhere.
    let far =
        ["https://broker.example", "http://localhost.example", "http://xlocalhost", "null", "localhost"];
    for origin in
        far.into_iter().chain(["http://[::2]", "http://128.0.0.1", "http://[::1", "file://", "\u{e9}"])
    {
        let (status, _, _, log) = refused(settings.clone(), &request(GET, &[("Origin", origin)]));
        assert_eq!(status, 403, "{origin}");
        assert!(log.contains("origins"), "{log}");
    }
}

#[test]
fn what_a_client_wrote_comes_into_the_log_escaped_and_cut() {
    let long = format!("GET /{} HTTP/1.1", "x".repeat(200));
    let (_, _, _, log) = refused(WebSocketSettings::default(), &request(&long, &[]));
    assert!(log.contains("/xxx") && log.len() < 200, "{log}");
    let settings = WebSocketSettings {
        origins: Origins::Listed(vec!["https://a".into()]),
        ..WebSocketSettings::default()
    };
    // The parser refuses control characters, and lets through what turns the direction of text.
    let (_, _, _, log) = refused(settings, &request(GET, &[("Origin", "a\u{202e}\"b")]));
    assert!(log.ends_with(r#"It was "a\xe2\x80\xae\"b"."#), "{log}");
}

#[test]
fn sending_and_closing_before_the_upgrade_says_nothing() {
    let mut layer = layer(WebSocketSettings::default());
    let mut below = Vec::new();
    assert_eq!(layer.send(b"early", &mut below), Err(LayerError::Closed));
    layer.close(&mut below);
    assert_eq!(below, b"");
    assert_eq!(feed(&mut layer, &good()).0, Err(LayerError::Closed));
}
