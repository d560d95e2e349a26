//! The end of a connection for its session: the will and its delay, expiry, the slices in which a session is taken down, and
//! what of its messages moves to other members of a shared subscription.

use std::rc::Rc;

use smallvec::SmallVec;

use super::Shard;
use super::timers::Overdue;
use crate::hook::HookPoint;
use crate::hook::message::Draft;
use crate::id::{ConnKey, SessionKey};
use crate::packet::QoS;
use crate::reason::ReasonCode;
use crate::session::{
    Delivery, EndCause, Fate, Last, Phase, PublishSlot, Slot, SlotBody, Source, Stage, Will,
};
use crate::topic;

/// Subscriptions taken down in one slice of work.
const SLICE: usize = 512;

impl Shard {
    /// The connection of a session has ended. The will and the rest come after the publishes that still wait.
    pub(super) fn detach(&mut self, session_key: SessionKey, conn: ConnKey, cause: EndCause) {
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        session.conn = None;
        session.since_wall_ms = self.now.wall_ms;
        session.epoch = session.epoch.wrapping_add(1);
        let fetches = std::mem::take(&mut session.fetches);
        for fetch in &fetches {
            self.fetches.remove(&fetch.id);
        }
        let will = session.will.take();
        self.set_shared_connected(session_key, false);
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        if session.slots.is_empty() {
            self.connection_over(session_key, cause, will);
        } else {
            session.slots.push(Slot { conn: Some(conn), bytes: 0, body: SlotBody::End(cause, will) });
            let asking = matches!(
                session.slots.front_mut(),
                Some(Slot { body: SlotBody::Asking(_), conn: Some(asker), .. }) if *asker == conn
            );
            if asking || !fetches.is_empty() {
                // A SUBSCRIBE may have waited for their marks, and nothing else would look at it again; one that waits for a
                // plugin dies with its connection.
                self.pump_slots(session_key);
            }
        }
    }

    /// Everything a connection sent has taken effect: now its will and its session's expiry.
    pub(super) fn connection_over(
        &mut self,
        session_key: SessionKey,
        cause: EndCause,
        will: Option<Box<Will>>,
    ) {
        let now_ms = self.now.mono_ms;
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        let resumed = session.conn.is_some();
        let ends = session.fate == Fate::Ends || (!resumed && session.expiry_s == 0);
        if let Some(will) = will.filter(|_| cause.sends_will()) {
            // The will is due when its delay is over or the session ends, whichever is first [MQTT-3.1.3-9]; a client that
            // is back already has cancelled a delayed one.
            if will.delay_s == 0 || ends {
                self.publish_will(session_key, *will);
            } else if !resumed && let Some(session) = self.sessions.get_mut(session_key) {
                let due = now_ms + u64::from(will.delay_s) * 1000;
                session.delayed_will = Some(will);
                self.seconds.arm(due, Overdue::Will(session_key, session.epoch));
            }
        }
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        if resumed {
            return;
        }
        if ends {
            self.retire(session_key, Last::Closed(cause.reason()));
        } else if session.expiry_s != u32::MAX {
            let due = now_ms + u64::from(session.expiry_s) * 1000;
            self.seconds.arm(due, Overdue::Expiry(session_key, session.epoch));
        }
    }

    /// The delay of a will is over.
    pub(super) fn will_due(&mut self, session_key: SessionKey, epoch: u32) {
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        if session.epoch == epoch
            && let Some(will) = session.delayed_will.take()
        {
            self.publish_will(session_key, *will);
        }
    }

    /// A session has been without a connection for its expiry interval [MQTT-3.1.2-23].
    pub(super) fn expiry_due(&mut self, session_key: SessionKey, epoch: u32) {
        if self.sessions.get(session_key).is_some_and(|session| session.epoch == epoch) {
            self.counters.session_expired += 1;
            self.retire(session_key, Last::Expired);
        }
    }

    /// A will goes the way of a publish, behind what the session still has waiting.
    fn publish_will(&mut self, session_key: SessionKey, will: Will) {
        let now = self.now;
        let id = self.next_message_id();
        let Some(session) = self.sessions.get(session_key) else { return };
        let identity = Rc::clone(&session.identity);
        // What was allowed at CONNECT is asked again if the rules have moved since.
        let ask = (will.epoch != self.authz_epoch).then(|| Box::new((self.new_ask(&identity), false)));
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        self.counters.messages_wills += 1;
        let mut message = will.message;
        message.id = id;
        message.wall_ms = now.wall_ms;
        message.expires_at_ms = will.expiry_s.map(|s| now.mono_ms + u64::from(s) * 1000);
        let publish = PublishSlot {
            packet_qos: message.qos,
            message,
            packet_id: None,
            dup: false,
            source: Source::Will,
            stage: if ask.is_some() { Stage::Queueing } else { Stage::Unstarted },
            visited: SmallVec::new(),
            ask,
            draft: Draft::default(),
            refusal: None,
        };
        let bytes = publish.message.bytes();
        session.slots.push(Slot { conn: None, bytes, body: SlotBody::Publish(Box::new(publish)) });
        self.pump_slots(session_key);
    }

    /// Ends a session: its client identifier is free at once; it is taken down in slices once its slots have drained.
    pub(super) fn retire(&mut self, session_key: SessionKey, last: Last) {
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        if !session.orphan {
            session.orphan = true;
            let client_id = Rc::clone(&session.identity);
            if self.by_client.get(&*client_id.client_id) == Some(&session_key) {
                self.by_client.remove(&*client_id.client_id);
            }
            self.counters.session_terminated += 1;
            let last = session.last.unwrap_or(last);
            if last != Last::Discarded {
                let end = Some((last.word(), last.reason()));
                self.tell_session(HookPoint::SessionTerminated, session_key, end);
            }
        }
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        session.fate = Fate::Ends;
        // A session that ends does not wait for the delay [MQTT-3.1.3-9].
        if let Some(will) = session.delayed_will.take() {
            self.publish_will(session_key, *will);
        }
        self.queue_takedown(session_key);
    }

    /// A session that ends and has nothing waiting any more is taken down from the next turn on.
    pub(super) fn queue_takedown(&mut self, session_key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(session_key)
            && session.fate == Fate::Ends
            && session.slots.is_empty()
            && !session.takedown
        {
            session.takedown = true;
            self.ending.push_back(session_key);
        }
    }

    /// Takes a slice of the sessions that end down.
    pub(super) fn end_sessions(&mut self) {
        let mut left = SLICE;
        while left > 0 {
            let Some(key) = self.ending.pop_front() else { break };
            if !self.end_session(key, &mut left) {
                self.ending.push_front(key);
            }
        }
    }

    /// Whether it is gone.
    fn end_session(&mut self, key: SessionKey, left: &mut usize) -> bool {
        self.give_away_shared(key);
        while let Some(session) = self.sessions.get_mut(key) {
            let Some(filter) = session.subscriptions.keys().next().cloned() else { break };
            if *left == 0 {
                return false;
            }
            *left -= 1;
            session.subscriptions.remove(&filter);
            self.unroute(key, &filter);
        }
        let Some(session) = self.sessions.get_mut(key) else { return true };
        for fetch in std::mem::take(&mut session.fetches) {
            self.fetches.remove(&fetch.id);
        }
        self.sessions.remove(key);
        *left = left.saturating_sub(1);
        true
    }

    /// Takes a filter out of the routes.
    pub(super) fn unroute(&mut self, key: SessionKey, filter: &str) {
        if let Ok(parsed) = topic::parse_filter(filter) {
            match parsed.share {
                Some(group) => self.routes.unsubscribe_shared(group, parsed.filter, key),
                None => self.routes.unsubscribe(parsed.filter, key),
            };
        }
    }

    /// What was drawn for this session of shared subscriptions goes to other members: everything that waits, and QoS 1 in
    /// flight; QoS 2 in flight never moves (section 4.8.2).
    fn give_away_shared(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.inflight.is_empty() && session.queue.is_empty() {
            return;
        }
        let in_flight: Vec<Delivery> = session
            .inflight
            .drain()
            .filter_map(|outgoing| match outgoing.phase {
                Phase::Published(delivery) if delivery.qos == QoS::AtLeastOnce => Some(delivery),
                _ => None,
            })
            .collect();
        session.queue_bytes = 0;
        let waiting = std::mem::take(&mut session.queue);
        for delivery in in_flight.into_iter().chain(waiting) {
            if let Some(group) = delivery.group {
                // The leaving member's fate keeps it from drawing it again.
                self.redraw(group, &delivery.message);
            }
        }
    }

    /// Tells the shared subscriptions of a session that its client is here or gone.
    pub(super) fn set_shared_connected(&mut self, key: SessionKey, connected: bool) {
        let Some(session) = self.sessions.get(key) else { return };
        for filter in session.subscriptions.keys().filter(|filter| filter.starts_with(topic::SHARE_PREFIX)) {
            if let Ok(topic::ParsedFilter { share: Some(group), filter }) = topic::parse_filter(filter) {
                self.routes.set_connected(group, filter, key, connected);
            }
        }
    }

    /// Disconnects a client with a reason (MQTT 5: DISCONNECT; 3.x: the socket closes). The session stays if it is persistent,
    /// unless `discard`. False if it is not here.
    pub fn kick(&mut self, client_id: &str, reason: ReasonCode, discard: bool) -> bool {
        let Some(&session_key) = self.by_client.get(client_id) else { return false };
        let Some(session) = self.sessions.get_mut(session_key) else { return false };
        let conn = session.conn;
        if discard {
            session.expiry_s = 0;
            session.last = Some(Last::Kicked);
        }
        match conn {
            Some(conn) => self.end_connection(conn, EndCause::ByBroker(reason), Some((reason, None))),
            None if discard => {
                self.counters.session_discarded += 1;
                self.retire(session_key, Last::Kicked);
            }
            None => return false,
        }
        true
    }

    /// Disconnects everybody with 0x8B and takes no new connection; the shell goes on until `drained`.
    pub fn drain(&mut self) {
        self.draining = true;
        let keys: Vec<ConnKey> = self.conns.iter().map(|(key, _)| key).collect();
        let reason = ReasonCode::SERVER_SHUTTING_DOWN;
        for key in keys {
            self.end_connection(key, EndCause::ByBroker(reason), Some((reason, None)));
        }
    }

    /// Whether no connection is left.
    pub fn drained(&self) -> bool {
        self.draining && self.conns.is_empty()
    }
}
