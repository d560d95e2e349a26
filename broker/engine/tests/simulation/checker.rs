//! The rules of a run, each one sentence, and the violations. A rule that the engine is known to
//! break is only counted; `known_faults.rs` lists those.

use crate::known_faults::KNOWN;

macro_rules! rules {
    ($($rule:ident: $sentence:literal;)*) => {
        /// What must hold.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Rule { $($rule),* }

        impl Rule {
            /// The rule as a sentence.
            pub fn sentence(self) -> &'static str {
                match self { $(Rule::$rule => $sentence),* }
            }
        }
    };
}

rules! {
    NoPanic: "The engine does not panic.";
    WireLegal: "Everything that the broker sends is a sequence of complete, valid packets that a server may send.";
    PacketTooLarge: "No packet is larger than the client's Maximum Packet Size [MQTT-3.1.2-24].";
    AliasUnknown: "A topic alias is at most the client's Topic Alias Maximum, and is set before it is used [MQTT-3.1.2-26].";
    EndedWithoutCause: "A connection is ended only because of something that the client, the operator or a plugin did.";
    AwaitingRel: "A client of MQTT 3 that sends more QoS 2 messages than awaiting_rel_max is not read for a while; it is never disconnected for that.";
    VerdictOfAnother: "A Disconnect verdict about a message ends the connection that the message was read from, or none.";
    AcknowledgementOrder: "Acknowledgements of packets that take slots are sent in the order of those packets.";
    AcknowledgementOrderRefused: "An acknowledgement that refuses a topic name (0x90) is sent in order too.";
    AcknowledgementTooLarge: "An acknowledgement that would be too large with its reason string is sent without it [MQTT-3.4.2-2].";
    AcknowledgementUnknown: "Every acknowledgement is for a packet that waits for it.";
    AcknowledgementMissing: "Every packet that was read on a connection that is still open is acknowledged by the end of the run.";
    PacketIdReused: "A packet identifier is not used again before its exchange is complete [MQTT-2.2.1-4].";
    ReceiveMaximum: "The number of QoS 1 and 2 messages in flight is at most Receive Maximum and at most inflight_max [MQTT-3.3.4-9].";
    DupWithoutResume: "DUP is set only where a resumed session sends a message again [MQTT-3.3.1-1].";
    ReleaseUnknown: "PUBREL is for a message that was sent on this connection, unless the session was resumed.";
    Unsubscribed: "A message is delivered only to a client that has a matching subscription, or had one at some time since the message was published.";
    ExactlyOnce: "A message of QoS 2 is delivered once for each subscription that matches it [MQTT-4.3.3].";
    TooOften: "A message is delivered at most once for each subscription that matches it.";
    LiveAndRetained: "A client that subscribes while a message is being retained gets it live or as a retained message, not both, unless a lane is held up for 30 seconds.";
    QosTooHigh: "The QoS of a delivery is at most that of the message and at most that of the subscription.";
    IdentifierUnknown: "A subscription identifier in a delivery belongs to a subscription that matches the message [MQTT-3.3.4-3].";
    NoLocal: "A client does not get its own message through a subscription with No Local [MQTT-3.8.3-3].";
    NoLocalRetained: "A client does not get its own retained message through a subscription with No Local [MQTT-3.8.3-3].";
    Order: "Messages of one publisher to one topic are delivered in the order in which they were published [MQTT-4.6.0-5].";
    OrderShared: "Messages of one publisher are delivered to each member of a shared subscription in the order in which they were published.";
    Lost: "Every acknowledged message is delivered to every session that had a matching subscription, except for drops that were counted.";
    LostTooLarge: "A message that fits the client's Maximum Packet Size is not dropped as too large [MQTT-3.1.2-25].";
    LostFull: "A message that is not retained because the retained store is full is delivered to the subscribers all the same.";
    SessionPresent: "Session Present in CONNACK is set exactly if the session existed [MQTT-3.2.2-2].";
    WillMissing: "A will is published when its connection ends without a DISCONNECT that discards it [MQTT-3.1.2-8].";
    WillReason: "A will is published after a DISCONNECT with any reason other than 0x00 [MQTT-3.14.4-3].";
    WillWaiting: "A DISCONNECT with 0x00 discards the will also if that DISCONNECT has to wait for earlier packets [MQTT-3.14.4-3].";
    WillExpiry: "DISCONNECT may change the session expiry if CONNECT requested one above 0, whatever CONNACK granted [MQTT-3.14.2-2].";
    WillUnwanted: "A will is not published after a DISCONNECT with 0x00, not twice, and not if the session was resumed within the will delay.";
    KickUndone: "A session that the operator has discarded is not resumed.";
    SessionOwner: "A session is resumed only by the user who left it.";
    Revoked: "A granted subscription is not revoked because no plugin answered.";
    RetainedWrong: "The retained message of a topic is the last one that took effect: one that was read after all others had been acknowledged, or the last one of its publisher.";
    RetainedMissing: "A new subscription gets every retained message that matches it.";
    RetainedDropped: "No retained message for a new subscription is dropped: they are sent as fast as the queue has room.";
    RetainedNotSent: "A SUBSCRIBE makes the broker send the retained messages that match, except those replaced meanwhile [MQTT-3.3.1-9].";
    RetainedAtResume: "Retained messages of QoS 1 and 2 that a subscription had still to get when the connection ended are sent after a resume.";
    RetainedTwice: "A new subscription gets each retained message once.";
    NotAllowed: "A message that was published after the rules denied it to a user is not delivered to that user.";
    NotAllowedInherited: "The same holds for a user who has taken over the session of another user.";
    PausedForever: "Every connection that is not read for a while is read again or ended.";
    AuthPaused: "A connection on which the broker waits for AUTH is read.";
    ConnackTooLarge: "A connection whose CONNACK is larger than the client's Maximum Packet Size is closed [MQTT-3.2.0-1].";
    ConnectForever: "Every CONNECT is answered, or its connection is ended.";
    SlotLeft: "No slot is in use when everything has been answered.";
    SlotsBounded: "No session uses more slots than its limits allow.";
    QueueBounded: "No session has more messages in its queue than its limit allows.";
    OutboundBounded: "No connection has more bytes queued than its limit allows.";
    OutboundAnswers: "A client that sends packets that need answers and does not read is not read itself once its unsent bytes reach their limit.";
    GaugeConnections: "When all clients have disconnected, the number of connections is 0.";
    GaugeSessions: "When all sessions have expired, the number of sessions is 0.";
    GaugeSubscriptions: "When all sessions have expired, the number of subscriptions is 0.";
    LedgerWrong: "The memory that a shard counts as used is the sum of what its connections and sessions use.";
    BehalfUnanswered: "A request of a plugin on behalf of a client is answered as long as the version that made it, or the one that took over its state, is loaded.";
    BehalfAnswers: "A request of a plugin on behalf of a client is answered once, and to the version that has the state.";
    Rests: "The shards run out of work when nothing arrives from outside.";
}

/// A rule that was broken, and how.
#[derive(Clone, Debug)]
pub struct Violation {
    pub rule: Rule,
    pub details: String,
}

/// Collects the violations.
pub struct Checker {
    /// Whether a known fault counts like any other.
    known_too: fn(Rule) -> bool,
    pub violations: Vec<Violation>,
    /// How often each rule was broken that the engine is known to break.
    pub known: Vec<(Rule, u64)>,
}

impl Checker {
    pub fn new(known_too: fn(Rule) -> bool) -> Checker {
        Checker { known_too, violations: Vec::new(), known: Vec::new() }
    }

    pub fn broken(&mut self, rule: Rule, details: impl FnOnce() -> String) {
        if KNOWN.iter().any(|fault| fault.rule == rule) && !(self.known_too)(rule) {
            match self.known.iter_mut().find(|(known, _)| *known == rule) {
                Some((_, count)) => *count += 1,
                None => self.known.push((rule, 1)),
            }
            return;
        }
        if self.violations.len() < 8 {
            self.violations.push(Violation { rule, details: details() });
        }
    }

    pub fn check(&mut self, holds: bool, rule: Rule, details: impl FnOnce() -> String) {
        if !holds {
            self.broken(rule, details);
        }
    }
}
