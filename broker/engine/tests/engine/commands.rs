//! Requests of plugins outside of answers: publishes with their ancestry, messages that hooks add,
//! subscriptions, timers, instance messages and replay (the design's section on host functions).

use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use grapnel_engine::hook::{
    CallCell, Called, ChainTable, FaultPolicy, HookPoint, InstanceEntry, Link, PluginHandle,
};
use grapnel_engine::message::{FlowPart, Message};
use grapnel_engine::packet::{Packet, QoS, SubscriptionOptions, Version};
use grapnel_engine::reason::ReasonCode;
use grapnel_engine::shard::{Command, Outcome, Search};
use grapnel_plugin_abi::host::host_api;
use grapnel_plugin_abi::raw::{FLAG_REPLAY, FLAG_WILL, Field, Flow, NewMessage, Slice, Status};

use crate::deferral::{DeferredTickets, later};
use crate::hooks::{Call, Log, complete, link, mount, noting, pair};
use crate::world::{ConnectRequest, Got, World, message};

fn of_plugin(bit: u8, link: Link) -> Link {
    Link { plugin: PluginHandle(u64::from(bit)), bit, ..link }
}

pub fn publish(plugin: u64, topic: &str, payload: &str, ancestry: u64) -> Command {
    let message = Message {
        id: 0,
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        properties: Box::default(),
        qos: QoS::AtMostOnce,
        retain: false,
        from: Arc::from("plugin"),
        origin: None,
        expires_at_ms: None,
        wall_ms: 0,
        ancestry,
        flow: None,
    };
    Command::Publish { plugin: PluginHandle(plugin), message }
}

/// A message of QoS 2 that is counted in a flow.
fn counted(topic: &str, count: &Arc<AtomicU64>) -> Command {
    let Command::Publish { plugin, message } = publish(1, topic, "x", 2) else { unreachable!("made above") };
    let message = Message { qos: QoS::ExactlyOnce, flow: Some(FlowPart::of(count)), ..message };
    Command::Publish { plugin, message }
}

pub fn add(call: &Call<'_>, topic: &str, payload: &str) -> Status {
    let table = NewMessage {
        size: size_of::<NewMessage>() as u32,
        qos: 1,
        retain: 0,
        payload_format: 255,
        store_only: 0,
        message_expiry_s: 0,
        flow: 0,
        topic: Slice::of(topic.as_bytes()),
        payload: Slice::of(payload.as_bytes()),
        content_type: Slice::EMPTY,
        response_topic: Slice::EMPTY,
        correlation_data: Slice::EMPTY,
        from: Slice::EMPTY,
        user_properties: std::ptr::null(),
        user_properties_len: 0,
        flags: 0,
        reserved: 0,
    };
    // SAFETY: the context is that of the running event, and the table is alive during the call.
    unsafe { (host_api(1, 1).add_message)(call.ctx(), &table) }
}

/// A plugin in the ancestry of a message does not see that message at any point.
#[test]
fn hooks_of_all_other_plugins_are_called_for_a_message_of_a_plugin() {
    let (mut world, subscriber, _publisher) = pair();
    let log = Log::default();
    let on = |bit, point, name| {
        (
            point,
            of_plugin(bit, link(u32::from(bit), 0, FaultPolicy::Ignore, noting(&log, name, Flow::CONTINUE))),
        )
    };
    mount(
        &mut world,
        vec![
            on(1, HookPoint::MessagePublish, "maker"),
            on(2, HookPoint::MessagePublish, "other"),
            on(1, HookPoint::MessageDelivered, "maker delivers"),
            on(2, HookPoint::MessageDelivered, "other delivers"),
        ],
    );
    world.shards[0].command(publish(1, "t", "x", 1 << 1));
    world.drive();
    assert_eq!(log.take(), ["other", "other delivers"]);
    assert_eq!(world.take_plain(subscriber), [message("t", "x", 0)]);
}

/// A message of a flow counts as held until its last subscriber has acknowledged it, on whatever
/// shard. A message without subscribers, or delivered with QoS 0, does not count.
#[test]
fn messages_of_a_flow_are_counted_until_everybody_has_them() {
    let mut world = World::new(3);
    let count = Arc::new(AtomicU64::new(0));
    let held = || count.load(Ordering::Relaxed);
    let send = |world: &mut World, topic: &str| {
        world.shards[0].command(counted(topic, &count));
        world.drive();
    };
    let properties = vec![grapnel_engine::packet::Property::SessionExpiry(60)];
    let near = world.connect_at(0, "near", &ConnectRequest::v(Version::V5));
    let far = world.connect_at(
        2,
        "far",
        &ConnectRequest { clean: false, properties, ..ConnectRequest::v(Version::V5) },
    );
    let quick = world.connect_at(1, "quick", &ConnectRequest::v(Version::V5));
    for (client, filter, qos) in
        [(near, "a", QoS::AtLeastOnce), (far, "a", QoS::ExactlyOnce), (quick, "b", QoS::AtMostOnce)]
    {
        world.subscribe(client, filter, qos);
    }
    send(&mut world, "b");
    send(&mut world, "nobody");
    assert_eq!(held(), 0);
    send(&mut world, "a");
    send(&mut world, "a");
    assert_eq!(held(), 2);
    let ids = |world: &mut World, client| world.take(client).iter().map(Got::id).collect::<Vec<_>>();
    for id in ids(&mut world, near) {
        world.ack(near, Packet::PubAck, id);
    }
    assert_eq!(held(), 2, "the other one has them not yet");
    let of_far = ids(&mut world, far);
    world.ack(far, Packet::PubRec, of_far[0]);
    assert_eq!(held(), 2, "not for good");
    world.ack(far, Packet::PubComp, of_far[0]);
    assert_eq!(held(), 1);
    // An absent subscriber receives the other message when it returns; that message no longer
    // counts when its session ends.
    world.lose(far);
    world.drive();
    assert_eq!(held(), 1);
    world.pass_ms(61_000);
    world.drive();
    assert_eq!(held(), 0);
}

/// Publishes of a plugin take effect in order, also if one of them waits for a verdict.
#[test]
fn publishes_of_a_plugin_keep_their_order_if_the_first_waits() {
    let (mut world, subscriber, _publisher) = pair();
    let tickets = std::rc::Rc::new(RefCell::new(Vec::new()));
    let inner = std::rc::Rc::clone(&tickets);
    let waits = link(2, 0, FaultPolicy::Ignore, move |call| {
        if call.payload() == "first" {
            inner.borrow_mut().push(call.defer().expect("a ticket"));
            return Flow::DEFER;
        }
        Flow::CONTINUE
    });
    mount(&mut world, vec![(HookPoint::MessagePublish, of_plugin(2, waits))]);
    world.shards[0].command(publish(1, "t", "first", 2));
    world.shards[0].command(publish(1, "t", "second", 2));
    world.drive();
    assert_eq!(world.take_plain(subscriber), []);
    let ticket = tickets.borrow()[0];
    world.shards[0].complete(grapnel_engine::shard::Completion {
        ticket: ticket.0,
        flow: Flow::CONTINUE,
        changes: Vec::new(),
    });
    world.drive();
    assert_eq!(world.take_plain(subscriber), [message("t", "first", 0), message("t", "second", 0)]);
}

/// A message that a hook adds is published after the message of the event. Hooks of other plugins
/// see it; those of the same plugin do not.
#[test]
fn an_added_message_follows_and_is_not_shown_to_the_plugin_that_added_it() {
    let (mut world, subscriber, publisher) = pair();
    let log = Log::default();
    let seen = log.clone();
    let maker = link(1, 1, FaultPolicy::Ignore, move |call| {
        seen.note(format!("maker {}", call.payload()));
        assert_eq!(add(call, "t", "added"), Status::OK);
        Flow::CONTINUE
    });
    let seen = log.clone();
    let other = link(2, 0, FaultPolicy::Ignore, move |call| {
        seen.note(format!("other {}", call.payload()));
        Flow::CONTINUE
    });
    mount(
        &mut world,
        vec![
            (HookPoint::MessagePublish, of_plugin(1, maker)),
            (HookPoint::MessagePublish, of_plugin(2, other)),
        ],
    );
    world.publish(publisher, "t", "own", QoS::AtMostOnce, 0);
    assert_eq!(log.take(), ["maker own", "other own", "other added"]);
    let payloads: Vec<_> = world.take(subscriber).into_iter().map(|got| got.plain()).collect();
    assert_eq!(payloads.len(), 2);
    assert_eq!(payloads[0], message("t", "own", 0));
}

/// A message that a link adds is one of its changes: it is discarded if the link fails or the
/// event's message is refused.
#[test]
fn nothing_is_added_by_a_link_that_fails_or_to_a_message_that_is_refused() {
    for refused in [false, true] {
        let (mut world, subscriber, publisher) = pair();
        let hook = link(1, 0, FaultPolicy::Ignore, move |call| {
            assert_eq!(add(call, "t", "added"), Status::OK);
            if refused {
                call.set(grapnel_plugin_abi::raw::Field::DISPOSITION, 1, "", "");
                return Flow::STOP;
            }
            Flow::FAULT
        });
        mount(&mut world, vec![(HookPoint::MessagePublish, of_plugin(1, hook))]);
        world.publish(publisher, "t", "own", QoS::AtMostOnce, 0);
        let expected = if refused { vec![] } else { vec![message("t", "own", 0)] };
        assert_eq!(world.take_plain(subscriber), expected);
    }
}

/// `extra_messages_max` limits the added messages, and an invalid message is refused.
#[test]
fn too_many_and_impossible_messages_are_refused() {
    let (mut world, _subscriber, publisher) = pair();
    let log = Log::default();
    let seen = log.clone();
    let hook = link(1, 0, FaultPolicy::Ignore, move |call| {
        seen.note(format!("{:?}", add(call, "a/+", "x")));
        let tickets = (0..20).take_while(|_| add(call, "other", "x") == Status::OK).count();
        seen.note(format!("{tickets} {:?}", add(call, "other", "x")));
        Flow::CONTINUE
    });
    mount(&mut world, vec![(HookPoint::MessagePublish, of_plugin(1, hook))]);
    world.publish(publisher, "t", "own", QoS::AtMostOnce, 0);
    assert_eq!(log.take(), ["INVALID", "16 FULL"]);
}

/// A subscription that a plugin makes or ends works like the client's own.
#[test]
fn a_plugin_subscribes_and_unsubscribes_a_client() {
    let mut world = World::new(1);
    let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
    let client = world.connect("client", &ConnectRequest::v(Version::V5));
    let options = SubscriptionOptions::from_byte(1).expect("QoS 1");
    let (client_id, filter): (Box<str>, Box<str>) = ("client".into(), "a/#".into());
    let (again, gone) = (client_id.clone(), filter.clone());
    world.shards[0].command(Command::Subscribe { client_id, filter, options, id: 7 });
    world.publish(publisher, "a/b", "1", QoS::AtMostOnce, 0);
    assert!(matches!(&world.take(client)[..], [Got::Publish { ids, .. }] if ids[..] == [7]));
    world.shards[0].command(Command::Unsubscribe { client_id: again, filter: gone });
    world.publish(publisher, "a/b", "2", QoS::AtMostOnce, 0);
    assert_eq!(world.take_plain(client), []);
    world.shards[0].command(Command::Kick {
        client_id: "client".into(),
        reason: ReasonCode::ADMINISTRATIVE_ACTION,
        discard: false,
    });
    world.drive();
    assert!(world.is_closed(client));
}

/// An instance outside of events. It logs timers and instance messages.
struct Instance(RefCell<Vec<String>>);

thread_local! {
    /// The call cell of this thread's world.
    static CALLS: RefCell<Arc<CallCell>> = RefCell::default();
}

fn is_called() -> String {
    CALLS.with_borrow(|calls| match calls.current_name() {
        Some((Called::Plugin(plugin), name)) => format!("{} {name}", plugin.0),
        Some((Called::Hook(_), name)) => format!("a hook at {name}"),
        None => "nobody".into(),
    })
}

unsafe extern "C" fn on_timer(instance: *mut c_void, _timer: u64, number: u64) {
    // SAFETY: the instance is a leaked `Instance` of this thread.
    unsafe { &*instance.cast::<Instance>() }.0.borrow_mut().push(format!("timer {number}"));
}

unsafe extern "C" fn on_instance_message(instance: *mut c_void, from: u32, number: u64, bytes: Slice) {
    // SAFETY: as above, and the bytes are alive during the call.
    let (instance, text) = unsafe { (&*instance.cast::<Instance>(), bytes.text()) };
    instance.0.borrow_mut().push(format!("message {number} from {from}: {text}"));
}

fn instance() -> (&'static Instance, InstanceEntry) {
    let instance: &'static Instance = Box::leak(Box::new(Instance(RefCell::default())));
    let pointer = std::ptr::from_ref(instance).cast_mut().cast();
    // SAFETY: never freed, and the test has one thread.
    (instance, unsafe { InstanceEntry::new(on_timer, on_instance_message, pointer) })
}

fn table(entry: InstanceEntry) -> ChainTable {
    ChainTable::compile(1, []).with_instances(vec![(PluginHandle(9), entry)])
}

/// A timer fires once after its time, unless it is cancelled or its plugin is unloaded. Instance
/// messages arrive at once.
#[test]
fn timers_and_instance_messages_reach_their_instance() {
    let mut world = World::new(1);
    let (recorded, entry) = instance();
    let plugin = PluginHandle(9);
    let timer = |timer, after_ms| Command::Timer { plugin, timer, after_ms, number: timer * 10 };
    // Set while the plugin is loaded: it is not in the chains yet.
    world.shards[0].command(timer(1, 0));
    world.shards[0].command(Command::InstanceMessage {
        plugin,
        from: 3,
        number: 4,
        bytes: Bytes::from("early"),
    });
    world.pass_ms(100);
    assert_eq!(recorded.0.take(), Vec::<String>::new());
    world.shards[0].swap_chains(table(entry));
    assert_eq!(recorded.0.take(), ["message 4 from 3: early"]);
    world.pass_ms(100);
    assert_eq!(recorded.0.take(), ["timer 10"]);

    world.shards[0].command(timer(2, 50));
    world.shards[0].command(timer(3, 50));
    world.shards[0].command(Command::CancelTimer { plugin, timer: 3 });
    world.pass_ms(40);
    assert_eq!(recorded.0.take(), Vec::<String>::new());
    world.pass_ms(100);
    assert_eq!(recorded.0.take(), ["timer 20"]);

    world.shards[0].command(timer(5, 50));
    world.shards[0].swap_chains(ChainTable::empty());
    world.shards[0].forget_plugin(plugin);
    world.shards[0].swap_chains(table(entry));
    world.pass_ms(1000);
    assert_eq!(recorded.0.take(), Vec::<String>::new(), "a timer ends with its plugin");
}

/// An instance message of a thread of a replaced version goes to the version that took over the
/// state, or is dropped if none did.
#[test]
fn instance_messages_go_to_the_version_that_has_the_state() {
    for is_handed_over in [true, false] {
        let mut world = World::new(1);
        let ((old_noted, old_entry), (new_noted, new_entry)) = (instance(), instance());
        let (old, new) = (PluginHandle(1 << 32 | 9), PluginHandle(2 << 32 | 9));
        let table = |plugin, entry| ChainTable::compile(1, []).with_instances(vec![(plugin, entry)]);
        let message =
            |number| Command::InstanceMessage { plugin: old, from: 3, number, bytes: Bytes::from("late") };
        world.shards[0].swap_chains(table(old, old_entry));
        world.shards[0].command(message(1));
        if is_handed_over {
            world.shards[0].redirect_answers(old, new);
        }
        world.shards[0].swap_chains(table(new, new_entry));
        world.shards[0].command(message(2));
        assert_eq!(old_noted.0.take(), ["message 1 from 3: late"]);
        let expected = if is_handed_over { vec!["message 2 from 3: late"] } else { Vec::new() };
        assert_eq!(new_noted.0.take(), expected);
    }
}

/// A version that a reload was taken back to keeps its timers, instance messages and replay,
/// including those that came due meanwhile. If state was handed over and came back, the version has
/// set its timers itself by then.
#[test]
fn a_reload_that_is_undone_keeps_timers_messages_and_replay() {
    for (goes_over, comes_back) in [(false, false), (true, false), (true, true)] {
        let mut world = World::new(1);
        let calls: Arc<CallCell> = Arc::default();
        world.shards[0].set_call_cell(Arc::clone(&calls));
        world.connect("c", &ConnectRequest::v(Version::V5));
        let ((recorded, old_entry), (new_noted, new_entry)) = (instance(), instance());
        let (old, new) = (PluginHandle(1 << 32 | 9), PluginHandle(2 << 32 | 9));
        let log = Log::default();
        let table = |plugin: PluginHandle, entry| {
            let log = log.clone();
            let sender = link(9, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
                log.note(format!("{} {}", plugin.0 >> 32, call.client_id()));
                Flow::CONTINUE
            });
            let link = (HookPoint::ClientConnected, Link { plugin, ..sender });
            ChainTable::compile(1, [link]).with_instances(vec![(plugin, entry)])
        };
        let timer = |plugin, timer, after_ms| Command::Timer { plugin, timer, after_ms, number: timer };
        world.shards[0].swap_chains(table(old, old_entry));
        for (number, after_ms) in [(1, 50), (2, 500), (3, 500)] {
            world.shards[0].command(timer(old, number, after_ms));
        }
        world.shards[0].command(Command::Replay { plugin: old });
        if goes_over {
            world.shards[0].redirect_answers(old, new);
        }
        world.shards[0].swap_chains(table(new, new_entry));
        world.shards[0].command(timer(new, 9, 10));
        if !goes_over {
            world.shards[0].command(Command::InstanceMessage {
                plugin: old,
                from: 3,
                number: 4,
                bytes: Bytes::new(),
            });
        }
        world.pass_ms(100);
        assert_eq!((recorded.0.take(), new_noted.0.take()), (vec![], vec!["timer 9".to_owned()]));
        world.shards[0].command(Command::CancelTimer { plugin: old, timer: 3 });
        assert_eq!(log.take(), [""; 0], "the new one has asked for no replay");
        world.shards[0].command(timer(new, 8, 10_000));
        if comes_back {
            world.shards[0].redirect_answers(new, old);
        }
        world.shards[0].swap_chains(table(old, old_entry));
        world.shards[0].forget_plugin(new);
        assert_eq!(calls.timers(), if comes_back { 0 } else { 2 });
        world.pass_ms(1_000);
        let expected = match (goes_over, comes_back) {
            (false, _) => vec!["message 4 from 3: ", "timer 1", "timer 2"],
            (true, false) => vec!["timer 1", "timer 2"],
            (true, true) => vec![],
        };
        assert_eq!(recorded.0.take(), expected, "{goes_over} {comes_back}");
        assert_eq!(log.take(), ["1 c"], "{goes_over} {comes_back}");
        assert_eq!((calls.timers(), world.shards[0].counters().plugin_mail_stale), (0, 0));
        let (armed, held) = world.shards[0].timers();
        assert_eq!(armed, held);
    }
}

/// They wait for such a version as long as its instance exists, however long the reload takes.
#[test]
fn messages_and_timers_wait_for_a_version_while_its_reload_may_be_undone() {
    let mut world = World::new(1);
    let ((recorded, old_entry), (_, new_entry)) = (instance(), instance());
    let (old, new) = (PluginHandle(1 << 32 | 9), PluginHandle(2 << 32 | 9));
    let table =
        |plugin: PluginHandle, entry| ChainTable::compile(1, []).with_instances(vec![(plugin, entry)]);
    world.shards[0].swap_chains(table(old, old_entry));
    world.shards[0].command(Command::Timer { plugin: old, timer: 1, after_ms: 50, number: 1 });
    world.shards[0].swap_chains(table(new, new_entry));
    let message = Command::InstanceMessage { plugin: old, from: 3, number: 4, bytes: Bytes::new() };
    world.shards[0].command(message);
    (0..4).for_each(|_| world.pass_ms(30_000));
    world.shards[0].swap_chains(table(old, old_entry));
    world.shards[0].forget_plugin(new);
    world.pass_ms(100);
    assert_eq!(recorded.0.take(), ["message 4 from 3: ", "timer 1"]);
    assert_eq!(world.shards[0].counters().plugin_mail_stale, 0);
}

unsafe extern "C" fn on_timer_called(instance: *mut c_void, _timer: u64, _number: u64) {
    // SAFETY: the instance is a leaked `Instance` of this thread.
    unsafe { &*instance.cast::<Instance>() }.0.borrow_mut().push(is_called());
}

unsafe extern "C" fn on_instance_message_called(
    instance: *mut c_void,
    _from: u32,
    _number: u64,
    _bytes: Slice,
) {
    // SAFETY: as above.
    unsafe { &*instance.cast::<Instance>() }.0.borrow_mut().push(is_called());
}

/// A call of a timer or an instance message is visible to the shard's watcher while it lasts, and
/// no longer.
#[test]
fn a_running_timer_or_message_call_has_a_call_number() {
    let mut world = World::new(1);
    world.shards[0].set_call_cell(CALLS.with_borrow(Arc::clone));
    let (recorded, _) = instance();
    let pointer = std::ptr::from_ref(recorded).cast_mut().cast();
    // SAFETY: never freed, and the test has one thread.
    let entry = unsafe { InstanceEntry::new(on_timer_called, on_instance_message_called, pointer) };
    world.shards[0].swap_chains(table(entry));
    let plugin = PluginHandle(9);
    for (command, called) in [
        (Command::Timer { plugin, timer: 1, after_ms: 10, number: 1 }, "9 on_timer"),
        (
            Command::InstanceMessage { plugin, from: 0, number: 1, bytes: Bytes::new() },
            "9 on_instance_message",
        ),
    ] {
        world.shards[0].command(command);
        world.pass_ms(100);
        assert_eq!(recorded.0.take(), [called]);
        assert_eq!(is_called(), "nobody");
    }
}

/// Timers of a plugin that is never mounted, or is unloaded, are dropped and no longer counted.
#[test]
fn timers_of_a_plugin_that_is_never_mounted_or_unloaded_are_dropped() {
    let mut world = World::new(1);
    let calls: Arc<CallCell> = Arc::default();
    world.shards[0].set_call_cell(Arc::clone(&calls));
    let timer = |timer, after_ms| Command::Timer { plugin: PluginHandle(9), timer, after_ms, number: 0 };
    for number in [1, 2] {
        world.shards[0].command(timer(number, 0));
    }
    // The plugin may still be about to be mounted.
    world.pass_ms(30_000);
    assert_eq!(calls.timers(), 2);
    world.pass_ms(31_000);
    assert_eq!(calls.timers(), 0, "it never came");

    let (_, entry) = instance();
    world.shards[0].swap_chains(table(entry));
    world.shards[0].command(timer(3, 5_000));
    assert_eq!(calls.timers(), 1);
    world.shards[0].forget_plugin(PluginHandle(9));
    assert_eq!(calls.timers(), 1, "it is there");
    world.shards[0].swap_chains(ChainTable::empty());
    assert_eq!(calls.timers(), 1, "it may come back");
    world.shards[0].forget_plugin(PluginHandle(9));
    assert_eq!(calls.timers(), 0, "it has gone");
}

/// A disabled or tripped plugin receives neither timers nor instance messages. When it is called
/// again it receives those that came due meanwhile, once. Cancelled timers and those of an unloaded
/// plugin are not delivered.
#[test]
fn timers_and_messages_wait_for_a_suspended_plugin() {
    type Rest = fn(&mut World, InstanceEntry);
    let disable: Rest = |world, entry| {
        drop(world.shards[0].swap_chains(table(entry).with_suspended_plugins(vec![PluginHandle(9)])));
    };
    let trip: Rest = |world, entry| {
        let fails = of_plugin(9, link(9, 0, FaultPolicy::Ignore, |_| Flow::FAULT));
        let table = ChainTable::compile(1, [(HookPoint::MessagePublish, fails)]);
        world.shards[0].swap_chains(table.with_instances(vec![(PluginHandle(9), entry)]));
        let publisher = world.connect("pub", &ConnectRequest::v(Version::V5));
        world.publish(publisher, "t", "x", QoS::AtMostOnce, 0);
        world.publish(publisher, "t", "x", QoS::AtMostOnce, 0);
    };
    for rest in [disable, trip] {
        let mut world = World::with(1, |limits| limits.breaker_faults_max = 2);
        let (recorded, entry) = instance();
        let plugin = PluginHandle(9);
        let timer = |timer, after_ms| Command::Timer { plugin, timer, after_ms, number: timer * 10 };
        let message = |number| Command::InstanceMessage { plugin, from: 3, number, bytes: Bytes::from("x") };
        world.shards[0].swap_chains(table(entry));
        for (number, after_ms) in [(1, 70), (2, 50), (3, 60), (4, 200_000)] {
            world.shards[0].command(timer(number, after_ms));
        }
        rest(&mut world, entry);
        world.shards[0].command(message(1));
        world.shards[0].command(message(2));
        // Longer than the wait for a plugin that is being loaded, and across another swap.
        world.pass_ms(100_000);
        world.shards[0].command(Command::CancelTimer { plugin, timer: 3 });
        disable(&mut world, entry);
        assert_eq!(recorded.0.take(), Vec::<String>::new());

        world.shards[0].swap_chains(table(entry));
        world.pass_ms(20);
        assert_eq!(recorded.0.take(), ["message 1 from 3: x", "message 2 from 3: x", "timer 20", "timer 10"]);
        world.shards[0].command(message(5));
        world.pass_ms(100_000);
        assert_eq!(
            recorded.0.take(),
            ["message 5 from 3: x", "timer 40"],
            "everything else goes on as before"
        );

        world.shards[0].command(timer(6, 50));
        disable(&mut world, entry);
        world.shards[0].command(message(6));
        world.pass_ms(100);
        let stale = world.shards[0].counters().plugin_mail_stale;
        world.shards[0].swap_chains(ChainTable::empty());
        world.shards[0].forget_plugin(plugin);
        world.shards[0].swap_chains(table(entry));
        world.pass_ms(100);
        assert_eq!(recorded.0.take(), Vec::<String>::new(), "what was kept goes with its plugin");
        assert_eq!(world.shards[0].counters().plugin_mail_stale, stale + 1);
    }
}

/// Stored instance messages are limited, in number and in bytes. Those beyond the limit are
/// counted.
#[test]
fn instance_messages_for_a_suspended_plugin_are_limited() {
    for (bytes, stored) in [(1, 1024), (1 << 20, 16)] {
        let mut world = World::new(1);
        let (recorded, entry) = instance();
        world.shards[0].swap_chains(table(entry).with_suspended_plugins(vec![PluginHandle(9)]));
        for number in 0..1_100 {
            let bytes = Bytes::from(vec![b'x'; bytes]);
            let plugin = PluginHandle(9);
            world.shards[0].command(Command::InstanceMessage { plugin, from: 3, number, bytes });
        }
        world.shards[0].swap_chains(table(entry));
        assert_eq!(recorded.0.take().len(), stored);
        assert_eq!(world.shards[0].counters().plugin_mail_stale, 1_100 - stored as u64);
    }
}

/// Replay reports each session and subscription once, and only to the plugin that requested it.
#[test]
fn a_replay_reports_sessions_and_subscriptions_to_one_plugin() {
    let (mut world, _subscriber, _publisher) = pair();
    let log = Log::default();
    let (_, entry) = instance();
    let points = [HookPoint::ClientConnected, HookPoint::SessionCreated, HookPoint::SessionSubscribed];
    let links = points.into_iter().flat_map(|point| {
        [9, 2].map(|bit| {
            let log = log.clone();
            let noting = move |call: &mut Call<'_>| {
                let replay = call.flags() & FLAG_REPLAY != 0;
                log.note(format!("{bit} {} {} {replay}", point.name(), call.client_id()));
                Flow::CONTINUE
            };
            (point, of_plugin(bit, link(u32::from(bit), 0, FaultPolicy::Ignore, noting)))
        })
    });
    let table = ChainTable::compile(1, links.collect::<Vec<_>>());
    world.shards[0].swap_chains(table.with_instances(vec![(PluginHandle(9), entry)]));
    world.shards[0].command(Command::Replay { plugin: PluginHandle(9) });
    world.pass_ms(10);
    let mut notified = log.take();
    notified.sort();
    assert_eq!(
        notified,
        [
            "9 client.connected pub true",
            "9 client.connected sub true",
            "9 session.created pub true",
            "9 session.created sub true",
            "9 session.subscribed sub true",
        ]
    );
}

/// The expiry that a plugin sets for a message counts from its publish.
#[test]
fn a_message_of_a_plugin_expires_after_its_expiry_interval() {
    for (away_ms, comes) in [(1_900, true), (2_000, false)] {
        let mut world = World::new(1);
        let properties = || vec![grapnel_engine::packet::Property::SessionExpiry(100)];
        let persistent =
            || ConnectRequest { clean: false, properties: properties(), ..ConnectRequest::v(Version::V5) };
        let away = world.connect("away", &persistent());
        world.subscribe(away, "t", QoS::AtLeastOnce);
        world.lose(away);
        world.pass_ms(10_000);
        let Command::Publish { plugin, message } = publish(1, "t", "x", 0) else { unreachable!() };
        let message = Message { qos: QoS::AtLeastOnce, expires_at_ms: Some(2_000), ..message };
        world.shards[0].command(Command::Publish { plugin, message });
        world.drive();
        world.pass_ms(away_ms);
        let away = world.connect("away", &persistent());
        assert_eq!(world.take(away).len(), usize::from(comes), "{away_ms}");
    }
}

/// A replay of many sessions is sent in slices and reports each session once.
#[test]
fn a_replay_of_many_sessions_takes_several_turns() {
    let mut world = World::new(1);
    for n in 0..600 {
        world.connect(&format!("c{n:03}"), &ConnectRequest::v(Version::V311));
    }
    let log = Log::default();
    let (_, entry) = instance();
    let created = {
        let log = log.clone();
        link(9, 0, FaultPolicy::Ignore, move |call: &mut Call<'_>| {
            log.note(call.client_id());
            Flow::CONTINUE
        })
    };
    let table = ChainTable::compile(1, vec![(HookPoint::SessionCreated, of_plugin(9, created))]);
    world.shards[0].swap_chains(table.with_instances(vec![(PluginHandle(9), entry)]));
    world.shards[0].command(Command::Replay { plugin: PluginHandle(9) });
    let now = world.now;
    assert!(world.shards[0].advance(now), "a slice is not all");
    let first = log.take();
    assert!((1..600).contains(&first.len()), "{} in the first turn", first.len());
    world.drive();
    let mut notified = [first, log.take()].concat();
    notified.sort();
    assert_eq!(notified, (0..600).map(|n| format!("c{n:03}")).collect::<Vec<_>>());
}

/// Publishes of a plugin have a limit of their own and are never evicted: the client with the most
/// bytes is disconnected.
#[test]
fn messages_of_a_plugin_are_not_evicted() {
    let mut world = World::with(1, |limits| limits.shard_bytes_max = 3_000_000);
    let sub = world.connect("sub", &ConnectRequest::v(Version::V5));
    world.subscribe(sub, "t", QoS::AtLeastOnce);
    let away = world.connect("away", &ConnectRequest { clean: false, ..ConnectRequest::v(Version::V311) });
    world.subscribe(away, "queued", QoS::AtLeastOnce);
    world.lose(away);
    let tickets = DeferredTickets::default();
    mount(&mut world, vec![(HookPoint::MessagePublish, later(1, 0, FaultPolicy::Ignore, &tickets))]);
    for _ in 0..20 {
        world.shards[0].command(publish(1, "t", &"x".repeat(100_000), 0));
    }
    mount(&mut world, Vec::new());
    for packet_id in 1..=15 {
        world.publish(sub, "queued", &"x".repeat(100_000), QoS::AtLeastOnce, packet_id);
    }
    world.pass_ms(100);
    assert_eq!(world.shards[0].counters().sessions_evicted, 1);
    world.forget(sub);
    // All wait behind the first.
    complete(&mut world, tickets.ticket(0), Flow::CONTINUE, Vec::new());
    assert_eq!(world.take(sub).len(), 20);
}

/// Retained messages follow a subscription that a plugin makes.
#[test]
fn a_client_gets_retained_messages_when_a_plugin_subscribes_it() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let client = world.connect("client", &ConnectRequest::v(Version::V5));
        world.publish_with(client, "r", "kept", QoS::AtLeastOnce, 1, true, &[]);
        world.forget(client);
        let home = world.shard_of(client);
        world.shards[home].command(Command::Subscribe {
            client_id: "client".into(),
            filter: "r".into(),
            options: SubscriptionOptions::of_qos(QoS::AtMostOnce),
            id: 0,
        });
        world.drive();
        let got = world.take_plain(client);
        assert_eq!(got.len(), 1, "{got:?}");
    }
}

/// An instance message for a plugin that is not mounted within 60 s is dropped and counted then,
/// whether or not the chains change. Its timer leaves with it.
#[test]
fn a_message_for_a_version_that_never_becomes_active_is_dropped_and_counted() {
    for changes in [false, true] {
        let mut world = World::new(1);
        let message = |number| Command::InstanceMessage {
            plugin: PluginHandle(9),
            from: 3,
            number,
            bytes: Bytes::from_static(b"x"),
        };
        let none = world.shards[0].timers();
        (0..3).for_each(|number| world.shards[0].command(message(number)));
        world.pass_ms(30_000);
        world.shards[0].command(message(3));
        if changes {
            world.shards[0].swap_chains(ChainTable::empty());
        }
        world.pass_ms(29_000);
        assert_eq!(world.shards[0].counters().plugin_mail_stale, 0, "it may still come");
        let (armed, owned) = world.shards[0].timers();
        assert_eq!((armed, owned), (none.0 + 1, none.1 + 1), "one timer for all of them");
        world.pass_ms(2_000);
        assert_eq!(world.shards[0].counters().plugin_mail_stale, 3);
        world.pass_ms(30_000);
        assert_eq!(world.shards[0].counters().plugin_mail_stale, 4, "it came later");
        assert_eq!(world.shards[0].timers(), none);
        let (recorded, entry) = instance();
        world.shards[0].swap_chains(table(entry));
        assert_eq!(recorded.0.take(), Vec::<String>::new());
    }
}

/// The timer of stored instance messages ends when their plugin comes, and a plugin that is
/// suspended or may come back has none.
#[test]
fn a_message_for_a_version_that_becomes_active_leaves_no_timer() {
    let mut world = World::new(1);
    let none = world.shards[0].timers();
    let (recorded, entry) = instance();
    let plugin = PluginHandle(9);
    let message = |number| Command::InstanceMessage { plugin, from: 3, number, bytes: Bytes::from("x") };
    world.shards[0].command(message(1));
    world.pass_ms(59_000);
    world.shards[0].swap_chains(table(entry));
    assert_eq!((recorded.0.take(), world.shards[0].timers()), (vec!["message 1 from 3: x".to_owned()], none));
    drop(world.shards[0].swap_chains(table(entry).with_suspended_plugins(vec![plugin])));
    world.shards[0].command(message(2));
    world.shards[0].swap_chains(ChainTable::empty());
    world.shards[0].command(message(3));
    assert_eq!(world.shards[0].timers(), none);
    world.pass_ms(100_000);
    world.shards[0].swap_chains(table(entry));
    assert_eq!(recorded.0.take(), ["message 2 from 3: x", "message 3 from 3: x"]);
}

/// A timer that a plugin cancels while it is suspended is removed, however often that happens.
#[test]
fn timers_stored_for_a_suspended_plugin_can_be_cancelled() {
    let mut world = World::new(1);
    let (recorded, entry) = instance();
    world.shards[0].swap_chains(table(entry).with_suspended_plugins(vec![PluginHandle(9)]));
    for timer in 0..100 {
        let plugin = PluginHandle(9);
        world.shards[0].command(Command::Timer { plugin, timer, after_ms: 0, number: timer });
        world.pass_ms(20);
        if timer != 50 {
            world.shards[0].command(Command::CancelTimer { plugin, timer });
        }
    }
    world.shards[0].swap_chains(table(entry));
    world.pass_ms(100);
    assert_eq!(recorded.0.take().len(), 1, "the one that was not taken back");
}

/// A store-only message of a plugin does not go to current subscribers, but to later ones
/// [MQTT-3.3.1-5]. An empty one clears the retained message.
#[test]
fn a_store_only_message_does_not_go_to_current_subscribers() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let client = world.connect("client", &ConnectRequest::v(Version::V5));
        world.subscribe(client, "$SYS/#", QoS::AtLeastOnce);
        let mut late = 0;
        for (payload, comes) in [("kept", 1), ("", 0)] {
            // Below `$` as well: the plugin itself publishes.
            let Command::Publish { plugin, message } = publish(1, "$SYS/r", payload, 0) else {
                unreachable!()
            };
            let message = Message { retain: true, ..message };
            world.shards[0].command(Command::Store { plugin, message });
            world.drive();
            assert_eq!(world.take_plain(client), [], "{shards} shards, {payload:?}");
            late += 1;
            let reader = world.connect(&format!("late{late}"), &ConnectRequest::v(Version::V5));
            world.subscribe(reader, "$SYS/r", QoS::AtLeastOnce);
            assert_eq!(world.take_plain(reader).len(), comes, "{shards} shards, {payload:?}");
        }
    }
}

/// A command about a client goes to all shards. The plugin receives one answer, also if no shard
/// has the client.
#[test]
fn a_command_about_an_absent_client_is_reported() {
    let mut world = World::new(2);
    let here = world.connect("here", &ConnectRequest::v(Version::V5));
    let options = SubscriptionOptions::of_qos(QoS::AtMostOnce);
    let kick = |client_id: &str| Command::Kick {
        client_id: client_id.into(),
        reason: ReasonCode::ADMINISTRATIVE_ACTION,
        discard: false,
    };
    let subscribe = |client_id: &str| Command::Subscribe {
        client_id: client_id.into(),
        filter: "a".into(),
        options,
        id: 0,
    };
    let unsubscribe = |client_id: &str, filter: &str| Command::Unsubscribe {
        client_id: client_id.into(),
        filter: filter.into(),
    };
    let commands: [(&dyn Fn() -> Command, &[Outcome]); 7] = [
        (&|| subscribe("gone"), &[Outcome::Absent]),
        (&|| unsubscribe("gone", "a"), &[Outcome::Absent]),
        (&|| kick("gone"), &[Outcome::Absent]),
        (&|| unsubscribe("here", "a"), &[Outcome::Refused]),
        (&|| subscribe("here"), &[]),
        (&|| unsubscribe("here", "a"), &[]),
        (&|| kick("here"), &[]),
    ];
    for (number, (command, expected)) in commands.iter().enumerate() {
        let notified: Arc<std::sync::Mutex<Vec<Outcome>>> = Arc::default();
        let note = Arc::clone(&notified);
        let search = Arc::new(Search::new(move |outcome| note.lock().expect("the lock").push(outcome)));
        for shard in &mut world.shards {
            let search = Arc::clone(&search);
            shard.command(Command::Sought { search, command: Box::new(command()) });
        }
        drop(search);
        world.drive();
        assert_eq!(*notified.lock().expect("the lock"), *expected, "command {number}");
    }
    assert!(world.is_closed(here));
}

/// message.publish distinguishes a will from a publish of the client, and session.subscribed shows
/// who made a subscription.
#[test]
fn hooks_see_whether_a_publish_is_a_will_and_whether_a_plugin_subscribed() {
    let mut world = World::new(1);
    let log = Log::default();
    let seen = log.clone();
    let hook = link(1, 0, FaultPolicy::Ignore, move |call| {
        seen.note(format!("{} {}", call.topic(), call.flags() & FLAG_WILL != 0));
        Flow::CONTINUE
    });
    let seen = log.clone();
    let subscribed = link(2, 0, FaultPolicy::Ignore, move |call| {
        seen.note(format!("{} by {}", call.topic(), call.text(Field::CAUSE)));
        Flow::CONTINUE
    });
    mount(&mut world, vec![(HookPoint::MessagePublish, hook), (HookPoint::SessionSubscribed, subscribed)]);
    let will = Some(("will", "gone", QoS::AtMostOnce, false));
    let client = world.connect("c", &ConnectRequest { will, ..ConnectRequest::v(Version::V5) });
    world.subscribe(client, "own", QoS::AtMostOnce);
    world.shards[0].command(Command::Subscribe {
        client_id: "c".into(),
        filter: "added".into(),
        options: SubscriptionOptions::of_qos(QoS::AtMostOnce),
        id: 0,
    });
    world.publish(client, "t", "x", QoS::AtMostOnce, 0);
    world.lose(client);
    world.drive();
    assert_eq!(log.take(), ["own by -", "added by plugin", "t false", "will true"]);
}
