//! The C++ plugin cpp-json-gate on live traffic: it refuses payloads that are not JSON, passes
//! others, and is loaded and unloaded like any other plugin.

use grapnel_tests::plugin::Compiled;
use grapnel_tests::{Broker, Client, Publish, Version, scenario};

const INVALID: u8 = 0x99;

scenario! {
    /// Messages of its topics pass if they are JSON with the keys; others are not checked.
    fn payloads_are_checked_by_topic(broker in Broker::builder().grapnel_only()) {
        let plugin = Compiled::of("cpp-json-gate");
        let mut subscriber = Client::hello(broker, Version::V5, "s");
        subscriber.subscribe("#", 1);
        let mut publisher = Client::hello(broker, Version::V5, "p");
        let filters = r#"filters=["json/#", "+/data"]"#;
        broker.ctl_ok(&["plugins", "load", plugin.path(), "--set", filters, "--set", r#"required=["id", "value"]"#, "--once"]);
        for (topic, payload, code) in [
            ("json", r#"{"id": 1, "value": [1.5e3, true, null, "\u00e9"]}"#, 0),
            ("json/a", r#" {"value":{}, "x":"", "id":-0} "#, 0),
            ("a/data", r#"{"id": 1}"#, INVALID),
            ("json/a/b", "[]", INVALID),
            ("json/a", r#"{"id": 01, "value": 2}"#, INVALID),
            ("json/a", r#"{"id": 1, "value": 2} x"#, INVALID),
            ("json/a", "", INVALID),
            ("a/b/data", "anything", 0),
            ("jsonly", "anything", 0),
        ] {
            assert_eq!(publisher.publish(&Publish::new(topic, payload).qos(1)), code, "{topic} {payload}");
            if code == 0 {
                assert_eq!(subscriber.message().text(), payload);
            }
        }
        broker.ctl_ok(&["plugins", "reload", "cpp-json-gate"]);
        assert_eq!(publisher.publish(&Publish::new("json/a", "{").qos(1)), INVALID);
        broker.ctl_ok(&["plugins", "unload", "cpp-json-gate"]);
        assert_eq!(publisher.publish(&Publish::new("json/a", "{").qos(1)), 0);
        assert_eq!(subscriber.message().text(), "{");
    }
}

/// A text is UTF-8 (RFC 8259, section 8.1), in a key as in a value.
#[test]
fn a_payload_that_is_not_utf8_is_refused() {
    let plugin = Compiled::of("cpp-json-gate");
    let broker = Broker::builder().grapnel_only().start();
    broker.ctl_ok(&["plugins", "load", plugin.path(), "--set", "filters=[\"#\"]", "--once"]);
    let mut publisher = Client::hello(&broker, Version::V5, "p");
    let mut code = |text: &[u8]| {
        let payload = [b"{\"", text, b"\":[\"", text, b"\"]}"].concat();
        publisher.publish(&Publish::new("a", payload).qos(1))
    };
    for good in ["ü", "\u{7ff}", "\u{800}", "\u{ffff}", "\u{10000}", "\u{10ffff}", "\u{7f}"] {
        assert_eq!(code(good.as_bytes()), 0x10, "{good}: nobody subscribes");
    }
    for bad in [
        &b"\xff"[..],
        b"\x80",
        b"\xc3",
        b"\xc1\xbf",
        b"\xe0\x9f\xbf",
        b"\xed\xa0\x80",
        b"\xe2\x82",
        b"\xf0\x8f\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
    ] {
        assert_eq!(code(bad), INVALID, "{bad:x?}");
    }
}

/// A payload with the deepest possible nesting uses no stack; one sentence names the error in a
/// configuration.
#[test]
fn deep_payloads_and_wrong_configurations_are_refused() {
    let plugin = Compiled::of("cpp-json-gate");
    let broker = Broker::builder().grapnel_only().start();
    let refused = broker.ctl_refused(&["plugins", "load", plugin.path()]);
    assert!(refused.contains("the key filters is missing"), "{refused}");
    let refused = broker.ctl_refused(&["plugins", "load", plugin.path(), "--set", "filter=[\"a\"]"]);
    assert!(refused.contains("the key filter is not known; the keys are filters, required"), "{refused}");
    let refused = broker.ctl_refused(&["plugins", "load", plugin.path(), "--set", "filters=[\"a/#/b\"]"]);
    assert!(refused.contains("filters: the broker does not take them"), "{refused}");
    broker.ctl_ok(&["plugins", "load", plugin.path(), "--set", "filters=[\"#\"]", "--once"]);
    let mut publisher = Client::hello(&broker, Version::V5, "p");
    let deep = "[".repeat(100_000);
    assert_eq!(publisher.publish(&Publish::new("a", deep.as_str()).qos(1)), INVALID);
    let most = format!("{}{}", "[".repeat(128), "]".repeat(128));
    assert_eq!(publisher.publish(&Publish::new("a", most.as_str()).qos(1)), 0x10, "nobody subscribes");
}
