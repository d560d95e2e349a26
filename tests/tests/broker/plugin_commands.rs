//! Commands of an operator on a loaded plugin while clients publish: reload with its state,
//! configure, disable, enable.

use grapnel_tests::{Broker, Client, Publish, Version, scenario};

fn builder() -> grapnel_tests::broker::Builder {
    Broker::builder().grapnel_only()
}

/// Publishes one message and returns the count that the plugin stamped it with.
#[track_caller]
fn count(publisher: &mut Client, subscriber: &mut Client) -> Option<u64> {
    assert_eq!(publisher.publish(&Publish::new("t", "x").qos(1)), 0);
    subscriber.message().properties.user("count").first().map(|count| count.parse().unwrap())
}

scenario! {
    /// A publisher's count continues through reloads, configurations and a pause; every message is
    /// counted exactly once.
    fn a_plugin_keeps_its_state_while_it_is_reloaded_and_configured(broker in builder()) {
        let mut subscriber = Client::hello(broker, Version::V5, "s");
        subscriber.subscribe("t", 1);
        let mut publisher = Client::hello(broker, Version::V5, "p");
        let refused = broker.ctl_refused(&["plugins", "load", "stateful", "--once"]);
        assert!(refused.contains("it needs plugin noop, which is not loaded"), "{refused}");
        broker.ctl_ok(&["plugins", "load", "noop", "--once"]);
        broker.ctl_ok(&["plugins", "load", "stateful", "--once"]);
        let refused = broker.ctl_refused(&["plugins", "unload", "noop"]);
        assert!(refused.contains("cannot unload noop: it is needed by stateful"), "{refused}");
        for n in 1..=10 {
            assert_eq!(count(&mut publisher, &mut subscriber), Some(n));
            if n % 2 == 0 {
                broker.ctl_ok(&["plugins", "reload", "stateful"]);
            }
        }
        let done = broker.ctl_json(&["plugins", "configure", "stateful", "--set", "step=10"]);
        assert_eq!((&done["reloaded"], &done["plugin"]["generation"]), (&false.into(), &6.into()));
        assert_eq!(count(&mut publisher, &mut subscriber), Some(20));
        let output = broker.ctl_ok(&["plugins", "configure", "stateful", "--set", "fixed=1"]);
        assert!(output.contains("reloaded with its new configuration"), "{output}");
        assert_eq!(count(&mut publisher, &mut subscriber), Some(30));
        let refused = broker.ctl_refused(&["plugins", "configure", "stateful", "--set", "step=s3cret"]);
        assert!(refused.contains("step: the value is not of type") && !refused.contains("s3cret"), "{refused}");

        broker.ctl_ok(&["plugins", "disable", "stateful"]);
        assert!(broker.ctl_ok(&["plugins", "list"]).contains("disabled"));
        assert_eq!(count(&mut publisher, &mut subscriber), None);
        broker.ctl_ok(&["plugins", "enable", "stateful"]);
        assert_eq!(count(&mut publisher, &mut subscriber), Some(40));
        let shown = broker.ctl_ok(&["plugins", "show", "stateful"]);
        assert!(shown.contains("JSON Schema") && shown.contains("whole number, 0 to 1000000"), "{shown}");
        let output = broker.ctl_ok(&["plugins", "unload", "stateful"]);
        assert!(output.contains("KiB mapped"), "{output}");
        broker.ctl_ok(&["plugins", "unload", "noop"]);
    }
}

#[test]
fn a_disabled_plugin_is_disabled_after_a_restart() {
    let broker = builder().start();
    broker.ctl_ok(&["plugins", "load", "noop"]);
    broker.ctl_ok(&["plugins", "disable", "noop"]);
    let broker = builder().home(broker.stop()).start();
    assert_eq!(broker.ctl_json(&["plugins", "show", "noop"])["state"], "disabled");
    assert_eq!(broker.ctl_json(&["hooks", "list"])["rows"], serde_json::json!([]));
    broker.ctl_ok(&["plugins", "enable", "noop"]);
    let broker = builder().home(broker.stop()).start();
    assert_eq!(broker.ctl_json(&["plugins", "show", "noop"])["state"], "loaded");
}

/// Messages continue on several shards while the plugin is reloaded: every publisher's counts are
/// consecutive.
#[test]
fn counts_stay_exact_through_reloads_under_load() {
    let broker = builder().shards(2).start();
    broker.ctl_ok(&["plugins", "load", "noop", "--once"]);
    broker.ctl_ok(&["plugins", "load", "stateful", "--once"]);
    let mut subscriber = Client::hello(&broker, Version::V5, "s");
    subscriber.subscribe("t", 1);
    let mut publisher = Client::hello(&broker, Version::V5, "p");
    let rounds = 50_u64;
    let per_round = 10_u64;
    let mut next = 1;
    for round in 0..rounds {
        // Sent without a wait: they are under way during the reload.
        for n in 0..per_round {
            let id = (round * per_round + n) as u16 + 1;
            publisher.send_publish(&Publish::new("t", "x").qos(1).id(id));
        }
        if round % 5 == 0 {
            broker.ctl_ok(&["plugins", "reload", "stateful"]);
        }
        for _ in 0..per_round {
            let counts = subscriber.message().properties.user("count");
            assert_eq!(counts, [next.to_string()]);
            next += 1;
        }
    }
}
