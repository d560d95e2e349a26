//! Which client a proxy names.

use super::*;

/// The peer as it is known after a request with `headers`, if `trusted` are proxies.
fn client(header: ForwardedHeader, trusted: &[&str], headers: &[(&str, &str)]) -> Option<String> {
    let settings = WebSocketSettings {
        trusted_proxies: AddressList::parse(trusted.iter().copied()).unwrap(),
        forwarded_header: header,
        ..WebSocketSettings::default()
    };
    let mut layer = layer(settings);
    feed(&mut layer, &request("GET /mqtt HTTP/1.1", headers)).0.ok()?;
    let mut facts = PeerFacts::default();
    layer.describe(&mut facts);
    Some(facts.peer.map(|peer| peer.to_string()).unwrap_or_default())
}

const TRUSTED: [&str; 2] = ["192.0.2.1", "10.0.0.0/8"];

fn x_forwarded_for(value: &str) -> String {
    client(ForwardedHeader::XForwardedFor, &TRUSTED, &[("X-Forwarded-For", value)]).unwrap()
}

fn forwarded(value: &str) -> Option<String> {
    client(ForwardedHeader::Forwarded, &TRUSTED, &[("Forwarded", value)])
}

#[test]
fn the_header_of_a_stranger_is_not_looked_at() {
    let headers = [("X-Forwarded-For", "203.0.113.9"), ("Forwarded", "for=203.0.113.9")];
    for header in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
        assert_eq!(client(header, &[], &headers).unwrap(), "");
        assert_eq!(client(header, &["192.0.2.2", "10.0.0.0/8"], &headers).unwrap(), "");
        assert_eq!(client(header, &["192.0.2.0/31"], &headers).unwrap(), "203.0.113.9:0");
    }
}

#[test]
fn the_last_address_that_is_no_proxy_is_the_client() {
    assert_eq!(x_forwarded_for("203.0.113.9"), "203.0.113.9:0");
    assert_eq!(x_forwarded_for("1.1.1.1, 203.0.113.9"), "203.0.113.9:0", "the left one may be invented");
    assert_eq!(x_forwarded_for("1.1.1.1, 203.0.113.9, 10.0.0.1,10.9.9.9"), "203.0.113.9:0");
    assert_eq!(x_forwarded_for("10.0.0.1, 10.0.0.2"), "10.0.0.1:0", "all are proxies");
    assert_eq!(x_forwarded_for(", ,203.0.113.9 , "), "203.0.113.9:0");
    assert_eq!(x_forwarded_for("2001:db8::9"), "[2001:db8::9]:0");
    assert_eq!(x_forwarded_for("[2001:db8::9]:4711"), "[2001:db8::9]:4711");
    assert_eq!(x_forwarded_for("203.0.113.9:4711"), "203.0.113.9:4711");
    assert_eq!(x_forwarded_for("::ffff:203.0.113.9"), "203.0.113.9:0");
}

#[test]
fn several_headers_are_one_list() {
    let headers = [("X-Forwarded-For", "1.1.1.1, 203.0.113.9"), ("X-Forwarded-For", "10.0.0.1")];
    assert_eq!(client(ForwardedHeader::XForwardedFor, &TRUSTED, &headers).unwrap(), "203.0.113.9:0");
}

#[test]
fn what_is_no_address_ends_the_search() {
    assert_eq!(x_forwarded_for("unknown"), "", "the proxy itself stands for the client");
    assert_eq!(x_forwarded_for("1.1.1.1, unknown, 10.0.0.1"), "10.0.0.1:0");
    assert_eq!(x_forwarded_for("203.0.113.9:99999"), "");
    assert_eq!(x_forwarded_for("\u{fc}"), "");
    assert_eq!(x_forwarded_for(""), "");
    // The header has no quotes, so a client cannot swallow with one what the proxy appends.
    assert_eq!(x_forwarded_for("\", 203.0.113.9"), "203.0.113.9:0");
}

/// RFC 7239
#[test]
fn elements_of_forwarded() {
    assert_eq!(forwarded("for=203.0.113.9").unwrap(), "203.0.113.9:0");
    assert_eq!(forwarded("For=\"[2001:db8::9]:4711\"").unwrap(), "[2001:db8::9]:4711");
    assert_eq!(forwarded("for=1.1.1.1, for=203.0.113.9;proto=https;by=10.0.0.1").unwrap(), "203.0.113.9:0");
    assert_eq!(forwarded("proto=http;host=\"a;for=1.1.1.1, b\";for=203.0.113.9").unwrap(), "203.0.113.9:0");
    assert_eq!(forwarded("for=203.0.113.9, for=\"10.0.0.1:80\"").unwrap(), "203.0.113.9:0");
    assert_eq!(forwarded("for=203.0.113.9, for=_hidden, for=10.0.0.1").unwrap(), "10.0.0.1:0");
    assert_eq!(forwarded("for=unknown").unwrap(), "");
    assert_eq!(forwarded("by=10.0.0.1").unwrap(), "");
}

#[test]
fn a_malformed_forwarded_is_refused() {
    // What a client begins with a quote would swallow what its proxy appends.
    for value in
        ["for=\", for=203.0.113.9", "for=\"\\\", for=203.0.113.9", "x", "for=1.1.1.1;for=203.0.113.9"]
    {
        assert_eq!(forwarded(value), None, "{value}");
    }
}

#[test]
fn only_the_configured_header_counts() {
    let headers = [("X-Forwarded-For", "203.0.113.9"), ("Forwarded", "for=\"1.1.1.1")];
    assert_eq!(client(ForwardedHeader::XForwardedFor, &TRUSTED, &headers).unwrap(), "203.0.113.9:0");
    let headers = [("X-Forwarded-For", "1.1.1.1"), ("Forwarded", "for=203.0.113.9")];
    assert_eq!(client(ForwardedHeader::Forwarded, &TRUSTED, &headers).unwrap(), "203.0.113.9:0");
}
