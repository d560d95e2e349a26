//! The bundled plugin acl-file with real clients. The expectations about publishing are valid for
//! Mosquitto with the same file too: `GRAPNEL_TESTS_PEER=mosquitto` runs them there.

use std::time::Instant;

use grapnel_tests::{
    Broker, Client, Connect, PATIENCE, Peer, Publish, Subscribe, Version, Will, plugin, scenario,
};

/// Both brokers read the same file, which must exist before they start.
fn broker(shards: usize, text: &str) -> Option<(Broker, tempfile::TempDir)> {
    let dir = tempfile::tempdir().expect("a place for temporary files");
    let file = dir.path().join("acl");
    std::fs::write(&file, text).expect("the directory is ours");
    let path = plugin::argument(&file);
    let builder = Broker::builder()
        .config("[mqtt]\nallow_dollar_topics = true")
        .config(&format!("[plugins.acl-file]\nrequired = true\nconfig = {{ path = {path:?} }}"))
        .mosquitto(&format!("acl_file {path}"));
    Some((builder.start_with_shards(shards)?, dir))
}

/// The code of PUBACK; success is 0 or, without a subscriber, 0x10.
#[track_caller]
fn may_publish(broker: &Broker, id: &str, user: Option<&str>, topic: &str) -> bool {
    let mut connect = Connect::new(Version::V5, id);
    connect.username = user.map(str::to_owned);
    let mut client = Client::connect(broker, &connect);
    let code = client.publish(&Publish::new(topic, "").qos(1));
    client.disconnect();
    assert!([0, 0x10, 0x87].contains(&code), "{topic}: {code:#x}");
    code != 0x87
}

const FILE: &str = "\
# clients without a user name
topic readwrite public/#
topic deny public/secret
user ann
topic write own/#
topic read in/ann/#
topic deny own/+/locked
topic write name with spaces
pattern write by/%c/#
pattern write both/%u-%c
pattern deny own/open
user bob
topic write $private/#
";

#[test]
fn publishes_are_authorized_as_by_mosquitto() {
    for shards in [1, 2] {
        let Some((broker, _dir)) = broker(shards, FILE) else { continue };
        for (id, user, topic, expected) in [
            ("c", None, "public/x", true),
            ("c", None, "public/secret", false),
            ("c", None, "own/x", false),
            ("c", Some("ann"), "public/x", false),
            ("c", Some("ann"), "own/x", true),
            ("c", Some("ann"), "own/x/locked", false),
            ("c", Some("ann"), "in/ann/x", false),
            ("c", Some("ann"), "name with spaces", true),
            ("c", Some("ann"), "own/open", true),
            ("c", None, "by/c/1", true),
            ("c", None, "by/d/1", false),
            ("c", Some("ann"), "both/ann-c", true),
            ("c", None, "both/ann-c", false),
            ("c", Some("bob"), "$private/x", true),
            ("c", Some("bob"), "own/x", false),
            ("c#", Some("ann"), "own/x", true),
            ("c", Some("a+b"), "by/c/1", false),
        ] {
            assert_eq!(may_publish(&broker, id, user, topic), expected, "{id} {user:?} {topic}");
        }
    }
}

#[test]
fn a_subscription_needs_every_name_that_it_matches() {
    for (shards, version) in [(1, Version::V311), (2, Version::V5), (2, Version::V31)] {
        let Some((broker, _dir)) = broker(shards, FILE) else { continue };
        if broker.mosquitto_differs("acl_file", "it accepts every subscription and decides at each delivery")
        {
            return;
        }
        let refused = if version.is_5() { 0x87 } else { 0x80 };
        let mut connect = Connect::new(version, "c");
        connect.username = Some("ann".to_owned());
        let mut ann = Client::connect(&broker, &connect);
        let subscribe =
            Subscribe::to("in/ann/#", 1).and("in/#", 1).and("in/ann/+/x", 0).and("#", 2).and("own/#", 0);
        // SUBACK has no failure code in 3.1; clients understand that of 3.1.1.
        assert_eq!(ann.subscribe_all(&subscribe), [1, refused, 0, refused, refused]);
        let mut nobody = Client::hello(&broker, version, "nobody");
        let subscribe = Subscribe::to("public/open/#", 1).and("public/#", 1).and("public/+", 1);
        assert_eq!(nobody.subscribe_all(&subscribe), [1, refused, refused]);
        if version.is_5() {
            let subscribe = Subscribe::to("$share/g/public/open/#", 1).and("$share/g/public/#", 1);
            assert_eq!(nobody.subscribe_all(&subscribe), [1, 0x87]);
        }
        // Granted subscriptions deliver, and refused ones do not.
        let mut publisher = Client::hello(&broker, version, "publisher");
        publisher.publish(&Publish::new("public/other", "no").qos(1));
        publisher.publish(&Publish::new("public/open/1", "yes").qos(1));
        assert_eq!(nobody.message().text(), "yes");
    }
}

#[test]
fn a_will_is_authorized_too() {
    let Some((broker, _dir)) = broker(2, FILE) else { return };
    if broker.mosquitto_differs("acl_file", "it looks at a will when it is sent") {
        return;
    }
    for (topic, expected) in [("public/will", 0), ("public/secret", 0x87), ("own/x", 0x87)] {
        let connect = Connect::new(Version::V5, "dying").will(Will::new(topic, "gone"));
        assert_eq!(Client::attempt(&broker, &connect).1.code, expected, "{topic}");
    }
}

scenario! {
    /// New lines apply to later publishes; a file with a wrong line is not loaded, and the log
    /// names the line.
    fn a_changed_file_takes_effect(broker in Broker::builder().grapnel_only()) {
        let file = broker.home().join("acl");
        let replace = |text: &str| {
            let new = broker.home().join("acl.new");
            std::fs::write(&new, text).expect("the directory is ours");
            std::fs::rename(&new, &file).expect("the directory is ours");
        };
        replace("topic write a\n");
        broker.ctl_ok(&["plugins", "load", "acl-file", "--set", &format!("path={}", file.display())]);
        let mut client = Client::hello(broker, Version::V5, "client");
        let mut may = |topic: &str| client.publish(&Publish::new(topic, "").qos(1)) != 0x87;
        assert!(may("a") && !may("b"));
        replace("topic write b\n");
        let until = Instant::now() + PATIENCE;
        while !may("b") {
            assert!(Instant::now() < until, "the new file was not taken");
        }
        assert!(!may("a"));
        replace("topic write a\ntopic wriet b\n");
        let named = format!("{}:2: unknown access \"wriet\"", file.display());
        broker.process().wait_for_line("the wrong line", PATIENCE, |line| line.contains(&named).then_some(()));
        assert!(may("b") && !may("a"));
        broker.ctl_ok(&["plugins", "unload", "acl-file"]);
        assert!(may("a") && may("elsewhere"));
    }
}

#[test]
fn an_unusable_file_is_refused_and_named() {
    if Peer::chosen() == Peer::Mosquitto {
        return;
    }
    let broker = Broker::builder().start();
    let load = |set: &str| broker.ctl_refused(&["plugins", "load", "acl-file", "--set", set]);
    let file = broker.home().join("acl");
    std::fs::write(&file, "topic a\ntopics b\n").expect("the directory is ours");
    let error = load(&format!("path={}", file.display()));
    assert!(error.contains(&format!("{}:2: unknown word \"topics\"", file.display())), "{error}");
    let error = load("path=/nowhere/acl");
    assert!(error.contains("cannot read /nowhere/acl: No such file"), "{error}");
    Client::hello(&broker, Version::V5, "after").ping();
}

#[test]
fn a_subscription_is_revoked_when_its_line_is_removed() {
    if Peer::chosen() == Peer::Mosquitto {
        // It authorizes each message instead.
        return;
    }
    for shards in [1, 2] {
        let Some((broker, dir)) = broker(shards, "topic read a/#\ntopic read b/#\n") else { continue };
        let mut client = Client::hello(&broker, Version::V5, "reader");
        client.subscribe("a/#", 1);
        client.subscribe("b/#", 1);
        std::fs::write(dir.path().join("acl"), "topic read b/#\n").expect("the directory is ours");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rows = broker.ctl_ok(&["subscriptions", "list", "--client", "reader", "--json"]);
            if !rows.contains("a/#") {
                assert!(rows.contains("b/#"), "{rows}");
                break;
            }
            assert!(Instant::now() < deadline, "the subscription stays: {rows}");
        }
        client.disconnect();
    }
}
