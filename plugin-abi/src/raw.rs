//! The ABI: `repr(C)` tables that broker and plugin read by size, so that each side may know more fields than the other.
//! Nothing a plugin is handed outlives the call it was handed in; all that it changes is copied by the host.

use std::ffi::c_void;

use abi_stable::StableAbi;

use crate::module::Mount;
use crate::point::HookPoint;

/// Major version of the ABI: another one is another ABI.
pub const ABI_MAJOR: u16 = 1;
/// Minor version: what was added since.
#[cfg(not(feature = "abi-test-grown"))]
pub const ABI_MINOR: u16 = 0;
/// The minor version that the tests of growth pretend to.
#[cfg(feature = "abi-test-grown")]
pub const ABI_MINOR: u16 = 1;

/// Borrowed bytes; valid during the call they were given in. `ptr` may be null where `len` is 0.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct Slice {
    /// First byte.
    pub ptr: *const u8,
    /// Number of bytes.
    pub len: usize,
}

impl Slice {
    /// No bytes.
    pub const EMPTY: Slice = Slice { ptr: std::ptr::null(), len: 0 };

    /// A view of these bytes; the caller keeps them alive for as long as the view is used.
    pub const fn of(bytes: &[u8]) -> Slice {
        Slice { ptr: bytes.as_ptr(), len: bytes.len() }
    }

    /// The bytes again.
    ///
    /// # Safety
    /// What the view was made of must be alive and unchanged for `'a`.
    pub const unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.ptr.is_null() || self.len == 0 {
            return &[];
        }
        // SAFETY: non-null, and the caller vouches for the rest.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }

    /// The bytes as text; an empty one where they are not UTF-8.
    ///
    /// # Safety
    /// As for [`Slice::bytes`].
    pub unsafe fn text<'a>(self) -> &'a str {
        // SAFETY: the caller vouches for the view.
        std::str::from_utf8(unsafe { self.bytes() }).unwrap_or("")
    }
}

macro_rules! numbers {
    ($(#[$doc:meta])* $name:ident: $type:ty { $($(#[$vdoc:meta])* $variant:ident = $value:literal;)* }) => {
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, StableAbi)]
        pub struct $name(pub $type);
        impl $name {
            $($(#[$vdoc])* pub const $variant: $name = $name($value);)*

            /// Every number with its name, for the hash of the ABI and for messages.
            pub const NAMES: &'static [(&'static str, $type)] = &[$((stringify!($variant), $value)),*];
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self.0 { $($value => f.write_str(stringify!($variant)),)* other => write!(f, "{}({other})", stringify!($name)) }
            }
        }
    };
}

numbers! {
    /// What a hook returns. Any other value is a fault.
    Flow: u32 {
        /// Go on with the next link; changes are kept.
        CONTINUE = 0;
        /// End the chain; changes are kept.
        STOP = 1;
        /// The answer comes later through the ticket that was taken in this call; changes are kept, unless it ends by a fault.
        DEFER = 2;
        /// The hook failed; its changes are thrown away and the fault policy holds.
        FAULT = 3;
    }
}

numbers! {
    /// How a host function ended.
    Status: u32 {
        /// Done.
        OK = 0;
        /// This host, or this hook point, does not know the field or function.
        UNSUPPORTED = 1;
        /// The field is known, and absent here.
        ABSENT = 2;
        /// The value cannot be taken: too large, not UTF-8, an unknown reason code, a topic name with a wildcard.
        INVALID = 3;
        /// The handle or ticket names something that is gone.
        STALE = 4;
        /// A limit is reached.
        FULL = 5;
        /// Called from a thread or at a moment where it may not be called.
        WRONG_MOMENT = 6;
        /// The plugin's own function failed; its [`crate::module::ErrorText`] says why.
        FAILED = 7;
    }
}

numbers! {
    /// What is read and changed through the host, by number. Which exist at which point stands in the author's guide.
    Field: u32 {
        /// Client identifier (text, read only).
        CLIENT_ID = 1;
        /// User name (text, read only).
        USERNAME = 2;
        /// Password (bytes, read only, at authenticate alone).
        PASSWORD = 3;
        /// Address the client comes from (text, without the port).
        PEER_HOST = 4;
        /// Port the client comes from.
        PEER_PORT = 5;
        /// Port the client came to.
        SOCK_PORT = 6;
        /// Name of the listener.
        LISTENER = 7;
        /// Protocol level: 3, 4 or 5.
        PROTO_VER = 8;
        /// Clean start (0, 1).
        CLEAN_START = 9;
        /// Keep alive, seconds. May be changed at connect and connack.
        KEEP_ALIVE_S = 10;
        /// Session expiry interval, seconds. May be changed at connect and connack.
        SESSION_EXPIRY_S = 11;
        /// Receive Maximum of CONNECT, which may be changed; at connack the broker's, which may be lowered.
        RECEIVE_MAXIMUM = 12;
        /// When the connection was made, milliseconds since 1970.
        CONNECTED_AT_MS = 13;
        /// Authentication method of MQTT 5 (text).
        AUTH_METHOD = 14;
        /// Authentication data of MQTT 5 (bytes).
        AUTH_DATA = 15;
        /// Whether the client is a superuser; settable at authenticate.
        IS_SUPERUSER = 16;
        /// Verdict: 0 unanswered, 1 allow, 2 deny, and at authenticate 3: another round, with AUTH_DATA for the client. At connect,
        /// authenticate, authorize, and per filter (by index) at subscribe and unsubscribe.
        VERDICT = 17;
        /// Reason code that goes with a refusal, and the reason of client.disconnected.
        REASON_CODE = 18;
        /// Reason string that goes with a refusal (text).
        REASON_STRING = 19;
        /// What is authorised: 1 publish, 2 subscribe, 3 deliver, 4 will.
        ACTION = 20;
        /// Topic name or, at authorize for subscribe, topic filter (text).
        TOPIC = 21;
        /// Payload (bytes).
        PAYLOAD = 22;
        /// Quality of service, 0 to 2.
        QOS = 23;
        /// Retain flag (0, 1).
        RETAIN = 24;
        /// DUP flag (0, 1; read only).
        DUP = 25;
        /// Content type (text).
        CONTENT_TYPE = 26;
        /// Response topic (text).
        RESPONSE_TOPIC = 27;
        /// Correlation data (bytes).
        CORRELATION_DATA = 28;
        /// Message expiry interval, seconds.
        MESSAGE_EXPIRY_S = 29;
        /// Payload format indicator (0, 1).
        PAYLOAD_FORMAT = 30;
        /// User property by index (key and value). A set with index [`APPEND`] adds one; a set of `number` 1 removes it.
        USER_PROPERTY = 31;
        /// Topic filter by index at subscribe and unsubscribe, the $share prefix included (text); the one of session.subscribed and
        /// session.unsubscribed.
        FILTER = 32;
        /// Options byte of the topic filter by index, as section 3.8.3.1 has it.
        FILTER_OPTIONS = 33;
        /// What happens to the message: 0 route it, 1 drop it and acknowledge, 2 reject it with REASON_CODE, 3 disconnect with REASON_CODE. At delivered: 1 vetoes the delivery.
        DISPOSITION = 34;
        /// Client identifier of the publisher, where there is a message (text, read only).
        FROM = 35;
        /// Name of the plugin's own instance as the operator wrote it (text, read only).
        PLUGIN_NAME = 36;
        /// When the message came in, milliseconds since 1970.
        TIMESTAMP_MS = 37;
        /// Protocol name as CONNECT has it (text).
        PROTO_NAME = 38;
        /// Address the client came to (text, without the port).
        SOCK_HOST = 39;
        /// Subject of the client's TLS certificate (text).
        TLS_SUBJECT = 40;
        /// What the listener puts in front of the client's topics (text).
        MOUNTPOINT = 41;
        /// Whether nobody vouched for the client (0, 1).
        ANONYMOUS = 42;
        /// When the session was made, milliseconds since 1970.
        SESSION_CREATED_AT_MS = 43;
        /// Whether the session outlives its connection (0, 1).
        SESSION_PERSISTENT = 44;
        /// Subscriptions of the session.
        SESSION_SUBSCRIPTIONS = 45;
        /// QoS 1 and 2 messages that were sent to the client and not acknowledged.
        SESSION_INFLIGHT = 46;
        /// Messages that wait for the client.
        SESSION_QUEUED = 47;
        /// QoS 2 messages of the client that wait for PUBREL.
        SESSION_AWAITING_REL = 48;
        /// Subscription identifier, at subscribe and the session's subscription points.
        SUBSCRIPTION_ID = 49;
        /// Name of the share group of a filter by index (text; absent where it is not shared).
        SHARE_GROUP = 50;
        /// Whether the subscription was not there before (0, 1).
        IS_NEW = 51;
        /// Why a message was dropped, or a session or subscription ended: one word, such as `queue_full` or `expired` (text).
        CAUSE = 52;
        /// At message.dropped: `node`, or the client identifier of whom it was dropped for (text).
        DROPPED_BY = 53;
        /// At message.retained: 1 set, 2 cleared, 3 expired.
        RETAINED_CHANGE = 54;
        /// Type of the packet, 1 (CONNECT) to 15 (AUTH).
        PACKET_TYPE = 55;
        /// Bytes of the whole packet. PAYLOAD has those of them that lie together: a shared payload of a packet that is sent is not
        /// among them.
        PACKET_BYTES = 56;
        /// Whether the broker may remember the verdict for this session and topic (0, 1). Settable at authorize; 1 at first.
        CACHEABLE = 57;
        /// Whether the message is the broker's own (0, 1).
        SYS = 58;
        /// Maximum Packet Size of CONNECT, which may be changed; at connack the broker's, which may be lowered.
        MAXIMUM_PACKET_SIZE = 59;
        /// Topic Alias Maximum of CONNECT, which may be changed; at connack the broker's, which may be lowered.
        TOPIC_ALIAS_MAXIMUM = 60;
        /// Request Response Information of CONNECT (0, 1).
        REQUEST_RESPONSE_INFO = 61;
        /// Request Problem Information of CONNECT (0, 1).
        REQUEST_PROBLEM_INFO = 62;
        /// Response Information of CONNACK (text).
        RESPONSE_INFO = 63;
        /// Server Reference of CONNACK (text).
        SERVER_REFERENCE = 64;
        /// Session Present of CONNACK (0, 1; read only).
        SESSION_PRESENT = 65;
        /// Topic name of the will in CONNECT (text, read only).
        WILL_TOPIC = 66;
        /// Payload of the will in CONNECT (bytes, read only).
        WILL_PAYLOAD = 67;
        /// QoS of the will in CONNECT.
        WILL_QOS = 68;
        /// Retain flag of the will in CONNECT (0, 1).
        WILL_RETAIN = 69;
        /// Number of the message: no other one of this run of the broker has it.
        MESSAGE_ID = 70;
        /// Client identifier that the broker gave, at connack (text, read only).
        ASSIGNED_CLIENT_ID = 71;
        /// Version of the broker (text), at the broker's points.
        BROKER_VERSION = 72;
        /// Milliseconds since the broker started, at the broker's points.
        BROKER_UPTIME_MS = 73;
        /// Address of a listener by index (text), at the broker's points.
        BROKER_LISTENER = 74;
        /// Number of filters at subscribe and unsubscribe.
        FILTERS = 75;
        /// Number of user properties.
        USER_PROPERTIES = 76;
        /// Number of the network connection: no other one of this run has it. The rounds of an authentication have it in common.
        CONNECTION = 77;
    }
}

numbers! {
    /// Whose authorisation is asked again.
    Scope: u32 {
        /// Everybody's.
        ALL = 0;
        /// That of one client identifier.
        CLIENT = 1;
        /// That of one user name.
        USER = 2;
        /// That of topics which match a topic filter.
        TOPIC_FILTER = 3;
    }
}

numbers! {
    /// What a metric of a plugin is.
    MetricKind: u32 {
        /// Only grows; `measure` adds.
        COUNTER = 0;
        /// Goes up and down; `measure` sets.
        GAUGE = 1;
        /// Counts values by size; `measure` counts one.
        HISTOGRAM = 2;
    }
}

numbers! {
    /// What a chain has answered, as [`Field::VERDICT`] has it.
    Verdict: u32 {
        /// Nobody has answered.
        UNANSWERED = 0;
        /// Let in, allowed.
        ALLOW = 1;
        /// Refused, with [`Field::REASON_CODE`].
        DENY = 2;
        /// At authenticate: another round, with [`Field::AUTH_DATA`] for the client.
        CHALLENGE = 3;
    }
}

numbers! {
    /// What happens to a message, as [`Field::DISPOSITION`] has it.
    Disposition: u32 {
        /// It goes on.
        ROUTE = 0;
        /// At publish: it is dropped, and acknowledged as if it had been routed. At delivered: this subscriber does not get it.
        DROP = 1;
        /// At publish: it is refused with [`Field::REASON_CODE`].
        REJECT = 2;
        /// At publish: it is refused, and the connection is closed with [`Field::REASON_CODE`].
        DISCONNECT = 3;
    }
}

numbers! {
    /// What is authorised, as [`Event::action`] and [`Field::ACTION`] have it.
    Action: u32 {
        /// Publishing to a topic name.
        PUBLISH = 1;
        /// Subscribing to a topic filter.
        SUBSCRIBE = 2;
        /// Receiving a message of a topic name.
        DELIVER = 3;
        /// Leaving a will for a topic name.
        WILL = 4;
    }
}

numbers! {
    /// How important a line of the log is.
    LogLevel: u32 {
        /// Something failed.
        ERROR = 1;
        /// Something is wrong, and work goes on.
        WARN = 2;
        /// Something worth knowing happened.
        INFO = 3;
        /// For the plugin's developers.
        DEBUG = 4;
        /// For the plugin's developers, in full.
        TRACE = 5;
    }
}

numbers! {
    /// What a fault or a missed deadline of a hook means, as [`Mount::policy`] has it.
    Policy: u32 {
        /// What the hook point says.
        DEFAULT = 0;
        /// Stop with a refusal: nobody after it can allow.
        DENY = 1;
        /// As if the hook had not been there.
        IGNORE = 2;
    }
}

/// Index that appends in a set of an indexed field.
pub const APPEND: u32 = u32::MAX;

/// Bit of [`Event::flags`]: the message is retained, or the client asks for retain.
pub const FLAG_RETAIN: u32 = 1;
/// Bit of [`Event::flags`]: DUP of the packet.
pub const FLAG_DUP: u32 = 2;
/// Bit of [`Event::flags`]: the client is a superuser.
pub const FLAG_SUPERUSER: u32 = 4;
/// Bit of [`Event::flags`]: the client gave a user name.
pub const FLAG_HAS_USERNAME: u32 = 8;
/// Bit of [`Event::flags`]: the client gave a password.
pub const FLAG_HAS_PASSWORD: u32 = 16;
/// Bit of [`Event::flags`]: the event tells of what was there before the plugin; it asked for it with `replay`.
pub const FLAG_REPLAY: u32 = 32;
/// Bit of [`Event::flags`]: the message is the broker's own.
pub const FLAG_SYS: u32 = 64;

/// Bit of [`crate::module::Mount::flags`]: at client.authorize, asks for action `deliver` too.
pub const MOUNT_DELIVER: u32 = 1;

/// Bit of [`crate::module::Manifest::flags`]: the library may be unmapped once it is proven quiet.
pub const MANIFEST_CLOSABLE: u32 = 1;

/// Every shard, as the addressee of mail.
pub const ALL_SHARDS: u32 = u32::MAX;

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

/// Key and value of a user property. Text.
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
    /// Zero.
    pub reserved: u8,
    /// Message expiry interval, seconds; 0 for none.
    pub message_expiry_s: u32,
    /// Zero.
    pub reserved2: u32,
    /// Topic name.
    pub topic: Slice,
    /// Payload.
    pub payload: Slice,
    /// Content type; empty for none.
    pub content_type: Slice,
    /// Response topic; empty for none.
    pub response_topic: Slice,
    /// Correlation data; empty for none.
    pub correlation_data: Slice,
    /// Client identifier it is said to come from; empty for the plugin's name.
    pub from: Slice,
    /// User properties.
    pub user_properties: *const Pair,
    /// How many.
    pub user_properties_len: usize,
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
}

/// Where an instance writes its state, lent by the host for the call.
#[repr(C)]
#[derive(StableAbi)]
pub struct StateSink {
    /// The host's own.
    pub ctx: *mut c_void,
    /// Takes the next bytes; [`Status::FULL`] beyond `state_bytes_max`.
    pub write: unsafe extern "C" fn(ctx: *mut c_void, bytes: Slice) -> Status,
}

/// A hook. Runs on the shard's thread with that shard's instance; must not block.
pub type HookFn = unsafe extern "C" fn(instance: *mut c_void, event: *const Event) -> Flow;

/// What the broker offers a plugin. One for each loaded plugin; never freed. A field beyond `size` does not exist.
///
/// `get`, `set`, `defer` and `add_message` are for the running hook, on its thread, with its `ctx`. All others may be called from
/// any thread from `load` on until the plugin's end and later, when they answer [`Status::STALE`]; those that act (`publish`,
/// `kick`, `subscribe`, `unsubscribe`, `invalidate`, `mail`) are copied and run after the current event has ended.
#[repr(C)]
#[derive(StableAbi)]
pub struct HostApi {
    /// Bytes of this struct as the host built it.
    pub size: u32,
    /// [`ABI_MAJOR`] of the host.
    pub abi_major: u16,
    /// [`ABI_MINOR`] of the host.
    pub abi_minor: u16,
    /// The plugin's handle: index and generation. The first argument of what is not for the running hook.
    pub plugin: u64,
    /// How many shards there are.
    pub shards: u32,
    /// Zero.
    pub reserved: u32,
    /// Writes a line to the broker's log under the plugin's name. `level` is a [`LogLevel`]. Any thread.
    pub log: unsafe extern "C" fn(plugin: u64, level: u32, message: Slice),
    /// Reads a field of the event. In the hook alone, with its `ctx`.
    pub get: unsafe extern "C" fn(ctx: *mut c_void, field: Field, index: u32, out: *mut Value) -> Status,
    /// Changes the accumulator; copied at once, kept on Continue and Stop, thrown away on Fault. In the hook alone.
    pub set: unsafe extern "C" fn(ctx: *mut c_void, change: *const Change) -> Status,
    /// Takes a ticket; the hook then returns [`Flow::DEFER`]. `deadline_ms` 0 means the operator's default. In the hook alone.
    pub defer: unsafe extern "C" fn(ctx: *mut c_void, deadline_ms: u32, out: *mut Ticket) -> Status,
    /// Ends a deferred verdict with CONTINUE, STOP or FAULT and the changes. Any thread, once.
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
    /// Publishes a message. It runs through the chains of all plugins but those that led to it. Any thread; [`Status::FULL`] beyond
    /// `publishes_per_second_max`.
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
    /// Sends bytes to the plugin's instance on a shard, or with [`ALL_SHARDS`] to all: its `on_mail`. Any thread; [`Status::FULL`]
    /// beyond `mail_bytes_max`.
    pub mail: unsafe extern "C" fn(plugin: u64, to_shard: u32, number: u64, bytes: Slice) -> Status,
    /// Calls `on_timer` of the shard's instance once, after at least this time. On a shard's thread alone.
    pub timer: unsafe extern "C" fn(plugin: u64, after_ms: u64, number: u64, out: *mut u64) -> Status,
    /// Cancels a timer of this shard. On a shard's thread alone.
    pub cancel_timer: unsafe extern "C" fn(plugin: u64, timer: u64) -> Status,
    /// Starts a thread that the broker joins when the plugin ends. It must end soon after `wait_stop` has answered 1. Any thread.
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
    /// What a later version could add: a function that answers 77.
    #[cfg(feature = "abi-test-grown")]
    pub grown: unsafe extern "C" fn(plugin: u64) -> u64,
}
