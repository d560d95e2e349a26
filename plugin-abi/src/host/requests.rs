//! ABI tables that plugins pass to functions of [`HostApi`](crate::raw::HostApi) (a message, a
//! mount, a metric), as borrowed Rust types. Only the form is checked here; the broker checks the
//! content.

use super::table::copied;
use crate::module::Mount;
use crate::point::{FaultPolicy, HookPoint};
use crate::raw::{
    HookFn, MESSAGE_HAS_CONTENT_TYPE, MESSAGE_HAS_CORRELATION_DATA, MetricKind, NewMessage, Pair, Slice,
    Status,
};

/// A message to publish, borrowed for the call.
#[derive(Clone, Debug)]
pub struct PluginMessage<'a> {
    /// Topic name as the plugin wrote it; not checked.
    pub topic: &'a [u8],
    /// Payload.
    pub payload: &'a [u8],
    /// Quality of service, 0 to 2.
    pub qos: u8,
    /// Retain flag.
    pub retain: bool,
    /// Whether it is only stored as a retained message.
    pub store_only: bool,
    /// Payload format indicator, 0 or 1.
    pub payload_format: Option<u8>,
    /// Message expiry interval, seconds; 0 for none.
    pub message_expiry_s: u32,
    /// The flow that it is counted in, a number of the plugin; 0 for none.
    pub flow: u32,
    /// May be empty; not checked.
    pub content_type: Option<&'a [u8]>,
    /// Empty for none; not checked.
    pub response_topic: &'a [u8],
    /// May be empty.
    pub correlation_data: Option<&'a [u8]>,
    /// Client identifier of the publisher; empty for the plugin's name; not checked.
    pub from: &'a [u8],
    /// Keys and values; not checked.
    pub user_properties: Vec<(&'a [u8], &'a [u8])>,
}

/// Maximum number of user properties of a plugin's message.
const USER_PROPERTIES_MAX: usize = 1024;

impl<'a> PluginMessage<'a> {
    /// Reads a message from a table, which may have the size of an older or newer header.
    ///
    /// # Errors
    /// [`Status::INVALID`] for null, a table that ends within a field, a QoS above 2, unknown
    /// flags, or too many properties.
    ///
    /// # Safety
    /// The table must be null, or readable for the number of bytes in its size field during the
    /// call. Everything that it points to must be valid and unchanged during `'a`.
    pub unsafe fn of(message: *const NewMessage) -> Result<PluginMessage<'a>, Status> {
        // SAFETY: the caller guarantees it.
        let message = unsafe { copied(message) }?;
        if message.qos > 2
            || message.flags & !(MESSAGE_HAS_CONTENT_TYPE | MESSAGE_HAS_CORRELATION_DATA) != 0
            || (message.store_only != 0 && message.retain == 0)
            || message.user_properties_len > USER_PROPERTIES_MAX
        {
            return Err(Status::INVALID);
        }
        let payload_format = match message.payload_format {
            format @ (0 | 1) => Some(format),
            255 => None,
            _ => return Err(Status::INVALID),
        };
        // SAFETY: the caller guarantees it.
        let pairs: &[Pair] = unsafe { list(message.user_properties, message.user_properties_len) };
        let given = |bytes: &'a [u8], flag| (!bytes.is_empty() || message.flags & flag != 0).then_some(bytes);
        // SAFETY: the caller guarantees every view.
        unsafe {
            Ok(PluginMessage {
                topic: message.topic.bytes(),
                payload: message.payload.bytes(),
                qos: message.qos,
                retain: message.retain != 0,
                store_only: message.store_only != 0,
                payload_format,
                message_expiry_s: message.message_expiry_s,
                flow: message.flow,
                content_type: given(message.content_type.bytes(), MESSAGE_HAS_CONTENT_TYPE),
                response_topic: message.response_topic.bytes(),
                correlation_data: given(message.correlation_data.bytes(), MESSAGE_HAS_CORRELATION_DATA),
                from: message.from.bytes(),
                user_properties: pairs.iter().map(|pair| (pair.key.bytes(), pair.value.bytes())).collect(),
            })
        }
    }
}

/// A hook to mount, borrowed for the call.
#[derive(Clone, Debug)]
pub struct MountRequest<'a> {
    /// The hook point.
    pub point: HookPoint,
    /// The function.
    pub function: HookFn,
    /// Its name within the plugin.
    pub name: &'a str,
    /// Higher runs earlier.
    pub priority: i32,
    /// Deadline of a deferred verdict, milliseconds; 0 for the operator's default.
    pub deadline_ms: u32,
    /// What a fault means; `None` for the default of the hook point.
    pub policy: Option<FaultPolicy>,
    /// At client.authorize: whether it is called for deliveries.
    pub deliver: bool,
    /// Topic filters, not checked; none for all topics.
    pub topics: Vec<&'a str>,
    /// Passed back to the function; never dereferenced.
    pub args: usize,
}

/// Maximum number of topic filters of one hook.
const TOPICS_MAX: usize = 1024;

impl<'a> MountRequest<'a> {
    /// Reads a mount from a table.
    ///
    /// # Errors
    /// The error as a predicate without a subject: "mounts on hook point 99, which does not exist".
    ///
    /// # Safety
    /// Everything that the table points to must be valid and unchanged during `'a`.
    pub unsafe fn of(mount: &Mount) -> Result<MountRequest<'a>, String> {
        let point = HookPoint::from_number(mount.point)
            .ok_or_else(|| format!("mounts on hook point {}, which does not exist", mount.point))?;
        let function = mount.hook.ok_or_else(|| format!("mounts no function on {}", point.name()))?;
        // SAFETY: the caller guarantees the view.
        let name = unsafe { mount.name.text() };
        if name.is_empty() {
            return Err(format!("mounts a hook without a name on {}", point.name()));
        }
        let policy = match mount.policy {
            0 => None,
            1 => Some(FaultPolicy::Deny),
            2 => Some(FaultPolicy::Ignore),
            other => return Err(format!("gives {name} the unknown fault policy {other}")),
        };
        if mount.flags & !crate::raw::MOUNT_DELIVER != 0 {
            return Err(format!(
                "gives {name} the flags {:#x}, of which this broker knows not all",
                mount.flags
            ));
        }
        if mount.topics_len > TOPICS_MAX {
            return Err(format!("gives {name} more than {TOPICS_MAX} topic filters"));
        }
        // SAFETY: the caller guarantees the list.
        let topics: &[Slice] = unsafe { list(mount.topics, mount.topics_len) };
        Ok(MountRequest {
            point,
            function,
            name,
            priority: mount.priority,
            deadline_ms: mount.deadline_ms,
            policy,
            deliver: mount.flags & crate::raw::MOUNT_DELIVER != 0,
            // SAFETY: the caller guarantees every view.
            topics: topics.iter().map(|topic| unsafe { topic.text() }).collect(),
            args: mount.args as usize,
        })
    }
}

/// A metric to register, borrowed for the call.
#[derive(Clone, Debug)]
pub struct MetricRequest<'a> {
    /// Counter, gauge or histogram.
    pub kind: MetricKind,
    /// Its name; not checked.
    pub name: &'a str,
    /// One line of help.
    pub help: &'a str,
    /// Upper bounds of a histogram's buckets; empty for the default.
    pub bounds: &'a [i64],
}

/// The items that a plugin passes; empty for a null pointer.
///
/// # Safety
/// `first` must be null or point to `len` items that are valid and unchanged during `'a`.
pub(crate) unsafe fn list<'a, T>(first: *const T, len: usize) -> &'a [T] {
    if first.is_null() || len == 0 {
        return &[];
    }
    // SAFETY: the caller guarantees it.
    unsafe { std::slice::from_raw_parts(first, len) }
}

/// Text that a plugin passes; INVALID if it is not UTF-8.
///
/// # Safety
/// As for [`Slice::bytes`].
pub(super) unsafe fn text<'a>(slice: Slice) -> Result<&'a str, Status> {
    // SAFETY: the caller guarantees the view.
    std::str::from_utf8(unsafe { slice.bytes() }).map_err(|_| Status::INVALID)
}
