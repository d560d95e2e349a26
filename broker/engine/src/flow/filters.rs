//! Handles SUBSCRIBE and UNSUBSCRIBE: hook point, client.authorize for each filter, routes, barrier
//! and marks, acknowledgement. After SUBACK no shard misses a message for the subscription. Called
//! by `packets.rs` and `pump.rs`. Each turn does a limited part of the work.

use std::num::NonZeroU16;
use std::rc::Rc;

use super::authorize::RequestOutcome;
use super::hooks::{Answer, Walked};
use super::{authorize, ending, hooks, notify, retained, send, subscriptions, wake};
use crate::clock::Deadline;
use crate::hook::HookPoint;
use crate::hook::chain::DispatchScope;
use crate::hook::requested::Requested;
use crate::hook::subscribe::SubscribeFold;
use crate::hook::suspended::AuthorizationRequest;
use crate::hook::tickets::{OpenTicket, TicketIssuer, Waiter};
use crate::hook::view::{Action, Request};
use crate::id::{ConnKey, SessionKey};
use crate::packet::{Packet, Properties, SubAck, SubscriptionOptions, UnsubAck};
use crate::parts::{AtPoint, Parts};
use crate::reason::ReasonCode;
use crate::session::filters::{Answered, FilterDecision, FilterPacket, FilterStep, Granted};
use crate::session::{EndCause, Identity, Slot, SlotBody};
use crate::topic;

/// Cost of an authorization request in units of a turn's budget: a plugin may need as much time for
/// it as the engine needs for this many filters.
const QUESTION: u64 = 32;

/// The slot of a packet.
#[derive(Clone, Copy)]
struct SlotId {
    session: SessionKey,
    number: u64,
    conn: Option<ConnKey>,
}

/// State of the client that a packet belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ClientState {
    /// The connection of the packet is still there.
    Connected,
    /// That connection has ended. The session continues, with another connection or without.
    Away,
    /// The session has ended too.
    Gone,
}

/// Result of a step of a packet.
enum Step {
    /// The next step can follow.
    Goes,
    /// It waits for something that will wake the session.
    Waits,
    /// The turn's budget is used up.
    Later,
    /// The packet is finished.
    Over,
}

/// Begins a SUBSCRIBE or UNSUBSCRIBE that has reached the front, unless it cannot be answered.
fn start_filters(parts: &mut Parts, slot: SlotId, packet: &mut FilterPacket) -> Step {
    let Some(conn) = slot.conn else { return Step::Over };
    if packet.subscribe {
        parts.counters.packets_subscribe_received += 1;
        packet.batch = wake::next_reader(parts);
    } else {
        parts.counters.packets_unsubscribe_received += 1;
    }
    if let Some(reason) = unanswerable(parts, conn, packet) {
        // Nothing may take effect that cannot be acknowledged to the client.
        ending::end_connection(parts, conn, EndCause::ByBroker(reason), Some((reason, None)));
        return Step::Over;
    }
    packet.begin_chain(parts.hooks.authz_epoch());
    Step::Goes
}

/// Why a complete acknowledgement cannot be sent to the client; `None` if it can.
fn unanswerable(parts: &Parts, conn: ConnKey, packet: &FilterPacket) -> Option<ReasonCode> {
    let conn = parts.connections.get(conn)?;
    if !packet.subscribe && packet.beyond > 0 && !conn.version.is_v5() {
        // A 3.x UNSUBACK has no codes: it would confirm all filters.
        return Some(ReasonCode::QUOTA_EXCEEDED);
    }
    if conn.packet_bytes_max == u32::MAX {
        return None;
    }
    // SUBACK and UNSUBACK have the same size [MQTT-3.1.2-24].
    let codes = vec![0; packet.requested.len() + packet.beyond];
    let (packet_id, properties) = (NonZeroU16::MIN, Properties::default());
    let fits = conn.takes(&Packet::SubAck(SubAck { packet_id, properties, codes: &codes }));
    (!fits).then_some(ReasonCode::PACKET_TOO_LARGE)
}

/// Continues with packets whose turn was over, as far as the turn's budget goes.
pub(crate) fn go_on_with_filters(parts: &mut Parts) {
    for _ in 0..parts.work.subscribing_len() {
        if parts.work.is_turn_spent() {
            return;
        }
        let Some(session_key) = parts.work.pop_subscribing() else { return };
        let Some(session) = parts.sessions.get_mut(session_key) else { continue };
        if let Some(Slot { body: SlotBody::Filters(packet), .. }) = session.slots.front_mut() {
            packet.is_queued = false;
        }
        wake::wake_slots(parts, session_key);
    }
}

/// Advances the front packet as far as possible. Returns whether it is finished.
pub(crate) fn pump_filters(parts: &mut Parts, session_key: SessionKey) -> bool {
    wake::spend(parts, 1);
    let Some(session) = parts.sessions.get_mut(session_key) else { return false };
    let number = session.slots.front_number();
    let Some(mut slot) = session.slots.pop() else { return true };
    let place = SlotId { session: session_key, number, conn: slot.conn };
    let SlotBody::Filters(packet) = &mut slot.body else { return true };
    let at_hooks = matches!(packet.step, FilterStep::Unstarted | FilterStep::Chain(_));
    let later = loop {
        match step_filters(parts, place, packet) {
            Step::Goes => {}
            Step::Over => return true,
            Step::Waits => break false,
            Step::Later => break true,
        }
    };
    retained::put_in_batch(parts, session_key, packet);
    if later && !packet.is_queued {
        packet.is_queued = true;
        parts.work.push_subscribing(session_key);
    }
    if let Some(session) = parts.sessions.get_mut(session_key) {
        session.slots.push_front(slot);
        if at_hooks {
            session.slots.recharge(number);
        }
    }
    false
}

fn step_filters(parts: &mut Parts, slot: SlotId, packet: &mut FilterPacket) -> Step {
    let state = client_state(parts, slot, packet);
    let alive = state == ClientState::Connected;
    match packet.step {
        // SUBSCRIBE and UNSUBSCRIBE end with their connection, and so do their tickets.
        FilterStep::Unstarted | FilterStep::Chain(_) | FilterStep::Authorize(_) if !alive => {
            close_tickets(parts, packet);
            if packet.codes.is_empty() {
                return Step::Over;
            }
            // Some filters are in force already, while others were authorized again: continue for
            // those in force.
            packet.step = FilterStep::Apply;
            Step::Goes
        }
        FilterStep::Unstarted => start_filters(parts, slot, packet),
        FilterStep::Chain(ref chain) if chain.ticket().is_some() => Step::Waits,
        FilterStep::Chain(_) => run_filters(parts, slot, packet),
        FilterStep::Authorize(open) => authorize_filters(parts, slot, packet, open),
        FilterStep::Apply if packet.subscribe => grant_filters(parts, slot, packet, alive),
        FilterStep::Apply => end_filters(parts, slot, packet, alive),
        // Filters that are in force stay so if the session continues, and their retained messages
        // follow.
        FilterStep::Barrier(seq, until_ms) => await_barrier(parts, slot, packet, (seq, until_ms), state),
        FilterStep::Marks(until_ms) => await_marks(parts, slot, packet, until_ms, state),
        FilterStep::Notify(told) => notify_filters(parts, slot, packet, told),
    }
}

/// Closes the tickets of a packet: their verdicts are no longer needed.
fn close_tickets(parts: &mut Parts, packet: &FilterPacket) {
    for ticket in packet.tickets() {
        hooks::close_ticket(parts, ticket);
    }
}

fn client_state(parts: &Parts, slot: SlotId, packet: &FilterPacket) -> ClientState {
    let Some(session) = parts.sessions.get(slot.session) else { return ClientState::Gone };
    // A plugin's subscription has no packet.
    if session.conn.is_some() && (packet.packet_id.is_none() || session.conn == slot.conn) {
        ClientState::Connected
    } else if session.is_there() {
        ClientState::Away
    } else {
        ClientState::Gone
    }
}

/// Runs client.subscribe or client.unsubscribe from where the chain stands.
fn run_filters(parts: &mut Parts, slot: SlotId, packet: &mut FilterPacket) -> Step {
    let FilterStep::Chain(suspended) = &mut packet.step else { return Step::Goes };
    let topic_bytes_max = parts.setup.limits.topic_bytes_max as usize;
    let point = suspended.point();
    let Some(session) = parts.sessions.get(slot.session) else { return Step::Over };
    let identity = Rc::clone(&session.identity);
    let requested = std::mem::take(&mut suspended.accumulator);
    let AtPoint { chain, calls, tickets } = parts.hooks.at(point);
    if chain.is_empty() {
        packet.end_chain(requested);
        return Step::Goes;
    }
    let waiter = Waiter::Filters(slot.session, slot.number, point);
    let issuer = TicketIssuer::new(tickets, waiter, parts.clock.now().mono_ms);
    let properties = packet.properties.view();
    let mut fold =
        SubscribeFold::new(point, identity.view(), properties, requested, topic_bytes_max, Some(issuer));
    let mut event = fold.event(parts.setup.id, parts.clock.now().wall_ms);
    let scope = DispatchScope { visited: suspended.visited(), ..DispatchScope::WHOLE };
    let exit = chain.run((point, calls), scope, &mut event, &mut fold);
    let requested = std::mem::take(&mut fold.filters);
    drop(fold);
    wake::spend(parts, parts.hooks.chain(point).links.len() as u64);
    if let Walked::Through = hooks::note_exit(parts, suspended, exit) {
        packet.end_chain(requested);
        return Step::Goes;
    }
    suspended.accumulator = requested;
    Step::Waits
}

/// Authorizes each filter. A deferred verdict does not block the other filters.
fn authorize_filters(parts: &mut Parts, slot: SlotId, packet: &mut FilterPacket, mut open: usize) -> Step {
    let Some(session) = parts.sessions.get(slot.session) else { return Step::Over };
    let identity = Rc::clone(&session.identity);
    let window = filters_window(parts);
    while let Some(request) = packet.requested.get(packet.permits.len()) {
        if open >= window {
            return Step::Waits;
        }
        if parts.work.is_turn_spent() {
            return Step::Later;
        }
        wake::spend(parts, 1);
        let decision = match (request.refused, subscriptions::filter_of(parts, request)) {
            (Some(reason), _) | (None, Err(reason)) => done(parts, Err(reason), 0),
            (None, Ok(_)) => {
                let ask = authorize::new_request(parts, &identity);
                decide(parts, &identity, slot, packet.permits.len(), request, ask)
            }
        };
        open += usize::from(matches!(decision, FilterDecision::Open(_)));
        packet.permits.push(decision);
        packet.step = FilterStep::Authorize(open);
    }
    if open > 0 {
        return Step::Waits;
    }
    // Filters that older rules allowed, while others of the packet waited, are authorized again:
    // they are not in force yet, so a recheck did not cover them.
    for index in packet.codes.len()..packet.permits.len() {
        let FilterDecision::Done(Answered { answer: Ok(()), epoch, rounds }) = &mut packet.permits[index]
        else {
            continue;
        };
        let filter = packet.requested[index].topics();
        if authorize::is_current(parts, *epoch, &identity, Some(filter)) {
            *epoch = parts.hooks.authz_epoch();
            continue;
        }
        if open >= window {
            return Step::Waits;
        }
        if parts.work.is_turn_spent() {
            return Step::Later;
        }
        let ask = authorize::new_request(parts, &identity).after_rounds(rounds.saturating_add(1));
        wake::spend(parts, 1);
        let decision = decide(parts, &identity, slot, index, &packet.requested[index], ask);
        open += usize::from(matches!(decision, FilterDecision::Open(_)));
        packet.permits[index] = decision;
        packet.step = FilterStep::Authorize(open);
    }
    if open > 0 {
        return Step::Waits;
    }
    packet.step = FilterStep::Apply;
    Step::Goes
}

/// Filters of a packet that may wait for plugins at a time: as many as publishes of a session.
fn filters_window(parts: &Parts) -> usize {
    usize::try_from(parts.setup.limits.defer_window).unwrap_or(usize::MAX).max(1)
}

fn decide(
    parts: &mut Parts,
    identity: &Identity,
    slot: SlotId,
    index: usize,
    request: &Requested,
    ask: AuthorizationRequest,
) -> FilterDecision {
    let links = parts.hooks.chain(HookPoint::ClientAuthorize).links.len() as u64;
    wake::spend(parts, links);
    parts.work.spend_turn(if links > 0 { QUESTION } else { 0 });
    let asked = Request {
        action: Action::Subscribe,
        topic: request.topics(),
        qos: request.options.qos,
        retain: false,
    };
    let waiter = Waiter::Filter(slot.session, slot.number, index as u32);
    let rounds = ask.rounds();
    match authorize::authorize(parts, identity, asked, ask, None, waiter) {
        RequestOutcome::Answered(answer) => done(parts, answer, rounds),
        RequestOutcome::Unanswered(reason) => done(parts, Err(reason), rounds),
        RequestOutcome::Waits(ask) => FilterDecision::Open(Box::new(ask)),
    }
}

/// A verdict under the current rules.
fn done(parts: &Parts, answer: Result<(), ReasonCode>, rounds: u8) -> FilterDecision {
    FilterDecision::Done(Answered { answer, epoch: parts.hooks.authz_epoch(), rounds })
}

/// Puts the allowed filters into force.
fn grant_filters(parts: &mut Parts, slot: SlotId, packet: &mut FilterPacket, alive: bool) -> Step {
    let id = packet.properties.view().subscription_id().unwrap_or(0);
    let identity = parts.sessions.get(slot.session).map(|session| Rc::clone(&session.identity));
    while alive && packet.codes.len() < packet.requested.len() {
        if parts.work.is_turn_spent() {
            return Step::Later;
        }
        wake::spend(parts, 1);
        let index = packet.codes.len();
        let request = &packet.requested[index];
        let answer = match &packet.permits[index] {
            // The rules have changed between two turns.
            FilterDecision::Done(Answered { answer: Ok(()), epoch, .. })
                if identity.as_deref().is_some_and(|client| {
                    !authorize::is_current(parts, *epoch, client, Some(request.topics()))
                }) =>
            {
                packet.step = FilterStep::Authorize(0);
                return Step::Goes;
            }
            FilterDecision::Done(answered) => answered.answer,
            FilterDecision::Open(_) => Err(ReasonCode::NOT_AUTHORIZED),
        };
        if answer.is_err() && request.refused.is_none() {
            parts.counters.packets_subscribe_auth_error += 1;
        }
        let granted = match answer {
            Ok(()) => grant(parts, slot.session, request, id),
            Err(reason) => Err(reason),
        };
        match granted {
            Ok(mut granted) => {
                granted.place = index;
                packet.codes.push(granted.options.qos.as_u8());
                packet.granted.push(granted);
            }
            // A plugin may have set any reason code [MQTT-3.9.3-2].
            Err(reason) => packet.codes.push(reason.fitted(ReasonCode::refuses_subscription).0),
        }
    }
    packet.codes.extend(std::iter::repeat_n(ReasonCode::QUOTA_EXCEEDED.0, packet.beyond));
    announce_filters(parts, packet)
}

fn grant(
    parts: &mut Parts,
    session_key: SessionKey,
    request: &Requested,
    id: u32,
) -> Result<Granted, ReasonCode> {
    let parsed = subscriptions::filter_of(parts, request)?;
    subscriptions::put_subscription(parts, session_key, parsed, request, id)
}

/// Subscribes a client without authorization, if possible. Retained messages follow.
pub(crate) fn subscribe_for(
    parts: &mut Parts,
    session_key: SessionKey,
    filter: &str,
    options: SubscriptionOptions,
    id: u32,
) -> Result<(), ReasonCode> {
    let parsed = topic::parse_filter(filter).map_err(|_| ReasonCode::TOPIC_FILTER_INVALID)?;
    let request = Requested::new(filter, options);
    let granted = subscriptions::put_subscription(parts, session_key, parsed, &request, id)?;
    notify::notify_subscribed(parts, session_key, &granted, Some("plugin"));
    if granted.reader == 0 {
        return Ok(());
    }
    let mut packet = FilterPacket::of_plugin(granted, wake::next_reader(parts));
    announce_filters(parts, &mut packet);
    retained::put_in_batch(parts, session_key, &mut packet);
    if let Some(session) = parts.sessions.get_mut(session_key) {
        session.slots.push(Slot::new(None, SlotBody::Filters(Box::new(packet))));
        wake::wake_slots(parts, session_key);
    }
    Ok(())
}

/// Begins the wait for the other shards to acknowledge what is in force.
fn announce_filters(parts: &mut Parts, packet: &mut FilterPacket) -> Step {
    let seq = packet.granted.iter().map(|granted| granted.barrier_seq).max().unwrap_or(0);
    let until_ms = parts.clock.now().mono_ms + parts.setup.limits.subscribe_barrier_ms;
    packet.step = FilterStep::Barrier(seq, until_ms);
    Step::Goes
}

fn await_barrier(
    parts: &mut Parts,
    slot: SlotId,
    packet: &mut FilterPacket,
    (seq, until_ms): (u64, u64),
    state: ClientState,
) -> Step {
    let barrier = parts.router.barrier();
    let is_there = state != ClientState::Gone;
    if is_there && seq > barrier && parts.clock.now().mono_ms < until_ms {
        parts.work.await_barrier(seq, slot.session);
        watch(parts, slot.session, until_ms);
        return Step::Waits;
    }
    if seq > barrier {
        parts.work.forget_barrier(seq, slot.session);
    }
    if is_there && packet.packet_id.is_some() {
        // A shard has not answered: it may miss messages, so these subscriptions are refused.
        let unknown = packet.granted.extract_if(.., |granted| granted.barrier_seq > barrier);
        for granted in unknown.collect::<Vec<_>>() {
            parts.counters.subscribe_barrier_timeouts += 1;
            packet.codes[granted.place] = ReasonCode::UNSPECIFIED_ERROR.0;
            subscriptions::withdraw(parts, slot.session, &granted);
            packet.in_batch = packet.in_batch.min(packet.granted.len());
        }
    }
    if is_there && packet.granted.iter().any(|granted| granted.reader != 0) {
        packet.step = FilterStep::Marks(until_ms);
        retained::request_marks(parts, slot.session, packet);
    } else {
        retained::forget_batch(parts, slot.session, packet);
        packet.step = FilterStep::Marks(0);
    }
    Step::Goes
}

/// Has a session check at `until_ms` or earlier whether its wait is over. A session has one such
/// timer.
fn watch(parts: &mut Parts, key: SessionKey, until_ms: u64) {
    if let Some(session) = parts.sessions.get_mut(key)
        && session.barrier_timer.is_none()
    {
        session.barrier_timer = Some(parts.clock.arm_deadline(until_ms, Deadline::Barrier(key)));
    }
}

/// The timer has expired.
pub(crate) fn barrier_due(parts: &mut Parts, key: SessionKey) {
    if let Some(session) = parts.sessions.get_mut(key) {
        session.barrier_timer = None;
        wake::wake_slots(parts, key);
    }
}

fn await_marks(
    parts: &mut Parts,
    slot: SlotId,
    packet: &mut FilterPacket,
    until_ms: u64,
    state: ClientState,
) -> Step {
    // If an owner does not answer in time, only the wait for its retained messages ends. The
    // subscription stays.
    if state != ClientState::Gone
        && parts.clock.now().mono_ms < until_ms
        && !retained::is_marked(parts, slot.session, packet.batch)
    {
        watch(parts, slot.session, until_ms);
        return Step::Waits;
    }
    // A SUBACK is not sent on another connection.
    if let (Some(packet_id), Some(conn), ClientState::Connected) = (packet.packet_id, slot.conn, state) {
        send_suback(parts, conn, packet_id, &packet.codes);
    }
    retained::begin_batch(parts, slot.session, packet.batch);
    packet.step = FilterStep::Notify(0);
    Step::Goes
}

fn send_suback(parts: &mut Parts, conn: ConnKey, packet_id: NonZeroU16, codes: &[u8]) {
    send::send(parts, conn, &Packet::SubAck(SubAck { packet_id, properties: Properties::default(), codes }));
}

fn notify_filters(parts: &mut Parts, slot: SlotId, packet: &mut FilterPacket, mut told: usize) -> Step {
    // A plugin's subscription was notified at once.
    if packet.packet_id.is_some() && notify::has_links(parts, HookPoint::SessionSubscribed) {
        while let Some(granted) = packet.granted.get(told) {
            if parts.work.is_turn_spent() {
                return Step::Later;
            }
            wake::spend(parts, 1);
            notify::notify_subscribed(parts, slot.session, granted, None);
            told += 1;
            packet.step = FilterStep::Notify(told);
        }
    }
    retained::pull_retained(parts, slot.session);
    Step::Over
}

/// Ends the subscriptions that the chain has left in the packet, and answers.
fn end_filters(parts: &mut Parts, slot: SlotId, packet: &mut FilterPacket, alive: bool) -> Step {
    if !alive {
        return Step::Over;
    }
    while let Some(request) = packet.requested.get(packet.codes.len()) {
        if parts.work.is_turn_spent() {
            return Step::Later;
        }
        wake::spend(parts, 1);
        let code = match request.refused {
            Some(reason) => reason,
            None => subscriptions::unsubscribe(parts, slot.session, request.filter_text(), "unsubscribe"),
        };
        packet.codes.push(code.0);
    }
    // 0x97 is none of the codes of UNSUBACK [MQTT-3.11.3-2].
    let beyond = ReasonCode::QUOTA_EXCEEDED.fitted(ReasonCode::refuses_unsubscription);
    packet.codes.extend(std::iter::repeat_n(beyond.0, packet.beyond));
    if let (Some(packet_id), Some(conn)) = (packet.packet_id, slot.conn) {
        // It waits for no other shard: outdated interest costs an envelope, but causes no wrong
        // delivery.
        let codes = &packet.codes;
        send::send(
            parts,
            conn,
            &Packet::UnsubAck(UnsubAck { packet_id, properties: Properties::default(), codes }),
        );
    }
    Step::Over
}

/// Wakes the sessions whose change all other shards have acknowledged.
pub(crate) fn barrier_moved(parts: &mut Parts) {
    let barrier = parts.router.barrier();
    while let Some(session) = parts.work.pop_past_barrier(barrier) {
        wake::wake_slots(parts, session);
    }
}

/// Takes the verdict of a deferred client.subscribe or client.unsubscribe; `None` if its deadline
/// has passed.
pub(crate) fn filters_answered(
    parts: &mut Parts,
    session_key: SessionKey,
    number: u64,
    ticket: &OpenTicket,
    answer: Answer<'_>,
) {
    let topic_bytes_max = parts.setup.limits.topic_bytes_max as usize;
    let Some(packet) = filters_at(parts, session_key, number) else { return };
    let FilterStep::Chain(suspended) = &mut packet.step else { return };
    let point = suspended.point();
    let Some(resumed) = suspended.resume(ticket, answer, topic_bytes_max) else { return };
    if resumed.ends() {
        let requested = std::mem::take(&mut suspended.accumulator);
        packet.end_chain(requested);
    }
    hooks::count_resumed(parts, ticket, point, resumed);
    if let Some(session) = parts.sessions.get_mut(session_key) {
        session.slots.recharge(number);
    }
    wake::wake_slots(parts, session_key);
}

fn filters_at(parts: &mut Parts, session_key: SessionKey, number: u64) -> Option<&mut FilterPacket> {
    match &mut parts.sessions.get_mut(session_key)?.slots.get_mut(number)?.body {
        SlotBody::Filters(packet) => Some(packet),
        _ => None,
    }
}

/// Takes a deferred client.authorize verdict on one filter of a SUBSCRIBE.
pub(crate) fn filter_answered(
    parts: &mut Parts,
    (session_key, number, index): (SessionKey, u64, u32),
    ticket: &OpenTicket,
    answer: Answer<'_>,
) {
    let Some(identity) = parts.sessions.get(session_key).map(|session| Rc::clone(&session.identity)) else {
        return;
    };
    let index = index as usize;
    let Some(packet) = filters_at(parts, session_key, number) else { return };
    let (Some(FilterDecision::Open(ask)), Some(request)) =
        (packet.permits.get(index), packet.requested.get(index))
    else {
        return;
    };
    let (mut ask, request) = (AuthorizationRequest::clone(ask), request.clone());
    let about = (&*identity, request.topics());
    let decision = if authorize::request_answered(parts, about, &mut ask, ticket, answer) {
        done(parts, authorize::verdict_of(parts, &ask), ask.rounds())
    } else {
        let slot = SlotId { session: session_key, number, conn: None };
        decide(parts, &identity, slot, index, &request, ask)
    };
    let is_done = matches!(decision, FilterDecision::Done(_));
    let window = filters_window(parts);
    let Some(packet) = filters_at(parts, session_key, number) else { return };
    packet.permits[index] = decision;
    if let (FilterStep::Authorize(open), true) = (&mut packet.step, is_done) {
        *open -= 1;
        if *open == 0 || *open + 1 == window {
            wake::wake_slots(parts, session_key);
        }
    }
}
