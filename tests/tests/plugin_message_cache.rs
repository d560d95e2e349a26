//! The bundled plugin message-cache on live traffic: a client that requests the last messages of
//! each topic receives them in order, whichever shards their publishers are on.

#![allow(clippy::print_stderr)]

use std::time::{Duration, Instant};

use grapnel_tests::bystander::Bystanders;
use grapnel_tests::wire::property::{CORRELATION_DATA, RESPONSE_TOPIC, Value};
use grapnel_tests::{Broker, Client, Connect, PATIENCE, Publish, Version, scenario};

fn load(broker: &Broker) {
    let filters = r#"filters=["sensors/#"]"#;
    broker.ctl_ok(&[
        "plugins",
        "load",
        "message-cache",
        "--set",
        filters,
        "--set",
        "messages_per_topic_max=3",
        "--once",
    ]);
}

/// Sends a request. Returns topic and payload of each message of the answer.
#[track_caller]
fn request(client: &mut Client, filter: &str) -> Vec<(String, String)> {
    let request = Publish::new(&format!("$cache/{filter}"), "answers").qos(1);
    let request = match client.version() {
        Version::V5 => request
            .with(RESPONSE_TOPIC, Value::text("answers"))
            .with(CORRELATION_DATA, Value::Binary(b"7".to_vec())),
        _ => request,
    };
    assert_eq!(client.publish(&request), 0);
    let mut received = Vec::new();
    loop {
        let message = client.message();
        assert_eq!(message.topic, "answers");
        if client.version() != Version::V5 {
            // Without properties the empty payload marks the end.
            if message.payload.is_empty() {
                return received;
            }
            received.push((String::new(), message.text()));
            continue;
        }
        assert_eq!(message.properties.find(CORRELATION_DATA), Some(&Value::Binary(b"7".to_vec())));
        if let [count] = message.properties.user("messages").as_slice() {
            assert_eq!(count, &received.len().to_string());
            return received;
        }
        received.push((message.properties.user("topic").concat(), message.text()));
    }
}

/// The order between publishers is that of the broker's clock, which must have advanced.
fn next_milliseconds() {
    let now = std::time::Instant::now();
    while now.elapsed() < std::time::Duration::from_millis(3) {
        std::thread::yield_now();
    }
}

scenario! {
    /// Publishers on every shard write to the same topics; a request returns the last messages, in
    /// the order in which they were sent.
    fn the_last_messages_of_all_shards_arrive_in_order(broker in Broker::builder().grapnel_only()) {
        load(broker);
        let mut publishers: Vec<Client> =
            (0..6).map(|n| Client::hello(broker, Version::V5, &format!("p{n}"))).collect();
        for n in 0..12 {
            let topic = if n % 2 == 0 { "sensors/a" } else { "sensors/b" };
            let code = publishers[n % 6].publish(&Publish::new(topic, n.to_string()).qos(1));
            assert_eq!(code, 0x10, "nobody subscribes");
            next_milliseconds();
        }
        publishers[0].publish(&Publish::new("other", "not kept").qos(1));
        let mut client = Client::hello(broker, Version::V5, "c");
        client.subscribe("answers", 1);
        let pairs = |list: &[(&str, u8)]| -> Vec<(String, String)> {
            list.iter().map(|(topic, n)| ((*topic).to_owned(), n.to_string())).collect()
        };
        let all = pairs(&[("sensors/a", 6), ("sensors/b", 7), ("sensors/a", 8), ("sensors/b", 9), ("sensors/a", 10), ("sensors/b", 11)]);
        assert_eq!(request(&mut client, "**"), all);
        assert_eq!(request(&mut client, "*/a"), pairs(&[("sensors/a", 6), ("sensors/a", 8), ("sensors/a", 10)]));
        assert_eq!(request(&mut client, "other"), []);
        let mut old = Client::hello(broker, Version::V311, "old");
        old.subscribe("answers", 1);
        drop(client);
        let texts: Vec<String> = request(&mut old, "sensors/b").into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["7", "9", "11"]);
    }
}

/// An answer of thousands of messages exceeds a subscriber's queue. It arrives completely all the
/// same, as fast as it is acknowledged, with its end last and nothing in the log, and no other
/// client waits for it.
#[test]
fn a_long_answer_is_complete_and_does_not_delay_others() {
    let broker = Broker::builder().grapnel_only().start();
    let bound = ["--set", "bytes_max=67108864", "--set", "client_bytes_max=67108864", "--once"];
    let filters = ["plugins", "load", "message-cache", "--set", r#"filters=["sensors/#"]"#];
    broker.ctl_ok(&[filters.as_slice(), bound.as_slice()].concat());
    let count = 4_000;
    let mut publishers: Vec<Client> =
        (0..4).map(|n| Client::hello(&broker, Version::V5, &format!("p{n}"))).collect();
    for n in 0..count {
        publishers[n % 4].send_publish(&Publish::new(&format!("sensors/{n}"), ""));
    }
    publishers.iter_mut().for_each(Client::ping);
    let mut bystander = Client::hello(&broker, Version::V5, "b");
    let mut client = Client::hello(&broker, Version::V5, "c");
    client.subscribe("answers", 1);
    let request = Publish::new("$cache/**", "").qos(1).with(RESPONSE_TOPIC, Value::text("answers"));
    assert_eq!(client.publish(&request), 0);
    let mut topics = std::collections::BTreeSet::new();
    for n in 0..count {
        let message = client.message();
        topics.insert(message.properties.user("topic").concat());
        if n % 200 == 0 {
            let begin = std::time::Instant::now();
            bystander.ping();
            assert!(begin.elapsed() < std::time::Duration::from_secs(2), "{:?}", begin.elapsed());
        }
    }
    assert_eq!(topics.len(), count, "each once");
    let end = client.message();
    assert_eq!(end.properties.user("messages"), [count.to_string()]);
    assert!(end.properties.user("incomplete").is_empty());
    assert!(!broker.process().log().contains("is incomplete"), "{}", broker.process().log());
}

#[test]
fn an_invalid_request_is_refused_and_reaches_nobody() {
    let broker = Broker::builder().grapnel_only().start();
    load(&broker);
    let mut client = Client::hello(&broker, Version::V5, "c");
    client.subscribe("#", 1);
    client.subscribe("$cache/#", 1);
    for (topic, payload) in
        [("$cache/a", ""), ("$cache/a", "b/#"), ("$cache/a", "$SYS/b"), ("$cache/**/a", "b")]
    {
        assert_eq!(client.publish(&Publish::new(topic, payload).qos(1)), 0x90, "{topic} {payload}");
    }
    client.ping();
    let refused = broker.ctl_refused(&["plugins", "reload", "message-cache", "--set", "filters=[\"a/#/b\"]"]);
    assert!(refused.contains("filters[0]: "), "{refused}");
}

/// An answer is published on behalf of the requesting client: it goes to no topic that this client
/// may not publish to.
#[test]
fn an_answer_is_sent_only_to_topics_that_its_client_may_publish_to() {
    let broker = Broker::builder().grapnel_only().start();
    let rules = broker.home().join("acl");
    let text = "topic deny door/open\ntopic readwrite #\ntopic write $cache/#\nuser chief\ntopic readwrite #\ntopic write $cache/#\n";
    std::fs::write(&rules, text).expect("our folder");
    broker.ctl_ok(&["plugins", "load", "acl-file", "--set", &format!("path={}", rules.display()), "--once"]);
    load(&broker);
    let mut connect = Connect::new(Version::V5, "door");
    connect.username = Some("chief".to_owned());
    let mut door = Client::connect(&broker, &connect);
    door.subscribe("door/open", 1);
    door.subscribe("door/bell", 1);
    let mut client = Client::hello(&broker, Version::V5, "c");
    client.publish(&Publish::new("sensors/a", "open it").qos(1));
    for topic in ["door/open", "door/bell"] {
        let request = Publish::new("$cache/sensors/a", "").qos(1).with(RESPONSE_TOPIC, Value::text(topic));
        assert_eq!(client.publish(&request), 0);
    }
    // Both were answered in this order, on one shard.
    let message = door.message();
    assert_eq!((message.topic.as_str(), message.text()), ("door/bell", "open it".to_owned()));
    broker.process().wait_for_line("the refusal", PATIENCE, |line| {
        line.contains("a publish to \"door/open\" on behalf of client \"c\" was refused: 0x87 not authorized")
            .then_some(())
    });
}

/// Topics that a client may not subscribe to are not available from the cache either, and the
/// answer does not reveal whether there are messages.
#[test]
fn no_client_gets_messages_it_could_not_subscribe_to() {
    let broker = Broker::builder().grapnel_only().start();
    let rules = broker.home().join("acl");
    let text = "topic deny sensors/secret/#\ntopic readwrite #\ntopic write $cache/#\nuser chief\ntopic readwrite #\ntopic write $cache/#\n";
    std::fs::write(&rules, text).expect("our folder");
    broker.ctl_ok(&["plugins", "load", "acl-file", "--set", &format!("path={}", rules.display()), "--once"]);
    load(&broker);
    let mut connect = Connect::new(Version::V5, "chief");
    connect.username = Some("chief".to_owned());
    let mut chief = Client::connect(&broker, &connect);
    chief.subscribe("answers", 1);
    for topic in ["sensors/secret/a", "sensors/open/a"] {
        chief.publish(&Publish::new(topic, "x").qos(1));
    }
    assert_eq!(request(&mut chief, "**").len(), 2);
    chief.disconnect();
    let mut client = Client::hello(&broker, Version::V5, "c");
    client.subscribe("answers", 1);
    assert_eq!(request(&mut client, "sensors/open/*"), [("sensors/open/a".to_owned(), "x".to_owned())]);
    for filter in ["**", "sensors/secret/a"] {
        let request = Publish::new(&format!("$cache/{filter}"), "").qos(1);
        assert_eq!(client.publish(&request.with(RESPONSE_TOPIC, Value::text("answers"))), 0);
        let end = client.message();
        assert_eq!(end.properties.user("messages"), ["0"], "{filter}");
        assert_eq!(end.properties.user("incomplete"), ["its filter is refused with 0x87"]);
    }
}

/// A client that acknowledges nothing, and sends request after request, does not delay the answers
/// of others.
#[test]
fn a_client_that_acknowledges_nothing_does_not_delay_others() {
    let broker = Broker::builder().grapnel_only().start_with_shards(1).expect("Grapnel runs on one shard");
    load(&broker);
    let mut client = Client::hello(&broker, Version::V5, "c");
    for n in 0..200 {
        client.send_publish(&Publish::new(&format!("sensors/{n}"), "x"));
    }
    client.ping();
    let mut stuck = Client::hello(&broker, Version::V5, "stuck");
    stuck.subscribe("stuck", 1);
    for _ in 0..16 {
        let request = Publish::new("$cache/**", "").qos(1).with(RESPONSE_TOPIC, Value::text("stuck"));
        assert_eq!(stuck.publish(&request), 0);
    }
    // It has received a message, and acknowledges none.
    stuck.receive_publish();
    client.subscribe("answers", 1);
    let begin = Instant::now();
    assert_eq!(request(&mut client, "**").len(), 200);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

/// A reload with the maximum content of the default `bytes_max`, beside other clients: all of it is
/// there afterwards, and the longest pause of the others is printed.
#[test]
fn the_reload_of_a_full_cache_delays_no_other_client() {
    let broker = Broker::builder().grapnel_only().start_with_shards(1).expect("Grapnel runs on one shard");
    // All clients here are of one address, which may have half of it by default.
    let settings = ["--set", r#"filters=["sensors/#"]"#, "--set", "client_bytes_max=16777216"];
    broker.ctl_ok(&[&["plugins", "load", "message-cache", "--once"], &settings[..]].concat());
    let metric = |name: &str| {
        let metrics = broker.ctl_ok(&["metrics"]);
        let shown = format!("plugin_message_cache_{name}");
        let line = metrics.lines().find(|line| line.split_whitespace().next() == Some(&shown));
        let value = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        value.unwrap_or_else(|| panic!("{shown} is not in {metrics}"))
    };
    let mut publishers = ["p", "q", "r"].map(|name| Client::hello(&broker, Version::V5, name));
    for n in 0..20_000 {
        for (place, publisher) in publishers.iter_mut().enumerate() {
            publisher.send_publish(&Publish::new(&format!("sensors/{place}/{n}"), "x"));
        }
    }
    publishers.iter_mut().for_each(Client::ping);
    let (messages, bytes) = (metric("kept_messages"), metric("kept_messages_bytes"));
    assert!(bytes > (16 << 20) - 1000, "{bytes} bytes of {messages} messages");
    let bystanders = Bystanders::start(&broker);
    let begin = Instant::now();
    broker.ctl_ok(&["plugins", "reload", "message-cache"]);
    let took = begin.elapsed();
    bystanders.settle();
    let felt = bystanders.since();
    eprintln!(
        "{messages} messages went over in {took:?}; others: messages {}, pings {}",
        felt.messages, felt.pings
    );
    assert!(felt.messages.longest < Duration::from_secs(3), "{}", felt.messages);
    drop(bystanders);
    assert_eq!((metric("kept_messages"), metric("kept_messages_bytes")), (messages, bytes));
    let client = &mut publishers[0];
    client.subscribe("answers", 1);
    assert_eq!(request(client, "sensors/2/19999"), [("sensors/2/19999".to_owned(), "x".to_owned())]);
}
