//! Applies operations on plugins, and passes the effects of plugins to the model.

use grapnel_engine::hook::PluginHandle;
use grapnel_engine::hook::view::Action;
use grapnel_engine::packet::QoS;
use grapnel_engine::reason::ReasonCode;
use grapnel_engine::session::fetch::{Fetch, FetchPlace};
use grapnel_engine::shard::{BehalfAction as EngineAction, Scope as EngineScope};

use crate::checker::Rule;
use crate::client::Sent;
use crate::op::{Answer, BehalfAction, FILTERS, Op, Scope, TOPICS, USERS};
use crate::plugins::{CLASSES, Note, PLUGINS, POINTS, answer};
use crate::wire;
use crate::world::World;

impl World {
    pub fn act_on_plugins(&mut self, op: &Op) {
        match op {
            Op::Kick { client, discard } => self.kick(*client, *discard),
            Op::Arm { plugin, point, act, calls } => {
                let (plugin, point) = (usize::from(*plugin) % PLUGINS, usize::from(*point) % POINTS.len());
                self.plugins.arm(plugin, point, *act, *calls);
            }
            Op::Complete { ticket, answer, again } => self.complete(usize::from(*ticket), *answer, *again),
            Op::Load { plugin } => {
                self.plugins.load(usize::from(*plugin) % PLUGINS);
                self.model.strict = false;
                self.mount();
            }
            Op::Unload { plugin } => {
                self.plugins.unload(usize::from(*plugin) % PLUGINS);
                self.mount();
            }
            Op::Reload { plugin, hands_over } => {
                let handed = self.plugins.reload(usize::from(*plugin) % PLUGINS, *hands_over);
                self.replace(handed);
            }
            Op::TakeBack { plugin, comes_back } => {
                let handed = self.plugins.take_back(usize::from(*plugin) % PLUGINS, *comes_back);
                self.replace(handed);
            }
            Op::Behalf { plugin, client, action } => {
                self.on_behalf(usize::from(*plugin) % PLUGINS, self.client(*client), *action);
            }
            Op::Enable { plugin, on } => {
                let plugin = usize::from(*plugin) % PLUGINS;
                self.plugins.enabled[plugin] = *on;
                self.plugins.tripped[plugin] &= !*on;
                self.mount();
            }
            Op::Rule { user, class, allow } => {
                let (user, class) = (usize::from(*user) % USERS.len(), usize::from(*class) % CLASSES);
                self.plugins.state.borrow_mut().rules[user][class] = *allow;
                self.model.denied[user][class] = None;
                self.engine.invalidate(&EngineScope::All);
            }
            Op::Invalidate(scope) => self.engine.invalidate(&self.scope(*scope)),
            _ => {}
        }
    }

    /// When nothing moves: denials apply from now on.
    pub fn settle_rules(&mut self) {
        let state = self.plugins.state.borrow();
        let in_force = state.with_rules && self.plugins.enforces();
        for (user, classes) in state.rules.iter().enumerate() {
            for (class, may) in classes.iter().enumerate() {
                if in_force && !may && state.open.is_empty() {
                    self.model.denied[user][class].get_or_insert(self.model.reads);
                }
            }
        }
    }

    fn scope(&self, scope: Scope) -> EngineScope {
        match scope {
            Scope::All => EngineScope::All,
            Scope::Client(client) => {
                EngineScope::Client(self.clients[self.client(client)].id.as_str().into())
            }
            Scope::User(user) => EngineScope::User(USERS[usize::from(user) % 3].unwrap_or("").into()),
            Scope::Topics(filter) => {
                let filter = FILTERS[usize::from(filter) % FILTERS.len()];
                EngineScope::Topics(filter.rsplit("$share/g/").next().unwrap_or("#").into())
            }
        }
    }

    fn kick(&mut self, client: u8, discard: bool) {
        let client = self.client(client);
        if let Some(socket) = self.clients[client].current {
            self.sockets[socket].may_end = true;
            self.sockets[socket].kicked |= discard;
        }
        if discard {
            self.discarded(client);
        }
        let id = self.clients[client].id.clone();
        self.engine.kick(&id, discard);
        self.model.wills.discarded(client, discard);
    }

    pub fn mount(&mut self) {
        if !self.plugins.enforces() {
            self.model.denied = Default::default();
        }
        let links = self.plugins.links();
        self.engine.mount(&links, &self.plugins.instances(), &self.plugins.suspended());
        self.take_notes();
    }

    /// Another version of a plugin is loaded, with or without the previous version's state.
    fn replace(&mut self, handed: Option<(PluginHandle, PluginHandle)>) {
        if let Some((from, to)) = handed {
            self.engine.hand_over(from, to);
        }
        self.mount();
    }

    fn on_behalf(&mut self, plugin: usize, client: usize, action: BehalfAction) {
        let Some((handle, answer)) = self.plugins.action(plugin) else { return };
        // A page cannot be of a shared subscription.
        let plain = |filter: u8| Some(FILTERS[usize::from(filter)]).filter(|text| !text.starts_with('$'));
        let authorize = |action, topic: &str| {
            let topic = topic.into();
            EngineAction::Authorize { action, topic, qos: QoS::AtMostOnce, retain: false }
        };
        let action = match action {
            BehalfAction::Fetch(filter) => EngineAction::Fetch(Fetch {
                filter: plain(filter).unwrap_or("#").into(),
                qos: QoS::AtLeastOnce,
                place: FetchPlace::first(),
                messages_max: 10,
                bytes_max: 4_096,
            }),
            BehalfAction::Publish(topic) => authorize(Action::Publish, TOPICS[usize::from(topic)]),
            BehalfAction::Subscribe(filter) => authorize(Action::Subscribe, plain(filter).unwrap_or("#")),
        };
        self.engine.on_behalf(&self.clients[client].id, handle, answer, action);
    }

    /// Checks that plugins received no wrong answers.
    pub fn check_answers(&mut self) {
        let strange = std::mem::take(&mut self.plugins.state.borrow_mut().strange_answers);
        for answer in strange {
            self.checker.broken(Rule::BehalfAnswers, || answer);
        }
    }

    /// Checks that plugins received every answer.
    pub fn check_behalf_answers(&mut self) {
        let state = self.plugins.state.borrow();
        let left = state.requests.iter().enumerate();
        let left = left.filter(|(_, action)| !action.answered && action.owed.is_some());
        let left: Vec<_> = left.take(4).collect();
        self.checker.check(left.is_empty(), Rule::BehalfUnanswered, || format!("{left:?}"));
    }

    /// A plugin has been tripped on some shard.
    pub fn tripped(&mut self, handle: PluginHandle) {
        if let Some(plugin) = self.plugins.of_handle(handle) {
            self.plugins.tripped[plugin] = true;
            self.mount();
            self.deny_all_while_tripped();
        }
    }

    /// While a plugin is tripped, its client.authorize denies everything.
    pub fn deny_all_while_tripped(&mut self) {
        if self.plugins.tripped.contains(&true) {
            for client in 0..self.model.lives.len() {
                self.model.touch_all_of(client);
                self.model.unsure(client);
            }
            for client in &mut self.clients {
                client.requests.iter_mut().for_each(|request| request.unanswered = true);
            }
        }
    }

    fn complete(&mut self, ticket: usize, how: Answer, again: bool) {
        let mut state = self.plugins.state.borrow_mut();
        let taken = if again && !state.closed.is_empty() {
            let place = ticket % state.closed.len();
            state.closed[place].clone()
        } else if state.open.is_empty() {
            return;
        } else {
            let place = ticket % state.open.len();
            let taken = state.open.remove(place);
            state.closed.push(taken.clone());
            if state.closed.len() > 16 {
                state.closed.remove(0);
            }
            taken
        };
        let may = !state.with_rules
            || taken.class.map_or_else(
                || state.rules[taken.user].iter().all(|may| *may),
                |class| state.rules[taken.user][class],
            );
        let (flow, changes, note) = answer(&taken, how, may);
        state.notes.extend(note);
        drop(state);
        self.engine.complete(taken.ticket, flow, changes);
    }

    /// Passes the notes of hooks to the model.
    pub fn take_notes(&mut self) {
        let notes = std::mem::take(&mut self.plugins.state.borrow_mut().notes);
        for note in notes {
            match note {
                Note::Message(number) => self.touch(number),
                Note::Disconnect(number) => {
                    self.touch(number);
                    let Some(message) = self.model.messages.get(number as usize) else { continue };
                    if let Some(socket) = self.sockets.get_mut(message.socket) {
                        socket.may_end = true;
                    }
                    let client = message.publisher.client;
                    self.clients[client].foreign = true;
                }
                Note::DisconnectClient(client) => {
                    if let Some(client) = self.clients.iter().position(|other| other.id == client) {
                        self.model.touch_all_of(client);
                        let of = self.sockets.iter_mut().filter(|socket| socket.client == client);
                        of.for_each(|socket| socket.may_end = true);
                    }
                }
                Note::Publisher(client) => {
                    if let Some(client) = self.clients.iter().position(|other| other.id == client) {
                        self.model.touch_all_of(client);
                    }
                }
                Note::Subscriber(client) => {
                    if let Some(client) = self.clients.iter().position(|other| other.id == client) {
                        self.model.unsure(client);
                        self.model.lives[client].granted.clear();
                        self.clients[client].requests.iter_mut().for_each(|request| request.denied = true);
                    }
                }
                Note::Keeper(client) => {
                    if let Some(client) = self.clients.iter().position(|other| other.id == client) {
                        self.model.lives[client].keeps = true;
                    }
                }
                Note::Unanswered(client) => {
                    if let Some(client) = self.clients.iter().position(|other| other.id == client) {
                        self.model.unsure(client);
                        self.clients[client]
                            .requests
                            .iter_mut()
                            .for_each(|request| request.unanswered = true);
                    }
                }
            }
        }
    }

    fn touch(&mut self, number: u32) {
        if let Some(message) = self.model.messages.get_mut(number as usize) {
            message.touched = true;
        }
    }

    pub fn release_plugins(&mut self) {
        self.plugins.disarm();
        self.plugins.all_awake = true;
        self.plugins.tripped = [false; PLUGINS];
        self.plugins.state.borrow_mut().rules = [[true; CLASSES]; 3];
        self.model.denied = Default::default();
        self.mount();
        self.engine.invalidate(&EngineScope::All);
    }

    /// Answers every open ticket, also those that a deadline has closed.
    pub fn answer_all(&mut self) {
        while !self.plugins.state.borrow().open.is_empty() {
            self.complete(0, Answer::Continue, false);
        }
        self.take_notes();
    }

    /// AUTH from the broker: the client answers another round.
    pub fn auth(&mut self, number: usize, reason: ReasonCode) {
        if reason != ReasonCode::CONTINUE_AUTHENTICATION {
            return;
        }
        let socket = &mut self.sockets[number];
        socket.requested = true;
        let bytes = wire::auth(ReasonCode::CONTINUE_AUTHENTICATION, socket.version());
        socket.push(&crate::client::Piece { bytes, sent: Sent::Other });
        self.offer(number, 0);
    }

    /// Whether no publish waits for a plugin or for a lane.
    pub fn nothing_waits(&self) -> bool {
        !self.engine.any_held() && self.plugins.state.borrow().open.is_empty()
    }
}
