//! The slots of a session at work: whatever can move moves, in order of arrival. Called whenever something that a slot waits
//! for has come: a verdict, the owner of a retained topic, room in a lane, the barrier of a SUBACK, or the end of those in front.

use std::rc::Rc;

use grapnel_plugin_abi::raw::Flow;
use smallvec::SmallVec;

use super::admission::Answer;
use super::asking::Asked;
use super::publish::{Decision, Place, Verdict};
use super::route::Effect;
use super::{OwnedChange, Shard};
use crate::codec;
use crate::hook::client::ClientView;
use crate::hook::message::{Disposition, Draft, MessageFold, Rules};
use crate::hook::tickets::{Before, OpenTicket};
use crate::hook::{FaultPolicy, HookPoint};
use crate::id::SessionKey;
use crate::message::MessageView;
use crate::packet::Packet;
use crate::reason::ReasonCode;
use crate::session::{EndCause, Held, Slot, SlotBody, Source, Stage};

impl Shard {
    /// Moves on whatever of a session's slots can move.
    pub(super) fn pump_slots(&mut self, session_key: SessionKey) {
        while self.pump_front(session_key) {}
        self.unblock(session_key);
        self.resume_if_room(session_key);
        self.queue_takedown(session_key);
    }

    /// Deals with the packet in front; whether there may be more to do.
    fn pump_front(&mut self, session_key: SessionKey) -> bool {
        let Some(session) = self.sessions.get_mut(session_key) else { return false };
        let Some(front) = session.slots.front_mut() else { return false };
        match &front.body {
            SlotBody::Publish(publish) => match publish.stage {
                Stage::Authorizing(_) | Stage::Deferred(_) | Stage::Storing(_) => false,
                Stage::Unstarted | Stage::Queueing | Stage::Blocked => {
                    self.advance_publish(session_key, None)
                }
                Stage::Decided | Stage::Stored => self.finish_front(session_key),
            },
            SlotBody::Subscribe { .. } => self.pump_subscribe(session_key),
            SlotBody::Asking(_) => self.pump_asking(session_key),
            SlotBody::Packet(_) => self.pump_packet(session_key),
            SlotBody::End(..) => {
                if let Some(Slot { body: SlotBody::End(cause, will), .. }) = session.slots.pop() {
                    self.connection_over(session_key, cause, will);
                }
                true
            }
        }
    }

    /// A parked packet whose turn has come.
    fn pump_packet(&mut self, session_key: SessionKey) -> bool {
        let Some(session) = self.sessions.get_mut(session_key) else { return false };
        let version = session.identity.version;
        let expiry_max_s = self.setup.limits.session_expiry_max_s;
        let Some(Slot { conn: Some(conn), body: SlotBody::Packet(bytes), .. }) = session.slots.pop() else {
            return true;
        };
        let Ok(Some(frame)) = codec::frame(&bytes, u32::MAX) else { return true };
        let Ok(packet) = codec::decode(&frame, version) else { return true };
        let alive = session.conn == Some(conn);
        match &packet {
            Packet::Disconnect(disconnect) if !alive => {
                let with_will = disconnect.reason == ReasonCode::DISCONNECT_WITH_WILL;
                let is_last = session.conn.is_none() && session.slots.last_end() == Some(conn);
                session.slots.mark_end(conn, EndCause::ByClient(with_will));
                // What was 0 at CONNECT stays 0 [MQTT-3.14.2-2]; the client is past hearing that it was wrong. A connection since has
                // said something else.
                if let Some(expiry_s) = disconnect.properties.session_expiry_s()
                    && is_last
                    && session.identity.expiry_s != 0
                {
                    session.expiry_s = super::connect::granted_expiry(expiry_s, expiry_max_s);
                }
            }
            Packet::Subscribe(subscribe) if alive => {
                // The slot it waits in takes the place that this one had.
                let number = session.slots.front_number() - 1;
                let slot = self.ask_subscribe(conn, session_key, number, subscribe, &bytes);
                return !self.put_back(session_key, slot);
            }
            Packet::Unsubscribe(unsubscribe) if alive => {
                let number = session.slots.front_number() - 1;
                let slot = self.ask_unsubscribe(conn, session_key, number, unsubscribe, &bytes);
                return !self.put_back(session_key, slot);
            }
            packet if alive => {
                if let Err(error) = self.handle_in_turn(conn, packet, &bytes) {
                    self.broken_rule(conn, error);
                }
            }
            // SUBSCRIBE and UNSUBSCRIBE die with their connection.
            _ => {}
        }
        true
    }

    /// Puts the slot that a packet waits in into the place of the packet; whether there is one.
    pub(super) fn put_back(&mut self, session_key: SessionKey, slot: Option<Slot>) -> bool {
        let (Some(slot), Some(session)) = (slot, self.sessions.get_mut(session_key)) else { return false };
        let barrier = matches!(slot.body, SlotBody::Subscribe { .. });
        session.slots.push_front(slot);
        if barrier {
            self.wait_for_barrier(session_key);
        }
        true
    }

    /// Lets the publishes behind a waiting one go as far as it has come.
    fn unblock(&mut self, session_key: SessionKey) {
        let Some(session) = self.sessions.get(session_key) else { return };
        let first = session.slots.front_number();
        let blocked: SmallVec<[u64; 8]> = (first..session.slots.next_number())
            .zip(session.slots.iter())
            .filter(|(_, slot)| matches!(&slot.body, SlotBody::Publish(p) if matches!(p.stage, Stage::Blocked | Stage::Queueing)))
            .map(|(number, _)| number)
            .collect();
        for number in blocked {
            self.advance_publish(session_key, Some(number));
        }
    }

    /// Goes on with a publish that has not been through the chain: the one in front (`None`) or a blocked one.
    fn advance_publish(&mut self, session_key: SessionKey, number: Option<u64>) -> bool {
        let Some(session) = self.sessions.get_mut(session_key) else { return false };
        let identity = Rc::clone(&session.identity);
        let number = number.unwrap_or(session.slots.front_number());
        let behind = session.slots.in_front(number);
        let Some(publish) = session.slots.publish_mut(number) else { return false };
        let (stage, source) = (publish.stage, publish.source);
        let head = publish.head();
        let visited = publish.visited.clone();
        let draft = std::mem::take(&mut publish.draft);
        let ask = publish.ask.take();
        // The message leaves its slot while hooks look at it, so that nothing of the session is borrowed.
        let message = publish.message.clone();
        let view = message.view();
        let at = Place { session: session_key, number, source, head };
        let decision = match (stage, ask) {
            (Stage::Queueing, Some(ask)) => {
                let (ask, through) = *ask;
                self.authorize_on(&identity, view, at, (ask, through), (visited, draft), &behind)
            }
            // A will was authorised at CONNECT, and nobody authorises a plugin.
            (Stage::Unstarted, _) if source == Source::Client => self.decide(&identity, view, at, &behind),
            _ => self.walk(&identity, view, at, draft, (&visited, behind.publish.as_deref())),
        };
        self.settle_publish(session_key, number, decision);
        true
    }

    fn settle_publish(&mut self, session_key: SessionKey, number: u64, decision: Decision) {
        let now_ms = self.now.mono_ms;
        let Some(publish) = self.sessions.get_mut(session_key).and_then(|s| s.slots.publish_mut(number))
        else {
            return;
        };
        match decision {
            Decision::Waits(stage, visited, draft) => {
                publish.stage = stage;
                publish.visited = visited;
                publish.draft = draft;
            }
            Decision::Asks(stage, ask, visited, draft) => {
                publish.stage = stage;
                publish.ask = Some(ask);
                publish.visited = visited;
                publish.draft = draft;
            }
            Decision::Pass(mut draft) => {
                draft.apply(&mut publish.message, now_ms);
                publish.stage = Stage::Decided;
                publish.draft = Draft { extra: draft.extra, ..Draft::default() };
            }
            Decision::Refused(verdict) => {
                publish.stage = Stage::Decided;
                publish.draft = Draft {
                    disposition: if verdict.disconnect {
                        Disposition::Disconnect
                    } else {
                        Disposition::Reject
                    },
                    reason_string: verdict.text,
                    ..Draft::default()
                };
                publish.refusal = Some(verdict.code);
            }
        }
    }

    /// The publish in front has been decided: its effect, or its refusal; whether it has left.
    fn finish_front(&mut self, session_key: SessionKey) -> bool {
        let Some(session) = self.sessions.get_mut(session_key) else { return false };
        let number = session.slots.front_number();
        let Some(publish) = session.slots.publish_mut(number) else { return false };
        let head = publish.head();
        let stored = publish.stage == Stage::Stored;
        if let Some(code) = publish.refusal {
            let disconnect = publish.draft.disposition == Disposition::Disconnect;
            let verdict = Verdict { code, text: publish.draft.reason_string.take(), disconnect };
            session.slots.pop();
            self.conclude(session_key, head, &verdict);
            return true;
        }
        let message = publish.message.clone();
        let mut held = Some(Held::new(std::sync::Arc::new(message)));
        let whole = held.as_ref().map(Rc::clone).expect("it was made one line above");
        match self.effect(session_key, number, &whole.view(), &mut held, stored) {
            effect @ (Effect::Done(code) | Effect::Refused(code)) => {
                let session = self.sessions.get_mut(session_key);
                if let Some(Slot { body: SlotBody::Publish(mut publish), .. }) =
                    session.and_then(|session| session.slots.pop())
                    && matches!(effect, Effect::Done(_))
                {
                    self.publish_extra(publish.draft.extra.take());
                }
                self.conclude(session_key, head, &Verdict::code(code));
                true
            }
            Effect::Waits(stage) => {
                if let Some(publish) =
                    self.sessions.get_mut(session_key).and_then(|s| s.slots.publish_mut(number))
                {
                    publish.stage = stage;
                }
                false
            }
        }
    }

    /// The owner of a retained topic has answered.
    pub(super) fn stored(&mut self, id: u64, full: bool) {
        let Some((session_key, number)) = self.stores.remove(&id) else { return };
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        if let Some(publish) = session.slots.publish_mut(number)
            && publish.stage == Stage::Storing(id)
        {
            publish.stage = Stage::Stored;
            if full {
                publish.refusal = Some(ReasonCode::QUOTA_EXCEEDED);
            }
        }
        self.pump_slots(session_key);
    }

    /// A deferred message.publish has been answered, or missed its deadline (`None`).
    pub(super) fn publish_again(
        &mut self,
        session_key: SessionKey,
        number: u64,
        ticket: &OpenTicket,
        answer: Option<(Flow, &[OwnedChange])>,
    ) {
        let setup_limits = std::sync::Arc::clone(&self.setup.limits);
        let rules = Rules { limits: &setup_limits, now: self.now };
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        let identity = Rc::clone(&session.identity);
        let Some(publish) = session.slots.publish_mut(number) else { return };
        let message = publish.message.clone();
        let mut draft = std::mem::take(&mut publish.draft);
        let client = identity.view();
        let (flow, faulted) = match answer {
            Some((flow @ (Flow::CONTINUE | Flow::STOP), changes)) => {
                match changed(&draft, client, message.view(), rules, changes) {
                    Some(changed) => {
                        draft = changed;
                        (flow, false)
                    }
                    None => (Flow::CONTINUE, true),
                }
            }
            _ => (Flow::CONTINUE, true),
        };
        if let (true, Some(Before::Message(before))) = (faulted, ticket.before.as_deref()) {
            draft.clone_from(before);
        }
        let deny = faulted && ticket.policy == FaultPolicy::Deny;
        if deny {
            draft = Draft::denied();
        }
        publish.stage = Stage::Blocked;
        let head = publish.head();
        let (visited, source) = (publish.visited.clone(), publish.source);
        let behind = session.slots.in_front(number);
        if faulted {
            self.count_fault(ticket, HookPoint::MessagePublish);
        }
        let stop = self.ends_chain(ticket, HookPoint::MessagePublish, flow) || deny;
        let view = message.view();
        let at = Place { session: session_key, number, source, head };
        let decision = match stop {
            true => self.judge(&identity, view, at, draft, &visited),
            false => self.walk(&identity, view, at, draft, (&visited, behind.publish.as_deref())),
        };
        self.settle_publish(session_key, number, decision);
        self.pump_slots(session_key);
    }
}

impl Shard {
    /// A deferred client.authorize for a publish has been answered, or has missed its deadline (`None`).
    pub(super) fn publish_authorized(
        &mut self,
        session_key: SessionKey,
        number: u64,
        ticket: &OpenTicket,
        answer: Answer<'_>,
    ) {
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        let identity = Rc::clone(&session.identity);
        let Some(publish) = session.slots.publish_mut(number) else { return };
        let Some(ask) = publish.ask.take() else { return };
        let (mut ask, through) = *ask;
        let (draft, visited) = (std::mem::take(&mut publish.draft), publish.visited.clone());
        let (message, source, head) = (publish.message.clone(), publish.source, publish.head());
        let behind = session.slots.in_front(number);
        let at = Place { session: session_key, number, source, head };
        let decision = if self.ask_answered(&mut ask, ticket, answer) {
            let answer = Asked::Answered(self.verdict_of(&ask), true);
            self.authorized(&identity, message.view(), at, (answer, through), (visited, draft), &behind)
        } else {
            let asked = (ask, through);
            self.authorize_on(&identity, message.view(), at, asked, (visited, draft), &behind)
        };
        self.settle_publish(session_key, number, decision);
        self.pump_slots(session_key);
    }
}

/// The draft with the changes that came with a completion; `None` if one of them cannot be taken.
fn changed(
    draft: &Draft,
    client: ClientView<'_>,
    view: MessageView<'_>,
    rules: Rules<'_>,
    changes: &[OwnedChange],
) -> Option<Draft> {
    let mut fold = MessageFold::new(HookPoint::MessagePublish, client, view, draft.clone(), rules, None);
    for change in changes {
        fold.change(&change.borrow()).ok()?;
    }
    fold.keep();
    Some(std::mem::take(&mut fold.draft))
}
