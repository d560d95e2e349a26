//! Mount points: what the broker puts in front of the topics of a listener's clients, and takes off
//! again. Clients of one mount point must not reach the topics of another one.

use grapnel_engine::hook::{FaultPolicy, HookPoint, Link};
use grapnel_engine::limits::SessionOwner;
use grapnel_engine::packet::{Property, QoS, Version};
use grapnel_engine::reason::ReasonCode;
use grapnel_engine::shard::{BehalfClient, Command, MountPiece, MountPoint, OnBehalf, Scope};
use grapnel_plugin_abi::raw::{Field, Flow};

use crate::deferral::{DeferredTickets, later};
use crate::hooks::{Call, Log, complete, link, mount};
use crate::on_behalf::publish;
use crate::points::notified;
use crate::world::{ClientId, ConnectRequest, Got, World, message};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

fn text(text: &str) -> MountPiece {
    MountPiece::Text(text.into())
}

/// The listener of the next connections has the mount point `site/`, or none.
fn mounted(world: &mut World, prefix: Option<&str>) {
    world.listener.mount_point = prefix.map(|prefix| MountPoint::new([text(prefix)]));
}

fn by_user(world: &mut World) {
    world.listener.mount_point = Some(MountPoint::new([text("site/"), MountPiece::UserName, text("/")]));
}

fn stored(username: Option<&str>) -> ConnectRequest<'_> {
    let properties = vec![Property::SessionExpiry(1000)];
    ConnectRequest { clean: false, username, properties, ..ConnectRequest::v(Version::V5) }
}

/// A client without a mount point that gets everything, and one with `site/`.
fn pair(shards: usize, version: Version) -> (World, ClientId, ClientId) {
    let mut world = World::new(shards);
    let all = world.connect("all", &ConnectRequest::v(Version::V5));
    world.subscribe(all, "#", QoS::AtLeastOnce);
    mounted(&mut world, Some("site/"));
    let client = world.connect("client", &ConnectRequest::v(version));
    (world, all, client)
}

/// Mounts hooks, and lets the subscriptions in force be authorized by them before the log begins.
fn mount_settled(world: &mut World, links: Vec<(HookPoint, Link)>, log: &Log) {
    mount(world, links);
    world.drive();
    log.take();
}

fn filters(world: &World, client: &str) -> Vec<String> {
    let rows = world.shards.iter().flat_map(|shard| shard.subscriptions(Some(client), 0, 10).0);
    let mut filters: Vec<String> = rows.map(|row| row.filter).collect();
    filters.sort();
    filters
}

#[test]
fn a_client_sees_its_topics_without_their_mount_point() {
    for version in VERSIONS {
        for (shards, payload) in [(1, "x".to_owned()), (2, "x".to_owned()), (2, "x".repeat(5000))] {
            let (mut world, all, client) = pair(shards, version);
            assert_eq!(world.subscribe(client, "a/+", QoS::AtLeastOnce), [1]);
            assert_eq!(filters(&world, "client"), ["site/a/+"]);
            world.publish(client, "a/b", &payload, QoS::AtLeastOnce, 1);
            assert_eq!(world.take_plain(all), [message("site/a/b", &payload, 1)], "{version:?} {shards}");
            let got = world.take_plain(client);
            assert!(got.contains(&message("a/b", &payload, 1)), "{version:?} {shards}: {got:?}");
            world.publish(all, "site/a/c", &payload, QoS::AtMostOnce, 0);
            assert_eq!(world.take_plain(client), [message("a/c", &payload, 0)]);
            world.publish(all, "a/b", &payload, QoS::AtMostOnce, 0);
            assert_eq!(world.take(client), [], "it is not below the mount point");
            world.unsubscribe(client, "a/+");
            assert_eq!(filters(&world, "client"), [""; 0]);
            assert_eq!(world.take(client).len(), 1, "UNSUBACK");
        }
    }
}

/// Of one message, each client gets its own topic, whatever the others get.
#[test]
fn clients_of_several_mount_points_get_one_message() {
    let mut world = World::new(1);
    let mut clients = Vec::new();
    for (number, prefix) in
        [None, Some("a/"), Some("a/b/"), None, Some("a/"), Some("a/b/")].iter().enumerate()
    {
        mounted(&mut world, *prefix);
        let client = world.connect(&format!("c{number}"), &ConnectRequest::v(Version::V5));
        world.subscribe(client, "#", QoS::AtMostOnce);
        clients.push(client);
    }
    mounted(&mut world, None);
    let publisher = world.connect("publisher", &ConnectRequest::v(Version::V5));
    for payload in ["1", "2"] {
        world.publish(publisher, "a/b/c", payload, QoS::AtMostOnce, 0);
        for (client, topic) in clients.iter().zip(["a/b/c", "b/c", "c", "a/b/c", "b/c", "c"]) {
            assert_eq!(world.take_plain(*client), [message(topic, payload, 0)]);
        }
    }
}

#[test]
fn retained_and_queued_messages_and_wills_have_it_too() {
    let (mut world, all, client) = pair(2, Version::V5);
    world.publish_with(client, "r", "kept", QoS::AtLeastOnce, 1, true, &[]);
    world.forget(all);
    let other = world.connect("other", &stored(None));
    world.subscribe(other, "#", QoS::AtLeastOnce);
    let got = world.take_plain(other);
    let kept = |got: &Got| matches!(got, Got::Publish { topic, retain: true, .. } if topic == "r");
    assert!(got.len() == 1 && kept(&got[0]), "{got:?}");
    world.disconnect(other, ReasonCode::SUCCESS);
    world.publish(client, "q", "queued", QoS::AtLeastOnce, 2);
    let (other, _) = world.try_connect("other", &stored(None));
    let got = world.take_plain(other);
    assert!(got.contains(&message("q", "queued", 1)), "{got:?}");
    world.forget(all);
    let will = Some(("w", "gone", QoS::AtMostOnce, false));
    let dying = world.connect("dying", &ConnectRequest { will, ..ConnectRequest::v(Version::V311) });
    world.lose(dying);
    assert_eq!(world.take_plain(all), [message("site/w", "gone", 0)]);
}

#[test]
fn a_shared_subscription_keeps_its_share_name() {
    let (mut world, all, client) = pair(1, Version::V5);
    world.subscribe(client, "$share/g/a/#", QoS::AtMostOnce);
    assert_eq!(filters(&world, "client"), ["$share/g/site/a/#"]);
    world.publish(all, "site/a/b", "1", QoS::AtMostOnce, 0);
    assert_eq!(world.take_plain(client), [message("a/b", "1", 0)]);
    world.unsubscribe(client, "$share/g/a/#");
    assert_eq!(filters(&world, "client"), [""; 0]);
}

/// An alias stands for the topic as the client names it, in both directions.
#[test]
fn topic_aliases_are_of_the_topics_that_the_client_sees() {
    let (mut world, all, client) = pair(1, Version::V5);
    let alias = [Property::TopicAlias(1)];
    for topic in ["a", ""] {
        world.publish_with(client, topic, "x", QoS::AtMostOnce, 0, false, &alias);
        assert_eq!(world.take_plain(all), [message("site/a", "x", 0)]);
    }
    let properties = vec![Property::TopicAliasMaximum(5)];
    let aliased = world.connect("aliased", &ConnectRequest { properties, ..ConnectRequest::v(Version::V5) });
    world.subscribe(aliased, "#", QoS::AtMostOnce);
    for topic in ["a", ""] {
        world.publish(all, "site/a", "x", QoS::AtMostOnce, 0);
        assert_eq!(world.take_plain(aliased), [message(topic, "x", 0)]);
    }
}

/// `#` also matches the level above it. Such a topic has no name below the mount point, so it is
/// sent as it is, as in EMQX.
#[test]
fn the_mount_point_itself_is_sent_as_it_is() {
    let (mut world, all, client) = pair(1, Version::V5);
    world.subscribe(client, "#", QoS::AtMostOnce);
    for topic in ["site", "site/"] {
        world.publish(all, topic, "x", QoS::AtMostOnce, 0);
        assert_eq!(world.take_plain(client), [message(topic, "x", 0)]);
    }
}

#[test]
fn users_do_not_reach_each_other() {
    let mut world = World::new(2);
    by_user(&mut world);
    let named = |username| ConnectRequest { username: Some(username), ..ConnectRequest::v(Version::V5) };
    let ann = world.connect("ann", &named("ann"));
    let bob = world.connect("bob", &named("bob"));
    for client in [ann, bob] {
        for filter in ["#", "+/+", "../ann/#", "/ann/#", "site/ann/#", "$share/g/#"] {
            world.subscribe(client, filter, QoS::AtMostOnce);
        }
    }
    for topic in ["x", "/x", "site/bob/x", "../bob/x", "bob/x", "ann/x"] {
        world.publish(ann, topic, "x", QoS::AtMostOnce, 0);
        assert!(!world.take(ann).is_empty(), "{topic}");
        assert_eq!(world.take(bob), [], "{topic}");
    }
}

/// The login is refused, before any hook and for each version with the code for the name that is
/// wrong.
#[test]
fn a_name_that_leads_out_of_the_mount_point_is_refused() {
    let mut world = World::new(1);
    by_user(&mut world);
    let log = Log::default();
    let sees = notified(&log, &[HookPoint::ClientConnect], |call| call.client().to_owned());
    mount(&mut world, sees);
    for (version, code) in [(Version::V31, 5), (Version::V311, 5), (Version::V5, 0x86)] {
        for username in [None, Some(""), Some("a/b"), Some("+"), Some("#"), Some("a\u{1}")] {
            let request = ConnectRequest { username, ..ConnectRequest::v(version) };
            let (client, got) = world.try_connect("c", &request);
            assert_eq!(got, Some(Got::ConnAck { present: false, code }), "{version:?} {username:?}");
            assert!(world.is_closed(client));
        }
    }
    world.listener.mount_point = Some(MountPoint::new([MountPiece::ClientId, text("/")]));
    for (version, code) in [(Version::V31, 2), (Version::V311, 2), (Version::V5, 0x85)] {
        for id in ["a/b", "a+", "$SYS", "$share"] {
            let (_, got) = world.try_connect(id, &ConnectRequest::v(version));
            assert_eq!(got, Some(Got::ConnAck { present: false, code }), "{version:?} {id}");
        }
    }
    assert_eq!(log.take(), [""; 0], "no plugin was called");
    world.connect("", &ConnectRequest::v(Version::V5));
    assert_eq!(log.take().len(), 1, "an identifier of the broker is one like any other");
}

/// The limits hold for the topic as the broker stores it.
#[test]
fn a_topic_that_is_too_long_with_its_mount_point_is_refused() {
    let mut world = World::with(1, |limits| (limits.topic_bytes_max, limits.topic_levels_max) = (64, 3));
    mounted(&mut world, Some("site/"));
    let client = world.connect("client", &ConnectRequest::v(Version::V5));
    let fits = "x".repeat(59);
    let long = "x".repeat(60);
    for (number, (topic, code)) in
        [(&*fits, 0), (&*long, 0x90), ("a/b", 0), ("a/b/c", 0x90)].iter().enumerate()
    {
        let id = number as u16 + 1;
        world.publish(client, topic, "", QoS::AtLeastOnce, id);
        let code = if *code == 0 { 0x10 } else { *code };
        assert_eq!(world.take(client), [Got::Ack("PUBACK", id, code)], "{topic}");
        let subscribed = world.subscribe(client, topic, QoS::AtMostOnce);
        assert_eq!(subscribed, [if code == 0x90 { 0x8F } else { 0 }], "{topic}");
        world.unsubscribe(client, topic);
        world.take(client);
    }
    for (topic, code) in [(&*fits, 0), (&*long, 0x90)] {
        let will = Some((topic, "", QoS::AtMostOnce, false));
        let (_, got) = world.try_connect("w", &ConnectRequest { will, ..ConnectRequest::v(Version::V5) });
        assert_eq!(got, Some(Got::ConnAck { present: false, code }));
    }
}

/// Topics below `$` stay the server's, although they do not begin with it in the broker
/// [MQTT-4.7.2-1].
#[test]
fn a_topic_below_the_dollar_is_refused_as_without_a_mount_point() {
    let (mut world, all, client) = pair(1, Version::V5);
    world.publish(client, "$SYS/x", "", QoS::AtLeastOnce, 1);
    assert_eq!(world.take(client), [Got::Ack("PUBACK", 1, 0x87)]);
    let log = Log::default();
    let sees = notified(&log, &[HookPoint::MessagePublish], |call| call.topic().to_owned());
    mount(&mut world, sees);
    world.publish(client, "$SYS/x", "", QoS::AtLeastOnce, 2);
    assert_eq!(
        (world.take(client), log.take()),
        (vec![Got::Ack("PUBACK", 2, 0x87)], vec!["site/$SYS/x".into()])
    );
    assert_eq!(world.take(all), []);
}

/// client.authorize and client.subscribe see what the client has sent, all other points the topics
/// of the broker, as in EMQX.
#[test]
fn hooks_see_topics_as_in_emqx() {
    let (mut world, _, client) = pair(1, Version::V5);
    let log = Log::default();
    let points = [
        HookPoint::ClientSubscribe,
        HookPoint::ClientAuthorize,
        HookPoint::MessagePublish,
        HookPoint::MessageDelivered,
        HookPoint::SessionSubscribed,
        HookPoint::ClientUnsubscribe,
        HookPoint::SessionUnsubscribed,
    ];
    let say = |call: &Call<'_>| match call.point() {
        HookPoint::MessagePublish | HookPoint::MessageDelivered | HookPoint::ClientAuthorize => {
            format!("{} {}", call.point().name(), call.topic())
        }
        point => format!("{} {}", point.name(), call.text(Field::FILTER)),
    };
    let mut links = notified(&log, &points, say);
    links.iter_mut().for_each(|(_, link)| link.deliver = true);
    mount_settled(&mut world, links, &log);
    world.subscribe(client, "$share/g/a/#", QoS::AtMostOnce);
    assert_eq!(
        log.take(),
        ["client.subscribe $share/g/a/#", "client.authorize a/#", "session.subscribed $share/g/site/a/#"]
    );
    world.publish(client, "a/b", "", QoS::AtMostOnce, 0);
    let calls = log.take();
    for expected in ["client.authorize a/b", "message.publish site/a/b", "message.delivered site/a/b"] {
        assert!(calls.iter().any(|call| call == expected), "{expected} in {calls:?}");
    }
    assert_eq!(calls.iter().filter(|call| **call == "client.authorize a/b").count(), 2, "{calls:?}");
    world.unsubscribe(client, "$share/g/a/#");
    assert_eq!(log.take(), ["client.unsubscribe $share/g/a/#", "session.unsubscribed $share/g/site/a/#"]);
    let will = Some(("w", "gone", QoS::AtMostOnce, false));
    let dying = world.connect("dying", &ConnectRequest { will, ..ConnectRequest::v(Version::V5) });
    assert_eq!(log.take(), ["client.authorize w"]);
    world.lose(dying);
    assert_eq!(log.take()[0], "message.publish site/w");
}

/// What client.subscribe sets is the client's filter too, at once or later.
#[test]
fn a_filter_that_a_hook_has_set_gets_the_mount_point() {
    for defers in [false, true] {
        let (mut world, _, client) = pair(1, Version::V5);
        let tickets = DeferredTickets::default();
        let hook = match defers {
            true => later(1, 0, FaultPolicy::Deny, &tickets),
            false => link(1, 0, FaultPolicy::Deny, |_: &mut Call<'_>| Flow::CONTINUE),
        };
        mount(&mut world, vec![(HookPoint::ClientSubscribe, hook)]);
        world.send_subscribe(
            client,
            "a",
            grapnel_engine::packet::SubscriptionOptions::of_qos(QoS::AtMostOnce),
            None,
        );
        if defers {
            complete(&mut world, tickets.ticket(0), Flow::CONTINUE, vec![]);
        }
        assert_eq!(world.take(client), [Got::SubAck(7, vec![0])]);
        assert_eq!(filters(&world, "client"), ["site/a"]);
    }
}

/// Rules are about topics as clients name them, and so is a change of them.
#[test]
fn a_change_of_the_rules_is_about_the_topics_of_clients() {
    let (mut world, _, client) = pair(1, Version::V5);
    let log = Log::default();
    let asks = notified(&log, &[HookPoint::ClientAuthorize], |call| call.topic().to_owned());
    mount_settled(&mut world, asks, &log);
    world.subscribe(client, "$share/g/a/b", QoS::AtMostOnce);
    world.subscribe(client, "c", QoS::AtMostOnce);
    assert_eq!(log.take(), ["a/b", "c"]);
    for (changed, expected) in [("a/+", &["#", "a/b"][..]), ("site/#", &["#"]), ("#", &["#", "a/b", "c"])] {
        world.shards[0].invalidate(Scope::Topics(changed.into()));
        world.drive();
        // "#" is the filter of the client without a mount point, which any change is about.
        let mut asked = log.take();
        asked.sort();
        assert_eq!(asked, expected, "{changed}");
    }
}

/// A session that goes on at another listener keeps its subscriptions. What is not below the mount
/// point of the present connection is sent as it is, as in EMQX.
#[test]
fn a_session_may_go_on_with_another_mount_point() {
    let mut world = World::new(1);
    mounted(&mut world, Some("a/"));
    let client = world.connect("c", &stored(None));
    world.subscribe(client, "x", QoS::AtMostOnce);
    mounted(&mut world, Some("b/"));
    let (client, got) = world.try_connect("c", &stored(None));
    assert_eq!(got, Some(Got::ConnAck { present: true, code: 0 }));
    world.subscribe(client, "x", QoS::AtMostOnce);
    assert_eq!(filters(&world, "c"), ["a/x", "b/x"]);
    mounted(&mut world, None);
    let publisher = world.connect("p", &ConnectRequest::v(Version::V5));
    for (topic, seen) in [("a/x", "a/x"), ("b/x", "x")] {
        world.publish(publisher, topic, "", QoS::AtMostOnce, 0);
        assert_eq!(world.take_plain(client), [message(seen, "", 0)]);
    }
    let (client, _) = world.try_connect("c", &stored(None));
    world.publish(publisher, "b/x", "", QoS::AtMostOnce, 0);
    assert_eq!(world.take_plain(client), [message("b/x", "", 0)], "no mount point any more");
}

/// `session_owner = "inherit"`: another user inherits nothing from outside of its mount point, even
/// where the rules allow every name.
#[test]
fn another_user_inherits_nothing_from_another_mount_point() {
    for deliver in [false, true] {
        let mut world = World::with(1, |limits| limits.choices.session_owner = SessionOwner::Inherit);
        let log = Log::default();
        let asks = notified(&log, &[HookPoint::ClientAuthorize], |call| call.topic().to_owned());
        let asks = asks.into_iter().map(|(point, link)| (point, Link { deliver, ..link })).collect();
        mount_settled(&mut world, asks, &log);
        mounted(&mut world, Some("site/"));
        let ann = world.connect("c", &stored(Some("ann")));
        for filter in ["x", "bob/y", "$share/g/bob/z"] {
            world.subscribe(ann, filter, QoS::AtLeastOnce);
        }
        world.disconnect(ann, ReasonCode::SUCCESS);
        let publisher = world.connect("p", &ConnectRequest::v(Version::V5));
        world.publish(publisher, "x", "", QoS::AtLeastOnce, 1);
        world.publish(publisher, "bob/y", "", QoS::AtLeastOnce, 2);
        log.take();
        by_user(&mut world);
        let (bob, got) = world.try_connect("c", &stored(Some("bob")));
        assert_eq!(got, Some(Got::ConnAck { present: true, code: 0 }));
        assert_eq!(world.take_plain(bob), [message("y", "", 1)]);
        assert_eq!(filters(&world, "c"), ["$share/g/site/bob/z", "site/bob/y"]);
        // "#" is the filter of the client without a mount point, which any change is about.
        let mut asked = log.take();
        asked.sort();
        assert_eq!(asked, if deliver { &["y", "y", "z"][..] } else { &["y", "z"] });
    }
}

/// Plugins name topics as the broker has them. On behalf of a client they reach no further than the
/// client itself.
#[test]
fn a_request_on_behalf_of_a_client_stays_below_its_mount_point() {
    let (mut world, all, _) = pair(1, Version::V5);
    let log = Log::default();
    let asks = notified(&log, &[HookPoint::ClientAuthorize], |call| call.topic().to_owned());
    mount_settled(&mut world, asks, &log);
    for topic in ["site/a", "a", "site", "other/a"] {
        let request = OnBehalf {
            plugin: grapnel_engine::hook::PluginHandle(1),
            client: BehalfClient::Client("client".into()),
            answer: None,
            action: publish(topic),
        };
        world.shards[0].command(Command::As(Box::new(request)));
        world.drive();
    }
    assert_eq!(log.take(), ["a"]);
    let topics: Vec<String> = world
        .take(all)
        .into_iter()
        .map(|got| match got {
            Got::Publish { topic, .. } => topic,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(topics, ["site/a"]);
    let refused = std::mem::take(&mut world.shards[0].outbox().behalf_refused);
    assert!(
        refused.iter().all(|refused| refused.reason == ReasonCode::NOT_AUTHORIZED) && !refused.is_empty()
    );
}

/// A plugin may move a message out of the mount point. client.authorize then sees the whole topic.
#[test]
fn a_hook_may_move_a_message_out_of_the_mount_point() {
    let (mut world, all, client) = pair(1, Version::V5);
    let log = Log::default();
    let mut links = notified(&log, &[HookPoint::ClientAuthorize], |call| call.topic().to_owned());
    let moves = link(5, 0, FaultPolicy::Deny, |call: &mut Call<'_>| {
        call.set(Field::TOPIC, 0, if call.topic() == "site/a" { "alarms" } else { "site/b" }, "");
        Flow::CONTINUE
    });
    links.push((HookPoint::MessagePublish, moves));
    mount_settled(&mut world, links, &log);
    world.publish(client, "a", "", QoS::AtMostOnce, 0);
    world.publish(client, "c", "", QoS::AtMostOnce, 0);
    assert_eq!(log.take(), ["a", "alarms", "c", "b"]);
    assert_eq!(world.take_plain(all), [message("alarms", "", 0), message("site/b", "", 0)]);
}

/// The mount point is charged to the session. `World` compares the ledger with a fresh count.
#[test]
fn a_mount_point_is_charged() {
    let mut bytes = Vec::new();
    for prefix in [None, Some("s/"), Some("site/")] {
        let mut world = World::new(1);
        mounted(&mut world, prefix);
        world.connect("client", &ConnectRequest::v(Version::V5));
        world.shards[0].settle_memory();
        bytes.push(world.shards[0].ledger().total());
    }
    assert_eq!(bytes[2] - bytes[1], 3);
    assert!(bytes[1] > bytes[0]);
}
