//! The limits of the engine that an operator may set: name with unit, default, range, and the
//! reason for the default. They are part of `[limits]` in the configuration. Limits that need no
//! setting are constants beside their use. [`Choices`] are the settings that are not numbers, in
//! the table `[mqtt]`.

use crate::packet::QoS;

/// One setting of [`Limits`].
#[derive(Debug)]
pub struct Setting {
    /// Name in the configuration file; it ends with the unit.
    pub name: &'static str,
    /// The reason for the default.
    pub reason: &'static str,
    /// Smallest valid value.
    pub min: u64,
    /// Largest valid value.
    pub max: u64,
}

/// Declares a struct of limits: the engine's [`Limits`], and those of the shell.
#[macro_export]
macro_rules! bounds {
    ($(#[$doc:meta])* $Bounds:ident $(with $others:ident: $Others:ty)?:
     $($name:ident = $default:literal, $min:literal..=$max:literal, $reason:literal;)*) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $Bounds {
            $(#[doc = $reason] pub $name: u64,)*
            $(#[doc = "Settings that are no numbers."] pub $others: $Others,)?
        }

        impl Default for $Bounds {
            fn default() -> Self {
                $Bounds { $($name: $default,)* $($others: <$Others>::default(),)? }
            }
        }

        impl $Bounds {
            /// All settings, in the order in which they are printed.
            pub const SETTINGS: &'static [$crate::limits::Setting] = &[$($crate::limits::Setting {
                name: stringify!($name),
                reason: $reason,
                min: $min,
                max: $max,
            },)*];

            /// The value of a setting by its name.
            pub fn value(&self, name: &str) -> Option<u64> {
                match name { $(stringify!($name) => Some(self.$name),)* _ => None }
            }

            /// Changes a setting by its name.
            ///
            /// # Errors
            /// `LimitError` for a name that does not exist or a value out of its range.
            pub fn set(&mut self, name: &str, value: u64) -> Result<(), $crate::limits::LimitError> {
                match name {
                    $(stringify!($name) => {
                        if !($min..=$max).contains(&value) {
                            return Err($crate::limits::LimitError::Range {
                                name: stringify!($name),
                                min: $min,
                                max: $max,
                                value,
                            });
                        }
                        self.$name = value;
                        Ok(())
                    })*
                    _ => Err($crate::limits::LimitError::Unknown { name: name.to_owned() }),
                }
            }
        }
    };
}

/// Why a limit was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// The setting does not exist.
    #[error("there is no limit named {name}")]
    Unknown {
        /// The requested name.
        name: String,
    },
    /// The value is out of range.
    #[error("{name} must be between {min} and {max}, not {value}")]
    Range {
        /// The setting.
        name: &'static str,
        /// Smallest valid value.
        min: u64,
        /// Largest valid value.
        max: u64,
        /// The requested value.
        value: u64,
    },
}

/// What happens to a stored or connected session when another principal connects with its client
/// identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SessionOwner {
    /// The old session ends, and the client gets a new one.
    #[default]
    Discard,
    /// The client is refused with 0x87, not authorized.
    Refuse,
    /// The client gets the session, as in MQTT, where only the client identifier counts; first
    /// client.authorize must allow the new principal its subscriptions and messages.
    Inherit,
}

/// The message that is dropped when the queue of a session is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum QueueFull {
    /// The new one: messages accepted first are delivered.
    #[default]
    DropNewest,
    /// The oldest one: a client that returns late gets the latest messages.
    DropOldest,
}

/// What happens to a client whose subscription is revoked because the rules of client.authorize
/// changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Revoke {
    /// It loses the subscription and stays connected. MQTT has no packet to notify it.
    #[default]
    Remove,
    /// It loses the subscription and is disconnected with 0x87, not authorized; MQTT 3 connections
    /// are closed.
    Disconnect,
}

/// Settings of the engine that are not numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choices {
    /// What happens to a session of another principal.
    pub session_owner: SessionOwner,
    /// Whether the broker may choose the client identifier, if the protocol version allows it.
    pub allow_empty_client_id: bool,
    /// Prefix of the client identifiers that the broker chooses.
    pub assigned_client_id_prefix: Box<str>,
    /// Which message a full queue of a session drops.
    pub queue_full: QueueFull,
    /// The highest QoS for publishes of clients [MQTT-3.2.2-11].
    pub maximum_qos: QoS,
    /// Whether messages may be retained [MQTT-3.2.2-14].
    pub retain_available: bool,
    /// What happens to clients whose subscription is revoked.
    pub revoke: Revoke,
    /// Whether clients may publish to topics that begin with `$` where no plugin handles the
    /// message [MQTT-4.7.2-1].
    pub allow_dollar_topics: bool,
    /// Whether MQTT 5 clients get reason strings.
    pub reason_strings: bool,
    /// Whether a packet with a control character or a noncharacter in a string ends its connection
    /// [MQTT-1.5.4-2].
    pub refuses_control_characters: bool,
}

impl Default for Choices {
    fn default() -> Self {
        Choices {
            session_owner: SessionOwner::Discard,
            allow_empty_client_id: true,
            assigned_client_id_prefix: "grapnel-".into(),
            queue_full: QueueFull::DropNewest,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            revoke: Revoke::Remove,
            allow_dollar_topics: false,
            reason_strings: true,
            refuses_control_characters: false,
        }
    }
}

bounds! {
    /// The limits of one shard's engine. See [`Limits::SETTINGS`] for ranges and reasons.
    Limits with choices: Choices:
    connections_max = 1000000, 1..=10000000, "connections per shard; beyond it a new one is closed. Most machines run out of file descriptors first";
    connections_total_max = 1000000, 1..=640000000, "connections of all shards together";
    connect_timeout_ms = 10000, 100..=600000, "time from accept until the whole CONNECT has arrived; slow links need seconds, and an idle probe should not keep a socket";
    packet_bytes_max = 1048576, 128..=268435460, "largest packet accepted from a client, announced as Maximum Packet Size; the same as EMQX";
    partial_bytes_max = 67108864, 65536..=17179869184, "bytes of incomplete packets that a shard stores for all its connections; beyond it connections without CONNACK are disconnected first, then those that use most of these bytes";
    connects_pending_max = 16384, 1..=16777215, "clients per shard whose CONNECT waits for a plugin or for the client's next AUTH; beyond it a new one is refused with 0x89, server busy, before any plugin is called";
    connects_pending_per_address_max = 8192, 1..=16777215, "how many of these clients may have one IPv4 address or one /64 network of IPv6, or come over Unix sockets; beyond it a new one of that address is refused with 0x89 too. The default is half of connects_pending_max: one address cannot take all places, and many clients behind one router or proxy can still connect. A value of connects_pending_max or more switches the check off";
    client_id_bytes_max = 1024, 23..=65535, "longest client identifier; MQTT 3.1 promises 23 bytes, MQTT 5 allows 65535, and 1 KiB keeps tables small";
    topic_bytes_max = 4096, 64..=65535, "longest topic name or filter; the same as EMQX";
    topic_levels_max = 128, 1..=32768, "levels of a topic name or filter; bounds the depth of every search in the topic trees";
    filters_per_subscribe_max = 1024, 1..=65535, "topic filters of one SUBSCRIBE; those beyond it are refused with 0x97. Client libraries do not send so many by themselves, and each filter costs as much work as a packet";
    filters_per_unsubscribe_max = 1024, 1..=65535, "topic filters of one UNSUBSCRIBE; those beyond it are refused with 0x80. An MQTT 3 client is disconnected, because its UNSUBACK has no reason codes";
    subscriptions_max = 10000, 1..=10000000, "subscriptions of one session";
    keep_alive_max_s = 65535, 10..=65535, "longest keep alive; a longer or absent one is lowered to it with Server Keep Alive (MQTT 5). 65535 keeps the client's value";
    session_expiry_max_s = 604800, 0..=4294967295, "longest Session Expiry Interval granted, a week; 4294967295 allows sessions that never expire";
    session_expiry_v3_s = 86400, 0..=4294967295, "expiry of an MQTT 3 session with clean session 0, because MQTT 3 has no expiry interval";
    sessions_max = 1000000, 1..=100000000, "sessions per shard, connected or stored";
    sessions_total_max = 1000000, 1..=6400000000, "sessions of all shards together, connected or stored";
    session_queue_messages_max = 1000, 1..=10000000, "QoS 1 and 2 messages that wait for one session; the same as Mosquitto and EMQX";
    session_queue_bytes_max = 67108864, 1024..=17179869184, "bytes of the messages that wait for one session";
    inflight_max = 32, 1..=65535, "QoS 1 and 2 messages per session that are sent and not acknowledged, if the client's Receive Maximum is not smaller; the same as EMQX";
    receive_max = 64, 1..=65535, "Receive Maximum in CONNACK: QoS 1 and 2 publishes of a client that may be unacknowledged";
    awaiting_rel_max = 100, 1..=65535, "QoS 2 publishes per session that wait for PUBREL; the same as EMQX. Beyond it further ones of an MQTT 3 client wait for their turn. An MQTT 5 client keeps to its Receive Maximum";
    awaiting_rel_timeout_ms = 5000, 10..=600000, "time that such an MQTT 3 client is not read when slots_max packets of it wait too; its PUBREL may be behind them. After it the client may have any number of QoS 2 publishes open until its PUBRELs are read";
    outbound_bytes_max = 1048576, 4096..=1073741824, "bytes queued for one socket, acknowledgements included; beyond it the client is not read, QoS 1 and 2 messages wait in the session's queue, and QoS 0 messages are dropped unless outbound_burst_bytes_max has room";
    slots_max = 128, 1..=65535, "received packets of one session that wait for their turn; beyond it the connection is not read";
    slot_bytes_max = 4194304, 1024..=1073741824, "bytes of these packets";
    tickets_max = 65536, 1..=16777215, "deferred verdicts per shard that are open at a time; beyond it a Defer counts as a fault";
    defer_window = 32, 1..=65535, "publishes of one connection that wait for plugins at a time, in order; beyond it the connection is not read";
    breaker_faults_max = 100, 0..=10000, "faults of one plugin on one shard within breaker_window_ms after which the plugin is tripped: its hooks are not called, and their fault policies decide. 0 never trips";
    breaker_window_ms = 10000, 10..=3600000, "time within which these faults lie";
    defer_deadline_ms = 5000, 10..=3600000, "longest time a deferred verdict may take where neither the hook nor the operator names one";
    topic_alias_max = 64, 0..=65535, "topic aliases that a client may set, and that the broker sets if the client allows them";
    retained_messages_max = 1000000, 0..=100000000, "retained messages per shard";
    retained_bytes_max = 1073741824, 0..=1099511627776, "bytes of retained messages per shard";
    retained_client_messages_max = 250000, 0..=100000000, "retained messages per shard that one client identifier has published; a quarter of retained_messages_max, so that no client fills the store for the others. 0 lets clients store none";
    retained_client_bytes_max = 268435456, 0..=1099511627776, "bytes of these messages; a quarter of retained_bytes_max";
    retained_page_messages_max = 256, 1..=65536, "retained messages that a scan looks at before other work gets a turn";
    lane_envelopes_max = 8192, 64..=1000000, "envelopes that wait for one other shard before publishers to it wait";
    lane_bytes_max = 16777216, 65536..=4294967296, "bytes of these envelopes";
    lane_reserve_envelopes_max = 1024, 0..=1000000, "further envelopes from sources that cannot wait: wills, timers, plugins";
    subscribe_barrier_ms = 5000, 10..=600000, "time that a SUBACK waits until the other shards have the filter; after it the filter is refused with 0x80";
    topic_cache_entries_max = 65536, 16..=16777216, "topics whose subscribers a shard caches";
    topic_cache_bytes_max = 33554432, 65536..=17179869184, "bytes of this cache; a topic that alone needs more than a quarter is not cached";
    shard_subscriptions_max = 4000000, 1..=1000000000, "subscriptions of all sessions of a shard; beyond it a new one is refused with 0x97";
    idle_filters_max = 65536, 1..=16777216, "filters per shard without a subscriber that have not been removed yet; beyond it UNSUBSCRIBE removes them itself";
    turn_budget_deliveries = 4096, 64..=1000000, "deliveries, and units of work for subscriptions and retained messages, before other work of the shard gets a turn";
    user_properties_max = 64, 0..=65535, "user properties of one packet; a packet with more is answered with 0x97, and hooks can add no more than this";
    extra_messages_max = 16, 0..=1024, "messages that one hook call may add";
    deliver_verdicts_max = 1024, 0..=16777216, "verdicts on deliveries that are cached for a session, one per topic; 0 caches none and authorizes each delivery";
    behalf_requests_max = 8192, 1..=16777216, "requests of one plugin on behalf of clients that wait on a shard, for all clients together; one client may have an eighth of what is free, so that room is left for others. Beyond it a request is refused with 0x97 and may be repeated";
    behalf_bytes_max = 67108864, 65536..=17179869184, "bytes of these requests, with the largest size of their pages of retained messages; one client may have an eighth of what is free";
    behalf_client_requests_max = 128, 1..=65535, "how many of these requests may be for one client; they run in order, and one that waits for its verdict delays only those of the same client";
    behalf_pages_max = 64, 1..=65535, "pages of retained messages per shard that one plugin reads on behalf of clients at a time; beyond it a page is refused with 0x97";
    behalf_client_pages_max = 8, 1..=65535, "how many of these pages may be for one client";
    behalf_page_messages_max = 256, 1..=65536, "messages of one such page; a plugin that requests more gets this many";
    behalf_page_bytes_max = 1048576, 1024..=268435456, "bytes of one such page, and no more than one client may have waiting; a plugin that requests more gets this many. The first message of a page may have more if nothing else waits for the client";
    behalf_client_bytes_max = 4194304, 1024..=1073741824, "bytes of the requests for one client, with the largest size of its pages; one request of any size is accepted if nothing else waits for the client";
    rechecks_max = 64, 1..=65535, "rechecks of existing subscriptions per shard that wait for plugins at a time; a plugin thread that takes 50 ms for each still answers all within 5 s";
    deliver_requests_max = 1024, 1..=65535, "sessions per shard whose delivery waits for a plugin at a time; sessions beyond it wait in order, within the bounds of their queues, and are not refused";
    will_delay_max_s = 604800, 0..=4294967295, "longest Will Delay Interval granted, a week";
    trace_lines_max = 1000, 1..=100000, "packets stored for one traced client between two reads of the trace";
    payload_bytes_max = 268435455, 0..=268435455, "largest payload of a message from a client, a will or a plugin; packet_bytes_max is reached first unless this is smaller";
    connect_bytes_max = 131072, 128..=268435460, "largest CONNECT; a will of 64 KiB, a user name and a password fit. A larger one is refused when its header has been read, even if packet_bytes_max is larger";
    connects_pending_bytes_max = 33554432, 65536..=17179869184, "bytes that the connections of a shard use before CONNACK; beyond it those that use most are closed";
    outbound_burst_bytes_max = 268435456, 0..=17179869184, "bytes of QoS 0 messages that a shard may queue beyond outbound_bytes_max, for sockets that keep taking bytes; one connection gets at most half of what is left. 0 is none";
    outbound_burst_ms = 2000, 0..=600000, "a socket that took bytes within this time counts as one that keeps taking them";
    shard_bytes_max = 4294967296, 1048576..=1099511627776, "bytes that clients make one shard use, retained messages not counted; beyond it connections without CONNACK are ended first, then those that use most. Set it to the memory for clients divided by the number of shards";
    drain_timeout_ms = 5000, 100..=600000, "time from SIGTERM until the process ends";
}

impl Limits {
    /// Limits that a shard reads only when it is made, so that
    /// [`Shard::set_rules`](crate::shard::Shard::set_rules) does not change them; and
    /// `defer_deadline_ms`, which the plugin loader reads when it is made.
    pub const AT_START: [&str; 4] =
        ["tickets_max", "topic_cache_entries_max", "topic_cache_bytes_max", "defer_deadline_ms"];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_within_its_own_range() {
        let mut limits = Limits::default();
        for setting in Limits::SETTINGS {
            let value = limits.value(setting.name).expect("a listed setting has a value");
            assert_eq!(limits.set(setting.name, value), Ok(()), "{}", setting.name);
        }
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_the_range() {
        let error = Limits::default().set("receive_max", 0).expect_err("0 is a protocol error on the wire");
        assert_eq!(error.to_string(), "receive_max must be between 1 and 65535, not 0");
    }

    #[test]
    fn every_name_ends_in_its_unit() {
        for setting in Limits::SETTINGS {
            let name = setting.name;
            let counts = name.ends_with("_max") || name.ends_with("_deliveries") || name == "defer_window";
            assert!(counts || name.ends_with("_ms") || name.ends_with("_s"), "{name}");
        }
    }
}
