//! If a ticket ends by a fault of any kind, the changes that its link made before the Defer are
//! discarded, and those of earlier links stay (the design's section on the semantics of hook
//! points: no half change survives). The `table` module tests the result at each point; this one
//! the ways that lead there.

use std::cell::Cell;
use std::rc::Rc;

use grapnel_engine::hook::{FaultPolicy, HookPoint, Link};
use grapnel_engine::packet::{Property, QoS, SubscriptionOptions, Version};
use grapnel_engine::reason::ReasonCode;
use grapnel_engine::shard::{Command, Scope};
use grapnel_plugin_abi::raw::{Field, Flow, Status};

use crate::commands::add;
use crate::deferral::{DeferredTickets, send_auth};
use crate::hooks::{Call, Log, complete, link, mount, number, pair};
use crate::world::{ConnectRequest, Got, World, message};

/// How a ticket can end by a fault.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The plugin reports a fault, as the SDK does for a dropped ticket.
    Completed,
    /// The changes with the verdict are invalid.
    Impossible,
    /// No answer in time.
    Deadline,
    /// No answer in time, and the plugin has been unloaded meanwhile.
    Unloaded,
}

const ENDS: [End; 4] = [End::Completed, End::Impossible, End::Deadline, End::Unloaded];

fn end(world: &mut World, tickets: &DeferredTickets, end: End) {
    match end {
        End::Completed => complete(world, tickets.ticket(0), Flow::FAULT, Vec::new()),
        End::Impossible => {
            complete(world, tickets.ticket(0), Flow::CONTINUE, vec![number(Field::FILTERS, 1)]);
        }
        End::Deadline => world.pass_ms(1_100),
        End::Unloaded => {
            mount(world, Vec::new());
            world.pass_ms(1_100);
        }
    }
}

/// A link that makes a change and defers.
fn half(
    identity: u32,
    policy: FaultPolicy,
    tickets: &DeferredTickets,
    change: impl Fn(&mut Call<'_>) + 'static,
) -> Link {
    let inner = tickets.clone();
    link(identity, 0, policy, move |call: &mut Call<'_>| {
        change(call);
        inner.note(call.topic(), call.defer().expect("the point may wait"));
        Flow::DEFER
    })
}

/// The next link and the subscriber see the message with the changes and additions of the earlier
/// links.
#[test]
fn a_message_has_the_changes_of_the_earlier_links_only() {
    for (by, policy) in ENDS.into_iter().flat_map(|by| [(by, FaultPolicy::Ignore), (by, FaultPolicy::Deny)]) {
        let (mut world, subscriber, publisher) = pair();
        let (tickets, log) = (DeferredTickets::default(), Log::default());
        let first = link(1, 1, FaultPolicy::Ignore, |call: &mut Call<'_>| {
            call.set(Field::PAYLOAD, 0, "first", "");
            assert_eq!(add(call, "t", "added"), Status::OK);
            Flow::CONTINUE
        });
        let second = half(2, policy, &tickets, |call| {
            for (field, text) in [(Field::TOPIC, "half"), (Field::PAYLOAD, "half")] {
                assert_eq!(call.set(field, 0, text, ""), Status::OK);
            }
            assert_eq!(call.set(Field::DISPOSITION, 1, "", ""), Status::OK);
            assert_eq!(add(call, "t", "half"), Status::OK);
        });
        let seen = log.clone();
        let third = link(3, -1, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
            seen.note(format!("{} {}", call.topic(), call.payload()));
            Flow::CONTINUE
        });
        mount(&mut world, [first, second, third].map(|link| (HookPoint::MessagePublish, link)).into());
        world.publish(publisher, "t", "own", QoS::AtLeastOnce, 9);
        end(&mut world, &tickets, by);
        if policy == FaultPolicy::Deny {
            assert_eq!(world.take(publisher), [Got::Ack("PUBACK", 9, 0x83)], "{by:?}");
            assert_eq!((world.take_plain(subscriber), log.take()), (vec![], vec![]));
            continue;
        }
        assert_eq!(world.take(publisher), [Got::Ack("PUBACK", 9, 0)], "{by:?}");
        assert_eq!(
            world.take_plain(subscriber),
            [message("t", "first", 1), message("t", "added", 1)],
            "{by:?}"
        );
        let behind = if matches!(by, End::Unloaded) { vec![] } else { vec!["t first".to_owned()] };
        assert_eq!(log.take(), behind, "{by:?}");
    }
}

/// A failed link makes no client a superuser and admits none.
#[test]
fn an_interrupted_login_leaves_no_change() {
    for by in ENDS {
        let mut world = World::new(1);
        let tickets = DeferredTickets::default();
        let change = |call: &mut Call<'_>| {
            assert_eq!(call.set(Field::VERDICT, 1, "", ""), Status::OK);
            assert_eq!(call.set(Field::IS_SUPERUSER, 1, "", ""), Status::OK);
        };
        let point = HookPoint::ClientAuthenticate;
        mount(&mut world, vec![(point, half(1, FaultPolicy::Ignore, &tickets, change))]);
        let named = ConnectRequest {
            username: Some("ann"),
            password: Some(b"wrong"),
            ..ConnectRequest::v(Version::V5)
        };
        let (client, _) = world.try_connect("c", &named);
        end(&mut world, &tickets, by);
        // Without any authenticator every client is admitted.
        let code = if matches!(by, End::Unloaded) { 0 } else { 0x86 };
        assert_eq!(world.take(client), [Got::ConnAck { present: false, code }], "{by:?}");
        assert!(world.shards[0].client("c").is_none_or(|client| !client.superuser), "{by:?}");
    }
}

/// The same for a re-authentication (MQTT 5.0 section 4.12.1).
#[test]
fn a_failed_reauthentication_changes_nothing() {
    let mut world = World::new(1);
    let (tickets, first) = (DeferredTickets::default(), Cell::new(true));
    let inner = tickets.clone();
    let guard = link(1, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
        call.set(Field::VERDICT, 1, "", "");
        if first.replace(false) {
            return Flow::STOP;
        }
        inner.note("", call.defer().expect("the point may wait"));
        Flow::DEFER
    });
    mount(&mut world, vec![(HookPoint::ClientAuthenticate, guard)]);
    let request =
        ConnectRequest { properties: vec![Property::AuthMethod("M")], ..ConnectRequest::v(Version::V5) };
    let client = world.connect("c", &request);
    send_auth(&mut world, client, ReasonCode::REAUTHENTICATE, "M", "x");
    end(&mut world, &tickets, End::Completed);
    assert_eq!(world.take(client), [Got::Disconnect(0x87)]);
}

/// An authorization that restarts because the rules have changed keeps no earlier verdict.
#[test]
fn a_restarted_authorization_has_no_earlier_verdict() {
    let (mut world, _subscriber, publisher) = pair();
    let (tickets, first) = (DeferredTickets::default(), Cell::new(true));
    let inner = tickets.clone();
    let guard = link(1, 0, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        if call.action() != 1 {
            return Flow::CONTINUE;
        }
        call.set(Field::VERDICT, 2, "", "");
        if !first.replace(false) {
            return Flow::STOP;
        }
        call.set(Field::REASON_CODE, 0x97, "", "");
        inner.note(call.topic(), call.defer().expect("the point may wait"));
        Flow::DEFER
    });
    mount(&mut world, vec![(HookPoint::ClientAuthorize, guard)]);
    world.pass_ms(10);
    world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
    world.shards[0].command(Command::Invalidate(Scope::All));
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
    assert_eq!(
        world.take(publisher),
        [Got::Ack("PUBACK", 1, 0x87)],
        "the reason that it has where none is given"
    );
}

/// A world where only a plugin allows anything. Its link allows everything, and defers one action.
struct Guarded {
    world: World,
    tickets: DeferredTickets,
    waits: Rc<Cell<u8>>,
}

impl Guarded {
    fn new() -> Guarded {
        let mut world = World::with_setup(1, |_| {}, false);
        let (tickets, waits) = (DeferredTickets::default(), Rc::new(Cell::new(0)));
        let (inner, with) = (tickets.clone(), Rc::clone(&waits));
        let guard = link(1, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
            call.set(Field::VERDICT, 1, "", "");
            if call.action() != with.get() {
                return Flow::CONTINUE;
            }
            inner.note(call.topic(), call.defer().expect("the point may wait"));
            Flow::DEFER
        });
        mount(&mut world, vec![(HookPoint::ClientAuthorize, Link { deliver: true, ..guard })]);
        world.pass_ms(10);
        Guarded { world, tickets, waits }
    }
}

/// A failed link allows nothing: no publish, filter, delivery or will. A subscription in force
/// stays.
#[test]
fn a_failed_link_allows_nothing() {
    for by in ENDS {
        let Guarded { mut world, tickets, waits } = Guarded::new();
        waits.set(1);
        let client = world.connect("c", &ConnectRequest::v(Version::V5));
        world.publish(client, "t", "x", QoS::AtLeastOnce, 1);
        end(&mut world, &tickets, by);
        assert_eq!(world.take(client), [Got::Ack("PUBACK", 1, 0x87)], "{by:?}");

        let Guarded { mut world, tickets, waits } = Guarded::new();
        waits.set(2);
        let client = world.connect("c", &ConnectRequest::v(Version::V5));
        world.send_subscribe(client, "t", SubscriptionOptions::default(), None);
        end(&mut world, &tickets, by);
        assert_eq!(world.take(client), [Got::SubAck(7, vec![0x87])], "{by:?}");

        let Guarded { mut world, tickets, waits } = Guarded::new();
        waits.set(3);
        let client = world.connect("c", &ConnectRequest::v(Version::V5));
        world.subscribe(client, "t", QoS::AtMostOnce);
        world.publish(client, "t", "x", QoS::AtMostOnce, 0);
        end(&mut world, &tickets, by);
        assert_eq!(world.take(client), [], "{by:?}");
        assert_eq!(world.shards[0].counters().messages_dropped_not_authorized, 1, "{by:?}");

        let Guarded { mut world, tickets, waits } = Guarded::new();
        waits.set(4);
        let will = ConnectRequest {
            will: Some(("w", "x", QoS::AtMostOnce, false)),
            ..ConnectRequest::v(Version::V5)
        };
        let (client, _) = world.try_connect("c", &will);
        end(&mut world, &tickets, by);
        assert_eq!(world.take(client), [Got::ConnAck { present: false, code: 0x87 }], "{by:?}");

        let Guarded { mut world, tickets, waits } = Guarded::new();
        let client = world.connect("c", &ConnectRequest::v(Version::V5));
        world.subscribe(client, "t", QoS::AtMostOnce);
        waits.set(2);
        world.shards[0].command(Command::Invalidate(Scope::All));
        world.pass_ms(10);
        end(&mut world, &tickets, by);
        // A failure is no verdict: it grants nothing and removes nothing.
        let counters = *world.shards[0].counters();
        assert_eq!((counters.subscriptions_revoked, counters.subscriptions_count), (0, 1), "{by:?}");
    }
}
