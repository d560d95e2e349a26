//! What a hook gets and changes: the event, a field's value, a change, a ticket.

use std::ffi::c_void;

use abi_stable::StableAbi;

#[cfg(doc)]
use super::APPEND;
use super::{Field, Slice};
use crate::point::HookPoint;

/// What every hook reads, at hand without a call; the rest is asked of the host by [`Field`].
#[repr(C)]
#[derive(StableAbi)]
pub struct Event {
    /// Bytes of this struct as the host built it; a field beyond is absent.
    pub size: u32,
    /// Number of the hook point.
    pub point: u16,
    /// Protocol level of the client: 3, 4, 5, or 0 where there is none.
    pub proto_ver: u8,
    /// Quality of service of message or request.
    pub qos: u8,
    /// `FLAG_…` bits.
    pub flags: u32,
    /// The shard this runs on.
    pub shard: u32,
    /// What is authorised, as [`Field::ACTION`]; at packet.received and packet.sent the packet's type.
    pub action: u8,
    /// Reason code of client.disconnected.
    pub reason_code: u8,
    /// Zero.
    pub reserved: u16,
    /// Zero.
    pub reserved2: u32,
    /// Wall clock of the event, milliseconds since 1970.
    pub wall_ms: u64,
    /// Client the event is about.
    pub client_id: Slice,
    /// Its user name.
    pub username: Slice,
    /// Topic name, or topic filter at authorize for subscribe.
    pub topic: Slice,
    /// Payload of the message; at packet.received and packet.sent the packet.
    pub payload: Slice,
    /// The host's own; handed back to it in `get`, `set`, `defer` and `add_message`.
    pub ctx: *mut c_void,
    /// What the hook was mounted with.
    pub args: *mut c_void,
    /// What a later version could add: 77.
    #[cfg(feature = "abi-test-grown")]
    pub grown: u64,
}

impl Event {
    /// An event of a hook point, with nothing in it but where and when.
    pub const fn at(point: HookPoint, shard: u32, wall_ms: u64) -> Event {
        Event {
            size: size_of::<Event>() as u32,
            point: point as u16,
            proto_ver: 0,
            qos: 0,
            flags: 0,
            shard,
            action: 0,
            reason_code: 0,
            reserved: 0,
            reserved2: 0,
            wall_ms,
            client_id: Slice::EMPTY,
            username: Slice::EMPTY,
            topic: Slice::EMPTY,
            payload: Slice::EMPTY,
            ctx: std::ptr::null_mut(),
            args: std::ptr::null_mut(),
            #[cfg(feature = "abi-test-grown")]
            grown: 77,
        }
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The views are not followed: whether they are still alive is not known here.
        f.debug_struct("Event")
            .field("point", &self.point)
            .field("shard", &self.shard)
            .finish_non_exhaustive()
    }
}

/// A field's value as the host gives it: a number, or one or two views.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct Value {
    /// The number, or 0.
    pub number: u64,
    /// The text or bytes, or the value of a pair.
    pub bytes: Slice,
    /// The key of a pair.
    pub key: Slice,
}

impl Value {
    /// Nothing.
    pub const EMPTY: Value = Value { number: 0, bytes: Slice::EMPTY, key: Slice::EMPTY };
}

/// One change of an accumulator. Copied by the host during the call.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct Change {
    /// Which field.
    pub field: Field,
    /// Which of several; 0 where there is one; [`APPEND`] adds.
    pub index: u32,
    /// The new number.
    pub number: u64,
    /// The new text or bytes, or the value of a pair.
    pub bytes: Slice,
    /// The key of a pair.
    pub key: Slice,
}

/// Handle of a deferred verdict. Never 0.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, StableAbi)]
pub struct Ticket(pub u64);
