//! A CONNECT for the session of another principal, and the effect of `session_owner`. With
//! `inherit` the new principal gets the session once client.authorize has allowed all subscriptions
//! and, where plugins authorize deliveries, all messages that wait or are in flight. Called by a
//! CONNECT that has passed everything else. The session does not change before all requests have a
//! verdict.

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
use crate::session::{Delivery, EndCause, Identity, Session};
use crate::topic;

/// Requests that one turn authorizes.
pub(crate) const SLICE: usize = 32;
/// Times that a session may change while it is authorized. After that the client is refused and
/// must retry.
const ROUNDS_MAX: u32 = 8;

/// Result for a CONNECT, from the session under its client identifier.
pub(crate) enum Claim {
    /// Admit it: there is no session, or the session is its own or may be taken over.
    Free,
    /// Admit it and end the session of another principal.
    Discards,
    /// It is refused for this reason.
    Refused(ReasonCode),
    /// Authorize the next request of its [`Inheritance`].
    Authorizes,
    /// Wait: packets or deliveries of the session still wait for plugins on behalf of the old
    /// principal.
    Waits,
}

impl Inheritance {
    /// The next request, as the new principal would make it.
    pub(crate) fn request(&self, principal: &Identity) -> Option<Request<'_>> {
        let request = match self.open.last()? {
            Item::Filter(filter, qos) => {
                // The subject is the filter itself, as for SUBSCRIBE.
                let topic = topic::parse_filter(filter).map_or("", |parsed| parsed.filter);
                Request { action: Action::Subscribe, topic, qos: *qos, retain: false }
            }
            Item::Topic(topic, qos, retain) => {
                Request { action: Action::Deliver, topic, qos: *qos, retain: *retain }
            }
        };
        Some(authorize::seen(request, principal))
    }

    /// Notes the verdict on that request.
    ///
    /// # Errors
    /// 0x88 if a link has failed. Its verdict is unknown, so the session does not change.
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

    /// Adds what has not been authorized yet to the open requests. Returns whether a request is
    /// open.
    fn look_for_more(&mut self, session: &Session, deliveries: bool, principal: &Identity) -> bool {
        // What is not below its mount point is not for it, whatever the rules say of such names.
        let is_outside = |topic: &str| principal.mount.as_ref().is_some_and(|mount| !mount.has(topic));
        for (filter, sub) in session.subscriptions.iter() {
            if self.filters.contains_key(filter) {
                continue;
            }
            match topic::parse_filter(filter) {
                Ok(parsed) if !is_outside(parsed.filter) => {
                    self.open.push(Item::Filter(filter.clone(), sub.options.qos));
                }
                _ => _ = self.filters.insert(filter.clone(), false),
            }
        }
        if deliveries {
            let mut listed = HashSet::with_hasher(self.topics.hasher().clone());
            for delivery in session.queue.iter().chain(session.inflight.published()) {
                let topic = &*delivery.message.topic;
                if is_outside(topic) {
                    self.topics.insert(topic.into(), false);
                } else if !self.topics.contains_key(topic) && listed.insert(topic) {
                    self.open.push(Item::Topic(topic.into(), delivery.qos, delivery.retain));
                }
            }
        }
        !self.open.is_empty()
    }
}

/// Decides whether a CONNECT that has passed everything else may have the session under its client
/// identifier. Before a takeover it ends the session's connection, so that the session does not
/// change meanwhile.
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
        // The session ends anyway: by a clean start, or with its connection.
        _ if connect.clean_start || !session.is_persistent() => Claim::Free,
        SessionOwner::Discard => Claim::Discards,
        SessionOwner::Inherit if identity.superuser => detach_for(parts, key, session_key),
        SessionOwner::Inherit => inherit(parts, key, session_key, admission),
    }
}

/// Ends the connection of a session before a takeover. Returns whether packets of the session wait.
fn detach_for(parts: &mut Parts, key: ConnKey, session_key: SessionKey) -> Claim {
    if let Some(old) = parts.sessions.get(session_key).and_then(|session| session.conn) {
        takeover::take_over(parts, session_key, old);
    }
    let Some(session) = parts.sessions.get_mut(session_key) else { return Claim::Free };
    let before =
        session.set_rare().pending_takeover.replace(key).filter(|pending_takeover| *pending_takeover != key);
    let waits = session.is_busy();
    // Only one connection waits for a session: the latest.
    if let Some(pending_takeover) = before {
        ending::end_connection(
            parts,
            pending_takeover,
            EndCause::ByBroker(ReasonCode::SESSION_TAKEN_OVER),
            None,
        );
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
        inheritance.look_for_more(session, deliveries, &admission.identity)
    };
    let restless = inheritance.rounds > ROUNDS_MAX;
    admission.inheritance = Some(inheritance);
    match more {
        true if restless => Claim::Refused(ReasonCode::SERVER_BUSY),
        true => Claim::Authorizes,
        false => Claim::Free,
    }
}

/// Gives a session to its new principal and removes what the principal may not have. Without an
/// inheritance it keeps everything.
pub(crate) fn hand_over(parts: &mut Parts, key: SessionKey, inheritance: Option<&Inheritance>) {
    parts.counters.session_owner_inherited += 1;
    let Some(session) = parts.sessions.get_mut(key) else { return };
    let _ = session.take_rare(|rare| rare.pending_takeover.take());
    // Cached verdicts are about the old principal.
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
