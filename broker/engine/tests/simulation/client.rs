//! A simulated client: what it stores of its session, and its sockets with their bytes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::BytesMut;
use grapnel_engine::packet::{PacketType, Version};

use crate::engine::Place;
use crate::op::{Connect, Publish};

/// A publish of the client that is not acknowledged yet.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub id: u16,
    pub number: u32,
    pub publish: Publish,
    /// The broker ends the connection because of it; it is not sent again.
    pub refused: bool,
    /// PUBREC has arrived.
    pub released: bool,
}

/// A SUBSCRIBE or UNSUBSCRIBE that is not acknowledged yet.
#[derive(Clone, Debug)]
pub struct Request {
    pub id: u16,
    pub subscribe: bool,
    /// Filters, with their options as they are on the wire.
    pub filters: Vec<(u8, u8)>,
    /// A recheck of its filters remained unanswered meanwhile.
    pub unanswered: bool,
    /// A recheck of its filters was denied meanwhile.
    pub denied: bool,
}

/// What a client stores from one connection to the next.
#[derive(Default)]
pub struct Client {
    pub id: String,
    /// The connected socket.
    pub current: Option<usize>,
    /// Sockets whose CONNECT has no answer yet.
    pub connecting: Vec<usize>,
    pub outgoing: Vec<Outgoing>,
    /// Packets that it has not sent again after its connection had ended: the broker may have read
    /// them before, and acknowledges them then.
    pub given_up: BTreeSet<(PacketType, u16)>,
    pub requests: Vec<Request>,
    /// Identifiers of QoS 2 messages that wait for PUBREL, with the message.
    pub incoming: BTreeMap<u16, u32>,
    /// Acknowledgements that are still to be sent, in order.
    pub owed: VecDeque<(PacketType, u16)>,
    /// A plugin has requested a disconnect of the sender of some message.
    pub foreign: bool,
    pub withholds: bool,
    pub cork: Option<Vec<Piece>>,
    pub pieces: usize,
    next_id: u16,
}

/// An encoded packet with its meaning for the model.
pub struct Piece {
    pub bytes: Vec<u8>,
    pub sent: Sent,
}

impl Client {
    pub fn new(id: String) -> Client {
        Client { id, ..Client::default() }
    }

    /// A packet identifier that is not in use.
    pub fn free_id(&mut self) -> u16 {
        loop {
            self.next_id = self.next_id.wrapping_add(1).max(1);
            let id = self.next_id;
            if !self.outgoing.iter().any(|out| out.id == id) && !self.requests.iter().any(|r| r.id == id) {
                return id;
            }
        }
    }
}

impl Client {
    /// Clears what ends with a connection.
    pub fn connection_over(&mut self) {
        self.owed.clear();
        for out in self.outgoing.extract_if(.., |out| out.refused) {
            let kind = if out.publish.qos == 1 { PacketType::PubAck } else { PacketType::PubRec };
            self.given_up.insert((kind, out.id));
        }
        self.requests.clear();
        self.cork = None;
        self.pieces = 0;
    }
}

/// The kind of a packet, for the time when the engine has read it.
#[derive(Clone, Debug)]
pub enum Sent {
    Connect,
    Publish { number: u32, empty: bool },
    Disconnect { reason: u8, expiry_s: Option<u32> },
    Other,
}

/// State of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Connecting,
    Live,
    /// Another connection of the client has replaced it; its further packets are ignored.
    Replaced,
    Over,
}

/// A socket.
pub struct Socket {
    pub client: usize,
    pub place: Option<Place>,
    pub connect: Connect,
    pub stage: Stage,
    /// Whether it was ever connected.
    pub was_in: bool,
    pub resumed: bool,
    /// The resume flag cannot be determined: the version has none, and the session began just now.
    pub resumed_unclear: bool,
    /// Bytes that the engine has not taken yet.
    pub unread: BytesMut,
    pub sent: VecDeque<(u64, Sent)>,
    pub pushed: u64,
    pub consumed: u64,
    pub paused: bool,
    /// Bytes that it accepts in a step.
    pub intake: usize,
    /// It closes after it has accepted so many bytes more.
    pub closes_after: Option<usize>,
    pub received: Vec<u8>,
    pub receive_maximum: usize,
    pub expiry_s: u32,
    pub alias_max: u16,
    pub aliases_in: BTreeMap<u16, String>,
    pub aliases_out: BTreeMap<u16, u8>,
    /// Time of opening, in milliseconds.
    pub opened_ms: u64,
    /// The client has sent DISCONNECT.
    pub leaving: bool,
    /// It received AUTH before it was connected.
    pub requested: bool,
    /// Whether the broker has a reason to end it.
    pub may_end: bool,
    /// Its session is discarded with it.
    pub kicked: bool,
    /// Reason code and expiry of its DISCONNECT, once the engine has read it.
    pub said: Option<(u8, Option<u32>)>,
    /// Whether its DISCONNECT was a protocol error.
    pub said_nonsense: bool,
    /// Number of packets that waited in the session when the connection was lost.
    pub slots_at_end: usize,
    pub will: Option<u32>,
    /// Acknowledgements that are due, in order.
    pub expected: VecDeque<(PacketType, u16)>,
    /// Those of packets that were sent again.
    pub expected_again: BTreeSet<(PacketType, u16)>,
    /// Acknowledgements that may arrive for packets that were sent again.
    pub again: BTreeSet<(PacketType, u16)>,
    /// Identifiers of messages in flight to the client.
    pub open: BTreeMap<u16, u32>,
    pub pings: u32,
}

impl Socket {
    pub fn new(client: usize, place: Place, connect: Connect) -> Socket {
        Socket {
            client,
            place: Some(place),
            connect,
            stage: Stage::Connecting,
            was_in: false,
            resumed: false,
            resumed_unclear: false,
            unread: BytesMut::new(),
            sent: VecDeque::new(),
            pushed: 0,
            consumed: 0,
            paused: false,
            intake: usize::MAX,
            closes_after: None,
            received: Vec::new(),
            receive_maximum: usize::from(u16::MAX),
            expiry_s: 0,
            alias_max: 0,
            aliases_in: BTreeMap::new(),
            aliases_out: BTreeMap::new(),
            opened_ms: 0,
            leaving: false,
            requested: false,
            may_end: false,
            kicked: false,
            said: None,
            said_nonsense: false,
            slots_at_end: 0,
            will: None,
            expected: VecDeque::new(),
            expected_again: BTreeSet::new(),
            again: BTreeSet::new(),
            open: BTreeMap::new(),
            pings: 0,
        }
    }

    pub fn version(&self) -> Version {
        self.connect.version
    }

    /// Adds bytes for the engine.
    pub fn push(&mut self, piece: &Piece) {
        self.unread.extend_from_slice(&piece.bytes);
        self.pushed += piece.bytes.len() as u64;
        self.sent.push_back((self.pushed, piece.sent.clone()));
    }

    /// The engine has taken so many bytes. Returns the packets that are complete with them.
    pub fn take(&mut self, count: usize) -> Vec<Sent> {
        let _ = self.unread.split_to(count);
        self.consumed += count as u64;
        let mut read = Vec::new();
        while self.sent.front().is_some_and(|(end, _)| *end <= self.consumed) {
            read.extend(self.sent.pop_front().map(|(_, sent)| sent));
        }
        read
    }
}
