//! A plugin reads the broker's retained messages on behalf of a client, page after page, of all
//! shards.

use grapnel_tests::{Broker, Client, Publish, Version};

#[test]
fn a_plugin_reads_only_messages_that_its_client_may_receive() {
    let broker = Broker::builder().grapnel_only().shards(2).start();
    let rules = broker.home().join("acl");
    std::fs::write(
        &rules,
        "topic deny secret/#\ntopic read came/#\ntopic read fetched/#\ntopic readwrite door/#\ntopic write host-calls/#\n",
    )
    .unwrap();
    broker.ctl_ok(&["plugins", "load", "host-calls", "--once"]);
    let mut client = Client::hello(&broker, Version::V5, "c");
    for n in 0..5 {
        for area in ["door", "secret"] {
            let message = Publish::new(&format!("{area}/{n}"), n.to_string()).qos(1).retain();
            assert!(client.publish(&message) < 0x80);
        }
    }
    broker.ctl_ok(&["plugins", "load", "acl-file", "--set", &format!("path={}", rules.display()), "--once"]);
    client.subscribe("came/#", 1);
    client.subscribe("fetched/#", 1);
    client.publish(&Publish::new("host-calls/fetch", "door/#").qos(1));
    let mut received = Vec::new();
    loop {
        let message = client.message();
        if message.topic == "came/end" {
            break;
        }
        assert!(message.topic.ends_with(&format!("/{}", message.text())), "{}", message.topic);
        received.push(message.topic);
    }
    received.sort();
    assert_eq!(
        received,
        ["fetched/door/0", "fetched/door/1", "fetched/door/2", "fetched/door/3", "fetched/door/4"]
    );
    // The client may not read everything of secret/#.
    client.publish(&Publish::new("host-calls/fetch", "secret/#").qos(1));
    let answer = client.message();
    assert_eq!((answer.topic.as_str(), answer.text().as_str()), ("came/answer", "135"));
    let metrics = broker.ctl_ok(&["metrics", "--json"]);
    assert!(metrics.contains("\"messages_fetched\""), "{metrics}");
}
