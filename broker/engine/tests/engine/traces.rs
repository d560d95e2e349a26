//! `trace client ID`: every packet of a traced client in one line, both ways, as many as `trace_lines_max`.

use grapnel_engine::packet::{Packet, QoS, SubscriptionOptions, Version};
use grapnel_engine::reason::ReasonCode;

use crate::world::{ConnectRequest, Got, World};

/// The lines since the last call, each with its direction, and the number of lost lines.
fn lines(world: &mut World, client_id: &str) -> (Vec<String>, u64) {
    let (lines, lost) = world.shards[0].trace_take(client_id);
    let text =
        lines.into_iter().map(|line| format!("{} {}", if line.inbound { ">" } else { "<" }, line.text));
    (text.collect(), lost)
}

#[test]
fn every_packet_of_a_traced_client_is_a_line() {
    let mut world = World::new(1);
    world.shards[0].trace_start("c");
    let will = Some(("will/topic", "gone", QoS::AtMostOnce, false));
    let client = world.connect(
        "c",
        &ConnectRequest { will, keep_alive_s: 60, username: Some("ann"), ..ConnectRequest::v(Version::V5) },
    );
    world.send_subscribe(client, "t", SubscriptionOptions::of_qos(QoS::ExactlyOnce), None);
    world.publish(client, "t", "hello", QoS::AtMostOnce, 0);
    world.publish(client, "t", "hello", QoS::ExactlyOnce, 5);
    world.ack(client, Packet::PubRel, 5);
    let received = world.take(client);
    let id =
        received.iter().rev().map(Got::id).find(|id| *id != 5).expect("a packet identifier of the broker's");
    world.ack(client, Packet::PubRec, id);
    world.ack(client, Packet::PubComp, id);
    world.unsubscribe(client, "t");
    world.send(client, &Packet::PingReq);
    world.disconnect(client, ReasonCode::DISCONNECT_WITH_WILL);
    let expected = [
        "> CONNECT v5 c1 k60 'c' user Some(\"ann\") will Some(\"will/topic\")",
        "< CONNACK rc00 session present false",
        "> SUBSCRIBE m7 't' q2",
        "< SUBACK m7 [02]",
        "> PUBLISH q0 r0 d0 m0 't' (5 bytes)",
        "< PUBLISH q0 r0 d0 m0 't' (5 bytes)",
        "> PUBLISH q2 r0 d0 m5 't' (5 bytes)",
        "< PUBLISH q2 r0 d0 m1 't' (5 bytes)",
        "< PUBREC m5 rc00",
        "> PUBREL m5 rc00",
        "< PUBCOMP m5 rc00",
        "> PUBREC m1 rc00",
        "< PUBREL m1 rc00",
        "> PUBCOMP m1 rc00",
        "> UNSUBSCRIBE m8 't'",
        "< UNSUBACK m8 [00]",
        "> PINGREQ",
        "< PINGRESP",
        "> DISCONNECT rc04",
    ];
    assert_eq!(lines(&mut world, "c"), (expected.map(str::to_owned).to_vec(), 0));
    assert_eq!(lines(&mut world, "c"), (Vec::new(), 0), "each line once");
}

#[test]
fn a_trace_covers_one_client_and_can_start_and_end_at_any_time() {
    let mut world = World::new(1);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    let other = world.connect("other", &ConnectRequest::v(Version::V5));
    world.shards[0].trace_start("c");
    world.send(client, &Packet::PingReq);
    world.send(other, &Packet::PingReq);
    let pinged = ["> PINGREQ", "< PINGRESP"].map(str::to_owned).to_vec();
    assert_eq!(lines(&mut world, "c"), (pinged, 0));
    assert_eq!(lines(&mut world, "other"), (Vec::new(), 0));
    // A protocol error is traced with its rule.
    world.send_bytes(client, &[0x00, 0]);
    let (broken, _) = lines(&mut world, "c");
    assert!(broken[0].starts_with("> (broken) "), "{broken:?}");
    world.shards[0].trace_stop("c");
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    world.shards[0].trace_start("c");
    world.shards[0].trace_stop("c");
    world.send(client, &Packet::PingReq);
    assert_eq!(lines(&mut world, "c"), (Vec::new(), 0));
}

#[test]
fn the_oldest_trace_lines_are_dropped_and_counted() {
    let mut world = World::with(1, |limits| limits.trace_lines_max = 4);
    let client = world.connect("c", &ConnectRequest::v(Version::V5));
    world.shards[0].trace_start("c");
    for _ in 0..2 {
        world.send(client, &Packet::PingReq);
    }
    assert_eq!(lines(&mut world, "c").1, 0, "four lines fit");
    for _ in 0..3 {
        world.send(client, &Packet::PingReq);
    }
    let (stored, lost) = lines(&mut world, "c");
    assert_eq!((stored.len(), lost), (4, 2));
    assert_eq!(lines(&mut world, "c").1, 0);
}
