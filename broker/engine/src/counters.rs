//! Counters of a shard, with EMQX's names so that dashboards work. Plain numbers, because only the
//! thread of the shard uses them.

macro_rules! counters {
    ($($name:ident: $text:literal;)*) => {
        /// The counts of a shard since its start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $(#[doc = $text] pub $name: u64,)* }

        impl Counters {
            /// Name, value and meaning of each, in a fixed order.
            pub fn rows(&self) -> Vec<(&'static str, u64, &'static str)> {
                vec![$((stringify!($name), self.$name, $text)),*]
            }

            /// Adds the counts of another shard.
            pub fn add(&mut self, other: &Counters) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters! {
    bytes_received: "bytes read from clients";
    bytes_sent: "bytes queued for clients";
    packets_received: "packets read";
    packets_sent: "packets queued for clients";
    packets_connect_received: "CONNECT packets read";
    packets_connack_sent: "CONNACK packets sent";
    packets_connack_error: "CONNACK packets with a refusal";
    packets_publish_received: "PUBLISH packets read";
    packets_publish_sent: "PUBLISH packets queued for clients";
    packets_publish_error: "PUBLISH packets refused with a reason code";
    packets_publish_auth_error: "PUBLISH packets that authorization refused";
    packets_publish_dollar_error: "PUBLISH packets and wills refused because their topic begins with $ and no plugin took them";
    packets_puback_received: "PUBACK packets read";
    packets_puback_sent: "PUBACK packets sent";
    packets_pubrec_received: "PUBREC packets read";
    packets_pubrec_sent: "PUBREC packets sent";
    packets_pubrel_received: "PUBREL packets read";
    packets_pubrel_sent: "PUBREL packets sent";
    packets_pubcomp_received: "PUBCOMP packets read";
    packets_pubcomp_sent: "PUBCOMP packets sent";
    packets_subscribe_received: "SUBSCRIBE packets read";
    packets_subscribe_auth_error: "topic filters that authorization refused";
    packets_suback_sent: "SUBACK packets sent";
    packets_unsubscribe_received: "UNSUBSCRIBE packets read";
    packets_unsuback_sent: "UNSUBACK packets sent";
    packets_pingreq_received: "PINGREQ packets read";
    packets_pingresp_sent: "PINGRESP packets sent";
    packets_disconnect_received: "DISCONNECT packets read";
    packets_disconnect_sent: "DISCONNECT packets sent";
    packets_auth_received: "AUTH packets read";
    packets_malformed: "connections closed for a malformed packet or a protocol error";
    messages_received: "application messages taken from clients";
    messages_qos0_received: "messages received with QoS 0";
    messages_qos1_received: "messages received with QoS 1";
    messages_qos2_received: "messages received with QoS 2";
    messages_sent: "deliveries queued for clients";
    messages_qos0_sent: "messages sent with QoS 0";
    messages_qos1_sent: "messages sent with QoS 1";
    messages_qos2_sent: "messages sent with QoS 2";
    messages_acked: "deliveries that subscribers acknowledged";
    messages_dropped: "messages and deliveries dropped, whatever the reason";
    messages_dropped_no_subscribers: "messages nobody had subscribed to";
    messages_dropped_queue_full: "deliveries a full session queue refused";
    messages_dropped_expired: "deliveries whose message had expired";
    messages_dropped_too_large: "deliveries beyond the client's Maximum Packet Size";
    messages_dropped_hook: "messages and deliveries a plugin dropped";
    messages_dropped_lane_full: "messages that met a full lane and could not wait";
    messages_dropped_no_member: "shared deliveries without an eligible member";
    messages_dropped_not_authorized: "deliveries that authorization refused";
    messages_retained_count: "retained messages stored now";
    messages_retained_bytes: "bytes of the retained messages stored now";
    messages_forwarded: "messages sent to other shards";
    subscriptions_revoked: "subscriptions revoked because the rules have changed";
    messages_wills: "will messages published";
    messages_plugins: "messages that plugins published";
    messages_fetched: "retained messages that plugins have read on behalf of clients";
    behalf_refused: "requests of plugins on behalf of clients that were refused";
    behalf_no_room: "requests of plugins on behalf of clients that were refused because too much waited for the client or the plugin";
    plugin_commands_refused: "commands of plugins that were refused because too many or too many bytes waited";
    plugin_mail_stale: "messages between instances of a plugin that had been unloaded";
    client_connect: "connections that sent CONNECT";
    client_connected: "connections that were accepted with CONNACK";
    client_disconnected: "accepted connections that ended";
    client_auth_denied: "connections that authentication refused";
    client_auth_anonymous: "connections accepted without an answer of a plugin";
    client_keepalive_timeout: "connections ended for silence";
    session_created: "sessions created";
    session_resumed: "sessions resumed";
    session_takenover: "sessions taken over by another connection";
    session_discarded: "sessions a clean start threw away";
    session_terminated: "sessions ended";
    session_expired: "sessions that ended by expiry";
    session_owner_discarded: "sessions that ended because another user connected with their client identifier, without a clean start";
    session_owner_refused: "connections refused because their client identifier is another user's";
    session_owner_inherited: "sessions that another user went on with";
    connections_refused: "connections closed because a limit of connections was reached";
    connects_pending_refused: "connections refused because connects_pending_max was reached";
    connects_pending_address_refused: "connections refused because connects_pending_per_address_max was reached";
    sessions_refused: "connections refused because a limit of sessions was reached";
    connections_count: "connections now";
    sessions_count: "sessions now";
    subscriptions_count: "subscriptions now";
    hook_calls: "calls of plugin hooks";
    hook_faults: "hook calls that failed";
    hook_deferred: "hook calls that answered later";
    tickets_stale: "completions that came too late or twice";
    tickets_expired: "deferred verdicts that missed their deadline";
    pauses_slots: "times a connection was not read because as many of its packets waited as may";
    pauses_outbound: "times a connection was not read because it did not take what was sent to it";
    pauses_memory: "times a connection was not read because the shard was near its limit of memory";
    connections_evicted: "connections ended because they used most memory when a limit was reached";
    sessions_evicted: "sessions ended because they used most memory when a limit was reached";
    memory_bytes: "bytes that clients make the shard hold now";
    subscribe_barrier_timeouts: "subscriptions refused because another shard did not answer";
    hook_changes_refused: "changes of hooks that no message may have";
    hook_answers_refused: "answers of plugins refused as a whole: more changes than a packet can need, or one that cannot be made";
    rechecks_unanswered: "subscriptions in force whose recheck nobody answered; they stay and are authorized again";
    flow_steps: "steps of received packets that had to wait";
    messages_retained_refused: "messages that were delivered and not stored, because the retained store is full";
    work_units: "work done, in units: links called, nodes visited, entries moved";
}

/// Why a message was dropped. Each reason is a counter and the text in message.dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DropReason {
    NoSubscribers,
    QueueFull,
    Expired,
    TooLarge,
    Hook,
    LaneFull,
    NoMember,
    NotAuthorized,
}

impl DropReason {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            DropReason::NoSubscribers => "no_subscribers",
            DropReason::QueueFull => "queue_full",
            DropReason::Expired => "expired",
            DropReason::TooLarge => "too_large",
            DropReason::Hook => "hook",
            DropReason::LaneFull => "lane_full",
            DropReason::NoMember => "no_member",
            DropReason::NotAuthorized => "not_authorized",
        }
    }
}
