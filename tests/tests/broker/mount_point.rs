//! The mount point of a listener, from the configuration to the client.

use grapnel_tests::{Broker, Client, Connect, Publish, Version};
use serde_json::json;

#[test]
fn users_of_a_listener_have_topics_of_their_own() {
    let listeners = "[[listeners]]\nname = \"all\"\nbind = \"127.0.0.1:0\"\n\
                     [[listeners]]\nname = \"tenants\"\nbind = \"127.0.0.1:0\"\nmount_point = \"site/${username}/\"\n";
    let broker = Broker::builder().listen(&[]).config(listeners).start();
    let tenants = broker.addresses()[1];
    let mut all = Client::hello(&broker, Version::V5, "all");
    all.subscribe("#", 0);
    let named = |name: &str| Connect::new(Version::V5, name).login(name, "x");
    let (mut ann, connack) = Client::attempt_at(tenants, &named("ann"));
    assert_eq!(connack.code, 0);
    let (mut bob, _) = Client::attempt_at(tenants, &named("bob"));
    ann.subscribe("#", 0);
    bob.subscribe("#", 0);
    ann.publish(&Publish::new("t", "ann").qos(1));
    assert_eq!(all.message().topic, "site/ann/t");
    assert_eq!(ann.message().topic, "t");
    bob.publish(&Publish::new("t", "bob").qos(1));
    assert_eq!(bob.message().text(), "bob", "nothing of ann came before");
    let (_, nameless) = Client::attempt_at(tenants, &Connect::new(Version::V5, "c"));
    let (_, slash) = Client::attempt_at(tenants, &named("ann/x"));
    assert_eq!((nameless.code, slash.code), (0x86, 0x86));
    let shown = broker.ctl_json(&["clients", "show", "ann"]);
    assert_eq!(
        [&shown["listener"], &shown["transport"], &shown["tls"]],
        [&json!("tenants"), &json!("tcp"), &json!(null)]
    );
    let filters = broker.ctl_json(&["subscriptions", "list", "--client", "ann"]);
    assert_eq!(filters["subscriptions"][0]["filter"], "site/ann/#");
}
