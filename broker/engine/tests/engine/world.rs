//! Shards, their lanes, a clock and clients in one struct and one thread. `drive` moves bytes and
//! envelopes until nothing moves any more. It uses no socket and does not sleep.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use grapnel_engine::codec;
use grapnel_engine::id::{ConnKey, ShardId};
use grapnel_engine::limits::Limits;
use grapnel_engine::packet::{
    Ack, Connect, Disconnect, Filters, Packet, Properties, Property, Publish, QoS, Subscribe,
    SubscriptionOptions, TopicFilters, Unsubscribe, Version, Will, push_filter, push_property,
    push_subscription,
};
use grapnel_engine::reason::ReasonCode;
use grapnel_engine::shard::{Ended, Envelope, Input, Lane, ListenerInfo, Next, Peer, Reading, Setup, Shard};
use grapnel_engine::time::Now;

/// A client of the world.
pub type ClientId = usize;

struct Client {
    version: Version,
    place: Option<(usize, ConnKey)>,
    /// What the shell knows of its connection.
    peer: Peer,
    /// Bytes that the shell stores for a connection that is paused or has sent part of a packet.
    rest: BytesMut,
    /// Bytes that arrived while the shard was blocked. They are read when the engine requests them.
    unread: Vec<u8>,
    paused: bool,
    /// Number of bytes that the client's socket still accepts; `None` for all.
    takes: Option<usize>,
    received: BytesMut,
    closed: bool,
}

pub struct World {
    pub shards: Vec<Shard>,
    lanes: HashMap<(usize, usize), VecDeque<Envelope>>,
    clients: Vec<Client>,
    pub now: Now,
    /// Whether lanes move. Tests stop the lanes to examine what waits in them.
    pub lanes_open: bool,
    /// Shards that receive nothing from any lane.
    pub shards_held: Vec<usize>,
    /// Whether the listener admits a client without an Allow.
    pub allow_anonymous: bool,
    /// Address of the next connections.
    pub host: IpAddr,
    /// The other settings of the listener.
    pub listener: ListenerInfo,
}

/// A packet that a client received, in a form that tests can compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    ConnAck { present: bool, code: u8 },
    Publish { topic: String, payload: Vec<u8>, qos: u8, retain: bool, dup: bool, id: u16, ids: Vec<u32> },
    Ack(&'static str, u16, u8),
    SubAck(u16, Vec<u8>),
    UnsubAck(u16, Vec<u8>),
    PingResp,
    Disconnect(u8),
    Auth(u8, String),
}

pub fn message(topic: &str, payload: &str, qos: u8) -> Got {
    Got::Publish {
        topic: topic.into(),
        payload: payload.as_bytes().to_vec(),
        qos,
        retain: false,
        dup: false,
        id: 0,
        ids: Vec::new(),
    }
}

impl Got {
    /// The packet without its identifier, which tests seldom predict.
    pub fn plain(mut self) -> Got {
        if let Got::Publish { id, .. } = &mut self {
            *id = 0;
        }
        self
    }

    pub fn id(&self) -> u16 {
        match self {
            Got::Publish { id, .. } | Got::Ack(_, id, _) | Got::SubAck(id, _) | Got::UnsubAck(id, _) => *id,
            _ => 0,
        }
    }
}

/// Contents of a CONNECT.
pub struct ConnectRequest<'a> {
    pub version: Version,
    pub clean: bool,
    pub keep_alive_s: u16,
    pub username: Option<&'a str>,
    pub password: Option<&'a [u8]>,
    pub will: Option<(&'a str, &'a str, QoS, bool)>,
    pub will_delay_s: u32,
    pub properties: Vec<Property<'a>>,
}

impl ConnectRequest<'_> {
    pub fn v(version: Version) -> Self {
        ConnectRequest {
            version,
            clean: true,
            keep_alive_s: 0,
            username: None,
            password: None,
            will: None,
            will_delay_s: 0,
            properties: Vec::new(),
        }
    }
}

pub fn id(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("a packet identifier is not 0")
}

impl World {
    pub fn new(shards: usize) -> World {
        World::with(shards, |_| {})
    }

    pub fn with(shards: usize, change: impl FnOnce(&mut Limits)) -> World {
        World::with_setup(shards, change, true)
    }

    pub fn with_setup(shards: usize, change: impl FnOnce(&mut Limits), no_match_allow: bool) -> World {
        let mut limits = Limits::default();
        change(&mut limits);
        let limits = Arc::new(limits);
        let now = Now { mono_ms: 1000, wall_ms: 1_700_000_000_000 };
        let mut shards: Vec<Shard> = (0..shards)
            .map(|index| {
                Shard::new(Setup {
                    id: ShardId(index as u8),
                    shards,
                    limits: Arc::clone(&limits),
                    no_match_allow,
                    keys: [1, 2, 3, 4],
                    seed: 42 + index as u64,
                })
            })
            .collect();
        for shard in &mut shards {
            shard.advance(now);
        }
        World {
            shards,
            lanes: HashMap::new(),
            clients: Vec::new(),
            now,
            lanes_open: true,
            shards_held: Vec::new(),
            allow_anonymous: true,
            host: Ipv4Addr::LOCALHOST.into(),
            listener: ListenerInfo { name: "test".into(), ..ListenerInfo::default() },
        }
    }

    /// Opens a connection on the listener of some shard.
    pub fn open(&mut self, version: Version) -> ClientId {
        let number = self.clients.len();
        let shard = number % self.shards.len();
        let peer = self.peer();
        let key = self.shards[shard].open(peer.clone()).expect("there is room for a connection");
        self.clients.push(Client {
            version,
            place: Some((shard, key)),
            peer,
            rest: BytesMut::new(),
            unread: Vec::new(),
            paused: false,
            takes: None,
            received: BytesMut::new(),
            closed: false,
        });
        number
    }

    /// Connects and expects success. Packets after CONNACK can be taken afterwards.
    pub fn connect(&mut self, client_id: &str, request: &ConnectRequest<'_>) -> ClientId {
        let (client, connack) = self.try_connect(client_id, request);
        assert!(matches!(connack, Some(Got::ConnAck { code: 0, .. })), "{client_id}: {connack:?}");
        client
    }

    pub fn try_connect(&mut self, client_id: &str, request: &ConnectRequest<'_>) -> (ClientId, Option<Got>) {
        let client = self.open(request.version);
        self.send_connect(client, client_id, request);
        let connack = self.take_first(client);
        (client, connack)
    }

    pub fn send_connect(&mut self, client: ClientId, client_id: &str, request: &ConnectRequest<'_>) {
        let mut section = Vec::new();
        request.properties.iter().for_each(|property| push_property(&mut section, *property));
        let mut will_section = Vec::new();
        if request.will_delay_s > 0 {
            push_property(&mut will_section, Property::WillDelay(request.will_delay_s));
        }
        let will = request.will.map(|(topic, payload, qos, retain)| Will {
            topic,
            payload: payload.as_bytes(),
            qos,
            retain,
            properties: Properties::from_encoded(&will_section),
        });
        self.send(
            client,
            &Packet::Connect(Connect {
                version: request.version,
                clean_start: request.clean,
                keep_alive_s: request.keep_alive_s,
                client_id,
                username: request.username,
                password: request.password,
                will,
                properties: Properties::from_encoded(&section),
            }),
        );
    }

    pub fn send(&mut self, client: ClientId, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        codec::encode(packet, self.clients[client].version, &mut bytes);
        self.send_bytes(client, &bytes);
    }

    pub fn send_bytes(&mut self, client: ClientId, bytes: &[u8]) {
        self.clients[client].rest.extend_from_slice(bytes);
        if !self.clients[client].paused {
            self.offer(client);
        }
        self.drive();
    }

    pub fn subscribe(&mut self, client: ClientId, filter: &str, qos: QoS) -> Vec<u8> {
        self.subscribe_with(client, filter, SubscriptionOptions::of_qos(qos), None)
    }

    pub fn subscribe_with(
        &mut self,
        client: ClientId,
        filter: &str,
        options: SubscriptionOptions,
        subscription_id: Option<u32>,
    ) -> Vec<u8> {
        self.send_subscribe(client, filter, options, subscription_id);
        match self.take_first(client) {
            Some(Got::SubAck(7, codes)) => codes,
            other => panic!("SUBACK expected, not {other:?}"),
        }
    }

    pub fn send_subscribe(
        &mut self,
        client: ClientId,
        filter: &str,
        options: SubscriptionOptions,
        subscription_id: Option<u32>,
    ) {
        let mut payload = Vec::new();
        push_subscription(&mut payload, filter, options);
        let mut section = Vec::new();
        if let Some(id) = subscription_id {
            push_property(&mut section, Property::SubscriptionId(id));
        }
        self.send(
            client,
            &Packet::Subscribe(Subscribe {
                packet_id: id(7),
                properties: Properties::from_encoded(&section),
                filters: Filters::from_encoded(&payload),
            }),
        );
    }

    pub fn unsubscribe(&mut self, client: ClientId, filter: &str) {
        let mut payload = Vec::new();
        push_filter(&mut payload, filter);
        let filters = TopicFilters::from_encoded(&payload);
        self.send(
            client,
            &Packet::Unsubscribe(Unsubscribe {
                packet_id: id(8),
                properties: Properties::default(),
                filters,
            }),
        );
    }

    pub fn publish(&mut self, client: ClientId, topic: &str, payload: &str, qos: QoS, packet_id: u16) {
        self.publish_with(client, topic, payload, qos, packet_id, false, &[]);
    }

    #[allow(clippy::too_many_arguments, reason = "a PUBLISH has as many parts")]
    pub fn publish_with(
        &mut self,
        client: ClientId,
        topic: &str,
        payload: &str,
        qos: QoS,
        packet_id: u16,
        retain: bool,
        properties: &[Property<'_>],
    ) {
        let mut section = Vec::new();
        properties.iter().for_each(|property| push_property(&mut section, *property));
        self.send(
            client,
            &Packet::Publish(Publish {
                dup: false,
                qos,
                retain,
                topic,
                packet_id: NonZeroU16::new(packet_id),
                properties: Properties::from_encoded(&section),
                payload: payload.as_bytes(),
            }),
        );
    }

    pub fn ack(&mut self, client: ClientId, kind: fn(Ack<'static>) -> Packet<'static>, packet_id: u16) {
        self.send(client, &kind(Ack::new(id(packet_id), ReasonCode::SUCCESS)));
    }

    pub fn disconnect(&mut self, client: ClientId, reason: ReasonCode) {
        self.send(client, &Packet::Disconnect(Disconnect { reason, properties: Properties::default() }));
    }

    /// Breaks the client's socket.
    pub fn lose(&mut self, client: ClientId) {
        if let Some((shard, key)) = self.clients[client].place.take() {
            self.shards[shard].closed(key, Ended::ByPeer);
        }
        self.clients[client].closed = true;
        self.drive();
    }

    /// Whether the engine reads a client's connection.
    pub fn reading(&self, client: ClientId) -> Reading {
        let (shard, key) = self.clients[client].place.expect("the client is connected");
        self.shards[shard].reading(key).expect("the engine knows it")
    }

    /// From now on a client's socket accepts so many bytes and then none; `None` for all.
    pub fn takes(&mut self, client: ClientId, bytes: Option<usize>) {
        self.clients[client].takes = bytes;
        if let Some((shard, key)) = self.clients[client].place {
            self.flush(shard, key);
        }
        self.drive();
    }

    pub fn is_closed(&self, client: ClientId) -> bool {
        self.clients[client].closed
    }

    pub fn shard_of(&self, client: ClientId) -> usize {
        self.clients[client].place.expect("the client is connected").0
    }

    /// The key of a client's connection on its shard.
    pub fn key_of(&self, client: ClientId) -> ConnKey {
        self.clients[client].place.expect("the client is connected").1
    }

    /// Advances the clock, in steps of at most a second.
    pub fn pass_ms(&mut self, mut ms: u64) {
        while ms > 0 {
            let step = ms.min(1000);
            ms -= step;
            self.now = self.now.plus_ms(step);
            self.drive();
        }
    }

    /// Blocks the shard for so long. When it continues, these bytes are in the clients' sockets.
    pub fn hold_ms(&mut self, ms: u64, unread: &[(ClientId, &[u8])]) {
        for (client, bytes) in unread {
            self.clients[*client].unread.extend_from_slice(bytes);
        }
        self.now = self.now.plus_ms(ms);
        self.drive();
    }

    /// Packets that a client received since the last call.
    pub fn take(&mut self, client: ClientId) -> Vec<Got> {
        let version = self.clients[client].version;
        let bytes = self.clients[client].received.split().freeze();
        let mut rest = &bytes[..];
        let mut all = Vec::new();
        while let Some(frame) = codec::frame(rest, u32::MAX).expect("the broker writes whole packets") {
            all.push(got(&codec::decode(&frame, version).expect("the broker writes valid packets")));
            rest = &rest[frame.len..];
        }
        assert!(rest.is_empty(), "half a packet was written");
        all
    }

    /// Bytes that a client received since the last call.
    pub fn take_raw(&mut self, client: ClientId) -> Bytes {
        self.clients[client].received.split().freeze()
    }

    /// Discards the bytes that a client, if it exists, has received so far.
    pub fn forget(&mut self, client: ClientId) {
        if let Some(client) = self.clients.get_mut(client) {
            client.received.clear();
        }
    }

    pub fn take_plain(&mut self, client: ClientId) -> Vec<Got> {
        self.take(client).into_iter().map(Got::plain).collect()
    }

    fn take_first(&mut self, client: ClientId) -> Option<Got> {
        let version = self.clients[client].version;
        let received = &mut self.clients[client].received;
        let frame = codec::frame(received, u32::MAX).expect("the broker writes whole packets")?;
        let first = got(&codec::decode(&frame, version).expect("the broker writes valid packets"));
        let len = frame.len;
        let _ = received.split_to(len);
        Some(first)
    }

    fn offer(&mut self, client: ClientId) {
        while let Some((shard, key)) = self.clients[client].place {
            let bytes: Bytes = self.clients[client].rest.clone().freeze();
            // Alternates between both kinds of input.
            let input = if client.is_multiple_of(2) { Input::Scratch(&bytes) } else { Input::Owned(&bytes) };
            let received = self.shards[shard].receive(key, input);
            let _ = self.clients[client].rest.split_to(received.consumed);
            self.shards[shard].charge_read_buffer(key, self.clients[client].rest.len());
            match received.next {
                Next::Read => return,
                Next::Pause => {
                    self.clients[client].paused = true;
                    return;
                }
                Next::Closed => {
                    self.collect(shard);
                    self.clients[client].place = None;
                    self.clients[client].closed = true;
                    return;
                }
                Next::Handoff(home) => {
                    let home = home.index();
                    let peer = self.clients[client].peer.clone();
                    let key = self.shards[home].open(peer).expect("there is room for a connection");
                    self.clients[client].place = Some((home, key));
                }
            }
        }
    }

    /// Runs until nothing moves any more.
    pub fn drive(&mut self) {
        for round in 0.. {
            assert!(round < 100_000, "the world does not come to rest");
            if !self.turn() {
                self.check_ledgers();
                return;
            }
        }
    }

    /// One turn of every shard. Returns whether anything has moved.
    pub fn turn(&mut self) -> bool {
        let mut moved = false;
        for shard in 0..self.shards.len() {
            moved |= self.shards[shard].advance(self.now);
            moved |= self.collect(shard);
        }
        moved
    }

    /// Checks that each ledger equals a fresh count of all its holders, and that no timer is left
    /// behind.
    fn check_ledgers(&mut self) {
        for shard in &mut self.shards {
            shard.settle_memory();
            let (armed, held) = shard.timers();
            assert_eq!(armed, held, "{shard:?} has timers that nobody holds");
            assert_eq!(shard.ledger(), shard.recount(), "{shard:?}");
            assert!(!shard.has_work(), "{shard:?} says that it has work, and nothing moves");
        }
    }

    fn collect(&mut self, shard: usize) -> bool {
        let mut moved = false;
        let outbox = self.shards[shard].outbox();
        let dirty = std::mem::take(&mut outbox.dirty);
        let resume = std::mem::take(&mut outbox.resume);
        let overdue = std::mem::take(&mut outbox.overdue);
        let closing = std::mem::take(&mut outbox.closing);
        for key in dirty {
            moved |= self.flush(shard, key);
        }
        for mut closing in closing {
            moved = true;
            if let Some(client) = self.client_at(shard, closing.conn) {
                while !closing.outbound.is_empty() {
                    let front = closing.outbound.front().to_vec();
                    self.clients[client].received.extend_from_slice(&front);
                    closing.outbound.advance(front.len());
                }
                self.clients[client].place = None;
                self.clients[client].closed = true;
            }
        }
        for key in overdue {
            moved = true;
            if let Some(client) = self.client_at(shard, key) {
                let unread = std::mem::take(&mut self.clients[client].unread);
                self.clients[client].rest.extend_from_slice(&unread);
                self.offer(client);
            }
            self.shards[shard].deadline_checked(key);
        }
        for key in resume {
            moved = true;
            if let Some(client) = self.client_at(shard, key) {
                self.clients[client].paused = false;
                self.offer(client);
            }
        }
        moved | self.move_lanes(shard)
    }

    fn flush(&mut self, shard: usize, key: ConnKey) -> bool {
        let Some(client) = self.client_at(shard, key) else { return false };
        // Like the shell: a full socket is tried again only when it has space.
        if self.clients[client].takes == Some(0) {
            return false;
        }
        let Some(outbound) = self.shards[shard].outbound(key) else { return false };
        let mut all = Vec::new();
        while !outbound.is_empty() {
            let takes = self.clients[client].takes.unwrap_or(usize::MAX);
            let front = outbound.front();
            let front = front[..front.len().min(takes)].to_vec();
            if front.is_empty() && takes == 0 {
                break;
            }
            outbound.advance(front.len());
            if let Some(takes) = &mut self.clients[client].takes {
                *takes -= front.len();
            }
            all.extend(front);
        }
        if outbound.is_empty() {
            outbound.release();
        }
        if !all.is_empty() {
            self.shards[shard].written(key);
        }
        self.clients[client].received.extend_from_slice(&all);
        !all.is_empty()
    }

    fn move_lanes(&mut self, from: usize) -> bool {
        let mut moved = false;
        if !self.lanes_open {
            return false;
        }
        for to in 0..self.shards.len() {
            if self.shards_held.contains(&to) {
                continue;
            }
            for lane in [Lane::Control, Lane::Data] {
                if lane == Lane::Data && !self.shards[to].takes_messages() {
                    continue;
                }
                let mut batch = Vec::new();
                self.shards[from].outbox().take_batch(ShardId(to as u8), lane, 64, &mut batch);
                moved |= !batch.is_empty();
                self.lanes.entry((from, to)).or_default().extend(batch);
            }
            for envelope in std::mem::take(self.lanes.entry((from, to)).or_default()) {
                self.shards[to].envelope(ShardId(from as u8), envelope);
            }
        }
        self.shards[from].lanes_moved();
        moved
    }

    /// Runs until nothing moves any more, one envelope or one step of a shard at a time, in an
    /// order that `seed` determines. Each lane keeps its order; lanes overtake each other.
    pub fn drive_shuffled(&mut self, seed: u64) {
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut quiet = 0;
        while quiet < 40 * self.shards.len().pow(2) {
            quiet = if self.step_shuffled(&mut random) { 0 } else { quiet + 1 };
        }
        self.drive();
    }

    /// One such step, drawn from the state `random`, which is not 0. Returns whether anything has
    /// moved.
    pub fn step_shuffled(&mut self, random: &mut u64) -> bool {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        let (state, count) = (*random, self.shards.len());
        let (what, from, to) = (state % 3, (state >> 8) as usize % count, (state >> 24) as usize % count);
        if what == 0 {
            let more = self.shards[from].advance(self.now);
            let lanes_open = std::mem::replace(&mut self.lanes_open, false);
            let moved = self.collect(from);
            self.lanes_open = lanes_open;
            return more | moved;
        }
        let lane = if what == 1 { Lane::Control } else { Lane::Data };
        let mut batch = Vec::new();
        if lane == Lane::Control || self.shards[to].takes_messages() {
            self.shards[from].outbox().take_batch(ShardId(to as u8), lane, 1, &mut batch);
        }
        let moved = !batch.is_empty();
        for envelope in batch {
            self.shards[to].envelope(ShardId(from as u8), envelope);
        }
        self.shards[from].lanes_moved();
        moved
    }

    /// The client's shard reads these bytes, and nothing else moves.
    pub fn offer_bytes(&mut self, client: ClientId, bytes: &[u8]) {
        self.clients[client].rest.extend_from_slice(bytes);
        self.offer(client);
    }

    /// Connects a client whose home is this shard. Its identifier begins with `name`.
    pub fn connect_at(&mut self, home: usize, name: &str, request: &ConnectRequest<'_>) -> ClientId {
        for n in 0.. {
            let client = self.connect(&format!("{name}{n}"), request);
            if self.shard_of(client) == home {
                return client;
            }
        }
        unreachable!("some name has its home on each shard")
    }

    /// Units of work that all shards have done.
    pub fn work_units(&mut self) -> u64 {
        self.shards.iter_mut().map(|shard| shard.counters().work_units).sum()
    }

    fn client_at(&self, shard: usize, key: ConnKey) -> Option<ClientId> {
        self.clients.iter().position(|client| client.place == Some((shard, key)))
    }

    /// What the next connection is opened with.
    pub fn peer(&self) -> Peer {
        let listener = ListenerInfo { allow_anonymous: self.allow_anonymous, ..self.listener.clone() };
        let local: SocketAddr = "127.0.0.1:1883".parse().expect("an address");
        Peer::new(Arc::new(listener), SocketAddr::new(self.host, 40_000), local)
    }

    /// The layers of a connection have found out more of it. Returns whether the engine takes it.
    pub fn identify(&mut self, client: ClientId, more: impl FnOnce(&mut Peer)) -> bool {
        let Client { place, peer, .. } = &mut self.clients[client];
        more(peer);
        place.is_some_and(|(shard, key)| self.shards[shard].identify(key, peer.clone()))
    }
}

fn got(packet: &Packet<'_>) -> Got {
    match packet {
        Packet::ConnAck(connack) => Got::ConnAck { present: connack.session_present, code: connack.code },
        Packet::Publish(publish) => Got::Publish {
            topic: publish.topic.to_owned(),
            payload: publish.payload.to_vec(),
            qos: publish.qos.as_u8(),
            retain: publish.retain,
            dup: publish.dup,
            id: publish.packet_id.map_or(0, NonZeroU16::get),
            ids: publish.properties.subscription_ids().collect(),
        },
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            Got::Ack(packet.packet_type().name(), ack.packet_id.get(), ack.reason.0)
        }
        Packet::SubAck(suback) => Got::SubAck(suback.packet_id.get(), suback.codes.to_vec()),
        Packet::UnsubAck(unsuback) => Got::UnsubAck(unsuback.packet_id.get(), unsuback.codes.to_vec()),
        Packet::PingResp => Got::PingResp,
        Packet::Disconnect(disconnect) => Got::Disconnect(disconnect.reason.0),
        Packet::Auth(auth) => {
            let data = auth.properties.auth_data().unwrap_or_default();
            Got::Auth(auth.reason.0, String::from_utf8_lossy(data).into_owned())
        }
        other => panic!("the broker must not send {other:?}"),
    }
}
