//! Connecting and disconnecting in rare cases: AUTH rounds after deferred verdicts, tickets whose
//! client has gone, logins without a decision, packets that exceed the client's Maximum Packet
//! Size, wills and expiry at DISCONNECT (MQTT 5.0 sections 3.1, 3.2, 3.14, 4.12).

use std::sync::Arc;

use bytes::Bytes;
use grapnel_engine::hook::{FaultPolicy, HookPoint, Link};
use grapnel_engine::limits::Limits;
use grapnel_engine::packet::{Disconnect, Packet, Properties, Property, QoS, Version, push_property};
use grapnel_engine::reason::ReasonCode;
use grapnel_engine::shard::{OwnedChange, Pause, Reading, Totals};
use grapnel_plugin_abi::raw::{Field, Flow};

use crate::deferral::{DeferredTickets, allow, deny, later, send_auth};
use crate::hooks::{Call, Log, complete, link, mount, noting, number, pair};
use crate::world::{ClientId, ConnectRequest, Got, World, message};

const AUTHENTICATE: HookPoint = HookPoint::ClientAuthenticate;

/// A CONNECT with an authentication method.
fn method<'a>() -> ConnectRequest<'a> {
    ConnectRequest {
        properties: vec![Property::AuthMethod("M"), Property::AuthData(b"hello")],
        ..ConnectRequest::v(Version::V5)
    }
}

/// A verdict that requests another AUTH from the client, with this data.
fn another_round(data: &str) -> Vec<OwnedChange> {
    let bytes = Bytes::copy_from_slice(data.as_bytes());
    vec![OwnedChange { bytes, ..number(Field::AUTH_DATA, 0) }, number(Field::VERDICT, 3)]
}

fn next_auth(world: &mut World, client: ClientId, data: &str) {
    send_auth(world, client, ReasonCode::CONTINUE_AUTHENTICATION, "M", data);
}

/// A world that allows one waiting client. Its authenticator defers everything.
fn one_at_a_time() -> (World, DeferredTickets) {
    let mut world = World::with(1, |limits| limits.connects_pending_max = 1);
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(AUTHENTICATE, later(1, 0, FaultPolicy::Deny, &tickets))]);
    (world, tickets)
}

/// Connects a client; a deferred verdict then requests another AUTH from it.
fn requests_another_round(log: &mut World, tickets: &DeferredTickets) -> ClientId {
    let (client, first) = log.try_connect("c", &method());
    assert_eq!(first, None);
    complete(log, tickets.ticket(0), Flow::STOP, another_round("1?"));
    assert_eq!(log.take(client), [Got::Auth(0x18, "1?".into())]);
    client
}

/// Another client can still connect: the first client no longer uses its place.
fn there_is_room(world: &mut World, tickets: &DeferredTickets) {
    let (other, _) = world.try_connect("other", &method());
    let last = tickets.about().len() - 1;
    assert_eq!(tickets.about()[last], "other");
    complete(world, tickets.ticket(last), Flow::STOP, allow());
    assert_eq!(world.take(other), [Got::ConnAck { present: false, code: 0 }]);
}

/// An AUTH round that a deferred verdict requests continues like one requested at once
/// [MQTT-4.12.0-2].
#[test]
fn a_deferred_verdict_may_request_another_auth_round() {
    let (mut world, tickets) = one_at_a_time();
    let client = requests_another_round(&mut world, &tickets);
    for round in 1..3 {
        next_auth(&mut world, client, "again");
        assert_eq!(tickets.about().len(), round + 1, "the plugin is asked");
        complete(&mut world, tickets.ticket(round), Flow::STOP, another_round("2?"));
        assert_eq!(world.take(client), [Got::Auth(0x18, "2?".into())]);
    }
    next_auth(&mut world, client, "last");
    complete(&mut world, tickets.ticket(3), Flow::STOP, allow());
    world.send(client, &Packet::PingReq);
    assert_eq!(world.take(client), [Got::ConnAck { present: false, code: 0 }, Got::PingResp]);
    there_is_room(&mut world, &tickets);
}

/// The same where client.connect is deferred, and client.authenticate requests the round at once.
#[test]
fn an_auth_round_can_follow_a_deferred_client_connect() {
    let mut world = World::new(1);
    let tickets = DeferredTickets::default();
    let rounds = link(2, 0, FaultPolicy::Deny, |call: &mut Call<'_>| {
        let verdict = if call.get_text(Field::AUTH_DATA) == "hello" { 3 } else { 1 };
        call.set(Field::VERDICT, verdict, "", "");
        Flow::STOP
    });
    let first = later(1, 0, FaultPolicy::Ignore, &tickets);
    mount(&mut world, vec![(HookPoint::ClientConnect, first), (AUTHENTICATE, rounds)]);
    let (client, _) = world.try_connect("c", &method());
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
    assert_eq!(world.take(client), [Got::Auth(0x18, String::new())]);
    next_auth(&mut world, client, "again");
    assert_eq!(world.take(client), [Got::ConnAck { present: false, code: 0 }]);
}

/// A client with an outstanding AUTH round may close, break off or send another packet. Its place
/// is then free for others.
#[test]
fn a_client_may_close_during_a_deferred_auth_round() {
    let actions: [fn(&mut World, ClientId); 4] = [
        |world, client| world.lose(client),
        |world, client| world.disconnect(client, ReasonCode::SUCCESS),
        |world, client| world.publish(client, "t", "x", QoS::AtMostOnce, 0),
        |world, client| send_auth(world, client, ReasonCode::REAUTHENTICATE, "M", "x"),
    ];
    for go in actions {
        let (mut world, tickets) = one_at_a_time();
        let client = requests_another_round(&mut world, &tickets);
        go(&mut world, client);
        assert!(world.is_closed(client));
        there_is_room(&mut world, &tickets);
    }
}

/// A client that sends nothing is disconnected when the time for this round is over, regardless of
/// when its CONNECT arrived.
#[test]
fn each_auth_round_has_its_own_deadline() {
    let mut world = World::with(1, |limits| {
        limits.connects_pending_max = 1;
        limits.connect_timeout_ms = 1000;
    });
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(AUTHENTICATE, later(1, 0, FaultPolicy::Deny, &tickets))]);
    let (client, _) = world.try_connect("c", &method());
    world.pass_ms(900);
    complete(&mut world, tickets.ticket(0), Flow::STOP, another_round("1?"));
    world.pass_ms(900);
    assert!(!world.is_closed(client), "its time for CONNECT is not that of the round");
    next_auth(&mut world, client, "again");
    // A plugin has its own deadline.
    world.pass_ms(900);
    complete(&mut world, tickets.ticket(1), Flow::STOP, another_round("2?"));
    world.pass_ms(990);
    assert!(!world.is_closed(client));
    world.pass_ms(20);
    assert!(world.is_closed(client));
    there_is_room(&mut world, &tickets);
}

/// An AUTH that arrived in time counts, even if it was read late and begins one more round.
#[test]
fn an_auth_that_arrived_in_time_and_was_read_late_begins_a_round() {
    let mut world = World::with(1, |limits| limits.connect_timeout_ms = 1000);
    let rounds = link(1, 0, FaultPolicy::Deny, |call: &mut Call<'_>| {
        let verdict = if call.get_text(Field::AUTH_DATA) == "last" { 1 } else { 3 };
        call.set(Field::VERDICT, verdict, "", "");
        Flow::STOP
    });
    mount(&mut world, vec![(AUTHENTICATE, rounds)]);
    let (client, _) = world.try_connect("c", &method());
    let mut section = Vec::new();
    push_property(&mut section, Property::AuthMethod("M"));
    let mut unread = vec![0xF0, section.len() as u8 + 2, 0x18, section.len() as u8];
    unread.extend_from_slice(&section);
    world.hold_ms(1500, &[(client, &unread)]);
    assert!(!world.is_closed(client));
    world.take(client);
    next_auth(&mut world, client, "last");
    assert_eq!(world.take(client), [Got::ConnAck { present: false, code: 0 }]);
}

/// The ticket of a client that has gone is void: its place is free at once, and an answer to it is
/// stale, also if the places of the ticket and of the connection are used again.
#[test]
fn a_ticket_of_a_login_is_void_after_its_client_has_gone() {
    for point in [HookPoint::ClientConnect, AUTHENTICATE, HookPoint::ClientAuthorize] {
        for leaves in [false, true] {
            let mut world = World::with(1, |limits| limits.tickets_max = 1);
            let tickets = DeferredTickets::default();
            mount(&mut world, vec![(point, later(1, 0, FaultPolicy::Deny, &tickets))]);
            let will = Some(("w", "x", QoS::AtMostOnce, false));
            let (first, _) =
                world.try_connect("first", &ConnectRequest { will, ..ConnectRequest::v(Version::V5) });
            if leaves {
                world.lose(first);
            } else {
                complete(&mut world, tickets.ticket(0), Flow::STOP, deny(0x87));
            }
            let (second, _) =
                world.try_connect("second", &ConnectRequest { will, ..ConnectRequest::v(Version::V5) });
            assert_eq!(world.take(second), [], "{point:?}: it waits, as there is a ticket for it");
            let stale = world.shards[0].counters().tickets_stale;
            complete(&mut world, tickets.ticket(0), Flow::STOP, deny(0x8A));
            assert_eq!(world.shards[0].counters().tickets_stale, stale + 1, "{point:?}");
            assert_eq!(world.take(second), [], "{point:?}: what was said about another is nothing to it");
            complete(&mut world, tickets.ticket(1), Flow::STOP, allow());
            assert_eq!(world.take(second), [Got::ConnAck { present: false, code: 0 }], "{point:?}");
        }
    }
}

/// A connected MQTT 5 client whose authenticator defers re-authentication.
fn renewing(world: &mut World, tickets: &DeferredTickets) -> ClientId {
    mount(world, vec![(AUTHENTICATE, later(1, 0, FaultPolicy::Deny, tickets))]);
    let (client, _) = world.try_connect("c", &method());
    complete(world, tickets.ticket(0), Flow::STOP, allow());
    assert_eq!(world.take(client), [Got::ConnAck { present: false, code: 0 }]);
    send_auth(world, client, ReasonCode::REAUTHENTICATE, "M", "x");
    client
}

/// Re-authentication may have rounds from deferred verdicts, and its ticket ends with the
/// connection.
#[test]
fn a_reauthentication_may_take_several_rounds_and_may_be_abandoned() {
    let mut world = World::with(1, |limits| limits.tickets_max = 1);
    let tickets = DeferredTickets::default();
    let client = renewing(&mut world, &tickets);
    complete(&mut world, tickets.ticket(1), Flow::STOP, another_round("1?"));
    assert_eq!(world.take(client), [Got::Auth(0x18, "1?".into())]);
    next_auth(&mut world, client, "one");
    complete(&mut world, tickets.ticket(2), Flow::STOP, allow());
    assert_eq!(world.take(client), [Got::Auth(0, String::new())]);
    send_auth(&mut world, client, ReasonCode::REAUTHENTICATE, "M", "x");
    world.lose(client);
    complete(&mut world, tickets.ticket(3), Flow::STOP, allow());
    assert_eq!(world.shards[0].counters().tickets_stale, 1);
    there_is_room(&mut world, &tickets);
}

/// An AUTH of a re-authentication must arrive within the same time as a CONNECT; otherwise the
/// re-authentication has failed [MQTT-4.12.1-2].
#[test]
fn a_reauthentication_times_out() {
    let mut world = World::with(1, |limits| limits.connect_timeout_ms = 1000);
    let tickets = DeferredTickets::default();
    let client = renewing(&mut world, &tickets);
    world.pass_ms(500);
    complete(&mut world, tickets.ticket(1), Flow::STOP, another_round("1?"));
    world.take(client);
    world.pass_ms(900);
    world.send(client, &Packet::PingReq);
    assert_eq!(world.take(client), [Got::PingResp]);
    world.pass_ms(200);
    assert_eq!(world.take(client), [Got::Disconnect(0x87)]);
    assert!(world.is_closed(client));
}

/// A failed plugin or a missing answer has another code than a wrong password.
#[test]
fn an_undecided_login_has_its_own_reason_code() {
    for (version, code) in [(Version::V5, 0x88), (Version::V311, 3), (Version::V31, 3)] {
        let named = ConnectRequest { username: Some("u"), ..ConnectRequest::v(version) };
        // At once.
        let mut world = World::new(1);
        let fails = link(1, 0, FaultPolicy::Deny, |_| Flow::FAULT);
        mount(&mut world, vec![(AUTHENTICATE, fails)]);
        assert_eq!(world.try_connect("c", &named).1, Some(Got::ConnAck { present: false, code }));
        // Later, and never.
        for answers in [true, false] {
            let mut world = World::new(1);
            let tickets = DeferredTickets::default();
            // A reason string of an earlier link is no decision.
            let first = link(2, 1, FaultPolicy::Deny, |call: &mut Call<'_>| {
                call.set(Field::REASON_CODE, 0x8A, "", "");
                Flow::CONTINUE
            });
            let second = later(1, 0, FaultPolicy::Deny, &tickets);
            mount(&mut world, vec![(AUTHENTICATE, first), (AUTHENTICATE, second)]);
            let (client, _) = world.try_connect("c", &named);
            if answers {
                complete(&mut world, tickets.ticket(0), Flow::FAULT, Vec::new());
            } else {
                world.pass_ms(1_100);
            }
            assert_eq!(world.take(client), [Got::ConnAck { present: false, code }]);
        }
        // A link that refuses gives the reason.
        let mut world = World::new(1);
        let refuses = link(1, 0, FaultPolicy::Deny, |call: &mut Call<'_>| {
            call.set(Field::VERDICT, 2, "", "");
            Flow::STOP
        });
        mount(&mut world, vec![(AUTHENTICATE, refuses)]);
        let code = if version.is_v5() { 0x86 } else { 5 };
        assert_eq!(world.try_connect("c", &named).1, Some(Got::ConnAck { present: false, code }));
    }
}

/// DISCONNECT has no 0x88; 0x89 has the same meaning for a re-authentication.
#[test]
fn an_undecided_reauthentication_has_its_own_reason_code() {
    let mut world = World::new(1);
    let tickets = DeferredTickets::default();
    let client = renewing(&mut world, &tickets);
    world.pass_ms(1_100);
    assert_eq!(world.take(client), [Got::Disconnect(0x89)]);
}

/// With `allow_anonymous = false` no client is admitted without a plugin's Allow, with or without a
/// user name, whatever is mounted.
#[test]
fn no_client_is_admitted_without_an_allow() {
    type Mounts = fn() -> Vec<(HookPoint, Link)>;
    let silent: Mounts = || vec![(AUTHENTICATE, link(1, 0, FaultPolicy::Deny, |_| Flow::CONTINUE))];
    let broken: Mounts = || vec![(AUTHENTICATE, link(1, 0, FaultPolicy::Ignore, |_| Flow::FAULT))];
    let none: Mounts = Vec::new;
    for mounts in [none, silent, broken] {
        for (version, code) in [(Version::V5, 0x86), (Version::V311, 5), (Version::V31, 5)] {
            for username in [None, Some(""), Some("ann")] {
                let mut world = World::new(1);
                world.allow_anonymous = false;
                mount(&mut world, mounts());
                let (client, got) =
                    world.try_connect("c", &ConnectRequest { username, ..ConnectRequest::v(version) });
                assert_eq!(got, Some(Got::ConnAck { present: false, code }), "{version:?} {username:?}");
                assert!(world.is_closed(client));
                assert_eq!(world.shards[0].counters().client_auth_denied, 1);
            }
        }
    }
    let mut world = World::new(1);
    world.allow_anonymous = false;
    let allows = link(1, 0, FaultPolicy::Deny, |call: &mut Call<'_>| {
        call.set(Field::VERDICT, 1, "", "");
        Flow::STOP
    });
    mount(&mut world, vec![(AUTHENTICATE, allows)]);
    for username in [None, Some("ann")] {
        world.connect("c", &ConnectRequest { username, ..ConnectRequest::v(Version::V5) });
    }
}

/// A plugin that is tripped, or unloaded while its verdict is outstanding, admits no client.
#[test]
fn a_tripped_or_unloaded_authenticator_admits_nobody() {
    let mut world = World::with(1, |limits| limits.breaker_faults_max = 1);
    world.allow_anonymous = false;
    mount(&mut world, vec![(AUTHENTICATE, link(1, 0, FaultPolicy::Ignore, |_| Flow::FAULT))]);
    for _ in 0..3 {
        let (_, got) = world
            .try_connect("c", &ConnectRequest { username: Some("ann"), ..ConnectRequest::v(Version::V5) });
        assert_eq!(got, Some(Got::ConnAck { present: false, code: 0x86 }));
    }
    for (policy, code) in [(FaultPolicy::Ignore, 0x86), (FaultPolicy::Deny, 0x88)] {
        let mut world = World::new(1);
        world.allow_anonymous = false;
        let tickets = DeferredTickets::default();
        mount(&mut world, vec![(AUTHENTICATE, later(1, 0, policy, &tickets))]);
        let (client, _) = world
            .try_connect("c", &ConnectRequest { username: Some("ann"), ..ConnectRequest::v(Version::V5) });
        mount(&mut world, Vec::new());
        world.pass_ms(1_100);
        assert_eq!(world.take(client), [Got::ConnAck { present: false, code }]);
    }
}

/// Only a DISCONNECT with 0x00 deletes the will [MQTT-3.14.4-3], also if the DISCONNECT waits
/// behind a publish, and also if the socket closes after it.
#[test]
fn only_a_normal_disconnect_deletes_the_will() {
    let reasons = [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x8D, 0x93, 0x97, 0x98];
    for (reason, waits, lost) in
        reasons.into_iter().flat_map(|r| [(r, false, false), (r, true, false), (r, true, true)])
    {
        let (mut world, subscriber, _) = pair();
        let tickets = DeferredTickets::default();
        let log = Log::default();
        let seen = log.clone();
        let ended = link(2, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
            seen.note(format!("{:#04x}", call.event.reason_code));
            Flow::CONTINUE
        });
        let mut links = vec![(HookPoint::ClientDisconnected, ended)];
        if waits {
            links.push((HookPoint::MessagePublish, later(1, 0, FaultPolicy::Ignore, &tickets)));
        }
        mount(&mut world, links);
        let will = Some(("w", "gone", QoS::AtMostOnce, false));
        let client = world.connect("c", &ConnectRequest { will, ..ConnectRequest::v(Version::V5) });
        world.publish(client, "t", "x", QoS::AtMostOnce, 0);
        world.disconnect(client, ReasonCode(reason));
        if lost {
            world.lose(client);
        }
        let mut place = 0;
        while place < tickets.about().len() {
            complete(&mut world, tickets.ticket(place), Flow::CONTINUE, Vec::new());
            place += 1;
        }
        let mut expected = vec![message("t", "x", 0)];
        expected.extend((reason != 0).then(|| message("w", "gone", 0)));
        assert_eq!(world.take_plain(subscriber), expected, "{reason:#x} {waits} {lost}");
        assert_eq!(log.take(), [format!("{reason:#04x}")], "the hook is told what the client said");
    }
}

/// A publish belongs to its session, but a verdict to disconnect applies to the connection that
/// sent the publish.
#[test]
fn a_disconnect_verdict_applies_to_the_connection_of_the_publish() {
    for version in [Version::V311, Version::V5] {
        let mut world = World::new(1);
        let tickets = DeferredTickets::default();
        mount(&mut world, vec![(HookPoint::MessagePublish, later(1, 0, FaultPolicy::Ignore, &tickets))]);
        let properties = if version.is_v5() { vec![Property::SessionExpiry(100)] } else { Vec::new() };
        let request = ConnectRequest { clean: false, properties, ..ConnectRequest::v(version) };
        let first = world.connect("c", &request);
        world.publish(first, "t", "x", QoS::AtLeastOnce, 7);
        let second = world.connect("c", &request);
        assert!(world.is_closed(first));
        let disconnect = vec![number(Field::DISPOSITION, 3), number(Field::REASON_CODE, 0x97)];
        complete(&mut world, tickets.ticket(0), Flow::STOP, disconnect.clone());
        assert!(!world.is_closed(second), "it has done nothing");
        let refused = if version.is_v5() { 0x97 } else { 0 };
        assert_eq!(world.take(second), [Got::Ack("PUBACK", 7, refused)], "it may give the message up");
        // A connection that still exists is disconnected.
        world.publish(second, "t", "x", QoS::AtLeastOnce, 8);
        complete(&mut world, tickets.ticket(1), Flow::STOP, disconnect);
        assert!(world.is_closed(second));
    }
}

fn disconnect_with_expiry(world: &mut World, client: ClientId, expiry_s: u32) {
    let mut section = Vec::new();
    push_property(&mut section, Property::SessionExpiry(expiry_s));
    let properties = Properties::from_encoded(&section);
    world.send(client, &Packet::Disconnect(Disconnect { reason: ReasonCode::SUCCESS, properties }));
}

/// The expiry in CONNECT, not the granted one, decides whether DISCONNECT may set an expiry
/// [MQTT-3.14.2-2].
#[test]
fn the_expiry_at_disconnect_is_checked_against_connect() {
    // Requested expiry, maximum that is granted, whether DISCONNECT may set one.
    for (asked_s, max_s, may) in [(100, 0, true), (100, 1000, true), (0, 1000, false), (0, 0, false)] {
        for waits in [false, true] {
            let mut world = World::with(1, |limits| limits.session_expiry_max_s = max_s);
            let watcher = world.connect("watcher", &ConnectRequest::v(Version::V5));
            world.subscribe(watcher, "w", QoS::AtMostOnce);
            let tickets = DeferredTickets::default();
            if waits {
                let point = HookPoint::MessagePublish;
                mount(&mut world, vec![(point, later(1, 0, FaultPolicy::Ignore, &tickets))]);
            }
            let will = Some(("w", "gone", QoS::AtMostOnce, false));
            let properties = vec![Property::SessionExpiry(asked_s)];
            let client =
                world.connect("c", &ConnectRequest { will, properties, ..ConnectRequest::v(Version::V5) });
            if waits {
                world.publish(client, "t", "x", QoS::AtMostOnce, 0);
            }
            disconnect_with_expiry(&mut world, client, 50);
            if waits {
                complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
                mount(&mut world, Vec::new());
                if !may {
                    complete(
                        &mut world,
                        tickets.ticket(tickets.about().len() - 1),
                        Flow::CONTINUE,
                        Vec::new(),
                    );
                }
            }
            let got = world.take_plain(watcher);
            if may {
                assert_eq!(got, [], "{asked_s} {max_s} {waits}: the will is deleted");
                assert_eq!(world.take(client), []);
                let stored = world.shards[0].client("c").map(|client| client.summary.expiry_s);
                assert_eq!(stored, (max_s > 0).then_some(50));
            } else {
                assert_eq!(world.take(client), [Got::Disconnect(0x82)], "{asked_s} {max_s} {waits}");
                assert_eq!(got, [message("w", "gone", 0)]);
            }
        }
    }
}

/// A DISCONNECT that waits when its socket closes is also checked against its own CONNECT.
#[test]
fn the_expiry_of_a_waiting_disconnect_is_checked_against_its_connect() {
    for (asked_s, stays) in [(100, true), (0, false)] {
        let mut world = World::new(1);
        let tickets = DeferredTickets::default();
        let connect = link(2, 0, FaultPolicy::Ignore, |call: &mut Call<'_>| {
            // A plugin's change does not count as the value of CONNECT.
            call.set(Field::SESSION_EXPIRY_S, 200, "", "");
            Flow::CONTINUE
        });
        let publish = later(1, 0, FaultPolicy::Ignore, &tickets);
        mount(&mut world, vec![(HookPoint::ClientConnect, connect), (HookPoint::MessagePublish, publish)]);
        let request = ConnectRequest {
            properties: vec![Property::SessionExpiry(asked_s)],
            ..ConnectRequest::v(Version::V5)
        };
        let client = world.connect("c", &request);
        world.publish(client, "t", "x", QoS::AtMostOnce, 0);
        disconnect_with_expiry(&mut world, client, 50);
        world.lose(client);
        complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
        let stored = world.shards[0].client("c").map(|client| client.summary.expiry_s);
        assert_eq!(stored, Some(if stays { 50 } else { 200 }), "{asked_s}");
    }
}

/// A CONNECT with Maximum Packet Size 2, keep alive 60, client "a".
const SMALLEST: [u8; 21] = [
    0x10, 0x13, 0x00, 0x04, b'M', b'Q', b'T', b'T', 0x05, 0x02, 0x00, 0x3c, 0x05, 0x27, 0x00, 0x00, 0x00,
    0x02, 0x00, 0x01, b'a',
];

/// If CONNACK exceeds the Maximum Packet Size there is no connection [MQTT-3.2.0-1], and no session
/// is taken over.
#[test]
fn a_client_that_reads_no_connack_is_not_admitted() {
    let mut world = World::new(1);
    let first = world.connect("a", &ConnectRequest::v(Version::V5));
    let client = world.open(Version::V5);
    world.send_bytes(client, &SMALLEST);
    assert!(world.is_closed(client));
    assert_eq!(world.take_raw(client), Bytes::new());
    assert!(!world.is_closed(first), "its session is its own");
    assert_eq!(world.shards[0].counters().client_connected, 1);
    assert_eq!(world.shards[0].counters().packets_connack_sent, 1);
}

fn small<'a>(bytes_max: u32) -> ConnectRequest<'a> {
    ConnectRequest {
        properties: vec![Property::MaximumPacketSize(bytes_max)],
        ..ConnectRequest::v(Version::V5)
    }
}

/// If CONNACK is too large, only optional properties are left out [MQTT-3.2.2-19] [MQTT-3.2.2-20].
#[test]
fn a_connack_that_is_too_large_is_sent_without_optional_properties() {
    let mut world = World::new(1);
    let long = "x".repeat(100);
    let text = long.clone();
    let more = link(1, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
        call.set(Field::REASON_STRING, 0, &text, "");
        call.set(Field::USER_PROPERTY, 0, &text, "key");
        Flow::CONTINUE
    });
    mount(&mut world, vec![(HookPoint::ClientConnack, more)]);
    let (client, _) = world.try_connect("whole", &small(1000));
    let whole = world.shards[0].counters().bytes_sent;
    assert!(!world.is_closed(client) && whole > 200);
    let (client, _) = world.try_connect("short", &small(100));
    let short = world.shards[0].counters().bytes_sent - whole;
    assert!(!world.is_closed(client) && short < 100);
    // The shortest CONNACK fits exactly, and not with one byte less; a refusal needs 5.
    let (client, got) = world.try_connect("exact", &small(short as u32));
    assert_eq!(got, Some(Got::ConnAck { present: false, code: 0 }));
    assert!(!world.is_closed(client));
    for (bytes_max, notified) in [(short as u32 - 1, true), (5, true), (4, false)] {
        let (client, got) = world.try_connect("less", &small(bytes_max));
        let refused = notified.then_some(Got::ConnAck { present: false, code: 0x95 });
        assert_eq!((got, world.is_closed(client)), (refused, true), "{bytes_max}");
    }
    assert_eq!(world.shards[0].clients(0, 10).0.len(), 3, "no session is left of it");
}

/// A refusal also observes the client's Maximum Packet Size, whatever refuses: it has at least 5
/// bytes, so that a client with 4 gets none.
#[test]
fn a_refusing_connack_is_no_larger_than_the_client_allows() {
    for (bytes_max, notified) in [(100, true), (5, true), (4, false)] {
        let mut world = World::with(1, |limits| limits.client_id_bytes_max = 23);
        let long = "x".repeat(200);
        let more = link(1, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
            call.set(Field::USER_PROPERTY, 0, &long, "key");
            Flow::CONTINUE
        });
        mount(&mut world, vec![(HookPoint::ClientConnack, more)]);
        let (client, got) = world.try_connect(&"c".repeat(24), &small(bytes_max));
        assert_eq!(got, notified.then_some(Got::ConnAck { present: false, code: 0x85 }), "{bytes_max}");
        assert!(world.is_closed(client));
    }
}

/// A DISCONNECT that is too large loses its reason string [MQTT-3.14.2-3]; a client with 2 bytes
/// gets none.
#[test]
fn a_disconnect_that_is_too_large_is_sent_without_its_reason_string() {
    // Packet type 13 with wrong flags [MQTT-2.1.3-1].
    let broken = [0xD1, 0x00];
    for bytes_max in [30, 20, 19] {
        let mut world = World::with(1, |limits| limits.topic_alias_max = 0);
        let client = world.connect("c", &small(bytes_max));
        world.send_bytes(client, &broken);
        assert_eq!(world.take_raw(client).as_ref(), [0xE0, 0x01, 0x82], "{bytes_max}");
        assert!(world.is_closed(client));
    }
    let mut world = World::new(1);
    let client = world.connect("c", &small(1000));
    world.send_bytes(client, &broken);
    let raw = world.take_raw(client);
    assert!(raw.len() > 20 && raw[0] == 0xE0 && raw[2] == 0x82, "with room it says why");
}

/// If an AUTH does not fit, the connection ends and does not wait.
#[test]
fn an_auth_that_does_not_fit_ends_the_connection() {
    let mut world = World::new(1);
    let long = "x".repeat(200);
    let authenticator = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        let renews = call.get_text(Field::AUTH_DATA) == "renew";
        call.set(Field::AUTH_DATA, 0, if renews { &long } else { "" }, "");
        call.set(Field::VERDICT, if renews { 3 } else { 1 }, "", "");
        Flow::STOP
    });
    mount(&mut world, vec![(AUTHENTICATE, authenticator)]);
    let with = |data: &'static [u8]| ConnectRequest {
        properties: vec![
            Property::AuthMethod("M"),
            Property::AuthData(data),
            Property::MaximumPacketSize(100),
        ],
        ..ConnectRequest::v(Version::V5)
    };
    let (client, got) = world.try_connect("a", &with(b"renew"));
    assert_eq!(got, Some(Got::ConnAck { present: false, code: 0x95 }));
    assert!(world.is_closed(client));
    let client = world.connect("b", &with(b"come in"));
    send_auth(&mut world, client, ReasonCode::REAUTHENTICATE, "M", "renew");
    assert_eq!(world.take(client), [Got::Disconnect(0x95)]);
    assert!(world.is_closed(client));
}

/// A client that the authenticator refuses takes over no session.
#[test]
fn a_refused_client_takes_over_no_session() {
    let mut world = World::new(1);
    let guard = link(1, 0, FaultPolicy::Deny, |call: &mut Call<'_>| {
        let ann = call.get_text(Field::USERNAME) == "ann";
        call.set(Field::VERDICT, if ann { 1 } else { 2 }, "", "");
        Flow::STOP
    });
    let log = Log::default();
    let notified = link(2, 0, FaultPolicy::Ignore, noting(&log, "taken over", Flow::CONTINUE));
    let discarded = link(3, 0, FaultPolicy::Ignore, noting(&log, "discarded", Flow::CONTINUE));
    mount(
        &mut world,
        vec![
            (AUTHENTICATE, guard),
            (HookPoint::SessionTakenover, notified),
            (HookPoint::SessionDiscarded, discarded),
        ],
    );
    for clean in [false, true] {
        let properties = vec![Property::SessionExpiry(100)];
        let request = |username| ConnectRequest {
            clean,
            username,
            properties: properties.clone(),
            ..ConnectRequest::v(Version::V5)
        };
        let ann = world.connect("dashboard", &request(Some("ann")));
        log.take();
        for username in [None, Some("bob")] {
            let (_, got) = world.try_connect("dashboard", &request(username));
            assert_eq!(got, Some(Got::ConnAck { present: false, code: 0x86 }));
        }
        assert!(!world.is_closed(ann));
        assert_eq!(log.take(), Vec::<String>::new());
    }
}

/// Settings decide whether the broker assigns client identifiers, and with which prefix
/// [MQTT-3.1.3-6].
#[test]
fn an_empty_client_identifier_is_replaced_or_refused_by_the_settings() {
    for (version, refused) in [(Version::V5, 0x85), (Version::V311, 2)] {
        let mut world = World::with(2, |limits| {
            assert!(limits.choices.allow_empty_client_id, "the default");
            assert_eq!(&*limits.choices.assigned_client_id_prefix, "grapnel-", "the default");
            limits.choices.assigned_client_id_prefix = "fleet.".into();
        });
        for _ in 0..2 {
            world.connect("", &ConnectRequest::v(version));
        }
        let ids: Vec<String> =
            world.shards.iter().flat_map(|shard| shard.clients(0, 10).0).map(|row| row.client_id).collect();
        assert!(ids.len() == 2 && ids[0] != ids[1], "{ids:?}");
        assert!(ids.iter().all(|id| id.starts_with("fleet.") && id.len() == 30), "{ids:?}");
        let mut world = World::with(2, |limits| limits.choices.allow_empty_client_id = false);
        let (client, got) = world.try_connect("", &ConnectRequest::v(version));
        assert_eq!(got, Some(Got::ConnAck { present: false, code: refused }));
        assert!(world.is_closed(client));
        world.connect("c", &ConnectRequest::v(version));
    }
}

/// Shards with common counters.
fn together(shards: usize, change: impl FnOnce(&mut Limits)) -> World {
    let mut world = World::with(shards, change);
    let totals = Arc::new(Totals::default());
    world.shards.iter_mut().for_each(|shard| shard.share_totals(Arc::clone(&totals)));
    world
}

/// All shards together have a limit of connections. A connection that moves to its home shard
/// counts once, and one that ends frees its place.
#[test]
fn connections_are_limited_over_all_shards() {
    let mut world = together(4, |limits| limits.connections_total_max = 3);
    let clients: Vec<ClientId> =
        (0..3).map(|n| world.connect(&format!("client {n}"), &ConnectRequest::v(Version::V5))).collect();
    let peer = world.peer();
    for shard in &mut world.shards {
        assert!(shard.open(peer.clone()).is_none(), "there are three");
        assert_eq!(shard.counters().connections_refused, 1);
    }
    world.disconnect(clients[0], ReasonCode::SUCCESS);
    world.lose(clients[1]);
    assert!(world.shards[0].open(peer.clone()).is_some());
    assert!(world.shards[3].open(peer.clone()).is_some());
    assert!(world.shards[1].open(peer).is_none());
}

/// All shards together have a limit of sessions. A client that resumes or replaces its own session
/// needs no free place, and loses nothing if there is none.
#[test]
fn sessions_are_limited_over_all_shards() {
    let stored = |clean| ConnectRequest {
        clean,
        properties: vec![Property::SessionExpiry(100)],
        ..ConnectRequest::v(Version::V5)
    };
    for (mut world, shards) in [
        (together(4, |limits| limits.sessions_total_max = 3), 4),
        (together(1, |limits| limits.sessions_max = 3), 1),
    ] {
        let clients: Vec<ClientId> =
            (0..3).map(|n| world.connect(&format!("client {n}"), &stored(false))).collect();
        let (other, got) = world.try_connect("other", &stored(false));
        assert_eq!(got, Some(Got::ConnAck { present: false, code: 0x89 }), "{shards}");
        assert!(world.is_closed(other));
        world.disconnect(clients[0], ReasonCode::SUCCESS);
        let (_, got) = world.try_connect("other", &stored(false));
        assert_eq!(got, Some(Got::ConnAck { present: false, code: 0x89 }), "a stored one counts");
        let (_, got) = world.try_connect("client 0", &stored(false));
        assert_eq!(got, Some(Got::ConnAck { present: true, code: 0 }));
        // A client can replace its own session repeatedly.
        for _ in 0..3 {
            let (_, got) = world.try_connect("client 1", &stored(true));
            assert_eq!(got, Some(Got::ConnAck { present: false, code: 0 }), "{shards}");
        }
        let refused: u64 = world.shards.iter_mut().map(|shard| shard.counters().sessions_refused).sum();
        assert_eq!(refused, 2);
        let (client, _) = world.try_connect("client 2", &ConnectRequest::v(Version::V5));
        world.disconnect(client, ReasonCode::SUCCESS);
        let (_, got) = world.try_connect("other", &stored(false));
        assert_eq!(got, Some(Got::ConnAck { present: false, code: 0 }), "{shards}");
    }
}

/// A verdict on a re-authentication ends the chain if it says so; otherwise the next links see it.
#[test]
fn a_reauthentication_continues_with_later_links_or_ends() {
    for (flow, behind) in [(Flow::STOP, 0), (Flow::CONTINUE, 1)] {
        let mut world = World::new(1);
        let tickets = DeferredTickets::default();
        let client = renewing(&mut world, &tickets);
        complete(&mut world, tickets.ticket(1), Flow::STOP, allow());
        world.forget(client);
        let log = Log::default();
        let last = link(2, -1, FaultPolicy::Deny, noting(&log, "behind", Flow::CONTINUE));
        mount(
            &mut world,
            vec![(AUTHENTICATE, later(1, 0, FaultPolicy::Deny, &tickets)), (AUTHENTICATE, last)],
        );
        send_auth(&mut world, client, ReasonCode::REAUTHENTICATE, "M", "x");
        complete(&mut world, tickets.ticket(2), flow, allow());
        assert_eq!(world.take(client), [Got::Auth(0, String::new())]);
        assert_eq!(log.take().len(), behind);
    }
}

/// The time for an AUTH does not end while its client is paused: it begins again after that.
#[test]
fn a_reauthentication_has_a_deadline_whatever_its_client_sends() {
    let mut world = World::with(1, |limits| {
        limits.connect_timeout_ms = 1000;
        limits.defer_window = 1;
    });
    let tickets = DeferredTickets::default();
    let client = renewing(&mut world, &tickets);
    complete(&mut world, tickets.ticket(1), Flow::STOP, another_round("1?"));
    world.forget(client);
    mount(
        &mut world,
        vec![
            (AUTHENTICATE, later(1, 0, FaultPolicy::Deny, &tickets)),
            (HookPoint::MessagePublish, later(2, 0, FaultPolicy::Ignore, &tickets)),
        ],
    );
    // PUBLISH, QoS 1, identifier 1, no properties.
    let publish = [0x32, 7, 0, 1, b't', 0, 1, 0, b'x'];
    world.hold_ms(1_100, &[(client, &publish)]);
    assert_eq!(world.reading(client), Reading::Paused(Pause::Slots));
    complete(&mut world, tickets.ticket(2), Flow::CONTINUE, Vec::new());
    assert_eq!(world.reading(client), Reading::Reading);
    assert!(!world.is_closed(client));
    world.pass_ms(2_100);
    assert!(world.is_closed(client), "its AUTH has not come");
}
