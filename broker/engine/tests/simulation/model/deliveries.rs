//! Checks of a delivery: whether its receiver may have it, how often it has arrived, and in which
//! order.

use super::{Delivered, Message, Model, RequestedFilter, client_id, topic_text};
use crate::checker::{Checker, Rule};
use crate::op::FILTERS;
use crate::plugins::{CLASSES, class_of};

impl Model {
    /// A client has received a message; `fresh` means that it had no message with this identifier
    /// before.
    pub fn delivered(&mut self, checker: &mut Checker, delivered: &Delivered, fresh: bool) {
        let Some(message) = self.messages.get(delivered.number as usize).cloned() else {
            checker
                .broken(Rule::Unsubscribed, || format!("message {} was never published", delivered.number));
            return;
        };
        let Delivered { client, number, topic, qos, retain, dup, .. } = *delivered;
        let own = message.publisher == self.publisher(client);
        if message.will {
            self.wills.received(checker, number);
        }
        self.allowed(checker, delivered, &message);
        let life = &self.lives[client];
        for id in &delivered.ids {
            let known = life.ids.iter().any(|(filter, other)| other == id && self.matches(*filter, topic));
            checker.check(known, Rule::IdentifierUnknown, || {
                format!("{} got message {number} with identifier {id}", client_id(client))
            });
        }
        let requested: Vec<RequestedFilter> = life
            .requested
            .iter()
            .filter(|requested| self.matches(requested.filter, topic))
            .copied()
            .collect();
        let read = message.read.unwrap_or(u32::MAX);
        let current =
            |requested: &&RequestedFilter| message.will || requested.ended.is_none_or(|ended| read <= ended);
        checker.check(message.touched || topic == message.topic, Rule::Unsubscribed, || {
            format!("message {number} came under another topic")
        });
        checker.check(requested.iter().any(|requested| current(&requested)), Rule::Unsubscribed, || {
            format!("{} got message {number} of topic {}", client_id(client), topic_text(topic))
        });
        let local = if retain { Rule::NoLocalRetained } else { Rule::NoLocal };
        checker.check(!own || requested.iter().any(|requested| !requested.no_local), local, || {
            format!("{} got its own message {number}", client_id(client))
        });
        let qos_max = requested.iter().map(|requested| requested.qos_max).max().unwrap_or(0);
        checker.check(message.touched || qos <= qos_max.min(message.qos), Rule::QosTooHigh, || {
            format!("{} got message {number} with QoS {qos}", client_id(client))
        });
        if !fresh {
            return;
        }
        self.counted(checker, delivered, &message, &requested);
        self.in_order(checker, delivered, &message, &requested, (retain, dup));
        let life = &mut self.lives[client];
        life.due.remove(&number);
        if life.due_retained.get(&topic).is_some_and(|due| due.number == number) {
            life.due_retained.remove(&topic);
        }
        if life.due_at_resume.get(&topic).is_some_and(|due| due.number == number) {
            life.due_at_resume.remove(&topic);
        }
        self.retained.received(client, topic, number);
    }

    /// Whether the connected user may have it.
    fn allowed(&self, checker: &mut Checker, delivered: &Delivered, message: &Message) {
        let Delivered { client, number, topic, .. } = *delivered;
        let class = class_of(topic_text(topic)).unwrap_or(CLASSES - 1);
        let user = usize::from(self.users[client]) % self.denied.len();
        let denied = self.denied[user][class].zip(message.read).is_some_and(|(since, read)| read > since);
        let rule = if self.lives[client].inherited { Rule::NotAllowedInherited } else { Rule::NotAllowed };
        checker.check(!denied, rule, || {
            format!(
                "{} as user {user} got message {number} of topic {}",
                client_id(client),
                topic_text(topic)
            )
        });
    }

    /// How often it may arrive.
    fn counted(
        &mut self,
        checker: &mut Checker,
        delivered: &Delivered,
        message: &Message,
        requested: &[RequestedFilter],
    ) {
        let Delivered { client, number, qos, dup, .. } = *delivered;
        let shared =
            |requested: &&RequestedFilter| FILTERS[usize::from(requested.filter)].starts_with("$share");
        let groups = requested.iter().filter(shared).count();
        let plain: usize = requested.iter().filter(|a| !shared(a)).map(|a| usize::from(a.times)).sum();
        let plain = match (message.retain, message.late) {
            (true, true) => plain * 2,
            (true, false) => plain,
            (false, _) => plain.min(1),
        };
        let most = groups + plain;
        // A message that the full store refused was delivered all the same, and its sender may send
        // it again.
        let again = if message.retain && self.retained_small { usize::from(message.again) } else { 0 };
        let twice = |rule| if message.retain { Rule::LiveAndRetained } else { rule };
        let got = self.lives[client].got.entry(number).or_default();
        if qos == 2 {
            got.0 = got.0.saturating_add(1);
            let (times, most) = (got.0, most * (1 + again));
            checker.check(usize::from(times) <= most, twice(Rule::ExactlyOnce), || {
                format!("{} got message {number} {times} times with QoS 2, {most} allowed", client_id(client))
            });
        }
        if !dup {
            got.1 = got.1.saturating_add(1);
            let times = got.1;
            let most = most * (1 + usize::from(message.again));
            checker.check(usize::from(times) <= most, twice(Rule::TooOften), || {
                format!("{} got message {number} {times} times, {most} allowed", client_id(client))
            });
        }
    }

    fn in_order(
        &mut self,
        checker: &mut Checker,
        delivered: &Delivered,
        message: &Message,
        requested: &[RequestedFilter],
        (retain, dup): (bool, bool),
    ) {
        let Delivered { client, number, topic, qos, .. } = *delivered;
        let shared =
            requested.iter().any(|requested| FILTERS[usize::from(requested.filter)].starts_with("$share"));
        if retain || dup || message.will || message.again > 0 {
            return;
        }
        // Messages of a member that leaves reach others late, and several groups deliver a message
        // at several times.
        if shared && (self.redrawn || requested.len() > 1) {
            return;
        }
        let rule = if shared { Rule::OrderShared } else { Rule::Order };
        let read = message.read.unwrap_or(0);
        let last = self.lives[client].last.entry((message.publisher, topic, qos)).or_default();
        let before = *last;
        *last = before.max(read);
        checker.check(read >= before, rule, || {
            format!("{} got message {number} of topic {} late", client_id(client), topic_text(topic))
        });
    }

    /// Whether plugins have refused messages of a client.
    pub fn touched_by(&self, client: usize) -> bool {
        self.messages.iter().any(|message| message.publisher.client == client && message.touched)
    }

    /// Whether a message is small enough for a client, without an alias. Valid only if no other
    /// part makes the packet longer.
    pub fn fits(&self, client: usize, number: u32) -> bool {
        let life = &self.lives[client];
        let message = &self.messages[number as usize];
        let Some(most) =
            life.packet_bytes_max.filter(|_| self.strict && life.ids.iter().all(|(_, id)| *id == 0))
        else {
            return false;
        };
        let topic = topic_text(message.topic);
        // Type and length, topic, identifier, no properties, payload.
        let rest = 2 + topic.len() + 2 + 1 + message.size as usize;
        let len = 1 + if rest < 128 { 1 } else { 2 } + rest;
        len <= most as usize
    }

    /// Messages that a client should have received and has not. `full` selects which: the accepted
    /// ones, or those refused because the retained store is full.
    pub fn missing(&self, client: usize, full: bool) -> Vec<u32> {
        let due = self.lives[client].due.keys().copied();
        due.filter(|number| {
            let message = &self.messages[*number as usize];
            let taken = if full { message.full } else { message.accepted == Some(true) };
            taken && !message.touched && !message.expires
        })
        .collect()
    }
}
