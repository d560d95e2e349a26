//! Shards with their clients and sockets, the plugins, and the model, in one struct and one thread.
//! After each operation every shard has a turn, and its output goes to the clients and to the
//! model.

use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};

use crate::checker::{Checker, Rule};
use crate::client::{Client, Piece, Sent, Socket, Stage};
use crate::engine::{Engine, Event, Offered, Place};
use crate::model::wills::Due;
use crate::model::{Model, client_id};
use crate::op::{CLIENTS, Connect};
use crate::plugins::Plugins;
use crate::settings::{Settings, settings};
use crate::wire;

pub struct World {
    pub engine: Engine,
    pub clients: Vec<Client>,
    pub sockets: Vec<Socket>,
    /// Sockets that have not ended.
    pub live: Vec<usize>,
    pub model: Model,
    pub checker: Checker,
    pub settings: Settings,
    pub plugins: Plugins,
    events: Vec<Event>,
    /// For how long some lane has been blocked, in milliseconds.
    pub held_ms: u64,
    /// What was sent and received, for a replay.
    pub traced: Option<Vec<String>>,
}

/// Shards that still move after so many turns never stop.
const TURNS_MAX: usize = 20_000;

/// Whether the environment requests that a known fault is reported like any other: one by the name
/// of its rule, or all (`just simulate --known RULE`).
fn known_too(rule: Rule) -> bool {
    static KNOWN_TOO: OnceLock<Option<String>> = OnceLock::new();
    let wanted = KNOWN_TOO.get_or_init(|| std::env::var("GRAPNEL_SIMULATE_KNOWN").ok());
    wanted.as_ref().is_some_and(|wanted| wanted == "all" || *wanted == format!("{rule:?}"))
}

impl World {
    pub fn new(seed: u64) -> World {
        let settings = settings(seed);
        let engine = Engine::new(settings.shards, settings.limits.clone(), settings.no_match_allow, seed);
        let clients = (0..usize::from(CLIENTS)).map(|number| Client::new(client_id(number))).collect();
        let mut model = Model::new(settings.limits.topic_levels_max as usize);
        model.strict = settings.plugins == 0;
        model.retained_small = settings.retained_small;
        let plugins = Plugins::new(&settings);
        let mut world = World {
            engine,
            clients,
            sockets: Vec::new(),
            live: Vec::new(),
            model,
            checker: Checker::new(known_too),
            settings,
            events: Vec::new(),
            held_ms: 0,
            traced: None,
            plugins,
        };
        world.mount();
        world
    }

    /// A CONNECT on a new socket.
    pub fn connect(&mut self, request: &Connect) {
        let client = usize::from(request.client) % self.clients.len();
        let shard = usize::from(request.shard) % self.engine.shards();
        let Some(place) = self.engine.open(shard) else { return };
        let mut socket = Socket::new(client, place, request.clone());
        let will = request.will.as_ref().map(|will| {
            let topic = crate::model::WILLS_FROM + u8::from(will.retain);
            self.model.push(client, topic, will.qos, will.retain, false, true)
        });
        socket.will = will;
        socket.opened_ms = self.engine.now_ms();
        let bytes = wire::connect(&self.clients[client].id, request, will.unwrap_or(0));
        socket.push(&Piece { bytes, sent: Sent::Connect });
        self.sockets.push(socket);
        let number = self.sockets.len() - 1;
        self.live.push(number);
        self.clients[client].connecting.push(number);
        self.offer(number, 0);
    }

    pub fn trace(&mut self, line: impl FnOnce() -> String) {
        if let Some(traced) = &mut self.traced {
            let mut line = line();
            line.truncate(300);
            traced.push(line);
        }
    }

    /// A packet of a client, on its connected socket.
    pub fn send(&mut self, client: usize, bytes: Vec<u8>, sent: Sent) {
        let piece = Piece { bytes, sent };
        let current = self.clients[client].current;
        if let Some(socket) = current.map(|socket| &mut self.sockets[socket]) {
            if socket.leaving {
                return;
            }
            socket.leaving = matches!(piece.sent, Sent::Disconnect { .. });
        }
        if let Some(cork) = &mut self.clients[client].cork {
            cork.push(piece);
            return;
        }
        if let Some(socket) = self.clients[client].current {
            self.sockets[socket].push(&piece);
            self.offer(socket, self.clients[client].pieces);
        }
    }

    /// Sends the stored packets, in one piece.
    pub fn uncork(&mut self, client: usize) {
        let Some(pieces) = self.clients[client].cork.take() else { return };
        if let Some(socket) = self.clients[client].current {
            pieces.iter().for_each(|piece| self.sockets[socket].push(piece));
            self.offer(socket, self.clients[client].pieces);
        }
    }

    /// Offers the bytes of a socket to the engine, whole or in growing pieces of a size.
    pub fn offer(&mut self, number: usize, pieces: usize) {
        let mut shown = 0;
        loop {
            let socket = &self.sockets[number];
            let Some(place) = socket.place else { return };
            if socket.paused || socket.unread.is_empty() {
                return;
            }
            let len = socket.unread.len();
            shown = if pieces == 0 { len } else { (shown + pieces).min(len) };
            let bytes = Bytes::copy_from_slice(&socket.unread[..shown]);
            match self.engine.offer(place, &bytes, number.is_multiple_of(2)) {
                Offered::Read(count) => {
                    self.read(number, count);
                    shown -= count;
                    if shown + count >= len {
                        return;
                    }
                }
                Offered::Paused(count) => {
                    self.read(number, count);
                    self.sockets[number].paused = true;
                    return;
                }
                Offered::Closed(count) => {
                    self.read(number, count);
                    return;
                }
                Offered::Moved(place) => {
                    self.sockets[number].place = place;
                    shown = 0;
                    if place.is_none() {
                        self.over(number);
                        return;
                    }
                }
            }
        }
    }

    /// The engine has read so many bytes of a socket.
    fn read(&mut self, number: usize, count: usize) {
        for sent in self.sockets[number].take(count) {
            let at_ms = self.engine.now_ms();
            self.trace(|| format!("{at_ms} from {number}: {sent:?}"));
            match sent {
                Sent::Publish { number: message, empty } => self.model.read_publish(message, empty),
                Sent::Disconnect { reason, expiry_s } => {
                    let socket = &mut self.sockets[number];
                    socket.said = Some((reason, expiry_s));
                    socket.may_end = true;
                    // An expiry of 0 at CONNECT stays 0 [MQTT-3.14.2-2].
                    let asked_s = socket.connect.expiry_s.unwrap_or(0);
                    socket.said_nonsense = asked_s == 0 && expiry_s.is_some_and(|expiry_s| expiry_s > 0);
                }
                Sent::Connect | Sent::Other => {}
            }
        }
    }

    /// A turn of every shard and its effects. Returns whether anything has moved.
    pub fn turn(&mut self) -> bool {
        let mut events = std::mem::take(&mut self.events);
        let mut moved = self.engine.turn(&mut events);
        self.take_notes();
        while !events.is_empty() {
            events.drain(..).for_each(|event| self.event(event));
            self.engine.collect(&mut events);
            self.take_notes();
        }
        self.events = events;
        for index in 0..self.live.len() {
            let number = self.live[index];
            let slow = self.sockets[number].intake != usize::MAX;
            if slow && self.sockets[number].stage != Stage::Over {
                self.take_in(number);
            }
        }
        self.live.retain(|number| self.sockets[*number].stage != Stage::Over);
        self.check_clients_in_auth_are_read();
        for client in 0..self.clients.len() {
            if !self.clients[client].withholds && !self.clients[client].owed.is_empty() {
                moved = true;
                self.acknowledge(client, usize::MAX);
            }
        }
        moved
    }

    /// Clients that received AUTH must be read, unless a plugin has deferred what they have sent.
    fn check_clients_in_auth_are_read(&mut self) {
        for number in &self.live {
            let socket = &self.sockets[*number];
            if socket.requested && socket.paused && socket.stage == Stage::Connecting {
                let id = &self.clients[socket.client].id;
                let waits = self.plugins.state.borrow().open.iter().any(|taken| taken.client == *id);
                self.checker.check(waits, Rule::AuthPaused, || format!("socket {number}"));
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Closing(place, last) => self.closing(place, &last),
            Event::Dirty(place) => {
                if let Some(number) = self.socket_at(place) {
                    self.take_in(number);
                }
            }
            Event::Resume(place) => {
                if let Some(number) = self.socket_at(place) {
                    self.sockets[number].paused = false;
                    self.offer(number, 0);
                }
            }
            Event::Overdue(place) => {
                if let Some(number) = self.socket_at(place) {
                    // Only a client that sends nothing, or is not read, is overdue.
                    self.sockets[number].may_end = true;
                }
                self.engine.deadline_checked(place);
            }
            Event::Tripped(plugin) => self.tripped(plugin),
        }
    }

    /// Runs turns until nothing moves.
    pub fn run_turns(&mut self) {
        for _ in 0..TURNS_MAX {
            if !self.turn() {
                return;
            }
        }
        self.checker.broken(Rule::Rests, || format!("after {TURNS_MAX} turns"));
    }

    pub fn socket_at(&self, place: Place) -> Option<usize> {
        self.live.iter().copied().find(|number| self.sockets[*number].place == Some(place))
    }

    /// The socket accepts bytes, as many as it can.
    pub fn take_in(&mut self, number: usize) {
        let socket = &mut self.sockets[number];
        let Some(place) = socket.place else { return };
        // Until CONNACK every client reads: whether it is connected is known at once.
        let mut most = if socket.stage == Stage::Connecting { usize::MAX } else { socket.intake };
        if let (Some(left), true) = (&mut socket.closes_after, socket.stage != Stage::Connecting) {
            most = most.min(*left);
        }
        let before = socket.received.len();
        let mut received = std::mem::take(&mut socket.received);
        self.engine.take_bytes(place, most, &mut received);
        let taken = received.len() - before;
        self.sockets[number].received = received;
        self.parse(number);
        let socket = &mut self.sockets[number];
        if let Some(left) = &mut socket.closes_after {
            *left = left.saturating_sub(taken);
            if *left == 0 && socket.stage != Stage::Connecting {
                self.lose(number, false);
            }
        }
    }

    /// The engine has ended a connection.
    fn closing(&mut self, place: Place, last: &[u8]) {
        let Some(number) = self.socket_at(place) else { return };
        let socket = &mut self.sockets[number];
        socket.received.extend_from_slice(last);
        socket.place = None;
        self.parse(number);
        let socket = &self.sockets[number];
        // The connection that replaces it has its CONNACK in the same step.
        let replaced = !self.clients[socket.client].connecting.is_empty();
        let cause = socket.may_end || replaced || socket.stage != Stage::Live;
        let left = socket.received.len();
        let waiting = self.clients[socket.client].outgoing.iter().filter(|out| out.publish.qos == 2).count();
        let many = !socket.version().is_v5() && waiting as u64 > self.settings.limits.awaiting_rel_max;
        let rule = match () {
            () if many => Rule::AwaitingRel,
            () if self.clients[socket.client].foreign => Rule::VerdictOfAnother,
            () => Rule::EndedWithoutCause,
        };
        self.checker.check(cause, rule, || format!("socket {number} was closed"));
        self.checker.check(left == 0, Rule::WireLegal, || format!("socket {number} got half a packet"));
        self.over(number);
    }

    /// The socket is lost.
    pub fn lose(&mut self, number: usize, stuck: bool) {
        let Some(place) = self.sockets[number].place else { return };
        if self.sockets[number].stage == Stage::Connecting {
            // The engine may have accepted it already.
            let mut received = std::mem::take(&mut self.sockets[number].received);
            self.engine.take_bytes(place, usize::MAX, &mut received);
            self.sockets[number].received = received;
            self.parse(number);
        }
        self.sockets[number].place = None;
        let slots = self.slots_of(self.sockets[number].client);
        self.engine.closed(place, stuck);
        self.sockets[number].slots_at_end = slots;
        self.over(number);
    }

    pub fn slots_of(&self, client: usize) -> usize {
        self.engine.details(&self.clients[client].id).map_or(0, |details| details.slots)
    }

    /// A socket has ended, for any reason.
    fn over(&mut self, number: usize) {
        self.trace(|| format!("socket {number} is over"));
        let socket = &mut self.sockets[number];
        if socket.stage == Stage::Over {
            return;
        }
        let replaced = socket.stage == Stage::Replaced;
        socket.stage = Stage::Over;
        socket.unread = BytesMut::new();
        socket.received = Vec::new();
        let client = socket.client;
        self.clients[client].connecting.retain(|other| *other != number);
        if self.clients[client].current == Some(number) {
            self.clients[client].current = None;
            self.clients[client].connection_over();
            self.model.connection_over(client);
            self.session_disconnected(number);
        }
        self.decide_will(number, replaced);
    }

    /// Updates the session of a connection that has ended.
    fn session_disconnected(&mut self, number: usize) {
        let (client, now_ms) = (self.sockets[number].client, self.engine.now_ms());
        let slots = self.slots_of(client);
        let socket = &mut self.sockets[number];
        socket.slots_at_end = socket.slots_at_end.max(slots);
        let unsure = socket.slots_at_end > 0;
        let expiry_s = self.expiry_at_end(number);
        if self.sockets[number].kicked {
            self.discarded(client);
        } else {
            self.model.sessions.disconnected(client, expiry_s, now_ms, unsure);
        }
    }

    /// The operator has discarded a session. A connection without an answer yet may already be
    /// accepted, and have resumed the session before.
    pub fn discarded(&mut self, client: usize) {
        if self.clients[client].connecting.is_empty() {
            self.model.sessions.discarded(client);
        } else {
            self.model.sessions.disconnected(client, 0, self.engine.now_ms(), true);
        }
    }

    /// The session expiry in force when a connection has ended.
    fn expiry_at_end(&self, number: usize) -> u32 {
        let socket = &self.sockets[number];
        match socket.said {
            _ if socket.kicked => 0,
            Some((_, Some(expiry_s))) if !socket.said_nonsense => {
                expiry_s.min(self.settings.limits.session_expiry_max_s as u32)
            }
            _ => socket.expiry_s,
        }
    }

    /// Whether the will of a connection that has ended is due.
    fn decide_will(&mut self, number: usize, replaced: bool) {
        let socket = &self.sockets[number];
        let Some(will) = socket.will else { return };
        let (client, now_ms) = (socket.client, self.engine.now_ms());
        let unsure = socket.slots_at_end > 0;
        let waits_s = self.will_waits_s(number);
        if let Some(due) = self.will_due(number, replaced, waits_s) {
            self.model.wills.decide(will, due);
            return;
        }
        self.model.wills.wait(will, client, now_ms + u64::from(waits_s) * 1000, unsure);
        if replaced {
            // The replacing connection is already accepted.
            let current = self.clients[client].current.map(|socket| &self.sockets[socket]);
            let unclear = current.is_some_and(|socket| socket.resumed_unclear);
            let resumed = (!unclear).then(|| current.is_some_and(|socket| socket.resumed));
            self.model.wills.client_is_back(client, resumed, (now_ms, now_ms));
        }
    }

    /// How long a will waits: its delay, or until the session ends.
    fn will_waits_s(&self, number: usize) -> u32 {
        let socket = &self.sockets[number];
        let delay_s = socket.connect.will.as_ref().map_or(0, |will| will.delay_s);
        let most_s = if socket.version().is_v5() { self.settings.limits.will_delay_max_s as u32 } else { 0 };
        delay_s.min(most_s).min(self.expiry_at_end(number))
    }

    /// What is certain about a will at the end of its connection; `None` if its delay decides.
    fn will_due(&self, number: usize, replaced: bool, waits_s: u32) -> Option<Due> {
        let socket = &self.sockets[number];
        let connecting = !self.clients[socket.client].connecting.is_empty();
        let waited = replaced || connecting || socket.slots_at_end > 0;
        let asked_s = socket.connect.expiry_s.unwrap_or(0);
        let lowered = matches!(socket.said, Some((_, Some(1..)))) && asked_s > 0 && socket.expiry_s == 0;
        Some(match socket.said.map(|(reason, _)| reason) {
            _ if !socket.was_in => Due::MustNot,
            // Its DISCONNECT may keep the session.
            Some(_) if socket.kicked => Due::Either,
            // A DISCONNECT that is refused, or would have been refused without waiting.
            Some(0) if socket.said_nonsense && waited => Due::Either,
            Some(0) if socket.said_nonsense && waits_s == 0 => Due::Must,
            Some(0) if socket.said_nonsense => return None,
            Some(0) if lowered => Due::MustNotExpiry,
            Some(0) if waited => Due::MustNotWaiting,
            Some(0) => Due::MustNot,
            Some(4) | None if waits_s == 0 => Due::Must,
            Some(4) | None => return None,
            // Whether the engine accepts its expiry is only checked without a will delay.
            Some(_) if waits_s > 0 => Due::Either,
            Some(_) => Due::MustByReason,
        })
    }
}
