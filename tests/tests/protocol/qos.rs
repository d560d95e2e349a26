//! The acknowledgements of QoS 1 and 2, packet by packet, and their windows.

use grapnel_tests::client::Event;
use grapnel_tests::wire::property::*;
use grapnel_tests::wire::{Ack, Value};
use grapnel_tests::{Broker, Client, Connect, PATIENCE, Packet, Publish, Version, scenario};

scenario! {
    /// Section 4.3.3, receiver side: a QoS 2 message takes effect once, however often its PUBLISH
    /// arrives before PUBREL ([MQTT-4.3.3-10]), and every PUBREL is answered ([MQTT-4.3.3-11]).
    fn a_repeated_qos_2_publish_is_one_message(broker, version) {
        let mut subscriber = Client::hello(broker, version, "s");
        subscriber.subscribe("t", 0);
        let mut publisher = Client::hello(broker, version, "p");
        let publish = Publish::new("t", "once").qos(2).id(9);
        let mut attempts = vec![publish.clone(), publish.clone().dup()];
        if !broker.mosquitto_differs("[MQTT-4.3.3-10]", "ends the connection at the second repetition") {
            attempts.push(publish.clone().dup());
        }
        for attempt in attempts {
            publisher.send_publish(&attempt);
            let Packet::Pubrec(ack) = publisher.receive() else { panic!("PUBREC expected") };
            assert_eq!((ack.id, ack.code & 0x80), (9, 0));
        }
        publisher.send_packet(&Packet::Pubrel(Ack::of(9)));
        assert_eq!(publisher.receive(), Packet::Pubcomp(Ack::of(9)));
        // After PUBREL the identifier is free: the same bytes are a new message.
        publisher.publish(&publish);
        publisher.publish(&Publish::new("t", "last"));
        let texts: Vec<String> = subscriber.messages_until("last").iter().map(Publish::text).collect();
        assert_eq!(texts, ["once", "once"]);
    }
}

scenario! {
    /// Section 3.7.2.1: PUBREL of an unknown identifier is answered with PUBCOMP 0x92 in MQTT 5,
    /// and with PUBCOMP before.
    fn a_pubrel_with_an_unknown_identifier_is_answered(broker, version) {
        let mut client = Client::hello(broker, version, "c");
        client.send_packet(&Packet::Pubrel(Ack::of(77)));
        let Packet::Pubcomp(ack) = client.receive() else { panic!("PUBCOMP expected") };
        assert_eq!(ack.id, 77);
        if version.is_5() && !broker.mosquitto_differs("section 3.7.2.1", "answers 0x00") {
            assert_eq!(ack.code, 0x92);
        }
        client.ping();
    }
}

scenario! {
    /// Section 3.5.2.1 and 3.4: acknowledgements with unknown identifiers do no harm; such a PUBREC
    /// gets PUBREL 0x92 in MQTT 5 (section 3.6.2.1).
    fn acknowledgements_with_unknown_identifiers_have_no_effect(broker, version) {
        let mut client = Client::hello(broker, version, "c");
        if broker.mosquitto_differs("section 4.13.2", "ends the connection") {
            return;
        }
        client.send_packet(&Packet::Puback(Ack::of(5)));
        client.send_packet(&Packet::Pubcomp(Ack::of(6)));
        client.ping();
        client.send_packet(&Packet::Pubrec(Ack::of(7)));
        if version.is_5() {
            let Packet::Pubrel(ack) = client.receive() else { panic!("PUBREL expected") };
            assert_eq!((ack.id, ack.code), (7, 0x92));
        }
        client.ping();
    }
}

scenario! {
    /// [MQTT-4.4.0-1], [MQTT-3.3.1-1]: on resume, unacknowledged PUBLISH and PUBREL are sent again,
    /// in order, with DUP and with their identifiers.
    fn a_resumed_session_resends_unacknowledged_messages(broker, version) {
        let connect = Connect::new(version, "resume").persistent();
        let mut subscriber = Client::connect(broker, &connect);
        subscriber.subscribe("t/#", 2);
        let mut publisher = Client::hello(broker, version, "p");
        for (qos, text) in [(1, "one"), (2, "two"), (2, "released"), (1, "four")] {
            publisher.publish(&Publish::new("t/x", text).qos(qos));
        }
        let first: Vec<Publish> = (0..4).map(|_| subscriber.receive_publish()).collect();
        let released = first[2].id.unwrap();
        subscriber.send_packet(&Packet::Pubrec(Ack::of(released)));
        let _: () = subscriber.receive_where("PUBREL", |p| matches!(p, Packet::Pubrel(a) if a.id == released).then_some(()));
        subscriber.drop_connection();

        let (mut subscriber, connack) = Client::attempt(broker, &connect);
        assert_eq!(connack.session_present, version != Version::V31);
        let mut again = Vec::new();
        let mut pubrel = None;
        while again.len() < 3 || pubrel.is_none() {
            match subscriber.receive() {
                Packet::Publish(publish) => again.push(publish),
                Packet::Pubrel(ack) => pubrel = Some(ack.id),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(pubrel, Some(released));
        let expected: Vec<&Publish> = [0, 1, 3].iter().map(|place| &first[*place]).collect();
        for (publish, earlier) in again.iter().zip(expected) {
            assert!(publish.dup, "[MQTT-3.3.1-1]");
            assert_eq!((&publish.id, &publish.payload, publish.qos), (&earlier.id, &earlier.payload, earlier.qos));
        }
        for publish in &again {
            subscriber.acknowledge(publish);
        }
        subscriber.send_packet(&Packet::Pubcomp(Ack::of(released)));
        subscriber.ping();
        subscriber.drop_connection();
        let mut subscriber = Client::connect(broker, &connect);
        subscriber.expect_no_message();
    }
}

scenario! {
    /// [MQTT-3.3.4-7], [MQTT-3.3.4-9]: the server has no more than Receive Maximum QoS 1 and 2
    /// messages in flight.
    fn the_clients_receive_maximum_is_respected(broker) {
        if broker.mosquitto_differs("[MQTT-3.3.4-9]", "fills the window anew after each acknowledgement") {
            return;
        }
        let connect = Connect::new(Version::V5, "narrow").with(RECEIVE_MAXIMUM, Value::U16(3));
        let mut subscriber = Client::connect(broker, &connect);
        subscriber.subscribe("t", 2);
        let mut publisher = Client::hello(broker, Version::V5, "p");
        for n in 0..20 {
            publisher.publish(&Publish::new("t", n.to_string()).qos(1 + n % 2));
        }
        let mut open: std::collections::VecDeque<Publish> = std::collections::VecDeque::new();
        for n in 0..20 {
            let publish = subscriber.receive_publish();
            assert_eq!(publish.text(), n.to_string(), "in order");
            open.push_back(publish);
            if open.len() == 3 {
                subscriber.expect_no_message();
                let oldest = open.pop_front().unwrap();
                subscriber.acknowledge(&oldest);
            }
        }
    }
}

scenario! {
    /// A full window does not block QoS 0: Receive Maximum limits QoS 1 and 2 only (section 3.3.4).
    fn qos_0_is_delivered_while_the_window_is_full(broker) {
        let connect = Connect::new(Version::V5, "narrow").with(RECEIVE_MAXIMUM, Value::U16(1));
        let mut subscriber = Client::connect(broker, &connect);
        subscriber.subscribe("t/#", 1);
        let mut publisher = Client::hello(broker, Version::V5, "p");
        publisher.publish(&Publish::new("t/1", "first").qos(1));
        publisher.publish(&Publish::new("t/1", "held").qos(1));
        publisher.publish(&Publish::new("t/0", "passes"));
        let first = subscriber.receive_publish();
        assert_eq!(first.text(), "first");
        assert_eq!(subscriber.receive_publish().text(), "passes");
        subscriber.acknowledge(&first);
        assert_eq!(subscriber.message().text(), "held");
    }
}

scenario! {
    /// [MQTT-3.3.4-7] in the other direction: more unacknowledged publishes than the server's
    /// Receive Maximum end the connection with 0x93. QoS 2 without PUBREL certainly stays
    /// unacknowledged.
    fn the_servers_receive_maximum_is_enforced(broker in Broker::builder().config("[limits]\nreceive_max = 5").mosquitto("max_inflight_messages 5")) {
        let (mut client, connack) = Client::attempt(broker, &Connect::new(Version::V5, "greedy"));
        if broker.mosquitto_differs("section 3.1.2.11.3", "announces and enforces its own maximum of QoS 2 loosely") {
            return;
        }
        assert_eq!(connack.properties.number(RECEIVE_MAXIMUM), Some(5));
        for id in 1..=5 {
            client.send_publish(&Publish::new("t", "x").qos(2).id(id));
        }
        for id in 1..=5 {
            client.receive_where("PUBREC", |p| matches!(p, Packet::Pubrec(ack) if ack.id == id).then_some(()));
        }
        client.ping();
        client.send_anyway(&Publish::new("t", "x").qos(2).id(6).encode(Version::V5));
        assert_eq!(client.end(), Some(0x93));
    }
}

scenario! {
    /// Section 4.9: each PUBCOMP (or PUBREC of 0x80 and above) frees one place, so that any number
    /// passes one by one.
    fn acknowledgements_open_the_window_again(broker in Broker::builder().config("[limits]\nreceive_max = 2\nawaiting_rel_max = 2")) {
        let mut client = Client::hello(broker, Version::V5, "patient");
        for n in 0..50u8 {
            assert_eq!(client.publish(&Publish::new("t", [n]).qos(1 + n % 2)) & 0x80, 0);
        }
        client.ping();
    }
}

scenario! {
    /// Section 3.4.2.1: 0x10 is allowed without subscribers; 0x00 is always right with one.
    fn a_message_without_subscribers_is_acknowledged(broker, version) {
        let mut client = Client::hello(broker, version, "lonely");
        for qos in [1, 2] {
            let code = client.publish(&Publish::new("nobody/here", "x").qos(qos));
            assert!([0x00, 0x10].contains(&code), "{code:#04x}");
        }
        client.subscribe("nobody/here", 0);
        assert_eq!(client.publish(&Publish::new("nobody/here", "x").qos(1)), 0);
    }
}

scenario! {
    /// [MQTT-3.3.1-3], [MQTT-4.3.1-1]: DUP of the publisher is not passed on, and each delivery of
    /// QoS 1 and 2 has its own identifier.
    fn dup_and_packet_identifiers_are_not_forwarded(broker, version) {
        let mut subscriber = Client::hello(broker, version, "s");
        subscriber.subscribe("t", 2);
        let mut publisher = Client::hello(broker, version, "p");
        publisher.publish(&Publish::new("t", "x").qos(1).id(4711).dup());
        let message = subscriber.message();
        assert!(!message.dup);
        publisher.publish(&Publish::new("t", "y").qos(2).id(4711).dup());
        assert!(!subscriber.message().dup);
    }
}

scenario! {
    /// [MQTT-2.2.1-4]: identifiers of messages in flight to one client differ.
    fn identifiers_in_flight_differ(broker, version) {
        let mut subscriber = Client::hello(broker, version, "s");
        subscriber.subscribe("t", 1);
        let mut publisher = Client::hello(broker, version, "p");
        for n in 0..20 {
            publisher.publish(&Publish::new("t", n.to_string()).qos(1));
        }
        let mut ids: Vec<u16> = (0..20).map(|_| subscriber.receive_publish().id.unwrap()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 20);
    }
}

scenario! {
    /// [MQTT-4.3.3-3] and section 4.3.3: PUBREC with a failure ends the exchange; the message is
    /// not sent again on resume.
    fn a_failed_pubrec_ends_the_delivery(broker) {
        let connect = Connect::new(Version::V5, "picky").persistent();
        let mut subscriber = Client::connect(broker, &connect);
        subscriber.subscribe("t", 2);
        let mut publisher = Client::hello(broker, Version::V5, "p");
        publisher.publish(&Publish::new("t", "refused").qos(2));
        let publish = subscriber.receive_publish();
        let refusal = Ack { code: 0x83, ..Ack::of(publish.id.unwrap()) };
        subscriber.send_packet(&Packet::Pubrec(refusal));
        subscriber.ping();
        assert!(!matches!(subscriber.next(std::time::Duration::from_millis(50)), Event::Packet(Packet::Pubrel(_))));
        subscriber.drop_connection();
        let mut subscriber = Client::connect(broker, &connect);
        subscriber.expect_no_message();
    }
}

scenario! {
    /// A pipelined burst from many publishers at once: no message is lost or duplicated, and each
    /// publisher's messages are in order.
    fn bursts_of_many_publishers_arrive_completely(broker, version) {
        let mut subscriber = Client::hello(broker, version, "s");
        subscriber.subscribe("burst/#", 1);
        let (publishers, each) = (8u32, 100u32);
        let mut clients: Vec<Client> =
            (0..publishers).map(|n| Client::hello(broker, version, &format!("p{n}"))).collect();
        for (n, client) in clients.iter_mut().enumerate() {
            // 20 at a time, which is within every broker's window.
            for chunk in 0..each / 20 {
                let burst: Vec<u8> = (0..20)
                    .flat_map(|k| {
                        let place = (chunk * 20 + k).to_string();
                        Publish::new(&format!("burst/{n}"), place).qos(1).id(k as u16 + 1).encode(version)
                    })
                    .collect();
                client.send(&burst);
                for _ in 0..20 {
                    client.receive_where("PUBACK", |p| matches!(p, Packet::Puback(_)).then_some(()));
                }
            }
        }
        let mut next = vec![0u32; publishers as usize];
        for _ in 0..publishers * each {
            let message = subscriber.message();
            let publisher: usize = message.topic["burst/".len()..].parse().unwrap();
            assert_eq!(message.text(), next[publisher].to_string(), "order of publisher {publisher}");
            next[publisher] += 1;
        }
        subscriber.expect_no_message();
    }
}

scenario! {
    /// mosquitto_pub -q 0 sends PUBLISH and DISCONNECT in one segment and closes: its message is
    /// delivered.
    fn a_publish_right_before_disconnect_is_delivered(broker, version) {
        let mut subscriber = Client::hello(broker, version, "s");
        subscriber.subscribe("t", 2);
        for round in 0..20 {
            let mut publisher = Client::dial(broker, version);
            let mut bytes = Connect::new(version, "hasty").encode();
            bytes.extend(Publish::new("t", round.to_string()).encode(version));
            bytes.extend([0xE0, 0]);
            publisher.send(&bytes);
            drop(publisher);
            assert_eq!(subscriber.message().text(), round.to_string());
        }
    }
}

scenario! {
    /// Section 4.4: after a lost connection a client may send the same QoS 1 publish again; both
    /// are acknowledged.
    fn a_resent_qos_1_publish_is_acknowledged_again(broker, version) {
        let connect = Connect::new(version, "again").persistent();
        let mut client = Client::connect(broker, &connect);
        client.send_publish(&Publish::new("t", "x").qos(1).id(3));
        client.drop_connection();
        let mut client = Client::connect(broker, &connect);
        client.send_publish(&Publish::new("t", "x").qos(1).id(3).dup());
        match client.next(PATIENCE) {
            Event::Packet(Packet::Puback(ack)) => assert_eq!(ack.id, 3),
            other => panic!("{other:?} instead of PUBACK"),
        }
    }
}

scenario! {
    /// A QoS 2 exchange survives the publisher's reconnect: PUBREL on the new connection completes
    /// it (section 4.4).
    fn a_qos_2_exchange_goes_on_after_a_reconnect(broker, version) {
        let mut subscriber = Client::hello(broker, version, "s");
        subscriber.subscribe("t", 2);
        let connect = Connect::new(version, "exchange").persistent();
        let mut client = Client::connect(broker, &connect);
        client.send_publish(&Publish::new("t", "once").qos(2).id(3));
        client.receive_where("PUBREC", |p| matches!(p, Packet::Pubrec(ack) if ack.id == 3).then_some(()));
        client.drop_connection();

        let mut client = Client::connect(broker, &connect);
        client.send_publish(&Publish::new("t", "once").qos(2).id(3).dup());
        client.receive_where("PUBREC", |p| matches!(p, Packet::Pubrec(ack) if ack.id == 3).then_some(()));
        client.send_packet(&Packet::Pubrel(Ack::of(3)));
        client.receive_where("PUBCOMP", |p| matches!(p, Packet::Pubcomp(ack) if ack.id == 3).then_some(()));
        client.publish(&Publish::new("t", "last"));
        assert_eq!(subscriber.messages_until("last").len(), 1);
    }
}
