//! The bundled plugin delayed-publish on live traffic: messages are delivered when they are due,
//! with all their properties, also over a reload. A message that cannot be delayed is refused with
//! its reason.

#![allow(clippy::print_stderr)]

use std::time::{Duration, Instant};

use grapnel_tests::bystander::Bystanders;
use grapnel_tests::mosquitto::{Subscriber, publish};
use grapnel_tests::wire::property::{CONTENT_TYPE, CORRELATION_DATA, USER_PROPERTY, Value};
use grapnel_tests::{Broker, Client, Connect, PATIENCE, Publish, Version, scenario};

const DELAY: Duration = Duration::from_secs(1);

scenario! {
    /// mosquitto's clients: acknowledged at once, delivered after a second, nothing on the delayed
    /// topic itself.
    fn a_delayed_message_arrives_when_it_is_due(broker in Broker::builder().grapnel_only(), version) {
        broker.ctl_ok(&["plugins", "load", "delayed-publish", "--once"]);
        let mut subscriber = Subscriber::start(broker, version, &["-q", "1", "-t", "lights/#", "-t", "$delayed/#", "-C", "2"]);
        let start = Instant::now();
        publish(broker, version, &["-t", "$delayed/1/lights/hall", "-q", "1", "-m", "off"]);
        assert!(start.elapsed() < DELAY, "the publisher does not wait");
        publish(broker, version, &["-t", "lights/hall", "-q", "1", "-m", "on"]);
        let messages = subscriber.messages(2);
        let received: Vec<_> = messages.iter().map(|message| (message.topic.as_str(), message.payload.as_str())).collect();
        assert_eq!(received, [("lights/hall", "on"), ("lights/hall", "off")]);
        assert!(start.elapsed() >= DELAY);
    }
}

scenario! {
    /// A message keeps its properties, and messages due together keep their order.
    fn a_delayed_message_arrives_unchanged(broker in Broker::builder().grapnel_only()) {
        broker.ctl_ok(&["plugins", "load", "delayed-publish", "--once"]);
        let mut subscriber = Client::hello(broker, Version::V5, "s");
        subscriber.subscribe("#", 2);
        let mut publisher = Client::hello(broker, Version::V5, "p");
        for n in 0..20u16 {
            let message = Publish::new("$delayed/1/a", n.to_string()).with(USER_PROPERTY, Value::pair("n", &n.to_string()));
            // An empty value for every second one.
            let message = match n % 2 {
                0 => message.with(CONTENT_TYPE, Value::text("")).with(CORRELATION_DATA, Value::Binary(Vec::new())),
                _ => message,
            };
            publisher.send_publish(&message.qos(1).id(n + 1));
        }
        for n in 0..20u16 {
            let message = subscriber.message();
            assert_eq!((message.topic.as_str(), message.text(), message.qos), ("a", n.to_string(), 1));
            assert_eq!(message.properties.user("n"), [n.to_string()]);
            let there = [CONTENT_TYPE, CORRELATION_DATA].map(|id| message.properties.find(id).is_some());
            assert_eq!(there, [n % 2 == 0; 2]);
        }
    }
}

scenario! {
    /// A reload hands over the waiting messages; each is delivered once, when it is due.
    fn waiting_messages_survive_a_reload(broker in Broker::builder().grapnel_only()) {
        broker.ctl_ok(&["plugins", "load", "delayed-publish", "--once"]);
        let mut subscriber = Client::hello(broker, Version::V5, "s");
        subscriber.subscribe("a", 1);
        let start = Instant::now();
        let mut publishers: Vec<Client> =
            (0..8).map(|n| Client::hello(broker, Version::V5, &format!("p{n}"))).collect();
        for (n, publisher) in publishers.iter_mut().enumerate() {
            assert_eq!(publisher.publish(&Publish::new("$delayed/1/a", n.to_string()).qos(1)), 0);
        }
        broker.ctl_ok(&["plugins", "reload", "delayed-publish"]);
        let mut received: Vec<String> = (0..8).map(|_| subscriber.message().text()).collect();
        assert!(start.elapsed() >= DELAY);
        received.sort();
        assert_eq!(received, (0..8).map(|n| n.to_string()).collect::<Vec<_>>());
        // A duplicate would arrive before this.
        publishers[0].publish(&Publish::new("a", "last").qos(1));
        assert_eq!(subscriber.message().text(), "last");
    }
}

/// If a message is under way to a slow plugin when this one is reloaded, the new version receives
/// the answer: the message is delivered once, and so are those that waited behind it.
#[test]
fn messages_in_flight_arrive_once_through_reloads() {
    let broker = Broker::builder().grapnel_only().shards(1).start();
    for plugin in ["delayed-publish", "late"] {
        broker.ctl_ok(&["plugins", "load", plugin, "--once"]);
    }
    let mut subscriber = Client::hello(&broker, Version::V5, "s");
    subscriber.subscribe("#", 1);
    let mut publisher = Client::hello(&broker, Version::V5, "p");
    for n in 0..20 {
        assert_eq!(publisher.publish(&Publish::new("$delayed/0/held/a", n.to_string()).qos(1)), 0);
    }
    let held = || {
        let stats = broker.ctl_json(&["hooks", "stats"]);
        let rows = stats["rows"].as_array().expect("a list");
        let row = rows.iter().find(|row| row["plugin"] == "late" && row["hook"] == "publish");
        row.and_then(|row| row["calls"].as_u64()).unwrap_or(0)
    };
    let until = Instant::now() + PATIENCE;
    while held() == 0 {
        assert!(Instant::now() < until, "nothing has left");
    }
    for _ in 0..2 {
        broker.ctl_ok(&["plugins", "reload", "delayed-publish"]);
    }
    let mut received = Vec::new();
    let mut other = Client::hello(&broker, Version::V5, "q");
    while received.len() < 20 {
        other.publish(&Publish::new("release", "").qos(1));
        loop {
            let message = subscriber.message();
            if message.topic == "release" {
                break;
            }
            received.push(message.text());
        }
    }
    assert_eq!(received, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!((metric(&broker, "waiting_messages"), metric(&broker, "retried_messages")), (0, 0));
}

/// A client that has used its share is refused; others continue.
#[test]
fn a_client_over_its_share_is_refused_alone() {
    let broker = Broker::builder().grapnel_only().start();
    let shares = ["--set", "client_messages_max=2", "--set", "client_bytes_max=2600"];
    broker.ctl_ok(&[&["plugins", "load", "delayed-publish", "--once"], shares.as_slice()].concat());
    let mut client = Client::hello(&broker, Version::V5, "p");
    let mut other = Client::hello(&broker, Version::V5, "q");
    let small = Publish::new("$delayed/100/a", "x").qos(1);
    // Empty user properties use memory too: two such messages exceed the share, one and a small one
    // do not.
    let heavy = (0..64).fold(small.clone(), |message, _| message.with(USER_PROPERTY, Value::pair("", "")));
    assert_eq!(client.publish(&heavy), 0);
    assert_eq!(client.publish(&heavy), 0x97);
    assert_eq!([0; 2].map(|_| client.publish(&small)), [0, 0x97]);
    assert_eq!([0; 2].map(|_| other.publish(&small)), [0; 2]);
    assert_eq!(metric(&broker, "waiting_messages"), 4);
    assert_eq!(metric(&broker, "waiting_messages_owners"), 2);
    assert_eq!(metric(&broker, "waiting_messages_refused_owner"), 2);
}

/// A metric of the plugin.
#[track_caller]
fn metric(broker: &Broker, name: &str) -> u64 {
    let metrics = broker.ctl_ok(&["metrics"]);
    let shown = format!("plugin_delayed_publish_{name}");
    let line = metrics.lines().find(|line| line.split_whitespace().next() == Some(&shown));
    let value = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    value.unwrap_or_else(|| panic!("{shown} is not in {metrics}"))
}

/// The broker has no space for due messages, since a plugin blocks earlier ones. They were
/// acknowledged, so each is still delivered, once.
#[test]
fn messages_without_room_are_published_later() {
    let broker = Broker::builder()
        .grapnel_only()
        .config("[limits]\nbehalf_client_requests_max = 4\n")
        .start_with_shards(1);
    let broker = broker.expect("Grapnel runs on one shard");
    broker.ctl_ok(&["plugins", "load", "delayed-publish", "--once"]);
    broker.ctl_ok(&["plugins", "load", "late", "--once"]);
    let mut subscriber = Client::hello(&broker, Version::V5, "s");
    subscriber.subscribe("held/#", 1);
    subscriber.subscribe("marker", 1);
    let mut publisher = Client::hello(&broker, Version::V5, "p");
    for n in 0..12 {
        assert_eq!(publisher.publish(&Publish::new(&format!("$delayed/0/held/{n}"), "x").qos(1)), 0);
    }
    let deadline = Instant::now() + PATIENCE;
    while metric(&broker, "retried_messages") == 0 {
        assert!(Instant::now() < deadline, "the broker has room for all of them");
    }
    assert_eq!(
        metric(&broker, "waiting_messages"),
        12,
        "none is forgotten before it is known to be published"
    );
    let mut received = Vec::new();
    while metric(&broker, "waiting_messages") > 0 {
        assert!(Instant::now() < deadline, "{received:?}");
        publisher.publish(&Publish::new("release", "x").qos(1));
        publisher.publish(&Publish::new("marker", "marker").qos(1));
        received.extend(subscriber.messages_until("marker"));
    }
    publisher.publish(&Publish::new("marker", "marker").qos(1));
    received.extend(subscriber.messages_until("marker"));
    let mut topics: Vec<String> = received.into_iter().map(|message| message.topic).collect();
    topics.sort();
    let mut sent: Vec<String> = (0..12).map(|n| format!("held/{n}")).collect();
    sent.sort();
    assert_eq!(topics, sent);
}

/// A reload with 18 MB of messages, beside other clients: all messages are there afterwards, and
/// the longest pause of the others is printed.
#[test]
fn the_reload_of_a_large_state_delays_no_other_client() {
    let broker = Broker::builder().grapnel_only().start();
    let load = ["plugins", "load", "delayed-publish", "--once", "--set"];
    broker
        .ctl_ok(&[&load[..], &["client_messages_max=100000", "--set", "client_bytes_max=67108864"]].concat());
    let mut publisher = Client::hello(&broker, Version::V5, "p");
    let payload = "x".repeat(450);
    let count = 40_000;
    for _ in 0..count {
        publisher.send_publish(&Publish::new("$delayed/3600/a", payload.as_str()));
    }
    publisher.ping();
    let mut subscriber = Client::hello(&broker, Version::V5, "s");
    subscriber.subscribe("soon", 1);
    publisher.publish(&Publish::new("$delayed/2/soon", "x").qos(1));
    assert_eq!(metric(&broker, "waiting_messages"), count + 1);
    let bystanders = Bystanders::start(&broker);
    let begin = Instant::now();
    broker.ctl_ok(&["plugins", "reload", "delayed-publish"]);
    let took = begin.elapsed();
    bystanders.settle();
    let felt = bystanders.since();
    eprintln!(
        "{count} messages of 450 bytes went over in {took:?}; others: messages {}, pings {}",
        felt.messages, felt.pings
    );
    assert!(felt.messages.longest < Duration::from_secs(3), "{}", felt.messages);
    assert_eq!(subscriber.message().topic, "soon");
    let deadline = Instant::now() + PATIENCE;
    while metric(&broker, "waiting_messages") != count {
        assert!(Instant::now() < deadline, "{}", metric(&broker, "waiting_messages"));
    }
}

#[test]
fn messages_that_cannot_be_delayed_are_refused_with_the_reason() {
    let broker = Broker::builder().grapnel_only().start();
    let limits = ["--set", "delay_s_max=10", "--set", "messages_max=2"];
    broker.ctl_ok(&[&["plugins", "load", "delayed-publish", "--once"], limits.as_slice()].concat());
    let mut client = Client::hello(&broker, Version::V5, "p");
    for topic in ["$delayed/x/a", "$delayed/11/a", "$delayed/5", "$delayed/5/$SYS/a", "$delayed/-1/a"] {
        assert_eq!(client.publish(&Publish::new(topic, "x").qos(1)), 0x90, "{topic}");
    }
    for code in [0, 0, 0x97] {
        assert_eq!(client.publish(&Publish::new("$delayed/10/a", "x").qos(1)), code);
    }
    let refused = broker.ctl_refused(&["plugins", "reload", "delayed-publish", "--set", "messages_max=0"]);
    assert!(refused.contains("messages_max: must be at least 1"), "{refused}");
}

/// A delayed message is published on behalf of its sender: it goes only to a topic that this client
/// may publish to when it is due, whether it is still connected, has gone, or another principal has
/// its identifier by then.
#[test]
fn a_message_is_authorized_for_its_client_when_it_is_due() {
    let broker = Broker::builder().grapnel_only().start();
    let rules = broker.home().join("acl");
    std::fs::write(
        &rules,
        "topic deny secret/#\ntopic readwrite #\ntopic write $delayed/#\nuser chief\ntopic readwrite #\n",
    )
    .expect("our folder");
    broker.ctl_ok(&["plugins", "load", "acl-file", "--set", &format!("path={}", rules.display()), "--once"]);
    broker.ctl_ok(&["plugins", "load", "delayed-publish", "--once"]);
    let mut connect = Connect::new(Version::V5, "s");
    connect.username = Some("chief".to_owned());
    let mut subscriber = Client::connect(&broker, &connect);
    subscriber.subscribe("secret/#", 1);
    subscriber.subscribe("open/#", 1);
    for gone in [false, true] {
        let mut client = Client::hello(&broker, Version::V5, "p");
        for topic in ["$delayed/1/secret/y", "$delayed/1/open/y"] {
            assert_eq!(
                client.publish(&Publish::new(topic, topic).qos(1)),
                0,
                "the topic of now is nobody's secret"
            );
        }
        if gone {
            client.disconnect();
        }
        // Both were due at one time, in this order.
        assert_eq!(subscriber.message().topic, "open/y", "gone: {gone}");
    }
    let refused = "a publish to \"secret/y\" on behalf of client \"p\" was refused: 0x87 not authorized";
    broker.process().wait_for_line("the refusal", PATIENCE, |line| line.contains(refused).then_some(()));
}

/// A message that waits for a verdict on behalf of one client does not block another client's
/// message that is due at the same time.
#[test]
fn a_slow_verdict_for_one_client_delays_no_other_client() {
    let broker = Broker::builder().shards(1).grapnel_only().start();
    for plugin in ["late", "delayed-publish"] {
        broker.ctl_ok(&["plugins", "load", plugin, "--once"]);
    }
    let mut subscriber = Client::hello(&broker, Version::V5, "s");
    subscriber.subscribe("held/#", 1);
    subscriber.subscribe("open/#", 1);
    let mut slow = Client::hello(&broker, Version::V5, "slow");
    let mut other = Client::hello(&broker, Version::V5, "other");
    // `late` holds messages to `held/…` until one to `release` arrives.
    for topic in ["$delayed/1/held/1", "$delayed/1/held/2"] {
        assert_eq!(slow.publish(&Publish::new(topic, "x").qos(1)), 0);
    }
    assert_eq!(other.publish(&Publish::new("$delayed/1/open/y", "x").qos(1)), 0);
    assert_eq!(subscriber.message().topic, "open/y");
    other.publish(&Publish::new("release", "x").qos(1));
    assert_eq!(["held/1", "held/2"].map(|_| subscriber.message().topic), ["held/1", "held/2"]);
}
