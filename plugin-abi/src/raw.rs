//! The ABI: `repr(C)` tables that broker and plugin read by size, so that each side may know more
//! fields than the other. Nothing that a plugin gets outlives the call; the host copies everything
//! that a plugin changes. Everything in the files of `raw/` is re-exported here and named by this
//! path alone.

mod event;
mod host;
mod numbers;
mod requests;
mod slice;

pub use event::{Change, Event, Ticket, Value};
pub use host::{HookFn, HostApi};
pub use numbers::{
    ALL_SHARDS, APPEND, Action, BEHALF_ANSWER, Disposition, ExportStep, FLAG_DUP, FLAG_HAS_PASSWORD,
    FLAG_HAS_USERNAME, FLAG_REPLAY, FLAG_RETAIN, FLAG_SUPERUSER, FLAG_SYS, FLAG_WILL, FROM_BROKER, Field,
    Flow, HOOK_CALLED, HOOK_WAS_CALLED, HOST_STARTING, IDENTITY_BYTES_MAX, LogLevel, MANIFEST_CLOSABLE,
    MANIFEST_IN_PLACE, MESSAGE_HAS_CONTENT_TYPE, MESSAGE_HAS_CORRELATION_DATA, MOUNT_DELIVER, MetricKind,
    Policy, Scope, Status, Verdict,
};
pub use requests::{NewMessage, NewMetric, NewThread, OnBehalf, Pair, StateSink};
pub use slice::Slice;

/// Major version of the ABI: another one is another ABI.
pub const ABI_MAJOR: u16 = 1;
/// Minor version: what was added since.
#[cfg(not(feature = "abi-test-grown"))]
pub const ABI_MINOR: u16 = 0;
/// The minor version that the tests of growth pretend to.
#[cfg(feature = "abi-test-grown")]
pub const ABI_MINOR: u16 = 1;
