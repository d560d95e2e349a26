//! The operations on the shards, as plain data. An operation names clients, topics and tickets by
//! small numbers that are taken modulo what exists. So every part of a run is a valid run, which
//! makes shrinking possible.

use grapnel_engine::packet::Version;

/// Clients of a world; the client identifier follows from the number.
pub const CLIENTS: u8 = 8;

/// Topic names. The last one has more levels than `topic_levels_max` in the worlds with small
/// limits.
pub const TOPICS: [&str; 10] =
    ["a", "a/b", "a/b/c", "b", "b/x", "c/1", "c/2", "p/s", "p/t/u", "d/1/2/3/4/5/6/7/8/9/10/11"];
/// The topic of every will, without its RETAIN flag and with it.
pub const WILL_TOPICS: [&str; 2] = ["w/1", "w/2"];
/// Topic filters.
pub const FILTERS: [&str; 18] = [
    "#",
    "a/#",
    "a/+",
    "+/b",
    "a/b",
    "b",
    "b/#",
    "c/+",
    "c/1",
    "p/#",
    "+",
    "w/#",
    "$share/g/a/#",
    "$share/g/c/+",
    "$share/h/#",
    "$share/h/b",
    "+/+/c",
    "p/+",
];
/// User names; `None` is a client without one.
pub const USERS: [Option<&str>; 3] = [None, Some("ann"), Some("bob")];

/// A CONNECT.
#[derive(Clone, Debug, PartialEq)]
pub struct Connect {
    pub client: u8,
    pub user: u8,
    pub version: Version,
    pub clean: bool,
    pub expiry_s: Option<u32>,
    pub keep_alive_s: u16,
    pub receive_maximum: Option<u16>,
    pub packet_bytes_max: Option<u32>,
    pub alias_max: u16,
    pub will: Option<Will>,
    /// Uses an authentication method: AUTH in rounds if a plugin requests them.
    pub auth: bool,
    /// The shard whose listener accepts the socket.
    pub shard: u8,
}

/// The will of a CONNECT.
#[derive(Clone, Debug, PartialEq)]
pub struct Will {
    pub qos: u8,
    pub retain: bool,
    pub delay_s: u32,
}

/// A PUBLISH.
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    pub client: u8,
    pub topic: u8,
    pub qos: u8,
    pub retain: bool,
    /// Bytes of the payload; 0 clears a retained message.
    pub size: u32,
    pub expiry_s: Option<u32>,
    /// Uses a topic alias, if the connection has one: 1 sets it, 2 uses it without the topic if it
    /// is set.
    pub alias: u8,
}

/// An action of a plugin at its next calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Change,
    Stop,
    Drop,
    Reject,
    Disconnect,
    Defer,
    Fault,
    /// Changes, then faults.
    ChangeAndFault,
    /// Changes, then defers.
    ChangeAndDefer,
    /// client.authenticate: another round.
    Round,
}

/// A request of a plugin on behalf of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BehalfAction {
    /// A page of the retained messages of a filter.
    Fetch(u8),
    /// Authorization to publish to a topic.
    Publish(u8),
    /// Authorization to subscribe to a filter.
    Subscribe(u8),
}

/// The answer to a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Continue,
    Change,
    Stop,
    Refuse,
    Fault,
    Round,
}

/// A packet that breaks a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// A second CONNECT.
    Connect,
    /// A reserved packet type.
    Reserved,
    /// PUBLISH with QoS 3.
    Qos3,
    /// A packet that only a server sends.
    PingResp,
    /// More than `packet_bytes_max`.
    Oversized,
    /// PUBACK of an identifier that is not in use.
    PubAck,
    /// PUBREL of an identifier that is not in use.
    PubRel,
    /// PUBLISH beyond Receive Maximum.
    Overrun,
    /// A topic alias that was never set.
    Alias,
}

/// Scope of a change of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    All,
    Client(u8),
    User(u8),
    Topics(u8),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Connect(Connect),
    /// The client's socket is lost.
    Close {
        client: u8,
    },
    /// The client's socket is lost after it has accepted so many bytes more.
    CloseAfter {
        client: u8,
        bytes: u32,
    },
    /// The shell ends the connection, which has accepted no bytes for too long.
    Stuck {
        client: u8,
    },
    Disconnect {
        client: u8,
        reason: u8,
        expiry_s: Option<u32>,
    },
    Publish(Publish),
    Subscribe {
        client: u8,
        filters: Vec<(u8, u8)>,
        id: u32,
    },
    Unsubscribe {
        client: u8,
        filters: Vec<u8>,
    },
    /// Sends so many of the acknowledgements that it withholds.
    Acknowledge {
        client: u8,
        count: u8,
    },
    /// Whether a client withholds its acknowledgements.
    Withhold {
        client: u8,
        on: bool,
    },
    /// The number of bytes that the client's socket accepts in one step.
    Intake {
        client: u8,
        bytes: u32,
    },
    /// The client's packets are stored until this is off again, then sent in one piece.
    Cork {
        client: u8,
        on: bool,
    },
    /// The client's next bytes are sent in pieces of this size; 0 sends them at once.
    Pieces {
        client: u8,
        bytes: u8,
    },
    Ping {
        client: u8,
        count: u16,
    },
    /// A client that accepts no packet of more than so many bytes, CONNACK included.
    Tiny {
        shard: u8,
        bytes: u32,
    },
    /// AUTH: re-authentication if nothing else is under way.
    Auth {
        client: u8,
    },
    Break {
        client: u8,
        how: Bad,
    },
    /// Advances the clock.
    Pass {
        ms: u32,
    },
    /// Blocks or releases the lanes between two shards.
    Hold {
        from: u8,
        to: u8,
        on: bool,
    },
    /// Runs until nothing moves any more.
    Rest,
    /// Sets the action of a plugin at its next calls at a hook point.
    Arm {
        plugin: u8,
        point: u8,
        act: Act,
        calls: u8,
    },
    /// Answers one of the open tickets, or a closed one.
    Complete {
        ticket: u8,
        answer: Answer,
        again: bool,
    },
    /// Loads a plugin, loads its next generation, or unloads it.
    Load {
        plugin: u8,
    },
    Unload {
        plugin: u8,
    },
    /// The next version of a plugin takes over, with or without the previous version's state.
    Reload {
        plugin: u8,
        hands_over: bool,
    },
    /// A reload is taken back; the state of the later version comes back or does not.
    TakeBack {
        plugin: u8,
        comes_back: bool,
    },
    /// A plugin makes a request on behalf of a client.
    Behalf {
        plugin: u8,
        client: u8,
        action: BehalfAction,
    },
    /// Calls a tripped or disabled plugin again, or disables it.
    Enable {
        plugin: u8,
        on: bool,
    },
    /// Sets what a user may do with a class of topics.
    Rule {
        user: u8,
        class: u8,
        allow: bool,
    },
    Invalidate(Scope),
    Kick {
        client: u8,
        discard: bool,
    },
}
