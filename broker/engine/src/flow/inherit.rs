//! A CONNECT for the session of another principal, and what `session_owner` makes of it. With `inherit` the session changes hands
//! once client.authorize has allowed the new principal every subscription and, where plugins authorize deliveries, every
//! message that waits or is in flight. Called by the CONNECT that is through with all else; it must not change the session
//! before everything has been answered.

use std::collections::{HashMap, HashSet};

use super::{authorize, deliver_rights, ending, notify, route, subscriptions, takeover, wake};
use crate::clients::admission::{Admission, Inheritance, Item};
use crate::counters::DropReason;
use crate::hook::verdict::{ALLOW, ClientVerdict, UNANSWERED};
use crate::hook::view::{Action, Request};
use crate::id::{ConnKey, SessionKey};
use crate::limits::SessionOwner;
use crate::packet::{Connect, QoS};
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::{Delivery, EndCause, Session};
use crate::topic;

/// Requests that one turn authorizes.
pub(crate) const SLICE: usize = 32;
/// Times that a session may change while it is authorized, before the client is told to come back.
const ROUNDS_MAX: u32 = 8;

/// What becomes of a CONNECT, as far as the session under its client identifier is concerned.
pub(crate) enum Claim {
    /// It comes in: there is no session, or its own, or it may go on with the one there is.
    Free,
    /// It comes in, and the session of another principal ends.
    Discards,
    /// It is refused for this reason.
    Refused(ReasonCode),
    /// The next request of its [`Inheritance`] is to be authorized.
    Authorizes,
    /// Packets or deliveries of the session still wait for plugins, and belong to its old principal.
    Waits,
}

impl Inheritance {
    /// The request that is next.
    pub(crate) fn request(&self) -> Option<Request<'_>> {
        match self.open.last()? {
            Item::Filter(filter, qos) => {
                // What is authorized is the filter itself, as at SUBSCRIBE.
                let topic = topic::parse_filter(filter).map_or("", |parsed| parsed.filter);
                Some(Request { action: Action::Subscribe, topic, qos: *qos, retain: false })
            }
            Item::Topic(topic, qos, retain) => {
                Some(Request { action: Action::Deliver, topic, qos: *qos, retain: *retain })
            }
        }
    }

    /// Notes the answer to that request.
    ///
    /// # Errors
    /// 0x88 where a link has failed: nobody knows what it would have said, so nothing changes hands and nothing is lost.
    pub(crate) fn answered(
        &mut self,
        verdict: &ClientVerdict,
        no_match_allow: bool,
    ) -> Result<(), ReasonCode> {
        if verdict.is_unanswered_denial() {
            return Err(ReasonCode::SERVER_UNAVAILABLE);
        }
        let may = verdict.verdict == ALLOW || (verdict.verdict == UNANSWERED && no_match_allow);
        match self.open.pop() {
            Some(Item::Filter(filter, _)) => self.filters.insert(filter, may),
            Some(Item::Topic(topic, ..)) => self.topics.insert(topic, may),
            None => None,
        };
        Ok(())
    }

    /// Puts what of the session has not been authorized among the open requests; whether there is any.
    fn look_for_more(&mut self, session: &Session, deliveries: bool) -> bool {
        let filters = &self.filters;
        let new = session.subscriptions.iter().filter(|(filter, _)| !filters.contains_key(*filter));
        self.open.extend(new.map(|(filter, sub)| Item::Filter(filter.clone(), sub.options.qos)));
        if deliveries {
            let mut listed = HashSet::with_hasher(self.topics.hasher().clone());
            for delivery in session.queue.iter().chain(session.inflight.published()) {
                let topic = &*delivery.message.topic;
                if !self.topics.contains_key(topic) && listed.insert(topic) {
                    self.open.push(Item::Topic(topic.into(), delivery.qos, delivery.retain));
                }
            }
        }
        !self.open.is_empty()
    }
}

/// Whether a CONNECT that is through with all else may have the session under its client identifier. Ends the connection that
/// the session has where it is to change hands, so that nothing of it moves meanwhile.
pub(crate) fn claim(
    parts: &mut Parts,
    key: ConnKey,
    connect: &Connect<'_>,
    admission: &mut Admission,
) -> Claim {
    let identity = &admission.identity;
    let Some(session_key) = parts.sessions.by_client_id(&identity.client_id) else { return Claim::Free };
    let Some(session) = parts.sessions.get(session_key) else { return Claim::Free };
    if session.identity.principal() == identity.principal() {
        return Claim::Free;
    }
    match parts.setup.limits.choices.session_owner {
        SessionOwner::Refuse => Claim::Refused(ReasonCode::NOT_AUTHORIZED),
        // A clean start ends it, and so does the end of its connection, whoever comes.
        _ if connect.clean_start || !session.is_persistent() => Claim::Free,
        SessionOwner::Discard => Claim::Discards,
        SessionOwner::Inherit if identity.superuser => detach_for(parts, key, session_key),
        SessionOwner::Inherit => inherit(parts, key, session_key, admission),
    }
}

/// Ends the connection of a session that is to change hands; whether packets of it wait.
fn detach_for(parts: &mut Parts, key: ConnKey, session_key: SessionKey) -> Claim {
    if let Some(old) = parts.sessions.get(session_key).and_then(|session| session.conn) {
        takeover::take_over(parts, session_key, old);
    }
    let Some(session) = parts.sessions.get_mut(session_key) else { return Claim::Free };
    let before = session.heir.replace(key).filter(|heir| *heir != key);
    let waits = session.is_busy();
    // One at a time waits for a session: the last that came.
    if let Some(heir) = before {
        ending::end_connection(parts, heir, EndCause::ByBroker(ReasonCode::SESSION_TAKEN_OVER), None);
    }
    if waits { Claim::Waits } else { Claim::Free }
}

fn inherit(parts: &mut Parts, key: ConnKey, session_key: SessionKey, admission: &mut Admission) -> Claim {
    if let Claim::Waits = detach_for(parts, key, session_key) {
        return Claim::Waits;
    }
    let (rules, deliveries) = (parts.hooks.authz_epoch(), deliver_rights::authorizes_deliveries(parts));
    let hasher = parts.numbers.hasher();
    let Some(session) = parts.sessions.get(session_key) else { return Claim::Free };
    let begun = admission.inheritance.take();
    let rounds = begun.as_ref().map_or(0, |begun| begun.rounds);
    let same = |begun: &Inheritance| {
        (begun.session, begun.epoch) == (session_key, session.epoch)
            && authorize::is_current(parts, begun.rules, &admission.identity, None)
    };
    let mut inheritance = begun.filter(|begun| same(begun)).unwrap_or_else(|| {
        Box::new(Inheritance {
            session: session_key,
            epoch: session.epoch,
            rules,
            open: Vec::new(),
            filters: HashMap::with_hasher(hasher.clone()),
            topics: HashMap::with_hasher(hasher),
            rounds,
        })
    });
    let more = !inheritance.open.is_empty() || {
        inheritance.rounds += 1;
        inheritance.look_for_more(session, deliveries)
    };
    let restless = inheritance.rounds > ROUNDS_MAX;
    admission.inheritance = Some(inheritance);
    match more {
        true if restless => Claim::Refused(ReasonCode::SERVER_BUSY),
        true => Claim::Authorizes,
        false => Claim::Free,
    }
}

/// A session changes hands: what its new principal may not have leaves it. Without an inheritance it may have everything.
pub(crate) fn hand_over(parts: &mut Parts, key: SessionKey, inheritance: Option<&Inheritance>) {
    parts.counters.session_owner_inherited += 1;
    let Some(session) = parts.sessions.get_mut(key) else { return };
    session.heir = None;
    // What was remembered was said about the old principal.
    session.deliveries = None;
    let Some(inheritance) = inheritance else { return };
    let may_stay = |filter: &str| inheritance.filters.get(filter) == Some(&true);
    let refused: Vec<Box<str>> =
        session.subscriptions.keys().filter(|filter| !may_stay(filter)).cloned().collect();
    for filter in &refused {
        parts.counters.subscriptions_revoked += 1;
        subscriptions::unsubscribe(parts, key, filter, "owner");
    }
    let deliveries = deliver_rights::authorizes_deliveries(parts);
    let mut kept = parts.router.filter_set();
    let Some(session) = parts.sessions.get_mut(key) else { return };
    let all = refused.is_empty();
    for filter in session.subscriptions.keys().filter(|_| !all) {
        if let Ok(parsed) = topic::parse_filter(filter) {
            kept.insert(parsed.filter);
        }
    }
    let mut stays = |delivery: &Delivery| {
        let topic = &*delivery.message.topic;
        (all || kept.matches(topic)) && (!deliveries || inheritance.topics.get(topic) == Some(&true))
    };
    let units = session.subscriptions.len() + session.queue.len() + session.inflight.len() + refused.len();
    let in_flight = session.inflight.withdraw(&mut stays);
    let waiting = session.withdraw_queued(&mut stays);
    wake::spend(parts, units as u64);
    // QoS 2 in flight never moves to another member (section 4.8.2).
    let (movable, fixed): (Vec<Delivery>, Vec<Delivery>) =
        in_flight.into_iter().partition(|delivery| delivery.qos == QoS::AtLeastOnce);
    for delivery in fixed {
        notify::count_drop(parts, DropReason::NotAuthorized, &delivery.message.view(), Some(key));
    }
    for delivery in movable.into_iter().chain(waiting) {
        match delivery.group {
            Some(group) => route::pick_again(parts, group, &delivery.message),
            None => notify::count_drop(parts, DropReason::NotAuthorized, &delivery.message.view(), Some(key)),
        }
    }
}
