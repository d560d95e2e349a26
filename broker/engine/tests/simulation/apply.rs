//! Applies operations. Indexes in an operation are taken modulo the number of items; an operation
//! that does not apply does nothing.

use bytes::Bytes;
use grapnel_engine::packet::{PacketType, Version};
use grapnel_engine::reason::ReasonCode;

use crate::checker::Rule;
use crate::client::{Outgoing, Request, Sent, Stage};
use crate::engine::Offered;
use crate::model::topic_text;
use crate::op::{Bad, Connect, Op, Publish};
use crate::wire;
use crate::world::World;

/// The engine remembers stored messages under way for this time. If a message is held longer, it
/// may arrive live in addition to its retained copy.
const HELD_MS_MAX: u64 = 29_000;

impl World {
    /// Applies one operation, and gives every shard a turn.
    pub fn apply(&mut self, op: &Op) {
        self.engine.pass_ms(1);
        self.model.retained.step += 1;
        self.act(op);
        self.take_notes();
        self.deny_all_while_tripped();
        self.turn();
        self.take_notes();
        self.check_bounds();
    }

    fn act(&mut self, op: &Op) {
        match op {
            Op::Connect(connect) => self.connect(connect),
            Op::Close { client } => self.with_socket(*client, |world, socket| world.lose(socket, false)),
            Op::Stuck { client } => self.with_socket(*client, |world, socket| world.lose(socket, true)),
            Op::CloseAfter { client, bytes } => self.with_socket(*client, |world, socket| {
                world.sockets[socket].closes_after = Some(*bytes as usize);
            }),
            Op::Disconnect { client, reason, expiry_s } => self.disconnect(*client, *reason, *expiry_s),
            Op::Publish(publish) => self.publish(publish, false),
            Op::Subscribe { client, filters, id } => self.request(*client, true, filters, *id),
            Op::Unsubscribe { client, filters } => {
                let filters: Vec<(u8, u8)> = filters.iter().map(|filter| (*filter, 0)).collect();
                self.request(*client, false, &filters, 0);
            }
            Op::Acknowledge { client, count } => self.acknowledge(self.client(*client), usize::from(*count)),
            Op::Withhold { client, on } => {
                let client = self.client(*client);
                self.clients[client].withholds = *on;
            }
            Op::Intake { client, bytes } => self.with_socket(*client, |world, socket| {
                let bytes = if *bytes == u32::MAX { usize::MAX } else { *bytes as usize };
                world.sockets[socket].intake = bytes;
                world.take_in(socket);
            }),
            Op::Cork { client, on } => self.cork(*client, *on),
            Op::Pieces { client, bytes } => {
                let client = self.client(*client);
                self.clients[client].pieces = usize::from(*bytes);
            }
            Op::Ping { client, count } => self.with_socket(*client, |world, socket| {
                world.sockets[socket].pings += u32::from(*count);
                let bytes = wire::ping().repeat(usize::from(*count));
                world.send(world.sockets[socket].client, bytes, Sent::Other);
            }),
            Op::Tiny { shard, bytes } => self.tiny(usize::from(*shard), *bytes),
            Op::Auth { client } => self.with_socket(*client, World::reauthenticate),
            Op::Break { client, how } => self.break_rule(*client, *how),
            Op::Pass { ms } => self.pass(u64::from(*ms)),
            Op::Hold { from, to, on } => self.engine.hold(usize::from(*from), usize::from(*to), *on),
            Op::Rest => {
                self.engine.release_all();
                self.run_turns();
                self.is_settled();
            }
            _ => self.act_on_plugins(op),
        }
    }

    pub fn client(&self, number: u8) -> usize {
        usize::from(number) % usize::from(crate::op::CLIENTS)
    }

    fn with_socket(&mut self, client: u8, act: impl FnOnce(&mut World, usize)) {
        if let Some(socket) = self.clients[self.client(client)].current {
            act(self, socket);
        }
    }

    fn pass(&mut self, ms: u64) {
        // A plugin that does not answer and a client that is not read are no reason to end a
        // connection; an expired keep alive is.
        for number in self.live.clone() {
            let socket = &mut self.sockets[number];
            socket.may_end |= socket.connect.keep_alive_s > 0 || socket.stage == Stage::Connecting;
        }
        self.engine.pass_ms(ms);
        self.held_ms = if self.engine.any_held() { self.held_ms + ms } else { 0 };
        if self.held_ms >= HELD_MS_MAX {
            self.model.all_late();
        }
    }

    /// A connection whose client accepts no packet: it must be closed, unless a plugin sees it
    /// first.
    fn tiny(&mut self, shard: usize, bytes: u32) {
        let Some(mut place) = self.engine.open(shard % self.engine.shards()) else { return };
        let request = Connect { packet_bytes_max: Some(bytes), ..self.plain(0, 0) };
        let request = Connect { version: Version::V5, clean: true, expiry_s: None, ..request };
        let connect = Bytes::from(wire::connect("tiny", &request, 0));
        loop {
            match self.engine.offer(place, &connect, false) {
                Offered::Moved(Some(home)) => place = home,
                Offered::Moved(None) | Offered::Closed(_) => return,
                Offered::Paused(_) => break,
                Offered::Read(_) => {
                    self.checker.broken(Rule::ConnackTooLarge, || format!("at most {bytes} bytes"));
                    break;
                }
            }
        }
        self.engine.closed(place, false);
    }

    fn disconnect(&mut self, client: u8, reason: u8, expiry_s: Option<u32>) {
        self.with_socket(client, |world, socket| {
            let socket = &world.sockets[socket];
            let version = socket.version();
            let (reason, expiry_s) = if version.is_v5() { (reason, expiry_s) } else { (0, None) };
            let bytes = wire::disconnect(reason, expiry_s, version);
            world.send(socket.client, bytes, Sent::Disconnect { reason, expiry_s });
        });
    }

    fn cork(&mut self, client: u8, on: bool) {
        let client = self.client(client);
        if on && self.clients[client].current.is_some() {
            self.clients[client].cork.get_or_insert_default();
        } else {
            self.uncork(client);
        }
    }

    /// A PUBLISH; with `overrun` it ignores the Receive Maximum of the broker.
    fn publish(&mut self, publish: &Publish, overrun: bool) {
        let client = self.client(publish.client);
        let Some(number) = self.clients[client].current else { return };
        let version = self.sockets[number].version();
        let mut publish = publish.clone();
        if !version.is_v5() {
            publish.expiry_s = None;
        }
        let owed = self.clients[client].outgoing.iter().filter(|out| version.is_v5() || out.publish.qos == 2);
        // Half of the MQTT 3 clients ignore the broker's limit.
        let heeds = version.is_v5() || (publish.qos == 2 && client.is_multiple_of(2));
        let limited = publish.qos > 0 && heeds;
        if limited && !overrun && owed.count() >= self.sockets[number].receive_maximum {
            return;
        }
        let message = self.model.publish(client, &publish);
        let id = if publish.qos > 0 { self.clients[client].free_id() } else { 0 };
        let (topic, alias) = self.alias(number, &publish);
        let payload = wire::payload(message, publish.size);
        let publication = wire::Publication {
            topic,
            payload: &payload,
            qos: publish.qos,
            retain: publish.retain,
            dup: false,
            id,
            alias,
            expiry_s: publish.expiry_s,
        };
        let bytes = wire::publish(&publication, version);
        let empty = publish.size == 0;
        let deep = topic_text(publish.topic).split('/').count() > self.model.levels_max;
        let too_large = bytes.len() as u64 > self.settings.limits.packet_bytes_max;
        let unrefusable = deep && (publish.qos == 0 || !version.is_v5());
        self.sockets[number].may_end |= too_large || unrefusable;
        let refused = too_large || deep;
        self.model.messages[message as usize].socket = number;
        if publish.qos > 0 {
            let kind = if publish.qos == 1 { PacketType::PubAck } else { PacketType::PubRec };
            self.sockets[number].expected.push_back((kind, id));
            self.clients[client].outgoing.push(Outgoing {
                id,
                number: message,
                publish,
                refused,
                released: false,
            });
        }
        self.send(client, bytes, Sent::Publish { number: message, empty });
    }

    /// The topic and alias to write.
    fn alias(&mut self, number: usize, publish: &Publish) -> (&'static str, u16) {
        let topic = topic_text(publish.topic);
        let socket = &mut self.sockets[number];
        if publish.alias == 0 || socket.alias_max == 0 {
            return (topic, 0);
        }
        let set =
            socket.aliases_out.iter().find(|(_, known)| **known == publish.topic).map(|(alias, _)| *alias);
        if let (2, Some(alias)) = (publish.alias, set) {
            return ("", alias);
        }
        let alias = u16::from(publish.topic) % socket.alias_max + 1;
        socket.aliases_out.insert(alias, publish.topic);
        (topic, alias)
    }

    /// SUBSCRIBE or UNSUBSCRIBE.
    fn request(&mut self, client: u8, subscribe: bool, filters: &[(u8, u8)], subscription_id: u32) {
        self.request_of(self.client(client), subscribe, filters, subscription_id);
    }

    fn request_of(&mut self, client: usize, subscribe: bool, filters: &[(u8, u8)], subscription_id: u32) {
        let Some(number) = self.clients[client].current else { return };
        let mut filters = filters.to_vec();
        for (filter, options) in &mut filters {
            *filter %= crate::op::FILTERS.len() as u8;
            *options = self.valid_options(number, *filter, *options);
        }
        if filters.is_empty() {
            return;
        }
        let version = self.sockets[number].version();
        let subscription_id = if version.is_v5() { subscription_id } else { 0 };
        let id = self.clients[client].free_id();
        let (bytes, kind) = if subscribe {
            self.model.on_subscribe(client, &filters, subscription_id);
            (wire::subscribe(&filters, id, subscription_id, version), PacketType::SubAck)
        } else {
            self.model.on_unsubscribe(client, &filters);
            (wire::unsubscribe(&filters, id, version), PacketType::UnsubAck)
        };
        self.sockets[number].expected.push_back((kind, id));
        self.clients[client].requests.push(Request {
            id,
            subscribe,
            filters,
            unanswered: false,
            denied: false,
        });
        self.send(client, bytes, Sent::Other);
    }

    /// The reader at the end of a run subscribes to everything.
    pub fn subscribe_all(&mut self, client: usize, qos: u8) {
        self.request_of(client, true, &[(0, qos)], 0);
    }

    /// Options that are valid for the version and the filter.
    fn valid_options(&self, number: usize, filter: u8, options: u8) -> u8 {
        let qos = options & 3;
        let qos = if qos == 3 { 1 } else { qos };
        if !self.sockets[number].version().is_v5() {
            return qos;
        }
        let shared = crate::op::FILTERS[usize::from(filter)].starts_with("$share");
        // No Local of a shared subscription is a protocol error [MQTT-3.8.3-4].
        let no_local = if shared { 0 } else { options & 4 };
        let handling = (options >> 4 & 3) % 3;
        qos | no_local | options & 8 | handling << 4
    }

    /// Sends so many of the acknowledgements that a client has not sent yet.
    pub fn acknowledge(&mut self, client: usize, count: usize) {
        for _ in 0..count {
            let Some(number) = self.clients[client].current else { return };
            let Some((kind, id)) = self.clients[client].owed.pop_front() else { return };
            let version = self.sockets[number].version();
            if matches!(kind, PacketType::PubAck | PacketType::PubComp) {
                self.sockets[number].open.remove(&id);
            }
            self.send(client, wire::acknowledgement(kind, id, version), Sent::Other);
        }
    }

    fn reauthenticate(&mut self, number: usize) {
        let socket = &mut self.sockets[number];
        if !socket.version().is_v5() {
            return;
        }
        socket.may_end = true;
        let bytes = wire::auth(ReasonCode::REAUTHENTICATE, socket.connect.version);
        let client = socket.client;
        self.send(client, bytes, Sent::Other);
    }

    fn break_rule(&mut self, client: u8, how: Bad) {
        self.with_socket(client, |world, socket| {
            world.sockets[socket].may_end = true;
            let (client, version) = (world.sockets[socket].client, world.sockets[socket].version());
            let bytes = match how {
                Bad::Connect => {
                    wire::connect(&world.clients[client].id, &world.sockets[socket].connect.clone(), 0)
                }
                Bad::Reserved => vec![0, 0],
                Bad::Qos3 => vec![0x36, 4, 0, 1, b'a', 0],
                Bad::PingResp => vec![0xD0, 0],
                Bad::Oversized => vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F],
                Bad::PubAck => wire::acknowledgement(PacketType::PubAck, 60_000, version),
                Bad::PubRel => wire::acknowledgement(PacketType::PubRel, 60_000, version),
                Bad::Alias => vec![0x30, 6, 0, 0, 3, 0x23, 0, 9],
                Bad::Overrun => {
                    let publish = Publish {
                        client: 0,
                        topic: 0,
                        qos: 2,
                        retain: false,
                        size: 4,
                        expiry_s: None,
                        alias: 0,
                    };
                    world.publish(&Publish { client: client as u8, ..publish }, true);
                    return;
                }
            };
            world.send(client, bytes, Sent::Other);
        });
    }

    /// Everything under way has taken effect, unless a plugin has not answered, or a client has not
    /// released a QoS 2 message.
    fn is_settled(&mut self) {
        if self.nothing_waits() {
            let slots: Vec<usize> = (0..self.clients.len()).map(|client| self.slots_of(client)).collect();
            self.model.retained.is_settled(|client| slots[client] > 0);
            self.settle_rules();
        }
    }
}
