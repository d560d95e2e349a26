//! The bundled plugin message-codec on live traffic: payloads are changed as the rules say, for
//! each subscriber, and a payload that cannot be decoded is refused.

use grapnel_tests::mosquitto::{Subscriber, publish};
use grapnel_tests::{Broker, Client, Publish, Version, scenario};

const RULES: &str = r#"rules=[
    {on="publish", filter="in/+", codec="base64", action="decode"},
    {on="delivered", filter="in/json", codec="json", action="encode"},
    {on="publish", filter="packed/#", codec="gzip", action="encode"},
    {on="delivered", filter="packed/open", codec="gzip", action="decode"},
]"#;

scenario! {
    /// Decoded on publish, wrapped on delivery, through mosquitto's clients.
    fn payloads_are_changed_by_topic(broker in Broker::builder().grapnel_only(), version) {
        broker.ctl_ok(&["plugins", "load", "message-codec", "--set", RULES, "--once"]);
        let mut subscriber = Subscriber::start(broker, version, &["-q", "1", "-t", "#", "-C", "4"]);
        for (topic, payload) in [("in/text", "aGVsbG8="), ("in/json", "aGVsbG8="), ("packed/open", "hello"), ("other", "hello")] {
            publish(broker, version, &["-i", "me", "-t", topic, "-q", "1", "-m", payload]);
        }
        let messages = subscriber.messages(4);
        let payload = |topic: &str| {
            let message = messages.iter().find(|message| message.topic == topic).expect("it came");
            message.payload.clone()
        };
        assert_eq!((payload("in/text"), payload("packed/open"), payload("other")), ("hello".into(), "hello".into(), "hello".into()));
        let envelope: serde_json::Value = serde_json::from_str(&payload("in/json")).expect("it is JSON");
        assert_eq!((&envelope["topic"], &envelope["payload"], &envelope["from"]), (&"in/json".into(), &"hello".into(), &"me".into()));
    }
}

scenario! {
    /// A payload encoded for storage reaches later subscribers in that form, and a payload of
    /// another form is not delivered.
    fn retained_payloads_are_encoded_and_wrong_ones_refused(broker in Broker::builder().grapnel_only()) {
        broker.ctl_ok(&["plugins", "load", "message-codec", "--set", RULES, "--once"]);
        let mut client = Client::hello(broker, Version::V5, "c");
        client.publish(&Publish::new("packed/a", "hello").qos(1).retain());
        client.subscribe("packed/#", 1);
        assert_eq!(client.message().payload[..2], [0x1f, 0x8b], "gzip");
        client.subscribe("in/#", 1);
        assert_eq!(client.publish(&Publish::new("in/a", "not base64!").qos(1)), 0x99);
        assert_eq!(client.publish(&Publish::new("in/a", "aGVsbG8=").qos(1)), 0);
        assert_eq!(client.message().text(), "hello");
        broker.ctl_ok(&["plugins", "unload", "message-codec"]);
        assert_eq!(client.publish(&Publish::new("in/a", "aGVsbG8=").qos(1)), 0);
        assert_eq!(client.message().text(), "aGVsbG8=");
    }
}

#[test]
fn a_wrong_rule_is_refused() {
    let broker = Broker::builder().grapnel_only().start();
    let rule = r#"rules=[{on="publish", filter="a/#/b", codec="gzip", action="encode"}]"#;
    let refused = broker.ctl_refused(&["plugins", "load", "message-codec", "--set", rule]);
    assert!(refused.contains("rules[0].filter: "), "{refused}");
    let refused = broker.ctl_refused(&["plugins", "load", "message-codec"]);
    assert!(refused.contains("the key rules is missing"), "{refused}");
}
