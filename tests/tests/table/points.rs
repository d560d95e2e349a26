//! The hook points by the design: what they carry, whether a verdict may come later, and what a
//! fault means. Written from the design, not from the broker.

/// What a fault or a missed deadline means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Stop with a refusal: nobody after it can allow.
    Deny,
    /// As if the link had not been there.
    Ignore,
}

/// A hook point.
#[derive(Debug)]
pub struct Point {
    pub name: &'static str,
    /// Whether it carries something that can be changed; otherwise it only tells.
    pub folds: bool,
    pub may_defer: bool,
    pub policy: Policy,
}

enum Kind {
    Fold,
    Run,
}

const fn point(name: &'static str, kind: Kind, may_defer: bool, policy: Policy) -> Point {
    Point { name, folds: matches!(kind, Kind::Fold), may_defer, policy }
}

macro_rules! points {
    ($($const:ident = $name:literal, $kind:ident, $defers:literal, $policy:ident;)*) => {
        $(pub const $const: Point = point($name, Kind::$kind, $defers, Policy::$policy);)*
        /// All of them.
        pub const ALL: &[Point] = &[$($const),*];
    };
}

points! {
    CLIENT_CONNECT = "client.connect", Fold, true, Ignore;
    CLIENT_AUTHENTICATE = "client.authenticate", Fold, true, Deny;
    CLIENT_AUTHORIZE = "client.authorize", Fold, true, Deny;
    CLIENT_CONNACK = "client.connack", Fold, false, Ignore;
    CLIENT_CONNECTED = "client.connected", Run, false, Ignore;
    CLIENT_DISCONNECTED = "client.disconnected", Run, false, Ignore;
    CLIENT_SUBSCRIBE = "client.subscribe", Fold, true, Deny;
    CLIENT_UNSUBSCRIBE = "client.unsubscribe", Fold, true, Ignore;
    SESSION_CREATED = "session.created", Run, false, Ignore;
    SESSION_RESUMED = "session.resumed", Run, false, Ignore;
    SESSION_DISCARDED = "session.discarded", Run, false, Ignore;
    SESSION_TAKENOVER = "session.takenover", Run, false, Ignore;
    SESSION_TERMINATED = "session.terminated", Run, false, Ignore;
    SESSION_SUBSCRIBED = "session.subscribed", Run, false, Ignore;
    SESSION_UNSUBSCRIBED = "session.unsubscribed", Run, false, Ignore;
    MESSAGE_PUBLISH = "message.publish", Fold, true, Ignore;
    MESSAGE_DELIVERED = "message.delivered", Fold, false, Ignore;
    MESSAGE_ACKED = "message.acked", Run, false, Ignore;
    MESSAGE_DROPPED = "message.dropped", Run, false, Ignore;
    MESSAGE_RETAINED = "message.retained", Run, false, Ignore;
    PACKET_RECEIVED = "packet.received", Run, false, Ignore;
    PACKET_SENT = "packet.sent", Run, false, Ignore;
    BROKER_STARTING = "broker.starting", Run, false, Ignore;
    BROKER_STARTED = "broker.started", Run, false, Ignore;
    BROKER_STOPPING = "broker.stopping", Run, false, Ignore;
    BROKER_STOPPED = "broker.stopped", Run, false, Ignore;
}
