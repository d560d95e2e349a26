//! The number of a session for hooks: the same for all its connections, and another one for every
//! other session, so that a plugin knows what belongs to which.

use std::collections::BTreeSet;

use grapnel_engine::hook::{ChainTable, FaultPolicy, HookPoint};
use grapnel_engine::limits::SessionOwner;
use grapnel_engine::packet::{Packet, Property, QoS, Version};
use grapnel_engine::reason::ReasonCode;
use grapnel_engine::shard::Command;
use grapnel_plugin_abi::host::ClientIdentity;
use grapnel_plugin_abi::raw::{Field, Flow, Status};

use crate::hooks::{Call, Log, link, mount};
use crate::points::notified;
use crate::world::{ClientId, ConnectRequest, World};

/// The points at which one connection is let in, or refused.
const ENTRY: [HookPoint; 4] = [
    HookPoint::ClientConnect,
    HookPoint::ClientAuthenticate,
    HookPoint::ClientConnack,
    HookPoint::ClientConnected,
];

fn request(clean: bool) -> ConnectRequest<'static> {
    ConnectRequest { clean, properties: vec![Property::SessionExpiry(60)], ..ConnectRequest::v(Version::V5) }
}

fn number(call: &Call<'_>) -> String {
    match call.number(Field::SESSION) {
        Ok(number) => number.to_string(),
        Err(status) => {
            assert_eq!(status, Status::ABSENT);
            "-".into()
        }
    }
}

fn world() -> (World, Log) {
    let (mut world, log) = (World::new(1), Log::default());
    mount(&mut world, notified(&log, &ENTRY, number));
    (world, log)
}

/// Connects a client and returns the number at each of the four points.
fn enter(world: &mut World, log: &Log, request: &ConnectRequest<'_>) -> (ClientId, [String; 4]) {
    let client = world.connect("c", request);
    (client, log.take().try_into().expect("four points"))
}

#[test]
fn a_session_keeps_its_number_when_it_is_taken_over_or_resumed() {
    let (mut world, log) = world();
    let (_, first) = enter(&mut world, &log, &request(false));
    assert_eq!(first, ["-", "-", "1", "1"], "there is no session before");
    let (second, numbers) = enter(&mut world, &log, &request(false));
    assert_eq!(numbers, ["1"; 4], "taken over");
    world.disconnect(second, ReasonCode::SUCCESS);
    assert_eq!(enter(&mut world, &log, &request(false)).1, ["1"; 4], "resumed");
    // Another client has another session.
    world.connect("d", &request(false));
    assert_eq!(log.take(), ["-", "-", "2", "2"]);
}

#[test]
fn each_new_session_has_another_number() {
    let (mut world, log) = world();
    enter(&mut world, &log, &request(false));
    let (client, numbers) = enter(&mut world, &log, &request(true));
    assert_eq!(numbers, ["1", "1", "2", "2"], "clean start");
    world.disconnect(client, ReasonCode::SUCCESS);
    world.pass_ms(61_000);
    assert_eq!(enter(&mut world, &log, &request(false)).1, ["-", "-", "3", "3"], "expired");
    world.shards[0].command(Command::Kick {
        client_id: "c".into(),
        reason: ReasonCode::ADMINISTRATIVE_ACTION,
        discard: true,
    });
    world.drive();
    assert_eq!(enter(&mut world, &log, &request(false)).1, ["-", "-", "4", "4"], "ended by the operator");
    // MQTT 3.1.1: a session that ends with its connection.
    let v3 = ConnectRequest::v(Version::V311);
    let (client, numbers) = enter(&mut world, &log, &v3);
    assert_eq!(numbers, ["4", "4", "5", "5"]);
    let (_, numbers) = enter(&mut world, &log, &ConnectRequest { clean: false, ..v3 });
    assert_eq!(numbers, ["5", "5", "6", "6"], "it does not outlive its connection");
    assert!(world.is_closed(client));
}

/// Each shard numbers its own sessions.
#[test]
fn sessions_of_two_shards_have_different_numbers() {
    let (mut world, log) = (World::new(2), Log::default());
    for shard in &mut world.shards {
        shard.swap_chains(ChainTable::compile(1, notified(&log, &[HookPoint::ClientConnected], number)));
    }
    for n in 0..20 {
        world.connect(&format!("c{n}"), &request(false));
    }
    let numbers: BTreeSet<String> = log.take().into_iter().collect();
    let firsts = [1, 1 << 56 | 1].map(|first: u64| numbers.contains(&first.to_string()));
    assert_eq!((numbers.len(), firsts), (20, [true, true]));
}

/// A session that another principal's CONNECT ends has another number than the one that begins, and
/// a session that it inherits keeps its number.
#[test]
fn another_user_sees_the_number_of_the_session_that_it_gets() {
    let of = |username| ConnectRequest { username: Some(username), ..request(false) };
    for (owner, expected) in [(SessionOwner::Discard, "2"), (SessionOwner::Inherit, "1")] {
        let mut world = World::with(1, |limits| limits.choices.session_owner = owner);
        let log = Log::default();
        let allows = link(9, 0, FaultPolicy::Deny, |call: &mut Call<'_>| {
            call.set(Field::VERDICT, 1, "", "");
            Flow::CONTINUE
        });
        let mut links = notified(&log, &ENTRY, number);
        links.push((HookPoint::ClientAuthenticate, allows));
        mount(&mut world, links);
        enter(&mut world, &log, &of("ann"));
        assert_eq!(enter(&mut world, &log, &of("bob")).1, ["1", "1", expected, expected], "{owner:?}");
    }
}

/// A client that is refused has no session, whatever is stored under its identifier; nor has one
/// whose will is authorized.
#[test]
fn a_refused_client_has_no_session_number() {
    let (mut world, log) = world();
    let first = world.connect("c", &request(false));
    log.take();
    let points = [HookPoint::ClientAuthenticate, HookPoint::ClientAuthorize, HookPoint::ClientConnack];
    let mut links = notified(&log, &points, number);
    let denies = link(9, 0, FaultPolicy::Deny, |call: &mut Call<'_>| {
        call.set(Field::VERDICT, 2, "", "");
        Flow::STOP
    });
    links.push((HookPoint::ClientAuthorize, denies));
    mount(&mut world, links);
    let will = Some(("t", "gone", QoS::AtMostOnce, false));
    world.try_connect("c", &ConnectRequest { will, ..request(false) });
    assert_eq!(log.take(), ["1", "-", "-"]);
    // The session and its connection are as before.
    assert!(!world.is_closed(first));
    // A CONNACK that is too large for the client ends the login after its first CONNACK was shown.
    let large = link(1, 0, FaultPolicy::Ignore, |call: &mut Call<'_>| {
        call.set(Field::RESPONSE_INFO, 0, &"x".repeat(100), "");
        Flow::CONTINUE
    });
    let mut links = notified(&log, &[HookPoint::ClientConnack], number);
    links.push((HookPoint::ClientConnack, large));
    mount(&mut world, links);
    let properties = vec![Property::MaximumPacketSize(60), Property::RequestResponseInfo(true)];
    let (refused, _) =
        world.try_connect("e", &ConnectRequest { properties, ..ConnectRequest::v(Version::V5) });
    assert!(world.is_closed(refused));
    assert_eq!(log.take(), ["2", "-"]);
    world.connect("f", &request(false));
    assert_eq!(log.take(), ["3"], "a number is never given twice");
}

/// Every event of a client that is in has the number, and what a plugin stores of its identity.
#[test]
fn events_of_a_client_have_the_number_of_its_session() {
    let (mut world, log) = (World::new(1), Log::default());
    let points: Vec<_> = HookPoint::ALL
        .iter()
        .copied()
        .filter(|point| point.name().split('.').next() != Some("broker"))
        .collect();
    let say = |call: &Call<'_>| format!("{:?} {}", call.point(), number_or_none(call));
    mount(&mut world, notified(&log, &points, say));
    let client = world.connect("c", &request(false));
    log.take();
    world.subscribe(client, "t", QoS::AtLeastOnce);
    world.publish(client, "t", "x", QoS::AtLeastOnce, 1);
    world.ack(client, Packet::PubAck, 1);
    world.unsubscribe(client, "t");
    world.disconnect(client, ReasonCode::SUCCESS);
    world.pass_ms(61_000);
    let shown = log.take();
    for point in [
        HookPoint::ClientSubscribe,
        HookPoint::ClientAuthorize,
        HookPoint::SessionSubscribed,
        HookPoint::MessagePublish,
        HookPoint::MessageDelivered,
        HookPoint::MessageAcked,
        HookPoint::ClientUnsubscribe,
        HookPoint::PacketReceived,
        HookPoint::PacketSent,
        HookPoint::ClientDisconnected,
        HookPoint::SessionTerminated,
    ] {
        assert!(shown.contains(&format!("{point:?} 1")), "{point:?} is not among {shown:?}");
    }
    assert!(shown.iter().all(|line| line.ends_with(" 1")), "{shown:?}");
}

fn number_or_none(call: &Call<'_>) -> String {
    call.number(Field::SESSION).map_or_else(|status| format!("{status:?}"), |number| number.to_string())
}

#[test]
fn a_stored_identity_has_the_number() {
    let (mut world, log) = (World::new(1), Log::default());
    let say = |call: &Call<'_>| {
        let identity = call.identity().expect("the client is in");
        ClientIdentity::decode(&identity).expect("an identity").session.to_string()
    };
    mount(&mut world, notified(&log, &[HookPoint::MessagePublish], say));
    for name in ["a", "b"] {
        let client = world.connect(name, &request(false));
        world.publish(client, "t", "x", QoS::AtMostOnce, 0);
    }
    assert_eq!(log.take(), ["1", "2"]);
}
