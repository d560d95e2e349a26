//! What happens when time passes: missed deadlines, silent clients, delayed wills, expired sessions. A deadline of a client is
//! judged when what its socket holds has been read: a shard that was held for longer than a keep alive must not take its own
//! absence for the client's.

use grapnel_plugin_abi::raw::Ticket;

use super::connection::State;
use super::{Completion, Shard};
use crate::hook::tickets::{OpenTicket, Waiter};
use crate::id::{ConnKey, SessionKey};
use crate::reason::ReasonCode;
use crate::session::EndCause;

/// Entries of the 10 ms wheel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Deadline {
    /// A deferred verdict.
    Ticket(Ticket),
    /// A SUBACK that waits for the other shards.
    Barrier(SessionKey),
    /// A connection that must have sent CONNECT.
    Connect(ConnKey),
    /// A timer of a plugin's.
    Plugin {
        /// Its number.
        timer: u64,
        /// The plugin's number.
        number: u64,
    },
}

/// Entries of the 1 s wheel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Overdue {
    /// A connection that must have sent something.
    KeepAlive(ConnKey),
    /// A session without a connection, of this life.
    Expiry(SessionKey, u32),
    /// A delayed will, of this life.
    Will(SessionKey, u32),
}

impl Shard {
    pub(super) fn run_timers(&mut self) {
        let now_ms = self.now.mono_ms;
        let mut deadlines = Vec::new();
        self.deadlines.expire(now_ms, &mut deadlines);
        for deadline in deadlines {
            match deadline {
                Deadline::Ticket(ticket) => self.ticket_due(ticket),
                Deadline::Barrier(session) => self.pump_slots(session),
                Deadline::Connect(conn) => self.connect_due(conn),
                Deadline::Plugin { timer, number } => self.plugin_timer_due(timer, number),
            }
        }
        let mut overdue = Vec::new();
        self.seconds.expire(now_ms, &mut overdue);
        for entry in overdue {
            match entry {
                Overdue::KeepAlive(conn) => self.keep_alive_due(conn),
                Overdue::Expiry(session, epoch) => self.expiry_due(session, epoch),
                Overdue::Will(session, epoch) => self.will_due(session, epoch),
            }
        }
    }

    /// When `advance` has something to do at the latest, in monotonic milliseconds; `None` while nothing is armed.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let (a, b) = (self.deadlines.next_due_ms(), self.seconds.next_due_ms());
        a.into_iter().chain(b).min()
    }

    fn connect_due(&mut self, key: ConnKey) {
        if let Some(conn) = self.conns.get_mut(key)
            && conn.state.owes_a_packet()
        {
            conn.overdue = true;
            self.out.overdue.push(key);
        }
    }

    fn keep_alive_due(&mut self, key: ConnKey) {
        if self.is_silent(key)
            && let Some(conn) = self.conns.get_mut(key)
        {
            conn.overdue = true;
            self.out.overdue.push(key);
        }
    }

    /// Whether a connection has sent nothing for too long; if not, looks again when it may have.
    fn is_silent(&mut self, key: ConnKey) -> bool {
        let now_ms = self.now.mono_ms;
        let Some(conn) = self.conns.get(key) else { return false };
        let due = conn.last_received_ms + conn.silence_max_ms;
        let silent = now_ms >= due && !conn.paused;
        if !silent {
            // It does not run while we refuse to read.
            let again = if conn.paused { now_ms + conn.silence_max_ms } else { due };
            self.seconds.arm(again, Overdue::KeepAlive(key));
        }
        silent
    }

    /// Everything that the socket of a connection in `overdue` held when it was listed has been offered: one that is still
    /// silent ends, whatever came later. A stale key is ignored, and so is one that is not overdue.
    pub fn heard_out(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if !std::mem::take(&mut conn.overdue) {
            return;
        }
        match &conn.state {
            state if state.owes_a_packet() => {
                self.end_connection(key, EndCause::ByBroker(ReasonCode::MAXIMUM_CONNECT_TIME), None);
            }
            // Its packet has come.
            State::New | State::Admitting(_) => {}
            State::Live => {
                if self.is_silent(key) {
                    // [MQTT-3.1.2-22]
                    self.counters.client_keepalive_timeout += 1;
                    let reason = ReasonCode::KEEP_ALIVE_TIMEOUT;
                    self.end_connection(key, EndCause::ByBroker(reason), Some((reason, None)));
                }
            }
        }
    }

    fn ticket_due(&mut self, ticket: Ticket) {
        if let Some(open) = self.tickets.close(ticket) {
            self.counters.tickets_expired += 1;
            self.answer(&open, None);
        }
    }

    /// A deferred verdict. Late or doubled ones are counted and ignored.
    pub fn complete(&mut self, completion: Completion) {
        match self.tickets.close(Ticket(completion.ticket)) {
            Some(open) => self.answer(&open, Some(completion)),
            None => self.counters.tickets_stale += 1,
        }
    }

    fn answer(&mut self, open: &OpenTicket, completion: Option<Completion>) {
        let answer = completion.as_ref().map(|completion| (completion.flow, &completion.changes[..]));
        match open.waiter {
            Waiter::Connect(conn) | Waiter::Authenticate(conn) | Waiter::Will(conn) => {
                self.admission_answered(conn, open, answer);
            }
            Waiter::Renewal(conn) => self.renewal_answered(conn, open, answer),
            Waiter::Publish(session, number) => self.publish_again(session, number, open, answer),
            Waiter::Authorize(session, number) => self.publish_authorized(session, number, open, answer),
            Waiter::Filters(session, number) => self.filters_answered(session, number, open, answer),
            Waiter::Deliver(session) => self.delivery_answered(session, open, answer),
            Waiter::Suspect(id) => self.suspect_answered(id, open, answer),
            Waiter::Filter(session, number, index) => {
                self.filter_answered((session, number, index), open, answer);
            }
        }
    }
}
