//! client.authorize for what a session does, and the packets whose filters wait for a plugin: SUBSCRIBE at client.subscribe and at
//! client.authorize, UNSUBSCRIBE at client.unsubscribe. A question that is answered later remembers which links it has been to.

use std::rc::Rc;

use bytes::Bytes;
use grapnel_plugin_abi::raw::{Flow, Ticket};
use smallvec::SmallVec;

use super::Shard;
use super::admission::Answer;
use crate::codec;
use crate::hook::chain::{Audience, Course, Exit, visited_until};
use crate::hook::client::{Action, ClientVerdict, Request};
use crate::hook::subscribe::{Requested, SubscribeFold};
use crate::hook::tickets::{Before, OpenTicket, TicketDesk, Waiter};
use crate::hook::{FaultPolicy, HookPoint, LinkIdentity};
use crate::id::{ConnKey, SessionKey};
use crate::packet::{Packet, Properties, Subscribe, SubscriptionOptions, Unsubscribe};
use crate::reason::ReasonCode;
use crate::session::slots::{Ask, Asking, Permit};
use crate::session::{Identity, Slot, SlotBody};
use crate::topic;

/// How a question ended, or where it waits.
pub(super) enum Asked {
    /// The client may, or may not for this reason; and whether that may be remembered.
    Answered(Result<(), ReasonCode>, bool),
    /// A link answers later.
    Deferred(Ticket, Ask),
    /// The next link must wait for the publish in front.
    Blocked(Ask),
}

impl Shard {
    /// A question that nobody has been asked yet.
    pub(super) fn new_ask(&self, identity: &Identity) -> Ask {
        Ask {
            verdict: ClientVerdict::unanswered(&identity.view(), ReasonCode::NOT_AUTHORIZED),
            visited: SmallVec::new(),
            epoch: self.authz_epoch,
        }
    }

    /// Runs client.authorize from where the question stands. Superusers may do everything, as in EMQX.
    pub(super) fn ask_authorize(
        &mut self,
        identity: &Identity,
        request: Request<'_>,
        mut ask: Ask,
        behind: Option<&[LinkIdentity]>,
        waiter: Waiter,
    ) -> Asked {
        if identity.superuser {
            return Asked::Answered(Ok(()), true);
        }
        let point = HookPoint::ClientAuthorize;
        let audience = match request.action {
            Action::Deliver => Audience::Deliver,
            _ => Audience::All,
        };
        let course = Course { visited: &ask.visited, behind, ancestry: 0, audience };
        let verdict = ask.verdict.clone();
        let (verdict, exit) =
            self.run_client(point, identity.view(), Some(request), verdict, course, Some(waiter));
        ask.verdict = verdict;
        let until = match exit {
            Exit::Done => return Asked::Answered(self.verdict_of(&ask), ask.verdict.cacheable),
            Exit::Deferred(place, _) => place + 1,
            Exit::Blocked(place) => place,
        };
        for link in visited_until(self.chains.chain(point), until) {
            if !ask.visited.contains(&link) {
                ask.visited.push(link);
            }
        }
        match exit {
            Exit::Deferred(_, ticket) => Asked::Deferred(ticket, ask),
            _ => Asked::Blocked(ask),
        }
    }

    /// What the chain's answer means.
    pub(super) fn verdict_of(&self, ask: &Ask) -> Result<(), ReasonCode> {
        super::hooks::may(&ask.verdict, self.setup.no_match_allow)
    }

    /// An answer to a question: true if it ends the chain. One that was begun before the rules changed begins anew.
    pub(super) fn ask_answered(&mut self, ask: &mut Ask, ticket: &OpenTicket, answer: Answer<'_>) -> bool {
        let stop = self.take_answer(HookPoint::ClientAuthorize, ticket, answer, &mut ask.verdict);
        if ask.epoch == self.authz_epoch {
            return stop;
        }
        // The links are asked again, once: whatever changes from now on is the next question's.
        ask.epoch = self.authz_epoch;
        ask.visited.clear();
        ask.verdict.begin_anew(ReasonCode::NOT_AUTHORIZED);
        false
    }

    /// A SUBSCRIBE whose turn it is; the slot it waits in, if it has to. `number` is the one that slot will have.
    pub(super) fn ask_subscribe(
        &mut self,
        key: ConnKey,
        session_key: SessionKey,
        number: u64,
        subscribe: &Subscribe<'_>,
        whole: &[u8],
    ) -> Option<Slot> {
        self.counters.packets_subscribe_received += 1;
        let requested: Vec<Requested> =
            subscribe.filters.map(|(filter, options)| Requested::new(filter, options)).collect();
        let asking =
            Asking { packet: Bytes::new(), subscribe: true, requested, visited: Vec::new(), permits: None };
        let place = (session_key, number);
        let progress = self.ask_filters(key, place, whole, subscribe.properties, asking, false)?;
        self.subscribe_asked(key, session_key, progress, subscribe)
    }

    /// An UNSUBSCRIBE whose turn it is; likewise.
    pub(super) fn ask_unsubscribe(
        &mut self,
        key: ConnKey,
        session_key: SessionKey,
        number: u64,
        unsubscribe: &Unsubscribe<'_>,
        whole: &[u8],
    ) -> Option<Slot> {
        self.counters.packets_unsubscribe_received += 1;
        let requested: Vec<Requested> = unsubscribe
            .filters
            .map(|filter| Requested::new(filter, SubscriptionOptions::default()))
            .collect();
        let asking =
            Asking { packet: Bytes::new(), subscribe: false, requested, visited: Vec::new(), permits: None };
        let place = (session_key, number);
        let progress = self.ask_filters(key, place, whole, unsubscribe.properties, asking, false)?;
        self.unsubscribe_asked(key, session_key, progress, unsubscribe)
    }

    fn subscribe_asked(
        &mut self,
        key: ConnKey,
        session_key: SessionKey,
        progress: Progress,
        subscribe: &Subscribe<'_>,
    ) -> Option<Slot> {
        match progress {
            Progress::Waits(slot) => Some(slot),
            Progress::Through(asking) => {
                let permits = permits_of(&asking);
                self.begin_subscribe(key, session_key, subscribe, &asking.requested, &permits)
            }
        }
    }

    fn unsubscribe_asked(
        &mut self,
        key: ConnKey,
        session_key: SessionKey,
        progress: Progress,
        unsubscribe: &Unsubscribe<'_>,
    ) -> Option<Slot> {
        match progress {
            Progress::Waits(slot) => Some(slot),
            Progress::Through(asking) => {
                self.take_unsubscribe(key, session_key, unsubscribe.packet_id, &asking.requested);
                None
            }
        }
    }

    /// Goes on with the filters of a packet; `answered` says that the packet's own chain has ended already. `None` where the
    /// session has gone.
    fn ask_filters(
        &mut self,
        key: ConnKey,
        place: (SessionKey, u64),
        whole: &[u8],
        properties: Properties<'_>,
        mut asking: Asking,
        answered: bool,
    ) -> Option<Progress> {
        let identity = Rc::clone(&self.sessions.get(place.0)?.identity);
        if asking.permits.is_none() {
            if !answered && self.run_filters(&identity, properties, place, &mut asking) {
                return Some(park(key, whole, asking));
            }
            if asking.subscribe {
                asking.permits = Some(self.ask_permits(&identity, place, &asking.requested));
            }
        }
        let open = asking.permits.iter().flatten().any(|permit| matches!(permit, Permit::Open(_)));
        Some(if open { park(key, whole, asking) } else { Progress::Through(asking) })
    }

    /// Runs client.subscribe or client.unsubscribe from where it stands; whether a link answers later.
    fn run_filters(
        &mut self,
        identity: &Identity,
        properties: Properties<'_>,
        place: (SessionKey, u64),
        asking: &mut Asking,
    ) -> bool {
        let topic_bytes_max = self.limits().topic_bytes_max as usize;
        let point = asking.point();
        let chain = self.chains.chain_mut(point);
        if chain.is_empty() {
            return false;
        }
        let waiter = Waiter::Filters(place.0, place.1);
        let desk = TicketDesk::new(&mut self.tickets, waiter, self.now.mono_ms);
        let requested = std::mem::take(&mut asking.requested);
        let client = identity.view();
        let mut fold = SubscribeFold::new(point, client, properties, requested, topic_bytes_max, Some(desk));
        let mut event = fold.event(self.setup.id, self.now.wall_ms);
        let course = Course { visited: &asking.visited, ..Course::WHOLE };
        let exit = chain.run((point, &self.calls), course, &mut event, &mut fold);
        asking.requested = std::mem::take(&mut fold.filters);
        drop(fold);
        self.arm_ticket(exit);
        if let Exit::Deferred(place, _) = exit {
            asking.visited.extend(visited_until(self.chains.chain(point), place + 1));
            return true;
        }
        false
    }

    /// Asks client.authorize for every filter, all at a time.
    fn ask_permits(
        &mut self,
        identity: &Identity,
        place: (SessionKey, u64),
        requested: &[Requested],
    ) -> Vec<Permit> {
        let each = requested.iter().enumerate().map(|(index, request)| {
            if let Some(reason) = request.refused {
                return Permit::Done(Err(reason));
            }
            if self.filter_of(request).is_err() {
                return Permit::Done(Err(ReasonCode::TOPIC_FILTER_INVALID));
            }
            let ask = self.new_ask(identity);
            self.ask_permit(identity, (place.0, place.1, index), request, ask)
        });
        each.collect()
    }

    fn ask_permit(
        &mut self,
        identity: &Identity,
        (session, number, index): (SessionKey, u64, usize),
        request: &Requested,
        ask: Ask,
    ) -> Permit {
        // What is authorised is the filter itself, as EMQX and Mosquitto do for a shared one.
        let filter = topic::parse_filter(request.filter_text()).map_or("", |parsed| parsed.filter);
        let asked =
            Request { action: Action::Subscribe, topic: filter, qos: request.options.qos, retain: false };
        let waiter = Waiter::Filter(session, number, index as u32);
        match self.ask_authorize(identity, asked, ask, None, waiter) {
            Asked::Answered(answer, _) => Permit::Done(answer),
            Asked::Deferred(_, ask) | Asked::Blocked(ask) => Permit::Open(Box::new(ask)),
        }
    }

    /// A filter that a subscription may have.
    pub(super) fn filter_of<'a>(
        &self,
        request: &'a Requested,
    ) -> Result<topic::ParsedFilter<'a>, ReasonCode> {
        let filter = request.filter_text();
        let limits = self.limits();
        let parsed = topic::parse_filter(filter).map_err(|_| ReasonCode::TOPIC_FILTER_INVALID)?;
        if filter.len() as u64 > limits.topic_bytes_max
            || topic::check_levels(parsed.filter, limits.topic_levels_max as u16).is_err()
        {
            return Err(ReasonCode::TOPIC_FILTER_INVALID);
        }
        Ok(parsed)
    }

    /// A deferred client.subscribe or client.unsubscribe has been answered, or has missed its deadline (`None`).
    pub(super) fn filters_answered(
        &mut self,
        session_key: SessionKey,
        number: u64,
        ticket: &OpenTicket,
        answer: Answer<'_>,
    ) {
        let Some((key, mut asking)) = self.take_asking(session_key, number) else { return };
        let Some(session) = self.sessions.get(session_key) else { return };
        let identity = Rc::clone(&session.identity);
        let stop = self.take_filters(&identity, ticket, answer, &mut asking);
        self.asking_goes_on(session_key, number, key, asking, stop);
    }

    /// The changes that came with an answer, or its fault; whether the chain ends with it.
    fn take_filters(
        &mut self,
        identity: &Identity,
        ticket: &OpenTicket,
        answer: Answer<'_>,
        asking: &mut Asking,
    ) -> bool {
        let point = asking.point();
        if let Some((flow @ (Flow::CONTINUE | Flow::STOP), changes)) = answer {
            let topic_bytes_max = self.limits().topic_bytes_max as usize;
            let filters = asking.requested.clone();
            let none = Properties::default();
            let mut fold = SubscribeFold::new(point, identity.view(), none, filters, topic_bytes_max, None);
            if changes.iter().all(|change| fold.change(&change.borrow()).is_ok()) {
                asking.requested = fold.changed();
                return self.ends_chain(ticket, point, flow);
            }
        }
        self.count_fault(ticket, point);
        if let Some(Before::Filters(before)) = ticket.before.as_deref() {
            asking.requested.clone_from(before);
        }
        let deny = ticket.policy == FaultPolicy::Deny;
        if deny {
            for requested in &mut asking.requested {
                requested.refused.get_or_insert(ReasonCode::NOT_AUTHORIZED);
            }
        }
        deny
    }

    /// A deferred client.authorize for one filter of a SUBSCRIBE.
    pub(super) fn filter_answered(
        &mut self,
        (session_key, number, index): (SessionKey, u64, u32),
        ticket: &OpenTicket,
        answer: Answer<'_>,
    ) {
        let Some((key, mut asking)) = self.take_asking(session_key, number) else { return };
        let Some(session) = self.sessions.get(session_key) else { return };
        let identity = Rc::clone(&session.identity);
        let place = index as usize;
        let permit = asking.permits.as_mut().and_then(|permits| permits.get_mut(place));
        if let (Some(permit), Some(request)) = (permit, asking.requested.get(place))
            && let Permit::Open(ask) = permit
        {
            let mut ask = Ask::clone(ask);
            *permit = if self.ask_answered(&mut ask, ticket, answer) {
                Permit::Done(self.verdict_of(&ask))
            } else {
                self.ask_permit(&identity, (session_key, number, place), request, ask)
            };
        }
        self.asking_goes_on(session_key, number, key, asking, false);
    }

    /// Takes a waiting packet out of its slot, which stays, empty, until it is put back or leaves.
    fn take_asking(&mut self, session_key: SessionKey, number: u64) -> Option<(ConnKey, Asking)> {
        let session = self.sessions.get_mut(session_key)?;
        let slot = session.slots.get_mut(number)?;
        let key = slot.conn?;
        match std::mem::replace(&mut slot.body, SlotBody::Packet(Bytes::new())) {
            SlotBody::Asking(asking) if session.conn == Some(key) => Some((key, *asking)),
            body => {
                slot.body = body;
                None
            }
        }
    }

    /// Goes on with a packet that was taken out of its slot, which is the one in front: only that one asks.
    fn asking_goes_on(
        &mut self,
        session_key: SessionKey,
        number: u64,
        key: ConnKey,
        asking: Asking,
        answered: bool,
    ) {
        let packet = Bytes::clone(&asking.packet);
        if let Some(session) = self.sessions.get_mut(session_key) {
            session.slots.pop();
        }
        let frame = codec::frame(&packet, u32::MAX).ok().flatten();
        let version = self.conns.get(key).map(|conn| conn.version);
        let decoded = frame.zip(version).and_then(|(frame, version)| codec::decode(&frame, version).ok());
        let place = (session_key, number);
        let slot = match &decoded {
            Some(Packet::Subscribe(subscribe)) => self
                .ask_filters(key, place, &packet, subscribe.properties, asking, answered)
                .and_then(|progress| self.subscribe_asked(key, session_key, progress, subscribe)),
            Some(Packet::Unsubscribe(unsubscribe)) => self
                .ask_filters(key, place, &packet, unsubscribe.properties, asking, answered)
                .and_then(|progress| self.unsubscribe_asked(key, session_key, progress, unsubscribe)),
            _ => None,
        };
        if self.put_back(session_key, slot) {
            return;
        }
        self.pump_slots(session_key);
    }

    /// A packet in front that waits for a plugin: gone if its connection is, since its tickets die with it.
    pub(super) fn pump_asking(&mut self, session_key: SessionKey) -> bool {
        let Some(session) = self.sessions.get_mut(session_key) else { return false };
        let alive = session.slots.front_mut().is_some_and(|slot| slot.conn == session.conn);
        if !alive {
            session.slots.pop();
        }
        !alive
    }
}

/// A packet with filters that waits, or is through.
enum Progress {
    Waits(Slot),
    Through(Asking),
}

fn park(key: ConnKey, whole: &[u8], mut asking: Asking) -> Progress {
    if asking.packet.is_empty() {
        asking.packet = Bytes::copy_from_slice(whole);
    }
    let bytes = asking.packet.len();
    Progress::Waits(Slot { conn: Some(key), bytes, body: SlotBody::Asking(Box::new(asking)) })
}

fn permits_of(asking: &Asking) -> Vec<Result<(), ReasonCode>> {
    let permits = asking.permits.iter().flatten();
    permits
        .map(|permit| match permit {
            Permit::Done(answer) => *answer,
            Permit::Open(_) => Err(ReasonCode::NOT_AUTHORIZED),
        })
        .collect()
}
