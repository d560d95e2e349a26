//! A hook as the host calls it, and the table of functions that the host offers.

use std::ffi::c_void;

use abi_stable::StableAbi;

#[cfg(doc)]
use super::{
    ABI_MAJOR, ABI_MINOR, ALL_SHARDS, FLAG_REPLAY, FROM_BROKER, HOOK_CALLED, HOOK_WAS_CALLED, HOST_STARTING,
    IDENTITY_BYTES_MAX, LogLevel,
};
use super::{
    Action, Change, Event, Field, Flow, NewMessage, NewMetric, NewThread, OnBehalf, Scope, Slice, Status,
    Ticket, Value,
};
use crate::module::Mount;

/// A hook. Runs on the shard's thread with that shard's instance; must not block.
pub type HookFn = unsafe extern "C" fn(instance: *mut c_void, event: *const Event) -> Flow;

/// What the broker offers a plugin. One for each loaded plugin; never freed. A field beyond `size` does not exist.
///
/// `get`, `set`, `defer`, `add_message` and `identity` are for the running hook, on its thread, with its `ctx`. All others may be
/// called from any thread from `load` on until the plugin's end and later, when they answer [`Status::STALE`]; those that act
/// (`publish`, `kick`, `subscribe`, `unsubscribe`, `invalidate`, `instance_message`, and those whose names end in `_as`) are copied and run
/// after the current event has ended.
#[repr(C)]
#[derive(StableAbi)]
pub struct HostApi {
    /// Bytes of this struct as the host built it.
    pub size: u32,
    /// [`ABI_MAJOR`] of the host.
    pub abi_major: u16,
    /// [`ABI_MINOR`] of the host.
    pub abi_minor: u16,
    /// The plugin's handle. The lower half is the same for all loads under one name, and another one for each name; the upper half
    /// counts the loads. The first argument of what is not for the running hook.
    pub plugin: u64,
    /// How many shards there are.
    pub shards: u32,
    /// Bits: [`HOST_STARTING`]; as it was when the plugin was loaded.
    pub flags: u32,
    /// Writes a line to the broker's log under the plugin's name. `level` is a [`LogLevel`]. Any thread.
    pub log: unsafe extern "C" fn(plugin: u64, level: u32, message: Slice),
    /// Reads a field of the event. In the hook alone, with its `ctx`.
    pub get: unsafe extern "C" fn(ctx: *mut c_void, field: Field, index: u32, out: *mut Value) -> Status,
    /// Changes the accumulator; copied at once, kept on Continue and Stop, thrown away on Fault. In the hook alone.
    pub set: unsafe extern "C" fn(ctx: *mut c_void, change: *const Change) -> Status,
    /// Takes a ticket; the hook then returns [`Flow::DEFER`]. `deadline_ms` 0 means the operator's default. In the hook alone.
    pub defer: unsafe extern "C" fn(ctx: *mut c_void, deadline_ms: u32, out: *mut Ticket) -> Status,
    /// Ends a deferred verdict with CONTINUE, STOP, FAULT or UNANSWERED and the changes. [`Status::FULL`], and the ticket stays open,
    /// for more or longer changes than any packet can need: none of them is taken. Any thread, once.
    pub complete:
        unsafe extern "C" fn(ticket: Ticket, flow: Flow, changes: *const Change, count: usize) -> Status,
    /// At message.publish: another message, published after this one if this one is, and before its acknowledgement. In the hook
    /// alone; [`Status::FULL`] beyond `extra_messages_max`.
    pub add_message: unsafe extern "C" fn(ctx: *mut c_void, message: *const NewMessage) -> Status,
    /// Mounts a function at run time; every shard calls it from its next turn on. [`Status::INVALID`] where the function is mounted
    /// there already, or the mount is wrong. Any thread.
    pub hook: unsafe extern "C" fn(plugin: u64, mount: *const Mount, out: *mut u64) -> Status,
    /// Takes what `hook` gave out of the chains. Any thread.
    pub unhook: unsafe extern "C" fn(plugin: u64, hook: u64) -> Status,
    /// Publishes a message of the plugin's own: nobody authorises it. It runs through the chains of all plugins but those that led to
    /// it. What a client asked for is published with `publish_as`. Any thread; [`Status::FULL`] beyond
    /// `plugin_publishes_per_second_max`.
    pub publish: unsafe extern "C" fn(plugin: u64, message: *const NewMessage) -> Status,
    /// Disconnects a client with a reason code; `discard` 1 ends its session too. Any thread.
    pub kick: unsafe extern "C" fn(plugin: u64, client_id: Slice, reason: u32, discard: u32) -> Status,
    /// Subscribes a client to a topic filter, with an options byte (section 3.8.3.1) and a subscription identifier or 0. Neither
    /// client.subscribe nor client.authorize is asked. Any thread.
    pub subscribe: unsafe extern "C" fn(
        plugin: u64,
        client_id: Slice,
        filter: Slice,
        options: u32,
        subscription_id: u32,
    ) -> Status,
    /// Takes a subscription from a client. Any thread.
    pub unsubscribe: unsafe extern "C" fn(plugin: u64, client_id: Slice, filter: Slice) -> Status,
    /// Forgets remembered verdicts of client.authorize and asks again for the subscriptions in force. Any thread.
    pub invalidate: unsafe extern "C" fn(plugin: u64, scope: Scope, what: Slice) -> Status,
    /// Sends bytes to the plugin's instance on a shard, or with [`ALL_SHARDS`] to all: its `on_instance_message`. Any thread; [`Status::FULL`]
    /// beyond `mail_bytes_max`.
    pub instance_message:
        unsafe extern "C" fn(plugin: u64, to_shard: u32, number: u64, bytes: Slice) -> Status,
    /// Calls `on_timer` of the shard's instance once, after at least this time. On a shard's thread alone.
    pub timer: unsafe extern "C" fn(plugin: u64, after_ms: u64, number: u64, out: *mut u64) -> Status,
    /// Cancels a timer of this shard. On a shard's thread alone.
    pub cancel_timer: unsafe extern "C" fn(plugin: u64, timer: u64) -> Status,
    /// Starts a thread that the broker joins when the plugin ends. It must end soon after `wait_stop` has answered 1, or within
    /// [`NewThread::join_ms`]. Any thread.
    pub spawn: unsafe extern "C" fn(plugin: u64, thread: *const NewThread) -> Status,
    /// Waits until the plugin is to end, for at most this time; 1 if it is. Not on a shard's thread, unless the time is 0.
    pub wait_stop: unsafe extern "C" fn(plugin: u64, timeout_ms: u32) -> u32,
    /// Makes a metric, or finds the one that an earlier version of the plugin made. Any thread.
    pub metric: unsafe extern "C" fn(plugin: u64, metric: *const NewMetric, out: *mut u64) -> Status,
    /// A counter grows by the value, a gauge becomes it, a histogram counts it. Any thread.
    pub measure: unsafe extern "C" fn(metric: u64, value: i64) -> Status,
    /// A gauge grows by the value, which may be negative. Any thread.
    pub adjust: unsafe extern "C" fn(metric: u64, by: i64) -> Status,
    /// Tells this plugin alone of the sessions and subscriptions that are there, once per shard: client.connected,
    /// session.created and session.subscribed with [`FLAG_REPLAY`]. Any thread, once.
    pub replay: unsafe extern "C" fn(plugin: u64) -> Status,
    /// The file that the plugin was loaded from: its absolute path, any bytes but zero, for what lies beside it. Empty where there
    /// is none. It stays for ever.
    pub file: Slice,
    /// How many messages the broker still holds of those that were published with this number in [`NewMessage::flow`]: they wait for
    /// their turn, or for a client to acknowledge them or to come back. One that was delivered with QoS 0, dropped, or that nobody
    /// subscribes to is held no more; a retained one is as long as it is retained. Those of `add_message` are not counted. Each
    /// generation of a plugin counts its own. Any thread.
    pub in_flight: unsafe extern "C" fn(plugin: u64, flow: u32, out: *mut u64) -> Status,
    /// Writes who the event's client is into `buffer`, which has `capacity` bytes, and their number into `len`: at most
    /// [`IDENTITY_BYTES_MAX`]. The bytes mean nothing to the plugin, and may be kept and handed to its next version. In the hook
    /// alone; [`Status::FULL`] where there is too little room, with the number of bytes that it takes, or 0 where no identity
    /// may be so long; [`Status::UNSUPPORTED`] at points before the client is in, and where there is no client.
    pub identity:
        unsafe extern "C" fn(ctx: *mut c_void, buffer: *mut u8, capacity: usize, len: *mut usize) -> Status,
    /// Publishes a message on behalf of a client, whose identifier it bears. client.authorize is asked, and what the client's own
    /// PUBLISH must obey holds: a refused one has no effect and is counted. It keeps its place among what the plugin publishes, on
    /// the client's shard. Any thread; [`Status::INVALID`] for bytes that are no identity, [`Status::FULL`] beyond
    /// `plugin_publishes_per_second_max`.
    pub publish_as:
        unsafe extern "C" fn(plugin: u64, behalf: *const OnBehalf, message: *const NewMessage) -> Status,
    /// Subscribes a client as `subscribe` does, if client.authorize allows it, and if the session under its identifier is still of the
    /// same user name. Any thread.
    pub subscribe_as: unsafe extern "C" fn(
        plugin: u64,
        behalf: *const OnBehalf,
        filter: Slice,
        options: u32,
        subscription_id: u32,
    ) -> Status,
    /// Takes a subscription from a client, if the session under its identifier is still of the same user name. Any thread.
    pub unsubscribe_as: unsafe extern "C" fn(plugin: u64, behalf: *const OnBehalf, filter: Slice) -> Status,
    /// Asks client.authorize whether a client may publish to a topic, subscribe to a filter or get a message of a topic, for what the
    /// plugin keeps itself; the answer comes as an instance message from [`FROM_BROKER`], whatever the flags say. `qos` is 0 to 2. Any thread.
    pub authorize_as: unsafe extern "C" fn(
        plugin: u64,
        behalf: *const OnBehalf,
        action: Action,
        topic: Slice,
        qos: u32,
        retain: u32,
    ) -> Status,
    /// Reads a page of the retained messages that a client would get with a subscription to a filter with this `qos`, 0 to 2, if
    /// client.authorize lets it subscribe; where hooks are mounted for deliveries, each message is authorized too, and left out where
    /// the client may not have it. Hooks at client.subscribe and message.delivered are not called. `place` is empty for the first page,
    /// and else what the page before has said. The page has at most `messages_max` messages and `bytes_max` bytes of them, both from 1
    /// and no more than the broker's `behalf_page_messages_max` and `behalf_page_bytes_max`; its first message may have more where
    /// nothing else waits for the client. It comes as
    /// an instance message from [`FROM_BROKER`], whatever the flags say; its bytes are described in ABI.md, and a refusal is the one byte of its code.
    /// Any thread; [`Status::INVALID`] for a filter that cannot be or is a shared subscription's, for numbers out of their range, and
    /// for bytes that are no place.
    pub fetch_as: unsafe extern "C" fn(
        plugin: u64,
        behalf: *const OnBehalf,
        filter: Slice,
        qos: u32,
        place: Slice,
        messages_max: u32,
        bytes_max: u32,
    ) -> Status,
    /// What a metric has now: the value of a counter or gauge, with `bucket` 0; of a histogram how many values are in the bucket of
    /// this number, of which the last one has those above all bounds. [`Status::ABSENT`] beyond the last bucket. Any thread.
    pub reading: unsafe extern "C" fn(metric: u64, bucket: u32, out: *mut i64) -> Status,
    /// Which calls of the plugin's hook of this name at this hook point the shard makes, as bits: [`HOOK_CALLED`] if it calls the hook
    /// from now on, [`HOOK_WAS_CALLED`] if it did before the change that `configured` is about. Without such a change both are the same.
    /// A hook is not called if the operator has unmounted it, if the plugin is disabled or tripped, or if there is none of that name. In
    /// an instance that has taken a state over, the second bit is about the version before. In `configured` alone;
    /// [`Status::WRONG_MOMENT`] elsewhere.
    pub hook_calls: unsafe extern "C" fn(plugin: u64, point: u32, name: Slice, out: *mut u32) -> Status,
    /// What a later version could add: a function that answers 77.
    #[cfg(feature = "abi-test-grown")]
    pub grown: unsafe extern "C" fn(plugin: u64) -> u64,
}

// SAFETY: its functions say from which threads they may be called, and what `file` shows stays as it is for ever.
unsafe impl Sync for HostApi {}
// SAFETY: as above.
unsafe impl Send for HostApi {}
