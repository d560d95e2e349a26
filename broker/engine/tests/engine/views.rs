//! Views of the control plane: clients, sessions and subscriptions as rows, in pages.

use std::sync::Arc;

use grapnel_engine::packet::{Property, QoS, SubscriptionOptions, Version};
use grapnel_engine::shard::{ClientDetails, ClientSummary, Reading, SubscriptionRow, TlsFacts, Transport};

use crate::world::{ConnectRequest, World};

const V5: Version = Version::V5;

fn persistent<'a>() -> ConnectRequest<'a> {
    ConnectRequest { clean: false, properties: vec![Property::SessionExpiry(100)], ..ConnectRequest::v(V5) }
}

#[test]
#[allow(clippy::too_many_lines, reason = "one scenario")]
fn a_client_is_listed_with_its_current_values() {
    let mut world = World::with(1, |limits| limits.inflight_max = 2);
    let (created, came) = (world.now.wall_ms, world.now.wall_ms + 5_000);
    let first = world.connect("c", &persistent());
    world.lose(first);
    world.pass_ms(5_000);
    let request = ConnectRequest {
        keep_alive_s: 60,
        username: Some("ann"),
        properties: vec![
            Property::SessionExpiry(50),
            Property::ReceiveMaximum(9),
            Property::MaximumPacketSize(5_000),
            Property::TopicAliasMaximum(7),
        ],
        will: Some(("will", "gone", QoS::AtMostOnce, false)),
        ..persistent()
    };
    world.listener.transport = Transport::Wss;
    let tls = Arc::new(TlsFacts { version: "TLSv1.3".into(), ..TlsFacts::default() });
    let client = world.open(V5);
    assert!(world.identify(client, |peer| peer.tls = Some(Arc::clone(&tls))));
    world.send_connect(client, "c", &ConnectRequest { clean: true, ..request });
    world.forget(client);
    world.pass_ms(1_000);
    world.subscribe(client, "a", QoS::AtLeastOnce);
    world.subscribe(client, "b", QoS::AtLeastOnce);
    world.take(client);
    // Two in flight, one waiting, one too large for the client, and one of the client that waits
    // for its PUBREL.
    world.takes(client, Some(0));
    let publisher = world.connect("publisher", &ConnectRequest::v(V5));
    for packet_id in 1..=3 {
        world.publish(publisher, "a", "x", QoS::AtLeastOnce, packet_id);
    }
    world.publish(publisher, "a", &"x".repeat(6_000), QoS::AtMostOnce, 0);
    world.publish(client, "elsewhere", "x", QoS::ExactlyOnce, 1);
    world.shards[0].settle_memory();
    let details = world.shards[0].client("c").unwrap();
    assert!(details.memory_bytes > 500, "connection and session: {}", details.memory_bytes);
    let (outbound, peer) = (details.outbound_bytes, world.peer().peer);
    let summary = ClientSummary {
        client_id: "c".into(),
        username: Some("ann".into()),
        connected: true,
        peer,
        listener: Some("test".into()),
        transport: Some(Transport::Wss),
        tls: Some(tls),
        protocol: 5,
        keep_alive_s: 60,
        expiry_s: 50,
        since_ms: came,
        subscriptions: 2,
        inflight: 2,
        queued: 1,
        shard: 0,
    };
    let expected = ClientDetails {
        summary: summary.clone(),
        clean_start: true,
        receive_maximum: 9,
        packet_bytes_max: 5_000,
        topic_alias_max: 7,
        superuser: false,
        has_will: true,
        awaiting_rel: 1,
        slots: 0,
        outbound_bytes: outbound,
        memory_bytes: details.memory_bytes,
        reading: Some(Reading::Reading),
        dropped: 1,
        created_at_ms: came,
    };
    assert_eq!(details, expected);
    world.takes(client, None);
    assert_eq!(world.take_raw(client).len(), outbound);
    // The client disconnects.
    world.pass_ms(1_000);
    let left = world.now.wall_ms;
    world.lose(client);
    let away = world.shards[0].client("c").unwrap();
    let gone =
        ClientSummary { connected: false, peer: None, listener: None, transport: None, tls: None, ..summary };
    let summary = ClientSummary { since_ms: left, ..gone };
    assert_eq!(away.summary, summary);
    let nothing = (away.packet_bytes_max, away.topic_alias_max, away.outbound_bytes, away.reading);
    assert_eq!(nothing, (0, 0, 0, None));
    assert!((1..details.memory_bytes).contains(&away.memory_bytes));
    assert!(created < came && world.shards[0].client("nobody").is_none());
}

#[test]
fn a_client_without_maximum_packet_size_is_listed_without_it() {
    let mut world = World::new(1);
    world.connect("c", &ConnectRequest::v(V5));
    let details = world.shards[0].client("c").unwrap();
    assert_eq!((details.packet_bytes_max, details.has_will), (0, false));
}

#[test]
fn clients_and_subscriptions_are_listed_in_pages() {
    let mut world = World::new(1);
    let names: Vec<String> = (0..7).map(|n| format!("c{n}")).collect();
    for name in &names {
        let client = world.connect(name, &ConnectRequest::v(V5));
        world.subscribe(client, &format!("{name}/a"), QoS::AtMostOnce);
        world.subscribe(client, &format!("{name}/b"), QoS::AtMostOnce);
    }
    let mut seen = Vec::new();
    let mut cursor = Some(0);
    while let Some(place) = cursor {
        let (rows, next) = world.shards[0].clients(place, 3);
        assert!(rows.len() <= 3);
        assert!(next.is_none_or(|next| next > place && rows.len() == 3));
        seen.extend(rows.into_iter().map(|row| row.client_id));
        cursor = next;
    }
    seen.sort();
    assert_eq!(seen, names);
    // At least as many subscriptions as requested, of complete sessions.
    let mut seen = Vec::new();
    let mut cursor = Some(0);
    while let Some(place) = cursor {
        let (rows, next) = world.shards[0].subscriptions(None, place, 3);
        assert!(next.is_none_or(|next| next > place && rows.len() == 4));
        seen.extend(rows.into_iter().map(|row| row.filter));
        cursor = next;
    }
    seen.sort();
    let all: Vec<String> = names.iter().flat_map(|name| [format!("{name}/a"), format!("{name}/b")]).collect();
    assert_eq!(seen, all);
}

#[test]
fn a_subscription_is_listed_with_its_options() {
    let mut world = World::new(1);
    let client = world.connect("c", &ConnectRequest::v(V5));
    // QoS 1, No Local, Retain As Published, Retain Handling 2 (section 3.8.3.1).
    let options = SubscriptionOptions::from_byte(0b0010_1101).unwrap();
    world.subscribe_with(client, "a/#", options, Some(77));
    world.subscribe(client, "$share/g/b", QoS::ExactlyOnce);
    let row = SubscriptionRow {
        client_id: "c".into(),
        filter: "a/#".into(),
        qos: 1,
        no_local: true,
        retain_as_published: true,
        retain_handling: 2,
        subscription_id: 77,
        shard: 0,
    };
    let shared = SubscriptionRow {
        filter: "$share/g/b".into(),
        qos: 2,
        no_local: false,
        retain_as_published: false,
        retain_handling: 0,
        subscription_id: 0,
        ..row.clone()
    };
    let (mut rows, next) = world.shards[0].subscriptions(Some("c"), 0, 1);
    rows.sort_by(|a, b| b.filter.cmp(&a.filter));
    assert_eq!((rows, next), (vec![row, shared], None), "of one client all, whatever the limit");
    assert_eq!(world.shards[0].subscriptions(Some("nobody"), 0, 1), (Vec::new(), None));
}

#[test]
fn each_pause_reason_is_one_word() {
    use grapnel_engine::shard::Pause;
    assert_eq!(Reading::Reading.why(), None);
    let words = [Pause::Admission, Pause::Slots, Pause::Outbound, Pause::Memory]
        .map(|why| Reading::Paused(why).why());
    assert_eq!(words, [Some("admission"), Some("slots"), Some("outbound"), Some("memory")]);
}
