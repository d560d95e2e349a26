//! SUBSCRIBE and UNSUBSCRIBE (MQTT 5.0 sections 3.8 to 3.11): hooks, authorisation, the trie, the barrier that makes SUBACK a
//! promise, the marks that tell retained messages from live ones, and then the retained messages.

use std::num::NonZeroU16;

use smallvec::SmallVec;

use super::Shard;
use super::timers::Deadline;
use crate::hook::subscribe::Requested;
use crate::id::{ConnKey, SessionKey};
use crate::packet::{
    Packet, Properties, QoS, RetainHandling, SubAck, Subscribe, SubscriptionOptions, UnsubAck, Unsubscribe,
};
use crate::reason::ReasonCode;
use crate::route::SubOptions;
use crate::session::slots::Granted;
use crate::session::{Slot, SlotBody, Subscription};
use crate::topic;

impl Shard {
    pub(super) fn on_subscribe(&mut self, key: ConnKey, subscribe: &Subscribe<'_>, whole: &[u8]) {
        let Some(session_key) = self.session_of(key) else { return };
        let Some(session) = self.sessions.get(session_key) else { return };
        let number = session.slots.next_number();
        let slot = self.ask_subscribe(key, session_key, number, subscribe, whole);
        self.push_waiting(session_key, slot);
    }

    fn push_waiting(&mut self, session_key: SessionKey, slot: Option<Slot>) {
        let (Some(slot), Some(session)) = (slot, self.sessions.get_mut(session_key)) else { return };
        let barrier = matches!(slot.body, SlotBody::Subscribe { .. });
        session.slots.push(slot);
        if barrier {
            self.wait_for_barrier(session_key);
        }
    }

    /// Has the session looked at when the other shards have caught up.
    pub(super) fn wait_for_barrier(&mut self, session_key: SessionKey) {
        if !self.barrier_waiters.contains(&session_key) {
            self.barrier_waiters.push(session_key);
        }
    }

    /// Does what a SUBSCRIBE asks, as far as it may; the slot it waits in, if other shards must hear of it first.
    pub(super) fn begin_subscribe(
        &mut self,
        key: ConnKey,
        session_key: SessionKey,
        subscribe: &Subscribe<'_>,
        requested: &[Requested],
        permits: &[Result<(), ReasonCode>],
    ) -> Option<Slot> {
        let id = subscribe.properties.subscription_id().unwrap_or(0);
        let mut codes = Vec::with_capacity(requested.len());
        let mut granted = Vec::new();
        for (place, (request, permit)) in requested.iter().zip(permits).enumerate() {
            let granting = permit.and_then(|()| self.filter_of(request));
            if permit.is_err() && request.refused.is_none() {
                self.counters.packets_subscribe_auth_error += 1;
            }
            match granting.and_then(|parsed| self.put_subscription(session_key, parsed, request, id)) {
                Ok(mut grant) => {
                    grant.place = place;
                    codes.push(grant.options.qos.as_u8());
                    granted.push(grant);
                }
                // A plugin may have named any [MQTT-3.9.3-2].
                Err(reason) => codes.push(reason.fitted(ReasonCode::refuses_subscription).0),
            }
        }
        let barrier = self.routes.barrier();
        let mut fetches = SmallVec::new();
        let known = granted.iter().all(|grant| grant.barrier_seq <= barrier);
        if known {
            fetches = self.mark_all(session_key, &granted);
            if self.marks_are_set(session_key, &fetches) {
                let answer = (subscribe.packet_id, &codes[..]);
                self.finish_subscribe(Some(key), session_key, answer, &granted, &fetches);
                return None;
            }
        }
        let deadline_ms = self.now.mono_ms + self.limits().subscribe_barrier_ms;
        self.deadlines.arm(deadline_ms, Deadline::Barrier(session_key));
        let body = SlotBody::Subscribe {
            packet_id: subscribe.packet_id,
            codes,
            granted,
            known,
            fetches,
            deadline_ms,
        };
        Some(Slot { conn: Some(key), bytes: 0, body })
    }

    /// Asks for marks in the retained messages that are to follow. Only who is connected gets them.
    fn mark_all(&mut self, session_key: SessionKey, granted: &[Granted]) -> SmallVec<[u64; 1]> {
        if !session_is_connected(self, session_key) {
            return SmallVec::new();
        }
        let wanted = granted.iter().filter(|grant| grant.retained);
        wanted.filter_map(|grant| self.mark_retained(session_key, grant)).collect()
    }

    fn marks_are_set(&self, session_key: SessionKey, fetches: &[u64]) -> bool {
        let Some(session) = self.sessions.get(session_key) else { return true };
        session.fetches.iter().all(|fetch| !fetches.contains(&fetch.id) || fetch.unmarked.is_empty())
    }

    /// Puts a subscription that is allowed into the session and the routes.
    fn put_subscription(
        &mut self,
        session_key: SessionKey,
        parsed: topic::ParsedFilter<'_>,
        request: &Requested,
        id: u32,
    ) -> Result<Granted, ReasonCode> {
        let filter = request.filter_text();
        let subscriptions_max = self.limits().subscriptions_max as usize;
        let session = self.sessions.get_mut(session_key).ok_or(ReasonCode::UNSPECIFIED_ERROR)?;
        let known = session.subscriptions.contains_key(filter);
        if !known && (session.subscriptions.len() >= subscriptions_max || self.routes.is_full()) {
            return Err(ReasonCode::QUOTA_EXCEEDED);
        }
        let options = request.options;
        session.subscriptions.insert(filter.into(), Subscription { options, id });
        let routed = sub_options(options, id);
        let subscribed = match parsed.share {
            Some(group) => self.routes.subscribe_shared(group, parsed.filter, session_key, routed, true),
            None => self.routes.subscribe(parsed.filter, session_key, routed),
        };
        // [MQTT-3.3.1-9] to [MQTT-3.3.1-11]; a shared subscription gets none (section 4.8.2).
        let retained = parsed.share.is_none()
            && match options.retain_handling {
                RetainHandling::Send => true,
                RetainHandling::SendIfNew => !known,
                RetainHandling::DoNotSend => false,
            };
        Ok(Granted {
            place: 0,
            filter: filter.into(),
            barrier_seq: subscribed.barrier_seq,
            is_new: !known,
            retained,
            options,
            id,
        })
    }

    /// Subscribes a client without asking anybody; if it is here and that can be. Retained messages follow.
    pub(super) fn subscribe_for(
        &mut self,
        client_id: &str,
        filter: &str,
        options: SubscriptionOptions,
        id: u32,
    ) {
        let Some(&session_key) = self.by_client.get(client_id) else { return };
        let Ok(parsed) = topic::parse_filter(filter) else { return };
        let request = Requested::new(filter, options);
        let Ok(granted) = self.put_subscription(session_key, parsed, &request, id) else { return };
        let granted = [granted];
        let fetches = self.mark_all(session_key, &granted);
        self.tell_subscribed(session_key, &granted);
        self.begin_fetches(session_key, &fetches);
    }

    /// Takes a subscription from a client, if it is here and has it.
    pub(super) fn unsubscribe_for(&mut self, client_id: &str, filter: &str) {
        if let Some(&session_key) = self.by_client.get(client_id) {
            self.unsubscribe(session_key, filter, "plugin");
        }
    }

    /// Every shard knows, or the time is up: SUBACK, then retained messages.
    fn finish_subscribe(
        &mut self,
        conn: Option<ConnKey>,
        session_key: SessionKey,
        (packet_id, codes): (NonZeroU16, &[u8]),
        granted: &[Granted],
        fetches: &[u64],
    ) {
        let Some(session) = self.sessions.get(session_key) else { return };
        // A SUBACK dies with its connection.
        if let Some(conn) = conn
            && session.conn == Some(conn)
        {
            self.send(conn, &Packet::SubAck(SubAck { packet_id, properties: Properties::default(), codes }));
        }
        self.tell_subscribed(session_key, granted);
        self.begin_fetches(session_key, fetches);
    }

    /// A SUBSCRIBE in front of its session's slots: whether it is done.
    pub(super) fn pump_subscribe(&mut self, session_key: SessionKey) -> bool {
        let barrier = self.routes.barrier();
        let now_ms = self.now.mono_ms;
        let Some(session) = self.sessions.get_mut(session_key) else { return false };
        let Some(Slot { body: SlotBody::Subscribe { granted, known, deadline_ms, .. }, .. }) =
            session.slots.front_mut()
        else {
            return false;
        };
        let time_is_up = now_ms >= *deadline_ms;
        if !*known {
            if !time_is_up && granted.iter().any(|grant| grant.barrier_seq > barrier) {
                return false;
            }
            *known = true;
            let mut granted = std::mem::take(granted);
            // Some shard has not answered: what it does not know is no promise.
            let unknown: Vec<Granted> = granted.extract_if(.., |grant| grant.barrier_seq > barrier).collect();
            for grant in &unknown {
                self.counters.subscribe_barrier_timeouts += 1;
                self.withdraw(session_key, grant);
            }
            let marked = self.mark_all(session_key, &granted);
            self.note_known(session_key, granted, &unknown, marked);
        }
        let Some(session) = self.sessions.get_mut(session_key) else { return false };
        let Some(Slot { body: SlotBody::Subscribe { fetches, .. }, .. }) = session.slots.front_mut() else {
            return false;
        };
        let fetches = fetches.clone();
        // An owner that does not answer in time costs its retained messages, not the subscription.
        if !self.marks_are_set(session_key, &fetches) && !time_is_up {
            return false;
        }
        let Some(session) = self.sessions.get_mut(session_key) else { return false };
        if let Some(Slot { conn, body: SlotBody::Subscribe { packet_id, codes, granted, .. }, .. }) =
            session.slots.pop()
        {
            self.finish_subscribe(conn, session_key, (packet_id, &codes), &granted, &fetches);
        }
        true
    }

    /// Takes back a subscription that could not be made known in time.
    fn withdraw(&mut self, session_key: SessionKey, grant: &Granted) {
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        let gone = session.subscriptions.remove(&grant.filter);
        self.unroute(session_key, &grant.filter);
        // One that is new has never been told of.
        if let Some(gone) = gone.filter(|_| !grant.is_new) {
            self.tell_unsubscribed(session_key, &grant.filter, gone, "barrier");
        }
    }

    /// Notes in the SUBSCRIBE in front what every shard knows, what one does not, and the fetches that follow.
    fn note_known(
        &mut self,
        session_key: SessionKey,
        known: Vec<Granted>,
        unknown: &[Granted],
        marked: SmallVec<[u64; 1]>,
    ) {
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        if let Some(Slot { body: SlotBody::Subscribe { codes, granted, fetches, .. }, .. }) =
            session.slots.front_mut()
        {
            unknown.iter().for_each(|grant| codes[grant.place] = ReasonCode::UNSPECIFIED_ERROR.0);
            *granted = known;
            fetches.extend(marked);
        }
    }

    pub(super) fn on_unsubscribe(&mut self, key: ConnKey, unsubscribe: &Unsubscribe<'_>, whole: &[u8]) {
        let Some(session_key) = self.session_of(key) else { return };
        let Some(session) = self.sessions.get(session_key) else { return };
        let number = session.slots.next_number();
        let slot = self.ask_unsubscribe(key, session_key, number, unsubscribe, whole);
        self.push_waiting(session_key, slot);
    }

    /// Ends the subscriptions that the chain leaves, and answers.
    pub(super) fn take_unsubscribe(
        &mut self,
        key: ConnKey,
        session_key: SessionKey,
        packet_id: NonZeroU16,
        requested: &[Requested],
    ) {
        let mut codes = Vec::with_capacity(requested.len());
        for request in requested {
            let code = match request.refused {
                Some(reason) => reason,
                None => self.unsubscribe(session_key, request.filter_text(), "unsubscribe"),
            };
            codes.push(code.0);
        }
        // Waits for nobody: too much interest costs an envelope, never a wrong delivery.
        let unsuback = UnsubAck { packet_id, properties: Properties::default(), codes: &codes };
        self.send(key, &Packet::UnsubAck(unsuback));
    }

    /// Takes a subscription from a session and tells of it; `cause` is one word for who wanted it or why. The code for UNSUBACK
    /// [MQTT-3.11.3-2].
    pub(super) fn unsubscribe(
        &mut self,
        session_key: SessionKey,
        filter: &str,
        cause: &'static str,
    ) -> ReasonCode {
        let session = self.sessions.get_mut(session_key);
        let Some(gone) = session.and_then(|session| session.subscriptions.remove(filter)) else {
            return ReasonCode::NO_SUBSCRIPTION_EXISTED;
        };
        self.unroute(session_key, filter);
        self.tell_unsubscribed(session_key, filter, gone, cause);
        ReasonCode::SUCCESS
    }
}

fn session_is_connected(shard: &Shard, session_key: SessionKey) -> bool {
    shard.sessions.get(session_key).is_some_and(|session| session.conn.is_some())
}

fn sub_options(options: SubscriptionOptions, id: u32) -> SubOptions {
    SubOptions {
        qos: options.qos.as_u8(),
        no_local: options.no_local,
        retain_as_published: options.retain_as_published,
        subscription_id: id,
    }
}

/// The lower of two QoS (section 3.8.4).
pub(super) fn lower(a: QoS, b: u8) -> QoS {
    QoS::from_u8(a.as_u8().min(b)).unwrap_or(QoS::AtMostOnce)
}
