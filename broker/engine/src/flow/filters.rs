//! SUBSCRIBE and UNSUBSCRIBE, step by step: hook point, client.authorize for each filter
//! (`filter_rights.rs`), routes, the wait for other shards and SUBACK (`filter_barrier.rs`),
//! notification. Called by `pump.rs`. Each turn does a limited part of the work.

use std::num::NonZeroU16;
use std::rc::Rc;

use super::filter_slot::{ClientState, SlotId, Step};
use super::hooks::{Answer, ChainOutcome};
use super::{
    authorize, ending, filter_barrier, filter_rights, filter_slot, hooks, notify, retained, send,
    subscriptions, wake,
};
use crate::hook::HookPoint;
use crate::hook::chain::DispatchScope;
use crate::hook::requested::Requested;
use crate::hook::subscribe::SubscribeFold;
use crate::hook::tickets::{OpenTicket, TicketIssuer, Waiter};
use crate::id::{ConnKey, SessionKey};
use crate::packet::{Packet, Properties, SubAck, SubscriptionOptions, UnsubAck};
use crate::parts::{ChainContext, Parts};
use crate::reason::ReasonCode;
use crate::session::filters::{Answered, FilterDecision, FilterPacket, FilterStep, Granted};
use crate::session::{EndCause, Slot, SlotBody};
use crate::topic;

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
pub(crate) fn continue_filters(parts: &mut Parts) {
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
    retained::add_to_batch(parts, session_key, packet);
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
    let state = filter_slot::client_state(parts, slot, packet);
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
        FilterStep::Authorize(open) => filter_rights::authorize_filters(parts, slot, packet, open),
        FilterStep::Apply if packet.subscribe => grant_filters(parts, slot, packet, alive),
        FilterStep::Apply => end_filters(parts, slot, packet, alive),
        // Filters that are in force stay so if the session continues, and their retained messages
        // follow.
        FilterStep::Barrier(seq, until_ms) => {
            filter_barrier::await_barrier(parts, slot, packet, (seq, until_ms), state)
        }
        FilterStep::Marks(until_ms) => filter_barrier::await_marks(parts, slot, packet, until_ms, state),
        FilterStep::Notify(told) => notify_filters(parts, slot, packet, told),
    }
}

/// Closes the tickets of a packet: their verdicts are no longer needed.
fn close_tickets(parts: &mut Parts, packet: &FilterPacket) {
    for ticket in packet.tickets() {
        hooks::close_ticket(parts, ticket);
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
    let ChainContext { chain, calls, tickets } = parts.hooks.at(point);
    if chain.is_empty() {
        packet.end_chain(requested, identity.mount.as_deref());
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
    if let ChainOutcome::Completed = hooks::note_exit(parts, suspended, exit) {
        packet.end_chain(requested, identity.mount.as_deref());
        return Step::Goes;
    }
    suspended.accumulator = requested;
    Step::Waits
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
        let answer = match &packet.decisions[index] {
            // The rules have changed between two turns.
            FilterDecision::Done(Answered { answer: Ok(()), epoch, .. })
                if *epoch != parts.hooks.authz_epoch()
                    && identity.as_deref().is_some_and(|client| {
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
    filter_barrier::announce_filters(parts, packet)
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
    filter_barrier::announce_filters(parts, &mut packet);
    retained::add_to_batch(parts, session_key, &mut packet);
    if let Some(session) = parts.sessions.get_mut(session_key) {
        session.slots.push(Slot::new(None, SlotBody::Filters(Box::new(packet))));
        wake::wake_slots(parts, session_key);
    }
    Ok(())
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
    let Some(session) = parts.sessions.get(session_key) else { return };
    let identity = Rc::clone(&session.identity);
    let Some(packet) = filter_slot::filters_at(parts, session_key, number) else { return };
    let FilterStep::Chain(suspended) = &mut packet.step else { return };
    let point = suspended.point();
    let Some(resumed) = suspended.resume(ticket, answer, topic_bytes_max) else { return };
    if resumed.ends() {
        let requested = std::mem::take(&mut suspended.accumulator);
        packet.end_chain(requested, identity.mount.as_deref());
    }
    hooks::count_resumed(parts, ticket, point, resumed);
    if let Some(session) = parts.sessions.get_mut(session_key) {
        session.slots.recharge(number);
    }
    wake::wake_slots(parts, session_key);
}
