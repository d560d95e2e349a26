//! Plugins that are loaded and unloaded while clients are connected, that defer, and that block a
//! shard.

use std::time::{Duration, Instant};

use grapnel_tests::mosquitto::publish;
use grapnel_tests::wire::property::USER_PROPERTY;
use grapnel_tests::{Broker, Client, Publish, Version, scenario};

fn builder() -> grapnel_tests::broker::Builder {
    Broker::builder().grapnel_only()
}

const REWRITE: [&str; 6] = [
    "plugins",
    "load",
    "topic-rewrite",
    "--set",
    "rules=[{action=\"publish\", filter=\"in/+\", destination=\"out/$1\"}]",
    "--set",
];

/// Publishes one message. Returns its topic on arrival and its stamps.
#[track_caller]
fn pass(publisher: &mut Client, subscriber: &mut Client) -> (String, Vec<String>) {
    assert_eq!(publisher.publish(&Publish::new("in/x", "hello").qos(1)), 0);
    let message = subscriber.message();
    (message.topic.clone(), message.properties.user("stamp"))
}

scenario! {
    /// Loaded, reloaded and unloaded with one command each, with the same two connected clients.
    fn a_plugin_changes_messages_while_it_is_loaded(broker in builder()) {
        let mut subscriber = Client::hello(broker, Version::V5, "s");
        subscriber.subscribe("in/+", 1);
        subscriber.subscribe("out/+", 1);
        let mut publisher = Client::hello(broker, Version::V5, "p");
        assert_eq!(pass(&mut publisher, &mut subscriber), ("in/x".to_owned(), vec![]));

        let mut load = REWRITE.to_vec();
        load.extend(["stamp=\"stamp\"", "--once"]);
        broker.ctl_ok(&load);
        let (topic, first) = pass(&mut publisher, &mut subscriber);
        assert_eq!((topic.as_str(), first.len()), ("out/x", 1));
        let again = broker.ctl_refused(&load);
        assert!(again.contains("loaded already"), "{again}");

        broker.ctl_ok(&["plugins", "reload", "topic-rewrite"]);
        let (topic, second) = pass(&mut publisher, &mut subscriber);
        assert_eq!((topic.as_str(), second.len()), ("out/x", 1));
        assert_ne!(first, second, "a new load has a new stamp");
        let show = broker.ctl_json(&["plugins", "show", "topic-rewrite"]);
        assert_eq!(show["name"], "topic-rewrite");

        broker.ctl_ok(&["plugins", "unload", "topic-rewrite"]);
        assert_eq!(pass(&mut publisher, &mut subscriber), ("in/x".to_owned(), vec![]));
        let gone = broker.ctl_refused(&["plugins", "unload", "topic-rewrite"]);
        assert!(gone.contains("topic-rewrite"), "{gone}");
    }
}

#[test]
fn a_loaded_plugin_is_loaded_again_after_a_restart_unless_loaded_with_once() {
    let broker = builder().start();
    broker.ctl_ok(&["plugins", "load", "noop"]);
    broker.ctl_ok(&["plugins", "load", "tap", "--once"]);
    let broker = builder().home(broker.stop()).start();
    let names = |broker: &Broker| -> Vec<String> {
        let list = broker.ctl_json(&["plugins", "list"]);
        list["plugins"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&broker), ["noop"]);
    broker.ctl_ok(&["plugins", "unload", "noop"]);
    let broker = builder().home(broker.stop()).start();
    assert_eq!(names(&broker), Vec::<String>::new());
}

scenario! {
    /// mosquitto_pub -q 0 through a hook that defers for 100 ms: the message is delivered although
    /// the client has gone.
    fn a_deferred_publish_is_delivered_after_its_client_has_disconnected(broker in builder(), version) {
        broker.ctl_ok(&["plugins", "load", "defer-publish", "--set", "delay_ms=100", "--once"]);
        let mut subscriber = Client::hello(broker, Version::V5, "s");
        subscriber.subscribe("t", 0);
        let start = Instant::now();
        publish(broker, version, &["-t", "t", "-q", "0", "-m", "late"]);
        let message = subscriber.message();
        assert_eq!((message.text().as_str(), message.properties.user("deferred")), ("late", vec!["1".to_owned()]));
        assert!(start.elapsed() >= Duration::from_millis(100));
    }
}

scenario! {
    /// Deferred publishes keep their order, delay their acknowledgement, and do not block PINGREQ.
    fn deferred_publishes_keep_their_order(broker in builder()) {
        broker.ctl_ok(&["plugins", "load", "defer-publish", "--set", "delay_ms=20", "--set", "topic_prefix=\"slow\"", "--once"]);
        let mut subscriber = Client::hello(broker, Version::V5, "s");
        subscriber.subscribe("#", 1);
        let mut publisher = Client::hello(broker, Version::V5, "p");
        for n in 0..20u16 {
            // Every second one is not deferred, and must not overtake the previous one.
            let topic = if n % 2 == 0 { "slow/x" } else { "fast/x" };
            publisher.send_publish(&Publish::new(topic, n.to_string()).qos(1).id(n + 1));
        }
        publisher.ping();
        let texts: Vec<String> = (0..20).map(|_| subscriber.message().text()).collect();
        assert_eq!(texts, (0..20).map(|n| n.to_string()).collect::<Vec<String>>());
    }
}

#[test]
fn a_sleeping_hook_delays_only_its_shard() {
    let broker = builder().shards(2).start();
    let mut clients: Vec<Client> =
        (0..32).map(|n| Client::hello(&broker, Version::V5, &format!("c{n}"))).collect();
    let list = broker.ctl_json(&["clients", "list"]);
    let shard = |n: usize| {
        let rows = list["clients"].as_array().unwrap().iter();
        let row = rows.clone().find(|row| row["client_id"] == format!("c{n}")).expect("it is connected");
        row["shard"].as_u64().unwrap()
    };
    // The probability that 32 keyed hashes are all on one side is one in two billion.
    let (mut here, there): (Vec<usize>, Vec<usize>) = (0..32).partition(|n| shard(*n) == 0);
    let (sleepy, reader) = (there[0], here.pop().unwrap());
    let writer = here.pop().unwrap();
    clients[reader].subscribe("awake", 0);
    clients[writer].publish(&Publish::new("awake", "before"));
    clients[reader].message();
    broker.ctl_ok(&[
        "plugins",
        "load",
        "sleeper",
        "--set",
        "sleep_ms=1000",
        "--set",
        "topic_prefix=\"sleep\"",
        "--once",
    ]);

    let start = Instant::now();
    let id = clients[sleepy].send_publish(&Publish::new("sleep/x", "zzz").qos(1)).unwrap();
    let mut longest = Duration::ZERO;
    let mut rounds = 0;
    while start.elapsed() < Duration::from_millis(900) {
        let round = Instant::now();
        clients[writer].publish(
            &Publish::new("awake", "x").with(USER_PROPERTY, grapnel_tests::wire::Value::pair("a", "b")),
        );
        clients[reader].message();
        longest = longest.max(round.elapsed());
        rounds += 1;
    }
    clients[sleepy].receive_where("PUBACK", |packet| {
        matches!(packet, grapnel_tests::Packet::Puback(ack) if ack.id == id).then_some(())
    });
    let slept = start.elapsed();
    eprintln!("{rounds} round trips during {slept:?}, the longest {longest:?}");
    assert!(slept >= Duration::from_millis(1000), "the hook did sleep: {slept:?}");
    assert!(rounds >= 10 && longest < Duration::from_millis(500), "{rounds} rounds, the longest {longest:?}");
}

// Every point of the broker itself is called once in a running broker, on one shard, whatever the
// number of shards, and in order before and after the points of clients.
#[test]
fn the_broker_points_run_before_and_after_those_of_clients() {
    let broker = builder().shards(2).start();
    broker.ctl_ok(&["plugins", "load", "recorder"]);
    let mut broker = builder().shards(2).home(broker.stop()).start();
    let mut client = Client::hello(&broker, Version::V5, "c");
    client.subscribe("t", 1);
    assert_eq!(client.publish(&Publish::new("t", "x").qos(1)), 0);
    client.message();
    client.unsubscribe(&["t"]);
    assert_eq!(client.publish(&Publish::new("t", "x").qos(1).retain()), 0x10);
    client.disconnect();
    let last = |line: &str| line.contains("saw session.terminated c closed").then_some(());
    broker.process().wait_for_line("the end of the session", Duration::from_secs(10), last);
    broker.process().signal(rustix::process::Signal::TERM);
    assert!(broker.wait().is_some_and(|status| status.success()));
    let saw = broker.process().lines(|line| {
        let (_, saw) = line.split_once("saw ")?;
        saw.strip_suffix(" plugin=\"recorder\"").map(str::to_owned)
    });
    let points: Vec<&str> = saw.iter().filter_map(|line| line.split(' ').next()).collect();
    let unpacked: Vec<&str> = points.iter().copied().filter(|point| !point.starts_with("packet.")).collect();
    assert_eq!(
        unpacked,
        [
            "broker.starting",
            "broker.started",
            "client.connect",
            "client.authenticate",
            "client.connack",
            "client.connected",
            "session.created",
            "client.subscribe",
            "client.authorize",
            "session.subscribed",
            "client.authorize",
            "message.publish",
            "message.delivered",
            "message.acked",
            "client.unsubscribe",
            "session.unsubscribed",
            "client.authorize",
            "message.publish",
            "message.retained",
            "message.dropped",
            "client.disconnected",
            "session.terminated",
            "broker.stopping",
            "broker.stopped",
        ],
        "{saw:#?}"
    );
    let count = |way: &str| points.iter().filter(|point| **point == way).count();
    assert_eq!((count("packet.received"), count("packet.sent")), (7, 6), "{saw:#?}");
    assert!(saw[1].ends_with(&broker.address().to_string()), "{saw:#?}");
    broker.may_end_badly();
}
