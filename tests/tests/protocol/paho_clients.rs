//! paho-mqtt, the Python client of many users: the scenarios are in `tests/paho/scenarios.py`.

use grapnel_tests::broker::Builder;
use grapnel_tests::{Broker, Version, paho, scenario};

scenario! {
    /// Each QoS in both directions, on one connection, in order.
    fn every_qos(broker, version) {
        let got = paho::run(broker, version, "every_qos");
        assert_eq!(got, serde_json::json!([["0", 0], ["1", 1], ["2", 2]]));
    }
}

scenario! {
    /// Retained messages: set, seen by a later subscriber, cleared.
    fn retained(broker, version) {
        let got = paho::run(broker, version, "retained");
        assert_eq!(got, serde_json::json!({"late": [["22", true]], "cleared": []}));
    }
}

scenario! {
    /// The will of a client whose socket closes.
    fn will(broker, version) {
        assert_eq!(paho::run(broker, version, "will"), serde_json::json!([["will/x", "gone"]]));
    }
}

scenario! {
    /// A stored session, with what was published meanwhile.
    fn resume(broker, version) {
        let got = paho::run(broker, version, "resume");
        let present = version != Version::V31;
        assert_eq!(got, serde_json::json!({"first": false, "second": present, "messages": ["a", "b"]}));
    }
}

scenario! {
    /// Takeover: the first client receives the reason, the second works.
    fn takeover(broker, version) {
        let got = paho::run(broker, version, "takeover");
        if version.is_5() && !broker.mosquitto_differs("[MQTT-3.1.4-3]", "closes without DISCONNECT 0x8E") {
            // paho 2.1.0 reads the reason only if there are properties; without them it reports a
            // normal disconnect.
            let reason = got["reason"].as_str().unwrap();
            assert!(["Session taken over", "Normal disconnection"].contains(&reason), "{reason}");
        }
        assert_eq!(got["second"], serde_json::json!(["still here"]));
    }
}

scenario! {
    /// A shared subscription of three paho clients.
    fn shared(broker) {
        let got = paho::run(broker, Version::V5, "shared");
        assert_eq!(got["total"], 90);
        assert_eq!(got["distinct"], 90);
        assert_eq!(got["idle_members"], 0);
    }
}

scenario! {
    /// Properties of MQTT 5 as paho names them.
    fn properties(broker) {
        let got = paho::run(broker, Version::V5, "properties");
        let expected = serde_json::json!({
            "content_type": "text/plain", "response_topic": "answer", "correlation": "abc",
            "user": [["k", "1"], ["k", "2"]], "subscription_ids": [11],
        });
        assert_eq!(got, expected);
    }
}

scenario! {
    /// Two thousand QoS 1 and 2 messages through paho's own window, in order. The publisher's
    /// window does not limit how far the subscriber falls behind on a busy machine, so the queue
    /// has space for all of them.
    fn many(broker in roomy(), version) {
        assert_eq!(paho::run(broker, version, "many"), serde_json::json!({"count": 2000, "in_order": true}));
    }
}

fn roomy() -> Builder {
    Broker::builder()
        .config("[limits]\nsession_queue_messages_max = 2000")
        .mosquitto("max_queued_messages 2000")
}
