//! Packets for clients: they are cut from the bytes of a socket, checked for validity, and passed
//! to the model.

use grapnel_engine::codec;
use grapnel_engine::packet::{Ack, ConnAck, Packet, PacketType, Publish, Version};
use grapnel_engine::reason::ReasonCode;

use crate::checker::Rule;
use crate::client::{Piece, Request, Sent, Stage};
use crate::model::{Delivered, client_id, topic_index};
use crate::op::USERS;
use crate::wire;
use crate::world::World;

impl World {
    /// Reads the complete packets of a socket.
    pub fn parse(&mut self, number: usize) {
        let received = std::mem::take(&mut self.sockets[number].received);
        let mut at = 0;
        let version = self.sockets[number].version();
        loop {
            let frame = match codec::frame(&received[at..], u32::MAX) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    self.checker.broken(Rule::WireLegal, || format!("socket {number}: {error:?}"));
                    at = received.len();
                    break;
                }
            };
            let len = frame.len;
            match codec::decode(&frame, version) {
                Ok(packet) => self.packet(number, &packet, len),
                Err(error) => self.checker.broken(Rule::WireLegal, || format!("socket {number}: {error:?}")),
            }
            at += len;
        }
        if self.sockets[number].stage != Stage::Over {
            let mut rest = received;
            rest.drain(..at);
            self.sockets[number].received = rest;
        }
    }

    fn packet(&mut self, number: usize, packet: &Packet<'_>, len: usize) {
        let at_ms = self.engine.now_ms();
        self.trace(|| format!("{at_ms} to {number}: {packet:?}"));
        let socket = &self.sockets[number];
        let most = socket.connect.packet_bytes_max.filter(|_| socket.version().is_v5()).unwrap_or(u32::MAX);
        let kind = packet.packet_type();
        self.checker.check(len <= most as usize, Rule::PacketTooLarge, || {
            format!("{kind:?} of {len} bytes on socket {number}, at most {most}")
        });
        let first = socket.stage == Stage::Connecting;
        if let Packet::ConnAck(connack) = packet {
            self.checker.check(first, Rule::WireLegal, || format!("a second CONNACK on socket {number}"));
            self.connack(number, connack);
            return;
        }
        if let Packet::Auth(auth) = packet {
            self.auth(number, auth.reason);
            return;
        }
        self.checker.check(!first, Rule::WireLegal, || format!("{kind:?} before CONNACK on socket {number}"));
        if self.sockets[number].stage != Stage::Live {
            return;
        }
        match packet {
            Packet::Publish(publish) => self.publication(number, publish),
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack) => {
                self.acknowledgement(number, kind, ack);
            }
            Packet::PubRel(ack) => self.release(number, ack.packet_id.get()),
            Packet::SubAck(ack) => self.answer(number, kind, ack.packet_id.get(), ack.codes),
            Packet::UnsubAck(ack) => self.answer(number, kind, ack.packet_id.get(), ack.codes),
            Packet::PingResp => {
                let pings = &mut self.sockets[number].pings;
                let due = *pings > 0;
                *pings = pings.saturating_sub(1);
                self.checker.check(due, Rule::AcknowledgementUnknown, || "PINGRESP without PINGREQ".into());
            }
            // A resent packet is under way again although the first one was acknowledged meanwhile:
            // the client counts one less than the broker.
            Packet::Disconnect(disconnect) => {
                let socket = &mut self.sockets[number];
                let beyond = disconnect.reason == ReasonCode::RECEIVE_MAXIMUM_EXCEEDED;
                socket.may_end |= beyond && !socket.again.is_empty();
            }
            _ => self.checker.broken(Rule::WireLegal, || format!("{kind:?} from a server")),
        }
    }

    #[allow(clippy::too_many_lines, reason = "one check for each property")]
    fn connack(&mut self, number: usize, connack: &ConnAck<'_>) {
        let client = self.sockets[number].client;
        self.clients[client].connecting.retain(|other| *other != number);
        if connack.code != 0 {
            self.sockets[number].may_end = true;
            self.sockets[number].stage = Stage::Replaced;
            return;
        }
        let (now_ms, wall_ms) = (self.engine.now_ms(), self.engine.wall_ms());
        // The broker decided it at some time since.
        let opened_ms = self.sockets[number].opened_ms;
        let certain = self.model.sessions.present(client, now_ms);
        let certain =
            certain.filter(|present| self.model.sessions.present(client, opened_ms) == Some(*present));
        let socket = &mut self.sockets[number];
        let request = socket.connect.clone();
        // MQTT 3.1 has no such flag: a session that did not begin just now is an older one.
        let details = self.engine.details(&self.clients[client].id);
        let older = details.as_ref().is_some_and(|details| details.created_at_ms < wall_ms);
        let unclear = request.version == Version::V31 && !request.clean && !older;
        let present = match request.version {
            // With another principal, only the engine's data is certain.
            Version::V31 => {
                let named = USERS[usize::from(request.user) % USERS.len()].is_some();
                let same = named && self.model.sessions.user(client) == request.user;
                !request.clean && certain.filter(|_| same).unwrap_or(older)
            }
            _ => connack.session_present,
        };
        socket.stage = Stage::Live;
        socket.was_in = true;
        socket.resumed = present;
        socket.resumed_unclear = unclear && !present;
        let properties = &connack.properties;
        let limits = &self.settings.limits;
        let requested_expiry_s = match (request.version, request.clean) {
            (Version::V5, _) => request.expiry_s.unwrap_or(0),
            (_, true) => 0,
            _ => limits.session_expiry_v3_s as u32,
        };
        socket.expiry_s = properties.session_expiry_s().unwrap_or(requested_expiry_s);
        socket.receive_maximum = match request.version {
            Version::V5 => properties.receive_maximum().map_or(usize::from(u16::MAX), usize::from),
            _ => limits.awaiting_rel_max as usize,
        };
        socket.alias_max = properties.topic_alias_maximum().unwrap_or(0);
        if let Some(old) = self.clients[client].current.replace(number) {
            let old = &mut self.sockets[old];
            old.stage = Stage::Replaced;
            old.may_end = true;
        }
        self.clients[client].connection_over();
        let owner = self.model.sessions.user(client);
        let rule =
            if self.model.sessions.is_discarded(client) { Rule::KickUndone } else { Rule::SessionPresent };
        let expiry_s = self.sockets[number].expiry_s;
        self.model.sessions.connected(client, request.user, expiry_s);
        self.checker.check(!(request.clean && present), Rule::SessionPresent, || {
            format!("{} asked for a clean start", client_id(client))
        });
        let other = present && owner != request.user;
        self.checker.check(!other, Rule::SessionOwner, || format!("{} has another user", client_id(client)));
        // A client without a name is another principal when a plugin has allowed it than when none
        // has.
        let same = owner == request.user && USERS[usize::from(request.user) % USERS.len()].is_some();
        if let (Some(certain), false, true) = (certain, request.clean, same) {
            self.checker
                .check(certain == present, rule, || format!("{}: present is {present}", client_id(client)));
        }
        let back = if self.sockets[number].resumed_unclear { None } else { Some(present) };
        self.model.wills.client_is_back(client, back, (opened_ms, now_ms));
        if !present {
            self.clients[client].outgoing.clear();
            self.clients[client].given_up.clear();
            self.clients[client].incoming.clear();
            self.model.begin(client, request.version);
        }
        let inherited = present && owner != request.user;
        let life = &mut self.model.lives[client];
        life.inherited |= inherited;
        let theirs = if request.version.is_v5() { request.packet_bytes_max } else { None };
        life.packet_bytes_max = match (life.packet_bytes_max, theirs) {
            (Some(before), Some(now)) => Some(before.min(now)),
            (before, now) => before.or(now),
        };
        self.model.users[client] = request.user % 3;
        self.send_again(client, number);
    }

    /// After a resume: sends again what was not acknowledged, in order [MQTT-4.4.0-1].
    fn send_again(&mut self, client: usize, number: usize) {
        let version = self.sockets[number].version();
        let outgoing = self.clients[client].outgoing.clone();
        // After a change of the version there may be more packets than the new Receive Maximum
        // allows.
        let socket = &mut self.sockets[number];
        socket.may_end |= outgoing.len() > socket.receive_maximum;
        // Packets that the client does not send again still count until the broker has acknowledged
        // them.
        socket.may_end |= !self.clients[client].given_up.is_empty();
        for out in outgoing {
            let socket = &mut self.sockets[number];
            if out.released {
                socket.expected_again.insert((PacketType::PubComp, out.id));
                socket.again.insert((PacketType::PubComp, out.id));
                let bytes = wire::acknowledgement(PacketType::PubRel, out.id, version);
                socket.push(&Piece { bytes, sent: Sent::Other });
                continue;
            }
            let kind = if out.publish.qos == 1 { PacketType::PubAck } else { PacketType::PubRec };
            self.model.messages[out.number as usize].socket = number;
            socket.expected_again.insert((kind, out.id));
            socket.again.insert((kind, out.id));
            let bytes = wire::publish(
                &wire::Publication {
                    topic: crate::model::topic_text(out.publish.topic),
                    payload: &wire::payload(out.number, out.publish.size),
                    qos: out.publish.qos,
                    retain: out.publish.retain,
                    dup: true,
                    id: out.id,
                    alias: 0,
                    expiry_s: out.publish.expiry_s,
                },
                version,
            );
            let sent = Sent::Publish { number: out.number, empty: out.publish.size == 0 };
            socket.push(&Piece { bytes, sent });
        }
        self.offer(number, 0);
    }

    fn publication(&mut self, number: usize, publish: &Publish<'_>) {
        let socket = &mut self.sockets[number];
        let client = socket.client;
        let most = if socket.version().is_v5() { socket.connect.alias_max } else { 0 };
        let mut topic = publish.topic.to_owned();
        if let Some(alias) = publish.properties.topic_alias() {
            let known = socket.aliases_in.get(&alias).cloned();
            let right = alias > 0 && alias <= most && (!topic.is_empty() || known.is_some());
            self.checker.check(right, Rule::AliasUnknown, || format!("alias {alias} on socket {number}"));
            if topic.is_empty() {
                topic = known.unwrap_or_default();
            } else {
                self.sockets[number].aliases_in.insert(alias, topic.clone());
            }
        }
        let qos = publish.qos.as_u8();
        let message = wire::number_of(publish.payload);
        let id = publish.packet_id.map_or(0, std::num::NonZeroU16::get);
        let fresh = qos == 0 || self.take_id(number, id, qos, publish.dup, message);
        let (Some(message), Some(topic)) = (message, topic_index(&topic)) else { return };
        let delivered = Delivered {
            client,
            number: message,
            topic,
            qos,
            retain: publish.retain,
            dup: publish.dup,
            ids: publish.properties.subscription_ids().collect(),
        };
        self.model.delivered(&mut self.checker, &delivered, fresh);
    }

    /// Notes a QoS 1 or 2 message in flight. Returns whether it differs from the previous one with
    /// its identifier.
    fn take_id(&mut self, number: usize, id: u16, qos: u8, dup: bool, message: Option<u32>) -> bool {
        let socket = &mut self.sockets[number];
        let client = &mut self.clients[socket.client];
        self.checker.check(!dup || socket.resumed, Rule::DupWithoutResume, || {
            format!("message {message:?} on socket {number}")
        });
        let key = message.unwrap_or(u32::MAX);
        let twice = socket.open.insert(id, key).is_some();
        self.checker.check(!twice, Rule::PacketIdReused, || format!("identifier {id} on socket {number}"));
        let theirs = match socket.version() {
            Version::V5 => socket.connect.receive_maximum.map_or(usize::from(u16::MAX), usize::from),
            _ => usize::from(u16::MAX),
        };
        let most = theirs.min(self.settings.limits.inflight_max as usize);
        let open = socket.open.len();
        self.checker.check(open <= most, Rule::ReceiveMaximum, || {
            format!("{open} in flight on socket {number}, at most {most}")
        });
        if qos == 1 {
            client.owed.push_back((PacketType::PubAck, id));
            return true;
        }
        client.owed.push_back((PacketType::PubRec, id));
        let before = client.incoming.insert(id, key);
        self.checker.check(before.is_none_or(|before| before == key), Rule::PacketIdReused, || {
            format!("identifier {id} stands for message {before:?} and {message:?} on socket {number}")
        });
        before.is_none()
    }

    fn release(&mut self, number: usize, id: u16) {
        let socket = &mut self.sockets[number];
        let client = &mut self.clients[socket.client];
        let known = client.incoming.remove(&id).is_some();
        self.checker.check(known || socket.resumed, Rule::ReleaseUnknown, || {
            format!("identifier {id} on socket {number}")
        });
        socket.open.entry(id).or_insert(u32::MAX);
        client.owed.push_back((PacketType::PubComp, id));
    }

    /// PUBACK, PUBREC or PUBCOMP.
    fn acknowledgement(&mut self, number: usize, kind: PacketType, ack: &Ack<'_>) {
        let id = ack.packet_id.get();
        self.in_turn(number, kind, id, ack.reason.0);
        let client = self.sockets[number].client;
        let place = self.clients[client].outgoing.iter().position(|out| out.id == id);
        let Some(place) = place else {
            // PUBCOMP also answers a PUBREL without a preceding message.
            let socket = &self.sockets[number];
            let odd = socket.may_end || kind == PacketType::PubComp || self.sent_again(client, kind, id);
            let odd = odd || self.clients[client].given_up.contains(&(kind, id));
            self.checker
                .check(odd, Rule::AcknowledgementUnknown, || format!("{kind:?} {id} on socket {number}"));
            return;
        };
        let out = self.clients[client].outgoing[place].clone();
        let fits = match kind {
            PacketType::PubAck => out.publish.qos == 1,
            PacketType::PubRec => out.publish.qos == 2,
            _ => out.released,
        };
        self.checker
            .check(fits, Rule::AcknowledgementUnknown, || format!("{kind:?} {id} on socket {number}"));
        if kind != PacketType::PubComp && !out.released {
            let v5 = self.sockets[number].version().is_v5();
            self.model.acknowledged(out.number, ack.reason.0, v5);
            self.model.retained.done(out.number, out.publish.topic);
        }
        if kind == PacketType::PubRec && ack.reason.0 < 0x80 {
            self.clients[client].outgoing[place].released = true;
            self.clients[client].owed.push_back((PacketType::PubRel, id));
        } else {
            self.clients[client].outgoing.remove(place);
        }
    }

    /// SUBACK or UNSUBACK.
    fn answer(&mut self, number: usize, kind: PacketType, id: u16, codes: &[u8]) {
        self.in_turn(number, kind, id, 0);
        let client = self.sockets[number].client;
        let place = self.clients[client].requests.iter().position(|request| request.id == id);
        let Some(place) = place else {
            self.checker.broken(Rule::AcknowledgementUnknown, || format!("{kind:?} {id} on socket {number}"));
            return;
        };
        let request = self.clients[client].requests.remove(place);
        if request.subscribe {
            let whole = codes.len() == request.filters.len();
            self.checker.check(whole, Rule::WireLegal, || format!("SUBACK {id} with {} codes", codes.len()));
            // A later UNSUBSCRIBE ends the filter.
            let later = self.clients[client].requests.iter().filter(|later| !later.subscribe);
            let taken_back =
                later.flat_map(|later| later.filters.iter().map(|(filter, _)| *filter)).collect();
            let unsure = (request.unanswered, request.denied);
            self.model.subscribed(client, &request.filters, codes, unsure, &taken_back);
            for ((filter, _), code) in request.filters.iter().zip(codes) {
                let has_filter = |later: &Request| later.filters.iter().any(|(one, _)| one == filter);
                if *code < 0x80 && !self.clients[client].requests.iter().any(has_filter) {
                    self.model.retained_promised(client, *filter);
                }
            }
        } else {
            // A later SUBSCRIBE renews the filter.
            let later = &self.clients[client].requests;
            let back =
                |filter: u8| later.iter().any(|r| r.subscribe && r.filters.iter().any(|f| f.0 == filter));
            let mut gone = request.filters;
            let mut codes = codes.iter();
            gone.retain(|(filter, _)| codes.next().is_none_or(|code| *code < 0x80) && !back(*filter));
            self.model.unsubscribed(client, &gone);
        }
    }

    /// Whether a packet of the client waits for this acknowledgement.
    fn waits(&self, client: usize, kind: PacketType, id: u16) -> bool {
        let client = &self.clients[client];
        let waits = client.outgoing.iter().any(|out| {
            out.id == id
                && match kind {
                    PacketType::PubAck | PacketType::PubRec => !out.released,
                    PacketType::PubComp => out.released,
                    _ => false,
                }
        });
        waits || client.given_up.contains(&(kind, id))
    }

    /// Whether a client has sent again, on any of its connections, the packet of this
    /// acknowledgement.
    fn sent_again(&self, client: usize, kind: PacketType, id: u16) -> bool {
        self.sockets.iter().any(|one| one.client == client && one.again.contains(&(kind, id)))
    }

    /// Whether an acknowledgement is the next one that is due.
    fn in_turn(&mut self, number: usize, kind: PacketType, id: u16, code: u8) {
        let socket = &mut self.sockets[number];
        // A packet that was sent again may already have been accepted, and is acknowledged twice
        // then.
        let again = socket.expected_again.remove(&(kind, id)) || socket.again.contains(&(kind, id));
        if again || kind == PacketType::PubComp {
            return;
        }
        if socket.expected.front() == Some(&(kind, id)) {
            socket.expected.pop_front();
            return;
        }
        let next = socket.expected.front().copied();
        let due = socket.expected.iter().position(|expected| *expected == (kind, id));
        if let Some(place) = due {
            socket.expected.remove(place);
        }
        let short = socket.connect.packet_bytes_max.is_some_and(|most| most < 200);
        // Packets of earlier connections of the session may be acknowledged on this one, once for
        // each time they were sent.
        let client = socket.client;
        if due.is_none() && (self.waits(client, kind, id) || self.sent_again(client, kind, id)) {
            return;
        }
        let rule = match (due, code) {
            (Some(_), _) if short && self.model.touched_by(client) => Rule::AcknowledgementTooLarge,
            (Some(_), 0x90) => Rule::AcknowledgementOrderRefused,
            (Some(_), _) => Rule::AcknowledgementOrder,
            (None, _) => Rule::AcknowledgementUnknown,
        };
        self.checker.broken(rule, || format!("{kind:?} {id} on socket {number}, {next:?} was next"));
    }
}
