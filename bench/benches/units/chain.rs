//! A message.publish event in a chain of native links.

use std::ffi::c_void;
use std::hint::black_box;
use std::sync::Arc;

use grapnel_engine::address::Address;
use grapnel_engine::hook::chain::DispatchScope;
use grapnel_engine::hook::draft::Draft;
use grapnel_engine::hook::message::{MessageFold, Rules};
use grapnel_engine::hook::view::ClientView;
use grapnel_engine::hook::{
    CallCell, ChainTable, Entry, FaultPolicy, HookPoint, Link, LinkIdentity, PluginHandle,
};
use grapnel_engine::id::ShardId;
use grapnel_engine::limits::Limits;
use grapnel_engine::message::{MessageView, Payload};
use grapnel_engine::packet::{QoS, Version};
use grapnel_engine::time::Now;
use grapnel_plugin_abi::host::{Module, host_api};
use grapnel_plugin_abi::module::Mount;
use grapnel_plugin_abi::raw::{Change, Event, Field, Flow, HookFn, HostApi, Slice, Status};
use grapnel_plugin_abi::{Error, Host, NoConfig, Plugin, Publish};

use super::Unit;
use super::codec::PAYLOAD;

/// A minimal hook: it reads the topic and continues.
unsafe extern "C" fn looks(_instance: *mut c_void, event: *const Event) -> Flow {
    // SAFETY: the event is alive during the call.
    let event = unsafe { &*event };
    if event.topic.len == 0 { Flow::FAULT } else { Flow::CONTINUE }
}

/// Changes the message's topic. Its instance is the host's table.
unsafe extern "C" fn rewrites(instance: *mut c_void, event: *const Event) -> Flow {
    let topic = b"rewritten/17/temperature";
    let change =
        Change { field: Field::TOPIC, index: 0, number: 0, bytes: Slice::of(topic), key: Slice::EMPTY };
    // SAFETY: the instance is a `HostApi` that is never freed; the event and the change are alive
    // during the call.
    let status = unsafe { ((*instance.cast::<HostApi>()).set)((*event).ctx, &change) };
    if status == Status::OK { Flow::CONTINUE } else { Flow::FAULT }
}

/// A plugin in C that does nothing.
unsafe extern "C" fn passes(_instance: *mut c_void, _event: *const Event) -> Flow {
    Flow::CONTINUE
}

/// A plugin on the SDK that does nothing.
struct Passes;

impl Plugin for Passes {
    type Config = NoConfig;
    type Shard = Passes;

    fn load(_config: NoConfig, _host: &Host) -> Result<Passes, Error> {
        Ok(Passes)
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<Passes, Error> {
        Ok(Passes)
    }
}

impl Passes {
    fn publish(&mut self, _message: &mut Publish<'_>) -> grapnel_plugin_abi::Flow {
        grapnel_plugin_abi::Flow::Continue
    }
}

grapnel_plugin_abi::__exported!(Passes { message.publish => Passes::publish, });

/// The hook of [`Passes`] with an instance, made by the broker's functions.
fn passing() -> (HookFn, *mut c_void) {
    let module = Module::of(grapnel_plugin_abi::__private::module::<Passes>());
    let host: &'static HostApi = Box::leak(Box::new(host_api(1, 1)));
    let (mut plugin, mut instance, mut mount) = (std::ptr::null_mut(), std::ptr::null_mut(), Mount::EMPTY);
    // SAFETY: in the order of the contract, with places that are writable and no buffer for an
    // error text.
    let made = unsafe {
        [
            (module.load)(host, Slice::of(b"{}"), &raw mut plugin, std::ptr::null_mut()),
            (module.init_shard)(plugin, 0, &raw mut instance, std::ptr::null_mut()),
            (module.mount)(0, &raw mut mount),
        ]
    };
    assert_eq!(made, [Status::OK; 3]);
    (mount.hook.unwrap(), instance)
}

/// So many links that read the event, at each of the points.
pub fn links(count: u32, points: &[HookPoint]) -> ChainTable {
    table(count, points, (looks, std::ptr::null_mut()), None)
}

fn table(
    count: u32,
    points: &[HookPoint],
    (function, instance): (HookFn, *mut c_void),
    topics: Option<&str>,
) -> ChainTable {
    let topics: Option<Arc<[Box<str>]>> = topics.map(|filter| [Box::from(filter)].into());
    let links = (0..count).flat_map(|number| {
        let topics = &topics;
        points.iter().map(move |point| {
            let link = Link {
                // SAFETY: the function is part of this program and gets the instance it expects.
                entry: unsafe { Entry::new(function, instance) },
                plugin: PluginHandle(u64::from(number)),
                identity: LinkIdentity(number),
                name: "bench".into(),
                priority: 0,
                deadline_ms: 1000,
                policy: FaultPolicy::Ignore,
                topics: topics.clone(),
                deliver: false,
                bit: 0,
            };
            (*point, link)
        })
    });
    ChainTable::compile(1, links)
}

pub fn publish(count: u32) -> impl Unit {
    running(links(count, &[HookPoint::MessagePublish]), "sensors/17/temperature")
}

/// So many links that do nothing: of a plugin in C, of one on the SDK, or in C with a topic filter.
pub fn idle(kind: Idle, count: u32) -> impl Unit {
    let (hook, topics) = match kind {
        Idle::C => ((passes as HookFn, std::ptr::null_mut()), None),
        Idle::Sdk => (passing(), None),
        Idle::Filtered => ((passes as HookFn, std::ptr::null_mut()), Some("sensors/+/temperature")),
    };
    running(table(count, &[HookPoint::MessagePublish], hook, topics), "sensors/17/temperature")
}

/// See [`idle`].
pub enum Idle {
    C,
    Sdk,
    Filtered,
}

pub fn rewrite() -> impl Unit {
    let host = Box::leak(Box::new(host_api(1, 1)));
    let instance = std::ptr::from_mut(host).cast();
    running(table(1, &[HookPoint::MessagePublish], (rewrites, instance), None), "rewritten/17/temperature")
}

fn running(mut table: ChainTable, expected: &'static str) -> impl Unit {
    let from: Arc<str> = "sensor-17".into();
    let calls = CallCell::default();
    let limits = Limits::default();
    let peer = Address::new("127.0.0.1:40000".parse().ok());
    move || {
        let rules = Rules { limits: &limits, now: Now { mono_ms: 1, wall_ms: 1 } };
        let client = ClientView {
            client_id: &from,
            username: None,
            is_certified: false,
            connect_username: None,
            password: None,
            peer: &peer,
            local: &Address::NONE,
            listener: "default",
            transport: None,
            tls: None,
            version: Version::V311,
            clean_start: true,
            keep_alive_s: 60,
            expiry_s: 0,
            receive_maximum: 100,
            connected_at_ms: 1,
            connection: 1,
            session: 1,
            superuser: false,
            anonymous: true,
            properties: &[],
            stored: None,
            will: None,
        };
        let view = MessageView {
            id: 1,
            topic: black_box("sensors/17/temperature"),
            payload: Payload::Borrowed(&PAYLOAD),
            properties: &[],
            qos: QoS::AtMostOnce,
            retain: false,
            from: &from,
            origin: None,
            expires_at_ms: None,
            wall_ms: 1,
            ancestry: 0,
            stored: 0,
            flow: None,
        };
        let point = HookPoint::MessagePublish;
        let mut fold = MessageFold::new(point, client, view, Draft::default(), rules, None);
        let mut event = fold.event(ShardId(0), 1, false);
        let exit = table.chain_mut(point).run((point, &calls), DispatchScope::WHOLE, &mut event, &mut fold);
        black_box(exit);
        let topic = fold.draft.topic_text().unwrap_or("sensors/17/temperature");
        assert_eq!(topic.len(), expected.len());
        topic.len() as u64
    }
}
