//! What client.authorize has said and what becomes of it when the rules change: deliveries that are authorised one by one with
//! their verdicts remembered, and subscriptions in force that are asked about again.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use super::Shard;
use super::admission::Answer;
use super::asking::Asked;
use super::deliver::{Manner, delivery_of, manner_of};
use super::tell::Loss;
use crate::hook::HookPoint;
use crate::hook::client::{Action, Request};
use crate::hook::tickets::{OpenTicket, Waiter};
use crate::id::SessionKey;
use crate::message::MessageView;
use crate::session::slots::Ask;
use crate::session::{Delivery, Held};
use crate::topic;

/// Whose authorisation is asked again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's.
    All,
    /// That of a client identifier.
    Client(Box<str>),
    /// That of a user name.
    User(Box<str>),
    /// That of subscriptions which could bring a topic of this filter.
    Topics(Box<str>),
}

/// Deliveries of a session that are authorised one by one.
#[derive(Debug)]
pub struct Deliveries {
    /// What was said for a topic, and under which rules.
    said: HashMap<Box<str>, (bool, u64), ahash::RandomState>,
    /// The question that is on its way, with the delivery it is about.
    asked: Option<(Ask, Delivery)>,
    /// What comes behind it, in order.
    behind: VecDeque<Delivery>,
}

/// Subscriptions in force that are asked about again, a slice a turn.
#[derive(Debug)]
struct Review {
    scope: Scope,
    /// The next place in the table of sessions.
    place: usize,
    /// Filters of the session that is looked at, which are still to come.
    filters: Vec<Box<str>>,
    session: Option<SessionKey>,
}

/// A subscription whose question is on its way.
#[derive(Debug)]
struct Suspect {
    session: SessionKey,
    filter: Box<str>,
    ask: Ask,
}

/// Reviews that are going on.
#[derive(Debug, Default)]
pub(super) struct Reviews {
    queue: VecDeque<Review>,
    suspects: HashMap<u64, Suspect>,
    next: u64,
}

/// Subscriptions that are asked about in one turn.
const SLICE: usize = 128;
/// Reviews that may wait; one of everything takes the place of more.
const REVIEWS_MAX: usize = 32;

impl Shard {
    /// The rules of client.authorize have changed for these: what was remembered is asked again, and so are subscriptions in force.
    pub fn invalidate(&mut self, scope: Scope) {
        self.authz_epoch += 1;
        let reviews = &mut self.reviews.queue;
        if reviews.len() >= REVIEWS_MAX {
            reviews.clear();
            reviews.push_back(Review { scope: Scope::All, place: 0, filters: Vec::new(), session: None });
            return;
        }
        reviews.push_back(Review { scope, place: 0, filters: Vec::new(), session: None });
    }

    pub(super) fn has_reviews(&self) -> bool {
        !self.reviews.queue.is_empty()
    }

    /// Asks about a slice of the subscriptions in force.
    pub(super) fn review(&mut self) {
        for _ in 0..SLICE {
            let Some(review) = self.reviews.queue.front_mut() else { return };
            if let (Some(filter), Some(session)) = (review.filters.pop(), review.session) {
                self.suspect(session, filter);
                continue;
            }
            if review.place >= self.sessions.places() {
                self.reviews.queue.pop_front();
                continue;
            }
            let place = review.place;
            review.place += 1;
            let Some(key) = self.sessions.key_at(place) else { continue };
            let Some(session) = self.sessions.get(key).filter(|session| !session.orphan) else { continue };
            let affected = match &review.scope {
                Scope::All | Scope::Topics(_) => true,
                Scope::Client(client_id) => *session.identity.client_id == **client_id,
                Scope::User(username) => session.identity.username.as_deref() == Some(username),
            };
            if session.identity.superuser || !affected {
                continue;
            }
            let could = |filter: &str| match &review.scope {
                Scope::Topics(topics) => {
                    topic::parse_filter(filter).is_ok_and(|parsed| topic::overlap(parsed.filter, topics))
                }
                _ => true,
            };
            let filters = session.subscriptions.keys().filter(|filter| could(filter)).cloned().collect();
            review.filters = filters;
            review.session = Some(key);
        }
    }

    fn suspect(&mut self, session_key: SessionKey, filter: Box<str>) {
        let Some(session) = self.sessions.get(session_key) else { return };
        let identity = Rc::clone(&session.identity);
        let ask = self.new_ask(&identity);
        self.ask_suspect(Suspect { session: session_key, filter, ask });
    }

    /// Asks whether a subscription may stay; one that may not is taken.
    fn ask_suspect(&mut self, suspect: Suspect) {
        let Suspect { session: session_key, filter, ask } = suspect;
        let Some(session) = self.sessions.get(session_key) else { return };
        let Some(subscription) = session.subscriptions.get(&filter) else { return };
        let (identity, qos) = (Rc::clone(&session.identity), subscription.options.qos);
        let Ok(parsed) = topic::parse_filter(&filter) else { return };
        let request = Request { action: Action::Subscribe, topic: parsed.filter, qos, retain: false };
        self.reviews.next += 1;
        let id = self.reviews.next;
        match self.ask_authorize(&identity, request, ask, None, Waiter::Suspect(id)) {
            Asked::Answered(Ok(()), _) => {}
            Asked::Answered(Err(_), _) => {
                self.counters.subscriptions_revoked += 1;
                self.unsubscribe(session_key, &filter, "revoked");
            }
            Asked::Deferred(_, ask) | Asked::Blocked(ask) => {
                self.reviews.suspects.insert(id, Suspect { session: session_key, filter, ask });
            }
        }
    }

    /// A deferred verdict about a subscription in force.
    pub(super) fn suspect_answered(&mut self, id: u64, ticket: &OpenTicket, answer: Answer<'_>) {
        let Some(mut suspect) = self.reviews.suspects.remove(&id) else { return };
        if !self.ask_answered(&mut suspect.ask, ticket, answer) {
            self.ask_suspect(suspect);
        } else if self.verdict_of(&suspect.ask).is_err() {
            self.counters.subscriptions_revoked += 1;
            self.unsubscribe(suspect.session, &suspect.filter, "revoked");
        }
    }

    /// Whether a session may get a message now. What must wait for the answer, or may not come, is dealt with here.
    pub(super) fn may_deliver(
        &mut self,
        key: SessionKey,
        manner: &Manner,
        view: &MessageView<'_>,
        held: &mut Option<Held>,
    ) -> bool {
        let queue_max = self.limits().session_queue_messages_max;
        let epoch = self.authz_epoch;
        let hasher = self.hasher.clone();
        let Some(session) = self.sessions.get_mut(key) else { return false };
        if session.identity.superuser {
            return true;
        }
        let deliveries = session.deliveries.get_or_insert_with(|| Box::new(Deliveries::new(hasher)));
        if deliveries.asked.is_some() {
            if deliveries.behind.len() as u64 >= queue_max {
                self.count_drop(Loss::QueueFull, view, Some(key));
            } else {
                deliveries.behind.push_back(delivery_of(manner, view, held));
            }
            return false;
        }
        if let Some((may, when)) = deliveries.said.get(view.topic)
            && *when == epoch
        {
            let may = *may;
            if !may {
                self.count_drop(Loss::NotAuthorized, view, Some(key));
            }
            return may;
        }
        let identity = Rc::clone(&session.identity);
        let ask = self.new_ask(&identity);
        self.ask_delivery(key, ask, manner, view, held)
    }

    /// Runs the question; true if the message may go.
    fn ask_delivery(
        &mut self,
        key: SessionKey,
        ask: Ask,
        manner: &Manner,
        view: &MessageView<'_>,
        held: &mut Option<Held>,
    ) -> bool {
        let Some(session) = self.sessions.get(key) else { return false };
        let identity = Rc::clone(&session.identity);
        let request =
            Request { action: Action::Deliver, topic: view.topic, qos: manner.qos, retain: manner.retain };
        match self.ask_authorize(&identity, request, ask, None, Waiter::Deliver(key)) {
            Asked::Answered(answer, cacheable) => {
                self.note_delivery(key, view, answer.is_ok(), cacheable);
                answer.is_ok()
            }
            Asked::Deferred(_, ask) | Asked::Blocked(ask) => {
                let delivery = delivery_of(manner, view, held);
                if let Some(deliveries) = self.deliveries_of(key) {
                    deliveries.asked = Some((ask, delivery));
                }
                false
            }
        }
    }

    fn deliveries_of(&mut self, key: SessionKey) -> Option<&mut Deliveries> {
        self.sessions.get_mut(key)?.deliveries.as_deref_mut()
    }

    /// Remembers what was said, and drops what may not come.
    fn note_delivery(&mut self, key: SessionKey, view: &MessageView<'_>, may: bool, cacheable: bool) {
        let (epoch, most) = (self.authz_epoch, self.limits().deliver_verdicts_max as usize);
        if let Some(deliveries) = self.deliveries_of(key).filter(|_| cacheable && most > 0) {
            if deliveries.said.len() >= most {
                deliveries.said.clear();
            }
            deliveries.said.insert(view.topic.into(), (may, epoch));
        }
        if !may {
            self.count_drop(Loss::NotAuthorized, view, Some(key));
        }
    }

    /// A deferred verdict about a delivery: it goes, or not, and then what waits behind it.
    pub(super) fn delivery_answered(&mut self, key: SessionKey, ticket: &OpenTicket, answer: Answer<'_>) {
        let Some((mut ask, delivery)) = self.deliveries_of(key).and_then(|d| d.asked.take()) else { return };
        let stop = self.ask_answered(&mut ask, ticket, answer);
        let manner = manner_of(&delivery);
        let message = Rc::clone(&delivery.message);
        let view = message.view();
        let mut held = Some(Rc::clone(&message));
        let may = if stop {
            let may = self.verdict_of(&ask).is_ok();
            self.note_delivery(key, &view, may, ask.verdict.cacheable);
            may
        } else {
            self.ask_delivery(key, ask, &manner, &view, &mut held)
        };
        if may {
            self.deliver_checked(key, manner, &view, &mut held);
        }
        // Nothing may pass a delivery that waits.
        while let Some(next) =
            self.deliveries_of(key).filter(|d| d.asked.is_none()).and_then(|d| d.behind.pop_front())
        {
            let view = next.message.view();
            let mut held = Some(Rc::clone(&next.message));
            let manner = manner_of(&next);
            if self.may_deliver(key, &manner, &view, &mut held) {
                self.deliver_checked(key, manner, &view, &mut held);
            }
        }
    }

    /// Whether deliveries are authorised one by one.
    #[inline]
    pub(super) fn asks_for_deliveries(&self) -> bool {
        self.chains.chain(HookPoint::ClientAuthorize).delivers()
    }
}

impl Deliveries {
    fn new(hasher: ahash::RandomState) -> Deliveries {
        Deliveries { said: HashMap::with_hasher(hasher), asked: None, behind: VecDeque::new() }
    }
}
