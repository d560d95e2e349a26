//! Empties the engine's outbox: bytes to sockets, ended connections to their last phase, envelopes
//! to other shards. Called once for all events of a turn, or earlier if there is much to send.

use grapnel_engine::id::{ConnKey, ShardId, ShardSet};
use grapnel_engine::shard::{
    Closing, ConnectLimit, ConnectRefused, Ended, Envelope, Lane, Outbound, Reading,
};

use super::conn::{Conn, Flushed, Full, Leaving, Linger, Phase, Token, flush_through};
use super::mesh::{BATCH_ENVELOPES, Control, DataBatch};
use super::read_buffer::ReadBuffer;
use super::state::{Arrival, State, token_of};
use crate::net::{self, Sent};
use crate::rt::Send;
use std::os::fd::OwnedFd;

/// Maximum number of rounds in one step. More are needed because sent bytes let queued messages
/// move up, which gives new bytes. The turn continues with the rest.
const ROUNDS: usize = 8;

/// Queues whose first pieces are sent together, at least.
const SENDS_MIN: usize = 4;

/// Logs that a CONNECT was refused as if the server were busy, and which limit was reached.
#[cold]
fn log_refused(refused: &ConnectRefused, shard: ShardId) {
    let more = match refused.unlogged {
        0 => String::new(),
        more => format!("; {more} more were refused since the last line"),
    };
    match refused.limit {
        ConnectLimit::Address(address) => tracing::warn!(
            "a client from {address} was refused on shard {shard}: limits.connects_pending_per_address_max is reached: so many CONNECTs are pending from its address{more}"
        ),
        ConnectLimit::UnixSockets => tracing::warn!(
            "a client of a Unix socket was refused on shard {shard}: limits.connects_pending_per_address_max is reached: so many CONNECTs are pending from Unix sockets{more}"
        ),
        ConnectLimit::Shard => tracing::warn!(
            "a client was refused on shard {shard}: limits.connects_pending_max is reached: so many CONNECTs are pending{more}"
        ),
    }
}

impl State {
    /// Delivers everything in the engine's outbox.
    pub(super) fn empty_outbox(&mut self) {
        self.offered_bytes = 0;
        for _ in 0..ROUNDS {
            let sent = self.send_envelopes();
            let outbox = self.engine.outbox();
            for plugin in outbox.tripped.drain(..) {
                crate::plugin::tripped(plugin, self.config.handle.id());
            }
            outbox.refused.drain(..).for_each(|refused| crate::plugin::answer_refused(&refused));
            outbox.revoked.drain(..).for_each(crate::plugin::revoked);
            outbox.behalf_refused.drain(..).for_each(|refused| crate::plugin::behalf_refused(&refused));
            if let Some(refused) = outbox.connect_refused.take() {
                log_refused(&refused, self.config.handle.id());
            }
            if let Some(full) = outbox.retained_full.take() {
                let shard = self.config.handle.id();
                tracing::warn!("a retained message was delivered and not stored on shard {shard}: {full}");
            }
            let nobody = outbox.dirty.is_empty() && outbox.resume.is_empty() && outbox.overdue.is_empty();
            if !sent && nobody && outbox.closing.is_empty() {
                // A step outside the turn may leave sliced work, with which only the turn
                // continues.
                self.turn_due |= self.engine.has_work();
                return;
            }
            self.flush_dirty();
            self.wake_resumed();
            self.check_overdue();
            self.begin_closing();
        }
        self.turn_due = true;
    }

    fn flush_dirty(&mut self) {
        let mut keys = std::mem::take(&mut self.spare_keys);
        std::mem::swap(&mut keys, &mut self.engine.outbox().dirty);
        self.send_fronts(&keys);
        for key in keys.drain(..) {
            if let Some(token) = self.token(key) {
                self.flush_conn(token, key);
            }
        }
        self.spare_keys = keys;
    }

    /// Sends the first piece of each of many queues with few calls. Most queues have no second one.
    fn send_fronts(&mut self, keys: &[ConnKey]) {
        if keys.len() < SENDS_MIN {
            return;
        }
        let State { engine, conns, driver, by_key, .. } = &mut *self;
        let mut fronts = Vec::with_capacity(keys.len());
        let mut sends = Vec::with_capacity(keys.len());
        for &key in keys {
            let Some(token) = token_of(by_key, key) else { continue };
            let conn = &mut conns[token];
            let front = engine.queued(key).map_or(&[][..], |outbound| outbound.front());
            let fits = conn.full.is_none() && conn.layered.is_none() && !front.is_empty();
            // A connection may be listed twice: the same bytes must not be sent twice.
            if fits && !std::mem::replace(&mut conn.fronted, true) {
                fronts.push((token, key));
                sends.push(Send { socket: conn.socket, bytes: front, sent: Sent::Full });
            }
        }
        driver.send_all(&mut sends);
        let results: Vec<Sent> = sends.into_iter().map(|send| send.sent).collect();
        // First for all, because what follows may end any connection, with the bytes that are left.
        for (&(token, key), sent) in fronts.iter().zip(&results) {
            conns[token].fronted = false;
            if let (Sent::Bytes(count), Some(outbound)) = (*sent, engine.outbound(key)) {
                outbound.advance(count);
                outbound.release();
                conns[token].sent(count);
            }
        }
        for ((token, key), sent) in fronts.into_iter().zip(results) {
            match sent {
                Sent::Bytes(_) => self.engine.written(key),
                _ if self.token(key) != Some(token) => {}
                Sent::Full => self.is_full(token),
                Sent::Closed => self.connection_closed(token, Ended::ByPeer),
            }
        }
    }

    pub(super) fn wake_resumed(&mut self) {
        let mut keys = std::mem::take(&mut self.spare_keys);
        std::mem::swap(&mut keys, &mut self.engine.outbox().resume);
        for key in keys.drain(..) {
            let Some(token) = self.token(key) else { continue };
            let conn = &mut self.conns[token];
            if conn.reading != Reading::Reading {
                conn.reading = Reading::Reading;
                conn.resumed = true;
                self.list(token);
            }
        }
        self.spare_keys = keys;
    }

    /// Starts the check of connections whose deadline has passed. The bytes that are in their
    /// sockets and in events now arrived in time, however late this check is. When they have been
    /// offered, the engine is told.
    fn check_overdue(&mut self) {
        let mut keys = std::mem::take(&mut self.spare_keys);
        std::mem::swap(&mut keys, &mut self.engine.outbox().overdue);
        if !keys.is_empty() {
            self.driver.collect();
        }
        for key in keys.drain(..) {
            let Some(token) = self.token(key) else { continue };
            let conn = &mut self.conns[token];
            let unread_bytes = net::unread_bytes(self.driver.fd(conn.socket));
            let held_bytes = conn.layered.as_ref().map_or(0, |layered| layered.held.len() as u64);
            let untaken_bytes = self.driver.untaken_bytes(conn.socket);
            let bytes = unread_bytes + untaken_bytes + held_bytes;
            conn.deadline_bytes = Some(u32::try_from(bytes).unwrap_or(u32::MAX));
            // Otherwise the read buffer is offered first.
            if conn.reading == Reading::Reading && !conn.resumed {
                self.count_offered(token, 0);
            }
        }
        self.spare_keys = keys;
    }

    /// Begins the last phase of the connections that the engine has ended.
    pub(super) fn begin_closing(&mut self) {
        let mut ended = std::mem::take(&mut self.spare_closing);
        std::mem::swap(&mut ended, &mut self.engine.outbox().closing);
        for closing in ended.drain(..) {
            self.begin_linger(closing);
        }
        self.spare_closing = ended;
    }

    fn begin_linger(&mut self, closing: Closing) {
        let Some(token) = self.token(closing.conn) else { return };
        self.forget_key(token);
        self.linger_with(token, closing.outbound);
    }

    /// Begins the last phase of a connection that the engine has dropped: these bytes are sent, and
    /// the turn ends the connection if that takes too long.
    pub(super) fn linger_with(&mut self, token: Token, outbound: Outbound) {
        self.set_phase(token, Phase::Lingering(Box::new(Linger::new(outbound))));
        let conn = &mut self.conns[token];
        conn.read_buffer = ReadBuffer::default();
        conn.peer = None;
        let until_ms = self.now.mono_ms + self.config.limits.linger_ms;
        conn.set_alarm(token, until_ms, &mut self.alarms);
        self.list(token);
    }

    /// Sends the bytes of a connection, unless its socket is full.
    fn flush_conn(&mut self, token: Token, key: ConnKey) {
        let conn = &mut self.conns[token];
        if conn.full.is_some() {
            return;
        }
        let Some(outbound) = self.engine.outbound(key) else { return };
        let (flushed, left) =
            flush_through(conn.layered.as_deref_mut(), self.driver.fd(conn.socket), outbound);
        conn.sent(left);
        match flushed {
            Flushed::All => outbound.release(),
            Flushed::Full => self.is_full(token),
            Flushed::Broken => return self.connection_closed(token, Ended::ByPeer),
        }
        if left > 0 {
            self.engine.written(key);
        }
    }

    /// Called when the socket did not take all bytes, after it had room.
    pub(super) fn is_full(&mut self, token: Token) {
        let conn = &mut self.conns[token];
        self.driver.want_room(conn.socket);
        let taken_bytes = conn.taken_bytes(self.driver.fd(conn.socket));
        conn.full = Some(Box::new(Full { since_ms: self.now.mono_ms, taken_bytes }));
        if !conn.has_alarm() {
            let at_ms = self.now.mono_ms + self.config.limits.write_stall_timeout_ms;
            conn.set_alarm(token, at_ms, &mut self.alarms);
        }
    }

    /// Notifies the engine that the connection has ended, or must end.
    pub(super) fn connection_closed(&mut self, token: Token, why: Ended) {
        let key = self.conns[token].key;
        self.end(token);
        self.engine.closed(key, why);
    }

    /// Checks the connections whose alarm is due.
    pub(super) fn ring_alarms(&mut self) {
        while let Some(alarm) = self.alarms.due(self.now.mono_ms) {
            let token = alarm.token;
            let Some(conn) = self.conns.get_mut(token) else { continue };
            if !conn.take_alarm(&alarm) {
                continue;
            }
            match (&conn.phase, conn.full.as_deref().copied()) {
                (Phase::Lingering(_), _) => self.end(token),
                (Phase::Serving, _) if conn.layered.as_ref().is_some_and(|layered| layered.is_late()) => {
                    self.end_slow_handshake(token);
                }
                (Phase::Serving, Some(full)) => self.check_stall(token, full),
                (Phase::Serving, None) | (Phase::Leaving(_) | Phase::Ended, _) => {}
            }
        }
    }

    /// Closes a connection whose client took too few bytes in the interval. Otherwise a new
    /// interval begins.
    fn check_stall(&mut self, token: Token, full: Full) {
        let limits = &self.config.limits;
        let (timeout_ms, bytes_min) = (limits.write_stall_timeout_ms, limits.write_stall_bytes_min);
        let now_ms = self.now.mono_ms;
        let conn = &mut self.conns[token];
        let mut since_ms = full.since_ms;
        if since_ms + timeout_ms <= now_ms {
            let taken_bytes = conn.taken_bytes(self.driver.fd(conn.socket));
            if taken_bytes.saturating_sub(full.taken_bytes) < bytes_min {
                return self.connection_closed(token, Ended::Stuck);
            }
            since_ms = now_ms;
            conn.full = Some(Box::new(Full { since_ms, taken_bytes }));
        }
        conn.set_alarm(token, since_ms + timeout_ms, &mut self.alarms);
    }

    /// Moves staged envelopes into the lanes as far as there is room. Returns whether any were
    /// moved.
    fn send_envelopes(&mut self) -> bool {
        let pending = self.engine.outbox().pending;
        if pending.is_empty() {
            return false;
        }
        let mut reached = ShardSet::EMPTY;
        let mut data_moved = false;
        for to in pending.iter() {
            let control = self.send_staged_control(to);
            let data = self.send_staged_data(to);
            data_moved |= data;
            if control || data {
                reached.insert(to);
            }
        }
        self.config.mesh.announce(self.id(), reached);
        if data_moved {
            self.engine.lanes_moved();
        }
        !reached.is_empty()
    }

    fn send_staged_control(&mut self, to: ShardId) -> bool {
        let from = self.id();
        let mesh = &self.config.mesh;
        let outbox = self.engine.outbox();
        let mut moved = false;
        while !outbox.control[to.index()].is_empty() {
            let mut batch = mesh.spare(from, to);
            outbox.take_batch(to, Lane::Control, BATCH_ENVELOPES, &mut batch);
            mesh.send_control(from, to, Control::Batch(batch));
            moved = true;
        }
        moved
    }

    fn send_staged_data(&mut self, to: ShardId) -> bool {
        let from = self.id();
        let mesh = &self.config.mesh;
        let outbox = self.engine.outbox();
        let mut moved = false;
        while !outbox.data[to.index()].is_empty() {
            let Some(room) = mesh.room(from, to) else { break };
            let (mut count, mut bytes) = (0, 0);
            for envelope in outbox.data[to.index()].iter().take(BATCH_ENVELOPES) {
                if count > 0 && bytes + envelope.bytes() > room.bytes {
                    break;
                }
                count += 1;
                bytes += envelope.bytes();
            }
            let mut envelopes = mesh.spare(from, to);
            outbox.take_batch(to, Lane::Data, count, &mut envelopes);
            mesh.send_data(from, to, DataBatch { envelopes, bytes });
            moved = true;
        }
        moved
    }

    /// Moves a connection, which has been removed from all tables, to its home shard.
    pub(super) fn hand_off(&mut self, conn: Conn, socket: OwnedFd, leaving: Leaving) {
        let Leaving { shard: to, unread } = leaving;
        let Conn { layered, place, peer, .. } = conn;
        let Some(peer) = peer else {
            debug_assert!(false, "the engine handed a connection on that it had begun to serve");
            return;
        };
        // The engine's earlier messages to that shard must arrive before the connection.
        self.send_staged_control(to);
        let arrival = Box::new(Arrival { socket, peer: *peer, unread: Some(unread), layered, place });
        self.config.mesh.send_control(self.id(), to, Control::Own(arrival));
        let mut reached = ShardSet::EMPTY;
        reached.insert(to);
        self.config.mesh.announce(self.id(), reached);
    }

    /// Takes items that have arrived from other shards, about `budget` envelopes. Returns whether
    /// any are left.
    pub(super) fn take_arrivals(&mut self, mut budget: usize) -> bool {
        let to = self.id();
        let mut arrived = self.config.mesh.arrivals(to);
        let mut control_left = ShardSet::EMPTY;
        for from in arrived.iter() {
            if !self.take_control(from, &mut budget) {
                control_left.insert(from);
            }
        }
        // Takes one batch of each lane in turn, and begins with the lane that was next when the
        // last turn stopped. So no shard's messages block those of another.
        let mut data_left = arrived;
        while budget > 0 && self.engine.takes_messages() {
            let Some(from) = data_left.next_from(self.next_lane) else { break };
            self.next_lane = ShardId(from.0.wrapping_add(1));
            match self.config.mesh.next_data(from, to) {
                Some(batch) => {
                    self.take_envelopes(from, batch.envelopes, &mut budget);
                    self.config.mesh.taken(from, to, batch.bytes);
                }
                None => data_left.remove(from),
            }
        }
        for from in arrived.iter() {
            if !control_left.contains(from) && !data_left.contains(from) {
                arrived.remove(from);
            }
        }
        if !arrived.is_empty() {
            self.config.mesh.not_done(to, arrived);
        }
        !arrived.is_empty()
    }

    /// Takes items of a control lane; true if the lane is empty.
    fn take_control(&mut self, from: ShardId, budget: &mut usize) -> bool {
        let to = self.id();
        while *budget > 0 {
            match self.config.mesh.next_control(from, to) {
                None => return true,
                Some(Control::Own(arrival)) => {
                    *budget -= 1;
                    self.open(*arrival);
                }
                Some(Control::Batch(envelopes)) => self.take_envelopes(from, envelopes, budget),
            }
        }
        false
    }

    fn take_envelopes(&mut self, from: ShardId, mut envelopes: Vec<Envelope>, budget: &mut usize) {
        *budget = budget.saturating_sub(envelopes.len());
        for envelope in envelopes.drain(..) {
            self.engine.envelope(from, envelope);
        }
        self.config.mesh.recycle(from, self.id(), envelopes);
    }
}
