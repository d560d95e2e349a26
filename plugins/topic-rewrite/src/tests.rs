//! Tests of the hooks with fake events: results of rules are applied to the event, and invalid
//! results leave it unchanged.
#![allow(clippy::unwrap_used)]

use grapnel_plugin_abi::Level;
use grapnel_plugin_abi::testing::{self, FakeEvent, Outcome, TestPlugin};

use super::TopicRewrite;

const CONFIG: &str = r#"{"stamp": "by", "rules": [
    {"filter": "x/#", "destination": "z/y/$1"},
    {"action": "publish", "source_topic": "e/+", "re": "^e/([0-9]+)$", "dest_topic": "n/$1/%c"},
    {"action": "publish", "filter": "bad/#", "destination": "$1"}
]}"#;

fn load(config: &str) -> TestPlugin<TopicRewrite> {
    testing::load(config).unwrap()
}

#[test]
fn a_message_is_rewritten_and_stamped_once() {
    let mut plugin = load(CONFIG);
    for (topic, expected) in [("x/1", "z/y/1"), ("e/7", "n/7/client"), ("e/seven", "e/seven"), ("o", "o")] {
        let mut message = FakeEvent::publish(topic, b"payload").with_user_property("own", "1");
        assert_eq!(plugin.run(&mut message), Outcome::Continue);
        assert_eq!((message.topic(), message.payload()), (expected, &b"payload"[..]));
        let properties = message.user_properties();
        let keys: Vec<&str> = properties.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["own", "by"]);
    }
}

#[test]
fn each_load_has_a_stamp_of_its_own() {
    let stamp = |plugin: &mut TestPlugin<TopicRewrite>| {
        let mut message = FakeEvent::publish("t", b"");
        plugin.run(&mut message);
        message.user_properties()[0].1.clone()
    };
    let (mut old, mut new) = (load(CONFIG), load(CONFIG));
    assert_eq!(stamp(&mut old), stamp(&mut old));
    assert_ne!(stamp(&mut old), stamp(&mut new));
    let mut message = FakeEvent::publish("t", b"");
    load("{}").run(&mut message);
    assert!(message.user_properties().is_empty());
}

#[test]
fn filters_are_rewritten_one_by_one() {
    let mut plugin = load(CONFIG);
    let mut packet = FakeEvent::subscribe(&[("x/#", 1), ("e/7", 0), ("$share/g/x/+", 2)]);
    assert_eq!(plugin.run(&mut packet), Outcome::Continue);
    let filters: Vec<_> = (0..4).map_while(|index| packet.filter(index)).collect();
    assert_eq!(filters, ["z/y/#", "e/7", "$share/g/z/y/+"]);
}

// A client unsubscribes with its original filter; it is rewritten as at the subscription.
#[test]
fn an_unsubscribe_is_rewritten_as_its_subscribe_was() {
    let rules = r#"{"rules": [{"action": "subscribe", "filter": "x/#", "destination": "z/x/#"}]}"#;
    let mut plugin = load(rules);
    let mut packet = FakeEvent::unsubscribe(&["x/#", "e/7"]);
    assert_eq!(plugin.run(&mut packet), Outcome::Continue);
    assert_eq!((packet.filter(0), packet.filter(1)), (Some("z/x/#"), Some("e/7")));
}

#[test]
fn rewrites_to_invalid_topics_are_skipped_and_logged_once() {
    let mut plugin = load(CONFIG);
    for _ in 0..3 {
        let mut message = FakeEvent::publish("bad", b"");
        assert_eq!(plugin.run(&mut message), Outcome::Continue);
        assert_eq!(message.topic(), "bad");
        assert_eq!(message.user_properties().len(), 1, "it is stamped all the same");
    }
    let logs = plugin.logs();
    assert_eq!(logs.len(), 1);
    assert_eq!(logs[0].0, Level::Warn);
    assert!(
        logs[0].1.starts_with("rule 3 leaves \"bad\" as it is: the new topic cannot be used: it is empty")
    );
}

#[test]
fn a_wrong_configuration_is_refused() {
    let error_of = |config| testing::load::<TopicRewrite>(config).unwrap_err();
    assert_eq!(error_of(r#"{"rulez": []}"#), "the key rulez is not known; did you mean rules?");
    assert_eq!(error_of(r#"{"rules": [{"filter": "a"}]}"#), "rules[0]: the key destination is missing");
    let unknown = error_of(r#"{"rules": [{"filter": "a", "destination": "b", "regexp": "c"}]}"#);
    assert_eq!(unknown, "rules[0]: the key regexp is not known; did you mean regex?");
    let twice = error_of(r#"{"rules": [{"filter": "a", "destination": "b", "re": "c", "regex": "d"}]}"#);
    assert_eq!(twice, "rules[0]: the key regex is there twice");
    let look_around = error_of(r#"{"rules": [{"filter": "a", "destination": "b", "regex": "(?=a)"}]}"#);
    assert!(look_around.starts_with("rule 1: regex \"(?=a)\": look-around"), "{look_around}");
}
