//! A suspended plugin, disabled by the operator or tripped: its timers and instance messages wait
//! for it.

use grapnel_tests::{Broker, Client, PATIENCE, Publish, Version, plugin};

/// A timer and an instance message that come due while the plugin is suspended are delivered when
/// it is called again, once, and not before.
fn waits_while_suspended(rest: fn(&Broker, &mut Client), wake: &str) {
    // One shard, so that earlier due times there are delivered earlier.
    let broker =
        Broker::builder().grapnel_only().shards(1).config("[limits]\nbreaker_faults_max = 3\n").start();
    broker.ctl_ok(&["plugins", "load", "host-calls", "--once"]);
    broker.ctl_ok(&["plugins", "load", "delayed-publish", "--once"]);
    let mut client = Client::hello(&broker, Version::V5, "c");
    client.subscribe("came/#", 0);
    let next = |client: &mut Client| client.receive_publish().topic;

    client.publish(&Publish::new("host-calls/later", "10").qos(1));
    let mut received = [next(&mut client), next(&mut client)];
    received.sort();
    assert_eq!(received, ["came/message", "came/timer"], "that is what it does");

    client.publish(&Publish::new("host-calls/later", "1500").qos(1));
    rest(&broker, &mut client);
    // A timer of another plugin on the same shard, due after both.
    client.publish(&Publish::new("$delayed/3/came/clock", "x").qos(1));
    assert_eq!(next(&mut client), "came/clock");
    broker.ctl_ok(&["plugins", wake, "host-calls"]);
    assert_eq!([next(&mut client), next(&mut client)], ["came/message", "came/timer"]);
    client.expect_no_message();
}

#[test]
fn a_disabled_plugin_gets_its_timers_and_messages_when_it_is_enabled() {
    waits_while_suspended(|broker, _| drop(broker.ctl_ok(&["plugins", "disable", "host-calls"])), "enable");
}

#[test]
fn a_tripped_plugin_gets_its_timers_and_messages_when_it_is_armed_again() {
    let trip = |broker: &Broker, client: &mut Client| {
        for _ in 0..3 {
            assert!(client.publish(&Publish::new("host-calls/fail", "x").qos(1)) < 0x80);
        }
        let tripped = |line: &str| line.contains("the plugin is tripped").then_some(());
        broker.process().wait_for_line("tripped", PATIENCE, tripped);
    };
    waits_while_suspended(trip, "rearm");
}

/// A disabled plugin may still make requests on behalf of clients. Their answers have to be stored,
/// so there is a limit, from when it is disabled until it is enabled.
#[test]
fn a_disabled_plugin_requests_only_as_much_as_can_be_answered_later() {
    let broker =
        Broker::builder().grapnel_only().shards(1).config("[limits]\nbehalf_requests_max = 3\n").start();
    let file = plugin::library("verbs");
    broker.ctl_ok(&["plugins", "load", plugin::argument(&file), "--once"]);
    let call_verb = || broker.ctl_ok(&["verbs", "asks", "5"]);
    assert_eq!(call_verb(), "5");
    broker.ctl_ok(&["plugins", "disable", "verbs"]);
    assert_eq!((call_verb(), call_verb()), ("3".to_owned(), "0".to_owned()));
    broker.ctl_ok(&["plugins", "enable", "verbs"]);
    assert_eq!(call_verb(), "5");
}
