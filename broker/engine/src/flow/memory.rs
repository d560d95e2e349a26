//! Memory that the clients of a shard use. The tables of connections and sessions note each change.
//! Once a millisecond the changed entries are measured again. Where a limit is exceeded, the
//! largest holders are ended: first connections that are not admitted yet, then any. Other clients
//! are not affected.

use std::collections::HashMap;
use std::rc::Rc;

use grapnel_plugin_abi::raw::Ticket;

use super::{ending, on_behalf, reading, wake};
use crate::clients::connection::Watch;
use crate::clients::reading::Pause;
use crate::id::{ConnKey, SessionKey};
use crate::ledger::{self, Holder, IN_FLIGHT, Ledger, OUTBOUND, OWN, QUEUE, READ, SLOTS};
use crate::outbox::Outbound;
use crate::parts::Parts;
use crate::plugins::PageKey;
use crate::reason::ReasonCode;
use crate::session::{EndCause, EndReason};
use crate::timer::Timer;

/// Connections, sessions and pages that one step may end for memory.
const EVICTIONS: usize = 64;

/// The next holder of memory to end.
enum LargestHolder {
    Connection(ConnKey),
    Session(SessionKey),
    /// A page of retained messages that a plugin reads, or that is stored for a plugin.
    Page(PageKey),
}

/// Memory of this shard that clients cause, as of the last
/// [`Shard::settle_memory`](crate::shard::Shard::settle_memory) or
/// [`Shard::advance`](crate::shard::Shard::advance).
pub(crate) fn ledger(parts: &Parts) -> Ledger {
    let (conns, sessions) = (parts.connections.bytes_by_part(), parts.sessions.bytes_by_part());
    ledger_of(parts, conns, sessions, (parts.memory.message_bytes(), parts.hooks.plugins().pages_bytes()))
}

/// The same, counted anew from every packet and message. Linear in the amount of data; for tests.
pub(crate) fn recount(parts: &Parts) -> Ledger {
    let mut sums = ([0; 4], [0; 4]);
    let add = |sums: &mut [usize; 4], more: [usize; 4]| {
        sums.iter_mut().zip(more).for_each(|(sum, part)| *sum += part);
    };
    parts.connections.iter().for_each(|(_, conn)| add(&mut sums.0, conn.recount()));
    let mut messages = HashMap::new();
    for (_, session) in parts.sessions.iter() {
        add(&mut sums.1, session.recount());
        messages.extend(session.shared_messages().map(|message| (Rc::as_ptr(message), message.bytes())));
    }
    let under_way = parts.work.fanout_messages();
    messages.extend(under_way.map(|message| (Rc::as_ptr(message), message.bytes())));
    ledger_of(parts, sums.0, sums.1, (messages.values().sum(), parts.hooks.plugins().recount_pages()))
}

/// Number of armed timers, and how many of them have an owner. The timer of a ticket has one if
/// something waits for the ticket. Unequal numbers mean a leaked timer. Linear; for tests.
pub(crate) fn timers(parts: &mut Parts) -> (usize, usize) {
    let (exact, others): (Vec<Watch>, Vec<Watch>) =
        parts.connections.iter().filter_map(|(_, conn)| conn.watch).partition(|watch| watch.is_exact);
    let mut deadlines: Vec<Timer> = exact.iter().map(|watch| watch.timer).collect();
    let mut seconds: Vec<Timer> = others.iter().map(|watch| watch.timer).collect();
    deadlines
        .extend(waited_for(parts).into_iter().filter_map(|ticket| parts.hooks.open_ticket(ticket)?.timer));
    deadlines.extend(parts.hooks.plugins_mut().timers());
    deadlines.extend(parts.hooks.rechecks().timer());
    seconds.extend(parts.work.settling().timer());
    seconds.extend(parts.hooks.plugins_mut().lateness().map(|(_, timer)| timer));
    for (_, session) in parts.sessions.iter() {
        let (ends, packets) = session.timers();
        deadlines.extend(packets.into_iter().flatten());
        seconds.extend(ends.into_iter().flatten());
    }
    let held = parts.clock.count_deadlines(deadlines) + parts.clock.count_overdue(seconds);
    (parts.clock.armed(), held)
}

/// The tickets that something waits for.
fn waited_for(parts: &mut Parts) -> Vec<Ticket> {
    let mut tickets: Vec<Ticket> = parts.connections.iter().filter_map(|(_, conn)| conn.ticket()).collect();
    for (_, session) in parts.sessions.iter() {
        tickets.extend(session.slots.open_tickets());
        tickets.extend(session.deliveries.as_ref().and_then(|deliveries| deliveries.ticket()));
    }
    tickets.extend(parts.hooks.rechecks().tickets());
    tickets.extend(parts.hooks.plugins_mut().pages().tickets());
    tickets
}

fn ledger_of(
    parts: &Parts,
    conns: [usize; 4],
    sessions: [usize; 4],
    (messages, pages): (usize, usize),
) -> Ledger {
    Ledger {
        read_buffers: conns[READ] as u64,
        outbound: conns[OUTBOUND] as u64,
        connections: conns[OWN] as u64,
        slots: sessions[SLOTS] as u64,
        queues: sessions[QUEUE] as u64,
        in_flight: sessions[IN_FLIGHT] as u64,
        sessions: sessions[OWN] as u64,
        messages: messages as u64,
        pages: pages as u64,
        closing: parts.memory.closing_bytes() as u64,
    }
}

/// Sets the allocated size of the shell's buffer with bytes of a connection that the engine has not
/// consumed.
pub(crate) fn charge_read_buffer(parts: &mut Parts, conn: ConnKey, bytes: usize) {
    if let Some(conn) = parts.connections.get_mut(conn) {
        conn.read_bytes = bytes;
    }
}

/// Sets how many bytes the shell holds for connections that have ended.
pub(crate) fn charge_closing(parts: &mut Parts, bytes: usize) {
    parts.memory.charge_closing(bytes);
}

/// Updates the ledger. Where a limit is exceeded, ends the largest holders.
/// [`Shard::advance`](crate::shard::Shard::advance) does the same.
pub(crate) fn settle_memory(parts: &mut Parts) {
    weigh(parts);
    for _ in 0..EVICTIONS {
        let heaviest = to_be_ended(parts);
        wake::spend(parts, u64::from(heaviest.is_some()));
        match heaviest {
            None => break,
            Some(LargestHolder::Connection(key)) => evict_connection(parts, key),
            Some(LargestHolder::Session(key)) => evict_session(parts, key),
            Some(LargestHolder::Page(place)) => on_behalf::drop_page(parts, place),
        }
        weigh(parts);
    }
    let limits = &parts.setup.limits;
    let burst_max = limits.outbound_burst_bytes_max as usize;
    let burst_left = burst_max.saturating_sub(parts.connections.burst_bytes());
    let tight = ledger(parts).total() >= limits.shard_bytes_max / 8 * 7;
    if let Some(waiters) = parts.memory.weighed(burst_left, tight) {
        waiters.into_iter().for_each(|key| reading::resume_from(parts, key, Pause::Memory));
    }
}

fn weigh(parts: &mut Parts) {
    parts.connections.settle(&parts.setup.limits);
    parts.sessions.settle(&parts.setup.limits);
}

fn to_be_ended(parts: &Parts) -> Option<LargestHolder> {
    let limits = &parts.setup.limits;
    if parts.connections.pending_bytes() as u64 > limits.connects_pending_bytes_max {
        return parts.connections.first().map(LargestHolder::Connection);
    }
    if parts.connections.bytes_by_part()[READ] as u64 > limits.partial_bytes_max {
        return parts.connections.largest_by_first_part().map(LargestHolder::Connection);
    }
    if ledger(parts).total() <= limits.shard_bytes_max {
        return None;
    }
    let page = parts.hooks.plugins().largest_page();
    let page = page.map(|(bytes, place)| (ledger::class(bytes, false, true), LargestHolder::Page(place)));
    let page = page.filter(|(class, _)| *class > 0);
    let session = parts.sessions.heaviest().map(|(class, key)| (class, LargestHolder::Session(key)));
    let connection = parts.connections.heaviest().map(|(class, key)| (class, LargestHolder::Connection(key)));
    let all = [page, session, connection].into_iter().flatten();
    all.max_by_key(|(class, _)| *class).map(|(_, heaviest)| heaviest)
}

fn evict_connection(parts: &mut Parts, key: ConnKey) {
    parts.counters.connections_evicted += 1;
    let Some(conn) = parts.connections.get_mut(key) else { return };
    let reason = ReasonCode::QUOTA_EXCEEDED;
    // The outbound queue is dropped. If it was not empty, a packet may be half sent, and a
    // DISCONNECT behind that would be malformed.
    let owing = !conn.out.is_empty();
    conn.out = Outbound::default();
    let told = (!owing).then_some((reason, Some("the broker has no memory left for clients")));
    ending::end_connection(parts, key, EndCause::ByBroker(reason), told);
}

fn evict_session(parts: &mut Parts, key: SessionKey) {
    let Some(session) = parts.sessions.get_mut(key) else { return };
    if session.rare().request_queue.is_some() {
        return on_behalf::refuse_queue(parts, key);
    }
    parts.counters.sessions_evicted += 1;
    let Some(session) = parts.sessions.get_mut(key) else { return };
    let lost = session.queue.len() as u64;
    session.expiry_s = 0;
    session.end_reason = Some(EndReason::Kicked);
    let conn = session.conn;
    parts.counters.messages_dropped += lost;
    parts.counters.messages_dropped_queue_full += lost;
    if let Some(conn) = conn {
        let reason = ReasonCode::QUOTA_EXCEEDED;
        let detail = "the broker has no memory left for clients";
        ending::end_connection(parts, conn, EndCause::ByBroker(reason), Some((reason, Some(detail))));
    }
    ending::retire(parts, key, EndReason::Kicked);
}
