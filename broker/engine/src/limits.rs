//! Every bound of the engine as a setting: name with its unit, default, allowed range and the reason for the default. The
//! configuration file's `[limits]` table is this list; nothing else in the engine holds a number that bounds memory or time.

/// One setting of [`Limits`].
#[derive(Debug)]
pub struct Setting {
    /// Name as in the configuration file, unit last.
    pub name: &'static str,
    /// Why the default is what it is.
    pub reason: &'static str,
    /// Smallest value taken.
    pub min: u64,
    /// Largest value taken.
    pub max: u64,
}

/// Declares a struct of bounds: the engine's [`Limits`], and the shell's own beside it.
#[macro_export]
macro_rules! bounds {
    ($(#[$doc:meta])* $Bounds:ident: $($name:ident = $default:literal, $min:literal..=$max:literal, $reason:literal;)*) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $Bounds { $(#[doc = $reason] pub $name: u64,)* }

        impl Default for $Bounds {
            fn default() -> Self {
                $Bounds { $($name: $default,)* }
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

/// Why a limit was not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// No such setting.
    #[error("there is no limit named {name}")]
    Unknown {
        /// The name that was asked for.
        name: String,
    },
    /// Out of range.
    #[error("{name} must be between {min} and {max}, not {value}")]
    Range {
        /// The setting.
        name: &'static str,
        /// Smallest value taken.
        min: u64,
        /// Largest value taken.
        max: u64,
        /// What was asked for.
        value: u64,
    },
}

bounds! {
    /// The bounds of one shard's engine. See [`Limits::SETTINGS`] for ranges and reasons.
    Limits:
    connections_max = 1000000, 1..=10000000, "connections per shard; the file descriptor limit is met first on most machines";
    connect_timeout_ms = 10000, 100..=600000, "time from accept to a whole CONNECT; slow links need seconds, idle probes should not hold a socket";
    packet_bytes_max = 1048576, 128..=268435460, "largest packet taken from a client, announced as Maximum Packet Size; 1 MiB as EMQX has it";
    partial_bytes_max = 67108864, 65536..=17179869184, "bytes of unfinished packets a shard holds for all its connections; beyond it the newest sender is disconnected";
    connects_pending_max = 16384, 1..=16777215, "clients per shard whose CONNECT waits for a plugin or for their own next AUTH; beyond it a new one is refused with 0x89, server busy, before any plugin is asked";
    client_id_bytes_max = 1024, 23..=65535, "MQTT 3.1 promises 23, MQTT 5 allows 65535; 1 KiB keeps tables small";
    topic_bytes_max = 4096, 64..=65535, "longest topic name or filter; the same as EMQX";
    topic_levels_max = 128, 1..=32768, "levels of a topic; bounds the depth of every walk";
    subscriptions_max = 10000, 1..=10000000, "subscriptions of one session";
    keep_alive_max_s = 65535, 10..=65535, "a longer or absent keep alive is lowered to it with Server Keep Alive (MQTT 5); 65535 leaves the client's";
    session_expiry_max_s = 604800, 0..=4294967295, "longest session expiry granted, a week; 4294967295 allows sessions that never expire";
    session_expiry_v3_s = 86400, 0..=4294967295, "expiry of an MQTT 3 session with clean session 0, which has none of its own";
    sessions_max = 1000000, 1..=100000000, "sessions per shard, connected or stored";
    session_queue_messages_max = 1000, 1..=10000000, "QoS 1 and 2 messages waiting for one session; Mosquitto's and EMQX's default";
    session_queue_bytes_max = 67108864, 1024..=17179869184, "bytes of the messages waiting for one session";
    inflight_max = 32, 1..=65535, "QoS 1 and 2 messages sent and unacknowledged per session, below the client's own Receive Maximum; EMQX's default";
    receive_max = 64, 1..=65535, "Receive Maximum that clients are given: QoS 1 and 2 publishes of theirs that may be unacknowledged";
    awaiting_rel_max = 100, 1..=65535, "QoS 2 publishes that wait for PUBREL per session; EMQX's default";
    outbound_bytes_max = 1048576, 4096..=1073741824, "bytes queued for one socket; beyond it QoS 0 is dropped and QoS 1 and 2 wait in the session's queue";
    slots_max = 128, 1..=65535, "received packets of one session that wait for their turn; beyond it the connection is not read";
    slot_bytes_max = 4194304, 1024..=1073741824, "bytes of those packets";
    tickets_max = 65536, 1..=16777215, "deferred verdicts open at a time per shard; beyond it a Defer is a fault";
    defer_window = 32, 1..=65535, "publishes of one connection that wait for plugins at a time, in order; beyond it the connection is not read";
    breaker_faults_max = 100, 0..=10000, "faults of one plugin on one shard within breaker_window_ms after which it is tripped: its hooks are not called and act by their fault policies; 0 never trips";
    breaker_window_ms = 10000, 10..=3600000, "time within which those faults lie";
    defer_deadline_ms = 5000, 10..=3600000, "time a deferred verdict may take where neither plugin nor operator says otherwise";
    topic_alias_max = 64, 0..=65535, "topic aliases a client may set, and those the broker sets where the client allows them";
    retained_messages_max = 1000000, 0..=100000000, "retained messages per shard";
    retained_bytes_max = 1073741824, 0..=1099511627776, "bytes of retained messages per shard";
    retained_page_messages_max = 256, 1..=65536, "retained messages a scan looks at before it lets others run";
    lane_envelopes_max = 8192, 64..=1000000, "envelopes waiting for one other shard before publishers to it wait";
    lane_bytes_max = 16777216, 65536..=4294967296, "bytes of those envelopes";
    lane_reserve_envelopes_max = 1024, 0..=1000000, "more envelopes for what cannot be paused: wills, timers, plugins";
    subscribe_barrier_ms = 5000, 10..=600000, "time a SUBACK waits for the other shards to know the filter; then 0x80";
    topic_cache_entries_max = 65536, 16..=16777216, "topics whose routes a shard remembers";
    topic_cache_bytes_max = 33554432, 65536..=17179869184, "bytes of those routes; a topic that alone needs more than a quarter is matched anew each time";
    shard_subscriptions_max = 4000000, 1..=1000000000, "subscriptions of all sessions of a shard; beyond it a new one is refused with 0x97";
    idle_filters_max = 65536, 1..=16777216, "filters without a subscriber that wait to be swept from a shard's tries; beyond it unsubscribing sweeps them itself";
    turn_budget_deliveries = 4096, 64..=1000000, "deliveries made before other work of the shard gets a turn";
    user_properties_max = 64, 0..=65535, "user properties of one packet; more is a protocol abuse answered with 0x97";
    extra_messages_max = 16, 0..=1024, "messages one hook call may add";
    deliver_verdicts_max = 1024, 0..=16777216, "verdicts on deliveries remembered for one session, one for each topic; 0 asks each time";
    will_delay_max_s = 604800, 0..=4294967295, "longest will delay granted, a week";
    trace_lines_max = 1000, 1..=100000, "packets remembered for one traced client";
    drain_timeout_ms = 5000, 100..=600000, "time between SIGTERM and the end of the process";
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
