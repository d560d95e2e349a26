//! The hook points: their numbers in the ABI, their names, and what a link may do there. The broker
//! compiles one chain for each; the SDK mounts hooks at them. Numbers are never reused.
//!
//! `for_each_point!` is the one list of them. Every other list is made from it, by a macro or by
//! the tests that `just abi` runs: see "a hook point" in CONTRIBUTING.md.

use abi_stable::StableAbi;

/// Whether links only observe, or may change an accumulator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Links may change the accumulator.
    Fold,
    /// Links are notified. They may end the chain, but cannot change anything.
    Run,
}

/// What a fault or a missed deadline means at a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultPolicy {
    /// Ends the chain with a refusal; no later link can allow.
    Deny,
    /// Continues as if the link were not mounted.
    Ignore,
}

/// Calls a macro with every hook point, in the order of the numbers. Tokens after the macro's name
/// are passed first:
///
/// ```text
/// GROUP.EVENT: VARIANT of HookPoint, NAME of a function for it, TYPE of its event in the SDK {
///     /// One sentence.
///     NUMBER, KIND, whether a link may answer later, FAULT POLICY;
///     when "it is called"; fields "beside the client's";
///     may "what a hook may do"; result "what the chain's result means"; changes "fields that can be changed";
/// }
/// ```
///
/// The last line is missing at points that only notify. The texts are cells of the tables in `guide/points.md`.
#[doc(hidden)]
#[macro_export]
macro_rules! for_each_point {
    ($callback:ident $($before:tt)*) => { $callback! { $($before)*
        client.connect: ClientConnect, client_connect, Connect {
            /// A CONNECT was read; nothing is decided yet.
            0, Fold, true, Ignore;
            when "a CONNECT was read, before anything is decided";
            fields "`CONNECT_USERNAME`, `VERDICT`, `REASON_CODE`, `REASON_STRING`";
            may "change properties of the CONNECT, refuse it";
            result "refused: CONNACK with that reason; otherwise `client.authenticate` follows";
            changes "`VERDICT`, `REASON_CODE`, `REASON_STRING`, `KEEP_ALIVE_S`, \
                `SESSION_EXPIRY_S`, `RECEIVE_MAXIMUM`, `MAXIMUM_PACKET_SIZE`, \
                `TOPIC_ALIAS_MAXIMUM`, `REQUEST_RESPONSE_INFO`, `REQUEST_PROBLEM_INFO`, \
                `USER_PROPERTY`";
        }
        client.authenticate: ClientAuthenticate, client_authenticate, Authenticate {
            /// Decides whether a client may connect.
            1, Fold, true, Deny;
            when "after `client.connect`; for each AUTH packet; when a connected MQTT 5 client \
                authenticates again";
            fields "`CONNECT_USERNAME`, `PASSWORD`, `AUTH_METHOD`, `AUTH_DATA`, `WILL_TOPIC`, \
                `WILL_PAYLOAD`, `WILL_QOS`, `WILL_RETAIN`, `SESSION_PRESENT`, `SESSION_OWNER`, \
                `VERDICT`, `REASON_CODE`, `REASON_STRING`";
            may "allow, deny, request another AUTH packet, send data to the client, make it a \
                superuser";
            result "allowed: the client may connect; denied: it is refused with that reason; no \
                verdict: a client without a user name may connect if its listener has \
                `allow_anonymous = true`, and one whose user name the listener takes from its \
                certificate; any other client is refused with 0x86";
            changes "`VERDICT`, `REASON_CODE`, `REASON_STRING`, `AUTH_DATA`, `IS_SUPERUSER`";
        }
        client.authorize: ClientAuthorize, client_authorize, Authorize {
            /// Decides whether a client may publish, subscribe, leave a will, or receive a message.
            2, Fold, true, Deny;
            when "a client wants to publish, to subscribe, or to leave a will; for hooks mounted \
                with `deliver = true` also before each delivery; not for superusers";
            fields "`ACTION`, `TOPIC`, `QOS`, `RETAIN`, `CACHEABLE`, `VERDICT`, `REASON_CODE`, \
                `REASON_STRING`";
            may "allow, deny";
            result "allowed or denied with that reason; no verdict: `authorization.no_match` \
                decides. A denied will refuses the CONNECT; a denied delivery is dropped with the \
                cause `not_authorized`";
            changes "`VERDICT`, `REASON_CODE`, `REASON_STRING`, `CACHEABLE`";
        }
        client.connack: ClientConnack, client_connack, Connack {
            /// A CONNACK is about to be sent, with success or with a refusal.
            3, Fold, false, Ignore;
            when "a CONNACK is about to be sent, with success or with a refusal";
            fields "`REASON_CODE`, `REASON_STRING`, `SESSION_PRESENT`, `ASSIGNED_CLIENT_ID`, \
                `RESPONSE_INFO`, `SERVER_REFERENCE`; the user properties are those of the \
                CONNACK";
            may "change properties of the CONNACK";
            result "the CONNACK is sent with these properties; the decision does not change";
            changes "`REASON_STRING`, `RESPONSE_INFO`, `SERVER_REFERENCE`, `KEEP_ALIVE_S`, \
                `SESSION_EXPIRY_S`, `RECEIVE_MAXIMUM`, `MAXIMUM_PACKET_SIZE`, \
                `TOPIC_ALIAS_MAXIMUM`, `USER_PROPERTY`";
        }
        client.connected: ClientConnected, client_connected, Connected {
            /// A CONNACK with success has been queued for sending.
            4, Run, false, Ignore;
            when "a CONNACK with success has been queued for sending";
            fields "–";
        }
        client.disconnected: ClientDisconnected, client_disconnected, Disconnected {
            /// The connection of a client that was connected is about to close.
            5, Run, false, Ignore;
            when "the connection of a client that was connected (CONNACK with success) is about to \
                close";
            fields "`REASON_CODE`";
        }
        client.subscribe: ClientSubscribe, client_subscribe, Subscribe {
            /// A SUBSCRIBE was read; its filters may be changed or refused.
            6, Fold, true, Deny;
            when "a SUBSCRIBE was read";
            fields "`FILTERS`; for each filter, by index, `FILTER`, `FILTER_OPTIONS`, \
                `SHARE_GROUP`, `VERDICT`, `REASON_CODE`; `SUBSCRIPTION_ID`; the user properties \
                are those of the SUBSCRIBE";
            may "change a filter or its options, refuse it";
            result "`client.authorize` is called for each filter that is not refused, as it is now; \
                the codes of SUBACK are in the order of the packet";
            changes "by index `FILTER`, `FILTER_OPTIONS`, `VERDICT`, `REASON_CODE`";
        }
        client.unsubscribe: ClientUnsubscribe, client_unsubscribe, Unsubscribe {
            /// An UNSUBSCRIBE was read; its filters may be changed or refused.
            7, Fold, true, Ignore;
            when "an UNSUBSCRIBE was read";
            fields "as `client.subscribe`, without `FILTER_OPTIONS` and `SUBSCRIPTION_ID`";
            may "change a filter, refuse it";
            result "the subscriptions to the filters, as they are now, are removed; a refused \
                filter stays subscribed";
            changes "by index `FILTER`, `VERDICT`, `REASON_CODE`";
        }
        session.created: SessionCreated, session_created, Session {
            /// A session was created.
            8, Run, false, Ignore;
            when "a session was created for a client; after `client.connected`";
            fields "`SESSION_CREATED_AT_MS`, `SESSION_PERSISTENT`, `SESSION_EXPIRY_S`, \
                `SESSION_SUBSCRIPTIONS`, `SESSION_INFLIGHT`, `SESSION_QUEUED`, \
                `SESSION_AWAITING_REL`; where the session ends `CAUSE`, `REASON_CODE`";
        }
        session.resumed: SessionResumed, session_resumed, Session {
            /// A client resumed its stored session.
            9, Run, false, Ignore;
            when "a client resumed its stored session; after `client.connected`";
            fields "`SESSION_CREATED_AT_MS`, `SESSION_PERSISTENT`, `SESSION_EXPIRY_S`, \
                `SESSION_SUBSCRIPTIONS`, `SESSION_INFLIGHT`, `SESSION_QUEUED`, \
                `SESSION_AWAITING_REL`; where the session ends `CAUSE`, `REASON_CODE`";
        }
        session.discarded: SessionDiscarded, session_discarded, Session {
            /// A CONNECT with clean start, or of another user, discarded a session.
            10, Run, false, Ignore;
            when "a CONNECT with clean start, or of another user, discarded the existing session";
            fields "`SESSION_CREATED_AT_MS`, `SESSION_PERSISTENT`, `SESSION_EXPIRY_S`, \
                `SESSION_SUBSCRIPTIONS`, `SESSION_INFLIGHT`, `SESSION_QUEUED`, \
                `SESSION_AWAITING_REL`; where the session ends `CAUSE`, `REASON_CODE`";
        }
        session.takenover: SessionTakenover, session_takenover, Session {
            /// A new connection took over a session from an open connection.
            11, Run, false, Ignore;
            when "a new connection took over a session from a connection that was still open";
            fields "`SESSION_CREATED_AT_MS`, `SESSION_PERSISTENT`, `SESSION_EXPIRY_S`, \
                `SESSION_SUBSCRIPTIONS`, `SESSION_INFLIGHT`, `SESSION_QUEUED`, \
                `SESSION_AWAITING_REL`; where the session ends `CAUSE`, `REASON_CODE`";
        }
        session.terminated: SessionTerminated, session_terminated, Session {
            /// A session ended, other than by being discarded.
            12, Run, false, Ignore;
            when "a session ended, other than by being discarded: cause `closed`, `expired`, \
                `kicked` or `takenover`";
            fields "`SESSION_CREATED_AT_MS`, `SESSION_PERSISTENT`, `SESSION_EXPIRY_S`, \
                `SESSION_SUBSCRIPTIONS`, `SESSION_INFLIGHT`, `SESSION_QUEUED`, \
                `SESSION_AWAITING_REL`; where the session ends `CAUSE`, `REASON_CODE`";
        }
        session.subscribed: SessionSubscribed, session_subscribed, Subscription {
            /// A subscription has taken effect.
            13, Run, false, Ignore;
            when "a subscription has taken effect";
            fields "those of the session, and `FILTER`, `FILTER_OPTIONS`, `SHARE_GROUP`, \
                `SUBSCRIPTION_ID`, `CAUSE`; at `session.subscribed` `IS_NEW`";
        }
        session.unsubscribed: SessionUnsubscribed, session_unsubscribed, Subscription {
            /// A subscription was removed.
            14, Run, false, Ignore;
            when "a subscription was removed: cause `unsubscribe`, `plugin`, `revoked` or `barrier`. \
                Not called for the subscriptions of a session that ends";
            fields "those of the session, and `FILTER`, `FILTER_OPTIONS`, `SHARE_GROUP`, \
                `SUBSCRIPTION_ID`, `CAUSE`; at `session.subscribed` `IS_NEW`";
        }
        message.publish: MessagePublish, message_publish, Publish {
            /// A message was received and is not routed yet.
            15, Fold, true, Ignore;
            when "a message was received and `client.authorize` has allowed it; it is not routed yet";
            fields "those of a message, and `DISPOSITION`, `REASON_CODE`, `REASON_STRING`";
            may "change it, drop it, reject it, disconnect its publisher, add messages";
            result "the message is routed as it is now; dropped: it is acknowledged and delivered \
                to nobody; rejected: it is acknowledged with that reason and delivered to nobody; \
                disconnect: it is rejected, and the connection of its publisher is closed";
            changes "`TOPIC`, `PAYLOAD`, `QOS`, `RETAIN`, `CONTENT_TYPE`, `RESPONSE_TOPIC`, \
                `CORRELATION_DATA`, `MESSAGE_EXPIRY_S`, `PAYLOAD_FORMAT`, `USER_PROPERTY`, \
                `DISPOSITION`, `REASON_CODE`, `REASON_STRING`";
        }
        message.delivered: MessageDelivered, message_delivered, Delivered {
            /// A message is about to be encoded for one subscriber.
            16, Fold, false, Ignore;
            when "a message is about to be encoded for one subscriber";
            fields "those of a message, and `DISPOSITION`";
            may "change it for this subscriber, drop it";
            result "delivered as it is now, or dropped with the cause `hook`";
            changes "as `message.publish`, without `RETAIN`, `REASON_CODE` and `REASON_STRING`";
        }
        message.acked: MessageAcked, message_acked, Acked {
            /// A subscriber acknowledged a message.
            17, Run, false, Ignore;
            when "a subscriber acknowledged a message with PUBACK or PUBCOMP";
            fields "those of a message";
        }
        message.dropped: MessageDropped, message_dropped, Dropped {
            /// A message was dropped, for one subscriber or for all.
            18, Run, false, Ignore;
            when "a message was dropped, for one subscriber or for all; on the shard that dropped it";
            fields "those of a message, and `DROPPED_BY`, `CAUSE`";
        }
        message.retained: MessageRetained, message_retained, Retained {
            /// A retained message was set, was cleared, or has expired.
            19, Run, false, Ignore;
            when "a retained message was set, was cleared, or has expired; on the shard of its topic";
            fields "those of a message, and `RETAINED_CHANGE`; there is no client";
        }
        packet.received: PacketReceived, packet_received, Packet {
            /// A packet of a client was read.
            20, Run, false, Ignore;
            when "a packet of a client was read, CONNECT included; costs a call for each packet";
            fields "`PACKET_TYPE`, `PACKET_BYTES`, `PAYLOAD`: the packet's bytes. A packet that is \
                sent with a payload shared by many subscribers shows the bytes before the payload \
                only";
        }
        packet.sent: PacketSent, packet_sent, Packet {
            /// A packet was queued for sending to a client.
            21, Run, false, Ignore;
            when "a packet was queued for sending to a client; costs a call for each packet";
            fields "`PACKET_TYPE`, `PACKET_BYTES`, `PAYLOAD`: the packet's bytes. A packet that is \
                sent with a payload shared by many subscribers shows the bytes before the payload \
                only";
        }
        broker.starting: BrokerStarting, broker_starting, Broker {
            /// The plugins are loaded, and no listener is open yet.
            22, Run, false, Ignore;
            when "the plugins of the configuration file are loaded, and no listener is open yet; \
                on shard 0";
            fields "`BROKER_VERSION`, `BROKER_UPTIME_MS`, `BROKER_LISTENER`; there is no client";
        }
        broker.started: BrokerStarted, broker_started, Broker {
            /// The broker accepts connections.
            23, Run, false, Ignore;
            when "the listeners accept connections; on shard 0";
            fields "`BROKER_VERSION`, `BROKER_UPTIME_MS`, `BROKER_LISTENER`; there is no client";
        }
        broker.stopping: BrokerStopping, broker_stopping, Broker {
            /// The broker has begun to stop.
            24, Run, false, Ignore;
            when "the broker has begun to stop; on shard 0";
            fields "`BROKER_VERSION`, `BROKER_UPTIME_MS`, `BROKER_LISTENER`; there is no client";
        }
        broker.stopped: BrokerStopped, broker_stopped, Broker {
            /// The connections are closed, and the plugins are not unloaded yet.
            25, Run, false, Ignore;
            when "the connections are closed, and the plugins are not unloaded yet; on shard 0";
            fields "`BROKER_VERSION`, `BROKER_UPTIME_MS`, `BROKER_LISTENER`; there is no client";
        }
    }};
}

macro_rules! points {
    ($($group:ident.$event:ident: $point:ident, $hook:ident, $type:ident {
        $(#[$doc:meta])*
        $number:literal, $kind:ident, $defer:literal, $policy:ident;
        $($text:tt)*
    })*) => {
        /// A place in the data path where links are called.
        #[repr(u16)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, StableAbi)]
        pub enum HookPoint { $($(#[$doc])* $point = $number,)* }

        impl HookPoint {
            /// Every point, in the order of its number.
            pub const ALL: &'static [HookPoint] = &[$(HookPoint::$point),*];

            /// The public name, such as `message.publish`.
            pub const fn name(self) -> &'static str {
                match self { $(HookPoint::$point => concat!(stringify!($group), ".", stringify!($event)),)* }
            }

            /// Fold or run.
            pub const fn kind(self) -> Kind {
                match self { $(HookPoint::$point => Kind::$kind,)* }
            }

            /// Whether a link may give its verdict later, through a ticket.
            pub const fn may_defer(self) -> bool {
                match self { $(HookPoint::$point => $defer,)* }
            }

            /// What a fault means here by default.
            pub const fn fault_policy(self) -> FaultPolicy {
                match self { $(HookPoint::$point => FaultPolicy::$policy,)* }
            }

            /// The hook point with this ABI number.
            pub const fn from_number(number: u16) -> Option<HookPoint> {
                match number { $($number => Some(HookPoint::$point),)* _ => None }
            }
        }
    };
}

for_each_point! { points }

impl HookPoint {
    /// The hook point with this name, such as `message.publish`.
    pub fn from_name(name: &str) -> Option<HookPoint> {
        HookPoint::ALL.iter().copied().find(|point| point.name() == name)
    }

    /// Whether its events have a message, so that a hook can be limited to topics.
    pub fn has_topics(self) -> bool {
        self.name().starts_with("message.")
    }
}

/// Number of hook points.
pub const POINTS: usize = HookPoint::ALL.len();
