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
    WireLegal: "What the broker writes is whole, valid packets that a server may send.";
    PacketTooLarge: "No packet is larger than the client's Maximum Packet Size [MQTT-3.1.2-24].";
    AliasUnknown: "A topic alias is within the client's maximum and set before it is used [MQTT-3.1.2-26].";
    EndedWithoutCause: "A connection is ended only if the client, the operator or a plugin gave cause.";
    AwaitingRel: "A client of MQTT 3 that sends more QoS 2 than is taken at a time is not read for a while, and never disconnected for it.";
    VerdictOfAnother: "A Disconnect verdict ends the connection that the message came through, or none.";
    AcknowledgementOrder: "Acknowledgements of packets that take slots come in the order of those packets.";
    AcknowledgementOrderRefused: "The refusal of a topic name waits its turn like every other acknowledgement.";
    AcknowledgementTooLarge: "An acknowledgement that is too large with its reason string comes without it [MQTT-3.4.2-2].";
    AcknowledgementUnknown: "An acknowledgement belongs to a packet that waits for it.";
    AcknowledgementMissing: "What was read on a connection that lives is acknowledged in the end.";
    PacketIdReused: "No packet identifier is used again while it is open [MQTT-2.2.1-4].";
    ReceiveMaximum: "No more QoS 1 and 2 messages are in flight than Receive Maximum and inflight_max allow [MQTT-3.3.4-9].";
    DupWithoutResume: "DUP is set only where a resumed session sends a message again [MQTT-3.3.1-1].";
    ReleaseUnknown: "PUBREL names a message that was sent, unless the session was resumed.";
    Unsubscribed: "A message comes only to who has, or had since it was published, a subscription for it.";
    ExactlyOnce: "A message of QoS 2 comes once for each subscription that brings it [MQTT-4.3.3].";
    TooOften: "A message comes at most once for each subscription that brings it.";
    LiveAndRetained: "A message that is retained while somebody subscribes comes live or retained, not both, unless a lane is held for half a minute.";
    QosTooHigh: "A delivery has at most the QoS of the message and of the subscription.";
    IdentifierUnknown: "A subscription identifier is one of a subscription that matches [MQTT-3.3.4-3].";
    NoLocal: "A client does not get its own message through a subscription with No Local [MQTT-3.8.3-3].";
    NoLocalRetained: "A client does not get its own retained message through a subscription with No Local [MQTT-3.8.3-3].";
    Order: "Messages of one publisher to one topic come in the order in which they were published [MQTT-4.6.0-5].";
    OrderShared: "Messages of one publisher come to a member of a shared subscription in the order in which they were published.";
    Lost: "What was acknowledged reaches every session that had subscribed, except for counted drops.";
    LostTooLarge: "A message that fits the client's Maximum Packet Size is not dropped as too large [MQTT-3.1.2-25].";
    LostFull: "A message that what is retained has no room for is delivered all the same.";
    SessionPresent: "CONNACK says that a session is present exactly if it is [MQTT-3.2.2-2].";
    WillMissing: "A will is published if its connection ends without a DISCONNECT that discards it [MQTT-3.1.2-8].";
    WillReason: "A will is published after DISCONNECT with any reason but 0x00 [MQTT-3.14.4-3].";
    WillWaiting: "DISCONNECT with 0x00 discards the will also while it waits behind what came before it [MQTT-3.14.4-3].";
    WillExpiry: "DISCONNECT may change a session expiry that CONNECT asked for, whatever was granted [MQTT-3.14.2-2].";
    WillUnwanted: "A will is not published after DISCONNECT with 0x00, nor twice, nor after a resume within its delay.";
    KickUndone: "A session that the operator has thrown away is not resumed.";
    SessionOwner: "A session is not resumed by another user than the one that left it.";
    Revoked: "A subscription that was granted is not taken away because nobody answered.";
    RetainedWrong: "What is retained for a topic is the last message that took effect for it: one that was read after every other had been acknowledged, or the last of its publisher.";
    RetainedMissing: "A new subscription gets every retained message that matches it.";
    RetainedDropped: "A new subscription gets every retained message, as it has room for them.";
    RetainedNotSent: "A SUBSCRIBE brings the retained messages that match, unless they are replaced [MQTT-3.3.1-9].";
    RetainedAtResume: "Retained messages of QoS 1 and 2 that a subscription in force had due when the connection ended come after a resume.";
    RetainedTwice: "A new subscription gets a retained message once.";
    NotAllowed: "Nothing is delivered that its receiver may not have by the rules in force since it was published.";
    NotAllowedInherited: "Who takes a session over gets nothing that he may not have by the rules in force since it was published.";
    PausedForever: "Every connection that is not read is resumed or ended.";
    AuthPaused: "A client that is asked for AUTH is read.";
    ConnackTooLarge: "A connection whose CONNACK is larger than the client's Maximum Packet Size is closed [MQTT-3.2.0-1].";
    ConnectForever: "Every CONNECT is answered or its connection ended.";
    SlotLeft: "No slot is left when everything has been answered.";
    SlotsBounded: "No session holds more slots than its limits allow.";
    QueueBounded: "No session queues more messages than its limit allows.";
    OutboundBounded: "No connection has more bytes queued than its limit allows.";
    OutboundAnswers: "A client that sends what is answered and does not read is not read, when as many bytes wait for it as may.";
    GaugeConnections: "When everybody has gone, no connection is counted.";
    GaugeSessions: "When every session has expired, no session is counted.";
    GaugeSubscriptions: "When every session has expired, no subscription is counted.";
    LedgerWrong: "What a shard counts as held is the sum of what each connection and session holds.";
    BehalfUnanswered: "What a plugin asks for on behalf of a client is answered, as long as its version, or the one that has its state, is there.";
    BehalfAnswers: "What a plugin asks for on behalf of a client is answered once, and to the version that has its state.";
    Rests: "The shards come to rest when nothing more comes from outside.";
}

/// A rule that was broken, and how.
#[derive(Clone, Debug)]
pub struct Violation {
    pub rule: Rule,
    pub details: String,
}

/// Collects the violations.
pub struct Judge {
    /// Whether a known fault counts like any other.
    known_too: fn(Rule) -> bool,
    pub violations: Vec<Violation>,
    /// How often each rule was broken that the engine is known to break.
    pub known: Vec<(Rule, u64)>,
}

impl Judge {
    pub fn new(known_too: fn(Rule) -> bool) -> Judge {
        Judge { known_too, violations: Vec::new(), known: Vec::new() }
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
