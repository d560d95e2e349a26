//! The numbers of the ABI with their names, and the bits of its flags. A number is never used again
//! for something else.

use abi_stable::StableAbi;

#[cfg(doc)]
use super::Event;
#[cfg(doc)]
use crate::module::Mount;

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
        /// Nobody has answered, as where a process or a database that the plugin asks is away: as with FAULT, but it does not
        /// count towards the breaker, since the plugin itself works.
        UNANSWERED = 4;
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
        /// User property by index (key and value). A set with index [`APPEND`] adds one, [`Status::FULL`] beyond
        /// `user_properties_max`; a set of `number` 1 removes it.
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
        /// Subject of the client's TLS certificate, as RFC 4514 writes it (text, read only). Fields of a certificate are there if the
        /// client has shown one that was verified.
        TLS_SUBJECT = 40;
        /// What the listener puts in front of the client's topics (text).
        MOUNTPOINT = 41;
        /// Whether nobody vouched for the client: neither a plugin nor its certificate (0, 1).
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
        /// Session Present of CONNACK; at authenticate, whether there is a session under the client identifier (0, 1; read only). It is
        /// not there where the client is in already and authenticates anew.
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
        /// At authenticate, user name of whom the session under the client identifier belongs to (text, read only; absent where there
        /// is no session, or it is of a client without a user name).
        SESSION_OWNER = 78;
        /// Number of the session: no other one of this run has it, and of two under one client identifier the later has the greater
        /// one. A session keeps it when another connection takes it over or resumes it. It is not there where the client has no session:
        /// in client.authorize before it is let in, and where it is refused. At client.connect and client.authenticate, for a client
        /// that is not in yet, it is that of the session under the client identifier, which may belong to somebody else and may end
        /// before the client is let in.
        SESSION = 79;
        /// How the client has reached the broker: `tcp`, `tls`, `ws`, `wss` or `unix` (text, read only). It is not there for what is no
        /// client, such as a plugin that publishes.
        TRANSPORT = 80;
        /// Version of the client's TLS connection, to the broker or to a proxy in front of it, such as `TLSv1.3` (text, read only).
        TLS_VERSION = 81;
        /// Cipher suite of that connection, by its IANA name (text, read only).
        TLS_CIPHER = 82;
        /// Server name that the client asked for in TLS (SNI; text, read only).
        TLS_SERVER_NAME = 83;
        /// Last common name in the subject of the client's certificate (text, read only).
        TLS_COMMON_NAME = 84;
        /// Subject alternative name of the client's certificate by index: `DNS:…`, `URI:…`, `email:…`, `IP:…` (text, read only).
        TLS_ALTERNATIVE_NAME = 85;
        /// Number of subject alternative names (read only). It is not there without a certificate.
        TLS_ALTERNATIVE_NAMES = 86;
        /// Issuer of the client's certificate, as RFC 4514 writes it (text, read only).
        TLS_ISSUER = 87;
        /// Serial number of the client's certificate, hexadecimal in lower case (text, read only).
        TLS_SERIAL = 88;
        /// SHA-256 of the client's certificate (DER), hexadecimal in lower case (text, read only).
        TLS_FINGERPRINT = 89;
        /// Whether the listener took the user name from the client's certificate, which has authenticated the client (0, 1; read only).
        USERNAME_CERTIFIED = 90;
        /// User name in CONNECT, at connect and authenticate (text, read only). It is another one than USERNAME where the listener takes
        /// the user name from the client's certificate.
        CONNECT_USERNAME = 91;
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

numbers! {
    /// What an instance is asked to do about the pieces of its state.
    ExportStep: u32 {
        /// Write the first piece of all that there is, and note from now on what changes behind what has been written. What was
        /// noted before is forgotten.
        BEGIN = 1;
        /// Write the next piece: what comes after the last one, or what has changed since it was written.
        NEXT = 2;
        /// Write nothing: who takes over holds the same at this moment. Note from now on what changes; NEXT asks for it.
        FOLLOW = 3;
        /// Write nothing: no piece is asked for any more. Forget what was noted.
        END = 4;
    }
}

/// Index that appends in a set of an indexed field.
pub const APPEND: u32 = u32::MAX;

/// Bit of [`HostApi::flags`](super::HostApi::flags): the plugin was loaded by the start of the broker, which has not started yet;
/// broker.started is still to come.
pub const HOST_STARTING: u32 = 1;
/// Bit that [`HostApi::hook_calls`](super::HostApi::hook_calls) gives: the shard calls the hook from now on.
pub const HOOK_CALLED: u32 = 1;
/// Bit that [`HostApi::hook_calls`](super::HostApi::hook_calls) gives: the shard called the hook before the change.
pub const HOOK_WAS_CALLED: u32 = 2;
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
/// Bit of [`Event::flags`]: at message.publish, the message is a client's will.
pub const FLAG_WILL: u32 = 128;

/// Bit of [`crate::module::Mount::flags`]: at client.authorize, asks for action `deliver` too.
pub const MOUNT_DELIVER: u32 = 1;

/// Bit of [`crate::module::Manifest::flags`]: the library may be unmapped once it is proven quiet.
pub const MANIFEST_CLOSABLE: u32 = 1;

/// Bit of [`crate::module::Manifest::flags`]: the plugin may be loaded again over the code that is mapped, also while an older load of it
/// still runs. Nothing that belongs to one load is in a static or in a thread-local of the library: its host table, its
/// configuration and its threads are reached from what `load` and `init_shard` gave.
pub const MANIFEST_IN_PLACE: u32 = 2;

/// Every shard, as the addressee of instance messages.
pub const ALL_SHARDS: u32 = u32::MAX;

/// The broker, as the sender of instance messages: what became of a request on behalf of a client. The message's number is the request's, its
/// one byte a reason code; a page of retained messages has more bytes, of which the first is 0.
pub const FROM_BROKER: u32 = 4_294_967_294;

/// Bytes that a client's identity has at most.
pub const IDENTITY_BYTES_MAX: u32 = 65_536;

/// Bit of [`crate::raw::OnBehalf::flags`]: the plugin is notified by an instance message what became of it.
pub const BEHALF_ANSWER: u32 = 1;

/// In [`crate::raw::NewMessage::flags`]: the message has a content type, though it is empty.
pub const MESSAGE_HAS_CONTENT_TYPE: u32 = 1;

/// In [`crate::raw::NewMessage::flags`]: the message has correlation data, though they are empty.
pub const MESSAGE_HAS_CORRELATION_DATA: u32 = 2;
