//! The hook points: their numbers in the ABI, their names, and what a link may do there. The broker
//! compiles one chain for each, and the SDK mounts by them. Numbers are never reused.

use abi_stable::StableAbi;

/// Whether a chain only notifies or also carries an accumulator that links change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Links may change the accumulator.
    Fold,
    /// Links are told; they may end the chain, but change nothing.
    Run,
}

/// What a fault or a missed deadline means at a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultPolicy {
    /// Stop with a refusal: nobody after it can allow.
    Deny,
    /// As if the link had not been there.
    Ignore,
}

macro_rules! points {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $kind:ident, $defer:literal, $policy:ident;)*) => {
        /// A place in the data path where links are called.
        #[repr(u16)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, StableAbi)]
        pub enum HookPoint { $($(#[$doc])* $variant = $number,)* }

        impl HookPoint {
            /// Every point, in the order of its number.
            pub const ALL: &'static [HookPoint] = &[$(HookPoint::$variant),*];

            /// The name users know, such as `message.publish`.
            pub const fn name(self) -> &'static str {
                match self { $(HookPoint::$variant => $name,)* }
            }

            /// Fold or run.
            pub const fn kind(self) -> Kind {
                match self { $(HookPoint::$variant => Kind::$kind,)* }
            }

            /// Whether a link may answer later through a ticket.
            pub const fn may_defer(self) -> bool {
                match self { $(HookPoint::$variant => $defer,)* }
            }

            /// What a fault means here unless the operator says otherwise.
            pub const fn fault_policy(self) -> FaultPolicy {
                match self { $(HookPoint::$variant => FaultPolicy::$policy,)* }
            }

            /// The point of a number on the ABI.
            pub const fn from_number(number: u16) -> Option<HookPoint> {
                match number { $($number => Some(HookPoint::$variant),)* _ => None }
            }

            /// The point of a name such as `message.publish`.
            pub fn from_name(name: &str) -> Option<HookPoint> {
                match name { $($name => Some(HookPoint::$variant),)* _ => None }
            }
        }
    };
}

points! {
    /// CONNECT was read; nothing is decided yet.
    ClientConnect = 0, "client.connect", Fold, true, Ignore;
    /// Who is it, and may it come in.
    ClientAuthenticate = 1, "client.authenticate", Fold, true, Deny;
    /// May it publish here, may it subscribe to this.
    ClientAuthorize = 2, "client.authorize", Fold, true, Deny;
    /// Before CONNACK, on refusals too.
    ClientConnack = 3, "client.connack", Fold, false, Ignore;
    /// CONNACK with success has been queued.
    ClientConnected = 4, "client.connected", Run, false, Ignore;
    /// The connection is about to close.
    ClientDisconnected = 5, "client.disconnected", Run, false, Ignore;
    /// SUBSCRIBE was read; filters may be rewritten or refused.
    ClientSubscribe = 6, "client.subscribe", Fold, true, Deny;
    /// UNSUBSCRIBE was read.
    ClientUnsubscribe = 7, "client.unsubscribe", Fold, true, Ignore;
    /// A session came into being.
    SessionCreated = 8, "session.created", Run, false, Ignore;
    /// A stored session got a connection again.
    SessionResumed = 9, "session.resumed", Run, false, Ignore;
    /// A clean start threw a session away.
    SessionDiscarded = 10, "session.discarded", Run, false, Ignore;
    /// Another connection took a session over.
    SessionTakenover = 11, "session.takenover", Run, false, Ignore;
    /// A session ended in any other way.
    SessionTerminated = 12, "session.terminated", Run, false, Ignore;
    /// A subscription is in force.
    SessionSubscribed = 13, "session.subscribed", Run, false, Ignore;
    /// A subscription is gone.
    SessionUnsubscribed = 14, "session.unsubscribed", Run, false, Ignore;
    /// A message came in and has not been routed yet.
    MessagePublish = 15, "message.publish", Fold, true, Ignore;
    /// A message is about to be encoded for one subscriber.
    MessageDelivered = 16, "message.delivered", Fold, false, Ignore;
    /// A subscriber acknowledged a message.
    MessageAcked = 17, "message.acked", Run, false, Ignore;
    /// A message was dropped, with the reason.
    MessageDropped = 18, "message.dropped", Run, false, Ignore;
    /// A retained message was set, cleared or expired.
    MessageRetained = 19, "message.retained", Run, false, Ignore;
    /// A packet was read.
    PacketReceived = 20, "packet.received", Run, false, Ignore;
    /// A packet was written.
    PacketSent = 21, "packet.sent", Run, false, Ignore;
    /// The broker begins to start.
    BrokerStarting = 22, "broker.starting", Run, false, Ignore;
    /// The broker accepts connections.
    BrokerStarted = 23, "broker.started", Run, false, Ignore;
    /// The broker begins to stop.
    BrokerStopping = 24, "broker.stopping", Run, false, Ignore;
    /// The broker has stopped.
    BrokerStopped = 25, "broker.stopped", Run, false, Ignore;
}

/// How many hook points there are.
pub const POINTS: usize = HookPoint::ALL.len();
