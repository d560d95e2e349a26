//! The ABI: `repr(C)` tables that broker and plugin read by size, so that each side may know more fields than the other.
//! Nothing a plugin is handed outlives the call it was handed in; all that it changes is copied by the host.

use std::ffi::c_void;

use abi_stable::StableAbi;

/// Major version of the ABI: another one is another ABI.
pub const ABI_MAJOR: u16 = 1;
/// Minor version: what was added since.
pub const ABI_MINOR: u16 = 0;

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
        /// The answer comes later through the ticket that was taken in this call.
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
        /// The plugin's own function failed; its [`ErrorText`] says why.
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
        /// Keep alive, seconds. May be changed at connect.
        KEEP_ALIVE_S = 10;
        /// Session expiry interval, seconds. May be changed at connect.
        SESSION_EXPIRY_S = 11;
        /// Receive maximum of the client.
        RECEIVE_MAXIMUM = 12;
        /// When the connection was made, milliseconds since 1970.
        CONNECTED_AT_MS = 13;
        /// Authentication method of MQTT 5 (text).
        AUTH_METHOD = 14;
        /// Authentication data of MQTT 5 (bytes).
        AUTH_DATA = 15;
        /// Whether the client is a superuser; settable at authenticate.
        IS_SUPERUSER = 16;
        /// Verdict: 0 unanswered, 1 allow, 2 deny. At connect, authenticate, authorize, and per filter (by index) at subscribe.
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
        /// User property by index (key and value). A set with index `u32::MAX` adds one; a set of `number` 1 removes it.
        USER_PROPERTY = 31;
        /// Topic filter by index at subscribe, the $share prefix included (text).
        FILTER = 32;
        /// Options byte of the topic filter by index, as section 3.8.3.1 has it.
        FILTER_OPTIONS = 33;
        /// What happens to the message: 0 route it, 1 drop it and acknowledge, 2 reject it with REASON_CODE, 3 disconnect with REASON_CODE. At delivered: 1 vetoes the delivery.
        DISPOSITION = 34;
        /// Client identifier of the publisher, at delivered (text, read only).
        FROM = 35;
        /// Name of the plugin's own instance as the operator wrote it (text, read only).
        PLUGIN_NAME = 36;
        /// When the message came in, milliseconds since 1970.
        TIMESTAMP_MS = 37;
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
    /// What is authorised, as [`Field::ACTION`].
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
    /// Payload of the message.
    pub payload: Slice,
    /// The host's own; handed back to it in `get`, `set` and `defer`.
    pub ctx: *mut c_void,
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

/// A hook. Runs on the shard's thread with that shard's instance; must not block.
pub type HookFn = unsafe extern "C" fn(instance: *mut c_void, event: *const Event) -> Flow;

/// What the broker offers a plugin. One for each loaded plugin; never freed. A field beyond `size` does not exist.
#[repr(C)]
#[derive(StableAbi)]
pub struct HostApi {
    /// Bytes of this struct as the host built it.
    pub size: u32,
    /// [`ABI_MAJOR`] of the host.
    pub abi_major: u16,
    /// [`ABI_MINOR`] of the host.
    pub abi_minor: u16,
    /// The plugin's handle: index and generation. Goes into `log`.
    pub plugin: u64,
    /// How many shards there are.
    pub shards: u32,
    /// Zero.
    pub reserved: u32,
    /// Writes a line to the broker's log under the plugin's name. Level 1 error … 5 trace. Any thread.
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
}
