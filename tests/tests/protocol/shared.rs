//! Shared subscriptions (section 4.8.2): each message to one member of each group, across shards.

use std::collections::BTreeMap;

use grapnel_tests::wire::Ack;
use grapnel_tests::{Broker, Client, Connect, Packet, Publish, Version, scenario};

/// Publishes `count` numbered messages. Returns which member received which, after an end marker
/// for every member.
fn spread(broker: &Broker, members: &mut [Client], topic: &str, count: usize) -> BTreeMap<usize, Vec<usize>> {
    for member in members.iter_mut() {
        member.subscribe("fence", 1);
    }
    let mut publisher = Client::hello(broker, Version::V5, "publisher");
    for n in 0..count {
        publisher.publish(&Publish::new(topic, n.to_string()).qos(1));
    }
    publisher.publish(&Publish::new("fence", "last").qos(1));
    let mut got = BTreeMap::new();
    for (place, member) in members.iter_mut().enumerate() {
        let mine = member.messages_until("last");
        got.insert(place, mine.iter().map(|m| m.text().parse().unwrap()).collect());
    }
    got
}

fn everything_once(got: &BTreeMap<usize, Vec<usize>>, count: usize) {
    let mut all: Vec<usize> = got.values().flatten().copied().collect();
    all.sort_unstable();
    assert_eq!(all, (0..count).collect::<Vec<usize>>(), "every message once");
}

scenario! {
    /// One group: every message to exactly one member, and each member receives some.
    fn a_group_splits_the_messages(broker) {
        let mut members: Vec<Client> = (0..6).map(|n| Client::hello(broker, Version::V5, &format!("m{n}"))).collect();
        for member in &mut members {
            member.subscribe("$share/g/work/+", 1);
        }
        let got = spread(broker, &mut members, "work/x", 600);
        everything_once(&got, 600);
        for (member, messages) in &got {
            assert!(messages.len() >= 20, "member {member} got {} of 600", messages.len());
            assert!(messages.is_sorted(), "order for one subscriber holds");
        }
    }
}

scenario! {
    /// Two groups and a plain subscriber: each group receives each message once, the plain one
    /// everything, and nothing twice ([MQTT-4.8.2-3]).
    fn groups_and_plain_subscribers_do_not_mix(broker) {
        let mut members: Vec<Client> = (0..8).map(|n| Client::hello(broker, Version::V5, &format!("m{n}"))).collect();
        for (n, member) in members.iter_mut().enumerate() {
            member.subscribe(if n % 2 == 0 { "$share/even/w" } else { "$share/odd/w" }, 1);
        }
        let mut plain = Client::hello(broker, Version::V5, "plain");
        plain.subscribe("w", 1);
        plain.subscribe("fence", 1);
        let got = spread(broker, &mut members, "w", 200);
        for parity in 0..2 {
            let group = got.iter().filter(|(n, _)| *n % 2 == parity).map(|(n, m)| (*n, m.clone())).collect();
            everything_once(&group, 200);
        }
        assert_eq!(plain.messages_until("last").len(), 200);
    }
}

scenario! {
    /// A client in a group with an additional plain subscription receives its share and the plain
    /// copy.
    fn a_member_may_subscribe_plainly_too(broker) {
        let mut members: Vec<Client> = (0..2).map(|n| Client::hello(broker, Version::V5, &format!("m{n}"))).collect();
        for member in &mut members {
            member.subscribe("$share/g/w", 1);
            member.subscribe("w", 1);
        }
        let got = spread(broker, &mut members, "w", 50);
        assert_eq!(got.values().map(Vec::len).sum::<usize>(), 150, "50 plain copies each and 50 shared");
    }
}

scenario! {
    /// Members that leave receive nothing more; the others take over their share.
    fn the_other_members_take_over_when_one_leaves(broker) {
        let mut members: Vec<Client> = (0..4).map(|n| Client::hello(broker, Version::V5, &format!("m{n}"))).collect();
        for member in &mut members {
            member.subscribe("$share/g/w", 1);
        }
        members.pop().unwrap().disconnect();
        members[0].unsubscribe(&["$share/g/w"]);
        let got = spread(broker, &mut members, "w", 100);
        everything_once(&got, 100);
        assert_eq!(got[&0], Vec::<usize>::new());
    }
}

scenario! {
    /// Section 4.8.2: a group with members of all versions; MQTT 3.1.1 clients may use $share as
    /// well.
    fn mqtt_3_clients_can_use_shared_subscriptions(broker) {
        let mut members: Vec<Client> =
            Version::ALL.iter().map(|version| Client::hello(broker, *version, &format!("{version:?}"))).collect();
        for member in &mut members {
            member.subscribe("$share/g/w", 1);
        }
        let got = spread(broker, &mut members, "w", 90);
        everything_once(&got, 90);
    }
}

scenario! {
    /// Unacknowledged QoS 1 messages of a member whose session ends go to another one
    /// ([MQTT-4.8.2-5]).
    fn unacknowledged_messages_of_an_ended_member_move_on(broker) {
        let mut leaver = Client::hello(broker, Version::V5, "leaver");
        leaver.subscribe("$share/g/w", 1);
        let mut publisher = Client::hello(broker, Version::V5, "p");
        for n in 0..5 {
            publisher.publish(&Publish::new("w", n.to_string()).qos(1));
        }
        let first = leaver.receive_publish();
        leaver.send_packet(&Packet::Puback(Ack::of(first.id.unwrap())));
        for _ in 1..5 {
            leaver.receive_publish();
        }
        leaver.ping();
        let mut stayer = Client::hello(broker, Version::V5, "stayer");
        stayer.subscribe("$share/g/w", 1);
        if broker.mosquitto_differs("[MQTT-4.8.2-5]", "drops what an ended member had not acknowledged") {
            return;
        }
        // Session expiry 0: the session ends with its connection.
        leaver.drop_connection();
        let mut got: Vec<String> = (1..5).map(|_| stayer.message().text()).collect();
        got.sort();
        assert_eq!(got, ["1", "2", "3", "4"]);
        stayer.expect_no_message();
    }
}

scenario! {
    /// An absent persistent member receives none of the group's messages while another one is
    /// connected.
    fn a_disconnected_member_is_skipped(broker) {
        let mut away = Client::connect(broker, &Connect::new(Version::V5, "away").persistent());
        away.subscribe("$share/g/w", 1);
        away.drop_connection();
        let mut here = Client::hello(broker, Version::V5, "here");
        here.subscribe("$share/g/w", 1);
        if broker.mosquitto_differs("section 4.8.2", "may queue for a member that is away") {
            return;
        }
        let got = spread(broker, std::slice::from_mut(&mut here), "w", 50);
        everything_once(&got, 50);
    }
}

scenario! {
    /// The group's name is part of the subscription: one client with the same filter in two groups
    /// receives two copies.
    fn one_client_in_two_groups_gets_both(broker) {
        let mut client = Client::hello(broker, Version::V5, "both");
        client.subscribe("$share/a/w", 1);
        client.subscribe("$share/b/w", 1);
        let got = spread(broker, std::slice::from_mut(&mut client), "w", 20);
        assert_eq!(got[&0].len(), 40);
    }
}
