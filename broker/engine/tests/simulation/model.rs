//! The model: computes what must hold, independently of the engine: which messages exist, the
//! subscriptions and deliveries of each session, which wills are due, what is retained. Its input
//! is what clients send, once the engine has read it, and what clients receive.

use std::collections::{BTreeMap, BTreeSet};

use grapnel_engine::packet::{RetainHandling, SubscriptionOptions, Version};

use crate::op::{CLIENTS, FILTERS, Publish, TOPICS, WILL_TOPICS};
use crate::plugins::CLASSES;
use crate::wire;

pub mod deliveries;
pub mod retained;
pub mod sessions;
pub mod wills;

/// Index of the first will topic among all topics.
pub const WILLS_FROM: u8 = TOPICS.len() as u8;

/// The name of a topic by its index.
pub fn topic_text(topic: u8) -> &'static str {
    let index = usize::from(topic);
    TOPICS.get(index).or_else(|| WILL_TOPICS.get(index - TOPICS.len())).copied().unwrap_or("")
}

/// The index of a topic.
pub fn topic_index(text: &str) -> Option<u8> {
    TOPICS.iter().chain(&WILL_TOPICS).position(|topic| *topic == text).map(|index| index as u8)
}

/// The publisher of a message: client and number of its session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Publisher {
    pub client: usize,
    pub life: u32,
}

/// A message that clients have published.
#[derive(Clone, Debug)]
pub struct Message {
    pub publisher: Publisher,
    pub topic: u8,
    pub qos: u8,
    pub retain: bool,
    pub expires: bool,
    pub will: bool,
    /// Position in the order of all reads of the engine.
    pub read: Option<u32>,
    /// Whether it was accepted or refused.
    pub accepted: Option<bool>,
    /// A plugin has changed or refused it.
    pub touched: bool,
    pub size: u32,
    /// It was refused because the retained store is full.
    pub full: bool,
    /// The socket it was sent on.
    pub socket: usize,
    /// It was sent again after the engine may have taken it.
    pub again: u8,
    /// A lane was blocked for longer than the engine distinguishes live from retained messages.
    pub late: bool,
}

/// A subscription of a session.
#[derive(Clone, Copy, Debug)]
pub struct Subscription {
    pub filter: u8,
    pub options: u8,
    /// Whether SUBACK has confirmed it, and no later packet can end it.
    pub sure: bool,
}

/// A retained message that a SUBSCRIBE must deliver.
#[derive(Clone, Copy, Debug)]
pub struct DueRetained {
    pub number: u32,
    pub filter: u8,
    /// Whether it is sent with QoS 1 or 2.
    pub kept: bool,
    /// Whether it is the first SUBSCRIBE of the session for this filter: if the subscription is in
    /// force, it has taken effect.
    pub first: bool,
    /// Whether SUBACK has arrived.
    pub acknowledged: bool,
}

/// A session from beginning to end, as its client sees it.
#[derive(Default)]
pub struct Life {
    pub number: u32,
    pub subscriptions: Vec<Subscription>,
    /// Filters that SUBACK has granted and no later answer has ended.
    pub granted: BTreeSet<u8>,
    /// Filters last named by an UNSUBSCRIBE: a SUBACK that arrives after it is older.
    pub withdrawn: BTreeSet<u8>,
    /// Each filter that was ever requested, how often, and with which options.
    pub requested: Vec<RequestedFilter>,
    /// Messages that must be delivered, unless they are not accepted or a drop is counted.
    pub due: BTreeMap<u32, u8>,
    /// How often a message was delivered: with QoS 2, and in total.
    pub got: BTreeMap<u32, (u8, u8)>,
    /// The last message by publisher, topic and QoS, by the order of reads.
    pub last: BTreeMap<(Publisher, u8, u8), u32>,
    /// Subscription identifiers that it has used, with their filters.
    pub ids: BTreeSet<(u8, u32)>,
    /// Retained messages that a SUBSCRIBE must deliver, by topic.
    pub due_retained: BTreeMap<u8, DueRetained>,
    /// Those of QoS 1 and 2 that were due when the connection ended.
    pub due_at_resume: BTreeMap<u8, DueRetained>,
    /// The smallest Maximum Packet Size that its connections have had.
    pub packet_bytes_max: Option<u32>,
    /// Another principal has had the session before.
    pub inherited: bool,
    /// A plugin may have refused to end a subscription.
    pub keeps: bool,
    pub version: Option<Version>,
}

impl Life {
    /// Whether it has ever had a shared subscription.
    fn shares(&self) -> bool {
        self.requested.iter().any(|requested| FILTERS[usize::from(requested.filter)].starts_with("$share"))
    }

    /// Updates which retained messages are still due when the connection ends. A SUBSCRIBE without
    /// acknowledgement may have ended with it.
    fn connection_over(&mut self) {
        for (topic, due) in std::mem::take(&mut self.due_retained) {
            if due.kept && (due.acknowledged || due.first) {
                self.due_at_resume.insert(topic, due);
            }
        }
    }
}

/// How often a session has subscribed to a filter.
#[derive(Clone, Copy, Debug)]
pub struct RequestedFilter {
    pub filter: u8,
    pub times: u8,
    pub qos_max: u8,
    /// Whether every one of them had No Local.
    pub no_local: bool,
    /// When the subscription certainly ended, in the order of reads; cleared by the next one.
    pub ended: Option<u32>,
}

pub struct Model {
    pub messages: Vec<Message>,
    pub lives: Vec<Life>,
    lives_count: u32,
    pub reads: u32,
    matches: Vec<Vec<bool>>,
    pub retained: retained::Retained,
    pub wills: wills::Wills,
    pub sessions: sessions::Sessions,
    /// Maximum number of topic levels that is accepted.
    pub levels_max: usize,
    /// Whether in this world no message may be refused or dropped without a trace.
    pub strict: bool,
    pub retained_small: bool,
    /// The connected user, by client.
    pub users: Vec<u8>,
    /// The read since which the rules deny a class of topics to a user.
    pub denied: [[Option<u32>; CLASSES]; 3],
    /// A member of a shared subscription has left: its messages go to others, late.
    pub redrawn: bool,
}

/// A delivery that a client has received.
pub struct Delivered {
    pub client: usize,
    pub number: u32,
    pub topic: u8,
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
    pub ids: Vec<u32>,
}

impl Model {
    pub fn new(levels_max: usize) -> Model {
        let all = 0..(TOPICS.len() + WILL_TOPICS.len()) as u8;
        let row = |filter: &&str| all.clone().map(|topic| matches(filter, topic_text(topic))).collect();
        let matches = FILTERS.iter().map(row);
        Model {
            messages: Vec::new(),
            lives: (0..CLIENTS).map(|_| Life::default()).collect(),
            lives_count: 0,
            reads: 0,
            matches: matches.collect(),
            retained: retained::Retained::default(),
            wills: wills::Wills::default(),
            sessions: sessions::Sessions::new(usize::from(CLIENTS)),
            levels_max,
            strict: true,
            retained_small: false,
            users: vec![0; usize::from(CLIENTS)],
            denied: Default::default(),
            redrawn: false,
        }
    }

    pub fn matches(&self, filter: u8, topic: u8) -> bool {
        self.matches[usize::from(filter)][usize::from(topic)]
    }

    pub fn publisher(&self, client: usize) -> Publisher {
        Publisher { client, life: self.lives[client].number }
    }

    /// Adds a message and returns its number.
    pub fn publish(&mut self, client: usize, publish: &Publish) -> u32 {
        let expires = publish.expiry_s.is_some();
        let number = self.push(client, publish.topic, publish.qos, publish.retain, expires, false);
        self.messages[number as usize].size = if publish.size == 0 { 0 } else { publish.size.max(4) };
        number
    }

    pub fn push(
        &mut self,
        client: usize,
        topic: u8,
        qos: u8,
        retain: bool,
        expires: bool,
        will: bool,
    ) -> u32 {
        let publisher = self.publisher(client);
        self.messages.push(Message {
            publisher,
            topic,
            qos,
            retain,
            expires,
            will,
            read: None,
            accepted: None,
            touched: false,
            size: 0,
            full: false,
            socket: usize::MAX,
            again: 0,
            late: false,
        });
        (self.messages.len() - 1) as u32
    }

    /// A new session of a client begins.
    pub fn begin(&mut self, client: usize, version: Version) {
        self.lives_count += 1;
        self.redrawn |= self.lives[client].shares();
        let life = Life { number: self.lives_count, version: Some(version), ..Life::default() };
        self.lives[client] = life;
    }

    /// Adds one client that operations do not name.
    pub fn add_client(&mut self) {
        self.lives.push(Life::default());
        self.sessions.add();
        self.users.push(0);
    }

    /// The engine has read a PUBLISH.
    pub fn read_publish(&mut self, number: u32, empty: bool) {
        self.reads += 1;
        let read = self.reads;
        let message = &mut self.messages[number as usize];
        if message.read.is_some() {
            message.again = message.again.saturating_add(1);
            if message.retain {
                let message = message.clone();
                self.retained.published(number, &message, empty);
                self.retained_changed(message.topic);
            }
            return;
        }
        message.read = Some(read);
        let message = message.clone();
        if topic_text(message.topic).split('/').count() > self.levels_max {
            return;
        }
        if message.qos == 0 && self.strict && !(message.retain && self.retained_small) {
            // It cannot be refused.
            self.messages[number as usize].accepted = Some(true);
        }
        if message.retain {
            self.retained.published(number, &message, empty);
            self.retained_changed(message.topic);
        }
        if message.qos == 0 || empty {
            return;
        }
        for client in 0..self.lives.len() {
            let own = message.publisher == self.publisher(client);
            let wanted = self.lives[client].subscriptions.iter().any(|sub| {
                let options = wire::options(sub.options);
                sub.sure
                    && self.matches(sub.filter, message.topic)
                    && !FILTERS[usize::from(sub.filter)].starts_with("$share")
                    && options.qos.as_u8() > 0
                    && !(own && options.no_local)
            });
            if wanted {
                self.lives[client].due.insert(number, message.topic);
            }
        }
    }

    /// The connection of a client has ended.
    pub fn connection_over(&mut self, client: usize) {
        self.redrawn |= self.lives[client].shares();
        self.lives[client].connection_over();
    }

    /// Another message may be retained for a topic now.
    fn retained_changed(&mut self, topic: u8) {
        for life in &mut self.lives {
            life.due_retained.remove(&topic);
            life.due_at_resume.remove(&topic);
        }
    }

    /// Adds the retained messages that a SUBSCRIBE must deliver.
    fn expect_retained(&mut self, client: usize, filter: u8, options: SubscriptionOptions, is_new: bool) {
        let sent = match options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => is_new,
            RetainHandling::DoNotSend => false,
        };
        if !sent || !self.strict || FILTERS[usize::from(filter)].starts_with("$share") {
            return;
        }
        for topic in 0..TOPICS.len() as u8 {
            let settled =
                self.retained.settled(topic, &self.messages).filter(|_| self.matches(filter, topic));
            let Some(number) = settled else { continue };
            let message = &self.messages[number as usize];
            if message.publisher.client != client {
                let kept = message.qos > 0 && options.qos.as_u8() > 0;
                let due = DueRetained { number, filter, kept, first: is_new, acknowledged: false };
                self.lives[client].due_retained.insert(topic, due);
            }
        }
    }

    /// A subscription was refused or ended: no retained message is due for it.
    fn forget_retained(&mut self, client: usize, filter: u8) {
        let row = &self.matches[usize::from(filter)];
        let life = &mut self.lives[client];
        life.due_retained.retain(|_, due| due.filter != filter);
        life.due_at_resume.retain(|topic, _| !row[usize::from(*topic)]);
    }

    /// The publisher has received its acknowledgement.
    pub fn acknowledged(&mut self, number: u32, code: u8, v5: bool) {
        let message = &mut self.messages[number as usize];
        if code >= 0x80 {
            message.full = code == 0x97 && message.retain && self.retained_small;
            message.accepted = Some(false);
        } else if message.accepted.is_none() {
            // MQTT 3 has no code for a refusal.
            let taken = topic_text(message.topic).split('/').count() <= self.levels_max;
            let notified = v5 || !(message.touched || (message.retain && self.retained_small));
            message.accepted = if notified { Some(taken) } else { None };
        }
    }

    /// Everything under way arrives after the time in which the engine distinguishes live from
    /// retained messages.
    pub fn all_late(&mut self) {
        self.messages.iter_mut().for_each(|message| message.late = true);
    }

    /// A plugin may refuse anything that a client has under way.
    pub fn touch_all_of(&mut self, client: usize) {
        let recent = self.messages.len().saturating_sub(400);
        for message in &mut self.messages[recent..] {
            message.touched |= message.publisher.client == client && message.accepted.is_none();
        }
    }

    /// Subscriptions of a client may have been refused or ended.
    pub fn unsure(&mut self, client: usize) {
        let life = &mut self.lives[client];
        life.subscriptions.clear();
        life.due.clear();
    }

    /// A client has sent SUBSCRIBE.
    pub fn on_subscribe(&mut self, client: usize, filters: &[(u8, u8)], id: u32) {
        for (filter, byte) in filters {
            let options = wire::options(*byte);
            let is_new = !self.lives[client].requested.iter().any(|requested| requested.filter == *filter);
            self.forget_retained(client, *filter);
            self.expect_retained(client, *filter, options, is_new);
            let life = &mut self.lives[client];
            life.ids.insert((*filter, id));
            // A subscription that is replaced may be refused or ended: it is uncertain until
            // SUBACK.
            life.subscriptions
                .iter_mut()
                .filter(|sub| sub.filter == *filter)
                .for_each(|sub| sub.sure = false);
            let qos = options.qos.as_u8();
            match life.requested.iter_mut().find(|requested| requested.filter == *filter) {
                Some(requested) => {
                    requested.times = requested.times.saturating_add(1);
                    requested.qos_max = requested.qos_max.max(qos);
                    requested.no_local &= options.no_local;
                    requested.ended = None;
                }
                None => life.requested.push(RequestedFilter {
                    filter: *filter,
                    times: 1,
                    qos_max: qos,
                    no_local: options.no_local,
                    ended: None,
                }),
            }
            self.lives[client].granted.remove(filter);
            self.lives[client].withdrawn.remove(filter);
            self.forget_due(client, *filter);
        }
    }

    /// A client has sent UNSUBSCRIBE.
    pub fn on_unsubscribe(&mut self, client: usize, filters: &[(u8, u8)]) {
        for (filter, _) in filters {
            self.forget_retained(client, *filter);
            self.redrawn |= FILTERS[usize::from(*filter)].starts_with("$share");
            self.lives[client].subscriptions.retain(|sub| sub.filter != *filter);
            self.lives[client].granted.remove(filter);
            self.lives[client].withdrawn.insert(*filter);
            self.forget_due(client, *filter);
        }
    }

    /// Messages of a filter need not arrive any more: the subscription is being changed.
    pub fn forget_due(&mut self, client: usize, filter: u8) {
        let row = &self.matches[usize::from(filter)];
        self.lives[client].due.retain(|_, topic| !row[usize::from(*topic)]);
    }

    /// SUBACK has arrived.
    pub fn subscribed(
        &mut self,
        client: usize,
        filters: &[(u8, u8)],
        codes: &[u8],
        (unanswered, denied): (bool, bool),
        taken_back: &BTreeSet<u8>,
    ) {
        for ((filter, options), code) in filters.iter().zip(codes) {
            let life = &mut self.lives[client];
            let before = life.subscriptions.iter().position(|sub| sub.filter == *filter);
            if *code >= 0x80 {
                // A subscription that existed before stays.
                self.forget_retained(client, *filter);
                continue;
            }
            if life.withdrawn.contains(filter) || taken_back.contains(filter) {
                continue;
            }
            before.map(|place| life.subscriptions.remove(place));
            life.subscriptions.push(Subscription {
                filter: *filter,
                options: *options,
                sure: !unanswered && !denied,
            });
            if !denied {
                life.granted.insert(*filter);
            }
        }
    }

    /// SUBACK has granted a filter that no later SUBSCRIBE has requested.
    pub fn retained_promised(&mut self, client: usize, filter: u8) {
        let due = self.lives[client].due_retained.values_mut();
        due.filter(|due| due.filter == filter).for_each(|due| due.acknowledged = true);
    }

    /// UNSUBACK has arrived.
    pub fn unsubscribed(&mut self, client: usize, filters: &[(u8, u8)]) {
        let reads = self.reads;
        if self.lives[client].keeps {
            return;
        }
        for (filter, _) in filters {
            let life = &mut self.lives[client];
            for requested in life.requested.iter_mut().filter(|requested| requested.filter == *filter) {
                requested.ended.get_or_insert(reads);
            }
        }
    }
}

pub fn client_id(client: usize) -> String {
    format!("client-{client}")
}

/// Whether a filter matches a topic name (MQTT 5.0 section 4.7).
fn matches(filter: &str, topic: &str) -> bool {
    let filter = match filter.strip_prefix("$share/") {
        Some(rest) => rest.split_once('/').map_or("", |(_, filter)| filter),
        None => filter,
    };
    let mut levels = topic.split('/');
    for part in filter.split('/') {
        if part == "#" {
            return true;
        }
        match levels.next() {
            Some(level) if part == "+" || part == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}
