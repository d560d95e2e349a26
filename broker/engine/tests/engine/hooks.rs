//! Hook chains in the engine: order, flows, accumulators, faults, deferred verdicts and the slots
//! behind them (the design's section on hook points).

use std::cell::RefCell;
use std::ffi::c_void;
use std::num::NonZeroU16;

use bytes::Bytes;
use grapnel_engine::hook::{ChainTable, Entry, FaultPolicy, HookPoint, Link, LinkIdentity, PluginHandle};
use grapnel_engine::packet::{Packet, Properties, Property, Publish, QoS, Version};
use grapnel_engine::shard::{Completion, OwnedChange};
use grapnel_plugin_abi::host::host_api;
use grapnel_plugin_abi::raw::{APPEND, Change, Event, Field, Flow, Slice, Status, Ticket};

use crate::world::{ConnectRequest, Got, World, message};

pub(crate) type Act = Box<dyn FnMut(&mut Call<'_>) -> Flow>;

/// A hook of a test: a closure behind the ABI's function.
struct Hook {
    act: RefCell<Act>,
}

/// The event of a hook call.
pub struct Call<'a> {
    pub event: &'a Event,
}

impl Call<'_> {
    pub fn ctx(&self) -> *mut c_void {
        self.event.ctx
    }

    pub fn get_text(&self, field: Field) -> String {
        let mut value = grapnel_plugin_abi::raw::Value::EMPTY;
        // SAFETY: the context is that of the running event, and what is shown lives until the hook
        // returns.
        unsafe {
            (host_api(1, 1).get)(self.event.ctx, field, 0, &mut value);
            value.bytes.text().to_owned()
        }
    }

    pub fn action(&self) -> u8 {
        self.event.action
    }

    pub fn flags(&self) -> u32 {
        self.event.flags
    }

    pub fn client_id(&self) -> &str {
        // SAFETY: the view is of the running event.
        unsafe { self.event.client_id.text() }
    }

    pub fn topic(&self) -> &str {
        // SAFETY: the view is of the running event.
        unsafe { self.event.topic.text() }
    }

    pub fn payload(&self) -> String {
        // SAFETY: as above.
        unsafe { self.event.payload.text().to_owned() }
    }

    pub fn set(&self, field: Field, number: u64, bytes: &str, key: &str) -> Status {
        let change = Change {
            field,
            index: APPEND,
            number,
            bytes: Slice::of(bytes.as_bytes()),
            key: Slice::of(key.as_bytes()),
        };
        // SAFETY: the context is that of the running event.
        unsafe { (host_api(1, 1).set)(self.event.ctx, &change) }
    }

    /// The client's identity, in the form that a plugin stores, or the error.
    pub fn identity(&self) -> Result<Vec<u8>, Status> {
        let (mut room, mut len) = (vec![0; 65_536], 0);
        // SAFETY: the context is that of the running event, and the buffer is ours.
        match unsafe { (host_api(1, 1).identity)(self.event.ctx, room.as_mut_ptr(), room.len(), &mut len) } {
            Status::OK => {
                room.truncate(len);
                Ok(room)
            }
            status => Err(status),
        }
    }

    pub(crate) fn defer(&self) -> Result<Ticket, Status> {
        let mut ticket = Ticket(0);
        // SAFETY: as above.
        match unsafe { (host_api(1, 1).defer)(self.event.ctx, 0, &mut ticket) } {
            Status::OK => Ok(ticket),
            status => Err(status),
        }
    }
}

unsafe extern "C" fn shim(instance: *mut c_void, event: *const Event) -> Flow {
    // SAFETY: the instance is a leaked `Hook`, the event is alive during the call.
    let (hook, event) = unsafe { (&*instance.cast::<Hook>(), &*event) };
    (hook.act.borrow_mut())(&mut Call { event })
}

pub fn link(
    identity: u32,
    priority: i32,
    policy: FaultPolicy,
    act: impl FnMut(&mut Call<'_>) -> Flow + 'static,
) -> Link {
    let hook: &'static Hook = Box::leak(Box::new(Hook { act: RefCell::new(Box::new(act)) }));
    let instance = std::ptr::from_ref(hook).cast_mut().cast::<c_void>();
    Link {
        // SAFETY: the function takes a `Hook`, which is never freed; tests run it on one thread.
        entry: unsafe { Entry::new(shim, instance) },
        plugin: PluginHandle(u64::from(identity)),
        identity: LinkIdentity(identity),
        name: format!("plugin{identity}.hook").into(),
        priority,
        deadline_ms: 1000,
        policy,
        topics: None,
        deliver: false,
        bit: 0,
    }
}

pub fn mount(world: &mut World, links: Vec<(HookPoint, Link)>) {
    assert_eq!(world.shards.len(), 1, "hooks of tests belong to one thread and one shard");
    world.shards[0].swap_chains(ChainTable::compile(1, links));
}

/// Log of the calls of a test's hooks.
#[derive(Clone, Default)]
pub struct Log(std::rc::Rc<RefCell<Vec<String>>>);

impl Log {
    pub fn note(&self, what: impl Into<String>) {
        self.0.borrow_mut().push(what.into());
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.borrow_mut())
    }
}

pub fn noting(log: &Log, name: &'static str, flow: Flow) -> impl FnMut(&mut Call<'_>) -> Flow + 'static {
    let log = log.clone();
    move |_| {
        log.note(name);
        flow
    }
}

pub(crate) fn pair() -> (World, usize, usize) {
    let mut world = World::new(1);
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    world.subscribe(sub, "#", QoS::AtLeastOnce);
    (world, sub, publisher)
}

#[test]
fn higher_priority_runs_first_and_equal_ones_as_mounted() {
    let (mut world, _, publisher) = pair();
    let log = Log::default();
    let point = HookPoint::MessagePublish;
    mount(
        &mut world,
        vec![
            (point, link(1, 0, FaultPolicy::Ignore, noting(&log, "a", Flow::CONTINUE))),
            (point, link(2, 10, FaultPolicy::Ignore, noting(&log, "b", Flow::CONTINUE))),
            (point, link(3, 0, FaultPolicy::Ignore, noting(&log, "c", Flow::CONTINUE))),
            (point, link(4, -5, FaultPolicy::Ignore, noting(&log, "d", Flow::STOP))),
            (point, link(5, -6, FaultPolicy::Ignore, noting(&log, "e", Flow::CONTINUE))),
        ],
    );
    world.publish(publisher, "t", "x", QoS::AtMostOnce, 0);
    assert_eq!(log.take(), ["b", "a", "c", "d"], "stop ends the chain");
}

#[test]
fn changes_reach_the_next_link_and_the_subscriber_and_a_fault_leaves_none() {
    let (mut world, sub, publisher) = pair();
    let log = Log::default();
    let point = HookPoint::MessagePublish;
    let seen = log.clone();
    mount(
        &mut world,
        vec![
            (
                point,
                link(1, 0, FaultPolicy::Ignore, |call| {
                    assert_eq!(call.set(Field::TOPIC, 0, "new/topic", ""), Status::OK);
                    assert_eq!(call.set(Field::PAYLOAD, 0, "new", ""), Status::OK);
                    assert_eq!(call.set(Field::QOS, 3, "", ""), Status::INVALID);
                    assert_eq!(call.topic(), "t", "the view taken before stays as it was");
                    Flow::CONTINUE
                }),
            ),
            (
                point,
                link(2, 0, FaultPolicy::Ignore, |call| {
                    call.set(Field::TOPIC, 0, "broken", "");
                    call.set(Field::PAYLOAD, 0, "broken", "");
                    Flow::FAULT
                }),
            ),
            (
                point,
                link(3, 0, FaultPolicy::Ignore, move |call| {
                    seen.note(format!("{} {}", call.topic(), call.payload()));
                    Flow::CONTINUE
                }),
            ),
        ],
    );
    world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
    assert_eq!(log.take(), ["new/topic new"]);
    assert_eq!(world.take_plain(sub), [message("new/topic", "new", 1)]);
    let faults: Vec<u64> =
        world.shards[0].chains().chain(point).links().map(|(_, stats)| stats.faults).collect();
    assert_eq!(faults, [0, 1, 0]);
}

#[test]
fn a_publish_is_dropped_rejected_or_its_sender_disconnected() {
    for (disposition, code, closed) in [(1, 0x00, false), (2, 0x99, false), (3, 0x99, true)] {
        let (mut world, sub, publisher) = pair();
        let act = move |call: &mut Call<'_>| {
            call.set(Field::DISPOSITION, disposition, "", "");
            call.set(Field::REASON_CODE, 0x99, "", "");
            Flow::STOP
        };
        mount(&mut world, vec![(HookPoint::MessagePublish, link(1, 0, FaultPolicy::Ignore, act))]);
        world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
        assert_eq!(world.take(sub), []);
        let expected = if closed { Got::Disconnect(code) } else { Got::Ack("PUBACK", 1, code) };
        assert_eq!(world.take(publisher), [expected]);
        assert_eq!(world.is_closed(publisher), closed);
    }
}

#[test]
fn authorization_refuses_with_a_reason_code_and_a_fault_denies() {
    for (flow, verdict, code) in [(Flow::STOP, 2, 0x87), (Flow::FAULT, 0, 0x87), (Flow::CONTINUE, 1, 0x00)] {
        let (mut world, sub, publisher) = pair();
        let act = move |call: &mut Call<'_>| {
            call.set(Field::VERDICT, verdict, "", "");
            flow
        };
        mount(&mut world, vec![(HookPoint::ClientAuthorize, link(1, 0, FaultPolicy::Deny, act))]);
        world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
        assert_eq!(world.take(publisher), [Got::Ack("PUBACK", 1, code)]);
        assert_eq!(world.take(sub).len(), usize::from(code == 0));
        let refused = world.subscribe(publisher, "other", QoS::AtMostOnce);
        assert_eq!(refused, [if code == 0 { 0 } else { 0x87 }]);
    }
}

#[test]
fn no_link_can_allow_after_a_denying_fault() {
    let (mut world, _, publisher) = pair();
    let point = HookPoint::ClientAuthorize;
    let allow = |call: &mut Call<'_>| {
        call.set(Field::VERDICT, 1, "", "");
        Flow::STOP
    };
    mount(
        &mut world,
        vec![
            (point, link(1, 1, FaultPolicy::Deny, |_| Flow::FAULT)),
            (point, link(2, 0, FaultPolicy::Deny, allow)),
        ],
    );
    world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
    assert_eq!(world.take(publisher), [Got::Ack("PUBACK", 1, 0x87)]);
}

#[test]
fn no_match_decides_unanswered_requests() {
    let mut world = World::with_setup(1, |_| {}, false);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
    assert_eq!(world.take(publisher), [Got::Ack("PUBACK", 1, 0x87)]);
}

#[test]
fn a_changed_topic_is_authorized_again() {
    let (mut world, sub, publisher) = pair();
    let rewrite = |call: &mut Call<'_>| {
        call.set(Field::TOPIC, 0, "secret", "");
        Flow::CONTINUE
    };
    let guard = |call: &mut Call<'_>| {
        let verdict = if call.topic() == "secret" { 2 } else { 1 };
        call.set(Field::VERDICT, verdict, "", "");
        Flow::STOP
    };
    mount(
        &mut world,
        vec![
            (HookPoint::MessagePublish, link(1, 0, FaultPolicy::Ignore, rewrite)),
            (HookPoint::ClientAuthorize, link(2, 0, FaultPolicy::Deny, guard)),
        ],
    );
    world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
    assert_eq!(world.take(publisher), [Got::Ack("PUBACK", 1, 0x87)]);
    assert_eq!(world.take(sub), []);
}

#[test]
fn a_delivery_is_vetoed_or_changed_for_one_subscriber() {
    let (mut world, sub, publisher) = pair();
    let other = world.connect("other", &ConnectRequest::v(Version::V311));
    world.subscribe(other, "t", QoS::AtMostOnce);
    let act = |call: &mut Call<'_>| {
        // SAFETY: the view is of the running event.
        let client = unsafe { call.event.client_id.text() };
        match client {
            "sub" => call.set(Field::DISPOSITION, 1, "", ""),
            _ => call.set(Field::PAYLOAD, 0, "for you", ""),
        };
        Flow::CONTINUE
    };
    mount(&mut world, vec![(HookPoint::MessageDelivered, link(1, 0, FaultPolicy::Ignore, act))]);
    world.publish(publisher, "t", "x", QoS::AtMostOnce, 0);
    assert_eq!(world.take(sub), []);
    assert_eq!(world.take(other), [message("t", "for you", 0)]);
}

#[test]
fn filters_are_rewritten_and_refused_at_subscribe() {
    let (mut world, _, publisher) = pair();
    let act = |call: &mut Call<'_>| {
        let change = Change {
            field: Field::FILTER,
            index: 0,
            number: 0,
            bytes: Slice::of(b"inner/t"),
            key: Slice::EMPTY,
        };
        // SAFETY: the context is that of the running event.
        assert_eq!(unsafe { (host_api(1, 1).set)(call.event.ctx, &change) }, Status::OK);
        Flow::CONTINUE
    };
    mount(&mut world, vec![(HookPoint::ClientSubscribe, link(1, 0, FaultPolicy::Ignore, act))]);
    let sub = world.connect("s2", &ConnectRequest::v(Version::V5));
    assert_eq!(world.subscribe(sub, "t", QoS::AtMostOnce), [0]);
    world.publish(publisher, "t", "no", QoS::AtMostOnce, 0);
    world.publish(publisher, "inner/t", "yes", QoS::AtMostOnce, 0);
    assert_eq!(world.take(sub), [message("inner/t", "yes", 0)]);
}

#[test]
fn connect_and_authenticate_refuse_with_their_reasons() {
    for (point, code) in [(HookPoint::ClientConnect, 0x8A), (HookPoint::ClientAuthenticate, 0x8A)] {
        let mut world = World::new(1);
        let act = |call: &mut Call<'_>| {
            call.set(Field::VERDICT, 2, "", "");
            call.set(Field::REASON_CODE, 0x8A, "", "");
            Flow::STOP
        };
        mount(&mut world, vec![(point, link(1, 0, FaultPolicy::Deny, act))]);
        let (client, got) = world.try_connect("c", &ConnectRequest::v(Version::V5));
        assert_eq!(got, Some(Got::ConnAck { present: false, code }));
        assert!(world.is_closed(client));
        let (_, got) = world.try_connect("c", &ConnectRequest::v(Version::V311));
        assert_eq!(got, Some(Got::ConnAck { present: false, code: 5 }));
    }
}

#[test]
fn a_login_without_a_verdict_is_allowed_only_for_anonymous_clients() {
    let mut world = World::new(1);
    let silent = link(1, 0, FaultPolicy::Deny, |_| Flow::CONTINUE);
    mount(&mut world, vec![(HookPoint::ClientAuthenticate, silent)]);
    let (_, got) = world.try_connect("a", &ConnectRequest::v(Version::V5));
    assert_eq!(got, Some(Got::ConnAck { present: false, code: 0 }));
    let (_, got) =
        world.try_connect("b", &ConnectRequest { username: Some("u"), ..ConnectRequest::v(Version::V5) });
    assert_eq!(got, Some(Got::ConnAck { present: false, code: 0x86 }));
}

#[test]
fn a_takeover_notifies_disconnected_before_connected() {
    let mut world = World::new(1);
    let log = Log::default();
    mount(
        &mut world,
        vec![
            (
                HookPoint::ClientConnected,
                link(1, 0, FaultPolicy::Ignore, noting(&log, "connected", Flow::CONTINUE)),
            ),
            (
                HookPoint::ClientDisconnected,
                link(2, 0, FaultPolicy::Ignore, noting(&log, "disconnected", Flow::CONTINUE)),
            ),
        ],
    );
    world.connect("c", &ConnectRequest::v(Version::V5));
    world.connect("c", &ConnectRequest::v(Version::V5));
    assert_eq!(log.take(), ["connected", "disconnected", "connected"]);
}

// --- deferred verdicts

#[derive(Clone, Default)]
struct Tickets(std::rc::Rc<RefCell<Vec<Ticket>>>);

impl Tickets {
    fn deferring(&self) -> impl FnMut(&mut Call<'_>) -> Flow + 'static {
        let tickets = self.0.clone();
        move |call| {
            let ticket = call.defer().expect("a ticket is left");
            tickets.borrow_mut().push(ticket);
            Flow::DEFER
        }
    }

    fn at(&self, place: usize) -> Ticket {
        self.0.borrow()[place]
    }
}

pub(crate) fn complete(world: &mut World, ticket: Ticket, flow: Flow, changes: Vec<OwnedChange>) {
    world.shards[0].complete(Completion { ticket: ticket.0, flow, changes });
    world.drive();
}

pub(crate) fn number(field: Field, number: u64) -> OwnedChange {
    OwnedChange { field, index: 0, number, bytes: Bytes::new(), key: Bytes::new() }
}

#[test]
fn a_deferred_authentication_admits_refuses_or_times_out() {
    let cases: [(Option<u64>, u8); 3] = [(Some(1), 0), (Some(2), 0x86), (None, 0x88)];
    for (verdict, code) in cases {
        let mut world = World::new(1);
        let tickets = Tickets::default();
        let deferring = link(1, 0, FaultPolicy::Deny, tickets.deferring());
        mount(&mut world, vec![(HookPoint::ClientAuthenticate, deferring)]);
        let client = world.open(Version::V5);
        world.send_connect(
            client,
            "c",
            &ConnectRequest { username: Some("u"), ..ConnectRequest::v(Version::V5) },
        );
        world.send(client, &Packet::PingReq);
        assert_eq!(world.take(client), [], "nothing is read while the verdict is out");
        match verdict {
            Some(verdict) => {
                complete(&mut world, tickets.at(0), Flow::STOP, vec![number(Field::VERDICT, verdict)])
            }
            None => world.pass_ms(1100),
        }
        let mut expected = vec![Got::ConnAck { present: false, code }];
        if code == 0 {
            expected.push(Got::PingResp);
        }
        assert_eq!(world.take(client), expected);
        complete(&mut world, tickets.at(0), Flow::STOP, vec![]);
        assert_eq!(world.shards[0].counters().tickets_stale, 1, "a second completion changes nothing");
    }
}

#[test]
fn publishes_behind_a_deferred_one_take_effect_after_it_in_order() {
    let (mut world, sub, publisher) = pair();
    let tickets = Tickets::default();
    let log = Log::default();
    let seen = log.clone();
    let point = HookPoint::MessagePublish;
    mount(
        &mut world,
        vec![
            (point, link(1, 1, FaultPolicy::Ignore, tickets.deferring())),
            (
                point,
                link(2, 0, FaultPolicy::Ignore, move |call| {
                    seen.note(call.payload());
                    Flow::CONTINUE
                }),
            ),
        ],
    );
    for n in 1..=3 {
        world.publish(publisher, "t", &n.to_string(), QoS::AtLeastOnce, n);
    }
    world.send(publisher, &Packet::PingReq);
    assert_eq!(world.take(publisher), [Got::PingResp], "PINGREQ waits for nothing");
    complete(&mut world, tickets.at(2), Flow::CONTINUE, vec![]);
    complete(&mut world, tickets.at(1), Flow::CONTINUE, vec![]);
    assert_eq!(log.take(), Vec::<String>::new(), "an early verdict waits, so every link sees them in order");
    assert_eq!(world.take(sub), []);
    complete(&mut world, tickets.at(0), Flow::CONTINUE, vec![]);
    assert_eq!(log.take(), ["1", "2", "3"]);
    assert_eq!(world.take_plain(sub), ["1", "2", "3"].map(|n| message("t", n, 1)));
    let acks: Vec<u16> = world.take(publisher).iter().map(Got::id).collect();
    assert_eq!(acks, [1, 2, 3]);
}

#[test]
fn a_deferred_publish_takes_effect_after_its_client_has_disconnected() {
    for ending in ["disconnect", "lost"] {
        let (mut world, sub, publisher) = pair();
        let tickets = Tickets::default();
        mount(
            &mut world,
            vec![(HookPoint::MessagePublish, link(1, 0, FaultPolicy::Ignore, tickets.deferring()))],
        );
        world.publish(publisher, "t", "x", QoS::AtMostOnce, 0);
        if ending == "lost" {
            world.lose(publisher);
        } else {
            world.disconnect(publisher, grapnel_engine::reason::ReasonCode::SUCCESS);
            world.lose(publisher);
        }
        assert_eq!(world.take(sub), []);
        complete(&mut world, tickets.at(0), Flow::CONTINUE, vec![]);
        assert_eq!(world.take(sub), [message("t", "x", 0)]);
        world.pass_ms(20);
        assert_eq!(world.shards[0].counters().sessions_count, 1, "the session has ended behind it");
    }
}

#[test]
fn a_will_is_sent_after_waiting_publishes_and_not_after_a_waiting_disconnect() {
    for clean_end in [true, false] {
        let mut world = World::new(1);
        let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
        world.subscribe(sub, "#", QoS::AtMostOnce);
        let tickets = Tickets::default();
        let mut first = true;
        let mut deferring = tickets.deferring();
        let act = move |call: &mut Call<'_>| {
            if std::mem::take(&mut first) { deferring(call) } else { Flow::CONTINUE }
        };
        mount(&mut world, vec![(HookPoint::MessagePublish, link(1, 0, FaultPolicy::Ignore, act))]);
        let request = ConnectRequest {
            will: Some(("will", "bye", QoS::AtMostOnce, false)),
            ..ConnectRequest::v(Version::V5)
        };
        let client = world.connect("c", &request);
        world.publish(client, "t", "x", QoS::AtMostOnce, 0);
        if clean_end {
            world.disconnect(client, grapnel_engine::reason::ReasonCode::SUCCESS);
        }
        world.lose(client);
        assert_eq!(world.take(sub), []);
        complete(&mut world, tickets.at(0), Flow::CONTINUE, vec![]);
        let mut expected = vec![message("t", "x", 0)];
        if !clean_end {
            expected.push(message("will", "bye", 0));
        }
        assert_eq!(world.take(sub), expected);
    }
}

#[test]
fn a_waiting_disconnect_decides_the_reason_of_the_end_and_the_session_expiry() {
    // [MQTT-3.14.4-3] and section 3.14.2.2.2; expiry 60 s at CONNECT, none or 0 at DISCONNECT.
    for (goodbye, reason, stays) in [
        (&[0xE0, 0][..], Some(0), true),
        (&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 0], Some(0), false),
        (&[0xE0, 1, 4], Some(4), true),
        (&[], Some(0x80), true),
    ] {
        let mut world = World::new(1);
        let tickets = Tickets::default();
        let ended = std::rc::Rc::new(RefCell::new(Vec::new()));
        let seen = ended.clone();
        let note = move |call: &mut Call<'_>| {
            seen.borrow_mut().push(call.event.reason_code);
            Flow::CONTINUE
        };
        mount(
            &mut world,
            vec![
                (HookPoint::MessagePublish, link(1, 0, FaultPolicy::Ignore, tickets.deferring())),
                (HookPoint::ClientDisconnected, link(2, 0, FaultPolicy::Ignore, note)),
            ],
        );
        let stored = ConnectRequest {
            clean: false,
            properties: vec![grapnel_engine::packet::Property::SessionExpiry(60)],
            ..ConnectRequest::v(Version::V5)
        };
        let client = world.connect("c", &stored);
        world.publish(client, "t", "x", QoS::AtMostOnce, 0);
        world.send_bytes(client, goodbye);
        world.lose(client);
        assert_eq!(ended.borrow().first().copied(), reason, "{goodbye:02x?}");
        complete(&mut world, tickets.at(0), Flow::CONTINUE, vec![]);
        world.pass_ms(20);
        assert_eq!(world.shards[0].counters().sessions_count, u64::from(stays), "{goodbye:02x?}");
    }
}

#[test]
fn a_resend_of_a_pending_publish_joins_it() {
    let mut world = World::new(1);
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    world.subscribe(sub, "t", QoS::ExactlyOnce);
    let tickets = Tickets::default();
    mount(
        &mut world,
        vec![(HookPoint::MessagePublish, link(1, 0, FaultPolicy::Ignore, tickets.deferring()))],
    );
    let stored = ConnectRequest {
        clean: false,
        properties: vec![grapnel_engine::packet::Property::SessionExpiry(60)],
        ..ConnectRequest::v(Version::V5)
    };
    let publisher = world.connect("pub", &stored);
    world.publish(publisher, "t", "x", QoS::ExactlyOnce, 4);
    world.lose(publisher);
    let publisher = world.connect("pub", &stored);
    world.send(
        publisher,
        &Packet::Publish(Publish {
            dup: true,
            qos: QoS::ExactlyOnce,
            retain: false,
            topic: "t",
            packet_id: NonZeroU16::new(4),
            properties: Properties::default(),
            payload: b"x",
        }),
    );
    complete(&mut world, tickets.at(0), Flow::CONTINUE, vec![]);
    assert_eq!(world.take(publisher), [Got::Ack("PUBREC", 4, 0)]);
    assert_eq!(world.take(sub).len(), 1);
}

#[test]
fn a_missed_deadline_is_a_fault_by_policy() {
    for (policy, code, delivered) in [(FaultPolicy::Ignore, 0, 1), (FaultPolicy::Deny, 0x83, 0)] {
        let (mut world, sub, publisher) = pair();
        let tickets = Tickets::default();
        mount(&mut world, vec![(HookPoint::MessagePublish, link(1, 0, policy, tickets.deferring()))]);
        world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
        world.pass_ms(990);
        assert_eq!(world.take(publisher), []);
        world.pass_ms(30);
        assert_eq!(world.take(publisher), [Got::Ack("PUBACK", 1, code)]);
        assert_eq!(world.take(sub).len(), delivered);
        complete(&mut world, tickets.at(0), Flow::CONTINUE, vec![]);
        assert_eq!(world.shards[0].counters().tickets_stale, 1);
    }
}

#[test]
fn changes_of_a_completion_are_applied_and_invalid_ones_are_a_fault() {
    let (mut world, sub, publisher) = pair();
    let tickets = Tickets::default();
    mount(&mut world, vec![(HookPoint::MessagePublish, link(1, 0, FaultPolicy::Deny, tickets.deferring()))]);
    let topic = |name: &'static str| OwnedChange { bytes: Bytes::from(name), ..number(Field::TOPIC, 0) };
    world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
    complete(&mut world, tickets.at(0), Flow::CONTINUE, vec![topic("other")]);
    assert_eq!(world.take_plain(sub), [message("other", "x", 1)]);
    world.publish(publisher, "t", "x", QoS::AtLeastOnce, 2);
    complete(&mut world, tickets.at(1), Flow::CONTINUE, vec![topic("other"), topic("a/#")]);
    assert_eq!(world.take(sub), []);
    let acks = world.take(publisher);
    assert_eq!(acks[1], Got::Ack("PUBACK", 2, 0x83));
}

#[test]
fn a_subscribe_waits_for_earlier_publishes() {
    let (mut world, _, publisher) = pair();
    let tickets = Tickets::default();
    mount(
        &mut world,
        vec![(HookPoint::MessagePublish, link(1, 0, FaultPolicy::Ignore, tickets.deferring()))],
    );
    world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
    let options = grapnel_engine::packet::SubscriptionOptions::of_qos(QoS::AtMostOnce);
    world.send_subscribe(publisher, "t", options, None);
    assert_eq!(world.take(publisher), []);
    complete(&mut world, tickets.at(0), Flow::CONTINUE, vec![]);
    let got = world.take(publisher);
    assert_eq!(
        got,
        [Got::Ack("PUBACK", 1, 0), Got::SubAck(7, vec![0])],
        "the message was before its subscription"
    );
}

#[test]
fn a_connection_is_not_read_while_its_slots_are_full() {
    let mut world = World::with(1, |limits| limits.slots_max = 4);
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    world.subscribe(sub, "#", QoS::AtMostOnce);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    let tickets = Tickets::default();
    mount(
        &mut world,
        vec![(HookPoint::MessagePublish, link(1, 0, FaultPolicy::Ignore, tickets.deferring()))],
    );
    for n in 0..10 {
        world.publish(publisher, "t", &n.to_string(), QoS::AtMostOnce, 0);
    }
    assert_eq!(tickets.0.borrow().len(), 4, "the rest is not read");
    for n in 0..10 {
        complete(&mut world, tickets.at(n), Flow::CONTINUE, vec![]);
    }
    let expected: Vec<Got> = (0..10).map(|n| message("t", &n.to_string(), 0)).collect();
    assert_eq!(world.take(sub), expected);
}

#[test]
fn after_a_reload_a_waiting_event_skips_the_links_that_were_called() {
    let (mut world, sub, publisher) = pair();
    let log = Log::default();
    let tickets = Tickets::default();
    let point = HookPoint::MessagePublish;
    let table = |log: &Log, tickets: &Tickets| {
        vec![
            (point, link(1, 2, FaultPolicy::Ignore, noting(log, "first", Flow::CONTINUE))),
            (point, link(2, 1, FaultPolicy::Ignore, tickets.deferring())),
            (point, link(3, 0, FaultPolicy::Ignore, noting(log, "last", Flow::CONTINUE))),
        ]
    };
    mount(&mut world, table(&log, &tickets));
    world.publish(publisher, "t", "x", QoS::AtLeastOnce, 1);
    // Every plugin is reloaded: the same identities in another table.
    mount(&mut world, table(&log, &tickets));
    complete(&mut world, tickets.at(0), Flow::CONTINUE, vec![]);
    assert_eq!(log.take(), ["first", "last"], "each sees the event once");
    assert_eq!(world.take(sub).len(), 1);
}

/// A link may change the expiry of a message, and another change leaves the expiry alone.
#[test]
fn a_link_can_set_the_expiry_of_a_message() {
    for (field, text, seconds) in
        [(Field::MESSAGE_EXPIRY_S, "", Some(5)), (Field::CONTENT_TYPE, "text", Some(60))]
    {
        let mut world = World::new(1);
        let request = ConnectRequest {
            clean: false,
            properties: vec![Property::SessionExpiry(100)],
            ..ConnectRequest::v(Version::V5)
        };
        let sub = world.connect("sub", &request);
        world.subscribe(sub, "t", QoS::AtLeastOnce);
        let publisher = world.connect("p", &ConnectRequest::v(Version::V5));
        let act = move |call: &mut Call<'_>| {
            assert_eq!(call.set(field, 5, text, ""), Status::OK);
            Flow::CONTINUE
        };
        mount(&mut world, vec![(HookPoint::MessagePublish, link(1, 0, FaultPolicy::Ignore, act))]);
        world.lose(sub);
        world.publish_with(publisher, "t", "x", QoS::AtLeastOnce, 1, false, &[Property::MessageExpiry(60)]);
        world.pass_ms(20_000);
        let sub = world.connect("sub", &request);
        let lives = seconds > Some(20);
        assert_eq!(world.take(sub).len(), usize::from(lives), "{field:?}");
    }
}

/// A response topic must be a topic name [MQTT-3.3.2-14], and can be removed.
#[test]
fn a_link_can_set_or_remove_a_response_topic() {
    let (mut world, sub, publisher) = pair();
    let log = Log::default();
    let act = {
        let log = log.clone();
        move |call: &mut Call<'_>| {
            for (number, text) in [(0, "a/#"), (0, ""), (0, "b/c"), (1, ""), (1, "")] {
                let status = call.set(Field::RESPONSE_TOPIC, number, text, "");
                log.note(format!("{status:?} {}", call.text_at(Field::RESPONSE_TOPIC, 0)));
            }
            Flow::CONTINUE
        }
    };
    mount(&mut world, vec![(HookPoint::MessagePublish, link(1, 0, FaultPolicy::Ignore, act))]);
    let answer = [Property::ResponseTopic("answer")];
    world.publish_with(publisher, "t", "x", QoS::AtMostOnce, 0, false, &answer);
    assert_eq!(log.take(), ["INVALID answer", "INVALID answer", "OK b/c", "OK -", "ABSENT -"]);
    assert_eq!(world.take(sub).len(), 1);
}

/// A link that reads a message between its changes sees each change, also of user properties.
#[test]
fn a_link_sees_its_own_changes() {
    let (mut world, sub, publisher) = pair();
    let log = Log::default();
    let act = {
        let log = log.clone();
        move |call: &mut Call<'_>| {
            let users = |call: &Call<'_>| {
                let count = call.number(Field::USER_PROPERTIES).unwrap_or(99);
                let all: Vec<String> =
                    (0..count as u32).map(|at| call.text_at(Field::USER_PROPERTY, at)).collect();
                format!("{count} {}", all.join(" "))
            };
            log.note(users(call));
            call.set(Field::USER_PROPERTY, 0, "2", "k");
            call.set(Field::CONTENT_TYPE, 0, "json", "");
            log.note(format!("{} {}", users(call), call.text_at(Field::CONTENT_TYPE, 0)));
            call.set(Field::PAYLOAD_FORMAT, 1, "", "");
            call.set(Field::USER_PROPERTY, 0, "3", "k");
            log.note(format!(
                "{} {} {:?} {}",
                users(call),
                call.text_at(Field::CONTENT_TYPE, 0),
                call.number(Field::PAYLOAD_FORMAT),
                call.text_at(Field::RESPONSE_TOPIC, 0)
            ));
            Flow::CONTINUE
        }
    };
    mount(&mut world, vec![(HookPoint::MessagePublish, link(1, 0, FaultPolicy::Ignore, act))]);
    let own = [Property::User("k", "1"), Property::ContentType("text")];
    world.publish_with(publisher, "t", "x", QoS::AtMostOnce, 0, false, &own);
    let notified = log.take();
    assert!(notified[0].starts_with("1 ") && notified[0].ends_with('1'), "{notified:?}");
    assert!(notified[1].starts_with("2 ") && notified[1].ends_with("2 json"), "{notified:?}");
    assert!(notified[2].starts_with("3 ") && notified[2].ends_with("3 json Ok(1) -"), "{notified:?}");
    assert_eq!(world.take(sub).len(), 1);
}
