//! The bundled plugin tap on live traffic: it reports what was published, and clients are not
//! affected.

use grapnel_tests::mosquitto::{Subscriber, publish_lines};
use grapnel_tests::{Broker, Client, PATIENCE, Publish, Version, scenario};

/// Waits for a report that ends with these groups.
#[track_caller]
fn report(broker: &Broker, ending: &str) {
    broker.process().wait_for_line(ending, PATIENCE, |line| line.contains(ending).then_some(()));
}

scenario! {
    /// Publishers on every shard are counted in one sum, by the longest prefix; the last report is
    /// written at the unload.
    fn messages_of_all_shards_are_counted(broker in Broker::builder().grapnel_only()) {
        broker.ctl_ok(&["plugins", "load", "tap", "--set", r#"prefixes=["sensors/", "sensors/indoor/"]"#, "--set", "log_every_s=0"]);
        let mut subscriber = Subscriber::start(broker, Version::V311, &["-t", "#", "-q", "1", "-C", "33"]);
        for client in 0..10 {
            let id = format!("tap-{client}");
            publish_lines(broker, Version::V5, &["-i", &id, "-q", "1", "-t", "sensors/indoor/a"], "1234\n5678\n");
            publish_lines(broker, Version::V311, &["-i", &id, "-q", "1", "-t", "sensors/b"], "12345678\n");
        }
        publish_lines(broker, Version::V311, &["-q", "2", "-t", "elsewhere"], "1\n2\n3\n");
        assert_eq!(subscriber.messages(33).len(), 33);
        broker.ctl_ok(&["plugins", "unload", "tap"]);
        report(
            broker,
            r#"33 messages, 163 bytes (since the last report 33, 163): "sensors/indoor/" 20 messages 80 bytes; "sensors/" 10 messages 80 bytes; "(other)" 3 messages 3 bytes"#,
        );
    }
}

scenario! {
    /// With an interval it reports while it runs, grouped by the first level.
    fn it_reports_while_it_runs(broker in Broker::builder().grapnel_only()) {
        broker.ctl_ok(&["plugins", "load", "tap", "--set", "log_every_s=1"]);
        let mut client = Client::hello(broker, Version::V5, "publisher");
        for topic in ["a/b", "a", "b/c", "a/c"] {
            assert_eq!(client.publish(&Publish::new(topic, "xy").qos(1)), 0x10, "nobody subscribes");
        }
        report(broker, r#""a" 3 messages 6 bytes; "b" 1 message 2 bytes; dropped: no_subscribers 4"#);
        client.ping();
    }
}

/// One sentence names the error, and the broker continues.
#[test]
fn a_wrong_configuration_is_refused() {
    let broker = Broker::builder().grapnel_only().start();
    let error = broker.ctl_refused(&["plugins", "load", "tap", "--set", "groups=5"]);
    assert!(error.contains("the key groups is not known; did you mean groups_max?"), "{error}");
    let error = broker.ctl_refused(&["plugins", "load", "tap", "--set", "levels=0"]);
    assert!(error.contains("levels: must be at least 1"), "{error}");
    Client::hello(&broker, Version::V5, "after").ping();
}
