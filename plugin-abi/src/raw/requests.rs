//! What a plugin passes to the host with a request (a message, a metric, a thread), and where the
//! host lets it write its state.

use std::ffi::c_void;

use abi_stable::StableAbi;

use super::{MetricKind, Slice, Status};

/// Key and value of a user property, or of an argument of a verb. Text.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct Pair {
    /// The key.
    pub key: Slice,
    /// The value.
    pub value: Slice,
}

/// A message that a plugin publishes. Copied by the host during the call.
#[repr(C)]
#[derive(StableAbi)]
pub struct NewMessage {
    /// Bytes of this struct as the plugin was built with it.
    pub size: u32,
    /// Quality of service, 0 to 2.
    pub qos: u8,
    /// Retain flag (0, 1).
    pub retain: u8,
    /// Payload format indicator: 0, 1, or 255 for none.
    pub payload_format: u8,
    /// Whether it is only stored, with `retain`, and goes to no subscriber (0, 1).
    pub store_only: u8,
    /// Message expiry interval, seconds; 0 for none.
    pub message_expiry_s: u32,
    /// The flow that the message is counted in, a number of the plugin's choice; 0 for none. See
    /// [`HostApi::in_flight`](super::HostApi::in_flight).
    pub flow: u32,
    /// Topic name.
    pub topic: Slice,
    /// Payload.
    pub payload: Slice,
    /// Content type; empty for none, unless `flags` says otherwise.
    pub content_type: Slice,
    /// Response topic; empty for none.
    pub response_topic: Slice,
    /// Correlation data; empty for none, unless `flags` says otherwise.
    pub correlation_data: Slice,
    /// Client identifier it is said to come from; empty for the plugin's name.
    pub from: Slice,
    /// User properties.
    pub user_properties: *const Pair,
    /// How many.
    pub user_properties_len: usize,
    /// `MESSAGE_HAS_…` bits of [`crate::raw`], for properties that are there and empty. What is not empty is there without its bit.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// For whom a plugin asks for something, and whether it is told what became of it. Copied by the host during the call.
///
/// Whoever it is, client.authorize is asked as for the client's own packet: with the client as its session knows it, where one of
/// the same user name is there, otherwise with what `identity` says.
#[repr(C)]
#[derive(StableAbi)]
pub struct OnBehalf {
    /// Bytes of this struct as the plugin was built with it.
    pub size: u32,
    /// `BEHALF_…` bits of [`crate::raw`].
    pub flags: u32,
    /// What `identity` of the host wrote. Empty stands for whoever has `client_id` when it is done.
    pub identity: Slice,
    /// Client identifier, where there is no identity; refused with 0x85 where no session has it.
    pub client_id: Slice,
    /// Comes back as the number of the message that tells what became of it.
    pub number: u64,
}

/// A metric that a plugin wants to have in `/metrics`. Copied by the host during the call.
#[repr(C)]
#[derive(StableAbi)]
pub struct NewMetric {
    /// Bytes of this struct as the plugin was built with it.
    pub size: u32,
    /// What it is.
    pub kind: MetricKind,
    /// Its name within the plugin, with its unit: lower case letters, digits and `_`.
    pub name: Slice,
    /// One line on what it counts.
    pub help: Slice,
    /// Upper bounds of a histogram's buckets, growing; null for 1, 2, 5, 10 … 1,000,000,000.
    pub bounds: *const i64,
    /// How many, at most 64.
    pub bounds_len: usize,
}

/// A thread that the broker starts for a plugin and joins at its end.
#[repr(C)]
#[derive(StableAbi)]
pub struct NewThread {
    /// Bytes of this struct as the plugin was built with it.
    pub size: u32,
    /// Zero.
    pub reserved: u32,
    /// Its name, for tools that show threads; the first 15 bytes are seen.
    pub name: Slice,
    /// Its body.
    pub run: unsafe extern "C" fn(arg: *mut c_void),
    /// Handed to the body.
    pub arg: *mut c_void,
    /// How long it may take to end once `wait_stop` has answered 1, milliseconds, where it has something to bring to its end; 0 is
    /// the operator's `plugin_thread_join_ms`, and `plugin_retire_ms_max` is the most. Until then all host functions answer it
    /// as before, but for those that begin something: another thread, a hook.
    pub join_ms: u64,
}

/// Where an instance writes its state, or a verb its answer, lent by the host for the call.
#[repr(C)]
#[derive(StableAbi)]
pub struct StateSink {
    /// The host's own.
    pub ctx: *mut c_void,
    /// Takes the next bytes; [`Status::FULL`] beyond what the call may write.
    pub write: unsafe extern "C" fn(ctx: *mut c_void, bytes: Slice) -> Status,
}
