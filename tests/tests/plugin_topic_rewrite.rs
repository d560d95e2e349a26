//! The bundled plugin topic-rewrite on live traffic: rules as EMQX documents them, for messages and
//! subscriptions.

use grapnel_tests::mosquitto::{Subscriber, publish};
use grapnel_tests::{Broker, Client, Connect, PATIENCE, Publish, Subscribe, Version, plugin, scenario};

const RULES: &str = r#"
stamp = "by"

[[rules]]
filter = "y/+/z/#"
regex = '^y/(.+)/z/(.+)$'
destination = "y/z/$2"

[[rules]]
filter = "x/#"
regex = '^x/y/(.+)$'
destination = "z/y/x/$1"

[[rules]]
filter = "x/y/+"
regex = '^x/y/(\d+)$'
destination = "z/y/$1"

[[rules]]
action = "publish"
filter = "who/#"
destination = "by/%u/%c/$1"

[[rules]]
filter = "moved/#"
destination = "there/$1"

[[rules]]
action = "publish"
filter = "wrong/#"
destination = "$1"
"#;

fn load(broker: &Broker) {
    let file = broker.home().join("rules.toml");
    std::fs::write(&file, RULES).expect("the directory is ours");
    broker.ctl_ok(&["plugins", "load", "topic-rewrite", "--config", plugin::argument(&file)]);
}

scenario! {
    /// The example of EMQX's documentation, published, and one message whose new topic would be
    /// invalid.
    fn messages_are_moved_by_the_rules(broker in Broker::builder().grapnel_only()) {
        load(broker);
        let mut subscriber = Subscriber::start(broker, Version::V5, &["-t", "#", "-q", "1"]);
        let moves = [
            ("y/def", "y/def"),
            ("y/a/z/b", "y/z/b"),
            ("x/1/2", "x/1/2"),
            ("x/y/2", "z/y/2"),
            ("x/y/z", "x/y/z"),
            ("x/y/z/1", "z/y/x/z/1"),
            ("who/cares", "by/ann/ann-1/cares"),
            ("wrong", "wrong"),
        ];
        for (topic, _) in moves {
            publish(broker, Version::V311, &["-i", "ann-1", "-u", "ann", "-q", "1", "-t", topic, "-m", topic]);
        }
        for (message, (topic, expected)) in subscriber.messages(moves.len()).into_iter().zip(moves) {
            assert_eq!((message.payload.as_str(), message.topic.as_str()), (topic, expected));
        }
        let warned = |line: &str| line.contains("rule 6 leaves \"wrong\"").then_some(());
        broker.process().wait_for_line("the warning", PATIENCE, warned);
        assert_eq!(broker.process().lines(warned).len(), 1);
    }
}

/// A rule may produce a topic that is too long for the broker: the message keeps its topic, with
/// its stamp. That is no fault of the plugin, which continues with the next message.
#[test]
fn a_message_whose_new_topic_is_too_long_is_not_moved() {
    let broker = Broker::builder()
        .grapnel_only()
        .config("[limits]\ntopic_bytes_max = 64\nbreaker_faults_max = 2")
        .start();
    load(&broker);
    let mut subscriber = Client::hello(&broker, Version::V5, "subscriber");
    subscriber.subscribe("#", 1);
    let mut publisher = Client::hello(&broker, Version::V5, "publisher");
    let long = format!("x/y/{}/b", "a".repeat(58));
    for topic in [&long, &long, &long, "moved/1"] {
        publisher.publish(&Publish::new(topic, "").qos(1));
    }
    for topic in [&long, &long, &long, "there/1"] {
        let message = subscriber.message();
        assert_eq!((message.topic.as_str(), message.properties.user("by").len()), (topic, 1));
    }
    let faults = broker.ctl_ok(&["metrics", "hook_faults"]);
    let none = |line: &str| line.split_whitespace().take(2).eq(["hook_faults", "0"]);
    assert!(faults.lines().any(none), "{faults}");
    let warned = |line: &str| line.contains("rule 2 leaves \"x/y/").then_some(());
    broker.process().wait_for_line("the warning", PATIENCE, warned);
    assert_eq!(broker.process().lines(warned).len(), 1);
}

scenario! {
    /// A subscription is rewritten too, and keeps its options and its group.
    fn subscriptions_are_moved_by_the_rules(broker in Broker::builder().grapnel_only(), version) {
        load(broker);
        let mut subscriber = Client::hello(broker, version, "subscriber");
        let codes = subscriber.subscribe_all(&Subscribe::to("moved/#", 1).and("plain", 2));
        assert_eq!(codes, [1, 2]);
        let mut publisher = Client::hello(broker, version, "publisher");
        for topic in ["there/1", "moved/2", "plain"] {
            publisher.publish(&Publish::new(topic, topic).qos(1));
        }
        let seen: Vec<_> = (0..3).map(|_| subscriber.message()).map(|m| (m.topic.clone(), m.text(), m.qos)).collect();
        let expected = [("there/1", "there/1", 1), ("there/2", "moved/2", 1), ("plain", "plain", 1)];
        assert_eq!(seen, expected.map(|(topic, text, qos)| (topic.to_owned(), text.to_owned(), qos)));
    }
}

scenario! {
    fn a_shared_subscription_keeps_its_group(broker in Broker::builder().grapnel_only()) {
        load(broker);
        let mut members: Vec<Client> = (0..2)
            .map(|member| {
                let mut client = Client::hello(broker, Version::V5, &format!("member-{member}"));
                client.subscribe("$share/group/moved/+", 1);
                client
            })
            .collect();
        let mut everything = Client::hello(broker, Version::V5, "everything");
        everything.subscribe("there/+", 1);
        let mut publisher = Client::hello(broker, Version::V5, "publisher");
        for n in 0..10 {
            publisher.publish(&Publish::new(&format!("moved/{n}"), "").qos(1));
        }
        for _ in 0..10 {
            everything.message();
        }
        // Once more by name: the member of the group that receives it has all earlier messages, and
        // a ping checks the other one.
        let mut shared = 0;
        for member in &mut members {
            member.subscribe("end", 1);
        }
        publisher.publish(&Publish::new("end", "end").qos(1));
        for member in &mut members {
            shared += member.messages_until("end").len();
        }
        assert_eq!(shared, 10, "each message went to one member of the group");
    }
}

scenario! {
    /// One stamp while it is loaded, another one after each reload, none after the unload; no
    /// client is disconnected.
    fn each_load_sets_a_new_stamp(broker in Broker::builder().grapnel_only()) {
        let mut subscriber = Client::hello(broker, Version::V5, "subscriber");
        subscriber.subscribe("#", 1);
        let mut publisher = Client::connect(broker, &Connect::new(Version::V5, "publisher"));
        let mut stamps = || {
            publisher.publish(&Publish::new("t", "").qos(1));
            subscriber.message().properties.user("by")
        };
        assert_eq!(stamps(), [""; 0]);
        load(broker);
        let mut seen = vec![stamps()];
        for _ in 0..3 {
            broker.ctl_ok(&["plugins", "reload", "topic-rewrite"]);
            seen.push(stamps());
        }
        assert!(seen.iter().all(|stamps| stamps.len() == 1), "{seen:?}");
        broker.ctl_ok(&["plugins", "unload", "topic-rewrite"]);
        assert_eq!(stamps(), [""; 0]);
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 4, "{seen:?}");
    }
}

#[test]
fn a_wrong_rule_is_refused_and_named() {
    let broker = Broker::builder().grapnel_only().start();
    for (rules, reason) in [
        (r#"rules=[{filter = "a"}]"#, "rules[0]: the key destination is missing"),
        (r#"rules=[{filter = "a", destination = "b", regex = "("}]"#, "rule 1: regex \"(\": unclosed group"),
        (r#"rules=[{filter = "a", destination = "$1"}]"#, "asks for $1, but the number of groups is 0"),
        (r#"rules=[{filter = "a/#/b", destination = "c"}]"#, "'#' must be the last level, alone"),
    ] {
        let error = broker.ctl_refused(&["plugins", "load", "topic-rewrite", "--set", rules]);
        assert!(error.contains(reason), "{rules}: {error}");
    }
    Client::hello(&broker, Version::V5, "after").ping();
}
